//! What the stream of events is like at this moment: which life of it, and where it begins and ends.

use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::{Incarnation, Seq};
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How long one look may take.
pub(crate) const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// The stream at the time of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its life.
    pub(crate) incarnation: Incarnation,
    /// The sequence of the oldest message that is kept; one past the last if there is none.
    pub(crate) first: Seq,
    /// The sequence of the last message, kept or not.
    pub(crate) last: Seq,
}

/// The stream could not be looked at.
#[derive(Debug, Error)]
#[error("the stream {stream} cannot be looked at: {reason}")]
pub(crate) struct StreamError {
    stream: String,
    reason: String,
}

impl Facts {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        let failed = |reason: String| StreamError { stream: stream.to_owned(), reason };
        let asked = timeout(LOOK_DEADLINE, nats.jetstream.get_stream(stream)).await;
        let found = asked.map_err(|_| failed(format!("no answer within {LOOK_DEADLINE:?}")))?;
        let found = found.map_err(|error| failed(error.to_string()))?;
        let info = found.cached_info();
        let created = u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
        Ok(Self {
            incarnation: Incarnation(created),
            first: Seq(info.state.first_sequence),
            last: Seq(info.state.last_sequence),
        })
    }

    /// The sequence before the oldest message that is kept: a floor below which nothing can be read.
    pub(crate) fn least_floor(&self) -> Seq {
        Seq(self.first.0.saturating_sub(1))
    }
}
