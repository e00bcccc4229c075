//! The messages of nodes that ask gateways about a user.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tickwire_core::ids::{NodeRef, UserId};

/// How many sessions an answer lists.
const LISTED: usize = 100;

/// How many bytes of sessions an answer lists, as JSON: every NATS server accepts a message of this size.
const LISTED_BYTES: usize = 256 * 1024;

/// What a node wants of the sessions of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserAction {
    /// To show them.
    Show,
    /// To close them.
    Close,
}

/// The question of a node to all gateways.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct UserQuestion {
    /// Who asks.
    pub(super) asker: NodeRef,
    pub(super) user: UserId,
    pub(super) action: UserAction,
}

/// The answer of one gateway.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GatewayAnswer {
    pub(super) gateway: NodeRef,
    pub(super) answer: UserAnswer,
}

/// What a gateway answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UserAnswer {
    /// The sessions of the user there.
    Sessions(SessionList),
    /// How many sessions were closed.
    Closed(u64),
}

impl UserAnswer {
    /// Whether it answers this.
    pub(super) fn is_of(&self, action: UserAction) -> bool {
        match self {
            Self::Sessions(_) => action == UserAction::Show,
            Self::Closed(_) => action == UserAction::Close,
        }
    }
}

/// The sessions of a user on one gateway, as far as they fit into an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionList {
    /// How many there are.
    pub(super) session_count: u64,
    /// The rate of the user there, as JSON.
    pub(super) rate: Value,
    /// The first ones, as JSON.
    pub(super) sessions: Vec<Value>,
}

impl SessionList {
    /// The list of these sessions, of which the first ones are kept that fit.
    pub fn new(rate: Value, all: impl ExactSizeIterator<Item = Value>) -> Self {
        let session_count = all.len() as u64;
        let mut bytes = 0;
        let fits = |session: &Value| {
            bytes += session.to_string().len();
            bytes <= LISTED_BYTES
        };
        Self { session_count, rate, sessions: all.take(LISTED).take_while(fits).collect() }
    }

    /// Whether sessions are missing in the list.
    pub(super) fn is_truncated(&self) -> bool {
        (self.sessions.len() as u64) < self.session_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::wire;
    use tickwire_testkit::assert_vectors;

    #[test]
    fn answer_lists_the_sessions_that_fit_and_the_count_of_all() {
        let list = |count: usize, bytes: usize| {
            let session = json!("x".repeat(bytes));
            let list = SessionList::new(Value::Null, std::iter::repeat_n(session, count));
            (list.session_count, list.sessions.len(), list.is_truncated())
        };
        assert_eq!(list(0, 10), (0, 0, false));
        assert_eq!(list(100, 10), (100, 100, false));
        assert_eq!(list(101, 10), (101, 100, true));
        assert_eq!(list(4, LISTED_BYTES / 4), (4, 3, true));
        assert_eq!(list(1, LISTED_BYTES), (1, 0, true));
    }

    #[test]
    fn answer_reaches_the_asker_as_it_was() {
        let session = json!({ "session": "gw-1-0-7", "counts": null, "rate": 0.25, "subscriptions": { "a": [1, -2] } });
        let rate = json!({ "current": 25, "maximal": 100, "utilisation": 0.25 });
        let answer = UserAnswer::Sessions(SessionList::new(rate, [session].into_iter()));
        let gateway = NodeRef { id: NodeId::new("gw-1").unwrap(), nonce: Nonce(7) };
        let sent = wire::encode(&GatewayAnswer { gateway: gateway.clone(), answer: answer.clone() }).unwrap();
        let arrived: GatewayAnswer = wire::decode(&sent).unwrap();
        assert_eq!((arrived.gateway, arrived.answer), (gateway, answer));
    }

    #[test]
    fn questions_and_answers_have_the_documented_form() {
        assert_vectors::<UserQuestion>("user_question");
        assert_vectors::<GatewayAnswer>("user_answer");
    }
}
