//! Why there is no usable connection to NATS, and what to do about it.

use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Why there is no usable connection to NATS.
#[derive(Debug, Error)]
pub enum NatsError {
    /// The addresses cannot be read.
    #[error("nats.url = {url}: {reason}")]
    Address {
        /// What is configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No server answered before the deadline.
    #[error(
        "cannot reach NATS at {url} within {waited:?}: {reason}; if no \
         nats-server runs there, start one, or set nats.url (TICKWIRE_NATS__URL) to where it is; if one does, it hangs or \
         is shut off by the network"
    )]
    Unreachable {
        /// What is configured.
        url: String,
        /// For how long it was to be tried.
        waited: Duration,
        /// The last failure.
        reason: String,
    },
    /// The server does not know us.
    #[error(
        "NATS at {url} refused the login: {reason}; check nats.user and nats.password, nats.token or nats.credentials"
    )]
    Login {
        /// What is configured.
        url: String,
        /// What the server said.
        reason: String,
    },
    /// The certificates cannot be used.
    #[error("no secure connection to NATS at {url}: {reason}; check nats.tls_ca, nats.tls_cert and nats.tls_key")]
    Tls {
        /// What is configured.
        url: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The credentials file cannot be used.
    #[error("nats.credentials = {}: {source}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The server lacks what we stand on.
    #[error("the NATS server is version {version}; tickwire needs {major}.{minor} or newer")]
    OldServer {
        /// What runs there.
        version: String,
        /// The least major version.
        major: i64,
        /// The least minor version of it.
        minor: i64,
    },
    /// The server takes smaller messages than nodes send each other.
    #[error(
        "the NATS server takes messages of {most} bytes at most; tickwire needs {least}: set max_payload to that or more \
         in the server's configuration (its default is 1MB)"
    )]
    SmallPayload {
        /// What it takes.
        most: usize,
        /// What it has to take.
        least: usize,
    },
    /// The server denied a publish or subscribe.
    #[error("NATS refused: {refused}; grant this node's user what its role publishes and subscribes to")]
    Refused {
        /// What the server said, with semicolons between.
        refused: String,
    },
    /// The server did not return a message that we sent to ourselves.
    #[error("NATS does not answer: {reason}")]
    NoAnswer {
        /// What went wrong.
        reason: String,
    },
}
