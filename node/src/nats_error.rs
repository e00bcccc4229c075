//! Why there is no usable connection to NATS, and what to do about it.

use std::time::Duration;
use thiserror::Error;

/// A connection was lost or replaced, so an answer that was on its way may never come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the connection to NATS was lost before the answer")]
pub struct ConnectionLost;

/// Why there is no usable connection to NATS.
#[derive(Debug, Error)]
pub enum NatsError {
    /// The addresses are not valid.
    #[error("nats.url = {url}: {reason}")]
    Address {
        /// The configured value.
        url: String,
        /// The error in it.
        reason: String,
    },
    /// No server answered before the deadline.
    #[error(
        "cannot reach NATS at {url} within {waited:?}: {reason}; if no nats-server runs there, start one, or set \
         nats.url (TICKWIRE_NATS__URL) to its address; if one runs, it hangs or the network blocks it"
    )]
    Unreachable {
        /// The configured addresses.
        url: String,
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        reason: String,
    },
    /// The server refused the login.
    #[error(
        "NATS at {url} refused the login {login}: {reason}; check nats.user and nats.password, nats.token or \
         nats.credentials, and their files, against the configuration of the server"
    )]
    Login {
        /// The configured addresses.
        url: String,
        /// How the configuration logs in: the user, and where the secret comes from.
        login: String,
        /// The server's text.
        reason: String,
    },
    /// The certificates cannot be used.
    #[error(
        "no secure connection to NATS at {url}: {reason}; check that nats.tls_ca has the authority of the server's \
         certificate, that nats.tls_cert and nats.tls_key are accepted by the server, and that none has expired"
    )]
    Tls {
        /// The configured addresses.
        url: String,
        /// The error in them.
        reason: String,
    },
    /// A file of the login cannot be used.
    #[error("{reason}")]
    Credentials {
        /// The key, the file, and what is wrong with it.
        reason: String,
    },
    /// The server is too old.
    #[error("the NATS server is version {version}; tickwire needs {major}.{minor} or newer")]
    OldServer {
        /// The server's version.
        version: String,
        /// The lowest major version.
        major: i64,
        /// The lowest minor version of that.
        minor: i64,
    },
    /// The server accepts only smaller messages than nodes exchange.
    #[error(
        "the NATS server accepts messages of {most} bytes at most; tickwire needs {least}: set max_payload to that or \
         more in the server's configuration (its default is 1MB)"
    )]
    SmallPayload {
        /// What the server accepts.
        most: usize,
        /// What it must accept.
        least: usize,
    },
    /// The login lacks a permission: the server denied a publish or subscribe.
    #[error(
        "NATS refused a request of this node, which logged in {user}: {denied}; grant the permission, as `tickwire doctor --role` says"
    )]
    Denied {
        /// How the node has logged in.
        user: String,
        /// The server's texts, separated by semicolons.
        denied: String,
    },
    /// The server refused something for another reason.
    #[error(
        "NATS refused a request of this node, which logged in {user}: {refused}; check the limits in the configuration \
         of the server"
    )]
    Refused {
        /// How the node has logged in.
        user: String,
        /// The server's texts, separated by semicolons.
        refused: String,
    },
    /// The server did not return a message that we sent to ourselves.
    #[error("NATS does not answer: {reason}")]
    NoAnswer {
        /// What went wrong.
        reason: String,
    },
}
