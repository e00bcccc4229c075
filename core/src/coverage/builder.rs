//! Builds a router's sections. It tracks how far the router has read each partition without a gap, and up to where each
//! gateway has been sent sections.
//!
//! A section has one revision: [`SectionBuilder::cut`] closes the open ones before a gateway's interest changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::coverage::section::Section;
use crate::ids::{NodeRef, Partition, Revision, Seq};

/// Detects missed messages of one partition. Sequences are sparse, so only the consumer's own count shows a missed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contiguity {
    /// The sequence up to which everything was read.
    pub last: Seq,
    delivered: u64,
}

/// What to do with a message that a consumer delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It is the next one.
    Next,
    /// It was read already.
    Known,
    /// A message before it is missing: the consumer must be created again at `last + 1`.
    Missed,
}

impl Contiguity {
    /// A new consumer that starts after `last`.
    #[must_use]
    pub fn after(last: Seq) -> Self {
        Self { last, delivered: 0 }
    }

    /// Takes the message `seq`, the `delivered`-th of its consumer.
    pub fn accept(&mut self, seq: Seq, delivered: u64) -> Delivered {
        if delivered != self.delivered + 1 {
            return if delivered <= self.delivered { Delivered::Known } else { Delivered::Missed };
        }
        self.delivered = delivered;
        if seq <= self.last {
            return Delivered::Known;
        }
        self.last = seq;
        Delivered::Next
    }
}

/// The sections of one router, for all gateways and all partitions that it owns.
#[derive(Debug)]
pub struct SectionBuilder<E> {
    /// How far each owned partition is read.
    read: BTreeMap<Partition, Seq>,
    gateways: BTreeMap<NodeRef, GatewaySections<E>>,
    /// The gateways that have events waiting, or need an announcement at once.
    due: BTreeSet<NodeRef>,
}

/// The sections for one gateway.
#[derive(Debug)]
struct GatewaySections<E> {
    revision: Revision,
    open: BTreeMap<Partition, OpenSection<E>>,
    closed: Vec<Section<E>>,
    /// Whether the gateway must be sent a section of every partition, even without progress.
    announce: bool,
    events: usize,
}

/// A section that still grows.
#[derive(Debug)]
struct OpenSection<E> {
    prev: Seq,
    events: Vec<(Seq, E)>,
}

impl<E> OpenSection<E> {
    fn after(prev: Seq) -> Self {
        Self { prev, events: Vec::new() }
    }

    /// Ends the section at `through` and starts the next one there.
    fn close(&mut self, partition: Partition, revision: Revision, through: Seq) -> Section<E> {
        let prev = std::mem::replace(&mut self.prev, through);
        Section { partition, revision, prev, through, events: std::mem::take(&mut self.events) }
    }
}

impl<E> Default for SectionBuilder<E> {
    fn default() -> Self {
        Self { read: BTreeMap::new(), gateways: BTreeMap::new(), due: BTreeSet::new() }
    }
}

impl<E> SectionBuilder<E> {
    /// Starts the sections of `partition` after `checkpoint`.
    pub fn own(&mut self, partition: Partition, checkpoint: Seq) {
        self.read.insert(partition, checkpoint);
        for (gateway, pending) in &mut self.gateways {
            pending.open.insert(partition, OpenSection::after(checkpoint));
            pending.announce = true;
            self.due.insert(gateway.clone());
        }
    }

    /// Ends the sections of `partition`. What was not taken is not sent.
    pub fn disown(&mut self, partition: Partition) {
        self.read.remove(&partition);
        for pending in self.gateways.values_mut() {
            pending.open.remove(&partition);
        }
    }

    /// The owned partitions, each with the sequence up to which it is read.
    pub fn owned(&self) -> impl Iterator<Item = (Partition, Seq)> {
        self.read.iter().map(|(partition, seq)| (*partition, *seq))
    }

    /// `partition` was read up to `seq`; all matching events were pushed.
    pub fn advance(&mut self, partition: Partition, seq: Seq) {
        if let Some(read) = self.read.get_mut(&partition) {
            *read = seq;
        }
    }

    /// The part of `partition` between the last read sequence and `to` cannot be read any more. The next section starts
    /// at `to`, and every gateway sees the gap.
    pub fn skip(&mut self, partition: Partition, to: Seq) {
        let Some(read) = self.read.get_mut(&partition) else {
            return;
        };
        let through = std::mem::replace(read, to);
        for (gateway, pending) in &mut self.gateways {
            if let Some(open) = pending.open.get_mut(&partition) {
                pending.closed.push(open.close(partition, pending.revision, through));
                open.prev = to;
                self.due.insert(gateway.clone());
            }
        }
    }

    /// Adds a matching event to the open section of `partition` for `gateway`.
    pub fn push(&mut self, gateway: &NodeRef, partition: Partition, seq: Seq, event: E) {
        let Some(pending) = self.gateways.get_mut(gateway) else {
            return;
        };
        if let Some(open) = pending.open.get_mut(&partition) {
            open.events.push((seq, event));
            pending.events += 1;
            if pending.events == 1 {
                self.due.insert(gateway.clone());
            }
        }
    }

    /// Closes the open sections of `gateway`, because its interest is about to change.
    pub fn cut(&mut self, gateway: &NodeRef) {
        let Some(pending) = self.gateways.get_mut(gateway) else {
            return;
        };
        for (partition, open) in &mut pending.open {
            if let Some(through) = self.read.get(partition)
                && (*through > open.prev)
            {
                pending.closed.push(open.close(*partition, pending.revision, *through));
            }
        }
        if !pending.closed.is_empty() {
            self.due.insert(gateway.clone());
        }
    }

    /// `gateway`'s interest is known at `revision`. Sections for a new gateway start here.
    pub fn revise(&mut self, gateway: &NodeRef, revision: Revision) {
        let read = &self.read;
        let pending = self.gateways.entry(gateway.clone()).or_insert_with(|| GatewaySections {
            revision,
            open: read.iter().map(|(partition, seq)| (*partition, OpenSection::after(*seq))).collect(),
            closed: Vec::new(),
            announce: true,
            events: 0,
        });
        pending.revision = revision;
        pending.announce = true;
        self.due.insert(gateway.clone());
    }

    /// Ends the sections for `gateway`.
    pub fn forget(&mut self, gateway: &NodeRef) {
        self.gateways.remove(gateway);
        self.due.remove(gateway);
    }

    /// The gateways that sections are built for.
    pub fn gateways(&self) -> impl Iterator<Item = &NodeRef> {
        self.gateways.keys()
    }

    /// The gateways that have events waiting, or need an announcement at once.
    pub fn due(&self) -> impl Iterator<Item = &NodeRef> {
        self.due.iter()
    }

    /// Takes the sections to send to `gateway`: those with events. `include_empty` adds partitions with progress, a
    /// pending announcement adds all partitions. Sections of one partition are in order.
    pub fn take(&mut self, gateway: &NodeRef, include_empty: bool) -> Vec<Section<E>> {
        let Some(pending) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        self.due.remove(gateway);
        pending.events = 0;
        let announce = std::mem::take(&mut pending.announce);
        let mut sections = std::mem::take(&mut pending.closed);
        for (partition, open) in &mut pending.open {
            let Some(through) = self.read.get(partition) else { continue };
            if announce || !open.events.is_empty() || (include_empty && *through > open.prev) {
                sections.push(open.close(*partition, pending.revision, *through));
            }
        }
        sections
    }
}
