//! The other nodes of the cluster, as far as this node asks them: all of them for their reports (`/v1/nodes`), and the
//! gateways about users (`/v1/users`).
//!
//! A few questions about one thing are asked at the same time, and every wait has a deadline. The caller decides which
//! answers fit, and keeps them; what does not fit is refused and counted.

use crate::api::ApiRefusal;
use crate::link::{Link, LinkError, LinkSubscriber, NatsMessage};
use crate::metrics::Counter;
use serde::Serialize;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::wire;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::debug;

/// How many questions about one thing are asked at the same time. Further ones wait.
const AT_ONCE: usize = 4;

/// How many bytes of answers to one question may wait.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// The questions about one thing.
#[derive(Debug)]
pub(crate) struct Questions {
    /// The subject of the questions.
    pub(crate) subject: &'static str,
    /// The names of the queues of questions and of answers, in metrics.
    pub(crate) queues: [&'static str; 2],
    /// How many bytes of questions may wait.
    pub(crate) question_bytes: usize,
    /// How long a question waits for its turn, and then for its answers.
    pub(crate) deadline: Duration,
    /// The text of the refusal of a question that gets no turn.
    pub(crate) busy: &'static str,
    /// Counts the questions and answers that are refused.
    pub(crate) refused: &'static Counter,
}

/// Why other nodes were not asked, or an answer was not sent.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
}

/// Asks the other nodes about one thing.
#[derive(Debug)]
pub(crate) struct OtherNodes {
    about: &'static Questions,
    link: Link,
    turns: Semaphore,
}

impl OtherNodes {
    /// Asks over this connection.
    pub(crate) fn new(about: &'static Questions, link: Link) -> Self {
        Self { about, link, turns: Semaphore::new(AT_ONCE) }
    }

    /// Subscribes to the questions of other nodes.
    ///
    /// # Errors
    /// When the connection was closed.
    pub(crate) fn questions(&self) -> Result<LinkSubscriber, LinkError> {
        let Questions { subject, queues: [questions, _], question_bytes, .. } = self.about;
        self.link.subscribe(questions, subject, None, *question_bytes)
    }

    /// A subject for answers that nobody can guess.
    pub(crate) fn new_inbox(&self) -> String {
        self.link.new_inbox()
    }

    /// Waits for the turn of a question, which lasts as long as this is kept.
    ///
    /// # Errors
    /// When too many questions wait.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, ApiRefusal> {
        let Ok(Ok(turn)) = timeout(self.about.deadline, self.turns.acquire()).await else {
            return Err(ApiRefusal::later("busy", self.about.busy));
        };
        Ok(turn)
    }

    /// Asks all nodes, and passes the messages that arrive at the subject `answers` to `take`. `take` returns whether
    /// all have answered, or why it refuses the message. The wait ends when all have answered, or at the deadline: a
    /// node that is late stays silent. `reply` is the inbox for answers, if they go to one.
    ///
    /// # Errors
    /// When the question was not sent.
    pub(crate) async fn ask<Q: Serialize>(
        &self,
        question: &Q,
        answers: &str,
        reply: Option<&str>,
        mut take: impl FnMut(&NatsMessage) -> Result<bool, String>,
    ) -> Result<(), AskError> {
        let Questions { subject, queues: [_, queue], deadline, .. } = self.about;
        let mut inlet = self.link.subscribe(queue, answers, None, ANSWER_BYTES)?;
        self.link.publish(subject, reply, &wire::encode(question)?)?;
        let listen = async {
            while let Some(message) = inlet.next().await {
                match take(&message) {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(reason) => self.refuse(&reason),
                }
            }
        };
        timeout(*deadline, listen).await.ok();
        Ok(())
    }

    /// Sends the answer to a question of another node. Returns its bytes.
    ///
    /// # Errors
    /// When it was not sent.
    pub(crate) fn answer(&self, subject: impl AsRef<[u8]>, answer: &impl Serialize) -> Result<usize, AskError> {
        let answer = wire::encode(answer)?;
        self.link.publish(subject, None, &answer)?;
        Ok(answer.len())
    }

    /// Counts and logs a message that is refused.
    pub(crate) fn refuse(&self, reason: &str) {
        self.about.refused.increment(1);
        debug!(subject = self.about.subject, reason, "message between nodes refused");
    }
}
