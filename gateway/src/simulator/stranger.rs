//! Strangers: clients that do what the protocol does not allow. Each of their frames must be answered with a code of
//! docs/protocol.md, or end the connection with one. Other clients must not be affected.

mod frames;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::str::FromStr;

use bytes::Bytes;
use tickwire_core::ids::{EpochId, Millis, Seq, UserId};
use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Id, ServerError, ServerMessage};

use super::client::MAY_CLOSE;
use super::cluster::{AT_ONCE, NODES, PARTITIONS, SimCluster};
use super::fixtures::user;
use super::gateway::identity;
use super::socket::{ClientMessage, ClientSocket};
use super::trace;
use frames::{OK, StrangerAction};

pub(super) use frames::KINDS;

/// The number of the first user that is a stranger.
const FIRST_STRANGER: u32 = 500;

/// The errors for malformed frames. A client may cause `gateway.max_malformed` of them a minute.
const MALFORMED: [ErrorCode; 4] =
    [ErrorCode::BadFrame, ErrorCode::BadFilter, ErrorCode::UnknownAction, ErrorCode::BadField];

/// A stranger sends nothing while this many of its frames are unanswered.
const UNANSWERED: usize = 200;

/// The configured limits of a client.
#[derive(Clone, Copy, Debug)]
struct Limits {
    malformed: u64,
    rate: u64,
    burst: u64,
    subscriptions: usize,
}

#[derive(Debug)]
pub(super) struct Stranger {
    user: UserId,
    connection: Option<Connection>,
    position: Position,
}

#[derive(Debug)]
struct Connection {
    gateway: usize,
    socket: ClientSocket,
    since: Millis,
    /// The unanswered frames with an id, and the codes of the answers that they may get.
    unanswered: BTreeMap<u64, &'static [u16]>,
    /// The codes of the errors that unanswered frames without an id get, in order.
    without_id: Vec<u16>,
    last_id: u64,
    answered: u64,
    malformed: u64,
    subscriptions: usize,
    /// The code with which the gateway must close after a violation of the WebSocket protocol.
    breach: Option<u16>,
}

impl Connection {
    fn send(&mut self, message: ClientMessage) {
        self.socket.borrow_mut().send(message);
    }

    /// Receives an error, which must be one that the frame may get.
    fn receive_error(&mut self, now: Millis, limits: Limits, error: &ServerError) {
        self.count_answer(now, limits);
        match &error.id {
            Some(Id::Number(id)) => {
                let id = id.as_u64().expect("ids are numbers");
                let codes = self.unanswered.remove(&id).unwrap_or_else(|| panic!("{id} is answered twice: {self:#?}"));
                assert!(codes.contains(&error.code), "{error:?} is not one of {codes:?}: {self:#?}");
            }
            other => {
                assert!(other.is_none() && !self.without_id.is_empty(), "no frame explains {error:?}: {self:#?}");
                assert_eq!(self.without_id.remove(0), error.code, "{error:?}: {self:#?}");
            }
        }
        self.malformed += u64::from(MALFORMED.iter().any(|code| code.code() == error.code));
        // The frame that exceeds the limit is answered as well.
        let most = limits.malformed + 1 + now.since(self.since) * limits.malformed / 60_000;
        assert!(self.malformed <= most, "not closed after {} malformed frames: {self:#?}", self.malformed);
    }

    /// Receives an answer that is no error.
    fn receive_success(&mut self, now: Millis, limits: Limits, id: Option<&Id>) {
        let Some(Id::Number(id)) = id else { return };
        let id = id.as_u64().expect("ids are numbers");
        let codes = self.unanswered.remove(&id).unwrap_or_else(|| panic!("{id} is answered twice: {self:#?}"));
        assert!(codes.contains(&OK), "success is not one of {codes:?}: {self:#?}");
        self.count_answer(now, limits);
    }

    /// Counts an answer. A gateway must not answer faster than it may read commands.
    fn count_answer(&mut self, now: Millis, limits: Limits) {
        self.answered += 1;
        let most = limits.burst + 1 + now.since(self.since) * limits.rate / 1_000;
        assert!(self.answered <= most, "more answers than commands may be read: {self:#?}");
    }

    /// Whether the gateway may close the connection with this code.
    fn may_close(&self, limits: Limits, code: u16) -> bool {
        let is_malformed = code == CloseCode::TooManyBadFrames.code() && self.malformed > limits.malformed;
        is_malformed || self.breach == Some(code) || MAY_CLOSE.contains(&code)
    }
}

impl Stranger {
    fn new(number: u32) -> Self {
        let position = Position { epoch_id: EpochId(1), seqs: vec![Seq(0); usize::from(PARTITIONS)] };
        Self { user: user(FIRST_STRANGER + number), connection: None, position }
    }

    /// Sends a frame of a kind, or ends the connection.
    fn send(&mut self, kind: u8) {
        let Some(connection) = &mut self.connection else { return };
        if connection.unanswered.len() >= UNANSWERED || connection.breach.is_some() {
            return;
        }
        connection.last_id += 1;
        let id = connection.last_id;
        let frame = frames::frame(kind, id, &self.position, connection.subscriptions > 0);
        trace::line(|| format!("{} at gateway {} sends {frame:?}", self.user, connection.gateway));
        match frame {
            StrangerAction::WithId { text, codes } => {
                connection.unanswered.insert(id, codes);
                connection.send(ClientMessage::Frame(text.into()));
            }
            StrangerAction::WithoutId(message, code) => {
                connection.without_id.push(code);
                connection.send(message);
            }
            StrangerAction::Breach(code) => {
                connection.breach = Some(code.code());
                connection.send(ClientMessage::Breach(code));
            }
            StrangerAction::Leave => self.leave(),
        }
    }

    fn leave(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.socket.borrow_mut().cut();
        }
    }

    /// Ends the connection, if it was to this gateway.
    pub(super) fn gateway_stopped(&mut self, gateway: usize) {
        if self.connection.as_ref().is_some_and(|connection| connection.gateway == gateway) {
            self.leave();
        }
    }

    /// Whether all its frames are answered.
    pub(super) fn is_answered(&self) -> bool {
        let is_answered = |connection: &Connection| {
            connection.unanswered.is_empty() && connection.without_id.is_empty() && connection.breach.is_none()
        };
        self.connection.as_ref().is_none_or(is_answered)
    }

    /// Receives the frames that have arrived. Returns the gateway that sent them, if there were any.
    fn receive(&mut self, now: Millis, limits: Limits) -> Option<usize> {
        let mut receiving_gateway = None;
        while let Some(connection) = &mut self.connection {
            let Some(frame) = connection.socket.borrow_mut().receive() else { break };
            receiving_gateway = Some(connection.gateway);
            trace::line(|| format!("{} receives {}", self.user, String::from_utf8_lossy(&frame)));
            for message in ServerMessage::parse(&Bytes::from(frame), Encoding::Json).expect("a frame can be read") {
                match message {
                    ServerMessage::Error(error) => connection.receive_error(now, limits, &error),
                    ServerMessage::Pong(pong) => connection.receive_success(now, limits, pong.id.as_ref()),
                    ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => {
                        connection.receive_success(now, limits, list.id.as_ref());
                        connection.subscriptions = list.subscriptions.len();
                        assert!(
                            connection.subscriptions <= limits.subscriptions,
                            "too many subscriptions: {connection:#?}"
                        );
                        self.position = Position::from_str(&list.position).expect("a position can be read");
                    }
                    _ => {}
                }
            }
        }
        let connection = self.connection.as_ref()?;
        let (closed, is_over) = (connection.socket.borrow().close_code(), connection.socket.borrow().has_ended());
        if let Some(code) = closed {
            assert!(connection.may_close(limits, code), "closed with {code}: {self:#?}");
            receiving_gateway = Some(connection.gateway);
        }
        if closed.is_some() || is_over {
            assert!(closed.is_some() || connection.breach.is_none(), "a violation is closed without a code: {self:#?}");
            self.leave();
        }
        receiving_gateway
    }
}

impl SimCluster {
    /// A stranger sends a frame of a kind several times. It connects first, if it is not connected.
    pub(super) fn act_as_stranger(&mut self, number: u8, gateway: usize, kind: u8, times: u8) {
        let at = usize::from(number);
        while self.strangers.len() <= at {
            self.strangers.push(Stranger::new(self.strangers.len() as u32));
        }
        let (now, stranger) = (self.now, &mut self.strangers[at]);
        if stranger.connection.is_none() && !self.gateways[gateway].is_down {
            let socket = ClientSocket::default();
            self.gateways[gateway].accept(identity(&stranger.user, None), &socket, false);
            stranger.connection = Some(Connection {
                gateway,
                socket: Rc::clone(&socket),
                since: now,
                unanswered: BTreeMap::new(),
                without_id: Vec::new(),
                last_id: 0,
                answered: 0,
                malformed: 0,
                subscriptions: 0,
                breach: None,
            });
        }
        (0..frames::times(kind, times)).for_each(|_| stranger.send(kind));
    }

    /// All strangers receive the frames that have arrived.
    pub(super) fn receive_at_strangers(&mut self) {
        let config = &self.config.gateway;
        let limits = Limits {
            malformed: config.max_malformed.into(),
            rate: config.command_rate.into(),
            burst: config.command_burst.into(),
            subscriptions: config.max_subscriptions,
        };
        for stranger in &mut self.strangers {
            if let Some(gateway) = stranger.receive(self.now, limits).filter(|gateway| *gateway < NODES) {
                self.gateways[gateway].due = AT_ONCE;
            }
        }
    }
}
