//! How far a client is: what the server told, what came since, and what came early. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::position::Position;

/// So many early events are remembered. Of more, the oldest are forgotten, and told twice if they come again.
const EARLY: usize = 4_096;

/// Where a session would go on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    position: Option<Position>,
    /// Per partition the last event beyond the position, not counting early ones.
    seen: BTreeMap<Partition, Seq>,
    early: BTreeSet<(Partition, Seq)>,
    /// The same in the order of coming, with some that are not needed any more.
    early_order: VecDeque<(Partition, Seq)>,
}

impl Progress {
    /// The server has told a position. One that cannot be read changes nothing.
    pub(crate) fn messages_out(&mut self, position: &str) {
        let Ok(position) = position.parse::<Position>() else { return };
        if self.position.as_ref().is_some_and(|known| known.epoch_id != position.epoch_id) {
            self.forget();
        }
        self.position = Some(position);
        self.prune();
    }

    /// Takes an event. Returns whether it is new: one that came early may come again.
    pub(crate) fn take(&mut self, partition: Partition, seq: Seq, is_early: bool) -> bool {
        let is_new = !self.early.contains(&(partition, seq));
        if !is_early {
            let seen = self.seen.entry(partition).or_insert(seq);
            *seen = seq.max(*seen);
            let reached = *seen;
            self.pass(partition, reached);
        } else if is_new {
            self.early.insert((partition, seq));
            self.early_order.push_back((partition, seq));
            self.bound();
        }
        is_new
    }

    /// The position to go on from, and what was seen beyond it; `None` if none was told.
    pub(crate) fn place(&self) -> Option<(Position, BTreeMap<Partition, Seq>)> {
        Some((self.position.clone()?, self.seen.clone()))
    }

    /// Another life of the stream has begun, in which this partition gives its sequences again to other events. Until a
    /// position of that life is told, the former one says where to go on: all of the new life is given then.
    pub(crate) fn begin_anew(&mut self, partition: Partition) {
        self.seen.remove(&partition);
        self.pass(partition, Seq(u64::MAX));
    }

    /// Nothing of what was told means anything any more.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Forgets what is not needed to go on from the position.
    fn prune(&mut self) {
        let Some(Position { seqs, .. }) = self.position.clone() else { return };
        for (partition, messages_out) in (0..).map(Partition).zip(seqs) {
            if self.seen.get(&partition).is_some_and(|seen| *seen <= messages_out) {
                self.seen.remove(&partition);
            }
            self.pass(partition, messages_out);
        }
    }

    /// Forgets the early events of a partition that do not lie beyond `reached`.
    fn pass(&mut self, partition: Partition, reached: Seq) {
        while let Some(passed) = self.early.range((partition, Seq(0))..=(partition, reached)).next().copied() {
            self.early.remove(&passed);
        }
    }

    /// Forgets the oldest of too many early events.
    fn bound(&mut self) {
        let Self { early, early_order, .. } = self;
        while early.len() > EARLY
            && let Some(oldest) = early_order.pop_front()
        {
            early.remove(&oldest);
        }
        if early_order.len() > 2 * EARLY {
            early_order.retain(|event| early.contains(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::EpochId;

    fn position(epoch_id: u64, seqs: [u64; 2]) -> String {
        Position { epoch_id: EpochId(epoch_id), seqs: seqs.map(Seq).to_vec() }.to_string()
    }

    fn seen(progress: &Progress) -> Vec<(u16, u64)> {
        progress.seen.iter().map(|(partition, seq)| (partition.0, seq.0)).collect()
    }

    #[test]
    fn the_larger_of_what_was_told_and_seen_counts() {
        let mut progress = Progress::default();
        assert!(progress.take(Partition(0), Seq(5), false) && progress.place().is_none());
        progress.messages_out(&position(1, [3, 7]));
        assert!(progress.take(Partition(1), Seq(6), false), "what lies behind may be the past of a subscription");
        assert_eq!(seen(&progress), [(0, 5), (1, 6)]);
        progress.messages_out(&position(1, [5, 7]));
        assert_eq!(seen(&progress), []);
        progress.messages_out("not a position");
        assert_eq!(progress.place().unwrap().0.seqs, [Seq(5), Seq(7)]);
        progress.take(Partition(0), Seq(9), false);
        progress.messages_out(&position(2, [1, 1]));
        assert_eq!((seen(&progress), progress.place().unwrap().0.epoch_id), (vec![], EpochId(2)));
    }

    #[test]
    fn early_events_are_known_again_until_the_client_is_past_them() {
        let mut progress = Progress::default();
        progress.messages_out(&position(1, [3, 3]));
        assert!(progress.take(Partition(0), Seq(9), true) && progress.take(Partition(1), Seq(9), true));
        assert_eq!(seen(&progress), []);
        assert!(!progress.take(Partition(0), Seq(9), true), "still early after a resume");
        assert!(progress.take(Partition(0), Seq(5), false));
        assert!(!progress.take(Partition(0), Seq(9), false));
        assert_eq!(seen(&progress), [(0, 9)]);
        progress.messages_out(&position(1, [9, 9]));
        assert!(progress.early.is_empty());
    }

    #[test]
    fn an_event_of_another_life_of_the_stream_is_new_whatever_its_sequence() {
        let mut progress = Progress::default();
        progress.messages_out(&position(1, [3, 3]));
        for partition in [Partition(0), Partition(1)] {
            assert!(progress.take(partition, Seq(9), true) && progress.take(partition, Seq(7), false));
        }
        progress.begin_anew(Partition(0));
        assert_eq!(seen(&progress), [(1, 7)]);
        assert!(progress.take(Partition(0), Seq(9), false) && !progress.take(Partition(1), Seq(9), true));
        assert_eq!(progress.place().unwrap().0.epoch_id, EpochId(1));
    }

    #[test]
    fn only_so_many_early_events_are_remembered() {
        let mut progress = Progress::default();
        for seq in 0..EARLY as u64 + 10 {
            assert!(progress.take(Partition(0), Seq(seq), true));
        }
        assert_eq!((progress.early.len(), progress.early_order.len()), (EARLY, EARLY));
        assert!(progress.take(Partition(0), Seq(9), true) && !progress.take(Partition(0), Seq(11), true));
        // Nor do those grow that the client has passed.
        for seq in 0..3 * EARLY as u64 {
            progress.take(Partition(1), Seq(seq), true);
            progress.take(Partition(1), Seq(seq), false);
            assert!(progress.early_order.len() <= 2 * EARLY);
        }
        assert!(!progress.take(Partition(0), Seq(12), true), "what is still ahead is remembered");
    }
}
