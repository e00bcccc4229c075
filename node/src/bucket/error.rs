//! Why a bucket was not read or written, and what to do about it.

use std::fmt::Display;
use thiserror::Error;

/// Why a bucket was not read or written.
#[derive(Debug, Error)]
pub enum BucketError {
    /// The bucket does not exist.
    #[error("the bucket {bucket} does not exist: a router creates it within seconds, if one runs")]
    Missing {
        /// Its name.
        bucket: &'static str,
    },
    /// The key has another revision than expected: somebody has written or deleted it.
    #[error("the key {key} of the bucket {bucket} was changed by somebody else: read it again")]
    OtherRevision {
        /// The name of the bucket.
        bucket: &'static str,
        /// The key.
        key: String,
    },
    /// It holds more than tickwire keeps of it.
    #[error(
        "the bucket {bucket} holds more than {most} bytes, so it is not read: delete what tickwire has not written"
    )]
    TooLarge {
        /// The name of the bucket.
        bucket: &'static str,
        /// The limit.
        most: u64,
    },
    /// NATS did not answer, or refused.
    #[error("the bucket {bucket} cannot be reached: {reason}; `tickwire doctor` checks it")]
    Unavailable {
        /// The name of the bucket.
        bucket: &'static str,
        /// The cause.
        reason: String,
    },
}

impl BucketError {
    pub(crate) fn unavailable(bucket: &'static str, reason: impl Display) -> Self {
        Self::Unavailable { bucket, reason: reason.to_string() }
    }
}
