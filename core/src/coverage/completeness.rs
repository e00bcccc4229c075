//! Finds missing ranges: sequences of the stream that no message has any more.
//!
//! A stream numbers its messages 1, 2, 3 and so on, and its limits remove messages only from the front. If a later
//! sequence has no message, the storage is damaged or somebody deleted the message. A reader of one partition does not
//! notice this, since the sequences of a partition are sparse, and the partition of a missing message is unknown. So
//! the whole stream is walked, once for all readers of the same part, and a missing range counts as missing in every
//! partition.
//!
//! Pure: [`Walk`]s of the stream go in, [`MissingRange`]s come out.

use crate::ids::Seq;

/// The most missing ranges that are remembered. Beyond that the earliest are forgotten, and the part of the stream up
/// to them counts as not walked.
const MAX_MISSING: usize = 65_536;

/// Sequences that no message has any more: `(after, through]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingRange {
    /// It starts after this sequence.
    pub after: Seq,
    /// It ends with this sequence.
    pub through: Seq,
}

impl MissingRange {
    /// The part of it in `(after, through]`.
    #[must_use]
    pub fn within(self, after: Seq, through: Seq) -> Option<Self> {
        let part = Self { after: self.after.max(after), through: self.through.min(through) };
        (part.after < part.through).then_some(part)
    }
}

/// A reading of every message of the stream, in order, from one sequence to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    after: Seq,
    through: Seq,
    missing: Vec<MissingRange>,
}

impl Walk {
    /// Begins after the sequence `after`.
    #[must_use]
    pub fn after(after: Seq) -> Self {
        Self { after, through: after, missing: Vec::new() }
    }

    /// The next message of the stream has this sequence.
    pub fn pass(&mut self, seq: Seq) {
        if seq.0 > self.through.0.saturating_add(1) {
            self.missing.push(MissingRange { after: self.through, through: Seq(seq.0 - 1) });
        }
        self.through = self.through.max(seq);
    }

    /// The walk is over: the last sequence of the stream is `last`, and no further message was received.
    pub fn end(&mut self, last: Seq) {
        if last > self.through {
            self.missing.push(MissingRange { after: self.through, through: last });
            self.through = last;
        }
    }

    /// The last sequence of the walk so far.
    #[must_use]
    pub fn through(&self) -> Seq {
        self.through
    }
}

/// What is known of the stream: which parts were walked, and what is missing in them.
#[derive(Clone, Debug, Default)]
pub struct Completeness {
    walked: Vec<MissingRange>,
    missing: Vec<MissingRange>,
}

impl Completeness {
    /// The first part of `(after, through]` that was not walked.
    #[must_use]
    pub fn unknown(&self, after: Seq, through: Seq) -> Option<(Seq, Seq)> {
        let begin = self.walked.partition_point(|part| part.through <= after);
        let (mut from, mut to) = (after, through);
        for part in self.walked.iter().skip(begin) {
            if part.after > from {
                to = to.min(part.after);
                break;
            }
            from = from.max(part.through);
        }
        (from < to).then_some((from, to))
    }

    /// The missing ranges in the walked parts of `(after, through]`, in order.
    pub fn missing(&self, after: Seq, through: Seq) -> impl Iterator<Item = MissingRange> {
        let begin = self.missing.partition_point(|range| range.through <= after);
        self.missing.iter().skip(begin).map_while(move |range| range.within(after, through))
    }

    /// Takes a walk. After the walk, the limits of the stream had removed everything up to `removed`; that part is not
    /// missing. Returns the missing ranges, or parts of them, that are new.
    pub fn take(&mut self, walk: Walk, removed: Seq) -> Vec<MissingRange> {
        let Walk { after, through, missing } = walk;
        let found: Vec<MissingRange> = missing.into_iter().filter_map(|range| range.within(removed, through)).collect();
        let mut new = found.clone();
        self.missing(after, through).for_each(|known| cut(&mut new, known.after, known.through));
        cut(&mut self.missing, after, through);
        found.into_iter().for_each(|range| add(&mut self.missing, range));
        add(&mut self.walked, MissingRange { after, through });
        cut(&mut self.missing, Seq(0), removed);
        cut(&mut self.walked, Seq(0), removed);
        add(&mut self.walked, MissingRange { after: Seq(0), through: removed });
        if self.missing.len() > MAX_MISSING {
            let forgotten = self.missing[self.missing.len() - MAX_MISSING - 1].through;
            cut(&mut self.missing, Seq(0), forgotten);
            cut(&mut self.walked, removed, forgotten);
        }
        new
    }

    /// The stream may have changed, because its server was away: everything must be walked again. A missing range that
    /// is found again is not new.
    pub fn forget_walks(&mut self) {
        self.walked.clear();
    }
}

/// Adds a range to sorted ranges that neither overlap nor touch.
fn add(ranges: &mut Vec<MissingRange>, MissingRange { after, through }: MissingRange) {
    if after >= through {
        return;
    }
    let begin = ranges.partition_point(|range| range.through < after);
    let end = ranges.partition_point(|range| range.after <= through);
    let touched = &ranges[begin..end];
    let after = touched.first().map_or(after, |first| first.after.min(after));
    let through = touched.last().map_or(through, |last| last.through.max(through));
    ranges.splice(begin..end, [MissingRange { after, through }]);
}

/// Removes a range from sorted ranges.
fn cut(ranges: &mut Vec<MissingRange>, after: Seq, through: Seq) {
    if after >= through {
        return;
    }
    let begin = ranges.partition_point(|range| range.through <= after);
    let end = ranges.partition_point(|range| range.after < through);
    let left = |range: &MissingRange| range.within(Seq(0), after);
    let right = |range: &MissingRange| range.within(through, Seq(u64::MAX));
    let rest: Vec<MissingRange> =
        ranges[begin..end].iter().flat_map(|range| [left(range), right(range)]).flatten().collect();
    ranges.splice(begin..end, rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(after: u64, through: u64) -> MissingRange {
        MissingRange { after: Seq(after), through: Seq(through) }
    }

    fn walk(after: u64, seqs: impl IntoIterator<Item = u64>, last: u64) -> Walk {
        let mut walk = Walk::after(Seq(after));
        seqs.into_iter().for_each(|seq| walk.pass(Seq(seq)));
        walk.end(Seq(last));
        walk
    }

    #[test]
    fn walk_finds_missing_ranges_at_any_place() {
        let mut known = Completeness::default();
        let new = known.take(walk(10, [12, 13, 17], 19), Seq(0));
        let missing = [range(10, 11), range(13, 16), range(17, 19)];
        assert_eq!(new, missing);
        assert_eq!(known.missing(Seq(0), Seq(99)).collect::<Vec<_>>(), missing);
        assert_eq!(known.missing(Seq(14), Seq(18)).collect::<Vec<_>>(), [range(14, 16), range(17, 18)]);
        assert_eq!(known.unknown(Seq(10), Seq(19)), None);
        assert_eq!(known.unknown(Seq(8), Seq(25)), Some((Seq(8), Seq(10))));
        assert_eq!(known.unknown(Seq(12), Seq(25)), Some((Seq(19), Seq(25))));
    }

    #[test]
    fn messages_removed_by_retention_are_not_missing() {
        let mut known = Completeness::default();
        assert_eq!(known.take(walk(10, [15, 17], 17), Seq(14)), [range(15, 16)]);
        assert_eq!(known.unknown(Seq(0), Seq(17)), None, "nobody will ever read there");
        assert_eq!(known.take(walk(17, [18], 18), Seq(16)), []);
        assert_eq!(known.missing(Seq(0), Seq(99)).count(), 0);
    }

    #[test]
    fn missing_range_found_again_is_not_new_and_a_filled_one_is_gone() {
        let mut known = Completeness::default();
        assert_eq!(known.take(walk(0, [1, 3], 3), Seq(0)), [range(1, 2)]);
        known.forget_walks();
        assert_eq!(known.unknown(Seq(0), Seq(3)), Some((Seq(0), Seq(3))));
        assert_eq!(known.take(walk(0, [1, 4], 4), Seq(0)), [range(2, 3)], "it has grown");
        known.forget_walks();
        assert_eq!(known.take(walk(0, [1, 4], 4), Seq(0)), []);
        assert_eq!(known.take(walk(0, [1, 2, 3, 4], 4), Seq(0)), []);
        assert_eq!(known.missing(Seq(0), Seq(9)).count(), 0);
    }

    #[test]
    fn earliest_of_too_many_missing_ranges_are_forgotten() {
        let mut known = Completeness::default();
        let many = MAX_MISSING as u64 + 10;
        known.take(walk(0, (1..=many).map(|number| 2 * number), 2 * many), Seq(0));
        assert_eq!(known.missing.len(), MAX_MISSING);
        assert_eq!(known.unknown(Seq(0), Seq(2 * many)), Some((Seq(0), Seq(19))));
        assert_eq!(known.missing(Seq(0), Seq(20)).count(), 0);
    }

    proptest! {
        /// The oracle is a set of sequences. Walks run in any order while messages vanish and retention goes on.
        #[test]
        fn completeness_equals_what_the_walks_saw(
            steps in proptest::collection::vec((0_u64..40, 0_u64..40, 0_u64..40, 0_u64..8), 0..30),
        ) {
            let (mut stored, mut removed): (BTreeSet<u64>, u64) = ((1..=40).collect(), 0);
            let (mut known, mut seen): (Completeness, Vec<Option<bool>>) = (Completeness::default(), vec![None; 41]);
            for (from, through, vanishing, retention) in steps {
                stored.remove(&vanishing);
                if retention == 0 {
                    removed = removed.max(from / 2);
                    stored.retain(|seq| *seq > removed);
                }
                let walked = stored.iter().copied().filter(|seq| *seq > from && *seq <= through);
                let walk = walk(from, walked, through.max(from));
                known.take(walk, Seq(removed));
                for seq in 1..=40 {
                    if seq > from && seq <= through {
                        seen[seq as usize] = Some(stored.contains(&seq));
                    }
                    if seq <= removed {
                        seen[seq as usize] = Some(true);
                    }
                }
                for seq in 1..=40_u64 {
                    let is_known = known.unknown(Seq(seq - 1), Seq(seq)).is_none();
                    let is_missing = known.missing(Seq(seq - 1), Seq(seq)).count() == 1;
                    let expected = (seen[seq as usize].is_some(), seen[seq as usize] == Some(false));
                    prop_assert_eq!((is_known, is_missing), expected, "{}", seq);
                }
                for ranges in [&known.walked, &known.missing] {
                    prop_assert!(ranges.iter().all(|range| range.after < range.through));
                    prop_assert!(ranges.windows(2).all(|pair| pair[0].through < pair[1].after));
                }
            }
        }
    }
}
