//! Waits for inputs of the engine, lets it decide, and performs its outputs.
//!
//! * A turn handles everything that was read, and only then sends: the first batch of a burst carries all of it.
//! * Messages of gateways come before what was read, but in turns: a gateway that sends a lot does not hold up events.
//! * While the engine sends, nothing more is read. It does not wait for a checkpoint to leave the process, but for a
//!   release.

use super::turns::MessageTurns;
use super::{Engine, EngineOutput, EngineReport, Order, SourceCheckpoints};
use crate::checkpoint::Checkpoint;
use crate::dispatch::Dispatcher;
use crate::intake::driver::{self as intake, Context};
use crate::intake::{IntakeEvent, IntakeReport};
use crate::interest::{InterestInquiry, InterestMessage, InterestSubscription, request_snapshot};
use crate::metrics;
use crate::route_cache::{CacheMetrics, INTEREST};
use crate::source::Tenure;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::interest::{InterestBeat, SnapshotPart};
use tickwire_core::placement::View;
use tickwire_node::clock::Clock;
use tickwire_node::epoch;
use tickwire_node::nats::Nats;
use tickwire_node::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many reports of intakes one turn handles.
pub const TURN: usize = 64;

/// How many orders may wait for the engine.
const ORDERS: usize = 64;

/// How many answers to snapshot requests may wait.
const SNAPSHOTS: usize = 16;

/// The inputs of the driver.
#[derive(Debug)]
pub(crate) struct EngineSetup {
    pub(crate) nats: Nats,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) clock: Clock,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) shutdown: Shutdown,
    pub(crate) intakes: Arc<Context>,
    pub(crate) reports: mpsc::Receiver<IntakeReport>,
    pub(crate) interest_messages: InterestSubscription,
    pub(crate) inquiries: mpsc::Receiver<InterestInquiry>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) ownership: ChannelsToOwnership,
}

/// The engine's ends of the channels between engine and ownership.
#[derive(Debug)]
pub(crate) struct ChannelsToOwnership {
    orders: mpsc::Receiver<Order>,
    checkpoints: watch::Sender<Arc<SourceCheckpoints>>,
    report: watch::Sender<Arc<EngineReport>>,
    gateway_coverage: watch::Sender<BTreeMap<NodeRef, Checkpoint>>,
    released: mpsc::Sender<(Vec<Tenure>, SourceCheckpoints)>,
}

/// The ownership's ends of these channels.
#[derive(Debug)]
pub(crate) struct ChannelsToEngine {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) checkpoints: watch::Receiver<Arc<SourceCheckpoints>>,
    pub(crate) report: watch::Receiver<Arc<EngineReport>>,
    /// How far the coverage of gateways has come.
    pub(crate) gateway_coverage: watch::Receiver<BTreeMap<NodeRef, Checkpoint>>,
    /// The released tenures, with their last checkpoints.
    pub(crate) released: mpsc::Receiver<(Vec<Tenure>, SourceCheckpoints)>,
}

/// Opens the channels between engine and ownership.
pub(crate) fn ownership_channels() -> (ChannelsToOwnership, ChannelsToEngine) {
    let (orders_sender, orders) = mpsc::channel(ORDERS);
    let (checkpoints_sender, checkpoints) = watch::channel(Arc::default());
    let (report_sender, report) = watch::channel(Arc::default());
    let (coverage_sender, gateway_coverage) = watch::channel(BTreeMap::new());
    let (released_sender, released) = mpsc::channel(ORDERS);
    let to_ownership = ChannelsToOwnership {
        orders,
        checkpoints: checkpoints_sender,
        report: report_sender,
        gateway_coverage: coverage_sender,
        released: released_sender,
    };
    (to_ownership, ChannelsToEngine { orders: orders_sender, checkpoints, report, gateway_coverage, released })
}

/// Whether a report has events to be matched.
fn has_events(report: &IntakeReport) -> bool {
    matches!(&report.what, IntakeEvent::Events { events, .. } if !events.is_empty())
}

/// The answer to a request for a snapshot.
type SnapshotAnswer = (NodeRef, Option<Vec<SnapshotPart>>);

/// The task.
#[derive(Debug)]
pub(crate) struct EngineDriver {
    engine: Engine,
    setup: EngineSetup,
    readers: BTreeMap<Tenure, CancellationToken>,
    snapshots: (mpsc::Sender<SnapshotAnswer>, mpsc::Receiver<SnapshotAnswer>),
    checkpoints: Interval,
    cache_metrics: CacheMetrics,
}

impl EngineDriver {
    /// A task for this engine.
    pub(crate) fn new(engine: Engine, setup: EngineSetup) -> Self {
        let mut checkpoints = interval(setup.checkpoint_interval);
        checkpoints.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            engine,
            readers: BTreeMap::new(),
            snapshots: mpsc::channel(SNAPSHOTS),
            checkpoints,
            setup,
            cache_metrics: CacheMetrics::new(INTEREST),
        }
    }

    /// Runs until the ownership has ended, or until the force.
    pub(crate) async fn run(mut self) {
        let force = self.setup.shutdown.force().clone();
        tokio::select! {
            () = force.cancelled() => {}
            () = self.work() => {}
        }
        self.readers.values().for_each(CancellationToken::cancel);
    }

    async fn work(&mut self) {
        let mut connected = self.setup.nats.connected();
        let (mut reports, mut turns) = (Vec::with_capacity(TURN), MessageTurns::default());
        let mut is_over = false;
        while !is_over {
            let now = self.now();
            let wake = async |wake: Option<Millis>| match wake {
                Some(at) => sleep(Duration::from_millis(at.since(now))).await,
                None => std::future::pending().await,
            };
            let mut news = true;
            tokio::select! {
                biased;
                order = self.setup.ownership.orders.recv() => {
                    is_over = order.is_none();
                    self.take_order(order);
                }
                Some((gateway, parts)) = self.snapshots.1.recv() => {
                    self.engine.handle_snapshot(self.now(), gateway, parts);
                }
                message = self.setup.interest_messages.next(), if turns.may_take() => match message {
                    Some(message) => {
                        turns.took();
                        self.handle_interest_message(message);
                    }
                    None => return debug!("connection to NATS closed"),
                },
                Some(inquiry) = self.setup.inquiries.recv(), if turns.may_take() => {
                    turns.took();
                    self.answer_inquiry(inquiry);
                }
                Ok(()) = self.setup.view.changed() => {
                    let view = self.setup.view.borrow_and_update().clone();
                    self.engine.set_view(view);
                }
                _ = self.checkpoints.tick() => {
                    self.update_connection();
                    self.checkpoint();
                }
                Ok(()) = connected.changed() => {}
                () = wake(self.engine.next_turn()) => {}
                _ = self.setup.reports.recv_many(&mut reports, TURN) => {
                    turns.restart();
                    news = reports.iter().any(|report| report.what.is_news());
                    let now = self.now();
                    let has_events = reports.iter().any(has_events);
                    let begun = Instant::now();
                    for report in reports.drain(..) {
                        self.engine.read(now, report);
                    }
                    if has_events {
                        metrics::ROUTE_SECONDS.record(begun.elapsed().as_secs_f64());
                    }
                }
                () = ready(()), if !turns.may_take() => turns.restart(),
            }
            self.update_connection();
            self.engine.settle(self.now());
            self.perform().await;
            if news {
                self.publish_report();
            }
        }
    }

    /// Takes an order; without one, the ownership has ended.
    fn take_order(&mut self, order: Option<Order>) {
        self.update_connection();
        match order {
            Some(order) => self.engine.handle_order(self.now(), order),
            None => self.checkpoint(),
        }
    }

    /// Takes a message of a gateway, and publishes the coverage that it may report.
    fn handle_interest_message(&mut self, message: InterestMessage) {
        let message = match message {
            InterestMessage::Beat(beat) => InterestMessage::Beat(self.believed(beat)),
            message => message,
        };
        self.engine.handle_interest_message(self.now(), message);
        if let Some(gateway_coverage) = self.engine.take_gateway_coverage() {
            self.setup.ownership.gateway_coverage.send_replace(gateway_coverage);
        }
    }

    /// A beat without a coverage of an epoch that is not believed: it would begin another one, and hide the true ones.
    fn believed(&self, beat: InterestBeat) -> InterestBeat {
        let known = self.engine.epoch_id();
        let reached = beat.reached.filter(|reached| epoch::is_believed("coverage", reached.epoch_id, known));
        InterestBeat { reached, ..beat }
    }

    fn now(&self) -> Millis {
        self.setup.clock.now()
    }

    /// Passes the state of the connection to the engine.
    fn update_connection(&mut self) {
        self.engine.set_connected(self.setup.nats.is_connected());
    }

    fn checkpoint(&mut self) {
        self.engine.checkpoint(self.now());
        metrics::MATCHES.increment(self.engine.take_matches());
        let (counts, entries) = self.engine.take_cache_counts();
        self.cache_metrics.note(counts, entries);
    }

    /// Performs the outputs of the engine.
    async fn perform(&mut self) {
        for output in self.engine.take_outputs() {
            match output {
                EngineOutput::Read { tenure, epoch_id, checkpoint } => {
                    let (stop, context) = (CancellationToken::new(), Arc::clone(&self.setup.intakes));
                    let intake = intake::Driver::new(context, tenure, epoch_id, checkpoint);
                    self.setup.shutdown.spawn_infallible("intake", intake.run(stop.clone()));
                    self.readers.insert(tenure, stop);
                }
                EngineOutput::Stop(tenure) => {
                    if let Some(stop) = self.readers.remove(&tenure) {
                        stop.cancel();
                    }
                }
                EngineOutput::Send { gateway, epoch, sections } => {
                    self.setup.dispatcher.send(&gateway, epoch, sections).await;
                }
                EngineOutput::AskSnapshot { gateway, attempts } => self.request_snapshot(gateway, attempts),
                EngineOutput::Checkpoint(checkpoints) => {
                    let (flushed, known) = (self.setup.dispatcher.flush(), self.setup.ownership.checkpoints.clone());
                    self.setup.shutdown.spawn_infallible("checkpoint", async move {
                        if flushed.await {
                            known.send_replace(Arc::new(checkpoints));
                        }
                    });
                }
                EngineOutput::Released { tenures, checkpoints } => {
                    let flushed = self.setup.dispatcher.flush().await;
                    let checkpoints = if flushed { checkpoints } else { SourceCheckpoints::new() };
                    if self.setup.ownership.released.send((tenures, checkpoints)).await.is_err() {
                        debug!("ownership has ended");
                    }
                }
            }
        }
    }

    /// Answers with the interest of a gateway.
    fn answer_inquiry(&mut self, inquiry: InterestInquiry) {
        let InterestInquiry { gateway, least, answer } = inquiry;
        if answer.send(self.engine.interest(&gateway, least)).is_err() {
            debug!("inquiry answered too late");
        }
    }

    fn request_snapshot(&self, gateway: NodeRef, attempts: u32) {
        let (nats, answers) = (self.setup.nats.clone(), self.snapshots.0.clone());
        let drain = self.setup.shutdown.drain().clone();
        self.setup.shutdown.spawn_infallible("snapshot", async move {
            let answered = drain.run_until_cancelled(request_snapshot(&nats, &gateway, attempts)).await;
            let Some(parts) = answered else { return };
            if answers.send((gateway, parts)).await.is_err() {
                debug!("engine has ended");
            }
        });
    }

    fn publish_report(&mut self) {
        let Some(report) = self.engine.take_report() else { return };
        self.setup.ownership.report.send_if_modified(|known| {
            let changed = **known != report;
            if changed {
                *known = Arc::new(report);
            }
            changed
        });
    }
}
