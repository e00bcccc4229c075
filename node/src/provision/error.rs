//! Why JetStream cannot be set up as configured, and what to do about it.

use super::is_off;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use thiserror::Error;

/// Why JetStream cannot be set up as configured.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// The server has no JetStream for this account.
    #[error("the NATS server has no JetStream for this account: start it with -js, or enable it for the account")]
    JetStreamOff,
    /// A stream of this name exists that another program created.
    #[error(
        "the stream {stream} exists but was not made by tickwire; set stream.name to another name, or delete the stream"
    )]
    NotOurs {
        /// Its name.
        stream: String,
    },
    /// The partition count differs from that of the running stream.
    #[error(
        "the stream {stream} has {running} partitions, but stream.partitions is {configured}; the count is fixed once \
         events are stored: set stream.partitions = {running}, or stop all nodes and delete the stream, with all that it holds"
    )]
    Partitions {
        /// The stream's name.
        stream: String,
        /// The running count.
        running: u32,
        /// The configured count.
        configured: u32,
    },
    /// The storage of the stream differs from the configured one.
    #[error("the stream {stream} is stored in {running}, which cannot be changed: set stream.storage = \"{running}\"")]
    Storage {
        /// Its name.
        stream: String,
        /// Where it is stored.
        running: String,
    },
    /// There is not enough room for the configured limits.
    #[error(
        "no room for the stream {stream}: {reason}; lower stream.max_bytes, or give JetStream more (max_file_store, \
         max_memory_store, or the account's limits)"
    )]
    NoRoom {
        /// The stream.
        stream: String,
        /// The server's text.
        reason: String,
    },
    /// There are fewer servers than configured copies.
    #[error("the stream {stream} cannot have that many replicas: {reason}; lower stream.replicas, or add NATS servers")]
    Replicas {
        /// The stream.
        stream: String,
        /// The server's text.
        reason: String,
    },
    /// Another stream takes the same subjects.
    #[error("the stream {stream} cannot take its subjects: {reason}; another stream in this account takes them")]
    Overlap {
        /// The stream.
        stream: String,
        /// The server's text.
        reason: String,
    },
    /// The server refuses for another reason.
    #[error("the NATS server refuses the stream {stream}: {reason}")]
    Refused {
        /// The stream.
        stream: String,
        /// The server's text.
        reason: String,
    },
    /// NATS was away for too long while a gateway waited for the stream.
    #[error(
        "NATS does not say whether the stream {stream} exists: {reason}; is the NATS cluster complete, and can this \
         node reach it?"
    )]
    NoAnswer {
        /// The stream.
        stream: String,
        /// The last failure.
        reason: String,
    },
    /// The deadline has passed.
    #[error("{stream} could not be set up in time: {reason}; is the NATS cluster complete?")]
    NotSettled {
        /// The stream.
        stream: String,
        /// The last failure.
        reason: String,
    },
}

impl ProvisionError {
    /// The error of a refused request, or `None` when the next attempt may succeed.
    pub(super) fn of_refusal(stream: &str, error: &CreateStreamError) -> Option<Self> {
        let refusal = match error.kind() {
            CreateStreamErrorKind::JetStream(refusal) => refusal,
            CreateStreamErrorKind::JetStreamUnavailable => return Some(Self::JetStreamOff),
            _ => return None,
        };
        let (stream, reason, code) = (stream.to_owned(), refusal.to_string(), refusal.error_code());
        match code {
            // Another node was faster, or the servers have not found each other yet.
            ErrorCode::STREAM_NAME_EXIST
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::CLUSTER_NO_PEERS
            | ErrorCode::STREAM_OFFLINE => None,
            code if is_off(code) => Some(Self::JetStreamOff),
            ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => Some(Self::NoRoom { stream, reason }),
            ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => Some(Self::Replicas { stream, reason }),
            ErrorCode::STREAM_SUBJECT_OVERLAP => Some(Self::Overlap { stream, reason }),
            _ => Some(Self::Refused { stream, reason }),
        }
    }
}
