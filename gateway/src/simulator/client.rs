//! Clients that follow docs/protocol.md. They record what they were promised, which events they got, and of which
//! gaps they were notified.

mod check;
mod connect;
mod facts;
mod receive;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use compact_str::CompactString;
use serde_json::{Value, json};
use tickwire_core::event::{Priority, Timestamp};
use tickwire_core::ids::{EpochId, Millis, Partition, Room, Seq, UserId};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Gap, Notice, SeqRange};

use super::clocks;
use super::cluster::{AT_ONCE, NODES, SimCluster};
use super::fixtures::{filter, names_many_symbols, user};
use super::gateway::identity;
use super::plan::REPLAY_RANGE;
use super::socket::{ClientMessage, ClientSocket};
use super::trace;

/// The number of the user whose subscriptions have `max_events_per_hour`, and its value.
const USER_WITH_QUOTA: u32 = 3;
const QUOTA: u32 = 6;

/// The name of the only subscription of a client.
const NAME: &str = "mine";

/// The codes with which a gateway may close a client that keeps to the protocol. With all of them the client connects
/// again: it read too slowly, another gateway has room, or this one drains or has lost its cluster.
pub(super) const MAY_CLOSE: [u16; 5] = [1012, 4008, 4010, 4012, 4013];

/// The code with which a gateway closes a client whose token has expired. The client connects again with another one.
const TOKEN_EXPIRED: u16 = 4009;

/// The range in which a filter is in force: until it is replaced, or a new epoch begins.
#[derive(Debug)]
pub(super) struct Promise {
    filter: u32,
    epoch_id: EpochId,
    /// For each partition, the sequence after which the range begins.
    start: Vec<Seq>,
    /// For each partition, the last position that the client got: up to there it has every event or a notice.
    end: Vec<Seq>,
}

/// The earlier events that a subscription with `since` asks for.
#[derive(Debug)]
struct PastRequest {
    filter: u32,
    /// The time from which on they were stored.
    since: Timestamp,
    epoch_id: EpochId,
    /// For each partition, the sequence up to which they are promised, and the one up to which they may be given. The
    /// two differ if events may have waited for the client.
    end: Vec<Seq>,
    latest: Vec<Seq>,
    /// Whether events may have waited for the client when it subscribed.
    waits: bool,
    given: BTreeSet<(Partition, Seq)>,
    /// For each key and priority, the last of them that came.
    order: BTreeMap<Lane, Seq>,
    /// Whether the subscription still exists.
    is_wanted: bool,
}

/// A partition, a key, and a priority with the tags. Events that have them in common come in their order.
type Lane = (Partition, String, String);

/// What rules may change of an event: its priority, its tags and its rooms.
#[derive(Debug, PartialEq)]
struct ReceivedForm {
    priority: Priority,
    tags: Vec<CompactString>,
    rooms: Vec<Room>,
}

/// What a client received of one epoch.
#[derive(Debug, Default)]
struct Received {
    events: BTreeSet<(Partition, Seq)>,
    /// The events by their ids.
    ids: BTreeSet<(Partition, CompactString)>,
    /// The forms in which events came, by their places.
    forms: Vec<((Partition, Seq), ReceivedForm)>,
    gaps: Vec<Gap>,
    /// The ranges of dropped events.
    dropped: Vec<SeqRange>,
}

/// A client's connection to a gateway.
#[derive(Debug)]
struct ClientConnection {
    gateway: usize,
    socket: ClientSocket,
    since: Millis,
    /// Whether it has a token that expires.
    has_token: bool,
    is_welcome: bool,
    /// The requests that are not answered yet, in order.
    requests: Vec<ClientRequest>,
    /// Whether its socket has ever taken only a part of what was sent.
    was_slow: bool,
    /// Whether the client was notified of an outage of the cluster, and not yet of its end.
    outage_notified: bool,
    /// Whether it has not had a subscription or a resume yet.
    is_new: bool,
    /// Whether the last message was a heartbeat with a position.
    is_position_last: bool,
    /// The partitions for which a `reset` came since the last position of a heartbeat or of the end of a backfill.
    resets: BTreeSet<Partition>,
    /// The time since which new events arrive without a backfill before them.
    served_since: Millis,
}

impl ClientConnection {
    /// Whether the gateway knows the client's position.
    fn is_placed(&self) -> bool {
        let is_resume =
            |request: &ClientRequest| matches!(request, ClientRequest::Resume | ClientRequest::ResumeHere(..));
        !self.is_new && !self.requests.iter().any(is_resume)
    }
}

#[derive(Debug)]
enum ClientRequest {
    Subscribe(u32, Option<Timestamp>),
    Resume,
    /// A resume in a connection that already had a subscription: the new filter, and the position.
    ResumeHere(u32, Position),
    Unsubscribe,
    List,
}

/// What a client received, for the output of a failure.
enum LogEntry {
    Frame(Bytes),
    Closed(u16),
}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(frame) => f.write_str(&String::from_utf8_lossy(frame)),
            Self::Closed(code) => write!(f, "closed {code}"),
        }
    }
}

#[derive(Debug)]
pub(super) struct SimClient {
    user: UserId,
    connection: Option<ClientConnection>,
    /// How many connections it has had.
    connections: u32,
    /// Whether it wants to be connected.
    pub(super) is_wanted: bool,
    /// The filter that it wants; `None` for none.
    wanted: Option<u32>,
    position: Option<Position>,
    seen: BTreeMap<Partition, Seq>,
    /// The events that came early in this connection.
    early: BTreeSet<(Partition, Seq)>,
    /// The events that came in an earlier connection or epoch, and may come again.
    may_come_again: BTreeSet<(Partition, Seq)>,
    /// Whether the session has a backfill after a resume. Positions do not move on before its end.
    is_catching_up: bool,
    /// The request for earlier events whose backfill has not ended.
    past: Option<PastRequest>,
    /// The requests for earlier events whose backfill has ended.
    pasts: Vec<PastRequest>,
    promises: Vec<Promise>,
    /// Whether the last promise is in force.
    is_promised: bool,
    received: BTreeMap<EpochId, Received>,
    /// For each key, priority and tags, the last event that came in this connection.
    order: BTreeMap<Lane, Seq>,
    /// All filters that it has ever had.
    filters: BTreeSet<u32>,
    notices: Vec<Notice>,
    /// Whether its sockets have ever taken only a part of what was sent.
    pub(super) was_slow: bool,
    /// Everything that it received, for the output of a failure.
    log: Vec<LogEntry>,
}

impl SimClient {
    pub(super) fn new(user: UserId) -> Self {
        Self {
            user,
            connection: None,
            connections: 0,
            is_wanted: false,
            wanted: None,
            position: None,
            seen: BTreeMap::new(),
            early: BTreeSet::new(),
            may_come_again: BTreeSet::new(),
            is_catching_up: false,
            past: None,
            pasts: Vec::new(),
            promises: Vec::new(),
            is_promised: false,
            received: BTreeMap::new(),
            order: BTreeMap::new(),
            filters: BTreeSet::new(),
            notices: Vec::new(),
            was_slow: false,
            log: Vec::new(),
        }
    }

    /// Ends the connection, if it was to this gateway.
    pub(super) fn gateway_stopped(&mut self, gateway: usize) {
        if self.connection.as_ref().is_some_and(|connection| connection.gateway == gateway) {
            self.disconnect();
        }
    }

    /// The gateway that it is connected to.
    pub(super) fn gateway(&self) -> Option<usize> {
        self.connection.as_ref().map(|connection| connection.gateway)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Disconnects without a close frame.
    pub(super) fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.socket.borrow_mut().cut();
        }
        self.may_come_again.append(&mut self.early);
        self.order.clear();
        (self.is_catching_up, self.past) = (false, None);
    }

    /// Sets how many bytes more its socket takes; `None` for all.
    pub(super) fn set_room(&mut self, room: Option<usize>) {
        if let Some(connection) = &mut self.connection {
            connection.was_slow |= room.is_some();
            self.was_slow |= room.is_some();
            connection.socket.borrow_mut().set_room(room);
        }
    }

    /// Its user and its gateway, for the trace.
    fn name(&self) -> String {
        let at = self.connection.as_ref().map(|connection| format!(" at gateway {}", connection.gateway));
        format!("{}{}", self.user, at.unwrap_or_default())
    }

    /// Sends a frame that gets an answer.
    fn send(&mut self, frame: &Value, request: ClientRequest) {
        trace::line(|| format!("{} sends {frame}", self.name()));
        if let Some(connection) = &mut self.connection {
            connection.socket.borrow_mut().send(ClientMessage::Frame(frame.to_string().into()));
            connection.requests.push(request);
        }
    }

    /// Replaces its subscription by one with this filter.
    pub(super) fn subscribe(&mut self, wanted: u32) {
        self.want(wanted, None);
    }

    /// Subscribes with `since`, unless another backfill may be under way. Then it subscribes without.
    pub(super) fn look_back(&mut self, wanted: u32, since_text: &str, since: Timestamp) {
        let is_free =
            |request: &ClientRequest| matches!(request, ClientRequest::Subscribe(_, None) | ClientRequest::Unsubscribe);
        let may = |connection: &ClientConnection| connection.is_welcome && connection.requests.iter().all(is_free);
        if self.is_catching_up || self.past.is_some() || !self.connection.as_ref().is_some_and(may) {
            return self.subscribe(wanted);
        }
        self.want(wanted, Some((since_text, since)));
    }

    fn want(&mut self, wanted: u32, past: Option<(&str, Timestamp)>) {
        self.wanted = Some(wanted);
        self.filters.insert(wanted);
        if self.connection.as_ref().is_some_and(|connection| connection.is_welcome) {
            let mut frame = self.subscription_json(wanted);
            (frame["action"], frame["name"]) = (json!("subscribe"), json!(NAME));
            if let Some((since_text, _)) = past {
                frame["since"] = json!(since_text);
            }
            self.send(&frame, ClientRequest::Subscribe(wanted, past.map(|(_, since)| since)));
        }
    }

    /// Replaces a filter that names many symbols by one that names none.
    pub(super) fn replace_large_filter(&mut self) {
        if self.wanted.is_some_and(names_many_symbols) {
            self.subscribe(0);
        }
    }

    pub(super) fn unsubscribe(&mut self) {
        if self.wanted.take().is_none() {
            return;
        }
        if self.connection.as_ref().is_some_and(|connection| connection.is_welcome) {
            self.send(&json!({ "action": "unsubscribe", "name": NAME }), ClientRequest::Unsubscribe);
        }
    }

    /// Asks for its position with `list`, unless it waits for an answer, which will have the position.
    pub(super) fn list(&mut self) {
        let may = |connection: &ClientConnection| connection.is_welcome && connection.requests.is_empty();
        if self.is_promised && self.connection.as_ref().is_some_and(may) {
            self.send(&json!({ "action": "list" }), ClientRequest::List);
        }
    }

    /// Unsubscribes, and resumes from its position in the same connection with another filter.
    pub(super) fn resume_here(&mut self, wanted: u32) {
        let Some(mut from) = self.position.clone() else { return };
        if !self.connection.as_ref().is_some_and(|connection| connection.is_welcome && connection.requests.is_empty()) {
            return;
        }
        self.unsubscribe();
        self.wanted = Some(wanted);
        self.filters.insert(wanted);
        let frame = self.resume(&from, wanted);
        for (partition, seq) in &self.seen {
            let at = &mut from.seqs[usize::from(partition.0)];
            *at = (*at).max(*seq);
        }
        self.send(&frame, ClientRequest::ResumeHere(wanted, from));
    }

    /// A resume frame.
    fn resume(&self, position: &Position, wanted: u32) -> Value {
        let seen: BTreeMap<String, Seq> = self.seen.iter().map(|(p, seq)| (p.to_string(), *seq)).collect();
        json!({
            "action": "resume",
            "position": position.to_string(),
            "seen": seen,
            "subscriptions": { NAME: self.subscription_json(wanted) },
        })
    }

    /// A subscription as frames carry it.
    fn subscription_json(&self, wanted: u32) -> Value {
        match self.quota() {
            Some(quota) => json!({ "filter": filter(wanted), "max_events_per_hour": quota }),
            None => json!({ "filter": filter(wanted) }),
        }
    }

    /// The `max_events_per_hour` of its subscriptions.
    pub(super) fn quota(&self) -> Option<u32> {
        (self.user == user(USER_WITH_QUOTA)).then_some(QUOTA)
    }

    /// Begins a connection: resumes if it had a subscription in force, or subscribes.
    fn subscribe_or_resume(&mut self) {
        let Some(wanted) = self.wanted else {
            self.is_promised = false;
            return;
        };
        let Some(position) = self.position.as_ref().filter(|_| self.is_promised) else { return self.subscribe(wanted) };
        let in_force = self.promises.last().expect("a promise is in force").filter;
        let frame = self.resume(position, in_force);
        self.send(&frame, ClientRequest::Resume);
        if in_force != wanted {
            self.subscribe(wanted);
        }
    }

    /// Whether it got all events, or notices of them, up to these sequences.
    pub(super) fn has_reached(&self, epoch_id: EpochId, ends: &[Seq]) -> bool {
        let Some(connection) = &self.connection else { return !self.is_wanted };
        if self.wanted.is_none() {
            return connection.requests.is_empty() && self.past.is_none() && !self.is_catching_up;
        }
        let Some(position) = &self.position else { return false };
        let is_there = position.epoch_id == epoch_id && position.seqs.iter().zip(ends).all(|(at, end)| at >= end);
        is_there && connection.requests.is_empty() && !self.is_catching_up && self.past.is_none() && self.is_promised
    }
}
