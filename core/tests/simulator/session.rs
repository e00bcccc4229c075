//! What a session was promised, got, and was told.

use std::collections::BTreeSet;

use tickwire_core::coverage::GapReason;
use tickwire_core::event::{Audience, Event};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Incarnation, Partition, Revision, Seq, UserId};

/// What one filter promised, from its confirmation to its end.
#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) filter: Filter,
    pub(crate) incarnation: Incarnation,
    /// Per partition, where it starts; `None` until the partition is adopted after a reset.
    pub(crate) start: Vec<Option<Seq>>,
    pub(crate) end: Vec<Option<Seq>>,
    pub(crate) got: Vec<(Partition, Seq)>,
    pub(crate) gaps: Vec<(Partition, Seq, Seq, GapReason)>,
}

impl Promise {
    pub(crate) fn new(filter: Filter, incarnation: Incarnation, start: Vec<Option<Seq>>) -> Self {
        Self { filter, incarnation, end: start.clone(), start, got: Vec::new(), gaps: Vec::new() }
    }

    /// Got and told must be what was promised, and never overlap.
    pub(crate) fn check(&self, user: &UserId, log: &[(Partition, Seq, std::sync::Arc<Event>)]) {
        let got: BTreeSet<_> = self.got.iter().copied().collect();
        assert_eq!(got.len(), self.got.len(), "something was given twice: {self:?}");
        for partition in 0..self.start.len() {
            let of_partition = self.got.iter().filter(|(p, _)| usize::from(p.0) == partition);
            assert!(of_partition.is_sorted(), "partition {partition} was given out of order: {self:?}");
        }
        let mut rest = got;
        for (partition, seq, event) in log {
            let at = usize::from(partition.0);
            let (Some(start), Some(end)) = (self.start[at], self.end[at]) else {
                continue;
            };
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
}
