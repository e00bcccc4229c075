//! The stream of events as it is now: its epoch, its first and last sequence; and how a new epoch begins.
//! [`look`] decides whether it still has the messages that were read.

mod look;

pub(crate) use look::Reported;
pub use look::{Expected, StreamLook, Witness};

use crate::checkpoint::Mark;
use async_nats::jetstream::stream::Info;
use std::fmt::Display;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::context::StreamEnd;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, EpochId, Seq};
use tickwire_node::epoch;
use tickwire_node::nats::Nats;
use tickwire_node::storage::copies_of;
use tickwire_node::stored::{self, MessageSelector};
use tokio::time::timeout;

/// How long one request may take.
pub(crate) const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// The stream at the time of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its epoch.
    pub epoch_id: EpochId,
    /// The last sequence of the epoch before.
    pub before: Seq,
    /// The sequence of the oldest message that is kept; one past the last if there is none.
    pub first: Seq,
    /// The sequence of the last message, even if it is not kept.
    pub last: Seq,
    /// How many servers keep it.
    pub replicas: usize,
}

/// The stream, and the server that answered: the one that leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Its state, as that server has it.
    pub facts: StreamFacts,
    /// The server's name; `None` where servers form no cluster.
    pub leader: Option<String>,
}

/// The stream, with the times of its oldest and its last message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExtent {
    pub(crate) facts: StreamFacts,
    /// When the oldest message was stored; `None` if there is no message.
    pub(crate) oldest: Option<Timestamp>,
    /// The most that anybody can know of it.
    pub(crate) end: StreamEnd,
}

/// The server that leads the stream, and answers requests about it.
pub trait Leader {
    /// The state of the stream.
    fn facts(&self) -> impl Future<Output = Result<StreamFacts, StreamError>> + Send;

    /// One message of it, if there is one.
    fn message(
        &self,
        wanted: MessageSelector<'static>,
    ) -> impl Future<Output = Result<Option<Mark>, StreamError>> + Send;
}

/// The leader of a stream, over NATS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLeader<'s> {
    pub(crate) nats: &'s Nats,
    pub(crate) stream: &'s str,
}

impl Leader for StreamLeader<'_> {
    async fn facts(&self) -> Result<StreamFacts, StreamError> {
        Ok(StreamFacts::of(&info(self.nats, self.stream).await?))
    }

    async fn message(&self, wanted: MessageSelector<'static>) -> Result<Option<Mark>, StreamError> {
        let found = in_time(self.stream, stored::get(&self.nats.jetstream, self.stream, wanted)).await?;
        Ok(found.map(|found| Mark { seq: found.seq, stored: found.stored }))
    }
}

/// The stream could not be read.
#[derive(Debug, Error)]
#[error("the stream {stream} cannot be read: {reason}")]
pub struct StreamError {
    stream: String,
    reason: String,
}

impl StreamError {
    /// It took too long.
    pub(crate) fn late(stream: &str, deadline: Duration) -> Self {
        Self { stream: stream.to_owned(), reason: format!("no answer within {deadline:?}") }
    }
}

impl StreamState {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        Ok(Self { facts: StreamFacts::of(&info), leader: info.cluster.and_then(|cluster| cluster.leader) })
    }
}

impl StreamExtent {
    /// Asks the server.
    pub(crate) async fn look(nats: &Nats, stream: &str) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        let facts = StreamFacts::of(&info);
        // Without messages these times mean nothing.
        let has_messages = info.state.messages > 0;
        let time = |nanos: i128| i64::try_from(nanos.div_euclid(1_000_000)).ok().filter(|_| has_messages);
        let oldest = time(info.state.first_timestamp.unix_timestamp_nanos()).map(Timestamp);
        let stored = time(info.state.last_timestamp.unix_timestamp_nanos()).map_or(Timestamp(i64::MAX), Timestamp);
        Ok(Self { facts, oldest, end: StreamEnd { epoch_id: facts.epoch_id, last: facts.last, stored } })
    }
}

impl StreamFacts {
    /// Begins a new epoch after `before`, unless one later than `known` has begun. Its id is the next one: no clock
    /// decides it, so it grows whatever the clocks of servers and nodes say, and routers that begin it at the
    /// same time begin the same one.
    pub(crate) async fn begin_epoch(
        nats: &Nats,
        stream: &str,
        known: EpochId,
        before: Seq,
    ) -> Result<Self, StreamError> {
        let info = info(nats, stream).await?;
        let facts = Self::of(&info);
        if facts.epoch_id > known {
            return Ok(facts);
        }
        let epoch_id = EpochId(known.0.saturating_add(1));
        let mut config = info.config;
        config.metadata.insert(epoch::METADATA.to_owned(), epoch::noted(Epoch { epoch_id, before }));
        let updated = in_time(stream, nats.jetstream.update_stream(config)).await?;
        Ok(Self::of(&updated))
    }

    fn of(info: &Info) -> Self {
        let Epoch { epoch_id, before } = epoch::of(info);
        Self {
            epoch_id,
            before,
            first: Seq(info.state.first_sequence),
            last: Seq(info.state.last_sequence),
            replicas: info.config.num_replicas,
        }
    }

    /// Its epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch { epoch_id: self.epoch_id, before: self.before }
    }

    /// The stream has removed everything up to here, of any epoch.
    pub(crate) fn removed(&self) -> Seq {
        Seq(self.first.0.saturating_sub(1))
    }

    /// The sequence before the oldest kept message of this epoch: nothing can be read at or below it.
    pub(crate) fn least_checkpoint(&self) -> Seq {
        self.removed().max(self.before)
    }
}

async fn info(nats: &Nats, stream: &str) -> Result<Info, StreamError> {
    let found = in_time(stream, nats.jetstream.get_stream(stream)).await?;
    let info = found.cached_info();
    // Without a leader any server answers, also one that lacks the end of the stream.
    match copies_of(info) {
        Some(_) => Ok(info.clone()),
        None => Err(StreamError { stream: stream.to_owned(), reason: "it has no leader now".to_owned() }),
    }
}

async fn in_time<T, E: Display>(stream: &str, response: impl Future<Output = Result<T, E>>) -> Result<T, StreamError> {
    let answer = timeout(LOOK_DEADLINE, response).await.map_err(|_| StreamError::late(stream, LOOK_DEADLINE))?;
    answer.map_err(|error| StreamError { stream: stream.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream;
    use tickwire_node::config::{Config, LoadOptions};
    use tickwire_testkit::{NatsServer, eventually};

    #[tokio::test]
    async fn server_that_knows_no_leader_of_the_stream_is_not_believed() {
        let deadline = Duration::from_secs(60);
        let mut servers = NatsServer::start_cluster(3);
        let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
        let sets = vec![("nats.url".to_owned(), url)];
        let config = Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap();
        let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
        let config = jetstream::stream::Config { name: "E".to_owned(), num_replicas: 3, ..Default::default() };
        eventually("the cluster makes the stream", deadline, async || {
            nats.jetstream.create_stream(config.clone()).await.ok().map(drop)
        })
        .await;
        let state = eventually("the leader answers", deadline, async || StreamState::look(&nats, "E").await.ok()).await;

        // The third server forms no majority, and so elects no leader.
        let leader = (0..servers.len()).find(|number| state.leader == Some(format!("n-{number}"))).unwrap();
        for number in [leader, (leader + 1) % 3] {
            servers[number].kill();
        }
        eventually("the last server answers, and is not believed", deadline, async || {
            let refused = StreamState::look(&nats, "E").await.err()?.to_string();
            refused.ends_with("it has no leader now").then_some(())
        })
        .await;
    }
}
