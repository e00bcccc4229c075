//! What can go wrong for the caller of a client, and whether trying again could help.

use std::time::Duration;

use tickwire_core::protocol::BadSubscriptionName;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, Reconnect};

/// Why a connection or a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration cannot be used.
    #[error("{field}: {problem}")]
    BadConfig {
        /// The field of [`ClientConfig`](crate::ClientConfig).
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The text cannot name a subscription.
    #[error(transparent)]
    BadName(#[from] BadSubscriptionName),
    /// No WebSocket connection came about.
    #[error("cannot connect to {url}: {problem}")]
    Unreachable {
        /// Where to.
        url: String,
        /// What failed.
        problem: String,
    },
    /// The server answered, but not with a WebSocket.
    #[error("{url} refused the connection with HTTP status {status}: {text}")]
    Rejected {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer's text.
        text: String,
        /// After how long the server asked to be tried again, at most a minute.
        retry_after: Option<Duration>,
    },
    /// The server closed the connection before it was ready.
    #[error("{url} closed the connection before it was ready: {reason} (code {})", code_text(*code))]
    Closed {
        /// Where.
        url: String,
        /// The close code, if one came.
        code: Option<u16>,
        /// The server's reason.
        reason: String,
    },
    /// The server has connected the client, and has not said `welcome` in time.
    #[error("connected to {url}, but not welcomed within {after:?}; the gateway says: {said}")]
    NotWelcomed {
        /// Where.
        url: String,
        /// The time that it had.
        after: Duration,
        /// The last notice that came meanwhile.
        said: String,
    },
    /// The token provider gave none.
    #[error("no token: {problem}")]
    NoToken {
        /// Why.
        problem: String,
    },
    /// The server refused, with the number of an [`ErrorCode`].
    #[error("refused with code {code}: {msg}")]
    Refused {
        /// The number.
        code: u16,
        /// What was wrong.
        msg: String,
    },
    /// No answer came in time. A change that was asked for may have been made or not.
    #[error("no answer to {what} within {after:?}")]
    TimedOut {
        /// What was asked for.
        what: &'static str,
        /// The time it had.
        after: Duration,
    },
    /// The server answered a request with something else than what such a request gets.
    #[error("the server's answer does not fit {what}")]
    BadAnswer {
        /// What was asked for.
        what: &'static str,
    },
    /// The client has ended: it was closed, its messages were dropped, or the server ended it for good.
    #[error("the client has ended")]
    Ended,
}

impl ClientError {
    /// Whether the same attempt could succeed later.
    #[must_use]
    pub fn reconnect(&self) -> Reconnect {
        match self {
            Self::BadConfig { .. } | Self::BadName(_) | Self::BadAnswer { .. } | Self::Ended => Reconnect::No,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::NotWelcomed { .. } | Self::NoToken { .. } => {
                Reconnect::Yes
            }
            Self::Rejected { status: 400 | 401 | 403, .. } => Reconnect::No,
            Self::Rejected { status: 429 | 503, .. } => Reconnect::After,
            Self::Rejected { .. } => Reconnect::Yes,
            Self::Closed { code, .. } => after_close(*code),
            Self::Refused { code, .. } => match ErrorCode::from_code(*code) {
                Some(ErrorCode::Unavailable) => Reconnect::After,
                _ => Reconnect::No,
            },
        }
    }

    /// The close code that the server gave, if this is about one.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Closed { code, .. } => *code,
            _ => None,
        }
    }

    /// The pause that the server asked for, if it did.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What to do after a close. Codes that are not tickwire's come from proxies on the way: they are worth another try.
pub(crate) fn after_close(code: Option<u16>) -> Reconnect {
    code.and_then(CloseCode::from_code).map_or(Reconnect::Yes, CloseCode::reconnect)
}

fn code_text(code: Option<u16>) -> String {
    code.map_or_else(|| "none".to_owned(), |code| code.to_string())
}
