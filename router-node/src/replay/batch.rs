//! Whether the messages of a batch follow one another. Pure.
//!
//! The server says with each message which one it has sent before it, and at the end which was the last: one that was lost
//! on the way shows. What the server itself lacks does not show in that; but it removes from the front alone, so that
//! one which still has the last message that we know has everything behind it.

use super::range::RangeError;
use tickwire_core::ids::Seq;
use tickwire_node::direct::Got;

/// A batch that is asked for from the last known message on.
#[derive(Debug)]
pub(super) struct Batch {
    known: Seq,
    has_known: bool,
    /// The last message of the batch; 0 before the first.
    last: u64,
}

impl Batch {
    /// That is asked for from `known` on.
    pub(super) fn after(known: Seq) -> Self {
        Self { known, has_known: false, last: 0 }
    }

    /// Takes the next message. Returns whether it is one behind the last known.
    pub(super) fn take(&mut self, got: &Got<'_>) -> Result<bool, RangeError> {
        let before =
            got.before.ok_or_else(|| RangeError::Unreadable("it does not say what was sent before".to_owned()))?;
        if before != self.last || got.seq <= self.last {
            return Err(RangeError::Hole);
        }
        self.last = got.seq;
        self.has_known |= got.seq == self.known.0;
        Ok(got.seq > self.known.0)
    }

    /// The server has sent all, `last` being the last.
    pub(super) fn end(&self, last: Option<u64>) -> Result<(), RangeError> {
        match last {
            Some(last) if last == self.last => Ok(()),
            Some(_) => Err(RangeError::Hole),
            None => Err(RangeError::Unreadable("it does not say what was sent last".to_owned())),
        }
    }

    /// Whether the last known message was part of it.
    pub(super) fn has_known(&self) -> bool {
        self.has_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(seq: u64, before: Option<u64>) -> Got<'static> {
        Got { seq, stored: "", subject: b"", headers: b"", pending: Some(1), before }
    }

    #[test]
    fn a_batch_that_begins_with_the_known_message_and_ends_with_the_last_is_whole() {
        let mut batch = Batch::after(Seq(7));
        assert!(!batch.take(&got(7, Some(0))).unwrap());
        assert!(batch.take(&got(12, Some(7))).unwrap());
        assert!(batch.take(&got(13, Some(12))).unwrap());
        batch.end(Some(13)).unwrap();
        assert!(batch.has_known());
    }

    #[test]
    fn a_server_that_begins_behind_the_known_message_proves_nothing_by_itself() {
        let mut batch = Batch::after(Seq(7));
        assert!(batch.take(&got(12, Some(0))).unwrap());
        batch.end(Some(12)).unwrap();
        assert!(!batch.has_known());
    }

    #[test]
    fn a_message_that_was_lost_on_its_way_shows() {
        let mut first_lost = Batch::after(Seq(7));
        assert!(matches!(first_lost.take(&got(12, Some(7))), Err(RangeError::Hole)));
        let mut batch = Batch::after(Seq(7));
        batch.take(&got(7, Some(0))).unwrap();
        assert!(matches!(batch.take(&got(13, Some(12))), Err(RangeError::Hole)));
        assert!(matches!(batch.end(Some(12)), Err(RangeError::Hole)), "the last is lost");
        assert!(matches!(batch.take(&got(7, Some(7))), Err(RangeError::Hole)), "doubled");
        assert!(matches!(batch.take(&got(13, None)), Err(RangeError::Unreadable(_))));
        assert!(matches!(batch.end(None), Err(RangeError::Unreadable(_))));
    }
}
