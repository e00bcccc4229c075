//! Which messages of a bucket a reader lacks. Pure.

use super::{BucketEntry, BucketState};

/// How far a bucket was read.
#[derive(Debug)]
pub struct BucketCursor {
    /// The state that was read; `None` before the first.
    known: Option<BucketState>,
    /// The looks since then that have found nothing new.
    unchanged: u32,
    /// After how many such looks the bucket is read again from its beginning.
    review: u32,
}

impl BucketCursor {
    /// Nothing was read yet. After `review` looks at an unchanged bucket it is read again from its beginning: messages
    /// that were removed without a mark show only then.
    #[must_use]
    pub fn new(review: u32) -> Self {
        Self { known: None, unchanged: 0, review }
    }

    /// Takes the state of the bucket. Returns the sequence after which its entries are to be read; `None` if nothing is
    /// new. A reading after 0 is of the whole bucket: keys that it does not have are gone.
    pub fn look(&mut self, state: BucketState) -> Option<u64> {
        let Some(known) = self.known else { return Some(0) };
        // A bucket that was created again, or has lost its end, gives other messages the same sequences.
        if state.created != known.created || state.last < known.last {
            return Some(0);
        }
        if state.last > known.last {
            return Some(known.last);
        }
        self.unchanged += 1;
        (self.unchanged >= self.review).then_some(0)
    }

    /// Has everything read again at the next look.
    pub fn start_over(&mut self) {
        self.known = None;
    }

    /// Notes that all entries were read that [`look`](Self::look) has asked for in this state. Returns the state that was
    /// read, and whether it is another one than before.
    pub fn note(&mut self, state: BucketState, entries: &[BucketEntry]) -> (BucketState, bool) {
        // Entries may have been written after the look.
        let last = entries.iter().map(|entry| entry.revision).fold(state.last, u64::max);
        let read = BucketState { last, ..state };
        self.unchanged = 0;
        (read, self.known.replace(read) != Some(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::event::Timestamp;

    fn state(created: i128, last: u64) -> BucketState {
        BucketState { created, last }
    }

    fn entry(revision: u64) -> BucketEntry {
        BucketEntry { key: "a".to_owned(), revision, stored: Timestamp(0), value: Vec::new() }
    }

    #[test]
    fn only_new_entries_are_read() {
        let mut cursor = BucketCursor::new(9);
        assert_eq!(cursor.look(state(1, 5)), Some(0));
        assert_eq!(cursor.note(state(1, 5), &[entry(4), entry(6)]), (state(1, 6), true));
        assert_eq!(cursor.look(state(1, 6)), None);
        assert_eq!(cursor.look(state(1, 8)), Some(6));
        assert_eq!(cursor.note(state(1, 8), &[]), (state(1, 8), true));
        assert_eq!(cursor.look(state(1, 8)), None);
    }

    #[test]
    fn bucket_is_read_again_if_its_sequences_mean_other_messages() {
        for other in [state(2, 9), state(1, 8)] {
            let mut cursor = BucketCursor::new(9);
            cursor.note(state(1, 9), &[]);
            assert_eq!(cursor.look(other), Some(0));
        }
    }

    #[test]
    fn bucket_is_read_again_on_request() {
        let mut cursor = BucketCursor::new(9);
        cursor.note(state(1, 9), &[]);
        cursor.start_over();
        assert_eq!(cursor.look(state(1, 9)), Some(0));
        cursor.note(state(1, 9), &[entry(9)]);
        assert_eq!(cursor.look(state(1, 9)), None);
    }

    #[test]
    fn unchanged_bucket_is_read_again_at_the_review() {
        let mut cursor = BucketCursor::new(3);
        cursor.note(state(1, 9), &[]);
        assert_eq!([(); 3].map(|()| cursor.look(state(1, 9))), [None, None, Some(0)]);
        assert_eq!(cursor.note(state(1, 9), &[entry(9)]), (state(1, 9), false));
        assert_eq!(cursor.look(state(1, 9)), None);
    }
}
