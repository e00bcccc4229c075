//! Whether the stream still has every message that it ever gave a sequence to.
//!
//! A stream gives its messages the sequences 1, 2, 3 and so on, and removes from the front alone. So a sequence behind the
//! front that no message has is one whose message is gone: its storage is damaged, or somebody deleted it. Whoever reads one
//! partition alone does not notice, since the sequences of a partition are sparse; and of which partition it was nobody
//! can say any more. So the stream is walked as a whole, once for all who read the same part of it, and what is missing
//! is missing in every partition.
//!
//! Pure: [`Walk`]s of the stream go in, [`MissingRange`]s come out.

use crate::ids::Seq;

/// So many missing ranges are known at most. Of more the earliest are forgotten, with what was known of the part before
/// them, which is walked again when somebody reads there.
const MOST_MISSING: usize = 65_536;

/// Sequences that no message has any more: `(after, upto]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingRange {
    /// It starts after this sequence.
    pub after: Seq,
    /// It ends with this sequence.
    pub upto: Seq,
}

impl MissingRange {
    /// What of it lies in `(after, upto]`.
    #[must_use]
    pub fn within(self, after: Seq, upto: Seq) -> Option<Self> {
        let part = Self { after: self.after.max(after), upto: self.upto.min(upto) };
        (part.after < part.upto).then_some(part)
    }
}

/// A reading of every message of the stream, in order, from one sequence to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    after: Seq,
    upto: Seq,
    missing: Vec<MissingRange>,
}

impl Walk {
    /// Begins behind `after`.
    #[must_use]
    pub fn after(after: Seq) -> Self {
        Self { after, upto: after, missing: Vec::new() }
    }

    /// The next message of the stream has this sequence.
    pub fn pass(&mut self, seq: Seq) {
        if seq.0 > self.upto.0.saturating_add(1) {
            self.missing.push(MissingRange { after: self.upto, upto: Seq(seq.0 - 1) });
        }
        self.upto = self.upto.max(seq);
    }

    /// The stream has given sequences up to `last`, and no further message came.
    pub fn end(&mut self, last: Seq) {
        if last > self.upto {
            self.missing.push(MissingRange { after: self.upto, upto: last });
            self.upto = last;
        }
    }

    /// Up to where it came.
    #[must_use]
    pub fn upto(&self) -> Seq {
        self.upto
    }
}

/// What is known of the stream: which part of it was walked, and what is missing in it.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    walked: Vec<MissingRange>,
    missing: Vec<MissingRange>,
}

impl Whole {
    /// The first part of `(after, upto]` that was not walked.
    #[must_use]
    pub fn unknown(&self, after: Seq, upto: Seq) -> Option<(Seq, Seq)> {
        let begin = self.walked.partition_point(|part| part.upto <= after);
        let (mut from, mut to) = (after, upto);
        for part in self.walked.iter().skip(begin) {
            if part.after > from {
                to = to.min(part.after);
                break;
            }
            from = from.max(part.upto);
        }
        (from < to).then_some((from, to))
    }

    /// The missing ranges in `(after, upto]`, as far as it was walked, in order.
    pub fn missing(&self, after: Seq, upto: Seq) -> impl Iterator<Item = MissingRange> {
        let begin = self.missing.partition_point(|range| range.upto <= after);
        self.missing.iter().skip(begin).map_while(move |range| range.within(after, upto))
    }

    /// Takes a walk, after which the stream was seen to have removed everything up to `removed`. What it has removed is no
    /// range. Returns what of the missing ranges was not known before.
    pub fn take(&mut self, walk: Walk, removed: Seq) -> Vec<MissingRange> {
        let Walk { after, upto, missing } = walk;
        let found: Vec<MissingRange> = missing.into_iter().filter_map(|range| range.within(removed, upto)).collect();
        let mut new = found.clone();
        self.missing(after, upto).for_each(|known| cut(&mut new, known.after, known.upto));
        cut(&mut self.missing, after, upto);
        found.into_iter().for_each(|range| add(&mut self.missing, range));
        add(&mut self.walked, MissingRange { after, upto });
        cut(&mut self.missing, Seq(0), removed);
        cut(&mut self.walked, Seq(0), removed);
        add(&mut self.walked, MissingRange { after: Seq(0), upto: removed });
        if self.missing.len() > MOST_MISSING {
            let forgotten = self.missing[self.missing.len() - MOST_MISSING - 1].upto;
            cut(&mut self.missing, Seq(0), forgotten);
            cut(&mut self.walked, removed, forgotten);
        }
        new
    }

    /// What was walked may have changed: the server that keeps it was away. A range that is found again is
    /// not new.
    pub fn doubt(&mut self) {
        self.walked.clear();
    }
}

/// Adds a range to ranges in order that neither overlap nor touch.
fn add(ranges: &mut Vec<MissingRange>, MissingRange { after, upto }: MissingRange) {
    if after >= upto {
        return;
    }
    let begin = ranges.partition_point(|range| range.upto < after);
    let end = ranges.partition_point(|range| range.after <= upto);
    let touched = &ranges[begin..end];
    let after = touched.first().map_or(after, |first| first.after.min(after));
    let upto = touched.last().map_or(upto, |last| last.upto.max(upto));
    ranges.splice(begin..end, [MissingRange { after, upto }]);
}

/// Takes a range out of them.
fn cut(ranges: &mut Vec<MissingRange>, after: Seq, upto: Seq) {
    if after >= upto {
        return;
    }
    let begin = ranges.partition_point(|range| range.upto <= after);
    let end = ranges.partition_point(|range| range.after < upto);
    let left = |range: &MissingRange| range.within(Seq(0), after);
    let right = |range: &MissingRange| range.within(upto, Seq(u64::MAX));
    let rest: Vec<MissingRange> =
        ranges[begin..end].iter().flat_map(|range| [left(range), right(range)]).flatten().collect();
    ranges.splice(begin..end, rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(after: u64, upto: u64) -> MissingRange {
        MissingRange { after: Seq(after), upto: Seq(upto) }
    }

    fn walk(after: u64, seqs: impl IntoIterator<Item = u64>, last: u64) -> Walk {
        let mut walk = Walk::after(Seq(after));
        seqs.into_iter().for_each(|seq| walk.pass(Seq(seq)));
        walk.end(Seq(last));
        walk
    }

    #[test]
    fn a_sequence_that_no_message_has_shows_wherever_it_stands() {
        let mut whole = Whole::default();
        let new = whole.take(walk(10, [12, 13, 17], 19), Seq(0));
        let missing = [range(10, 11), range(13, 16), range(17, 19)];
        assert_eq!(new, missing);
        assert_eq!(whole.missing(Seq(0), Seq(99)).collect::<Vec<_>>(), missing);
        assert_eq!(whole.missing(Seq(14), Seq(18)).collect::<Vec<_>>(), [range(14, 16), range(17, 18)]);
        assert_eq!(whole.unknown(Seq(10), Seq(19)), None);
        assert_eq!(whole.unknown(Seq(8), Seq(25)), Some((Seq(8), Seq(10))));
        assert_eq!(whole.unknown(Seq(12), Seq(25)), Some((Seq(19), Seq(25))));
    }

    #[test]
    fn what_retention_has_taken_is_not_missing() {
        let mut whole = Whole::default();
        assert_eq!(whole.take(walk(10, [15, 17], 17), Seq(14)), [range(15, 16)]);
        assert_eq!(whole.unknown(Seq(0), Seq(17)), None, "nobody will ever read there");
        assert_eq!(whole.take(walk(17, [18], 18), Seq(16)), []);
        assert_eq!(whole.missing(Seq(0), Seq(99)).count(), 0);
    }

    #[test]
    fn a_missing_range_that_is_found_again_is_not_new_and_one_that_is_filled_is_none() {
        let mut whole = Whole::default();
        assert_eq!(whole.take(walk(0, [1, 3], 3), Seq(0)), [range(1, 2)]);
        whole.doubt();
        assert_eq!(whole.unknown(Seq(0), Seq(3)), Some((Seq(0), Seq(3))));
        assert_eq!(whole.take(walk(0, [1, 4], 4), Seq(0)), [range(2, 3)], "it has grown");
        whole.doubt();
        assert_eq!(whole.take(walk(0, [1, 4], 4), Seq(0)), []);
        assert_eq!(whole.take(walk(0, [1, 2, 3, 4], 4), Seq(0)), []);
        assert_eq!(whole.missing(Seq(0), Seq(9)).count(), 0);
    }

    #[test]
    fn of_too_many_missing_ranges_the_earliest_are_forgotten_and_walked_again() {
        let mut whole = Whole::default();
        let many = MOST_MISSING as u64 + 10;
        whole.take(walk(0, (1..=many).map(|number| 2 * number), 2 * many), Seq(0));
        assert_eq!(whole.missing.len(), MOST_MISSING);
        assert_eq!(whole.unknown(Seq(0), Seq(2 * many)), Some((Seq(0), Seq(19))));
        assert_eq!(whole.missing(Seq(0), Seq(20)).count(), 0);
    }

    proptest! {
        /// Against a set of sequences: whatever is walked in whatever order, while messages vanish and retention goes on.
        #[test]
        fn what_is_known_is_what_the_walks_have_shown(
            steps in proptest::collection::vec((0_u64..40, 0_u64..40, 0_u64..40, 0_u64..8), 0..30),
        ) {
            let (mut stored, mut removed): (BTreeSet<u64>, u64) = ((1..=40).collect(), 0);
            let (mut whole, mut seen): (Whole, Vec<Option<bool>>) = (Whole::default(), vec![None; 41]);
            for (from, upto, vanishing, retention) in steps {
                stored.remove(&vanishing);
                if retention == 0 {
                    removed = removed.max(from / 2);
                    stored.retain(|seq| *seq > removed);
                }
                let walk = walk(from, stored.iter().copied().filter(|seq| *seq > from && *seq <= upto), upto.max(from));
                whole.take(walk, Seq(removed));
                for seq in 1..=40 {
                    if seq > from && seq <= upto {
                        seen[seq as usize] = Some(stored.contains(&seq));
                    }
                    if seq <= removed {
                        seen[seq as usize] = Some(true);
                    }
                }
                for seq in 1..=40_u64 {
                    let is_known = whole.unknown(Seq(seq - 1), Seq(seq)).is_none();
                    let is_missing = whole.missing(Seq(seq - 1), Seq(seq)).count() == 1;
                    prop_assert_eq!((is_known, is_missing), (seen[seq as usize].is_some(), seen[seq as usize] == Some(false)), "{}", seq);
                }
                for ranges in [&whole.walked, &whole.missing] {
                    prop_assert!(ranges.iter().all(|range| range.after < range.upto));
                    prop_assert!(ranges.windows(2).all(|pair| pair[0].upto < pair[1].after));
                }
            }
        }
    }
}
