//! A network that loses, delays, reorders and duplicates messages at random, from a seed.

use std::collections::BTreeMap;

use bytes::Bytes;
use tickwire_core::coverage::section::Section;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, Millis, NodeRef, Partition, Seq};
use tickwire_core::interest::{Delta, InterestBeat, SnapshotPart};
use tickwire_core::replay::{ReplayPart, ReplayRequest};

use super::kv::{KvAnswer, KvRequest};

/// How long the network may take for a message, in milliseconds.
pub(super) const MAX_DELAY: u64 = 60;

/// The largest message that NATS takes, by its default configuration.
pub(super) const MAX_PAYLOAD: usize = 1024 * 1024;

#[derive(Clone, Debug)]
pub(super) enum SimMessage {
    Batch(NodeRef, Bytes, BatchEnds),
    Delta(usize, Delta),
    Beat(usize, InterestBeat),
    AskSnapshot(NodeRef, usize),
    Snapshot(usize, Vec<SnapshotPart>),
    Ask(usize, u64, ReplayRequest),
    Answer(NodeRef, u64, Bytes),
    /// The NATS server's answer when no router receives asks.
    NoResponders(NodeRef, u64),
    /// A search for the last sequence before a time, and its answer. It is `None` if the server does not answer.
    Find(NodeRef, Timestamp),
    Found(NodeRef, Timestamp, Option<Seq>),
    /// A router's request to KV, and the answer. The number identifies the request.
    Lease(usize, u64, KvRequest),
    LeaseAnswer(usize, u64, KvAnswer),
}

/// The last sequences of partitions that a batch shows, in an epoch of the stream.
#[derive(Clone, Debug)]
pub(super) struct BatchEnds {
    pub(super) epoch_id: EpochId,
    pub(super) ends: Vec<(Partition, Seq)>,
}

#[derive(Debug)]
pub(super) struct Network {
    random: u64,
    loss: u32,
    /// Whether messages overtake each other even if none is lost.
    delays: bool,
    counter: u64,
    in_flight: BTreeMap<(Millis, u64), SimMessage>,
}

impl Network {
    pub(super) fn new(seed: u64, loss: u32, delays: bool) -> Self {
        Self { random: seed, loss, delays, counter: 0, in_flight: BTreeMap::new() }
    }

    /// A random number below `below`. The generator is SplitMix64.
    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }

    /// Divides a section of an answer into two at random.
    pub(super) fn split(&mut self, part: ReplayPart<Bytes>) -> Vec<ReplayPart<Bytes>> {
        match part {
            ReplayPart::Events(section) if section.events.len() > 1 && self.random(2) == 0 => {
                let Section { partition, revision, prev, through, mut events } = section;
                let rest = events.split_off(events.len() / 2);
                let cut = events[events.len() - 1].0;
                let half =
                    |prev, through, events| ReplayPart::Events(Section { partition, revision, prev, through, events });
                vec![half(prev, cut, events), half(cut, through, rest)]
            }
            part => vec![part],
        }
    }

    pub(super) fn heal(&mut self) {
        (self.loss, self.delays) = (0, false);
    }

    pub(super) fn send(&mut self, now: Millis, message: &SimMessage) {
        let copies = match self.random(100) as u32 {
            dice if dice < self.loss => 0,
            dice if dice < self.loss * 2 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            self.dispatch(now, message.clone());
        }
    }

    /// Sends a message that NATS never duplicates: a request over a connection, or its answer.
    pub(super) fn send_once(&mut self, now: Millis, message: SimMessage) {
        if !self.loses() {
            self.dispatch(now, message);
        }
    }

    /// Whether a request or an answer is lost.
    pub(super) fn loses(&mut self) -> bool {
        (self.random(100) as u32) < self.loss
    }

    /// How long a message takes, in milliseconds.
    pub(super) fn delay(&mut self) -> u64 {
        // Without loss and delays, messages arrive in the order in which they were sent, as over a single server.
        let is_ordered = self.loss == 0 && !self.delays;
        if is_ordered { 1 } else { 1 + self.random(MAX_DELAY) }
    }

    fn dispatch(&mut self, now: Millis, message: SimMessage) {
        let delay = self.delay();
        self.counter += 1;
        self.in_flight.insert((now.plus(delay), self.counter), message);
    }

    /// When the next message arrives.
    pub(super) fn next(&self) -> Option<Millis> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// A message that has arrived by now, if there is one.
    pub(super) fn take_arrived(&mut self, now: Millis) -> Option<SimMessage> {
        let entry = self.in_flight.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
