//! Asks all gateways about a user, and answers such questions of other nodes.

use super::gathering::Gathering;
use super::messages::{GatewayAnswer, UserAction, UserAnswer, UserQuestion};
use crate::api::ApiRefusal;
use crate::clock::monotonic;
use crate::link::{LinkError, LinkSubscriber, NatsMessage, Status};
use crate::metrics;
use crate::names;
use crate::other_nodes::{AskError, OtherNodes, Questions};
use crate::rate_budget::RateBudget;
use crate::start::Node;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{NodeRef, UserId};
use tickwire_core::placement::{Role, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The questions about users and their sessions.
static QUESTIONS: Questions = Questions {
    subject: names::USERS,
    queues: ["user_questions", "user_answers"],
    question_bytes: 256 * 1024,
    // Gateways give up before that themselves.
    deadline: Duration::from_secs(2),
    busy: "too many requests about users wait for gateways; repeat the request",
    refused: &metrics::REFUSED_USER_MESSAGES,
};

/// How many questions are answered at the same time. Further ones wait.
const ANSWERING: usize = 4;

/// How many KiB of answers this node sends in a second; an answer counts as one more. The sessions of one user may be
/// thousands of times larger than the question for them, so a flood of questions would be one of answers.
const ANSWERED_KIB: u32 = 16 * 1024;

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
    others: OtherNodes,
    view: watch::Receiver<Arc<View>>,
    here: Arc<L>,
}

impl<L: UsersHere> UserService<L> {
    /// The service of a node that has started.
    pub fn new(node: &Node, here: Arc<L>) -> Self {
        let others = OtherNodes::new(&QUESTIONS, node.nats.link.clone());
        Self { me: node.me.clone(), others, view: node.membership.view(), here }
    }

    /// Subscribes to the questions of other nodes.
    ///
    /// # Errors
    /// When the connection was closed.
    pub fn questions(&self) -> Result<LinkSubscriber, LinkError> {
        self.others.questions()
    }

    /// Answers questions until the drain.
    pub async fn answer_questions(self: Arc<Self>, mut questions: LinkSubscriber, drain: CancellationToken) {
        let (mut answering, mut budget) = (FuturesUnordered::new(), RateBudget::new(ANSWERED_KIB));
        loop {
            tokio::select! {
                () = drain.cancelled() => return,
                Some(bytes) = answering.next(), if !answering.is_empty() => budget.charge(bytes / 1024),
                question = questions.next(), if answering.len() < ANSWERING => match question {
                    Some(question) if budget.take(monotonic()) => answering.push(self.answer_one(question)),
                    Some(_) => self.others.refuse("too many questions, or too large answers"),
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
        let _turn = self.others.turn().await?;
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
        let inbox = self.others.new_inbox();
        let question = UserQuestion { asker: self.me.clone(), user: user.clone(), action };
        let take = |message: &NatsMessage| -> Result<bool, String> {
            // If nobody listens, the server says so.
            if message.status().is_some_and(|status| status.code == Status::NO_RESPONDERS) {
                return Ok(true);
            }
            let GatewayAnswer { gateway, answer } =
                wire::decode::<GatewayAnswer>(message.payload()).map_err(|error| error.to_string())?;
            // What this node answers does not come over NATS.
            if !answer.is_of(action) || gateway == self.me {
                return Err(format!("{gateway} answers another question, or for this node"));
            }
            gathering.note(gateway, answer, message.size());
            Ok(gathering.has_all_but(&self.me))
        };
        self.others.ask(&question, &inbox, Some(&inbox), take).await
    }

    /// Returns the bytes of the answer.
    async fn answer_one(&self, message: NatsMessage) -> usize {
        let Some(inbox) = message.reply().filter(|inbox| is_inbox(inbox)) else {
            self.others.refuse("it asks for an answer elsewhere than to a node");
            return 0;
        };
        let question: UserQuestion = match wire::decode(message.payload()) {
            Ok(question) => question,
            Err(error) => {
                self.others.refuse(&error.to_string());
                return 0;
            }
        };
        let UserQuestion { asker, user, action } = question;
        // This node has asked itself without NATS.
        if asker == self.me {
            return 0;
        }
        let Some(answer) = self.here.answer(&user, action).await else { return 0 };
        let answered = self.others.answer(inbox, &GatewayAnswer { gateway: self.me.clone(), answer });
        answered.unwrap_or_else(|error| {
            debug!(%error, %asker, "question about a user not answered");
            0
        })
    }
}

/// Whether a subject is an inbox of a node: only nodes ask.
fn is_inbox(subject: &[u8]) -> bool {
    [Role::Gateway, Role::Router].into_iter().any(|role| names::is_inbox(role.as_str(), subject))
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
