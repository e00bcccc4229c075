//! The progress of a client: the last position of the server, and the events received since then and early. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::ReceivedEvent;
use tickwire_core::protocol::position::Position;

/// The most early events that are remembered. Beyond that the oldest are forgotten, and delivered twice if the server
/// sends them again.
const MAX_EARLY: usize = 4_096;

/// The state for a resume.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    position: Option<Position>,
    /// For each partition, the last event beyond the position, without early ones.
    seen: BTreeMap<Partition, Seq>,
    early: BTreeSet<(Partition, Seq)>,
    /// The same in the order of arrival, with some that are no longer needed.
    early_order: VecDeque<(Partition, Seq)>,
}

impl Progress {
    /// Takes a position of the server. An invalid one changes nothing.
    pub(crate) fn set_position(&mut self, position: &str) {
        let Ok(position) = position.parse::<Position>() else { return };
        if self.position.as_ref().is_some_and(|known| known.epoch_id != position.epoch_id) {
            self.forget();
        }
        self.position = Some(position);
        self.prune();
    }

    /// Takes an event or alert. Returns whether it is for the user. One that comes again always is, and it does not count
    /// as seen: the events before it may be missing.
    pub(crate) fn take_event(&mut self, event: &ReceivedEvent, is_early: bool) -> bool {
        event.again || self.take(event.p, event.seq, is_early)
    }

    /// Takes a place of the stream. Returns whether it is new: an early event may be sent again.
    fn take(&mut self, partition: Partition, seq: Seq, is_early: bool) -> bool {
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

    /// The position for a resume, and the events seen beyond it; `None` without a position.
    pub(crate) fn resume_point(&self) -> Option<(Position, BTreeMap<Partition, Seq>)> {
        Some((self.position.clone()?, self.seen.clone()))
    }

    /// A new epoch has begun, in which other events of this partition get the same sequences. Until the server sends a
    /// position of the new epoch, the former position stays: a resume from it gives all of the new epoch.
    pub(crate) fn reset_partition(&mut self, partition: Partition) {
        self.seen.remove(&partition);
        self.pass(partition, Seq(u64::MAX));
    }

    /// Forgets everything: the positions are no longer valid.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Forgets events that the position covers.
    fn prune(&mut self) {
        let Some(Position { seqs, .. }) = self.position.clone() else { return };
        for (partition, covered) in (0..).map(Partition).zip(seqs) {
            if self.seen.get(&partition).is_some_and(|seen| *seen <= covered) {
                self.seen.remove(&partition);
            }
            self.pass(partition, covered);
        }
    }

    /// Forgets the early events of a partition up to `reached`.
    fn pass(&mut self, partition: Partition, reached: Seq) {
        while let Some(passed) = self.early.range((partition, Seq(0))..=(partition, reached)).next().copied() {
            self.early.remove(&passed);
        }
    }

    /// Forgets the oldest of too many early events.
    fn bound(&mut self) {
        let Self { early, early_order, .. } = self;
        while early.len() > MAX_EARLY
            && let Some(oldest) = early_order.pop_front()
        {
            early.remove(&oldest);
        }
        if early_order.len() > 2 * MAX_EARLY {
            early_order.retain(|event| early.contains(event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::EpochId;
    use tickwire_core::protocol::{Encoding, ServerMessage};

    fn position(epoch_id: u64, seqs: [u64; 2]) -> String {
        Position { epoch_id: EpochId(epoch_id), seqs: seqs.map(Seq).to_vec() }.to_string()
    }

    fn seen(progress: &Progress) -> Vec<(u16, u64)> {
        progress.seen.iter().map(|(partition, seq)| (partition.0, seq.0)).collect()
    }

    #[test]
    fn resume_point_is_the_position_with_later_events() {
        let mut progress = Progress::default();
        assert!(progress.take(Partition(0), Seq(5), false) && progress.resume_point().is_none());
        progress.set_position(&position(1, [3, 7]));
        assert!(
            progress.take(Partition(1), Seq(6), false),
            "an event before the position may be backfill of a subscription"
        );
        assert_eq!(seen(&progress), [(0, 5), (1, 6)]);
        progress.set_position(&position(1, [5, 7]));
        assert_eq!(seen(&progress), []);
        progress.set_position("not a position");
        assert_eq!(progress.resume_point().unwrap().0.seqs, [Seq(5), Seq(7)]);
        progress.take(Partition(0), Seq(9), false);
        progress.set_position(&position(2, [1, 1]));
        assert_eq!((seen(&progress), progress.resume_point().unwrap().0.epoch_id), (vec![], EpochId(2)));
    }

    #[test]
    fn early_events_are_remembered_until_they_are_passed() {
        let mut progress = Progress::default();
        progress.set_position(&position(1, [3, 3]));
        assert!(progress.take(Partition(0), Seq(9), true) && progress.take(Partition(1), Seq(9), true));
        assert_eq!(seen(&progress), []);
        assert!(!progress.take(Partition(0), Seq(9), true), "still early after a resume");
        assert!(progress.take(Partition(0), Seq(5), false));
        assert!(!progress.take(Partition(0), Seq(9), false));
        assert_eq!(seen(&progress), [(0, 9)]);
        progress.set_position(&position(1, [9, 9]));
        assert!(progress.early.is_empty());
    }

    #[test]
    fn event_of_a_new_epoch_is_new_with_any_sequence() {
        let mut progress = Progress::default();
        progress.set_position(&position(1, [3, 3]));
        for partition in [Partition(0), Partition(1)] {
            assert!(progress.take(partition, Seq(9), true) && progress.take(partition, Seq(7), false));
        }
        progress.reset_partition(Partition(0));
        assert_eq!(seen(&progress), [(1, 7)]);
        assert!(progress.take(Partition(0), Seq(9), false) && !progress.take(Partition(1), Seq(9), true));
        assert_eq!(progress.resume_point().unwrap().0.epoch_id, EpochId(1));
    }

    #[test]
    fn alert_that_comes_again_is_delivered_and_not_seen() {
        let alert = |seq: u64, again: &str| {
            let object = format!(
                r#"[{{"T":"alert","kind":"alert","key":"ann","priority":"high","ts":"2025-09-10T14:30:00.120Z","id":"a",
                "p":0,"seq":{seq}{again}}}]"#
            );
            match ServerMessage::parse(object.as_bytes(), Encoding::Json).unwrap().pop() {
                Some(ServerMessage::Alert(alert)) => alert,
                other => panic!("{other:?}"),
            }
        };
        let mut progress = Progress::default();
        progress.set_position(&position(1, [3, 3]));
        for seq in [2, 9] {
            assert!(progress.take_event(&alert(seq, r#","again":true"#), false));
            assert_eq!(seen(&progress), []);
        }
        assert!(progress.take_event(&alert(9, ""), false), "it arrives in its place as well");
        assert_eq!(seen(&progress), [(0, 9)]);
        // One that arrived early and comes again on purpose is no duplicate.
        assert!(progress.take_event(&alert(11, ""), true) && !progress.take_event(&alert(11, ""), true));
        assert!(progress.take_event(&alert(11, r#","again":true"#), false));
        assert_eq!(seen(&progress), [(0, 9)]);
    }

    #[test]
    fn number_of_remembered_early_events_is_bounded() {
        let mut progress = Progress::default();
        for seq in 0..MAX_EARLY as u64 + 10 {
            assert!(progress.take(Partition(0), Seq(seq), true));
        }
        assert_eq!((progress.early.len(), progress.early_order.len()), (MAX_EARLY, MAX_EARLY));
        assert!(progress.take(Partition(0), Seq(9), true) && !progress.take(Partition(0), Seq(11), true));
        // The list of passed early events stays bounded too.
        for seq in 0..3 * MAX_EARLY as u64 {
            progress.take(Partition(1), Seq(seq), true);
            progress.take(Partition(1), Seq(seq), false);
            assert!(progress.early_order.len() <= 2 * MAX_EARLY);
        }
        assert!(!progress.take(Partition(0), Seq(12), true), "early events that are still ahead are remembered");
    }
}
