//! Reads messages of one subject by one direct get: from a time on, or after a sequence. The server finds the subject by
//! its index, so this costs it nothing for the messages of other subjects.
//!
//! Any server that stores the stream answers. It may lag, so an answer that ends proves nothing: the caller knows from
//! the leader how far it must read.

use super::answer::{AnswerCheck, AnswerScope};
use super::direct::{DEADLINE, DirectError, LARGEST, exchange};
use crate::reader::StreamMessage;
use serde::Serialize;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How many messages one answer has at most.
const MOST_MESSAGES: u64 = 200;

/// How many bytes of messages the server sends for one request; it sends at least one message.
const MOST_BYTES: usize = 256 * 1024;

/// Where the reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubjectStart {
    /// At the first message that was stored at this time or later.
    Since(Timestamp),
    /// After this sequence.
    After(Seq),
}

/// A request to the server. It has a time or a sequence.
#[derive(Debug, Serialize)]
struct SubjectRequest<'s> {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    batch: u64,
    max_bytes: usize,
    next_by_subj: &'s str,
}

impl<'s> SubjectRequest<'s> {
    fn new(subject: &'s str, start: SubjectStart) -> Self {
        let (start_time, seq) = match start {
            SubjectStart::Since(time) => (Some(time.to_string()), None),
            SubjectStart::After(seq) => (None, Some(seq.0.saturating_add(1))),
        };
        Self { start_time, seq, batch: MOST_MESSAGES, max_bytes: MOST_BYTES, next_by_subj: subject }
    }
}

/// The next messages of a subject, in order; none if the server has no more.
pub(crate) async fn read(
    nats: &Nats,
    stream: &str,
    subject: &str,
    start: SubjectStart,
) -> Result<Vec<StreamMessage>, DirectError> {
    timeout(DEADLINE, request(nats, stream, subject, start)).await.map_err(|_| DirectError::Late)?
}

async fn request(
    nats: &Nats,
    stream: &str,
    subject: &str,
    start: SubjectStart,
) -> Result<Vec<StreamMessage>, DirectError> {
    let after = match start {
        SubjectStart::Since(_) => Seq(0),
        SubjectStart::After(seq) => seq,
    };
    // The messages of a subject have only some of the sequences, like those of a partition.
    let mut check = AnswerCheck::after(AnswerScope::Partition, after);
    // The last message may be a large one, and the end of the answer comes right after it.
    let room = 2 * MOST_BYTES + LARGEST;
    let held = exchange(nats, stream, &SubjectRequest::new(subject, start), room, &mut check).await?;
    Ok(held.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_format_of_nats() {
        let json = |start| serde_json::to_string(&SubjectRequest::new("ev.3.alert.ann", start)).unwrap();
        assert_eq!(
            json(SubjectStart::Since(Timestamp(1_757_514_600_120))),
            r#"{"start_time":"2025-09-10T14:30:00.120Z","batch":200,"max_bytes":262144,"next_by_subj":"ev.3.alert.ann"}"#
        );
        assert_eq!(
            json(SubjectStart::After(Seq(7))),
            r#"{"seq":8,"batch":200,"max_bytes":262144,"next_by_subj":"ev.3.alert.ann"}"#
        );
    }
}
