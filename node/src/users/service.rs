//! Asks all gateways about a user, and answers such questions of other nodes.
//!
//! A few questions are asked at the same time, and a few are answered. Every wait has a deadline.

use super::gathering::Gathering;
use super::messages::{GatewayAnswer, UserAction, UserAnswer, UserQuestion};
use crate::api::ApiRefusal;
use crate::link::{Link, LinkError, LinkSubscriber, NatsMessage, Status};
use crate::metrics;
use crate::names;
use crate::start::Node;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::{NodeRef, UserId};
use tickwire_core::placement::{Role, View};
use tickwire_core::wire;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long other gateways may take to answer. They give up before that themselves.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many questions are asked at the same time, and how many are answered. Further ones wait.
const QUESTIONS: usize = 4;

/// How many bytes of questions may wait, and of answers to one question.
const QUESTION_BYTES: usize = 256 * 1024;
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// What a node knows of the sessions on itself.
pub trait UsersHere: Debug + Send + Sync + 'static {
    /// Whether it has sessions at all.
    const HAS_SESSIONS: bool;

    /// Shows or closes the sessions of a user here; `None` if that is not possible in time.
    fn answer(&self, user: &UserId, action: UserAction) -> impl Future<Output = Option<UserAnswer>> + Send;
}

/// A node without sessions, such as a router.
#[derive(Debug)]
pub struct NoUsers;

impl UsersHere for NoUsers {
    const HAS_SESSIONS: bool = false;

    async fn answer(&self, _: &UserId, _: UserAction) -> Option<UserAnswer> {
        None
    }
}

/// Asks and answers.
#[derive(Debug)]
pub struct UserService<L> {
    me: NodeRef,
    link: Link,
    view: watch::Receiver<Arc<View>>,
    here: Arc<L>,
    turns: Semaphore,
}

/// Why other gateways were not asked, or an answer was not sent.
#[derive(Debug, Error)]
enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
}

impl<L: UsersHere> UserService<L> {
    /// The service of a node that has started.
    pub fn new(node: &Node, here: Arc<L>) -> Self {
        let view = node.membership.view();
        Self { me: node.me.clone(), link: node.nats.link.clone(), view, here, turns: Semaphore::new(QUESTIONS) }
    }

    /// Subscribes to the questions of other nodes.
    ///
    /// # Errors
    /// When the connection was closed.
    pub fn questions(&self) -> Result<LinkSubscriber, LinkError> {
        self.link.subscribe("user_questions", names::USERS, None, QUESTION_BYTES)
    }

    /// Answers questions until the drain.
    pub async fn answer_questions(self: Arc<Self>, mut questions: LinkSubscriber, drain: CancellationToken) {
        let mut answering = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                Some(()) = answering.next(), if !answering.is_empty() => {}
                question = questions.next(), if answering.len() < QUESTIONS => match question {
                    Some(question) => answering.push(self.answer_one(question)),
                    None => return,
                },
            }
        }
    }

    /// Asks all gateways, this one included.
    ///
    /// # Errors
    /// When too many questions wait.
    pub(super) async fn ask(&self, user: &UserId, action: UserAction) -> Result<Gathering, ApiRefusal> {
        let Ok(Ok(_turn)) = timeout(DEADLINE, self.turns.acquire()).await else {
            return Err(ApiRefusal::later(
                "busy",
                "too many requests about users wait for gateways; repeat the request",
            ));
        };
        let mut gathering = Gathering::of(&self.view.borrow());
        if L::HAS_SESSIONS {
            gathering.expect(&self.me);
        }
        let (here, others) =
            tokio::join!(self.here.answer(user, action), self.ask_others(user, action, &mut gathering));
        if let Err(error) = others {
            debug!(%error, "other gateways not asked about a user");
        }
        if let Some(answer) = here {
            gathering.note(self.me.clone(), answer, 0);
        }
        Ok(gathering)
    }

    async fn ask_others(&self, user: &UserId, action: UserAction, gathering: &mut Gathering) -> Result<(), AskError> {
        if gathering.has_all_but(&self.me) {
            return Ok(());
        }
        let inbox = self.link.new_inbox();
        let mut answers = self.link.subscribe("user_answers", &inbox, None, ANSWER_BYTES)?;
        let question = UserQuestion { asker: self.me.clone(), user: user.clone(), action };
        self.link.publish(names::USERS, Some(&inbox), &wire::encode(&question)?)?;
        let listen = async {
            while !gathering.has_all_but(&self.me)
                && let Some(message) = answers.next().await
            {
                // If nobody listens, the server says so.
                if message.status().is_some_and(|status| status.code == Status::NO_RESPONDERS) {
                    return;
                }
                match wire::decode(message.payload()) {
                    // What this node answers does not come over NATS.
                    Ok(GatewayAnswer { gateway, answer }) if answer.is_of(action) && gateway != self.me => {
                        gathering.note(gateway, answer, message.size());
                    }
                    Ok(GatewayAnswer { gateway, .. }) => {
                        refused(&format!("{gateway} answers another question, or for this node"));
                    }
                    Err(error) => refused(&error.to_string()),
                }
            }
        };
        // Who is late stays silent.
        timeout(DEADLINE, listen).await.ok();
        Ok(())
    }

    async fn answer_one(&self, message: NatsMessage) {
        let Some(inbox) = message.reply().filter(|inbox| is_inbox(inbox)) else {
            return refused("it asks for an answer elsewhere than to a node");
        };
        let question: UserQuestion = match wire::decode(message.payload()) {
            Ok(question) => question,
            Err(error) => return refused(&error.to_string()),
        };
        let UserQuestion { asker, user, action } = question;
        // This node has asked itself without NATS.
        if asker == self.me {
            return;
        }
        let Some(answer) = self.here.answer(&user, action).await else { return };
        if let Err(error) = self.send(inbox, answer) {
            debug!(%error, %asker, "question about a user not answered");
        }
    }

    fn send(&self, inbox: &[u8], answer: UserAnswer) -> Result<(), AskError> {
        let answer = GatewayAnswer { gateway: self.me.clone(), answer };
        Ok(self.link.publish(inbox, None, &wire::encode(&answer)?)?)
    }
}

/// Whether a subject is an inbox of a node: only nodes ask.
fn is_inbox(subject: &[u8]) -> bool {
    [Role::Gateway, Role::Router].into_iter().any(|role| names::is_inbox(role.as_str(), subject))
}

fn refused(reason: &str) {
    metrics::REFUSED_USER_MESSAGES.increment(1);
    debug!(reason, "message about a user refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inboxes_of_nodes_get_answers() {
        for inbox in ["_INBOX_gateway.g1.00ff", "_INBOX_router.r1.00ff"] {
            assert!(is_inbox(inbox.as_bytes()), "{inbox}");
        }
        let others =
            ["_INBOX.x.y", "_INBOX_gateways.x.y", "_INBOX_router", "_INBOX_router.x", "events.pattern.AAPL", ""];
        for other in others {
            assert!(!is_inbox(other.as_bytes()), "{other}");
        }
    }
}
