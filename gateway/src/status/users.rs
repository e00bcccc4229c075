//! The sessions of a user on this gateway: what the registry knows, and the counts of the user's shard.
//!
//! A shard answers between its other messages. A few questions are asked at the same time, so that no number of requests
//! keeps shards from delivering, and who waits for too long gets an answer without counts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{NodeId, UserId};
use tickwire_core::protocol::Encoding;
use tickwire_node::clock::millis;
use tickwire_node::users::{SessionList, UserAction, UserAnswer, UsersHere};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::byte_queue::ByteSender;
use crate::messages::{SessionId, ToShard};
use crate::new_session::shard_of;
use crate::registry::{NamedSubscriptions, RegisteredSession, SessionRegistry};
use crate::shard::inquiry::{SessionCounts, ShardQuestion, UserCounts};

/// How long an answer of a shard may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many questions wait for answers at the same time.
const QUESTIONS: usize = 4;

/// Reads and closes the sessions of users.
#[derive(Debug)]
pub(crate) struct Users {
    gateway: NodeId,
    registry: Arc<SessionRegistry>,
    shards: Vec<ByteSender<ToShard>>,
    turns: Semaphore,
}

/// The status of a user on this gateway.
#[derive(Debug, Serialize)]
pub(crate) struct UserStatus {
    user: UserId,
    gateway: NodeId,
    /// `None` without sessions, without a limit, or if the shard did not answer.
    rate: Option<UserRate>,
    sessions: Vec<SessionStatus>,
}

/// How many events a second are sent to the user.
#[derive(Debug, PartialEq, Serialize)]
struct UserRate {
    current: u32,
    maximal: u32,
    utilisation: f64,
}

/// The status of a session.
#[derive(Debug, Serialize)]
struct SessionStatus {
    session: String,
    address: IpAddr,
    opened: String,
    encoding: &'static str,
    subscriptions: NamedSubscriptions,
    /// `None` if the shard did not answer, or the session has ended meanwhile.
    counts: Option<CountsStatus>,
}

/// The counts of a session since it began.
#[derive(Debug, Serialize)]
struct CountsStatus {
    welcomed: bool,
    resumed: bool,
    events: u64,
    bytes: u64,
    waiting: usize,
    notices: u64,
    /// By reason.
    dropped: BTreeMap<&'static str, u64>,
    conflated: u64,
    delayed: u64,
    gaps: u64,
}

impl Users {
    pub(crate) fn new(gateway: NodeId, registry: Arc<SessionRegistry>, shards: Vec<ByteSender<ToShard>>) -> Self {
        Self { gateway, registry, shards, turns: Semaphore::new(QUESTIONS) }
    }

    /// The status of a user. A user without sessions here is like one that does not exist.
    pub(crate) async fn status(&self, user: &UserId) -> UserStatus {
        let sessions = self.registry.sessions_of(user);
        let counts = match sessions.is_empty() {
            true => None,
            false => self.counts(user).await,
        };
        let counts = counts.unwrap_or_default();
        let shown =
            |(id, session): (SessionId, RegisteredSession)| self.shown(id, session, counts.sessions.get(&id.number));
        UserStatus {
            user: user.clone(),
            gateway: self.gateway.clone(),
            rate: rate(&counts),
            sessions: sessions.into_iter().map(shown).collect(),
        }
    }

    /// The counts of the sessions of a user; `None` if the shard did not answer in time.
    pub(crate) async fn counts(&self, user: &UserId) -> Option<UserCounts> {
        self.ask(user, ShardQuestion::Counts).await
    }

    /// Closes all sessions of a user, and returns how many; `None` if the shard did not answer in time.
    pub(crate) async fn close(&self, user: &UserId) -> Option<usize> {
        self.ask(user, ShardQuestion::Close).await
    }

    /// How many bytes wait for the shard for which the most wait.
    pub(crate) fn fullest_queue(&self) -> usize {
        self.shards.iter().map(ByteSender::waiting).max().unwrap_or_default()
    }

    async fn ask<A>(
        &self,
        user: &UserId,
        question: impl FnOnce(UserId, oneshot::Sender<A>) -> ShardQuestion,
    ) -> Option<A> {
        let shard = self.shards.get(shard_of(user, self.shards.len()))?;
        let (sender, answer) = oneshot::channel();
        let asked = async {
            let _turn = self.turns.acquire().await.ok()?;
            shard.send(ToShard::Question(question(user.clone(), sender)));
            answer.await.ok()
        };
        timeout(DEADLINE, asked).await.ok().flatten()
    }

    fn shown(&self, id: SessionId, session: RegisteredSession, counts: Option<&SessionCounts>) -> SessionStatus {
        let RegisteredSession { address, opened, encoding, subscriptions } = session;
        let opened = Timestamp(i64::try_from(millis(opened)).unwrap_or(i64::MAX));
        SessionStatus {
            session: format!("{}-{}-{}", self.gateway, id.shard, id.number),
            address,
            opened: opened.to_string(),
            encoding: match encoding {
                Encoding::Json => "json",
                Encoding::MsgPack => "msgpack",
            },
            subscriptions,
            counts: counts.map(CountsStatus::of),
        }
    }
}

impl UsersHere for Users {
    const HAS_SESSIONS: bool = true;

    async fn answer(&self, user: &UserId, action: UserAction) -> Option<UserAnswer> {
        match action {
            UserAction::Show => {
                let UserStatus { rate, sessions, .. } = self.status(user).await;
                let shown = |session: SessionStatus| serde_json::to_value(session).unwrap_or(Value::Null);
                Some(UserAnswer::Sessions(SessionList::new(json!(rate), sessions.into_iter().map(shown))))
            }
            UserAction::Close => Some(UserAnswer::Closed(self.close(user).await? as u64)),
        }
    }
}

fn rate(counts: &UserCounts) -> Option<UserRate> {
    let (current, maximal) = counts.rate.zip(counts.max_rate)?;
    Some(UserRate { current, maximal, utilisation: f64::from(current) / f64::from(maximal.max(1)) })
}

impl CountsStatus {
    fn of(counts: &SessionCounts) -> Self {
        let SessionCounts { is_open, is_resumed, sent, waiting, missed, notices } = *counts;
        let dropped = [
            ("slow_consumer", missed.slow_consumer),
            ("throttled", missed.throttled),
            ("quota", missed.quota),
            ("expired", missed.expired),
        ];
        Self {
            welcomed: is_open,
            resumed: is_resumed,
            events: sent.events,
            bytes: sent.bytes,
            waiting,
            notices,
            dropped: dropped.into(),
            conflated: missed.conflated,
            delayed: missed.delayed,
            gaps: missed.gaps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::byte_queue;
    use crate::record::{Missed, Sent};

    fn ann() -> UserId {
        UserId::new("ann").unwrap()
    }

    /// Users of a gateway with one shard, in which ann has one session.
    fn users() -> (Users, byte_queue::ByteReceiver<ToShard>) {
        let (shard, inbox) = byte_queue::channel();
        let registry = SessionRegistry::new(1);
        let session = RegisteredSession {
            address: [10, 0, 0, 1].into(),
            opened: Duration::from_millis(1_757_514_600_120),
            encoding: Encoding::MsgPack,
            subscriptions: NamedSubscriptions::new(),
        };
        registry.open(&ann(), SessionId { shard: 0, number: 7 }, session);
        (Users::new(NodeId::new("gw-1").unwrap(), Arc::new(registry), vec![shard]), inbox)
    }

    #[tokio::test]
    async fn status_has_what_registry_and_shard_know() {
        let (users, mut inbox) = users();
        let user = ann();
        let answer = async {
            let mut messages = Vec::new();
            inbox.take(&mut messages, 1).await;
            let Some(ToShard::Question(ShardQuestion::Counts(user, answer))) = messages.pop() else {
                panic!("no question")
            };
            assert_eq!(user, ann());
            let counts = SessionCounts {
                is_open: true,
                is_resumed: false,
                sent: Sent { events: 5, bytes: 900 },
                waiting: 2,
                missed: Missed { throttled: 3, ..Missed::default() },
                notices: 1,
            };
            let sessions = BTreeMap::from([(7, counts)]);
            answer.send(UserCounts { rate: Some(25), max_rate: Some(100), sessions }).unwrap();
        };
        let (status, ()) = tokio::join!(users.status(&user), answer);
        let expected = json!({
            "user": "ann",
            "gateway": "gw-1",
            "rate": { "current": 25, "maximal": 100, "utilisation": 0.25 },
            "sessions": [{
                "session": "gw-1-0-7",
                "address": "10.0.0.1",
                "opened": "2025-09-10T14:30:00.120Z",
                "encoding": "msgpack",
                "subscriptions": {},
                "counts": {
                    "welcomed": true, "resumed": false, "events": 5, "bytes": 900, "waiting": 2, "notices": 1,
                    "dropped": { "slow_consumer": 0, "throttled": 3, "quota": 0, "expired": 0 },
                    "conflated": 0, "delayed": 0, "gaps": 0,
                },
            }],
        });
        assert_eq!(serde_json::to_value(status).unwrap(), expected);
    }

    #[tokio::test]
    async fn ended_shard_leaves_the_counts_out() {
        let (users, inbox) = users();
        drop(inbox);
        let status = serde_json::to_value(users.status(&ann()).await).unwrap();
        assert_eq!((&status["rate"], &status["sessions"][0]["counts"]), (&json!(null), &json!(null)));
        assert_eq!(users.close(&ann()).await, None);
        let nobody = serde_json::to_value(users.status(&UserId::new("bob").unwrap()).await).unwrap();
        assert_eq!(nobody["sessions"], json!([]));
    }
}
