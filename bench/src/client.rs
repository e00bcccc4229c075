//! One socket of the bench, from its first byte to its last: it authenticates, subscribes, and then counts.

use mio::net::TcpStream;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;
use tickwire_core::protocol::{ClientFrame, Encoding, Id, SubscriptionName, SubscriptionRequest};

use super::measure::Latencies;
use super::oracle::EventTally;
use super::reader::{self, BadFrame, EventNumbers, client_frame, first_frame, first_type};
use super::scenario::Plan;

/// What the sockets connect to, and what they send first.
#[derive(Debug)]
pub(crate) enum Dialect {
    /// A gateway: an upgrade, a welcome, a subscription.
    Gateway,
    /// A bare server: a socket names the groups of events that it belongs to.
    Bare(Vec<Vec<u32>>),
}

/// The stage of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientStage {
    /// Connecting, or waiting for the answer to its upgrade.
    Opening,
    /// Waiting for its welcome.
    Joining,
    /// Waiting for the confirmation of its subscription.
    Subscribing,
    /// It gets what it subscribed to.
    Ready,
}

/// Why a client cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the server ended the connection without a close frame")]
    Gone,
    #[error("the server closed with code {0}")]
    Closed(u16),
    #[error("the upgrade was answered by {0:?}")]
    Refused(String),
    #[error("the server sent an unexpected message: {0}")]
    Unexpected(String),
    #[error("the server sent {0}")]
    Frame(#[from] BadFrame),
    #[error("the connection broke: {0}")]
    Io(String),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// What the clients of a thread count together.
#[derive(Debug)]
pub(crate) struct Counts {
    /// The events since the last call that took them.
    pub(crate) events: u64,
    /// The frames that carry events, in the same way, and their bytes with headers.
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Frames of other types than events, by type, from when a client is ready.
    pub(crate) other_frames: BTreeMap<String, u64>,
    pub(crate) latencies: Latencies,
    /// When event 0 was due.
    pub(crate) first_due: Option<Instant>,
    numbers: EventNumbers,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Self {
            events: 0,
            frames: 0,
            bytes: 0,
            other_frames: BTreeMap::new(),
            latencies: Latencies::new(),
            first_due: None,
            numbers: EventNumbers::new(),
        }
    }
}

/// A socket and what it received.
#[derive(Debug)]
pub(crate) struct BenchClient {
    pub(crate) number: u32,
    pub(crate) stream: TcpStream,
    pub(crate) stage: ClientStage,
    pub(crate) tally: EventTally,
    /// Whether it stalls when the readers of `slow` do.
    pub(crate) stalls: bool,
    /// Whether its latencies are part of the result.
    pub(crate) measured: bool,
    /// The poll reported data to read while the client was stalled.
    pub(crate) unread: bool,
    /// Whether it was notified of events that it does not get.
    pub(crate) warned: bool,
    opened: bool,
    rest: Vec<u8>,
}

impl BenchClient {
    pub(crate) fn new(number: u32, stream: TcpStream, stalls: bool, measured: bool) -> Self {
        Self {
            number,
            stream,
            stage: ClientStage::Opening,
            tally: EventTally::default(),
            stalls,
            measured,
            unread: false,
            warned: false,
            opened: false,
            rest: Vec::new(),
        }
    }

    /// Sends the first request when the connection is established.
    pub(crate) fn open(&mut self, dialect: &Dialect, server: SocketAddr) -> Result<(), Lost> {
        if self.opened {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        self.opened = true;
        match dialect {
            Dialect::Gateway => {
                let request = format!(
                    "GET /v1/stream?user=bench-{} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGlja3dpcmUgYmVuY2ghIQ==\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
                    self.number,
                    Encoding::Json.sub_protocol()
                );
                self.write(request.as_bytes())
            }
            Dialect::Bare(groups) => {
                let groups = groups.get(self.number as usize).map(Vec::as_slice).unwrap_or_default();
                let mut groups_message = (groups.len() as u32).to_le_bytes().to_vec();
                groups_message.extend(groups.iter().flat_map(|group| group.to_le_bytes()));
                self.stage = ClientStage::Subscribing;
                self.write(&groups_message)
            }
        }
    }

    /// Reads all available bytes. With `to_end` it reads until it finds the end of the stream, if there is one.
    pub(crate) fn read(
        &mut self,
        plan: &Plan,
        counts: &mut Counts,
        buffer: &mut [u8],
        to_end: bool,
    ) -> Result<(), Lost> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Err(Lost::Gone),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            if self.rest.is_empty() {
                let used = self.take(&buffer[..read], now, plan, counts)?;
                self.rest.extend_from_slice(&buffer[used..read]);
            } else {
                let mut rest = std::mem::take(&mut self.rest);
                rest.extend_from_slice(&buffer[..read]);
                let used = self.take(&rest, now, plan, counts)?;
                rest.drain(..used);
                self.rest = rest;
            }
            // Bytes that come after a short read make the socket ready again.
            if read < buffer.len() && !to_end {
                return Ok(());
            }
        }
    }

    /// Sends a close frame, as a client does when it leaves.
    pub(crate) fn leave(&mut self) {
        // Nothing depends on whether the close frame arrives.
        self.write(&client_frame(reader::CLOSE, &1000_u16.to_be_bytes())).ok();
    }

    /// Handles all complete frames. Returns how many bytes they have.
    fn take(&mut self, bytes: &[u8], now: Instant, plan: &Plan, counts: &mut Counts) -> Result<usize, Lost> {
        let mut used = 0;
        if self.stage == ClientStage::Opening {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(0) };
            if !bytes.starts_with(b"HTTP/1.1 101 ") {
                return Err(Lost::Refused(
                    String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned(),
                ));
            }
            self.stage = ClientStage::Joining;
            used = end + 4;
        }
        while let Some(frame) = first_frame(&bytes[used..])? {
            used += frame.size;
            match frame.opcode {
                reader::TEXT => self.message(frame, now, plan, counts)?,
                reader::PING => self.write(&client_frame(reader::PONG, frame.payload))?,
                reader::CLOSE => {
                    let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Err(Lost::Closed(code));
                }
                _ => {}
            }
        }
        Ok(used)
    }

    fn message(
        &mut self,
        frame: reader::ServerFrameKind<'_>,
        now: Instant,
        plan: &Plan,
        counts: &mut Counts,
    ) -> Result<(), Lost> {
        let payload = frame.payload;
        match (self.stage, first_type(payload)) {
            (ClientStage::Ready, b"event" | b"early") => {
                counts.frames += 1;
                counts.bytes += frame.size as u64;
                self.events(payload, now, plan, counts);
                Ok(())
            }
            (ClientStage::Joining, b"welcome") => {
                self.stage = ClientStage::Subscribing;
                let subscribe = ClientFrame::Subscribe {
                    name: SubscriptionName::default(),
                    wanted: SubscriptionRequest {
                        filter: plan.filter(self.number).into(),
                        window_ms: Some(plan.window_ms),
                        max_events_per_hour: None,
                        alert: false,
                    },
                    since: None,
                };
                let payload = subscribe.encode(Some(&Id::Number(1.into())), Encoding::Json);
                self.write(&client_frame(reader::TEXT, &payload))
            }
            (ClientStage::Subscribing, b"subscribed") => {
                self.stage = ClientStage::Ready;
                Ok(())
            }
            (ClientStage::Ready, other) => {
                let other = String::from_utf8_lossy(other).into_owned();
                self.warned |= other == "notice" || other == "gap";
                *counts.other_frames.entry(other).or_default() += 1;
                // A notice may be followed by events in the same frame.
                self.events(payload, now, plan, counts);
                Ok(())
            }
            _ => Err(Lost::Unexpected(String::from_utf8_lossy(payload).into_owned())),
        }
    }

    fn events(&mut self, payload: &[u8], now: Instant, plan: &Plan, counts: &mut Counts) {
        let before = self.tally.events;
        for number in counts.numbers.of(payload) {
            self.tally.add(number);
            if let Some(first_due) = counts.first_due.filter(|_| self.measured) {
                counts.latencies.record(plan, number, now.duration_since(first_due));
            }
        }
        counts.events += self.tally.events - before;
    }

    /// Writes a few bytes. The socket has room for them, unless the bench has a fault.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        match self.stream.write(bytes)? {
            written if written == bytes.len() => Ok(()),
            written => Err(Lost::Io(format!("only {written} of {} bytes could be written", bytes.len()))),
        }
    }
}
