//! The errors of a client, and whether a retry could help.

use std::time::Duration;

use tickwire_core::protocol::BadSubscriptionName;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, Reconnect};

use crate::certificate::CertificateProblem;

/// The field of the configuration with the trusted authorities.
pub(crate) const TLS_CA: &str = "tls_ca";

/// Why a connection or a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration is invalid.
    #[error("{field}: {problem}")]
    BadConfig {
        /// The field of [`ClientConfig`](crate::ClientConfig).
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The text is not a valid name of a subscription.
    #[error(transparent)]
    BadName(#[from] BadSubscriptionName),
    /// The connection failed.
    #[error("cannot connect to {url}: {problem}")]
    Unreachable {
        /// The gateway's address.
        url: String,
        /// The cause.
        problem: String,
    },
    /// The server's certificate was refused, so that the connection is not safe. The first connection of a client ends
    /// with this error. A client that was connected before retries, because a certificate may be renewed.
    #[error("cannot trust {url}: {problem}")]
    Certificate {
        /// The gateway's address.
        url: String,
        /// What is wrong with the certificate.
        problem: CertificateProblem,
    },
    /// The server answered, but not with a WebSocket.
    #[error("{url} refused the connection with HTTP status {status}: {text}")]
    Rejected {
        /// The gateway's address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer's text.
        text: String,
        /// The server's `Retry-After`, at most a minute.
        retry_after: Option<Duration>,
    },
    /// The server closed the connection before it was ready.
    #[error("{url} closed the connection before it was ready: {reason} (code {})", code_text(*code))]
    Closed {
        /// The gateway's address.
        url: String,
        /// The close code, if the server sent one.
        code: Option<u16>,
        /// The server's reason.
        reason: String,
    },
    /// The server accepted the connection, but sent no `welcome` in time.
    #[error("connected to {url}, but no `welcome` within {after:?}; last notice of the gateway: {notice}")]
    NotWelcomed {
        /// The gateway's address.
        url: String,
        /// The time limit.
        after: Duration,
        /// The last notice received before.
        notice: String,
    },
    /// The token provider gave no token.
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
    /// No answer was received in time. A requested change may have been made or not.
    #[error("no answer to {what} within {after:?}")]
    TimedOut {
        /// The request.
        what: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The server sent an answer of the wrong type.
    #[error("the server sent the wrong type of answer to {what}")]
    BadAnswer {
        /// The request.
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
            Self::BadConfig { .. }
            | Self::BadName(_)
            | Self::BadAnswer { .. }
            | Self::Certificate { .. }
            | Self::Ended => Reconnect::No,
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

    /// The same for a client that was connected before: certificates, and the file with the authorities, may be in the
    /// middle of a renewal.
    pub(crate) fn reconnect_again(&self) -> Reconnect {
        match self {
            Self::Certificate { .. } | Self::BadConfig { field: TLS_CA, .. } => Reconnect::Yes,
            other => other.reconnect(),
        }
    }

    /// The server's close code, if it sent one.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Closed { code, .. } => *code,
            _ => None,
        }
    }

    /// The pause that the server asked for, if any.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Whether to reconnect after a close. Unknown codes are from proxies and allow a retry.
pub(crate) fn after_close(code: Option<u16>) -> Reconnect {
    code.and_then(CloseCode::from_code).map_or(Reconnect::Yes, CloseCode::reconnect)
}

fn code_text(code: Option<u16>) -> String {
    code.map_or_else(|| "none".to_owned(), |code| code.to_string())
}
