//! The one task that has the connection: it reads, writes, notices silence, and connects again.

use super::dial::{Dialer, LinkConnection};
use super::login::ServerInfo;
use super::message::NatsMessage;
use super::parse::{Op, Parser};
use super::shared::LinkShared;
use crate::nats::{ConnectionHealth, backoff};
use bytes::BytesMut;
use metrics::counter;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// How often the connection is looked at. A pause of this process counts as one look.
const LOOK: Duration = Duration::from_millis(500);

/// After so many looks without a byte the server is asked whether it lives, and after so many it is taken to be gone.
const SILENT_ASK: u32 = 2;
const SILENT_GONE: u32 = 6;

/// After so many looks at which the server has taken nothing of what waits for it, it is taken to be gone.
const STUCK_GONE: u32 = 10;

/// How much room there is for a read: a buffer that messages are cut from is not used again before all of them are gone.
const READ: usize = 64 * 1024;
const LEAST_ROOM: usize = 4 * 1024;

/// The most room that is made at a time for a large message.
const MOST_ROOM: usize = 1024 * 1024;

/// What is kept of a buffer for sending.
const KEPT_OUT: usize = 256 * 1024;

pub(super) struct LinkOwner {
    pub(super) dialer: Dialer,
    pub(super) shared: Arc<LinkShared>,
    pub(super) standing: ConnectionHealth,
    pub(super) stop: CancellationToken,
    pub(super) name: String,
}

/// Why a connection ends.
enum LinkEnd {
    /// We are done.
    Stopped,
    /// Something went wrong: for the metric, and for people.
    Lost(&'static str, String),
}

impl LinkOwner {
    /// Works until told to stop. What was published before that is sent.
    pub(super) async fn run(&mut self) {
        let mut attempt = 0;
        loop {
            let dialed = tokio::select! {
                () = self.stop.cancelled() => return,
                dialed = self.dialer.dial() => dialed,
            };
            match dialed {
                Ok(connection) => {
                    attempt = 0;
                    info!(connection = self.name, "connected to NATS for reading");
                    note("link_connected");
                    self.shared.set_up(connection.info.max_payload);
                    self.standing.set_link(true);
                    match self.serve(connection).await {
                        LinkEnd::Stopped => return,
                        LinkEnd::Lost(label, reason) => {
                            self.shared.set_down(reason.clone());
                            self.standing.set_link(false);
                            note(label);
                            warn!(connection = self.name, reason, "lost the connection to NATS for reading");
                        }
                    }
                }
                Err(reason) => {
                    debug!(connection = self.name, attempt, reason, "NATS cannot be reached for reading");
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

    async fn serve(&mut self, connection: LinkConnection) -> LinkEnd {
        let LinkConnection { mut reader, mut writer, mut buffer, mut parser, .. } = connection;
        let shared = Arc::clone(&self.shared);
        let (mut looks, mut silent, mut stuck) = (interval(LOOK), 0, 0);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut out, mut sent, mut came) = (Vec::new(), 0, Vec::new());
        let mut stopping = false;
        loop {
            // What came with the login is looked at first, and what came before the end is still handed out.
            if let Err(end) = self.take(&mut parser, &mut buffer, &mut came) {
                return end;
            }
            make_room(&parser, &mut buffer);
            if sent == out.len() {
                (sent, stuck) = (0, 0);
                out.shrink_to(KEPT_OUT);
                shared.take_out(&mut out);
                if stopping && out.is_empty() {
                    return match writer.flush().await {
                        Ok(()) => LinkEnd::Stopped,
                        Err(error) => LinkEnd::Lost("link_error", error.to_string()),
                    };
                }
            }
            let write = async {
                match &out[sent..] {
                    [] => pending().await,
                    rest => writer.write(rest).await,
                }
            };
            tokio::select! {
                read = reader.read_buf(&mut buffer) => match read {
                    Ok(0) => return LinkEnd::Lost("link_closed", "the server closed the connection".to_owned()),
                    Ok(_) => silent = 0,
                    Err(error) => return LinkEnd::Lost("link_error", error.to_string()),
                },
                written = write => match written {
                    Ok(0) => return LinkEnd::Lost("link_closed", "the server takes no more".to_owned()),
                    Ok(count) => (sent, stuck) = (sent + count, 0),
                    Err(error) => return LinkEnd::Lost("link_error", error.to_string()),
                },
                () = shared.wake.notified(), if out.is_empty() => {}
                () = self.stop.cancelled(), if !stopping => stopping = true,
                _ = looks.tick() => {
                    silent += 1;
                    stuck += u32::from(!out.is_empty());
                    match silent {
                        SILENT_ASK => shared.keep_alive(),
                        SILENT_GONE.. => return LinkEnd::Lost("link_silent", format!("nothing came for {:?}", LOOK * silent)),
                        _ => {}
                    }
                    if stuck >= STUCK_GONE {
                        return LinkEnd::Lost("link_stuck", format!("nothing was taken for {:?}", LOOK * stuck));
                    }
                }
            }
            if sent == out.len() && !out.is_empty() {
                // What is encrypted may wait for more.
                if let Err(error) = writer.flush().await {
                    return LinkEnd::Lost("link_error", error.to_string());
                }
                out.clear();
                sent = 0;
            }
        }
    }

    /// Takes what the buffer holds, and hands out the messages among it.
    fn take(
        &mut self,
        parser: &mut Parser,
        buffer: &mut BytesMut,
        came: &mut Vec<(u64, NatsMessage)>,
    ) -> Result<(), LinkEnd> {
        let end = loop {
            match parser.next(buffer) {
                Ok(Some(Op::Message(number, message))) => came.push((number, message)),
                Ok(Some(other)) => self.hear(&other),
                Ok(None) => break Ok(()),
                Err(broken) => break Err(LinkEnd::Lost(broken.label(), broken.to_string())),
            }
        };
        if !came.is_empty() {
            self.shared.hand_out(came);
        }
        end
    }

    /// Takes what is no message.
    fn hear(&mut self, op: &Op) {
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
                        warn!(connection = self.name, "the NATS server is about to stop");
                    }
                }
                Err(error) => {
                    note("link_unknown");
                    debug!(%error, "what the server says of itself cannot be read");
                }
            },
            Op::Refusal(refusal) => {
                let refusal = String::from_utf8_lossy(refusal).into_owned();
                note("link_refusal");
                error!(connection = self.name, refusal, "NATS refused something");
                self.shared.refuse(refusal);
            }
            Op::Unknown(line) => {
                note("link_unknown");
                debug!(line = %line.escape_ascii(), "a line of the server means nothing to us");
            }
        }
    }
}

/// Makes room for a read, and more for a message that is known to be large.
fn make_room(parser: &Parser, buffer: &mut BytesMut) {
    let missing = parser.missing(buffer);
    if buffer.capacity() - buffer.len() < missing.clamp(LEAST_ROOM, READ) {
        buffer.reserve(missing.clamp(READ, MOST_ROOM));
    }
}

pub(super) fn note(label: &'static str) {
    counter!("tickwire_nats_events_total", "event" => label).increment(1);
}
