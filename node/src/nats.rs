//! The connections to NATS. They are opened within a deadline or refused with an error that tells what to do, and kept
//! up from then on. There are two: that of the client library, for JetStream, KV and publishing; and our own [`Link`],
//! for messages that other programs can shape.
//!
//! A login error, certificates that are not accepted and an old server are fatal at once; an unreachable server is
//! tried until the deadline. Afterwards the client reconnects by itself, forever, with jittered backoff, and with the
//! login and the certificates that are in the files then. A denied publish or subscribe shows only as an event of the
//! connection. [`Nats::check`], called when a node has made its subscriptions, turns it into an error.

mod denials;
mod events;

use crate::connection_health::{ConnectionHealth, backoff};
pub use crate::nats_error::{ConnectionLost, NatsError};

use crate::config::NatsConfig;
use crate::link::{Link, LinkError};
use crate::names;
use crate::nats_login::{LoginFileError, LoginSource, NatsLogin, authenticate};
use crate::nats_tls;
use crate::tls;
use crate::writes::Writes;
use async_nats::connection::State;
use async_nats::jetstream::{self, ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

/// How long one attempt at one server may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the last attempt may take, which is made when the deadline has passed.
const LAST_TRY: Duration = Duration::from_millis(300);

/// How often a silent server gets a `PING`. After the third without an answer the client reconnects.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long the client may take to report an earlier refusal after the server has answered.
const REFUSAL_LAG: Duration = Duration::from_millis(100);

/// The oldest supported server.
const OLDEST_SERVER: (i64, i64) = (2, 11);

/// The largest message that a server must accept: an event of the allowed size, in the form that nodes exchange, where
/// numbers may take more bytes than in text.
pub const LEAST_PAYLOAD: usize = 640 * 1024;

/// The connections to NATS. Clones share them.
#[derive(Debug, Clone)]
pub struct Nats {
    /// The client, for core NATS.
    pub client: Client,
    /// JetStream over the same connection.
    pub jetstream: jetstream::Context,
    /// For everything that is received, and for small messages that go with it.
    pub link: Link,
    /// The results of publishing to JetStream.
    pub writes: Writes,
    /// What the subjects of requests to JetStream begin with.
    api: Arc<str>,
    /// Whom permissions are granted to, as text.
    user: Arc<str>,
    health: ConnectionHealth,
    refusals: watch::Receiver<Vec<String>>,
    request_timeout: Duration,
}

impl Nats {
    /// Connects under the name `<role>/<node>`, with inboxes of the role's own prefix.
    ///
    /// # Errors
    /// When the server cannot be reached before `nats.connect_timeout`, refuses the login, is too old, or accepts only
    /// small messages.
    pub async fn connect(config: &NatsConfig, role: &str, node: &str) -> Result<Self, NatsError> {
        let health = ConnectionHealth::default();
        let of_client = health.clone();
        let (refusals_sender, refusals) = watch::channel(Vec::new());
        let name = format!("{role}/{node}");
        let unusable = |error: LoginFileError| NatsError::Credentials { reason: error.to_string() };
        // A file that cannot be used is named before anything is tried.
        let shared = Arc::new(config.clone());
        NatsLogin::read_now(Arc::clone(&shared)).await.map_err(unusable)?;
        let unsafe_tls = |reason| NatsError::Tls { url: config.url.clone(), reason };
        nats_tls::check(shared).await.map_err(unsafe_tls)?;
        let options = log_in(config)
            .name(&name)
            .custom_inbox_prefix(names::inbox(role, node))
            .connection_timeout(ATTEMPT_TIMEOUT.min(config.connect_timeout))
            .request_timeout(Some(config.request_timeout))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(backoff)
            .event_callback(move |event| {
                events::note(&name, &event, &of_client, &refusals_sender);
                std::future::ready(())
            });
        let client = reach(config, options).await?;
        let (major, minor) = OLDEST_SERVER;
        if !client.is_server_compatible(major, minor, 0) {
            return Err(NatsError::OldServer { version: client.server_info().version, major, minor });
        }
        let most = client.max_payload();
        if most < LEAST_PAYLOAD {
            return Err(NatsError::SmallPayload { most, least: LEAST_PAYLOAD });
        }
        let api = names::jetstream(config.domain.as_deref());
        let jetstream = ContextBuilder::new()
            .api_prefix(api.as_str())
            .timeout(config.request_timeout)
            .ack_timeout(config.request_timeout)
            .build(client.clone());
        let link = Link::connect(config, role, node, health.clone()).await?;
        let writes = Writes::default();
        let (user, request_timeout) = (LoginSource(config).to_string().into(), config.request_timeout);
        Ok(Self { client, jetstream, link, writes, api: api.into(), user, health, refusals, request_timeout })
    }

    /// The subject of a request to JetStream, such as `STREAM.INFO.EVENTS`, in the configured domain.
    pub fn api(&self, request: &str) -> String {
        format!("{}.{request}", self.api)
    }

    /// Whether both connections are up now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected && self.link.is_up()
    }

    /// Notifies when the connections go up or down. [`is_connected`](Self::is_connected) has the current state.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.health.both()
    }

    /// Waits for the answer to a request, unless a connection is lost or replaced meanwhile: then the answer may never
    /// come, and its deadline would be a waste of time. `answer` must also send the request, since only a loss from now
    /// on is noticed.
    ///
    /// # Errors
    /// When a connection was lost or replaced.
    pub async fn while_connected<T>(&self, answer: impl Future<Output = T>) -> Result<T, ConnectionLost> {
        let mut losses = self.health.losses();
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            _ = losses.changed() => Err(ConnectionLost),
        }
    }

    /// Waits until both connections are up, for this time at most. Returns whether they are.
    pub async fn up_within(&self, most: Duration) -> bool {
        matches!(timeout(most, self.health.both().wait_for(|up| *up)).await, Ok(Ok(_)))
    }

    /// Makes sure that the server has handled all subscriptions so far, and has refused none.
    ///
    /// # Errors
    /// When it has refused something since the start, for want of a permission or not, or does not answer.
    pub async fn check(&self) -> Result<(), NatsError> {
        let (answered, link_refusals) = tokio::join!(self.round_trip(), self.link.check(self.request_timeout));
        let failed = |error: LinkError| NatsError::NoAnswer { reason: error.to_string() };
        let link_refusals = link_refusals.map_err(failed)?;
        if !link_refusals.is_empty() {
            return Err(self.refusal(link_refusals));
        }
        let mut refusals = self.refusals.clone();
        // Ends early when there is a refusal, which is checked next.
        timeout(REFUSAL_LAG, refusals.wait_for(|refusals| !refusals.is_empty())).await.ok();
        let refused = refusals.borrow().join("; ");
        if refused.is_empty() { answered } else { Err(self.refusal(refused)) }
    }

    /// What the server has refused to the client since the start, as it said it, when it has handled everything so far.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn refusals(&self) -> Result<Vec<String>, NatsError> {
        let answered = self.round_trip().await;
        sleep(REFUSAL_LAG).await;
        let refusals = self.refusals.borrow().clone();
        if refusals.is_empty() { answered.map(|()| refusals) } else { Ok(refusals) }
    }

    /// Sends a message to itself. The server handles messages in order: when it returns this one, or denies it, the
    /// refusal of anything earlier is on its way as well.
    async fn round_trip(&self) -> Result<(), NatsError> {
        let inbox = self.client.new_inbox();
        let denied = denials::of_inbox(self.refusals.clone(), &inbox);
        let returned = self.in_time(async {
            let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
            self.client.publish(inbox.clone(), "".into()).await.map_err(|error| error.to_string())?;
            answers.next().await.ok_or("the connection was closed")?;
            Ok(())
        });
        tokio::select! {
            biased;
            () = denied => Ok(()),
            returned = returned => returned,
        }
    }

    /// Does some work, unless the server denies a permission before it is done. A request without a permission gets no
    /// answer, so the work alone would only find out that it is late.
    ///
    /// # Errors
    /// When the server has denied a permission since the start.
    pub async fn unless_denied<T>(&self, work: impl Future<Output = T>) -> Result<T, NatsError> {
        tokio::select! {
            biased;
            denied = self.denied() => Err(denied),
            done = work => Ok(done),
        }
    }

    /// Waits until the server has denied a permission since the start.
    pub async fn denied(&self) -> NatsError {
        let denied = tokio::select! {
            denied = denials::any(self.refusals.clone()) => denied,
            denied = denials::any(self.link.refusals()) => denied,
        };
        self.refusal(denied)
    }

    /// Waits until the server has denied the client to publish to this subject, or to subscribe, since the start. A
    /// message to this subject is then never acknowledged, however often it is sent.
    pub async fn publish_denied(&self, subject: &str) -> NatsError {
        self.refusal(denials::of_publish(self.refusals.clone(), subject).await)
    }

    /// Whether a further denial might not be remembered, and [`publish_denied`](Self::publish_denied) wait in vain: so
    /// much was refused to the client since the start, with a denial among it.
    pub fn may_forget_denials(&self) -> bool {
        let refusals = self.refusals.borrow();
        refusals.len() >= events::REFUSALS && denials::is_in(&refusals)
    }

    /// The error for these texts of the server: only a denied permission can be granted.
    fn refusal(&self, refused: String) -> NatsError {
        let user = self.user.to_string();
        if denials::is_in(std::slice::from_ref(&refused)) {
            NatsError::Denied { user, denied: refused }
        } else {
            NatsError::Refused { user, refused }
        }
    }

    /// Replaces both connections by others with the login and the certificates that are in the files now. If no server
    /// accepts these, the present connections stay. Subscriptions go on. What is on its way on an old connection may be
    /// lost, as at any loss of a connection.
    ///
    /// # Errors
    /// Why no server accepts the login.
    pub async fn renew(&self) -> Result<(), String> {
        self.link.renew().await?;
        // What was published before is sent first, as far as the server takes it in time.
        if let Ok(Err(error)) = timeout(self.request_timeout, self.client.flush()).await {
            debug!(%error, "not flushed before the new connection");
        }
        let asked = timeout(self.request_timeout, self.client.force_reconnect()).await;
        asked.map_err(|_| "too much waits to be sent to NATS".to_owned())?.map_err(|error| error.to_string())
    }

    /// The subject of a write to a key of a bucket, in the configured domain.
    pub fn bucket_write(&self, bucket: &str, key: &str) -> String {
        let plain = format!("$KV.{bucket}.{key}");
        if *self.api == *names::jetstream(None) { plain } else { self.api(&plain) }
    }

    /// Sends everything that was published, and closes the connection. Data that is still buffered at exit is lost.
    ///
    /// # Errors
    /// When the server does not take it within the request timeout.
    pub async fn close(&self) -> Result<(), NatsError> {
        let closing = async {
            self.client.flush().await.map_err(|error| error.to_string())?;
            self.client.drain().await.map_err(|error| error.to_string())
        };
        let (closed, link) = tokio::join!(self.in_time(closing), self.link.close(self.request_timeout));
        closed?;
        link.map_err(|error| NatsError::NoAnswer { reason: error.to_string() })
    }

    async fn in_time(&self, work: impl Future<Output = Result<(), String>>) -> Result<(), NatsError> {
        let too_late = |_| Err(format!("nothing within {:?}", self.request_timeout));
        let end = timeout(self.request_timeout, work).await.unwrap_or_else(too_late);
        end.map_err(|reason| NatsError::NoAnswer { reason })
    }
}

/// The options for the login and for TLS. Both are read from their files at each connect.
fn log_in(config: &NatsConfig) -> ConnectOptions {
    let shared = Arc::new(config.clone());
    let mut options = ConnectOptions::with_auth_callback(move |nonce| authenticate(Arc::clone(&shared), nonce));
    if let Some(authorities) = &config.tls_ca {
        options = options.add_root_certificates(authorities.clone()).require_tls(true);
    }
    if let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    options
}

/// Tries until it works, cannot work, or the deadline has passed.
async fn reach(config: &NatsConfig, options: ConnectOptions) -> Result<Client, NatsError> {
    let url = || config.url.clone();
    let addresses: Result<Vec<ServerAddr>, _> = config.url.split(',').map(|url| url.trim().parse()).collect();
    let addresses = addresses.map_err(|error| NatsError::Address { url: url(), reason: error.to_string() })?;
    info!(url = config.url, "connecting to NATS");
    let start = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        // The last attempt is made when the deadline has passed.
        let left = config.connect_timeout.saturating_sub(start.elapsed());
        let connecting = timeout(left.max(LAST_TRY), options.clone().connect(addresses.clone()));
        let reason = match connecting.await {
            Ok(Ok(client)) => return Ok(client),
            Err(_) => "no answer".to_owned(),
            Ok(Err(error)) => match error.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    let login = LoginSource(config).to_string();
                    return Err(NatsError::Login { url: url(), login, reason: error.to_string() });
                }
                ConnectErrorKind::Tls => {
                    return Err(NatsError::Tls { url: url(), reason: error.to_string() });
                }
                _ if tls::is_final(&error) => {
                    return Err(NatsError::Tls { url: url(), reason: error.to_string() });
                }
                _ => tls::reason(&error),
            },
        };
        let left = config.connect_timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(NatsError::Unreachable { url: url(), waited: config.connect_timeout, reason });
        }
        // The other attempts say nothing new until the deadline.
        match attempt {
            1 => warn!(url = config.url, reason, "NATS not reachable yet, trying again"),
            _ => debug!(attempt, reason, "NATS still not reachable"),
        }
        sleep(backoff(attempt).min(left)).await;
    }
}
