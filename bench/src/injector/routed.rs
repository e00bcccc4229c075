//! The bench in the part of a router, and of the whole cluster behind it: it joins the membership, answers whatever
//! interest a gateway tells with coverage of every partition, and sends it batches with every event there is.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use std::ops::Range;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::ids::{EpochId, NodeRef, Partition, Revision, Seq};
use tickwire_core::interest::{Delta, InterestBeat};
use tickwire_core::placement::Role;
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::shutdown::Shutdown;
use tickwire_node::start::Node;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{InjectError, now};
use crate::scenario::{Class, Scenario, mix};
use tickwire_command::args::NatsArgs;

/// The most events in one batch, far below NATS' largest message.
const BATCH_EVENTS: u64 = 500;

/// A router in a task of its own.
#[derive(Debug)]
pub(crate) struct InjectingRouter {
    due: UnboundedSender<Range<u64>>,
    task: JoinHandle<Result<(), InjectError>>,
    node: Node,
    shutdown: Shutdown,
}

impl InjectingRouter {
    /// Joins the cluster, and listens to gateways from then on.
    pub(crate) async fn start(nats_url: &str, scenario: Scenario) -> Result<Self, InjectError> {
        let mut config = NatsArgs::at(nats_url).load()?;
        config.node.id = Some("bench-router".to_owned());
        config.admin.listen.set_port(0);
        let shutdown = Shutdown::new();
        let node = Node::start(&config, Role::Router, &shutdown).await?;
        let subscribe = async |subject: &'static str| {
            let subscribed = node.nats.client.subscribe(subject).await;
            subscribed.map_err(|error| InjectError::Send(error.to_string()))
        };
        let (deltas, beats) = (subscribe(names::INTEREST).await?, subscribe(names::GATEWAY_BEAT).await?);
        node.nats.check().await?;
        let (due, inbox) = unbounded_channel();
        let part = InjectorState {
            me: node.me.clone(),
            nats: node.nats.clone(),
            scenario,
            stored: Seq(0),
            last: vec![Seq(0); node.provisioned.partitions as usize],
            gateway: None,
            revision: Revision(0),
        };
        let mut ticks = interval(config.membership.tick_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = tokio::spawn(part.play(deltas, beats, ticks, inbox));
        Ok(Self { due, task, node, shutdown })
    }

    /// Where to send the numbers of the events that are due.
    pub(super) fn due(&self) -> UnboundedSender<Range<u64>> {
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

/// The state of the router.
#[derive(Debug)]
struct InjectorState {
    me: NodeRef,
    nats: Nats,
    scenario: Scenario,
    /// The last sequence of the stream, if there were one.
    stored: Seq,
    /// Up to where each partition was covered.
    last: Vec<Seq>,
    gateway: Option<NodeRef>,
    revision: Revision,
}

impl InjectorState {
    async fn play(
        mut self,
        mut deltas: Subscriber,
        mut beats: Subscriber,
        mut ticks: Interval,
        mut due: UnboundedReceiver<Range<u64>>,
    ) -> Result<(), InjectError> {
        loop {
            tokio::select! {
                biased;
                Some(message) = deltas.next() => {
                    let delta: Delta = read(&message.payload)?;
                    self.cover(delta.gateway, delta.revision).await?;
                }
                Some(message) = beats.next() => {
                    let beat: InterestBeat = read(&message.payload)?;
                    self.cover(beat.gateway, beat.revision).await?;
                }
                _ = ticks.tick() => self.tick().await?,
                numbers = due.recv() => match numbers {
                    Some(numbers) => self.route(numbers).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// Tells a gateway that what it has of every partition is all there is as of this revision.
    async fn cover(&mut self, gateway: NodeRef, revision: Revision) -> Result<(), InjectError> {
        self.gateway = Some(gateway);
        self.revision = revision;
        let all = (0..).zip(self.last.clone());
        let sections = all.map(|(partition, last)| self.section(partition, last, Vec::new())).collect();
        self.send(sections).await
    }

    /// Something is stored in each partition once in a while: that tells a gateway that it is read.
    async fn tick(&mut self) -> Result<(), InjectError> {
        if self.gateway.is_none() {
            return Ok(());
        }
        let mut sections = Vec::new();
        for partition in 0..self.last.len() {
            let through = self.store();
            sections.push(self.section(partition as u16, through, Vec::new()));
            self.last[partition] = through;
        }
        self.send(sections).await
    }

    fn store(&mut self) -> Seq {
        self.stored = Seq(self.stored.0 + 1);
        self.stored
    }

    /// Sends events, in one batch unless they are very many.
    async fn route(&mut self, numbers: Range<u64>) -> Result<(), InjectError> {
        let mut rest = numbers;
        while !rest.is_empty() {
            let batch = rest.start..rest.end.min(rest.start + BATCH_EVENTS);
            rest.start = batch.end;
            let mut events: Vec<Vec<(Seq, Bytes)>> = vec![Vec::new(); self.last.len()];
            for number in batch {
                let (class, seq) = (self.scenario.class(number), self.store());
                let event = class.event(number, seq, now()).map_err(InjectError::Event)?;
                let bytes = rmp_serde::to_vec(&event).map_err(|error| InjectError::Event(error.to_string()))?;
                events[class.partition(self.last.len())].push((seq, bytes.into()));
            }
            let mut sections = Vec::new();
            for (partition, events) in (0..).zip(events) {
                if let Some((through, _)) = events.last() {
                    let through = *through;
                    sections.push(self.section(partition, through, events));
                    self.last[usize::from(partition)] = through;
                }
            }
            self.send(sections).await?;
        }
        Ok(())
    }

    fn section(&self, partition: u16, through: Seq, events: Vec<(Seq, Bytes)>) -> Section<Bytes> {
        let prev = self.last[usize::from(partition)];
        Section { partition: Partition(partition), revision: self.revision, prev, through, events }
    }

    async fn send(&self, sections: Vec<Section<Bytes>>) -> Result<(), InjectError> {
        let Some(gateway) = &self.gateway else {
            return Err(InjectError::Send("no gateway has been heard of".to_owned()));
        };
        let batch = Batch { router: self.me.clone(), epoch_id: EpochId(1), sections, before: Seq(0) };
        let bytes = wire::encode(&batch).map_err(|error| InjectError::Event(error.to_string()))?;
        let subject = names::gateway(gateway.id.as_str(), &gateway.nonce.to_string());
        let sent = self.nats.client.publish(subject, bytes.into()).await;
        sent.map_err(|error| InjectError::Send(error.to_string()))
    }
}

impl Class {
    /// The partition of its events: one for each symbol, as in the stream.
    fn partition(self, partitions: usize) -> usize {
        let symbol = self.symbol().bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        (symbol % partitions as u64) as usize
    }
}

fn read<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, InjectError> {
    wire::decode(payload).map_err(|error| InjectError::Event(error.to_string()))
}
