//! What a session was promised, got, and was told.

use std::collections::BTreeSet;
use std::sync::Arc;

use tickwire_core::coverage::GapReason;
use tickwire_core::event::{Audience, Event};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Incarnation, Partition, Revision, Seq, UserId};
use tickwire_core::position::Position;

/// What one filter promised, from its confirmation to its end.
#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) filter: Filter,
    pub(crate) incarnation: Incarnation,
    /// Per partition, where it starts.
    pub(crate) start: Vec<Seq>,
    pub(crate) end: Vec<Seq>,
    pub(crate) got: Vec<(Partition, Seq)>,
    pub(crate) gaps: Vec<(Partition, Seq, Seq, GapReason)>,
}

impl Promise {
    pub(crate) fn new(filter: Filter, incarnation: Incarnation, start: Vec<Seq>) -> Self {
        Self { filter, incarnation, end: start.clone(), start, got: Vec::new(), gaps: Vec::new() }
    }

    /// Up to where it was given, and what of.
    fn place(&self) -> (Position, Filter) {
        (Position { incarnation: self.incarnation, seqs: self.end.clone() }, self.filter.clone())
    }

    /// Everything that matches in `(from, upto]`, what was given before aside: who came back may be ahead of its gateway,
    /// as long as nothing new was given.
    pub(crate) fn give(
        &mut self,
        user: &UserId,
        partition: Partition,
        from: Seq,
        upto: Seq,
        events: &[(Seq, Arc<Event>)],
    ) {
        let Some(known) = self.move_on(partition, from, upto) else { return };
        let wanted = |(seq, event): &&(Seq, Arc<Event>)| {
            *seq > known && event.audience.admits(user) && self.filter.matches(event)
        };
        self.got.extend(events.iter().filter(wanted).map(|(seq, _)| (partition, *seq)));
    }

    /// What may be missing in `(from, upto]`.
    pub(crate) fn miss(&mut self, partition: Partition, from: Seq, upto: Seq, reason: GapReason) {
        if let Some(known) = self.move_on(partition, from, upto) {
            self.gaps.push((partition, known, upto, reason));
        }
    }

    /// Returns where the partition stood, if it moves on.
    fn move_on(&mut self, partition: Partition, from: Seq, upto: Seq) -> Option<Seq> {
        let slot = usize::from(partition.0);
        let known = self.end[slot];
        let is_ahead = self.end[slot] == self.start[slot] && from < known;
        assert!(from == known || is_ahead, "a range was skipped without being told: {self:#?}");
        if upto <= known {
            return None;
        }
        self.end[slot] = upto;
        Some(known)
    }

    /// Whether an event belongs to what was promised, wherever it stands.
    pub(crate) fn wants(&self, user: &UserId, event: &Event) -> bool {
        event.audience.admits(user) && self.filter.matches(event)
    }

    /// Got and told must be what was promised, and never overlap.
    pub(crate) fn check(&self, user: &UserId, log: &[(Partition, Seq, Arc<Event>)]) {
        let got: BTreeSet<_> = self.got.iter().copied().collect();
        assert_eq!(got.len(), self.got.len(), "something was given twice: {self:?}");
        for partition in 0..self.start.len() {
            let of_partition = self.got.iter().filter(|(p, _)| usize::from(p.0) == partition);
            assert!(of_partition.is_sorted(), "partition {partition} was given out of order: {self:?}");
        }
        let mut rest = got;
        for (partition, seq, event) in log {
            let at = usize::from(partition.0);
            let (start, end) = (self.start[at], self.end[at]);
            let addressed_to_other = matches!(&event.audience, Audience::User(other) if other != user);
            if *seq <= start || *seq > end || addressed_to_other || !self.filter.matches(event) {
                continue;
            }
            let told = self.gaps.iter().any(|(p, from, upto, _)| p == partition && from < seq && seq <= upto);
            let given = rest.remove(&(*partition, *seq));
            assert!(given != told, "{partition}:{seq} given: {given}, told as gap: {told}: {self:#?}");
        }
        assert!(rest.is_empty(), "given without a promise: {rest:?}: {self:#?}");
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) gateway: usize,
    pub(crate) user: UserId,
    pub(crate) promise: Option<Promise>,
    /// Filters that are wanted but not confirmed yet, in order.
    pub(crate) wanted: Vec<Filter>,
    /// The highest revision asked for: what is asked later is never confirmed earlier.
    pub(crate) asked: Revision,
    pub(crate) past: Vec<Promise>,
    pub(crate) open: bool,
    /// Where it was when it came back, until it is confirmed.
    pub(crate) from: Option<Position>,
    /// The catch-up under way, and which of its former promises that keeps. What is new waits meanwhile.
    pub(crate) catching: Option<(u64, usize)>,
    /// Where it was when it left, and what it wanted.
    pub(crate) left: Option<(Position, Filter)>,
}

impl Session {
    pub(crate) fn new(gateway: usize, user: UserId, filter: Filter, asked: Revision, from: Option<Position>) -> Self {
        Self {
            gateway,
            user,
            promise: None,
            wanted: vec![filter],
            asked,
            past: Vec::new(),
            open: true,
            from,
            catching: None,
            left: None,
        }
    }

    /// The connection ends. What waited for the past was not given to anyone.
    pub(crate) fn leave(&mut self) {
        self.open = false;
        let (promise, from) = (self.promise.take(), self.from.take());
        self.left = match (self.catching.take(), promise) {
            (Some((_, past)), _) => Some(self.past[past].place()),
            (None, Some(promise)) => {
                let place = promise.place();
                self.past.push(promise);
                Some(place)
            }
            (None, None) => from.zip(self.wanted.first().cloned()),
        };
        self.wanted.clear();
    }
}
