//! The way to one shard. It never makes the edge wait: a shard that is too far behind is handed no events until it has
//! worked off half of what waits for it, and its clients are told a gap then, while beats, repairs and all other shards go
//! on.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::counter;
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::ids::Partition;
use tickwire_node::declare_counter;
use tracing::{debug, info, warn};

use crate::byte_queue::Sender;
use crate::messages::{FromEdge, SharedCoverageEvents, SkippedRange, ToShard};

/// The way to one shard.
#[derive(Debug)]
pub(super) struct ShardQueue {
    number: usize,
    shard: Sender<ToShard>,
    /// How many bytes may wait.
    most: usize,
    is_behind: bool,
    left_out: SkippedRanges,
}

impl ShardQueue {
    pub(super) fn new(number: usize, shard: Sender<ToShard>, most: usize) -> Self {
        Self { number, shard, most, is_behind: false, left_out: SkippedRanges::default() }
    }

    /// Hands on what happened to partitions, unless too much waits for the shard.
    pub(super) fn steps(&mut self, steps: &Arc<SharedCoverageEvents>) {
        self.look();
        let waiting = self.shard.waiting();
        // What begins a partition's history, or another life of the stream, is rare, and never left out.
        let is_usual =
            steps.steps.iter().all(|step| matches!(step, CoverageEvent::Apply { .. } | CoverageEvent::Gap { .. }));
        if !self.is_behind && waiting > 0 && waiting.saturating_add(steps.weight()) > self.most {
            self.is_behind = true;
            warn!(shard = self.number, waiting, "a shard is too far behind; events are left out and told as gaps");
        }
        if self.is_behind && is_usual {
            let events = self.left_out.add(&steps.steps);
            counter!("tickwire_gateway_shard_skipped_events_total").increment(events);
        } else {
            self.say(FromEdge::Steps(Arc::clone(steps)));
        }
    }

    /// Says anything else, behind what was left out.
    pub(super) fn say(&mut self, message: FromEdge) {
        self.tell_left_out();
        self.send(message);
    }

    /// Tells what was left out, once the shard has caught up.
    pub(super) fn look(&mut self) {
        if self.is_behind && self.shard.waiting() <= self.most / 2 {
            self.is_behind = false;
            info!(shard = self.number, "a shard has caught up");
            self.tell_left_out();
        }
    }

    fn tell_left_out(&mut self) {
        let ranges = self.left_out.take();
        if !ranges.is_empty() {
            self.send(FromEdge::LeftOut(ranges));
        }
    }

    /// A shard that has ended has nobody left to tell; why it ended is judged where it was started.
    fn send(&self, message: FromEdge) {
        if !self.shard.send(ToShard::Edge(message)) {
            debug!(shard = self.number, "a shard has ended");
        }
    }
}

/// What a shard was not handed. Pure.
#[derive(Debug, Default)]
struct SkippedRanges(BTreeMap<Partition, SkippedRange>);

impl SkippedRanges {
    /// These are left out. Returns how many events they hold.
    fn add<E>(&mut self, steps: &[CoverageEvent<E>]) -> u64 {
        let mut left_out = 0;
        for step in steps {
            let (partition, from, through, is_lost) = match step {
                CoverageEvent::Apply { partition, from, through, events } => {
                    left_out += events.len() as u64;
                    (*partition, *from, *through, !events.is_empty())
                }
                CoverageEvent::Gap { partition, from, through, .. } => (*partition, *from, *through, true),
                CoverageEvent::Adopt { .. } | CoverageEvent::Reset { .. } => continue,
            };
            let range = self.0.entry(partition).or_insert(SkippedRange { partition, from, through, is_lost: false });
            range.through = range.through.max(through);
            range.is_lost |= is_lost;
        }
        left_out
    }

    /// What is to be told for it, once.
    fn take(&mut self) -> Vec<SkippedRange> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

pub(super) fn describe() {
    declare_counter!(
        "tickwire_gateway_shard_skipped_events_total",
        "Events that a shard was not handed since it is too far behind; its clients are told a gap"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_queue;
    use crate::byte_queue::Receiver;
    use crate::delivery::Delivery;
    use tickwire_core::coverage::GapReason;
    use tickwire_core::ids::Seq;
    use tickwire_testkit::blank_event;

    fn apply(partition: u16, from: u64, through: u64, bytes: Option<usize>) -> CoverageEvent<Arc<Delivery>> {
        let delivery = |bytes| Delivery::new(blank_event(), Partition(partition), Seq(through)).of_bytes(bytes);
        let events = bytes.map(|bytes| (Seq(through), Arc::new(delivery(bytes)))).into_iter().collect();
        CoverageEvent::Apply { partition: Partition(partition), from: Seq(from), through: Seq(through), events }
    }

    fn skipped(partition: u16, from: u64, through: u64, is_lost: bool) -> SkippedRange {
        SkippedRange { partition: Partition(partition), from: Seq(from), through: Seq(through), is_lost }
    }

    /// Takes all that waits: the range of each step, and what was left out.
    async fn taken(inbox: &mut Receiver<ToShard>) -> Vec<String> {
        let mut messages = Vec::new();
        inbox.take(&mut messages, 100).await;
        let said = messages.iter().map(|message| match message {
            ToShard::Edge(FromEdge::Steps(steps)) => format!("steps {}", steps.steps.len()),
            ToShard::Edge(FromEdge::LeftOut(ranges)) => format!("left out {ranges:?}"),
            ToShard::Edge(FromEdge::Confirmed(session)) => format!("confirmed {session}"),
            other => panic!("{other:?}"),
        });
        said.collect()
    }

    #[test]
    fn what_is_left_out_becomes_one_range_a_partition_and_no_gap_where_nothing_was() {
        let mut left_out = SkippedRanges::default();
        assert_eq!(left_out.add(&[apply(3, 0, 5, Some(1)), apply(1, 2, 9, None)]), 1);
        assert_eq!(left_out.add(&[apply(3, 5, 6, Some(1)), apply(3, 6, 8, None)]), 1);
        let told: CoverageEvent<()> =
            CoverageEvent::Gap { partition: Partition(2), from: Seq(1), through: Seq(4), reason: GapReason::Lost };
        assert_eq!(left_out.add(&[told]), 0);
        assert_eq!(left_out.take(), [skipped(1, 2, 9, false), skipped(2, 1, 4, true), skipped(3, 0, 8, true)]);
        assert_eq!(left_out.take(), []);
    }

    #[tokio::test]
    async fn a_shard_that_is_too_far_behind_holds_nobody_and_is_told_what_it_missed_once_it_has_caught_up() {
        let (sender, mut inbox) = byte_queue::channel();
        let mut outlet = ShardQueue::new(0, sender, 100_000);
        let large = |seq: u64| Arc::new(SharedCoverageEvents::new(vec![apply(0, seq - 1, seq, Some(20_000))]));
        for seq in 1..=9 {
            outlet.steps(&large(seq));
        }
        // A confirmation stands between the events before it and those after it, left out or not.
        outlet.say(FromEdge::Confirmed(7));
        outlet.steps(&large(10));
        let left_out = |from, through| format!("left out {:?}", [skipped(0, from, through, true)]);
        let first = ["steps 1".to_owned(), "steps 1".to_owned()].into_iter();
        let expected: Vec<String> = first.chain([left_out(2, 9), "confirmed 7".to_owned()]).collect();
        assert_eq!(taken(&mut inbox).await, expected);
        // What it has taken counts until it asks for more.
        outlet.look();
        assert!(outlet.is_behind);
        outlet.shard.send(ToShard::Edge(FromEdge::Confirmed(8)));
        assert_eq!(taken(&mut inbox).await, ["confirmed 8"]);
        outlet.steps(&large(11));
        assert_eq!(taken(&mut inbox).await, [left_out(9, 10), "steps 1".to_owned()]);
    }

    #[tokio::test]
    async fn what_is_larger_than_all_that_may_wait_goes_alone() {
        let (sender, mut inbox) = byte_queue::channel();
        let mut outlet = ShardQueue::new(0, sender, 1_000);
        outlet.steps(&Arc::new(SharedCoverageEvents::new(vec![apply(0, 0, 1, Some(20_000))])));
        assert_eq!(taken(&mut inbox).await, ["steps 1"]);
    }
}
