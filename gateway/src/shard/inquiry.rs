//! Answers questions about a user: what was sent to the sessions of the user, and what they miss. It also closes them
//! for an operator.
//!
//! A question is a message like those of the edge, so it has its turn, and it costs the user's sessions, not all.
//! `status/users.rs` bounds how many questions wait at the same time.

use std::collections::BTreeMap;

use tickwire_core::ids::{Millis, UserId};
use tickwire_core::protocol::codes::CloseCode;
use tokio::sync::oneshot;

use super::Shard;
use crate::record::{Missed, Sent};
use crate::shard::session::{Session, SessionStage};
use crate::socket::Socket;

/// A question to the shard of a user.
#[derive(Debug)]
pub enum ShardQuestion {
    /// What are the counts of the user?
    Counts(UserId, oneshot::Sender<UserCounts>),
    /// Close all sessions of the user. How many were closed?
    Close(UserId, oneshot::Sender<usize>),
}

/// The counts of a user's sessions in this shard, which are all of the gateway.
#[derive(Debug, Default)]
pub struct UserCounts {
    /// How many events were sent to the user in the last second; `None` if the user has no limit.
    pub(crate) rate: Option<u32>,
    /// How many may be sent in a second; `None` if the user has no limit.
    pub(crate) max_rate: Option<u32>,
    /// By the number of the session.
    pub(crate) sessions: BTreeMap<u64, SessionCounts>,
}

/// The counts of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionCounts {
    /// Whether it was welcomed.
    pub(crate) is_open: bool,
    /// Whether it has resumed an earlier one.
    pub(crate) is_resumed: bool,
    /// What was sent to it.
    pub(crate) sent: Sent,
    /// How many events wait to be sent.
    pub(crate) waiting: usize,
    /// What it was notified that it misses.
    pub(crate) missed: Missed,
    /// How many notices it was sent.
    pub(crate) notices: u64,
}

impl<S: Socket> Shard<S> {
    /// Answers a question. Who asked may have stopped to wait.
    pub(crate) fn answer_question(&mut self, now: Millis, question: ShardQuestion) {
        match question {
            ShardQuestion::Counts(user, answer) => {
                answer.send(self.counts_of(now, &user)).ok();
            }
            ShardQuestion::Close(user, answer) => {
                answer.send(self.close_sessions_of(now, &user)).ok();
            }
        }
    }

    fn counts_of(&mut self, now: Millis, user: &UserId) -> UserCounts {
        let mut counts = UserCounts::default();
        for number in self.index.sessions_of(user) {
            let Some(session) = self.sessions.get(*number) else { continue };
            let account = &mut self.accounts[session.account];
            counts.rate = account.current_rate(now);
            counts.max_rate = (account.rate > 0).then_some(account.rate);
            if session.stage != SessionStage::Closing {
                counts.sessions.insert(*number, session_counts(session));
            }
        }
        counts
    }

    /// Sends the sessions of a user what still waits for them and their positions, and closes them. Returns how many.
    fn close_sessions_of(&mut self, now: Millis, user: &UserId) -> usize {
        let mut closed = 0;
        for number in self.index.sessions_of(user).to_vec() {
            let stage = self.sessions.get(number).map(|session| session.stage);
            if matches!(stage, None | Some(SessionStage::Closing)) {
                continue;
            }
            if stage == Some(SessionStage::Open) {
                self.flush(now, number);
                self.send_position(now, number);
            }
            self.close(now, number, CloseCode::ClosedByOperator);
            closed += 1;
        }
        closed
    }
}

fn session_counts<S>(session: &Session<S>) -> SessionCounts {
    let backfill = session.backfill.as_ref().map_or(0, |backfill| backfill.outbox.len());
    SessionCounts {
        is_open: session.stage == SessionStage::Open,
        is_resumed: session.record.resumed,
        sent: session.sent,
        waiting: session.outbox.len() + backfill,
        missed: session.record.missed(),
        notices: session.record.notices,
    }
}

#[cfg(test)]
mod tests {
    use tickwire_core::ids::UserId;

    use super::*;
    use crate::messages::SessionId;
    use crate::shard::fixture::ShardFixture;

    fn ann() -> UserId {
        UserId::new("ann").unwrap()
    }

    impl ShardFixture {
        fn counts(&mut self) -> UserCounts {
            let (answer, mut counts) = oneshot::channel();
            self.shard.answer_question(self.now, ShardQuestion::Counts(ann(), answer));
            counts.try_recv().unwrap()
        }

        fn close(&mut self) -> usize {
            let (answer, mut closed) = oneshot::channel();
            self.shard.answer_question(self.now, ShardQuestion::Close(ann(), answer));
            closed.try_recv().unwrap()
        }

        fn registered(&self) -> Vec<SessionId> {
            self.shard.settings.registry.sessions_of(&ann()).into_keys().collect()
        }
    }

    #[tokio::test]
    async fn operator_closes_all_sessions_of_a_user_once() {
        let mut fixture = ShardFixture::new();
        let numbers = [fixture.welcome().await, fixture.welcome().await, fixture.arrive(None)];
        let counts = fixture.counts();
        assert_eq!(counts.sessions.keys().copied().collect::<Vec<_>>(), numbers);
        assert_eq!(counts.sessions.values().filter(|counts| counts.is_open).count(), 2);
        assert_eq!((counts.rate, counts.max_rate), (Some(0), Some(100)));
        assert_eq!(fixture.registered(), numbers.map(|number| SessionId { shard: 0, number }));

        assert_eq!((fixture.close(), fixture.close()), (3, 0));
        assert!(fixture.registered().is_empty() && fixture.counts().sessions.is_empty());
        // The socket of the newest session may not have been writable yet.
        fixture.settle().await;
        for number in numbers {
            fixture.read_until(number, CloseCode::ClosedByOperator.text());
        }
    }

    #[tokio::test]
    async fn registry_has_the_active_subscriptions() {
        let mut fixture = ShardFixture::new();
        let number = fixture.welcome().await;
        for name in ["a", "b"] {
            fixture.send_frame(number, &serde_json::json!({ "action": "subscribe", "name": name }));
            fixture.settle().await;
        }
        let names = |fixture: &ShardFixture| {
            let session = fixture.shard.settings.registry.sessions_of(&ann()).remove(&SessionId { shard: 0, number });
            session.unwrap().subscriptions.into_keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert!(names(&fixture).is_empty(), "neither is confirmed");
        for _ in 0..2 {
            fixture.take(crate::messages::FromEdge::Confirmed(number));
        }
        assert_eq!(names(&fixture), ["a", "b"]);
        fixture.send_frame(number, &serde_json::json!({ "action": "unsubscribe", "name": "a" }));
        fixture.settle().await;
        assert_eq!(names(&fixture), ["b"]);
    }
}
