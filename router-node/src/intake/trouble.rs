//! What makes an intake give up its consumer, and how long it waits before it makes another. Pure.

use std::time::Duration;

use tickwire_core::backoff::Backoff;

use crate::reader::pull::PullError;

/// The pauses before another consumer is made, but for the first.
const BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// Why a consumer is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntakeTrouble {
    /// The consumer has delivered more than came.
    Missed,
    /// Nothing came for too long.
    Silent,
    /// NATS was away.
    Reconnected,
    /// The stream has another epoch than the one that is read.
    OtherStream,
    /// The server that was read from has removed what the leader still has.
    Behind,
    /// What was read has waited, and the server that was read from is not the leader.
    Elsewhere,
    /// The last message that was read is not there any more.
    Lost,
    /// This failed.
    Failed(String),
}

impl IntakeTrouble {
    /// For the metric.
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

    /// For people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Missed => "a message was missed; reading it again".to_owned(),
            Self::Silent => "nothing arrived; the consumer is created again".to_owned(),
            Self::Reconnected => "NATS was away; the consumer is created again".to_owned(),
            Self::OtherStream => "the stream has a new epoch; starting over".to_owned(),
            Self::Behind => {
                "a server has removed what the leader of the stream still keeps; reading elsewhere".to_owned()
            }
            Self::Elsewhere => "what has waited is read from the leader of the stream".to_owned(),
            Self::Lost => "the last message that was read is not in the stream; it may have lost its end".to_owned(),
            Self::Failed(reason) => reason.clone(),
        }
    }
}

impl From<PullError> for IntakeTrouble {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Missed => Self::Missed,
            PullError::Silent => Self::Silent,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The pause before another consumer is made, when this many were made in vain: none after the first, then doubling.
pub(super) fn backoff(attempts: u32) -> Duration {
    Duration::from_millis(BACKOFF.after(attempts.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_consumer_is_created_at_once_and_further_ones_after_pauses() {
        let millis: Vec<u128> = (0..9).map(|attempts| backoff(attempts).as_millis()).collect();
        assert_eq!(millis, [0, 0, 50, 100, 200, 400, 800, 1600, 2000]);
    }
}
