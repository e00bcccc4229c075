//! The pending notices of a session: what it did not get, or not in time. Every dropped event is counted here once.

use std::collections::BTreeMap;

use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Notice, SeqRange};

use crate::delivery::Delivery;

/// What happened to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// It was dropped.
    Dropped,
    /// A newer one took its place.
    Conflated,
    /// It had to wait although it is urgent.
    Delayed,
}

/// The pending notices: per code and subscription the number of events, and per partition the first and last sequence.
#[derive(Debug, Default)]
pub(crate) struct PendingNotices {
    of: BTreeMap<(NoticeCode, u32), PendingNotice>,
}

#[derive(Debug, Default)]
struct PendingNotice {
    dropped: u64,
    conflated: u64,
    delayed: u64,
    ranges: BTreeMap<Partition, (Seq, Seq)>,
}

impl PendingNotices {
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Counts an event of a subscription.
    pub(crate) fn count(&mut self, code: NoticeCode, fate: EventOutcome, subscription: u32, delivery: &Delivery) {
        let pending = self.of.entry((code, subscription)).or_default();
        match fate {
            EventOutcome::Dropped => pending.dropped += 1,
            EventOutcome::Conflated => pending.conflated += 1,
            EventOutcome::Delayed => pending.delayed += 1,
        }
        let (first, last) = pending.ranges.entry(delivery.partition).or_insert((delivery.seq, delivery.seq));
        (*first, *last) = ((*first).min(delivery.seq), (*last).max(delivery.seq));
    }

    /// Takes all notices, each with the number of its subscription.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (u32, Notice)> + use<> {
        std::mem::take(&mut self.of).into_iter().map(|((code, subscription), pending)| {
            let range = |(p, (first, last))| SeqRange { p, first, last };
            let notice = Notice {
                dropped: pending.dropped,
                conflated: pending.conflated,
                delayed: pending.delayed,
                ranges: pending.ranges.into_iter().map(range).collect(),
                ..Notice::new(code)
            };
            (subscription, notice)
        })
    }

    /// Limits a position to before the first event whose notice is pending.
    pub(crate) fn hold_back(&self, position: &mut Position) {
        for (partition, (first, _)) in self.of.values().flat_map(|pending| &pending.ranges) {
            position.lower_before(*partition, *first);
        }
    }
}
