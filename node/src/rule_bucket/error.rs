//! Why the rules were not read or written, and what to do about it.

use crate::bucket::BucketError;
use crate::names::RULES_BUCKET;
use std::fmt::Display;
use thiserror::Error;

/// Why the rules were not read or written.
#[derive(Debug, Error)]
pub enum RuleBucketError {
    /// The bucket does not exist.
    #[error("the bucket {RULES_BUCKET} does not exist: a router creates it within seconds, if one runs")]
    Missing,
    /// The key has another revision than expected: somebody has written or deleted the rule.
    #[error(
        "the rule {id} does not have the expected revision: it exists already, or somebody else has changed it; read it \
         with `tickwire rules get {id}`"
    )]
    OtherRevision {
        /// The id of the rule.
        id: String,
    },
    /// It holds more than routers keep of it.
    #[error(
        "the bucket {RULES_BUCKET} holds more than {most} bytes, so it is not read: delete what tickwire has not written"
    )]
    TooLarge {
        /// The limit.
        most: u64,
    },
    /// NATS did not answer, or refused.
    #[error("the bucket {RULES_BUCKET} cannot be reached: {reason}; `tickwire doctor` checks it")]
    Unavailable {
        /// The cause.
        reason: String,
    },
}

impl RuleBucketError {
    pub(super) fn unavailable(reason: impl Display) -> Self {
        Self::Unavailable { reason: reason.to_string() }
    }
}

impl From<BucketError> for RuleBucketError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Missing { .. } => Self::Missing,
            BucketError::OtherRevision { key, .. } => Self::OtherRevision { id: key },
            BucketError::TooLarge { most, .. } => Self::TooLarge { most },
            BucketError::Unavailable { reason, .. } => Self::Unavailable { reason },
        }
    }
}
