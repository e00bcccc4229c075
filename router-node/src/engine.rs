//! The one task that owns what a router knows. Everything that changes it comes here, one thing after the other:
//! orders of the ownership, what gateways say, what intakes read, the time.
//!
//! ```text
//! intakes ──▶ match ──▶ batch ──▶ dispatch ──▶ checkpoint ──▶ floors, for the leases
//! ```
//!
//! * A turn handles all that is there to be read, and only then sends: the leading edge of a burst carries all of it.
//! * A checkpoint tells every gateway how far every partition was read, waits (aside) until that has left the process,
//!   and only then hands on the floors.
//! * What gateways say comes before what was read, in turns: who says a lot holds up no events.
//! * Without a connection nothing is taken out of the claims, and nothing more is read: it leaves when NATS is back.

mod flush;
mod routing;
mod sources;

pub use flush::LONGEST_WINDOW;

use crate::dispatch::Dispatcher;
use crate::intake::{Context, Heard, Intake};
use crate::interest::{Feed, Inquiry, ask_snapshot};
use crate::ownership::Reached;
use crate::ownership::tenancy::Checkpoint;
use crate::source::{Source, Tenure};
use flush::Flush;
use metrics::counter;
use routing::Routing;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{Life, Millis, NodeRef, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::ring::View;
use tickwire_node::clock::{Clock, millis};
use tickwire_node::config::RouterConfig;
use tickwire_node::declare_counter;
use tickwire_node::nats::Nats;
use tickwire_node::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// How many chunks one turn handles.
const TURN: usize = 64;

/// How many things that gateways say, or ask for, are heard before what was read has a turn.
const SAYINGS: u32 = 16;

/// How far each source was read, in its tenure.
pub(crate) type Floors = BTreeMap<Tenure, Reached>;

/// What the ownership wants of the engine.
#[derive(Debug)]
pub(crate) enum Order {
    /// A tenure begins after this floor.
    Own { tenure: Tenure, floor: Seq },
    /// A tenure has ended: another router owns it.
    Disown(Tenure),
    /// These tenures end: publish what was read, and tell up to where. Floors that are missing in the answer were not
    /// reached for sure.
    Release { tenures: Vec<Tenure>, done: oneshot::Sender<Floors> },
    /// The stream was made anew, and every tenure has ended.
    Renew(Life),
}

/// What the rest of the node is to know of the engine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The gateways whose interest is not known as new as it is.
    pub(crate) lacking: Vec<NodeRef>,
    /// The sources that are owned and cannot be read, each with the reason.
    pub(crate) unread: BTreeMap<Source, String>,
    /// What was read last of sources, and is not in the stream any more.
    pub(crate) missing: Vec<Checkpoint>,
}

/// What the engine is given.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) nats: Nats,
    pub(crate) config: RouterConfig,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) life: Life,
    pub(crate) clock: Clock,
    pub(crate) shutdown: Shutdown,
    pub(crate) intakes: Arc<Context>,
    pub(crate) heard: mpsc::Receiver<Heard>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) feed: Feed,
    pub(crate) inquiries: mpsc::Receiver<Inquiry>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) floors: watch::Sender<Arc<Floors>>,
    pub(crate) report: watch::Sender<Arc<Report>>,
    /// How far gateways have come in the stream.
    pub(crate) witnessed: watch::Sender<Option<Checkpoint>>,
}

/// The answer to a request for a snapshot.
type Snapshot = (NodeRef, Option<Vec<SnapshotPart>>);

/// The task.
#[derive(Debug)]
pub(crate) struct Engine {
    setup: Setup,
    routing: Routing,
    readers: BTreeMap<Tenure, CancellationToken>,
    /// The gateways that were asked for a snapshot, and how often in vain.
    asked: BTreeMap<NodeRef, u32>,
    snapshots: (mpsc::Sender<Snapshot>, mpsc::Receiver<Snapshot>),
    checkpoints: Interval,
    wake: Option<Millis>,
}

impl Engine {
    /// An engine that owns nothing yet.
    pub(crate) fn new(setup: Setup) -> Self {
        describe();
        let config = &setup.config;
        let flush = Flush::new(millis(config.flush_window), config.batch_rate, config.flush_bytes);
        let mut checkpoints = interval(config.checkpoint_interval);
        checkpoints.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            routing: Routing::new(flush, millis(config.interest_retention)),
            readers: BTreeMap::new(),
            asked: BTreeMap::new(),
            snapshots: mpsc::channel(16),
            checkpoints,
            wake: None,
            setup,
        }
    }

    /// Runs until the ownership has ended, or forced.
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
        let (mut heard, mut sayings) = (Vec::with_capacity(TURN), 0);
        loop {
            let now = self.setup.clock.now();
            let wake = async |wake: Option<Millis>| match wake {
                Some(at) => sleep(Duration::from_millis(at.since(now))).await,
                None => std::future::pending().await,
            };
            let mut news = true;
            tokio::select! {
                biased;
                order = self.setup.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return self.checkpoint().await,
                },
                Some((gateway, parts)) = self.snapshots.1.recv() => self.hear_snapshot(gateway, parts),
                said = self.setup.feed.next(), if sayings < SAYINGS => match said {
                    Some(said) => {
                        sayings += 1;
                        let needed = self.routing.hear(self.setup.clock.now(), said);
                        self.ask(needed);
                        if let Some(witnessed) = self.routing.take_witnessed() {
                            self.setup.witnessed.send_replace(Some(witnessed));
                        }
                    }
                    None => return debug!("the connection to NATS was closed"),
                },
                Some(inquiry) = self.setup.inquiries.recv(), if sayings < SAYINGS => {
                    sayings += 1;
                    self.inform(inquiry);
                }
                Ok(()) = self.setup.view.changed() => {
                    let view = self.setup.view.borrow_and_update().clone();
                    self.routing.set_view(view);
                }
                _ = self.checkpoints.tick() => self.checkpoint().await,
                Ok(()) = connected.changed() => {}
                () = wake(self.wake) => {}
                _ = self.setup.heard.recv_many(&mut heard, TURN) => {
                    sayings = 0;
                    news = heard.iter().any(|heard| heard.what.is_news());
                    for heard in heard.drain(..) {
                        self.routing.read(heard);
                    }
                }
                () = ready(()), if sayings >= SAYINGS => sayings = 0,
            }
            self.send_due().await;
            if news {
                self.tell();
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Own { tenure, floor } => {
                self.routing.own(tenure, floor);
                let (stop, context) = (CancellationToken::new(), Arc::clone(&self.setup.intakes));
                let intake = Intake::new(context, tenure, self.setup.life.incarnation, floor);
                self.setup.shutdown.spawn_infallible("intake", intake.run(stop.clone()));
                self.readers.insert(tenure, stop);
            }
            Order::Disown(tenure) => self.disown(tenure),
            Order::Release { tenures, done } => {
                let floors = self.publish_all().await;
                let left = self.setup.dispatcher.flush().await;
                tenures.iter().for_each(|tenure| self.disown(*tenure));
                let reached = if left { floors } else { Floors::new() };
                if done.send(reached).is_err() {
                    debug!("released too late");
                }
            }
            Order::Renew(life) => {
                self.setup.life = life;
                self.readers.values().for_each(CancellationToken::cancel);
                self.readers.clear();
                self.routing.renew();
            }
        }
    }

    fn disown(&mut self, tenure: Tenure) {
        self.routing.disown(tenure);
        if let Some(stop) = self.readers.remove(&tenure) {
            stop.cancel();
        }
    }

    /// Sends what is due.
    async fn send_due(&mut self) {
        let now = self.setup.clock.now();
        let (ready, next) = self.routing.due(now);
        self.wake = next;
        self.send(now, ready, false).await;
    }

    /// Sends to these gateways. Returns whether all was sent; what was not waits in the claims for a connection.
    async fn send(&mut self, now: Millis, gateways: Vec<NodeRef>, heartbeat: bool) -> bool {
        for gateway in gateways {
            if !self.setup.dispatcher.is_open() {
                return false;
            }
            let sections = self.routing.take(now, &gateway, heartbeat);
            self.setup.dispatcher.send(&gateway, self.setup.life, sections).await;
        }
        true
    }

    /// Tells every gateway how far everything was read. Returns how far that is; nothing without a connection.
    async fn publish_all(&mut self) -> Floors {
        let (now, gateways) = (self.setup.clock.now(), self.routing.gateways());
        if self.send(now, gateways, true).await { self.routing.floors() } else { Floors::new() }
    }

    /// Publishes everything, and hands on the floors when it has left. The engine does not wait for that.
    async fn checkpoint(&mut self) {
        for gateway in self.routing.expire(self.setup.clock.now()) {
            info!(%gateway, "forgot the interest of a gateway that has been silent for too long");
            self.asked.remove(&gateway);
        }
        counter!("tickwire_router_matches_total").increment(self.routing.take_matches());
        let reached = self.publish_all().await;
        let (left, floors) = (self.setup.dispatcher.flush(), self.setup.floors.clone());
        self.setup.shutdown.spawn_infallible("checkpoint", async move {
            if left.await {
                floors.send_replace(Arc::new(reached));
            }
        });
    }

    /// Asks for the snapshot that is needed, unless it was asked for already.
    fn ask(&mut self, needed: Option<NodeRef>) {
        if let Some(gateway) = needed
            && !self.asked.contains_key(&gateway)
        {
            self.asked.insert(gateway.clone(), 0);
            self.request_snapshot(gateway, 0);
        }
    }

    fn hear_snapshot(&mut self, gateway: NodeRef, parts: Option<Vec<SnapshotPart>>) {
        if let Some(parts) = parts {
            let now = self.setup.clock.now();
            self.routing.hear_snapshot(now, gateway.clone(), parts);
        }
        // Forgotten, or known by now: nothing more to ask.
        let Some(attempts) = self.asked.remove(&gateway) else { return };
        if self.routing.lags(&gateway) {
            let attempts = attempts.saturating_add(1);
            self.asked.insert(gateway.clone(), attempts);
            self.request_snapshot(gateway, attempts);
        }
    }

    /// Says what a gateway wants; if that is not known, it is asked for, so that a later inquiry is answered.
    fn inform(&mut self, inquiry: Inquiry) {
        let Inquiry { gateway, least, answer } = inquiry;
        let known = self.routing.interest(&gateway, least);
        // Nobody answers for a name that whoever asks has made up.
        if known.is_none() && self.routing.is_known(&gateway) {
            self.ask(Some(gateway));
        }
        if answer.send(known).is_err() {
            debug!("informed too late");
        }
    }

    fn request_snapshot(&self, gateway: NodeRef, attempt: u32) {
        let (nats, answers) = (self.setup.nats.clone(), self.snapshots.0.clone());
        let drain = self.setup.shutdown.drain().clone();
        self.setup.shutdown.spawn_infallible("snapshot", async move {
            let asked = drain.run_until_cancelled(ask_snapshot(&nats, &gateway, attempt)).await;
            let Some(parts) = asked else { return };
            if answers.send((gateway, parts)).await.is_err() {
                debug!("the engine has ended");
            }
        });
    }

    fn tell(&mut self) {
        let Some(report) = self.routing.news() else { return };
        self.setup.report.send_if_modified(|known| {
            let changed = **known != report;
            if changed {
                *known = Arc::new(report);
            }
            changed
        });
    }
}

fn describe() {
    declare_counter!("tickwire_router_matches_total", "How many times an event matched the interest of a gateway");
}
