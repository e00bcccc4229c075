//! Asks all nodes for their reports, and answers such questions of other nodes.
//!
//! The answers do not go to an inbox, since routers may not publish to those of gateways, but to a subject that follows
//! from the question. A few questions are asked at the same time. Every wait has a deadline.

use super::gathering::Gathering;
use super::report::NodeReport;
use crate::api::ApiRefusal;
use crate::clock::monotonic;
use crate::link::{Link, LinkError, LinkSubscriber, NatsMessage};
use crate::metrics;
use crate::names;
use crate::rate_budget::RateBudget;
use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::Member;
use tickwire_core::wire;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long other nodes may take to report. Who takes longer is shown as silent.
const DEADLINE: Duration = Duration::from_secs(1);

/// How many questions are asked at the same time. Further ones wait.
const QUESTIONS: usize = 4;

/// How many questions of other nodes this one answers in a second. All nodes answer each question, with a hundred times
/// its bytes, so a flood of them would be one of answers.
const ANSWERS: u32 = 64;

/// How many bytes of questions may wait, and of answers to one question.
const QUESTION_BYTES: usize = 64 * 1024;
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The question of a node to all nodes.
#[derive(Debug, Serialize, Deserialize)]
struct NodeQuestion {
    asker: NodeRef,
    /// The number of the question.
    ask: u64,
}

impl NodeQuestion {
    /// The subject of the answers.
    fn answers(&self) -> String {
        names::node_reports(self.asker.id.as_str(), &self.asker.nonce.to_string(), self.ask)
    }
}

/// The answer of one node.
#[derive(Debug, Serialize, Deserialize)]
struct NodeAnswer {
    node: NodeRef,
    report: NodeReport,
}

/// Why other nodes were not asked, or an answer was not sent.
#[derive(Debug, Error)]
enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
}

/// Asks and answers.
#[derive(Debug)]
pub(in crate::status) struct NodeReports {
    status: Arc<Status>,
    link: Link,
    turns: Semaphore,
    /// How many questions this node has asked.
    asked: AtomicU64,
}

impl NodeReports {
    /// The service of a node with this status.
    pub(in crate::status) fn new(status: Arc<Status>, link: Link) -> Self {
        Self { status, link, turns: Semaphore::new(QUESTIONS), asked: AtomicU64::new(0) }
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
        self.link.subscribe("node_questions", names::NODES, None, QUESTION_BYTES)
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
    pub(super) async fn ask(&self) -> Result<Gathering, ApiRefusal> {
        let Ok(Ok(_turn)) = timeout(DEADLINE, self.turns.acquire()).await else {
            return Err(ApiRefusal::later(
                "busy",
                "too many requests about nodes wait for their reports; repeat the request",
            ));
        };
        let Status { me, role, drain, view, .. } = &*self.status;
        let member = Member { node: me.clone(), role: *role, weight: 1, draining: drain.is_cancelled() };
        let mut gathering = Gathering::of(&view.borrow(), member);
        gathering.note(me, NodeReport::of(&self.status), 0);
        if let Err(error) = self.ask_others(&mut gathering).await {
            debug!(%error, "other nodes not asked for their reports");
        }
        Ok(gathering)
    }

    async fn ask_others(&self, gathering: &mut Gathering) -> Result<(), AskError> {
        if gathering.is_complete() {
            return Ok(());
        }
        // Only the number must differ from those of other questions.
        let question = NodeQuestion { asker: self.status.me.clone(), ask: self.asked.fetch_add(1, Ordering::Relaxed) };
        let mut answers = self.link.subscribe("node_answers", &question.answers(), None, ANSWER_BYTES)?;
        self.link.publish(names::NODES, None, &wire::encode(&question)?)?;
        let listen = async {
            while !gathering.is_complete()
                && let Some(message) = answers.next().await
            {
                match wire::decode(message.payload()) {
                    Ok(NodeAnswer { node, report }) => {
                        gathering.note(&node, report.without_infinite_numbers(), message.size());
                    }
                    Err(error) => refused(&error.to_string()),
                }
            }
        };
        // Who is late stays silent.
        timeout(DEADLINE, listen).await.ok();
        Ok(())
    }

    fn answer(&self, message: &NatsMessage, budget: &mut RateBudget) {
        let question: NodeQuestion = match wire::decode(message.payload()) {
            Ok(question) => question,
            Err(error) => return refused(&error.to_string()),
        };
        // This node has asked itself without NATS.
        if question.asker == self.status.me {
            return;
        }
        if !budget.take(monotonic()) {
            return refused("too many questions");
        }
        if let Err(error) = self.send(&question) {
            debug!(%error, asker = %question.asker, "question for the report of this node not answered");
        }
    }

    fn send(&self, question: &NodeQuestion) -> Result<(), AskError> {
        let answer = NodeAnswer { node: self.status.me.clone(), report: NodeReport::of(&self.status) };
        Ok(self.link.publish(question.answers(), None, &wire::encode(&answer)?)?)
    }
}

fn refused(reason: &str) {
    metrics::REFUSED_NODE_MESSAGES.increment(1);
    debug!(reason, "message about the reports of nodes refused");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_testkit::assert_vectors;

    #[test]
    fn questions_and_answers_have_the_documented_form() {
        assert_vectors::<NodeQuestion>("node_question");
        assert_vectors::<NodeAnswer>("node_answer");
    }
}
