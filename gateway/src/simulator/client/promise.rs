//! What a client is promised: from which position on, and up to which, it has every event that a filter matches, or a
//! notice of it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, Partition, Seq};
use tickwire_core::protocol::position::Position;

use super::SimClient;
use super::facts::ClusterFacts;

/// The range in which a filter is in force: until it is replaced or ended, or a new epoch begins.
#[derive(Debug)]
pub(super) struct Promise {
    /// The name of its subscription.
    pub(super) name: &'static str,
    pub(super) filter: u32,
    pub(super) epoch_id: EpochId,
    /// For each partition, the sequence after which the range begins.
    pub(super) start: Vec<Seq>,
    /// For each partition, the last position that the client got: up to there it has every event or a notice.
    pub(super) end: Vec<Seq>,
}

/// The earlier events that a subscription with `since` asks for.
#[derive(Debug)]
pub(super) struct PastRequest {
    pub(super) filter: u32,
    /// The time from which on they were stored.
    pub(super) since: Timestamp,
    pub(super) epoch_id: EpochId,
    /// For each partition, the sequence up to which they are promised, and the one up to which they may be given. The
    /// two differ if events may have waited for the client.
    pub(super) end: Vec<Seq>,
    pub(super) latest: Vec<Seq>,
    /// Whether events may have waited for the client when it subscribed.
    pub(super) waits: bool,
    pub(super) given: BTreeSet<(Partition, Seq)>,
    /// For each key and priority, the last of them that came.
    pub(super) order: BTreeMap<Lane, Seq>,
    /// Whether the subscription still exists.
    pub(super) is_wanted: bool,
}

/// A partition, a key, and a priority with the tags. Events that have them in common come in their order.
pub(super) type Lane = (Partition, String, String);

/// Where the promise of a new subscription begins.
pub(super) struct PromiseStart {
    pub(super) epoch_id: EpochId,
    pub(super) start: Vec<Seq>,
    pub(super) end: Vec<Seq>,
    /// Whether events of former subscriptions may wait for the client.
    pub(super) waits: bool,
}

impl PromiseStart {
    /// A resume from this position.
    pub(super) fn at(position: &Position) -> Self {
        let (epoch_id, start) = (position.epoch_id, position.seqs.clone());
        Self { epoch_id, end: start.clone(), start, waits: false }
    }

    pub(super) fn promise(&self, name: &'static str, filter: u32) -> Promise {
        let (start, end) = (self.start.clone(), self.end.clone());
        Promise { name, filter, epoch_id: self.epoch_id, start, end }
    }
}

impl SimClient {
    /// All promises that it ever had.
    pub(super) fn all_promises(&self) -> impl Iterator<Item = &Promise> {
        self.promises.iter().chain(&self.in_force)
    }

    /// Ends promises that are in force.
    pub(super) fn end_promises(&mut self, ends: impl Fn(&Promise) -> bool) {
        self.promises.extend(self.in_force.extract_if(.., |promise| ends(promise)));
    }

    /// Where the promise of a subscription begins that was confirmed with the present position.
    pub(super) fn start_subscription(&mut self, facts: &ClusterFacts) -> PromiseStart {
        let at = self.position.clone().expect("an answer has a position");
        // If events wait for the client, its position is before the first new event of the subscription.
        let (was_slow, is_new) = self.connection.as_ref().map_or((false, true), |at| (at.was_slow, at.is_new));
        let may_wait = self.is_catching_up || self.past.is_some() || was_slow || facts.has_burst;
        let waits = may_wait && !is_new;
        let (epoch_id, end) = (at.epoch_id, at.seqs);
        let start = if waits { facts.ends(epoch_id) } else { end.clone() };
        // A client that does not resume may have connected to a gateway that lags behind the former one.
        if self.connection.as_mut().is_some_and(|connection| std::mem::take(&mut connection.is_new)) {
            let given = self.received.get(&epoch_id).into_iter().flat_map(|received| &received.events);
            self.may_come_again.extend(given.filter(|(p, seq)| *seq > end[usize::from(p.0)]));
        }
        PromiseStart { epoch_id, start, end, waits }
    }

    /// The events after the position of a resume in the same connection come again, in order.
    pub(super) fn come_again_after(&mut self, from: &Position) {
        let received = self.received.get(&from.epoch_id).into_iter().flat_map(|received| &received.events);
        self.may_come_again.extend(received.filter(|(p, seq)| *seq > from.seqs[usize::from(p.0)]));
        self.order.clear();
    }

    /// The subscription with `since` ends before its backfill does.
    pub(super) fn abandon_past(&mut self) {
        self.past.iter_mut().for_each(|past| past.is_wanted = false);
    }

    /// The client has all events, or notices of them, up to a position. `is_resume` says whether this position
    /// continues that of an earlier connection.
    pub(super) fn update_position(&mut self, position: &str, facts: &ClusterFacts, is_resume: bool) {
        let position = Position::from_str(position).expect("a position can be read");
        self.seen.retain(|partition, seq| *seq > position.seqs[usize::from(partition.0)]);
        let former = self.position.as_ref().map(|position| position.epoch_id);
        let former = former.filter(|former| *former != position.epoch_id);
        if let (Some(past), Some(former)) = (&mut self.past, former) {
            // Only earlier events that the new epoch keeps can still come.
            let kept = facts.epochs[&position.epoch_id].common_through(former).unwrap_or_default();
            past.latest.iter_mut().for_each(|most| *most = kept.min(*most));
        }
        let mut is_other = self.in_force.is_empty() && former.is_some();
        for at in 0..self.in_force.len() {
            let promise = &self.in_force[at];
            if promise.epoch_id == position.epoch_id {
                let moves_back = position.seqs.iter().zip(&promise.end).any(|(now, before)| now < before);
                assert!(!moves_back, "the position moves back to {position}: {self:#?}");
                continue;
            }
            let epoch = facts.epochs[&position.epoch_id];
            // A live session gets the new epoch. One that resumes also gets what the new epoch keeps of the former.
            let kept = epoch.common_through(promise.epoch_id).filter(|_| is_resume);
            // A position that was held back for a former subscription may be before the start of the promise.
            let reached = promise.end.iter().zip(&promise.start).map(|(end, start)| *end.max(start));
            let begin = |seq: Seq| kept.map_or(epoch.before, |kept| kept.min(seq));
            let start: Vec<Seq> = reached.map(begin).collect();
            let (name, filter, end) = (promise.name, promise.filter, start.clone());
            let next = Promise { name, filter, epoch_id: position.epoch_id, start, end };
            let ended = std::mem::replace(&mut self.in_force[at], next);
            self.promises.push(ended);
            is_other = true;
        }
        if is_other {
            self.begin_epoch(position.epoch_id);
        }
        for promise in &mut self.in_force {
            promise.end.clone_from(&position.seqs);
        }
        self.position = Some(position);
    }

    /// A new epoch begins, in which sequences mean other events.
    fn begin_epoch(&mut self, epoch_id: EpochId) {
        self.seen.clear();
        self.early.clear();
        self.connection.iter_mut().for_each(|connection| connection.alerts.begin_epoch());
        // A session may get an epoch again from its beginning, at a gateway that did not know the epoch yet.
        self.may_come_again = self.received.get(&epoch_id).map(|received| received.events.clone()).unwrap_or_default();
        self.order.clear();
    }
}
