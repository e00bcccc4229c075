//! A consumer on the server that leads the stream.
//!
//! NATS puts a consumer of one copy on any of the servers that keep the stream, and takes no wish. So one is made again
//! until it is where it should be, a few times; each costs a few milliseconds.

use super::pull::{Pull, PullError, PullPlan};
use crate::stream::{StreamError, StreamView};
use thiserror::Error;
use tickwire_node::nats::Nats;

/// How many are made at most. Of three servers, each as likely as the others, one of 17 readings finds the right one in none
/// of them; there is another way to read.
const ATTEMPTS: u32 = 7;

/// Why there is none.
#[derive(Debug, Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Makes it, by the plan for each attempt; `None` if none came to be there.
pub(crate) async fn open<'p>(
    nats: &Nats,
    stream: &str,
    plan: impl Fn(u32) -> PullPlan<'p>,
) -> Result<Option<Pull>, PlaceError> {
    let StreamView { leader, .. } = StreamView::look(nats, stream).await?;
    for attempt in 0..ATTEMPTS {
        let pull = Pull::open(nats, plan(attempt)).await?;
        if pull.server == leader {
            return Ok(Some(pull));
        }
        pull.close().await;
    }
    Ok(None)
}
