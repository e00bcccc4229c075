//! Whether a user has a session, on which evidence. Each gateway knows its own sessions, by the registry. The others are
//! asked over NATS, and who does not answer in time stays unknown.
//!
//! A session that ends or begins meanwhile may be missed or counted: the answer is a report, and nothing relies on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tickwire_core::ids::{NodeId, NodeRef, UserId};
use tickwire_core::placement::{Role, View};
use tickwire_core::wire;
use tickwire_node::link::{Link, LinkError, LinkSubscriber, NatsMessage};
use tickwire_node::names;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::registry::SessionRegistry;

/// How long other gateways may take to answer.
const DEADLINE: Duration = Duration::from_millis(500);

/// How many bytes of questions, and of answers to one question, may wait.
const QUESTION_BYTES: usize = 256 * 1024;
const ANSWER_BYTES: usize = 256 * 1024;

/// How many gateways count that are not in the view, such as those that have just started. Whoever reaches NATS can send
/// answers of further ones.
const MOST_OTHERS: usize = 64;

/// Whether a user has a session anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Connected {
    /// A gateway has one.
    Yes,
    /// All gateways have answered that they have none.
    No,
    /// No gateway has said that it has one, and not all have answered.
    Unknown,
}

/// The answer of a gateway.
#[derive(Debug, Serialize, Deserialize)]
struct PresenceAnswer {
    gateway: NodeRef,
    /// How many sessions the user has there.
    sessions: u32,
}

/// What is known of the sessions of a user. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    /// How many sessions each gateway has that has answered.
    sessions: BTreeMap<NodeId, u32>,
    /// The gateways that have not answered.
    silent: BTreeSet<NodeRef>,
    /// How many answers have come of gateways that are not in the view.
    others: usize,
}

impl Presence {
    /// Nothing is known yet of the gateways of this view.
    fn of(view: &View) -> Self {
        let gateways = view.members.iter().filter(|member| member.role == Role::Gateway);
        Self { silent: gateways.map(|member| member.node.clone()).collect(), ..Self::default() }
    }

    /// A gateway has answered.
    fn note(&mut self, gateway: &NodeRef, sessions: u32) {
        if !self.silent.remove(gateway) && !self.sessions.contains_key(&gateway.id) {
            if self.others >= MOST_OTHERS {
                return;
            }
            self.others += 1;
        }
        self.sessions.insert(gateway.id.clone(), sessions);
    }

    /// Whether further answers change nothing.
    fn is_settled(&self) -> bool {
        self.connected() != Connected::Unknown
    }

    /// The conclusion.
    pub(crate) fn connected(&self) -> Connected {
        if self.sessions.values().any(|sessions| *sessions > 0) {
            Connected::Yes
        } else if self.silent.is_empty() {
            Connected::No
        } else {
            Connected::Unknown
        }
    }

    /// How many sessions each gateway has that has answered.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&NodeId, u32)> {
        self.sessions.iter().map(|(gateway, sessions)| (gateway, *sessions))
    }

    /// The gateways that have not answered.
    pub(crate) fn silent(&self) -> impl Iterator<Item = &NodeId> {
        self.silent.iter().map(|gateway| &gateway.id)
    }
}

/// Looks for the sessions of users on all gateways, and tells others of those here.
#[derive(Clone, Debug)]
pub(crate) struct PresenceFinder {
    me: NodeRef,
    link: Link,
    registry: Arc<SessionRegistry>,
    view: watch::Receiver<Arc<View>>,
}

/// Why other gateways were not asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
}

impl PresenceFinder {
    pub(crate) fn new(
        me: NodeRef,
        link: Link,
        registry: Arc<SessionRegistry>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self { me, link, registry, view }
    }

    /// Subscribes to the questions of other gateways.
    pub(crate) fn questions(&self) -> Result<LinkSubscriber, LinkError> {
        self.link.subscribe("presence_questions", names::PRESENCE, None, QUESTION_BYTES)
    }

    /// Answers questions until the drain.
    pub(crate) async fn answer(self, mut questions: LinkSubscriber, drain: CancellationToken) {
        while let Some(Some(question)) = drain.run_until_cancelled(questions.next()).await {
            if let Err(error) = self.answer_one(&question) {
                debug!(%error, "question about a user not answered");
            }
        }
    }

    /// Where the user has sessions. Other gateways are asked only if there are none here.
    pub(crate) async fn find(&self, user: &UserId) -> Presence {
        let mut presence = Presence::of(&self.view.borrow());
        presence.note(&self.me, self.sessions_here(user));
        if !presence.is_settled()
            && let Err(error) = self.ask(user, &mut presence).await
        {
            debug!(%error, "other gateways not asked about a user");
        }
        presence
    }

    async fn ask(&self, user: &UserId, presence: &mut Presence) -> Result<(), AskError> {
        let inbox = self.link.new_inbox();
        let mut answers = self.link.subscribe("presence_answers", &inbox, None, ANSWER_BYTES)?;
        self.link.publish(names::PRESENCE, Some(&inbox), &wire::encode(user)?)?;
        let listen = async {
            while !presence.is_settled()
                && let Some(message) = answers.next().await
            {
                // If nobody listens, the server answers without a payload.
                if let Ok(PresenceAnswer { gateway, sessions }) = wire::decode(message.payload()) {
                    presence.note(&gateway, sessions);
                }
            }
        };
        // Who is late stays silent.
        timeout(DEADLINE, listen).await.ok();
        Ok(())
    }

    fn answer_one(&self, question: &NatsMessage) -> Result<(), AskError> {
        // Only gateways ask.
        let Some(inbox) = question.reply().filter(|reply| names::is_inbox(Role::Gateway.as_str(), reply)) else {
            crate::metrics::REFUSED_MESSAGES.increment(1);
            return Ok(());
        };
        let user: UserId =
            wire::decode(question.payload()).inspect_err(|_| crate::metrics::REFUSED_MESSAGES.increment(1))?;
        let answer = PresenceAnswer { gateway: self.me.clone(), sessions: self.sessions_here(&user) };
        Ok(self.link.publish(inbox, None, &wire::encode(&answer)?)?)
    }

    fn sessions_here(&self, user: &UserId) -> u32 {
        u32::try_from(self.registry.sessions_of(user).len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use tickwire_core::ids::Nonce;
    use tickwire_core::placement::Member;
    use tickwire_testkit::assert_vectors;

    use super::*;

    fn node(name: &str, nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) }
    }

    fn presence() -> Presence {
        let member = |name, role| Member { node: node(name, 1), role, weight: 1, draining: false };
        let members = vec![
            member("gw-1", Role::Gateway),
            member("gw-2", Role::Gateway),
            member("gw-3", Role::Gateway),
            member("r-1", Role::Router),
        ];
        Presence::of(&View { version: 1, members, ..View::default() })
    }

    fn silent(presence: &Presence) -> Vec<&str> {
        presence.silent().map(NodeId::as_str).collect()
    }

    #[test]
    fn one_gateway_with_a_session_is_enough() {
        let mut presence = presence();
        presence.note(&node("gw-1", 1), 0);
        assert_eq!((presence.connected(), silent(&presence)), (Connected::Unknown, vec!["gw-2", "gw-3"]));
        presence.note(&node("gw-3", 1), 2);
        assert_eq!((presence.connected(), silent(&presence)), (Connected::Yes, vec!["gw-2"]));
        let counts: Vec<(&str, u32)> = presence.sessions().map(|(gateway, count)| (gateway.as_str(), count)).collect();
        assert_eq!(counts, [("gw-1", 0), ("gw-3", 2)]);
    }

    #[test]
    fn nobody_is_connected_only_if_all_gateways_say_so() {
        let mut presence = presence();
        for (name, nonce) in [("gw-1", 1), ("gw-2", 2), ("gw-3", 1), ("gw-9", 1)] {
            assert_eq!(presence.connected(), Connected::Unknown);
            presence.note(&node(name, nonce), 0);
        }
        // The second one was restarted, and the view does not have its new start yet.
        assert_eq!((presence.connected(), silent(&presence)), (Connected::Unknown, vec!["gw-2"]));
        presence.note(&node("gw-2", 1), 0);
        assert_eq!((presence.connected(), presence.is_settled()), (Connected::No, true));
    }

    #[test]
    fn gateways_of_the_view_count_whatever_else_answers() {
        let mut presence = presence();
        for number in 0..10_000 {
            presence.note(&node(&format!("forged-{number}"), 1), 0);
        }
        assert_eq!(presence.sessions().count(), MOST_OTHERS);
        for name in ["gw-1", "gw-2"] {
            presence.note(&node(name, 1), 0);
        }
        assert_eq!((presence.connected(), silent(&presence)), (Connected::Unknown, vec!["gw-3"]));
        presence.note(&node("gw-3", 1), 1);
        assert_eq!((presence.connected(), presence.sessions().count()), (Connected::Yes, MOST_OTHERS + 3));
    }

    #[test]
    fn questions_and_answers_have_the_documented_form() {
        assert_vectors::<UserId>("presence_question");
        assert_vectors::<PresenceAnswer>("presence_answer");
    }
}
