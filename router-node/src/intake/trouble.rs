//! What makes an intake give up its consumer, and how long it waits before it makes another. Pure.

use crate::reader::pull::PullError;
use std::time::Duration;

/// The longest pause before another consumer is made.
const BACKOFF_MOST: Duration = Duration::from_secs(2);

/// Why a consumer is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    Hole,
    Silent,
    Reconnected,
    OtherStream,
    /// The server that was read from has removed what the leader still has.
    Behind,
    /// What was read has waited, and the server that was read from is not the leader.
    Elsewhere,
    /// The last message that was read is not there any more.
    Lost,
    Failed(String),
    /// The engine wants no more.
    Stopped,
}

impl Trouble {
    /// For the metric.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Silent => "silence",
            Self::Reconnected => "reconnect",
            Self::OtherStream => "other_stream",
            Self::Behind => "behind",
            Self::Elsewhere => "elsewhere",
            Self::Lost => "lost",
            Self::Failed(_) => "error",
            Self::Stopped => "stopped",
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Hole => "a message was missed; reading it again".to_owned(),
            Self::Silent => "nothing came; the consumer is made anew".to_owned(),
            Self::Reconnected => "NATS was away; the consumer is made anew".to_owned(),
            Self::OtherStream => "the stream was made anew; starting over".to_owned(),
            Self::Behind => {
                "a server has removed what the leader of the stream still keeps; reading elsewhere".to_owned()
            }
            Self::Elsewhere => "what has waited is read from the leader of the stream".to_owned(),
            Self::Lost => "the stream lacks the last message that was read of it; what it holds is in doubt".to_owned(),
            Self::Failed(reason) => reason.clone(),
            Self::Stopped => "stopped".to_owned(),
        }
    }
}

impl From<PullError> for Trouble {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Hole => Self::Hole,
            PullError::Silent => Self::Silent,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The pause before another consumer is made, when this many were made in vain: none after the first, then doubling.
pub(super) fn backoff(attempts: u32) -> Duration {
    match attempts {
        0 | 1 => Duration::ZERO,
        many => (Duration::from_millis(50) * 2_u32.pow((many - 2).min(8))).min(BACKOFF_MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let millis: Vec<u128> = (0..9).map(|attempts| backoff(attempts).as_millis()).collect();
        assert_eq!(millis, [0, 0, 50, 100, 200, 400, 800, 1600, 2000]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MOST);
    }
}
