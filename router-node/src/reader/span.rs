//! What a replay reads, and what proves that no message of it is missing. Pure.

use crate::stream::StreamState;
use tickwire_core::ids::{Partition, Seq};
use tickwire_node::names;

/// The messages after `from`, up to `to`, of one partition or of all.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// It starts after this sequence.
    pub from: Seq,
    /// It ends with this sequence.
    pub to: Seq,
    /// The partition; `None` for all messages of the stream.
    pub partition: Option<Partition>,
    /// An estimate of the number of messages.
    pub messages: u64,
}

impl Span {
    /// The number of sequences in the range.
    pub(super) fn sequences(&self) -> u64 {
        self.to.0.saturating_sub(self.from.0)
    }

    /// The subjects of the messages.
    pub(super) fn filter(&self) -> String {
        self.partition.map_or_else(|| names::ALL.to_owned(), |partition| names::partition(u32::from(partition.0)))
    }
}

/// What proves that a reading has missed no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The sequences themselves: only those are missing that the leader lacks as well.
    Sequences,
    /// It was read from the only copy.
    OneCopy,
    /// It was read from the copy of this server, which leads the stream; `None` where servers form no cluster.
    Leaders(Option<String>),
}

impl Proof {
    /// Whether it holds, for the state of the stream after the reading: what the leader keeps now was there all the
    /// time.
    #[must_use]
    pub fn holds(&self, state: &StreamState) -> bool {
        match self {
            Self::Sequences => true,
            Self::OneCopy => state.facts.replicas <= 1,
            Self::Leaders(server) => *server == state.leader,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::StreamFacts;
    use tickwire_core::ids::EpochId;

    #[test]
    fn proof_holds_only_for_the_server_that_was_read() {
        let state = |replicas: usize, leader: Option<&str>| {
            let facts = StreamFacts { epoch_id: EpochId(1), before: Seq(0), first: Seq(1), last: Seq(9), replicas };
            StreamState { facts, leader: leader.map(str::to_owned) }
        };
        let read_from = |server: Option<&str>| Proof::Leaders(server.map(str::to_owned));
        let cases = [
            (Proof::Sequences, state(3, Some("a")), true),
            (Proof::OneCopy, state(1, Some("a")), true),
            (Proof::OneCopy, state(3, Some("a")), false),
            (read_from(Some("a")), state(3, Some("a")), true),
            (read_from(Some("a")), state(3, Some("b")), false),
            (read_from(Some("a")), state(3, None), false),
            (read_from(None), state(1, None), true),
        ];
        for (proof, state, holds) in cases {
            assert_eq!(proof.holds(&state), holds, "{proof:?} of {state:?}");
        }
    }
}
