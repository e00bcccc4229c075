//! What makes an intake give up its consumer, and how long it waits before it makes another. Pure.

use std::time::Duration;

use tickwire_core::backoff::Backoff;

use crate::reader::pull::PullError;

/// The pauses before another consumer is created. There is none after the first failure.
const BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// Why a consumer is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntakeTrouble {
    /// The consumer has delivered a message that did not arrive.
    Missed,
    /// No message arrived for too long.
    Silent,
    /// NATS was away.
    Reconnected,
    /// The stream has another epoch than the one that is read.
    OtherStream,
    /// The server that was read from has removed what the leader still has.
    Behind,
    /// Too many messages were late to compare them with those of the leader.
    Elsewhere,
    /// The last message that was read is no longer in the stream.
    Lost,
    /// An operation failed, with this error.
    Failed(String),
}

impl IntakeTrouble {
    /// The label of the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Silent => "silence",
            Self::Reconnected => "reconnect",
            Self::OtherStream => "other_stream",
            Self::Behind => "behind",
            Self::Elsewhere => "elsewhere",
            Self::Lost => "lost",
            Self::Failed(_) => "error",
        }
    }

    /// The text for people, as the readiness report and the log show it.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Missed => "a message was missed".to_owned(),
            Self::Silent => "no message arrived in time".to_owned(),
            Self::Reconnected => "the connection to NATS was lost".to_owned(),
            Self::OtherStream => "the stream has a new epoch".to_owned(),
            Self::Behind => "the server of the consumer lacks messages that the leader of the stream has".to_owned(),
            Self::Elsewhere => "too many late messages to compare with the leader of the stream".to_owned(),
            Self::Lost => "the last message that was read is not in the stream, which may have lost its end".to_owned(),
            Self::Failed(reason) => reason.clone(),
        }
    }
}

impl From<PullError> for IntakeTrouble {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Missed => Self::Missed,
            PullError::Silent => Self::Silent,
            PullError::Disconnected(_) => Self::Reconnected,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The pause before another consumer is created after `attempts` failures: none after the first, then doubling.
pub(super) fn backoff(attempts: u32) -> Duration {
    Duration::from_millis(BACKOFF.after(attempts.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_node::nats::ConnectionLost;

    #[test]
    fn lost_connection_counts_as_a_reconnect() {
        let trouble = IntakeTrouble::from(PullError::Disconnected(ConnectionLost));
        assert_eq!((&trouble, trouble.label()), (&IntakeTrouble::Reconnected, "reconnect"));
    }

    #[test]
    fn second_consumer_is_created_at_once_and_further_ones_after_pauses() {
        let millis: Vec<u128> = (0..9).map(|attempts| backoff(attempts).as_millis()).collect();
        assert_eq!(millis, [0, 0, 50, 100, 200, 400, 800, 1600, 2000]);
    }
}
