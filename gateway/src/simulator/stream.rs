//! The stream: what its servers keep, and what goes wrong with that. One server leads it; others may have removed more.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use tickwire_core::coverage::completeness::{Completeness, Walk};
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::event::{Event, Timestamp};
use tickwire_core::ids::{Epoch, EpochId, Partition, Seq};
use tickwire_core::wire;
use tickwire_node::stored::MessageSelector;
use tickwire_router_node::decisions::{Checkpoint, Leader, Mark, StreamError, StreamFacts, StreamState, Walked};

use super::clocks;
use super::cluster::{SimCluster, StoredEvent};
use super::router::SimRouter;
use super::trace;

/// What a stream keeps at least, in milliseconds: its readers take it for granted that this is more than a second.
const MIN_RETENTION: i64 = 1_200;

/// For how many beats in a row something must show that the stream has lost its end, so that a router notices: a
/// gateway says it once a beat, and a router looks at the stream after that.
const SHOWN_BEATS: u32 = 4;

/// By how much the epoch id grows when the stream is created again: there it is a time. A router that begins an epoch
/// adds one.
const RECREATED: u64 = 1_000;

/// What the servers keep of the stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// What can be read where it is led, and what was removed from there.
    log: Vec<StoredEvent>,
    /// The first sequence that each server keeps.
    copies: Vec<Seq>,
    leader: usize,
    /// The messages of it that cannot be read any more.
    damaged: BTreeSet<Seq>,
    /// If the stream has lost its end in this epoch: the last sequence that still means the message that was read.
    pub(super) unchanged_through: Option<Seq>,
    /// The last sequence of the epoch whose message was lost at the end of the stream.
    last_lost: Seq,
    /// For how many beats in a row something has shown that the end was lost, and the most of them.
    shown: (u32, u32),
    /// Whether a server has removed what another one still had.
    pub(super) has_diverged: bool,
    /// How often servers have started. Consumers live in their memory.
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
            shown: (0, 0),
            has_diverged: false,
            starts: 0,
        }
    }

    /// The messages behind `after` that the copy of a server has, in order.
    fn of_copy(&self, server: usize, after: Seq) -> impl Iterator<Item = &StoredEvent> {
        let first = self.copies[server];
        let begin = self.log.partition_point(|stored| stored.seq <= after || stored.seq < first);
        self.log[begin..].iter()
    }

    /// Whether a sequence may have another message than the one that was lost.
    fn is_replaced(&self, seq: Seq) -> bool {
        self.unchanged_through.is_some_and(|end| seq > end) && seq <= self.last_lost
    }

    fn name(&self, server: usize) -> Option<String> {
        (self.copies.len() > 1).then(|| format!("s{server}"))
    }

    fn remove_before(&mut self, server: usize, first: Seq) {
        let copy = &mut self.copies[server];
        *copy = first.max(*copy);
    }
}

impl SimCluster {
    pub(super) fn store_message(&mut self, partition: u16, event: Event, (is_heartbeat, is_unreadable): (bool, bool)) {
        self.last = Seq(self.last.0 + 1);
        let event = Event { stored: clocks::time_of_day(self.now), ..event };
        let what = if is_unreadable {
            ": no event"
        } else if is_heartbeat {
            ": a partition heartbeat"
        } else {
            ""
        };
        trace::line(|| format!("stored {} in p{partition}{what}", self.last));
        // In a section an event has no version byte of its own.
        let wire = Bytes::from(wire::encode(&event).unwrap()).slice(1..);
        let (partition, seq, event) = (Partition(partition), self.last, Arc::new(event));
        let stored =
            StoredEvent { partition, seq, event, wire, is_heartbeat: is_heartbeat || is_unreadable, is_unreadable };
        self.history.entry(self.epoch.epoch_id).or_default().push(stored.clone());
        self.stream.log.push(stored);
    }

    /// The messages of the stream behind `after` that can be read, in order.
    pub(super) fn readable(&self, after: Seq) -> impl Iterator<Item = &StoredEvent> {
        self.stream.of_copy(self.stream.leader, after)
    }

    /// The same of the copy that a server has.
    pub(super) fn readable_at(&self, server: usize, after: Seq) -> impl Iterator<Item = &StoredEvent> {
        self.stream.of_copy(server, after)
    }

    /// A router finds out what is missing in `(after, through]`.
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

    /// The last message that was stored before a time and can be read; all that is later may have been stored since.
    pub(super) fn last_before(&self, time: Timestamp) -> Seq {
        let before = self.readable(Seq(0)).take_while(|stored| stored.event.stored < time);
        before.last().map_or(Seq(0), |stored| stored.seq)
    }

    /// The stream, as a look at it shows.
    pub(super) fn state(&self) -> StreamState {
        let Epoch { epoch_id, before } = self.epoch;
        let replicas = self.stream.copies.len();
        let facts = StreamFacts { epoch_id, before, first: self.first, last: self.last, replicas };
        StreamState { facts, leader: self.stream.name(self.stream.leader) }
    }

    /// The server that leads the stream, and its name.
    pub(super) fn leader(&self) -> (usize, Option<String>) {
        (self.stream.leader, self.stream.name(self.stream.leader))
    }

    /// One of the servers, and its name.
    pub(super) fn some_server(&mut self) -> (usize, Option<String>) {
        let server = match self.stream.copies.len() {
            1 => 0,
            copies => self.network.random(copies as u64) as usize,
        };
        (server, self.stream.name(server))
    }

    /// The first sequence that keeps this many messages, and all that are not old enough to be removed.
    fn first_to_keep(&self, keep: u64) -> Seq {
        let young = clocks::time_of_day(self.now).0 - MIN_RETENTION;
        let old = self.stream.log.partition_point(|stored| stored.event.stored.0 < young);
        let oldest = self.stream.log.get(old).map_or(Seq(self.last.0 + 1), |stored| stored.seq);
        oldest.min(Seq((self.last.0 + 1).saturating_sub(keep)))
    }

    /// Retention removes all but the last few messages, from every copy.
    pub(super) fn discard(&mut self, keep: u64) {
        let first = self.first_to_keep(keep);
        for server in 0..self.stream.copies.len() {
            self.stream.remove_before(server, first);
        }
        self.begin_at_leader();
    }

    /// A server removes more than others, by its own clock.
    pub(super) fn discard_copy(&mut self, server: usize, keep: u64) {
        let (server, first) = (server % self.stream.copies.len(), self.first_to_keep(keep));
        self.stream.has_diverged |= self.stream.copies.len() > 1;
        self.stream.remove_before(server, first);
        self.begin_at_leader();
    }

    /// Another server leads the stream.
    pub(super) fn set_leader(&mut self, server: usize) {
        self.stream.leader = server % self.stream.copies.len();
        self.begin_at_leader();
    }

    /// The stream begins where its leader's copy does.
    fn begin_at_leader(&mut self) {
        self.first = self.stream.copies[self.stream.leader];
        let discarded = self.discarded.entry(self.epoch.epoch_id).or_default();
        *discarded = Seq(self.first.0 - 1).max(*discarded);
        // What came in place of lost messages and is removed before anybody sees that it is not those need not be
        // given.
        if let Some(unchanged_through) = self.stream.unchanged_through {
            self.move_to_lost(unchanged_through, Seq(self.first.0 - 1).min(self.stream.last_lost));
        }
    }

    /// A message cannot be read any more, which shows when NATS has come back.
    pub(super) fn damage(&mut self, back: u64) {
        let seq = Seq(self.last.0.saturating_sub(back));
        if seq >= self.first && seq.0 > 0 {
            self.damaged.entry(self.epoch.epoch_id).or_default().insert(seq);
            self.stream.damaged.insert(seq);
            self.stream.log.retain(|stored| stored.seq != seq);
            // As with removed messages, only it showed that it is not the lost one.
            if self.stream.is_replaced(seq) {
                self.move_to_lost(Seq(seq.0 - 1), seq);
            }
            self.restart_servers();
        }
    }

    /// The servers of NATS start again: consumers are gone, and routers connect again.
    fn restart_servers(&mut self) {
        self.stream.starts += 1;
        for router in &mut self.routers {
            router.was_disconnected = true;
            // What it reads after that, it reads of the stream as it is now.
            router.completeness.forget_walks();
        }
    }

    /// The stream was deleted and made anew, and counts on behind `last`.
    pub(super) fn recreate(&mut self, last: Seq) {
        self.end_epoch(self.stream.unchanged_through);
        let copies = vec![Seq(last.0 + 1); self.stream.copies.len()];
        let starts = self.stream.starts + 1;
        self.stream = Stream { copies, leader: self.stream.leader, starts, ..Stream::new(1) };
        self.last = last;
        let epoch_id = EpochId(self.epoch.epoch_id.0 + RECREATED);
        self.enter_epoch(Epoch { epoch_id, before: Seq(0) });
    }

    /// The stream has lost its last messages, and gives their sequences again. Nobody has noticed yet. Where several
    /// servers keep it, all of them would have to lose what they have acknowledged.
    pub(super) fn lose_tail(&mut self, count: u64) {
        if self.stream.copies.len() > 1 {
            return;
        }
        let last = Seq(self.last.0.saturating_sub(count));
        self.stream.log.retain(|stored| stored.seq <= last);
        self.stream.damaged.retain(|seq| *seq <= last);
        self.stream.copies.iter_mut().for_each(|first| *first = Seq(last.0 + 1).min(*first));
        let former = std::mem::replace(&mut self.last, last);
        if last < former {
            let lost_before = self.stream.unchanged_through.map_or(Seq(0), |_| self.stream.last_lost);
            self.stream.last_lost = lost_before.max(former);
            self.stream.unchanged_through = Some(self.stream.unchanged_through.map_or(last, |end| end.min(last)));
            self.stream.shown = (0, 0);
        }
        self.move_to_lost_after(last);
        self.begin_at_leader();
        if self.network.random(2) == 0 {
            self.restart_servers();
        } else {
            // The connection stands, but consumers are gone.
            self.stream.starts += 1;
        }
    }

    /// Notes whether anything shows that the stream has lost its end: a checkpoint in a lease, or the coverage of a
    /// gateway, that is beyond the end or has a lost message as its mark, where another one can be read now. A router
    /// that dies before its next checkpoint leaves nothing but the coverage of gateways, and if the stream grows beyond
    /// that at once, nothing at all.
    pub(super) fn note_whether_loss_shows(&mut self) {
        let Some(unchanged_through) = self.stream.unchanged_through else { return };
        let shows = |epoch_id: EpochId, through: Seq, mark: Option<(Seq, i64)>| {
            let is_replaced = |(seq, stored): (Seq, i64)| {
                let now = self.readable(Seq(seq.0.saturating_sub(1))).next();
                now.is_some_and(|now| now.seq == seq && now.event.stored.0 != stored)
            };
            let is_beyond = through > self.last || mark.is_some_and(is_replaced);
            epoch_id == self.epoch.epoch_id && through > unchanged_through && is_beyond
        };
        let in_lease = self.kv.checkpoints().any(|Checkpoint { checkpoint, epoch_id, mark }| {
            shows(*epoch_id, *checkpoint, mark.map(|mark| (mark.seq, mark.stored)))
        });
        let at_gateway = self.gateways.iter().filter(|gateway| !gateway.is_down && !gateway.is_cut).any(|gateway| {
            let GatewayCoverage { epoch_id, through, last } = gateway.edge.reached();
            shows(epoch_id, through, last.map(|(seq, stored)| (seq, stored.0)))
        });
        let (row, most) = self.stream.shown;
        let is_seen = self.routers.iter().any(SimRouter::runs) && (in_lease || at_gateway);
        let row = if is_seen { row + 1 } else { 0 };
        self.stream.shown = (row, most.max(row));
    }

    /// Whether clients may lack a message since it came in place of a lost one, and no node could notice.
    pub(super) fn may_lack(&self, epoch_id: EpochId, seq: Seq) -> bool {
        epoch_id == self.epoch.epoch_id && self.stream.shown.1 < SHOWN_BEATS && self.stream.is_replaced(seq)
    }

    /// A router begins another epoch after `before`, unless one later than it knows has begun. It returns what the
    /// stream is like then.
    pub(super) fn begin_epoch(&mut self, known: EpochId, before: Seq) -> StreamFacts {
        if self.epoch.epoch_id <= known {
            trace::line(|| format!("a new epoch begins after {before}"));
            self.end_epoch(Some(before));
            // It may have lost more since it was looked at.
            self.stream.unchanged_through = self.stream.unchanged_through.filter(|end| *end < before);
            self.enter_epoch(Epoch { epoch_id: EpochId(known.0 + 1), before });
        }
        self.state().facts
    }

    /// Messages after `unchanged_through` need not be delivered in the epoch that ends: their sequences had other messages.
    fn end_epoch(&mut self, unchanged_through: Option<Seq>) {
        if let Some(unchanged_through) = unchanged_through {
            self.move_to_lost_after(unchanged_through);
        }
    }

    fn move_to_lost_after(&mut self, last: Seq) {
        self.move_to_lost(last, Seq(u64::MAX));
    }

    fn move_to_lost(&mut self, after: Seq, through: Seq) {
        let epoch = self.epoch.epoch_id;
        let history = self.history.entry(epoch).or_default();
        let is_within = |stored: &mut StoredEvent| stored.seq > after && stored.seq <= through;
        self.lost.entry(epoch).or_default().extend(history.extract_if(.., is_within));
    }

    /// Enters an epoch: its history begins with what the stream has now.
    fn enter_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.epochs.insert(epoch.epoch_id, epoch);
        self.history.insert(epoch.epoch_id, self.stream.log.clone());
        self.damaged.insert(epoch.epoch_id, self.stream.damaged.clone());
        self.begin_at_leader();
    }
}

/// The stream is asked itself, and answers at once.
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
            MessageSelector::LastOf(subject) => panic!("nobody asks for the last message of {subject}"),
        };
        let found = self.readable(Seq(seq.saturating_sub(1))).next();
        let found = found.filter(|stored| !is_exact || stored.seq.0 == seq);
        ready(Ok(found.map(|stored| Mark { seq: stored.seq, stored: stored.event.stored.0 })))
    }
}

/// Per epoch, the messages that were lost, and those that took their sequences.
pub(super) type Lost = BTreeMap<EpochId, Vec<StoredEvent>>;
