//! What a router may claim: it follows, per partition, how far it read everything and, per gateway, how far it
//! has said so.
//!
//! A section has one revision: [`SectionBuilder::cut`] closes the open ones before a gateway's interest moves on.

use std::collections::{BTreeMap, BTreeSet};

use crate::coverage::section::Section;
use crate::ids::{NodeRef, Partition, Revision, Seq};

/// The reading of one partition: sequences are sparse, so that a missed message shows only in the consumer's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contiguity {
    /// The last message up to which everything was read.
    pub last: Seq,
    delivered: u64,
}

/// What to do with a message that a consumer delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It is the next one.
    Next,
    /// It was read before.
    Known,
    /// Something before it is missing: the consumer must be made anew at `last + 1`.
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

/// The claims of one router, to all gateways, on all partitions that it owns.
#[derive(Debug)]
pub struct SectionBuilder<E> {
    /// How far each owned partition is read.
    read: BTreeMap<Partition, Seq>,
    gateways: BTreeMap<NodeRef, GatewaySections<E>>,
    /// Those that have events waiting, or something to be told at once.
    due: BTreeSet<NodeRef>,
}

/// The claims to one gateway.
#[derive(Debug)]
struct GatewaySections<E> {
    revision: Revision,
    open: BTreeMap<Partition, OpenSection<E>>,
    closed: Vec<Section<E>>,
    /// Whether the gateway is to hear of every partition, even of one without progress.
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
    /// Starts to claim `partition`, from `floor` on.
    pub fn own(&mut self, partition: Partition, floor: Seq) {
        self.read.insert(partition, floor);
        for (gateway, claim) in &mut self.gateways {
            claim.open.insert(partition, OpenSection::after(floor));
            claim.announce = true;
            self.due.insert(gateway.clone());
        }
    }

    /// Claims no more of `partition`. What was not taken is not claimed.
    pub fn disown(&mut self, partition: Partition) {
        self.read.remove(&partition);
        for claim in self.gateways.values_mut() {
            claim.open.remove(&partition);
        }
    }

    /// The owned partitions, each with how far it is read.
    pub fn owned(&self) -> impl Iterator<Item = (Partition, Seq)> {
        self.read.iter().map(|(partition, seq)| (*partition, *seq))
    }

    /// `partition` was read up to `seq`; what matched in it was pushed.
    pub fn advance(&mut self, partition: Partition, seq: Seq) {
        if let Some(read) = self.read.get_mut(&partition) {
            *read = seq;
        }
    }

    /// Nothing between what was read of `partition` and `to` can be read any more: the next section starts at `to`,
    /// and every gateway sees the gap.
    pub fn skip(&mut self, partition: Partition, to: Seq) {
        let Some(read) = self.read.get_mut(&partition) else {
            return;
        };
        let through = std::mem::replace(read, to);
        for (gateway, claim) in &mut self.gateways {
            if let Some(open) = claim.open.get_mut(&partition) {
                claim.closed.push(open.close(partition, claim.revision, through));
                open.prev = to;
                self.due.insert(gateway.clone());
            }
        }
    }

    /// Adds a matching event to the open section of `partition` for `gateway`.
    pub fn push(&mut self, gateway: &NodeRef, partition: Partition, seq: Seq, event: E) {
        let Some(claim) = self.gateways.get_mut(gateway) else {
            return;
        };
        if let Some(open) = claim.open.get_mut(&partition) {
            open.events.push((seq, event));
            claim.events += 1;
            if claim.events == 1 {
                self.due.insert(gateway.clone());
            }
        }
    }

    /// Closes the open sections of `gateway`, because its interest is about to change.
    pub fn cut(&mut self, gateway: &NodeRef) {
        let Some(claim) = self.gateways.get_mut(gateway) else {
            return;
        };
        for (partition, open) in &mut claim.open {
            if let Some(through) = self.read.get(partition)
                && (*through > open.prev)
            {
                claim.closed.push(open.close(*partition, claim.revision, *through));
            }
        }
        if !claim.closed.is_empty() {
            self.due.insert(gateway.clone());
        }
    }

    /// `gateway`'s interest is known at `revision`. One that is new to this router is claimed to from here on.
    pub fn revise(&mut self, gateway: &NodeRef, revision: Revision) {
        let read = &self.read;
        let claim = self.gateways.entry(gateway.clone()).or_insert_with(|| GatewaySections {
            revision,
            open: read.iter().map(|(partition, seq)| (*partition, OpenSection::after(*seq))).collect(),
            closed: Vec::new(),
            announce: true,
            events: 0,
        });
        claim.revision = revision;
        claim.announce = true;
        self.due.insert(gateway.clone());
    }

    /// Claims nothing to `gateway` any more.
    pub fn forget(&mut self, gateway: &NodeRef) {
        self.gateways.remove(gateway);
        self.due.remove(gateway);
    }

    /// The gateways that are claimed to.
    pub fn gateways(&self) -> impl Iterator<Item = &NodeRef> {
        self.gateways.keys()
    }

    /// The gateways that have events waiting, or something to be told at once.
    pub fn due(&self) -> impl Iterator<Item = &NodeRef> {
        self.due.iter()
    }

    /// Takes what is to be sent to `gateway`: sections with events and, if `heartbeat` or something is to be
    /// announced, also those of partitions without. Sections of one partition are in order.
    pub fn take(&mut self, gateway: &NodeRef, heartbeat: bool) -> Vec<Section<E>> {
        let Some(claim) = self.gateways.get_mut(gateway) else {
            return Vec::new();
        };
        self.due.remove(gateway);
        claim.events = 0;
        let announce = std::mem::take(&mut claim.announce);
        let mut sections = std::mem::take(&mut claim.closed);
        for (partition, open) in &mut claim.open {
            let Some(through) = self.read.get(partition) else { continue };
            if announce || !open.events.is_empty() || (heartbeat && *through > open.prev) {
                sections.push(open.close(*partition, claim.revision, *through));
            }
        }
        sections
    }
}
