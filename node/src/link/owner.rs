//! The one task that owns the connection: it reads, writes, detects silence, and reconnects.

use super::dial::{DialError, Dialer, LinkConnection};
use super::login::ServerInfo;
use super::message::NatsMessage;
use super::parse::{Op, Parser};
use super::shared::LinkShared;
use crate::connection_health::{ConnectionHealth, backoff};
use crate::metrics;
use crate::nats_login::is_login_refusal;
use bytes::BytesMut;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// How often the connection is checked. A pause of this process counts as one check.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The number of checks without a byte after which the server gets a `PING`, and after which it counts as gone.
const SILENT_ASK: u32 = 2;
const SILENT_GONE: u32 = 6;

/// The number of checks after which a server that takes no byte of the waiting data counts as gone.
const STUCK_GONE: u32 = 10;

/// How long another connection waits for answers on the present one before it takes its place.
const REPLACE_AT_LATEST: Duration = Duration::from_secs(1);

/// The room for a read: a buffer that messages are cut from can be used again only when all of them are dropped.
const READ: usize = 64 * 1024;
const MIN_ROOM: usize = 4 * 1024;

/// The most room that is reserved at a time for a large message.
const MAX_ROOM: usize = 1024 * 1024;

/// The capacity that a send buffer keeps.
const SEND_BUFFER: usize = 256 * 1024;

pub(super) struct LinkOwner {
    pub(super) dialer: Dialer,
    pub(super) shared: Arc<LinkShared>,
    pub(super) health: ConnectionHealth,
    /// Connections that take the place of the present one.
    pub(super) replacements: mpsc::Receiver<LinkReplacement>,
    pub(super) stop: CancellationToken,
    pub(super) name: String,
}

/// A connection that takes the place of the present one.
pub(super) struct LinkReplacement {
    pub(super) connection: LinkConnection,
    /// Told when that has happened.
    pub(super) taken: oneshot::Sender<()>,
}

/// Why a connection ends.
enum LinkEnd {
    /// We have stopped.
    Stopped,
    /// Another connection has taken its place.
    Replaced(Box<LinkReplacement>),
    /// A failure: the label for the metric, and a text for people.
    Lost(&'static str, String),
}

impl From<io::Error> for LinkEnd {
    fn from(error: io::Error) -> Self {
        Self::Lost("link_error", error.to_string())
    }
}

impl LinkOwner {
    /// Works until `stop` is cancelled. Everything that was published before that is sent.
    pub(super) async fn run(&mut self) {
        let mut attempt = 0;
        loop {
            let dialed = tokio::select! {
                () = self.stop.cancelled() => return,
                Some(replacement) = self.replacements.recv() => Ok(replacement.take()),
                dialed = self.dialer.dial() => dialed,
            };
            match dialed {
                Ok(connection) => {
                    attempt = 0;
                    info!(connection = self.name, "connected to NATS for reading");
                    note("link_connected");
                    self.shared.set_up(connection.info.max_payload);
                    self.health.set_link(true);
                    if self.serve_all(connection).await.is_none() {
                        return;
                    }
                }
                Err(DialError { reason, is_login_refusal: true }) => {
                    note("link_login_refused");
                    warn!(connection = self.name, attempt, reason, "NATS refused the login for reading, trying again");
                    self.shared.set_down(reason);
                }
                Err(DialError { reason, .. }) => {
                    // Without the number of the attempt, so that repeated lines are one.
                    warn!(connection = self.name, reason, "cannot reach NATS for reading, trying again");
                    self.shared.set_down(reason);
                }
            }
            attempt += 1;
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(backoff(attempt)) => {}
            }
        }
    }

    /// Serves a connection, and those that take its place, until the last one is lost. `None` if we have stopped.
    async fn serve_all(&mut self, mut connection: LinkConnection) -> Option<()> {
        loop {
            let Err(end) = self.serve(connection).await;
            match end {
                LinkEnd::Stopped => return None,
                LinkEnd::Replaced(by) => {
                    self.health.link_replaced();
                    note("link_renewed");
                    info!(connection = self.name, "connected to NATS for reading anew");
                    connection = by.take();
                }
                LinkEnd::Lost(label, reason) => {
                    self.shared.set_down(reason.clone());
                    self.health.set_link(false);
                    note(label);
                    warn!(connection = self.name, reason, "lost the connection to NATS for reading");
                    return Some(());
                }
            }
        }
    }

    /// Serves a connection until it ends.
    async fn serve(&mut self, connection: LinkConnection) -> Result<Infallible, LinkEnd> {
        let LinkConnection { mut reader, mut writer, mut buffer, mut parser, .. } = connection;
        let shared = Arc::clone(&self.shared);
        let (mut checks, mut silent, mut stuck) = (interval(CHECK_INTERVAL), 0, 0);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut out, mut sent, mut received) = (Vec::new(), 0, Vec::new());
        let mut stopping = false;
        // The connection that takes the place of this one, and since when it waits.
        let mut next: Option<(LinkReplacement, Instant)> = None;
        // One time for all messages of a read, which costs much less than one for each.
        let mut arrived = Instant::now();
        loop {
            // Bytes from the login are parsed first, and messages before the end are still handed out.
            self.take(&mut parser, &mut buffer, arrived, &mut received)?;
            make_room(&parser, &mut buffer);
            if sent == out.len() {
                (sent, stuck) = (0, 0);
                out.shrink_to(SEND_BUFFER);
                shared.take_out(&mut out);
                if stopping && out.is_empty() {
                    writer.flush().await?;
                    return Err(LinkEnd::Stopped);
                }
                let is_next = |(by, since): &mut (LinkReplacement, Instant)| {
                    let is_late = since.elapsed() > REPLACE_AT_LATEST;
                    out.is_empty() && shared.replace(by.connection.info.max_payload, is_late)
                };
                if let Some((by, _)) = next.take_if(is_next) {
                    self.dialer.discover(&by.connection.info);
                    return Err(LinkEnd::Replaced(Box::new(by)));
                }
            }
            let write = async {
                match &out[sent..] {
                    [] => pending().await,
                    rest => writer.write(rest).await,
                }
            };
            tokio::select! {
                read = reader.read_buf(&mut buffer) => match read? {
                    0 => return Err(LinkEnd::Lost("link_closed", "the server closed the connection".to_owned())),
                    _ => (silent, arrived) = (0, Instant::now()),
                },
                written = write => match written? {
                    0 => return Err(LinkEnd::Lost("link_closed", "the server takes no more".to_owned())),
                    count => (sent, stuck) = (sent + count, 0),
                },
                () = shared.wake.notified(), if out.is_empty() => {}
                () = self.stop.cancelled(), if !stopping => stopping = true,
                Some(replacement) = self.replacements.recv(), if next.is_none() => {
                    next = Some((replacement, Instant::now()));
                }
                _ = checks.tick() => {
                    silent += 1;
                    stuck += u32::from(!out.is_empty());
                    self.check(silent, stuck)?;
                }
            }
            if sent == out.len() && !out.is_empty() {
                // TLS may hold back encrypted bytes.
                writer.flush().await?;
                out.clear();
                sent = 0;
            }
        }
    }

    /// Asks a server that has been silent for a sign of life, and gives up one that is silent or stuck for too long.
    fn check(&self, silent: u32, stuck: u32) -> Result<(), LinkEnd> {
        match silent {
            SILENT_ASK => self.shared.keep_alive(),
            SILENT_GONE.. => {
                let reason = format!("nothing received for {:?}", CHECK_INTERVAL * silent);
                return Err(LinkEnd::Lost("link_silent", reason));
            }
            _ => {}
        }
        if stuck >= STUCK_GONE {
            let reason = format!("nothing sent for {:?}", CHECK_INTERVAL * stuck);
            return Err(LinkEnd::Lost("link_stuck", reason));
        }
        Ok(())
    }

    /// Parses the buffer, whose last bytes arrived at this time, and hands out the messages in it.
    fn take(
        &mut self,
        parser: &mut Parser,
        buffer: &mut BytesMut,
        arrived: Instant,
        received: &mut Vec<(u64, NatsMessage)>,
    ) -> Result<(), LinkEnd> {
        let end = loop {
            match parser.next(buffer, arrived) {
                Ok(Some(Op::Message(number, message))) => received.push((number, message)),
                Ok(Some(other)) => self.handle(&other),
                Ok(None) => break Ok(()),
                Err(broken) => break Err(LinkEnd::Lost(broken.label(), broken.to_string())),
            }
        };
        if !received.is_empty() {
            self.shared.hand_out(received);
        }
        end
    }

    /// Handles an operation that is not a message.
    fn handle(&mut self, op: &Op) {
        match op {
            Op::Ping => self.shared.answer_ping(),
            Op::Pong => self.shared.pong(),
            Op::Ok | Op::Message(..) => {}
            Op::Info(info) => match serde_json::from_slice::<ServerInfo>(info) {
                Ok(info) => {
                    self.dialer.discover(&info);
                    self.shared.set_max_payload(info.max_payload);
                    if info.ldm {
                        note("link_lame_duck");
                        warn!(connection = self.name, "NATS server about to stop");
                    }
                }
                Err(error) => {
                    note("link_unknown");
                    debug!(%error, "unreadable INFO from NATS server");
                }
            },
            Op::Refusal(refusal) => {
                let refusal = String::from_utf8_lossy(refusal).into_owned();
                if is_login_refusal(&refusal) {
                    // The server ends the connection, and the next one has the login that is in the files then.
                    note("link_login_ended");
                    warn!(connection = self.name, reason = refusal, "NATS no longer accepts the login");
                    return;
                }
                note("link_refusal");
                error!(connection = self.name, reason = refusal, "NATS refused a request");
                self.shared.refuse(refusal);
            }
            Op::Unknown(line) => {
                note("link_unknown");
                debug!(line = %line.escape_ascii(), "unknown line from NATS server");
            }
        }
    }
}

impl LinkReplacement {
    /// The connection, which is in use from now on.
    fn take(self) -> LinkConnection {
        // Who waits for this may have given up.
        self.taken.send(()).ok();
        self.connection
    }
}

/// Reserves room for a read, and more if a large message is being received.
fn make_room(parser: &Parser, buffer: &mut BytesMut) {
    let missing = parser.missing(buffer);
    if buffer.capacity() - buffer.len() < missing.clamp(MIN_ROOM, READ) {
        buffer.reserve(missing.clamp(READ, MAX_ROOM));
    }
}

pub(super) fn note(label: &'static str) {
    metrics::NATS_EVENTS.with(label).increment(1);
}
