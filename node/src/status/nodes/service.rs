//! Asks all nodes for their reports, and answers such questions of other nodes.
//!
//! The answers do not go to an inbox, since routers may not publish to those of gateways, but to a subject that follows
//! from the question and names the node that answers.

use super::gathering::Gathering;
use super::gone::GoneNodes;
use super::report::NodeReport;
use crate::api::ApiRefusal;
use crate::clock::{Clock, monotonic};
use crate::link::{Link, LinkError, LinkSubscriber, NatsMessage};
use crate::metrics;
use crate::names;
use crate::other_nodes::{AskError, OtherNodes, Questions};
use crate::rate_budget::RateBudget;
use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::{Member, View};
use tickwire_core::wire;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The questions for the reports of nodes.
static QUESTIONS: Questions = Questions {
    subject: names::NODES,
    queues: ["node_questions", "node_answers"],
    question_bytes: 64 * 1024,
    deadline: Duration::from_secs(1),
    busy: "too many requests about nodes wait for their reports; repeat the request",
    refused: &metrics::REFUSED_NODE_MESSAGES,
};

/// How many questions of other nodes this one answers in a second. All nodes answer each question, with a hundred times
/// its bytes, so a flood of them would be one of answers.
const ANSWERS: u32 = 64;

/// The question of a node to all nodes.
#[derive(Debug, Serialize, Deserialize)]
struct NodeQuestion {
    asker: NodeRef,
    /// The number of the question.
    ask: u64,
}

impl NodeQuestion {
    /// The subject of all answers.
    fn answers(&self) -> String {
        names::node_reports(self.asker.id.as_str(), &self.asker.nonce.to_string(), self.ask)
    }

    /// The subject of the answer of a node.
    fn answer_of(&self, node: &NodeRef) -> String {
        names::node_report(self.asker.id.as_str(), &self.asker.nonce.to_string(), self.ask, node.id.as_str())
    }
}

/// The answer of one node.
#[derive(Debug, Serialize, Deserialize)]
struct NodeAnswer {
    node: NodeRef,
    report: NodeReport,
}

impl NodeAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Why it is refused: it is no answer, or of another node than its subject says, which NATS has checked.
    fn read(subject: &str, payload: &[u8]) -> Result<Self, String> {
        let answer: Self = wire::decode(payload).map_err(|error| error.to_string())?;
        if names::parse_node_report(subject) == Some(answer.node.id.as_str()) {
            Ok(answer)
        } else {
            Err(format!("an answer of {} comes on the subject of another node", answer.node))
        }
    }
}

/// Asks and answers.
#[derive(Debug)]
pub(in crate::status) struct NodeReports {
    status: Arc<Status>,
    others: OtherNodes,
    /// How many questions this node has asked.
    asked: AtomicU64,
    clock: Clock,
    /// Held only to compare two views: at each new view and each question.
    gone: Mutex<GoneNodes>,
}

/// What is known of all nodes.
#[derive(Debug)]
pub(super) struct KnownNodes {
    /// The nodes that were asked.
    pub(super) gathering: Gathering,
    /// Those that have gone, each with how long it has been gone, in milliseconds.
    pub(super) gone: Vec<(Member, u64)>,
}

impl NodeReports {
    /// The service of a node with this status.
    pub(in crate::status) fn new(status: Arc<Status>, link: Link) -> Self {
        let others = OtherNodes::new(&QUESTIONS, link);
        Self { status, others, asked: AtomicU64::new(0), clock: Clock::start(), gone: Mutex::default() }
    }

    /// What this node knows of itself.
    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// Subscribes to the questions of other nodes.
    ///
    /// # Errors
    /// When the connection was closed.
    pub(in crate::status) fn questions(&self) -> Result<LinkSubscriber, LinkError> {
        self.others.questions()
    }

    /// Remembers which nodes leave the view, until `stop`.
    pub(in crate::status) async fn follow_view(self: Arc<Self>, stop: CancellationToken) {
        let mut view = self.status.view.clone();
        loop {
            view.mark_unchanged();
            self.look();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() {
                    return stop.cancelled().await;
                },
            }
        }
    }

    /// Answers questions until `stop`. A node that drains still reports.
    pub(in crate::status) async fn answer_questions(
        self: Arc<Self>,
        mut questions: LinkSubscriber,
        stop: CancellationToken,
    ) {
        let mut budget = RateBudget::new(ANSWERS);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                question = questions.next() => match question {
                    Some(question) => self.answer(&question, &mut budget),
                    None => return stop.cancelled().await,
                },
            }
        }
    }

    /// Asks all nodes, this one included.
    ///
    /// # Errors
    /// When too many questions wait.
    pub(super) async fn ask(&self) -> Result<KnownNodes, ApiRefusal> {
        let _turn = self.others.turn().await?;
        let Status { me, role, drain, .. } = &*self.status;
        let member = Member { node: me.clone(), role: *role, weight: 1, draining: drain.is_cancelled() };
        let (view, gone) = self.look();
        let mut gathering = Gathering::of(&view, member);
        gathering.note(me, NodeReport::of(&self.status), 0);
        if let Err(error) = self.ask_others(&mut gathering).await {
            debug!(%error, "other nodes not asked for their reports");
        }
        Ok(KnownNodes { gathering, gone })
    }

    /// The view, and the nodes that have left it.
    fn look(&self) -> (Arc<View>, Vec<(Member, u64)>) {
        // The view is read while the lock is held, so that views are noted in their order.
        let mut nodes = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let (view, now) = (Arc::clone(&self.status.view.borrow()), self.clock.now());
        nodes.note(now, &view);
        // This node runs, whatever the view says.
        let others = nodes.listed().iter().filter(|gone| gone.member.node.id != self.status.me.id);
        let gone = others.map(|gone| (gone.member.clone(), gone.gone_for(now))).collect();
        (view, gone)
    }

    async fn ask_others(&self, gathering: &mut Gathering) -> Result<(), AskError> {
        if gathering.is_complete() {
            return Ok(());
        }
        // Only the number must differ from those of other questions.
        let question = NodeQuestion { asker: self.status.me.clone(), ask: self.asked.fetch_add(1, Ordering::Relaxed) };
        let take = |message: &NatsMessage| -> Result<bool, String> {
            let NodeAnswer { node, report } = NodeAnswer::read(&message.subject_text(), message.payload())?;
            gathering.note(&node, report.without_infinite_numbers(), message.size());
            Ok(gathering.is_complete())
        };
        self.others.ask(&question, &question.answers(), None, take).await
    }

    fn answer(&self, message: &NatsMessage, budget: &mut RateBudget) {
        let question: NodeQuestion = match wire::decode(message.payload()) {
            Ok(question) => question,
            Err(error) => return self.others.refuse(&error.to_string()),
        };
        // This node has asked itself without NATS.
        if question.asker == self.status.me {
            return;
        }
        if !budget.take(monotonic()) {
            return self.others.refuse("too many questions");
        }
        let answer = NodeAnswer { node: self.status.me.clone(), report: NodeReport::of(&self.status) };
        if let Err(error) = self.others.answer(question.answer_of(&self.status.me), &answer) {
            debug!(%error, asker = %question.asker, "question for the report of this node not answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::nodes::report::tests::report;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_testkit::assert_vectors;

    #[test]
    fn questions_and_answers_have_the_documented_form() {
        assert_vectors::<NodeQuestion>("node_question");
        assert_vectors::<NodeAnswer>("node_answer");
    }

    #[test]
    fn answer_on_the_subject_of_another_node_is_refused() {
        let node = |name: &str| NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) };
        let question = NodeQuestion { asker: node("r-1"), ask: 5 };
        let sent = wire::encode(&NodeAnswer { node: node("gw-1"), report: report() }).unwrap();
        let read = |subject: &str| NodeAnswer::read(subject, &sent).map(|answer| answer.node);
        assert_eq!(read(&question.answer_of(&node("gw-1"))), Ok(node("gw-1")));
        for other in [question.answer_of(&node("gw-2")), question.answers(), names::NODES.to_owned()] {
            assert!(read(&other).unwrap_err().contains("gw-1"), "{other}");
        }
        assert!(NodeAnswer::read(&question.answer_of(&node("gw-1")), b"x").is_err());
    }
}
