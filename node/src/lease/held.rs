//! A lease that this node holds: what to do, one request at a time, to renew it or to give it back. No I/O.
//!
//! After a write that was not answered, the next attempt first reads the lease: that write may have taken effect. A
//! refused write is not always a loss, because a foreign writer may have written over the lease.

use super::{LeaseError, LeaseRead};
use tickwire_core::ids::NodeRef;

/// What a [`HeldLease`] needs next.
#[derive(Debug)]
pub enum LeaseStep {
    /// Read the lease: [`HeldLease::was_read`] takes the answer.
    Read,
    /// Write the lease: [`HeldLease::was_written`] takes the answer.
    Write {
        /// The write succeeds only over this revision.
        revision: u64,
    },
    /// Nothing: it is written, or not. After [`LeaseError::Refused`] another node has it. After any other error it is
    /// ours until that is known.
    Nothing(Result<(), LeaseError>),
}

/// Why a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The last write was not answered.
    Settle,
    Write,
    /// The write was refused.
    Check,
    /// A foreign writer had written.
    WriteAgain,
}

/// A lease whose owner is this node.
#[derive(Debug)]
pub struct HeldLease {
    key: String,
    me: NodeRef,
    revision: u64,
    /// Whether the last write was not answered.
    is_unanswered: bool,
    attempt: Attempt,
}

impl HeldLease {
    /// A lease that `me` has written at `revision`.
    pub fn new(key: &str, me: NodeRef, revision: u64) -> Self {
        Self { key: key.to_owned(), me, revision, is_unanswered: false, attempt: Attempt::Write }
    }

    /// Begins to write it: to renew it, or to give it back. What was begun before and has no answer counts as
    /// unanswered.
    pub fn write(&mut self) -> LeaseStep {
        if self.is_unanswered {
            self.attempt = Attempt::Settle;
            return LeaseStep::Read;
        }
        self.write_over(Attempt::Write, self.revision)
    }

    /// Takes the result of a read.
    pub fn was_read<S>(&mut self, read: Result<LeaseRead<S>, LeaseError>) -> LeaseStep {
        match (read, self.attempt) {
            (Err(error), _) => LeaseStep::Nothing(Err(error)),
            (Ok(read), Attempt::Settle) => self.settle(read),
            (Ok(read), _) if read.is_foreign => self.write_over(Attempt::WriteAgain, read.revision),
            (Ok(_), _) => {
                self.is_unanswered = false;
                LeaseStep::Nothing(Err(self.refusal()))
            }
        }
    }

    /// Takes the result of a write.
    pub fn was_written(&mut self, written: Result<u64, LeaseError>) -> LeaseStep {
        if matches!(written, Err(LeaseError::Refused { .. })) && self.attempt == Attempt::Write {
            self.attempt = Attempt::Check;
            return LeaseStep::Read;
        }
        self.is_unanswered = matches!(written, Err(LeaseError::Unavailable { .. }));
        LeaseStep::Nothing(written.map(|revision| self.revision = revision))
    }

    /// Finds out whether a write that was not answered took effect.
    fn settle<S>(&mut self, read: LeaseRead<S>) -> LeaseStep {
        let owner = read.record.and_then(|record| record.owner);
        // A server that lags shows a revision that we know. Then the compare-and-set decides.
        if read.revision > self.revision {
            if !read.is_foreign && owner.as_ref() != Some(&self.me) {
                return LeaseStep::Nothing(Err(self.refusal()));
            }
            self.revision = read.revision;
        }
        self.write_over(Attempt::Write, self.revision)
    }

    fn write_over(&mut self, attempt: Attempt, revision: u64) -> LeaseStep {
        // Until there is an answer.
        self.is_unanswered = true;
        self.attempt = attempt;
        LeaseStep::Write { revision }
    }

    fn refusal(&self) -> LeaseError {
        LeaseError::Refused { key: self.key.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseRecord;
    use tickwire_core::ids::{NodeId, Nonce};

    fn node(nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new("r1").unwrap(), nonce: Nonce(nonce) }
    }

    fn held() -> HeldLease {
        HeldLease::new("p.1", node(1), 5)
    }

    fn owned_by(nonce: u64, revision: u64) -> Result<LeaseRead<()>, LeaseError> {
        let record = Some(LeaseRecord { owner: Some(node(nonce)), state: () });
        Ok(LeaseRead { revision, record, is_unreadable: false, is_foreign: false })
    }

    fn foreign(revision: u64) -> Result<LeaseRead<()>, LeaseError> {
        Ok(LeaseRead { revision, record: None, is_unreadable: false, is_foreign: true })
    }

    fn refused() -> Result<u64, LeaseError> {
        Err(LeaseError::Refused { key: "p.1".to_owned() })
    }

    fn unavailable<T>() -> Result<T, LeaseError> {
        Err(LeaseError::Unavailable { key: "p.1".to_owned(), reason: "no answer".to_owned() })
    }

    #[track_caller]
    fn writes_over(step: &LeaseStep, expected: u64) {
        assert!(matches!(step, LeaseStep::Write { revision } if *revision == expected), "{step:?}");
    }

    #[track_caller]
    fn is_lost(step: &LeaseStep) {
        assert!(matches!(step, LeaseStep::Nothing(Err(LeaseError::Refused { .. }))), "{step:?}");
    }

    #[test]
    fn each_write_is_over_the_last() {
        let mut held = held();
        writes_over(&held.write(), 5);
        assert!(matches!(held.was_written(Ok(8)), LeaseStep::Nothing(Ok(()))));
        writes_over(&held.write(), 8);
    }

    #[test]
    fn unanswered_write_is_checked_before_the_next() {
        let mut held = held();
        held.write();
        assert!(matches!(held.was_written(unavailable()), LeaseStep::Nothing(Err(_))));
        assert!(matches!(held.write(), LeaseStep::Read));
        assert!(matches!(held.was_read(unavailable::<LeaseRead<()>>()), LeaseStep::Nothing(Err(_))));
        assert!(matches!(held.write(), LeaseStep::Read));
        writes_over(&held.was_read(owned_by(1, 6)), 6);
        // Given up without an answer. A server that lags shows an older revision.
        assert!(matches!(held.write(), LeaseStep::Read));
        writes_over(&held.was_read(owned_by(2, 5)), 6);
        assert!(matches!(held.write(), LeaseStep::Read));
        writes_over(&held.was_read(foreign(7)), 7);
        assert!(matches!(held.write(), LeaseStep::Read));
        is_lost(&held.was_read(owned_by(2, 8)));
    }

    #[test]
    fn refused_write_is_repeated_once_over_a_foreign_writer() {
        let mut held = held();
        held.write();
        assert!(matches!(held.was_written(refused()), LeaseStep::Read));
        writes_over(&held.was_read(foreign(6)), 6);
        assert!(matches!(held.was_written(Ok(7)), LeaseStep::Nothing(Ok(()))));
        held.write();
        assert!(matches!(held.was_written(refused()), LeaseStep::Read));
        writes_over(&held.was_read(foreign(8)), 8);
        is_lost(&held.was_written(refused()));
        held.write();
        assert!(matches!(held.was_written(refused()), LeaseStep::Read));
        is_lost(&held.was_read(owned_by(2, 9)));
    }
}
