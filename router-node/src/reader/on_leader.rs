//! A consumer on the server that leads the stream.
//!
//! NATS puts a consumer with one copy on any of the servers of the stream, and takes no preference. So consumers are
//! created until one is on the leader, a few times; each costs a few milliseconds.

use super::pull::{Pull, PullError, PullPlan};
use crate::stream::{StreamError, StreamState};
use thiserror::Error;
use tickwire_node::nats::Nats;

/// How many are created at most. With three equally likely servers, one of 17 readings gets none on the leader. It then
/// uses direct gets.
const ATTEMPTS: u32 = 7;

/// Why there is no consumer.
#[derive(Debug, Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Creates the consumer, with the plan for each attempt; `None` if none was on the leader.
pub(crate) async fn open<'p>(
    nats: &Nats,
    stream: &str,
    plan: impl Fn(u32) -> PullPlan<'p>,
) -> Result<Option<Pull>, PlaceError> {
    let StreamState { leader, .. } = StreamState::look(nats, stream).await?;
    for attempt in 0..ATTEMPTS {
        let pull = Pull::open(nats, plan(attempt)).await?;
        if pull.server == leader {
            return Ok(Some(pull));
        }
        pull.close().await;
    }
    Ok(None)
}
