//! The stream: the messages that its servers keep, and its faults. One server is the leader. The copies of the others
//! may begin earlier or later.

mod loss;

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use compact_str::format_compact;
use tickwire_core::coverage::completeness::{Completeness, Walk};
use tickwire_core::event::{Event, Timestamp};
use tickwire_core::ids::{Epoch, EpochId, Partition, Seq};
use tickwire_core::wire;
use tickwire_node::stored::MessageSelector;
use tickwire_router_node::decisions::{Leader, Mark, StreamError, StreamFacts, StreamState, Walked};

use super::clocks;
use super::cluster::{SimCluster, StoredEvent};
use super::trace;
use loss::ShownLoss;

/// How long the stream keeps every message, in milliseconds. Its readers rely on more than a second.
const MIN_RETENTION: i64 = 1_200;

/// By how much the epoch id grows when the stream is created again: the id of a new stream is the time of its creation.
/// A router that begins an epoch adds only one.
const RECREATED: u64 = 1_000;

/// What the servers keep of the stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// All messages of the epoch that are neither lost nor damaged, even if retention has removed them from the leader.
    log: Vec<StoredEvent>,
    /// The first sequence that each server has.
    copies: Vec<Seq>,
    leader: usize,
    /// The sequences of damaged messages.
    damaged: BTreeSet<Seq>,
    /// The last sequence that still means the same message, if the stream has lost its end in this epoch.
    pub(super) unchanged_through: Option<Seq>,
    /// The last sequence of the epoch whose message was lost at the end of the stream.
    last_lost: Seq,
    /// For how long that has been visible.
    shown: ShownLoss,
    /// Whether a server has removed messages that another one still had.
    pub(super) has_diverged: bool,
    /// How often servers have started. Consumers do not survive a start.
    pub(super) starts: u64,
}

impl Stream {
    pub(super) fn new(copies: usize) -> Self {
        Self {
            log: Vec::new(),
            copies: vec![Seq(1); copies],
            leader: 0,
            damaged: BTreeSet::new(),
            unchanged_through: None,
            last_lost: Seq(0),
            shown: ShownLoss::default(),
            has_diverged: false,
            starts: 0,
        }
    }

    /// The messages after `after` in the copy of a server, in order.
    fn of_copy(&self, server: usize, after: Seq) -> impl Iterator<Item = &StoredEvent> {
        let first = self.copies[server];
        let begin = self.log.partition_point(|stored| stored.seq <= after || stored.seq < first);
        self.log[begin..].iter()
    }

    /// Whether a sequence may have another message than the one that was lost.
    fn is_replaced(&self, seq: Seq) -> bool {
        self.unchanged_through.is_some_and(|end| seq > end) && seq <= self.last_lost
    }

    /// The name of a server, if there are several.
    fn name(&self, server: usize) -> Option<String> {
        (self.copies.len() > 1).then(|| format!("s{server}"))
    }

    fn remove_before(&mut self, server: usize, first: Seq) {
        let copy = &mut self.copies[server];
        *copy = first.max(*copy);
    }
}

impl SimCluster {
    /// Stores a message in a partition.
    pub(super) fn store_message(&mut self, partition: u16, event: Event, (is_heartbeat, is_unreadable): (bool, bool)) {
        self.last = Seq(self.last.0 + 1);
        // A sequence may name several messages, one after the other.
        let id = format_compact!("{}-{}", self.last, self.now.0);
        let event = Event { id, stored: clocks::time_of_day(self.now), ..event };
        let what = if is_unreadable {
            ": not an event"
        } else if is_heartbeat {
            ": a partition heartbeat"
        } else {
            ""
        };
        trace::line(|| format!("stored {} in p{partition}{what}", self.last));
        let wire = section_form(&event);
        let (partition, seq, event) = (Partition(partition), self.last, Arc::new(event));
        let stored =
            StoredEvent { partition, seq, event, wire, is_heartbeat: is_heartbeat || is_unreadable, is_unreadable };
        self.history.entry(self.epoch.epoch_id).or_default().push(stored.clone());
        self.stream.log.push(stored);
    }

    /// The messages after `after` in the leader's copy, in order.
    pub(super) fn readable(&self, after: Seq) -> impl Iterator<Item = &StoredEvent> {
        self.stream.of_copy(self.stream.leader, after)
    }

    /// The messages after `after` in the copy of a server, in order.
    pub(super) fn readable_at(&self, server: usize, after: Seq) -> impl Iterator<Item = &StoredEvent> {
        self.stream.of_copy(server, after)
    }

    /// Whether no server has removed a message.
    pub(super) fn is_everywhere(&self, seq: Seq) -> bool {
        self.stream.copies.iter().all(|first| seq >= *first)
    }

    /// A router walks `(after, through]` and returns its missing ranges.
    pub(super) fn walk(&mut self, number: usize, after: Seq, through: Seq) -> Walked {
        // A look at the stream shows its epoch before the router has begun that epoch itself.
        let (epoch, router) = (self.epoch.epoch_id, &mut self.routers[number]);
        if std::mem::replace(&mut router.completeness_epoch, epoch) != epoch {
            router.completeness = Completeness::default();
        }
        while let Some((from, to)) = self.routers[number].completeness.unknown(after, through) {
            let mut walk = Walk::after(from);
            self.readable(from).take_while(|stored| stored.seq <= to).for_each(|stored| walk.pass(stored.seq));
            walk.end(to);
            self.routers[number].completeness.take(walk, Seq(self.first.0 - 1));
        }
        let missing = self.routers[number].completeness.missing(after, through).collect();
        Walked { through, missing, removed: Seq(self.first.0 - 1) }
    }

    /// The last message in the leader's copy that was stored before a time.
    pub(super) fn last_before(&self, time: Timestamp) -> Seq {
        let before = self.readable(Seq(0)).take_while(|stored| stored.event.stored < time);
        before.last().map_or(Seq(0), |stored| stored.seq)
    }

    /// The state of the stream, as its leader reports it.
    pub(super) fn state(&self) -> StreamState {
        let Epoch { epoch_id, before } = self.epoch;
        let replicas = self.stream.copies.len();
        let facts = StreamFacts { epoch_id, before, first: self.first, last: self.last, replicas };
        StreamState { facts, leader: self.stream.name(self.stream.leader) }
    }

    /// The leader, and its name.
    pub(super) fn leader(&self) -> (usize, Option<String>) {
        (self.stream.leader, self.stream.name(self.stream.leader))
    }

    /// A random server, and its name.
    pub(super) fn some_server(&mut self) -> (usize, Option<String>) {
        let server = match self.stream.copies.len() {
            1 => 0,
            copies => self.network.random(copies as u64) as usize,
        };
        (server, self.stream.name(server))
    }

    /// The first sequence to keep, so that `keep` messages stay, and all that are too young to be removed.
    fn first_to_keep(&self, keep: u64) -> Seq {
        let young = clocks::time_of_day(self.now).0 - MIN_RETENTION;
        let old = self.stream.log.partition_point(|stored| stored.event.stored.0 < young);
        let oldest = self.stream.log.get(old).map_or(Seq(self.last.0 + 1), |stored| stored.seq);
        oldest.min(Seq((self.last.0 + 1).saturating_sub(keep)))
    }

    /// Retention removes all but the last messages from every copy.
    pub(super) fn discard(&mut self, keep: u64) {
        let first = self.first_to_keep(keep);
        for server in 0..self.stream.copies.len() {
            self.stream.remove_before(server, first);
        }
        self.begin_at_leader();
    }

    /// Retention removes all but the last messages from one copy, since each server does it by its own clock.
    pub(super) fn discard_copy(&mut self, server: usize, keep: u64) {
        let (server, first) = (server % self.stream.copies.len(), self.first_to_keep(keep));
        self.stream.has_diverged |= self.stream.copies.len() > 1;
        self.stream.remove_before(server, first);
        self.begin_at_leader();
    }

    /// Makes another server the leader.
    pub(super) fn set_leader(&mut self, server: usize) {
        self.stream.leader = server % self.stream.copies.len();
        self.begin_at_leader();
    }

    /// Takes the first sequence of the stream from its leader.
    fn begin_at_leader(&mut self) {
        self.first = self.stream.copies[self.stream.leader];
        let discarded = self.discarded.entry(self.epoch.epoch_id).or_default();
        *discarded = Seq(self.first.0 - 1).max(*discarded);
        // Messages that replaced lost ones and are removed now need not be delivered: perhaps no node noticed the
        // loss.
        if let Some(unchanged_through) = self.stream.unchanged_through {
            self.move_to_lost(unchanged_through, Seq(self.first.0 - 1).min(self.stream.last_lost));
        }
    }

    /// Damages a message, and restarts the servers, which notice the damage only then.
    pub(super) fn damage(&mut self, back: u64) {
        let seq = Seq(self.last.0.saturating_sub(back));
        if seq >= self.first && seq.0 > 0 {
            self.damaged.entry(self.epoch.epoch_id).or_default().insert(seq);
            self.stream.damaged.insert(seq);
            self.stream.log.retain(|stored| stored.seq != seq);
            // It need not be delivered if it replaced a lost message: perhaps no node noticed the loss.
            if self.stream.is_replaced(seq) {
                self.move_to_lost(Seq(seq.0 - 1), seq);
            }
            self.restart_servers();
        }
    }

    /// The NATS servers restart: consumers end, and routers connect again.
    fn restart_servers(&mut self) {
        self.stream.starts += 1;
        for router in &mut self.routers {
            router.was_disconnected = true;
            // The stream may have changed, so former walks prove nothing.
            router.completeness.forget_walks();
        }
    }

    /// The stream is deleted and created again. Its sequences begin after `last`.
    pub(super) fn recreate(&mut self, last: Seq) {
        self.end_epoch(self.stream.unchanged_through);
        let copies = vec![Seq(last.0 + 1); self.stream.copies.len()];
        let starts = self.stream.starts + 1;
        self.stream = Stream { copies, leader: self.stream.leader, starts, ..Stream::new(1) };
        self.last = last;
        let epoch_id = EpochId(self.epoch.epoch_id.0 + RECREATED);
        self.enter_epoch(Epoch { epoch_id, before: Seq(0) });
    }

    /// The stream loses its last messages, and uses their sequences again. No node has noticed yet. This needs a single
    /// server: of several, all would have to lose messages that they have acknowledged.
    pub(super) fn lose_tail(&mut self, count: u64) {
        if self.stream.copies.len() > 1 {
            return;
        }
        self.excuse_unseen_loss();
        let last = Seq(self.last.0.saturating_sub(count));
        self.stream.log.retain(|stored| stored.seq <= last);
        self.stream.damaged.retain(|seq| *seq <= last);
        self.stream.copies.iter_mut().for_each(|first| *first = Seq(last.0 + 1).min(*first));
        let former = std::mem::replace(&mut self.last, last);
        if last < former {
            let lost_before = self.stream.unchanged_through.map_or(Seq(0), |_| self.stream.last_lost);
            self.stream.last_lost = lost_before.max(former);
            self.stream.unchanged_through = Some(self.stream.unchanged_through.map_or(last, |end| end.min(last)));
            self.stream.shown = ShownLoss::default();
        }
        self.move_to_lost_after(last);
        self.begin_at_leader();
        if self.network.random(2) == 0 {
            self.restart_servers();
        } else {
            // Connections stay, but consumers end.
            self.stream.starts += 1;
        }
    }

    /// A router begins a new epoch after `before`, unless an epoch after `known` has begun already. Returns the facts
    /// of the stream.
    pub(super) fn begin_epoch(&mut self, known: EpochId, before: Seq) -> StreamFacts {
        if self.epoch.epoch_id <= known {
            trace::line(|| format!("a new epoch begins after {before}"));
            self.excuse_unseen_loss();
            self.end_epoch(Some(before));
            // The stream may have lost more messages since the router looked at it.
            self.stream.unchanged_through = self.stream.unchanged_through.filter(|end| *end < before);
            self.enter_epoch(Epoch { epoch_id: EpochId(known.0 + 1), before });
        }
        self.state().facts
    }

    /// Ends an epoch. Messages after `unchanged_through` need not be delivered in it, since their sequences had other
    /// messages.
    fn end_epoch(&mut self, unchanged_through: Option<Seq>) {
        if let Some(unchanged_through) = unchanged_through {
            self.move_to_lost_after(unchanged_through);
        }
    }

    /// All messages after `last` need not be delivered in this epoch.
    fn move_to_lost_after(&mut self, last: Seq) {
        self.move_to_lost(last, Seq(u64::MAX));
    }

    /// The messages in `(after, through]` need not be delivered in this epoch.
    fn move_to_lost(&mut self, after: Seq, through: Seq) {
        let epoch = self.epoch.epoch_id;
        let history = self.history.entry(epoch).or_default();
        let is_within = |stored: &mut StoredEvent| stored.seq > after && stored.seq <= through;
        self.lost.entry(epoch).or_default().extend(history.extract_if(.., is_within));
    }

    /// Enters an epoch. Its history begins with the messages that the stream has now.
    fn enter_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.epochs.insert(epoch.epoch_id, epoch);
        self.history.insert(epoch.epoch_id, self.stream.log.clone());
        self.damaged.insert(epoch.epoch_id, self.stream.damaged.clone());
        self.begin_at_leader();
    }
}

/// The stream answers as its leader, at once.
impl Leader for SimCluster {
    fn facts(&self) -> impl Future<Output = Result<StreamFacts, StreamError>> + Send {
        ready(Ok(self.state().facts))
    }

    fn message(
        &self,
        wanted: MessageSelector<'static>,
    ) -> impl Future<Output = Result<Option<Mark>, StreamError>> + Send {
        let (seq, is_exact) = match wanted {
            MessageSelector::At(seq) => (seq, true),
            MessageSelector::From { seq, .. } => (seq, false),
            other => panic!("no router asks for {other:?}"),
        };
        let found = self.readable(Seq(seq.saturating_sub(1))).next();
        let found = found.filter(|stored| !is_exact || stored.seq.0 == seq);
        ready(Ok(found.map(|stored| Mark { seq: stored.seq, stored: stored.event.stored.0 })))
    }
}

/// For each epoch, the messages that were lost, and those that replaced them and need not be delivered.
pub(super) type Lost = BTreeMap<EpochId, Vec<StoredEvent>>;

/// An event as sections carry it: without a version byte of its own.
pub(super) fn section_form(event: &Event) -> Bytes {
    Bytes::from(wire::encode(event).unwrap()).slice(1..)
}
