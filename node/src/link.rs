//! Our own connection to NATS, for everything that we receive and that other programs can shape.
//!
//! Servers forward subjects and header blocks as their producers sent them. Some of these end the connection of the
//! client library, or its process. This one takes any bytes: a message is cut out by its control line, its subject
//! and headers are bytes, and its receiver reads them leniently. It also costs less than the library: a message is a
//! slice of the read buffer, without a map of headers or a copy of its subject.
//!
//! A [`Link`] is a handle. One task owns the connection and reconnects forever, with jittered backoff, to any
//! configured or discovered server. Subscriptions outlive connections. The queue of a subscriber is bounded in bytes.
//! When it is full, the newest message is dropped and counted. Without a connection a publish is refused: later it
//! would arrive late and together with many others.
//!
//! JetStream management, KV and bulk publishing stay with the library: [`Nats`](crate::nats::Nats) has both.

mod dial;
mod login;
mod message;
mod owner;
mod parse;
mod shared;
mod subscriber;

pub use crate::link::subscriber::LinkSubscriber;
pub use message::{NatsMessage, Status};

use crate::config::NatsConfig;
use crate::connection_health::ConnectionHealth;
use crate::names;
use crate::nats_error::NatsError;
use crate::shutdown::panic_text;
use dial::Dialer;
use futures_util::FutureExt;
use owner::{LinkOwner, LinkReplacement, note};
use rand::Rng;
use shared::LinkShared;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, error, info_span};

/// The pause after a panic of the owner, which should never happen.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// How long a new connection may wait until it takes the place of the present one.
const REPLACE_WITHIN: Duration = Duration::from_secs(10);

/// Why a publish, subscribe or flush failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkError {
    /// There is no connection now.
    #[error("no connection to NATS")]
    Away,
    /// The queue for sending is full.
    #[error("too many bytes wait to be sent to NATS")]
    Full,
    /// The server does not accept a message of this size.
    #[error("the message is larger than the NATS server accepts")]
    TooLarge,
    /// The subject cannot be published or subscribed to.
    #[error("not a valid subject")]
    Subject,
    /// The server did not answer in time.
    #[error("NATS does not answer")]
    Late,
    /// The connection was closed and does not come back.
    #[error("the connection to NATS was closed")]
    Closed,
}

/// A handle of a connection. Clones share it; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<LinkShared>,
    inboxes: Arc<str>,
    /// What a new connection needs, and the way to the owner for it.
    config: Arc<NatsConfig>,
    name: Arc<str>,
    replacements: mpsc::Sender<LinkReplacement>,
    stop: CancellationToken,
    ended: CancellationToken,
    /// Ends the owner with the last handle.
    _guard: Arc<DropGuard>,
}

impl Link {
    /// Connects under the name `<role>/<node>`, and keeps `health` informed about the connection.
    ///
    /// # Errors
    /// When no server accepts the login before `nats.connect_timeout`.
    pub(crate) async fn connect(
        config: &NatsConfig,
        role: &str,
        node: &str,
        health: ConnectionHealth,
    ) -> Result<Self, NatsError> {
        let name = format!("{role}/{node}");
        let config = Arc::new(config.clone());
        let dialer = Dialer::new(Arc::clone(&config), name.clone())
            .map_err(|error| NatsError::Address { url: config.url.clone(), reason: error.to_string() })?;
        let (shared, stop, ended) =
            (Arc::new(LinkShared::default()), CancellationToken::new(), CancellationToken::new());
        let mut up = health.link();
        let (replacements, inbox) = mpsc::channel(1);
        let shown_name = name.as_str().into();
        let owner =
            LinkOwner { dialer, shared: Arc::clone(&shared), health, replacements: inbox, stop: stop.clone(), name };
        tokio::spawn(watch(owner, ended.clone()).instrument(info_span!("task", task = "nats link")));
        let link = Self {
            shared,
            inboxes: names::inbox(role, node).into(),
            config,
            name: shown_name,
            replacements,
            ended,
            _guard: Arc::new(stop.clone().drop_guard()),
            stop,
        };
        let waited = link.config.connect_timeout;
        match timeout(waited, up.wait_for(|up| *up)).await {
            Ok(Ok(_)) => Ok(link),
            _ => Err(NatsError::Unreachable { url: link.config.url.clone(), waited, reason: link.shared.failure() }),
        }
    }

    /// Subscribes; with a `group`, to a share of the messages. At most `most` bytes may wait; messages above that are
    /// dropped, and counted under the name of the `queue`.
    ///
    /// # Errors
    /// When the subject is not valid, or the connection was closed. A refusal by the server shows in
    /// [`check`](Self::check).
    pub fn subscribe(
        &self,
        queue: &'static str,
        subject: &str,
        group: Option<&str>,
        most: usize,
    ) -> Result<LinkSubscriber, LinkError> {
        self.shared.subscribe(queue, subject, group, most)
    }

    /// Publishes, at once or not at all.
    ///
    /// # Errors
    /// When there is no connection, too much waits, or the message cannot be sent.
    pub fn publish(&self, subject: impl AsRef<[u8]>, reply: Option<&str>, payload: &[u8]) -> Result<(), LinkError> {
        self.shared.publish(subject.as_ref(), reply.map(str::as_bytes), payload)
    }

    /// Waits until the server has handled everything that was sent so far.
    ///
    /// # Errors
    /// When there is no connection, it is lost, or the server takes longer than `deadline`.
    pub async fn flush(&self, deadline: Duration) -> Result<(), LinkError> {
        let answer = self.shared.ping()?;
        timeout(deadline, answer).await.map_err(|_| LinkError::Late)?.map_err(|_| LinkError::Away)
    }

    /// Makes sure that the server has handled all subscriptions so far. Returns its refusals since the start.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn check(&self, deadline: Duration) -> Result<String, LinkError> {
        // The server answers in order, so a refusal arrives before this answer.
        self.flush(deadline).await?;
        Ok(self.shared.refusals().borrow().join("; "))
    }

    /// What the server has refused since the start, as it said it.
    pub(crate) fn refusals(&self) -> watch::Receiver<Vec<String>> {
        self.shared.refusals()
    }

    /// A new subject for the answer to one request, which others cannot guess.
    pub fn new_inbox(&self) -> String {
        let [high, low]: [u64; 2] = rand::rng().random();
        format!("{}.{high:016x}{low:016x}", self.inboxes)
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        self.shared.is_up()
    }

    /// The largest payload that the server accepts.
    pub fn max_payload(&self) -> usize {
        self.shared.max_payload()
    }

    /// Opens another connection with the login and the certificates that are in the files now, and lets it take the
    /// place of the present one. Returns when it has. Nothing changes if that fails. What is on its way to us on the
    /// old connection may be lost.
    ///
    /// # Errors
    /// When no server accepts it: the reason.
    pub(crate) async fn renew(&self) -> Result<(), String> {
        let dialer = Dialer::new(Arc::clone(&self.config), self.name.to_string());
        let mut dialer = dialer.map_err(|error| error.to_string())?;
        let connection = dialer.dial_any().await.map_err(|error| error.reason)?;
        let (taken, is_taken) = oneshot::channel();
        let sent = self.replacements.try_send(LinkReplacement { connection, taken });
        sent.map_err(|_| "the connection is closed, or being replaced already".to_owned())?;
        match timeout(REPLACE_WITHIN, is_taken).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the connection was lost before it could be replaced".to_owned()),
            Err(_) => Err("the connection was busy, and not replaced in time".to_owned()),
        }
    }

    /// Sends everything that was published, and closes the connection, for all handles.
    ///
    /// # Errors
    /// When that takes longer than `deadline`.
    pub async fn close(&self, deadline: Duration) -> Result<(), LinkError> {
        self.stop.cancel();
        timeout(deadline, self.ended.cancelled()).await.map_err(|_| LinkError::Late)
    }
}

/// Runs the owner, and again if it panics: a bug of ours must not leave a node that receives nothing.
async fn watch(mut owner: LinkOwner, ended: CancellationToken) {
    let _ended = ended.drop_guard();
    while let Err(panic) = AssertUnwindSafe(owner.run()).catch_unwind().await {
        note("link_panic");
        error!(panic = panic_text(&*panic), "NATS reader panicked, reconnecting");
        owner.shared.set_down("the reader panicked".to_owned());
        owner.health.set_link(false);
        sleep(PANIC_PAUSE).await;
    }
    owner.shared.close();
    owner.health.set_link(false);
}
