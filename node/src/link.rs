//! A connection to NATS of our own, for everything that we receive and others can shape.
//!
//! Servers forward subjects and header blocks as their producers made them, and the client library ends its connection,
//! or its process, over some of them. This one takes any bytes: a message is cut out by its control line, its subject
//! and headers are bytes, and who receives it reads them as leniently as it can. It also costs less than the library: a
//! message is a slice of what was read, without a map of headers or a copy of its subject.
//!
//! A [`Link`] is a handle; one task owns the connection, and connects again for ever, with jittered backoff, to any server
//! that is configured or that another has told of. Subscriptions outlive connections. What waits for a subscriber is
//! bounded in bytes; beyond that the newest is dropped, and counted. What is published while there is no connection is
//! refused: it would come late, and in heaps.
//!
//! JetStream's management, KV and what is published in bulk stay with the library: [`Nats`](crate::nats::Nats) has both.

mod dial;
mod inlet;
mod login;
mod message;
mod owner;
mod parse;
mod shared;

pub use inlet::Subscriber;
pub use message::{NatsMessage, Status};

use crate::config::NatsConfig;
use crate::names;
use crate::nats::{ConnectionHealth, NatsError};
use crate::shutdown::panic_text;
use dial::Dialer;
use futures_util::FutureExt;
use metrics::describe_counter;
use owner::{LinkOwner, note};
use rand::Rng;
use shared::LinkShared;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, error, info_span};

/// The pause after the owner has panicked, which it never should.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// Why something cannot be sent or heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkError {
    /// There is no connection at this moment.
    #[error("no connection to NATS")]
    Away,
    /// Too much waits to be sent.
    #[error("too much waits to be sent to NATS")]
    Full,
    /// The server takes no message of this size.
    #[error("the message is larger than NATS takes")]
    TooLarge,
    /// It is no subject that can be published or subscribed to.
    #[error("this is no subject")]
    Subject,
    /// The server did not answer in time.
    #[error("NATS does not answer")]
    Late,
    /// The connection was closed for good.
    #[error("the connection to NATS was closed")]
    Closed,
}

/// A handle of a connection. Clones share it; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<LinkShared>,
    inboxes: Arc<str>,
    stop: CancellationToken,
    ended: CancellationToken,
    /// Ends the owner with the last handle.
    _guard: Arc<DropGuard>,
}

impl Link {
    /// Connects under the name `<role>/<node>`, and tells `standing` from then on whether the connection is there.
    ///
    /// # Errors
    /// When no server lets us in before `nats.connect_timeout`.
    pub(crate) async fn connect(
        config: &NatsConfig,
        role: &str,
        node: &str,
        standing: ConnectionHealth,
    ) -> Result<Self, NatsError> {
        describe();
        let name = format!("{role}/{node}");
        let url = || config.url.clone();
        let dialer = Dialer::new(config, name.clone())
            .map_err(|error| NatsError::Address { url: url(), reason: error.to_string() })?;
        let (shared, stop, ended) =
            (Arc::new(LinkShared::default()), CancellationToken::new(), CancellationToken::new());
        let mut up = standing.link();
        let owner = LinkOwner { dialer, shared: Arc::clone(&shared), standing, stop: stop.clone(), name };
        tokio::spawn(watch(owner, ended.clone()).instrument(info_span!("task", task = "nats link")));
        let link = Self {
            shared,
            inboxes: names::inbox(role).into(),
            ended,
            _guard: Arc::new(stop.clone().drop_guard()),
            stop,
        };
        match timeout(config.connect_timeout, up.wait_for(|up| *up)).await {
            Ok(Ok(_)) => Ok(link),
            _ => Err(NatsError::Unreachable {
                url: url(),
                waited: config.connect_timeout,
                reason: link.shared.failure(),
            }),
        }
    }

    /// Subscribes; with a `group`, to a share of the messages. Of what comes, `most` bytes may wait; what comes beyond that
    /// is dropped, and counted under the name of the `queue`.
    ///
    /// # Errors
    /// When this is no subject, or the connection was closed. Whether the server allows it shows in [`check`](Self::check).
    pub fn subscribe(
        &self,
        queue: &'static str,
        subject: &str,
        group: Option<&str>,
        most: usize,
    ) -> Result<Subscriber, LinkError> {
        self.shared.subscribe(queue, subject, group, most)
    }

    /// Publishes, at once or not at all.
    ///
    /// # Errors
    /// When there is no connection, too much waits, or the message cannot be sent.
    pub fn publish(&self, subject: impl AsRef<[u8]>, reply: Option<&str>, payload: &[u8]) -> Result<(), LinkError> {
        self.shared.publish(subject.as_ref(), reply.map(str::as_bytes), payload)
    }

    /// Waits until the server has handled all that was sent so far.
    ///
    /// # Errors
    /// When there is no connection, it is lost meanwhile, or the server takes longer than this.
    pub async fn flush(&self, deadline: Duration) -> Result<(), LinkError> {
        let answer = self.shared.ping()?;
        timeout(deadline, answer).await.map_err(|_| LinkError::Late)?.map_err(|_| LinkError::Away)
    }

    /// Makes sure that the server has taken all subscriptions made so far. Returns what it has refused since the start.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn check(&self, deadline: Duration) -> Result<String, LinkError> {
        // The server answers in order, so that a refusal is here before the answer.
        self.flush(deadline).await?;
        Ok(self.shared.refusals())
    }

    /// A subject of our own for the answer to one question, which nobody can guess.
    pub fn new_inbox(&self) -> String {
        let [high, low]: [u64; 2] = rand::rng().random();
        format!("{}.{high:016x}{low:016x}", self.inboxes)
    }

    /// Whether the connection is there at this moment.
    pub fn is_up(&self) -> bool {
        self.shared.is_up()
    }

    /// The largest payload that the server takes.
    pub fn max_payload(&self) -> usize {
        self.shared.max_payload()
    }

    /// Sends all that was published, and closes the connection, for all handles.
    ///
    /// # Errors
    /// When that takes longer than this.
    pub async fn close(&self, deadline: Duration) -> Result<(), LinkError> {
        self.stop.cancel();
        timeout(deadline, self.ended.cancelled()).await.map_err(|_| LinkError::Late)
    }
}

/// Runs the owner, and again if it panics: a fault of ours must not leave a node that hears nothing.
async fn watch(mut owner: LinkOwner, ended: CancellationToken) {
    let _ended = ended.drop_guard();
    while let Err(panic) = AssertUnwindSafe(owner.run()).catch_unwind().await {
        note("link_panic");
        error!(panic = panic_text(&*panic), "the reader of NATS panicked; it connects again");
        owner.shared.set_down("the reader panicked".to_owned());
        owner.standing.set_link(false);
        sleep(PANIC_PAUSE).await;
    }
    owner.shared.close();
    owner.standing.set_link(false);
}

fn describe() {
    describe_counter!(
        "tickwire_nats_dropped_messages_total",
        "Messages from NATS that were dropped because too many bytes waited, by queue"
    );
}
