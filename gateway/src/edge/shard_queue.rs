//! The queue to one shard. It never makes the edge wait, so beats, repairs and other shards continue. A shard that is
//! too far behind gets no events until it has processed half of what may wait. Its clients are then notified of a gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::coverage::CoverageEvent;
use tickwire_core::ids::Partition;
use tracing::{debug, info, warn};

use crate::byte_queue::ByteSender;
use crate::messages::{FromEdge, SharedCoverageEvents, SkippedRange, ToShard};
use crate::metrics;

/// The queue to one shard.
#[derive(Debug)]
pub(super) struct ShardQueue {
    number: usize,
    shard: ByteSender<ToShard>,
    /// How many bytes may wait.
    most: usize,
    is_behind: bool,
    skipped: SkippedRanges,
}

impl ShardQueue {
    pub(super) fn new(number: usize, shard: ByteSender<ToShard>, most: usize) -> Self {
        Self { number, shard, most, is_behind: false, skipped: SkippedRanges::default() }
    }

    /// Sends coverage events, unless too much waits for the shard.
    pub(super) fn coverage_events(&mut self, coverage_events: &Arc<SharedCoverageEvents>) {
        self.check();
        let waiting = self.shard.waiting();
        // `Adopt` and `Reset` begin a partition or an epoch. They are rare, and never skipped.
        let may_skip = coverage_events
            .events
            .iter()
            .all(|coverage_event| matches!(coverage_event, CoverageEvent::Apply { .. } | CoverageEvent::Gap { .. }));
        if !self.is_behind && waiting > 0 && waiting.saturating_add(coverage_events.weight()) > self.most {
            self.is_behind = true;
            warn!(shard = self.number, waiting, "shard too far behind, skipping events");
        }
        if self.is_behind && may_skip {
            let events = self.skipped.add(&coverage_events.events);
            metrics::SHARD_SKIPPED_EVENTS.increment(events);
        } else {
            self.send(FromEdge::CoverageEvents(Arc::clone(coverage_events)));
        }
    }

    /// Sends any other message, after the ranges that were skipped before it.
    pub(super) fn send(&mut self, message: FromEdge) {
        self.send_skipped();
        self.enqueue(message);
    }

    /// Checks whether the shard has caught up. If so, sends the skipped ranges.
    pub(super) fn check(&mut self) {
        if self.is_behind && self.shard.waiting() <= self.most / 2 {
            self.is_behind = false;
            info!(shard = self.number, "shard has caught up");
            self.send_skipped();
        }
    }

    fn send_skipped(&mut self) {
        let ranges = self.skipped.take();
        if !ranges.is_empty() {
            self.enqueue(FromEdge::Skipped(ranges));
        }
    }

    /// Puts a message into the queue. An ended shard has no sessions left, and the code that started it handles the
    /// reason.
    fn enqueue(&self, message: FromEdge) {
        if !self.shard.send(ToShard::Edge(message)) {
            debug!(shard = self.number, "message to an ended shard dropped");
        }
    }
}

/// The ranges that a shard did not get, one for each partition. Pure.
#[derive(Debug, Default)]
struct SkippedRanges(BTreeMap<Partition, SkippedRange>);

impl SkippedRanges {
    /// Adds the ranges of these coverage events. Returns how many events are in them.
    fn add<E>(&mut self, coverage_events: &[CoverageEvent<E>]) -> u64 {
        let mut skipped_events = 0;
        for coverage_event in coverage_events {
            let (partition, from, through, is_lost) = match coverage_event {
                CoverageEvent::Apply { partition, from, through, events } => {
                    skipped_events += events.len() as u64;
                    (*partition, *from, *through, !events.is_empty())
                }
                CoverageEvent::Gap { partition, from, through, .. } => (*partition, *from, *through, true),
                CoverageEvent::Adopt { .. } | CoverageEvent::Reset { .. } => continue,
            };
            let range = self.0.entry(partition).or_insert(SkippedRange { partition, from, through, is_lost: false });
            range.through = range.through.max(through);
            range.is_lost |= is_lost;
        }
        skipped_events
    }

    /// Takes all ranges.
    fn take(&mut self) -> Vec<SkippedRange> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_queue;
    use crate::byte_queue::ByteReceiver;
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

    /// Takes all messages that wait, as text.
    async fn taken(inbox: &mut ByteReceiver<ToShard>) -> Vec<String> {
        let mut messages = Vec::new();
        inbox.take(&mut messages, 100).await;
        let texts = messages.iter().map(|message| match message {
            ToShard::Edge(FromEdge::CoverageEvents(coverage_events)) => {
                format!("coverage events {}", coverage_events.events.len())
            }
            ToShard::Edge(FromEdge::Skipped(ranges)) => format!("left out {ranges:?}"),
            ToShard::Edge(FromEdge::Confirmed(session)) => format!("confirmed {session}"),
            other => panic!("{other:?}"),
        });
        texts.collect()
    }

    #[test]
    fn skipped_events_become_one_range_per_partition_which_is_lost_only_if_it_had_events() {
        let mut ranges = SkippedRanges::default();
        assert_eq!(ranges.add(&[apply(3, 0, 5, Some(1)), apply(1, 2, 9, None)]), 1);
        assert_eq!(ranges.add(&[apply(3, 5, 6, Some(1)), apply(3, 6, 8, None)]), 1);
        let gap: CoverageEvent<()> =
            CoverageEvent::Gap { partition: Partition(2), from: Seq(1), through: Seq(4), reason: GapReason::Lost };
        assert_eq!(ranges.add(&[gap]), 0);
        assert_eq!(ranges.take(), [skipped(1, 2, 9, false), skipped(2, 1, 4, true), skipped(3, 0, 8, true)]);
        assert_eq!(ranges.take(), []);
    }

    #[tokio::test]
    async fn shard_that_was_too_far_behind_gets_the_skipped_ranges_after_it_has_caught_up() {
        let (sender, mut inbox) = byte_queue::channel();
        let mut queue = ShardQueue::new(0, sender, 100_000);
        let large = |seq: u64| Arc::new(SharedCoverageEvents::new(vec![apply(0, seq - 1, seq, Some(20_000))]));
        for seq in 1..=9 {
            queue.coverage_events(&large(seq));
        }
        // A confirmation keeps its place between the events before and after it, also if these are skipped.
        queue.send(FromEdge::Confirmed(7));
        queue.coverage_events(&large(10));
        let left_out = |from, through| format!("left out {:?}", [skipped(0, from, through, true)]);
        let first = ["coverage events 1".to_owned(), "coverage events 1".to_owned()].into_iter();
        let expected: Vec<String> = first.chain([left_out(2, 9), "confirmed 7".to_owned()]).collect();
        assert_eq!(taken(&mut inbox).await, expected);
        // What the shard has taken counts until it asks for more.
        queue.check();
        assert!(queue.is_behind);
        queue.shard.send(ToShard::Edge(FromEdge::Confirmed(8)));
        assert_eq!(taken(&mut inbox).await, ["confirmed 8"]);
        queue.coverage_events(&large(11));
        assert_eq!(taken(&mut inbox).await, [left_out(9, 10), "coverage events 1".to_owned()]);
    }

    #[tokio::test]
    async fn message_larger_than_the_bound_is_sent_if_the_queue_is_empty() {
        let (sender, mut inbox) = byte_queue::channel();
        let mut queue = ShardQueue::new(0, sender, 1_000);
        queue.coverage_events(&Arc::new(SharedCoverageEvents::new(vec![apply(0, 0, 1, Some(20_000))])));
        assert_eq!(taken(&mut inbox).await, ["coverage events 1"]);
    }
}
