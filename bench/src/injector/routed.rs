//! The bench in the role of a router that reads no stream: it joins the membership, and the router's own engine learns
//! what the gateway wants, and makes sections and batches of the events that are due.

use std::ops::Range;
use std::sync::Arc;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::interest::table::TableLimits;
use tickwire_core::placement::{Role, View};
use tickwire_node::clock::Clock;
use tickwire_node::config::Config;
use tickwire_node::nats::Nats;
use tickwire_node::shutdown::Shutdown;
use tickwire_node::start::Node;
use tickwire_router_node::decisions::{
    Engine, EngineOutput, IntakeEvent, IntakeReport, Order, Readable, Source, Tenure,
};
use tickwire_router_node::{Dispatcher, InterestSubscription, request_snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{InjectError, now};
use crate::draw::{Class, Draw, mix};
use tickwire_command::args::NatsArgs;

/// The numbers of the events that are due.
type DueEvents = Range<u64>;

/// A router in a task of its own.
#[derive(Debug)]
pub(crate) struct InjectingRouter {
    due: mpsc::UnboundedSender<DueEvents>,
    task: JoinHandle<Result<(), InjectError>>,
    node: Node,
    shutdown: Shutdown,
}

impl InjectingRouter {
    /// Joins the cluster, and listens to gateways from then on.
    pub(crate) async fn start(nats_url: &str, draw: Draw) -> Result<Self, InjectError> {
        let mut config = NatsArgs::at(nats_url).load()?;
        config.node.id = Some("bench-router".to_owned());
        config.admin.listen.set_port(0);
        // The plan determines when batches are sent: none is small enough to wait for more.
        config.router.flush_bytes = 0;
        let shutdown = Shutdown::new();
        let node = Node::start(&config, Role::Router, &shutdown).await?;
        let interest = InterestSubscription::subscribe(&node.nats)?;
        node.nats.check().await?;
        let (due, inbox) = mpsc::unbounded_channel();
        let mut heartbeats = interval(config.membership.tick_interval);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let router = Router::new(&config, &node, draw);
        let task = tokio::spawn(router.run(interest, heartbeats, inbox));
        Ok(Self { due, task, node, shutdown })
    }

    /// Where to send the numbers of the events that are due.
    pub(super) fn due(&self) -> mpsc::UnboundedSender<DueEvents> {
        self.due.clone()
    }

    /// Sends what is still due, and leaves the cluster.
    pub(super) async fn finish(self) -> Result<(), InjectError> {
        drop(self.due);
        self.task.await??;
        self.shutdown.drain().cancel();
        self.node.membership.leave().await;
        self.node.admin.stop().await;
        Ok(self.node.nats.close().await?)
    }
}

/// The router's engine, and what stands for the stream that it does not read.
#[derive(Debug)]
struct Router {
    engine: Engine,
    nats: Nats,
    dispatcher: Dispatcher,
    clock: Clock,
    view: watch::Receiver<Arc<View>>,
    draw: Draw,
    partitions: u16,
    /// The last sequence of the stream, if there were one.
    stored: Seq,
}

impl Router {
    /// A router that owns all partitions.
    fn new(config: &Config, node: &Node, draw: Draw) -> Self {
        let (clock, epoch) = (Clock::start(), node.provisioned.epoch);
        let mut router = Self {
            engine: Engine::new(&config.router, TableLimits::default(), epoch),
            nats: node.nats.clone(),
            dispatcher: Dispatcher::new(node.nats.clone(), node.me.clone()),
            clock,
            view: node.membership.view(),
            draw,
            partitions: u16::try_from(node.provisioned.partitions).unwrap_or(u16::MAX),
            stored: epoch.before,
        };
        for partition in 0..router.partitions {
            router.engine.handle_order(clock.now(), Order::Own { tenure: tenure(partition), checkpoint: epoch.before });
        }
        router
    }

    async fn run(
        mut self,
        mut interest: InterestSubscription,
        mut heartbeats: Interval,
        mut due: mpsc::UnboundedReceiver<DueEvents>,
    ) -> Result<(), InjectError> {
        self.view.mark_changed();
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.view.changed() => {
                    let view = self.view.borrow_and_update().clone();
                    self.engine.set_view(view);
                }
                message = interest.next() => match message {
                    Some(message) => self.engine.handle_interest_message(self.clock.now(), message),
                    None => return Err(InjectError::Send("the connection is closed".to_owned())),
                },
                _ = heartbeats.tick() => self.store_heartbeats(),
                numbers = due.recv() => match numbers {
                    Some(numbers) => self.store_events(numbers)?,
                    None => return Ok(()),
                },
            }
            self.engine.settle(self.clock.now());
            self.perform().await;
        }
    }

    /// Stores a heartbeat in each partition, so that gateways know that the partition is read.
    fn store_heartbeats(&mut self) {
        for partition in 0..self.partitions {
            let through = self.store();
            self.read(partition, through, Vec::new());
        }
        self.engine.checkpoint(self.clock.now());
    }

    fn store_events(&mut self, numbers: DueEvents) -> Result<(), InjectError> {
        for number in numbers {
            let (class, seq) = (self.draw.class(number), self.store());
            let event = class.event(number, seq, now()).map_err(InjectError::Event)?;
            let wire = rmp_serde::to_vec(&event).map_err(|error| InjectError::Event(error.to_string()))?.into();
            self.read(class.partition(self.partitions), seq, vec![Readable { seq, event, wire, trace: None }]);
        }
        Ok(())
    }

    fn store(&mut self) -> Seq {
        self.stored = Seq(self.stored.0 + 1);
        self.stored
    }

    /// Reports to the engine what an intake would have read.
    fn read(&mut self, partition: u16, through: Seq, events: Vec<Readable>) {
        let what = IntakeEvent::Events { through, mark: None, events };
        self.engine.read(self.clock.now(), IntakeReport { tenure: tenure(partition), what });
    }

    async fn perform(&mut self) {
        for output in self.engine.take_outputs() {
            match output {
                EngineOutput::Send { gateway, epoch, sections } => {
                    self.dispatcher.send(&gateway, epoch, sections).await;
                }
                // A change of interest was lost, which is rare: events wait for the answer.
                EngineOutput::AskSnapshot { gateway, attempts } => {
                    let parts = request_snapshot(&self.nats, &gateway, attempts).await;
                    self.engine.handle_snapshot(self.clock.now(), gateway, parts);
                }
                // There is no stream to read, and no lease to hold checkpoints.
                EngineOutput::Read { .. }
                | EngineOutput::Stop(_)
                | EngineOutput::Checkpoint(_)
                | EngineOutput::Released { .. } => {}
            }
        }
    }
}

/// The only tenure of a partition.
fn tenure(partition: u16) -> Tenure {
    Tenure { source: Source::Partition(Partition(partition)), number: 0 }
}

impl Class {
    /// The partition of its events: one for each symbol, as in the stream.
    fn partition(self, partitions: u16) -> u16 {
        let symbol = self.symbol().bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        (symbol % u64::from(partitions)) as u16
    }
}
