//! What the stream of events is like at this moment: which life of it, and where it begins and ends; and how another
//! life of it begins.

use async_nats::jetstream::stream::Info;
use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tickwire_core::ids::{Incarnation, Life, Seq};
use tickwire_node::life;
use tickwire_node::nats::Nats;
use tokio::time::timeout;

/// How long one look may take.
pub(crate) const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// The stream at the time of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its life.
    pub(crate) incarnation: Incarnation,
    /// The last sequence of the life before.
    before: Seq,
    /// The sequence of the oldest message that is kept; one past the last if there is none.
    first: Seq,
    /// The sequence of the last message, kept or not.
    pub(crate) last: Seq,
    /// How many servers keep it.
    pub(crate) replicas: usize,
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
        Ok(Self::of(&info(nats, stream).await?))
    }

    /// Begins another life at the stream's end, unless one later than `known` has begun.
    pub(crate) async fn begin_life(nats: &Nats, stream: &str, known: Incarnation) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        let facts = Self::of(&info);
        if facts.incarnation > known {
            return Ok(facts);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let incarnation = Incarnation(u64::try_from(now).unwrap_or_default().max(known.0 + 1));
        let mut config = info.config;
        config.metadata.insert(life::METADATA.to_owned(), life::noted(Life { incarnation, before: facts.last }));
        let updated = in_time(stream, nats.jetstream.update_stream(config)).await?;
        Ok(Self::of(&updated))
    }

    fn of(info: &Info) -> Self {
        let Life { incarnation, before } = life::of(info);
        Self {
            incarnation,
            before,
            first: Seq(info.state.first_sequence),
            last: Seq(info.state.last_sequence),
            replicas: info.config.num_replicas,
        }
    }

    /// Its life.
    pub(crate) fn life(&self) -> Life {
        Life { incarnation: self.incarnation, before: self.before }
    }

    /// The sequence before the oldest message that is kept of this life: a floor below which nothing can be read.
    pub(crate) fn least_floor(&self) -> Seq {
        Seq(self.first.0.saturating_sub(1)).max(self.before)
    }
}

async fn info(nats: &Nats, stream: &str) -> Result<Info, StreamError> {
    let found = in_time(stream, nats.jetstream.get_stream(stream)).await?;
    Ok(found.cached_info().clone())
}

async fn in_time<T, E: Display>(stream: &str, asked: impl Future<Output = Result<T, E>>) -> Result<T, StreamError> {
    let failed = |reason: String| StreamError { stream: stream.to_owned(), reason };
    let answer = timeout(LOOK_DEADLINE, asked).await;
    let answer = answer.map_err(|_| failed(format!("no answer within {LOOK_DEADLINE:?}")))?;
    answer.map_err(|error| failed(error.to_string()))
}
