//! Clients that follow docs/protocol.md. They record what they were promised, which events they got, and of which
//! gaps they were notified. `saved` is what is different for those with the saved subscriptions of their users.

mod alerts;
mod check;
mod connect;
mod facts;
mod promise;
mod receive;
mod saved;

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
use super::fixtures::{NAME, filter, names_many_symbols, user};
use super::gateway::identity;
use super::plan::REPLAY_RANGE;
use super::socket::{ClientMessage, ClientSocket};
use super::trace;
use alerts::{ConnectionAlerts, ReceivedAlert};
use promise::{Lane, PastRequest, Promise};
use saved::ClientSaved;

/// The number of the user whose subscriptions have `max_events_per_hour`, and its value.
const USER_WITH_QUOTA: u32 = 3;
const QUOTA: u32 = 6;

/// The codes with which a gateway may close a client that keeps to the protocol. With all of them the client connects
/// again: it read too slowly, another gateway has room, or this one drains or has lost its cluster.
pub(super) const MAY_CLOSE: [u16; 5] = [1012, 4008, 4010, 4012, 4013];

/// The code with which a gateway closes a client whose token has expired. The client connects again with another one.
const TOKEN_EXPIRED: u16 = 4009;

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
    /// The lists of subscriptions that were in force when events came, for a client with saved ones.
    lists: Vec<((Partition, Seq), usize)>,
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
    alerts: ConnectionAlerts,
}

impl ClientConnection {
    /// Whether the gateway knows the client's position.
    fn is_placed(&self) -> bool {
        !self.is_new && !self.requests.iter().any(ClientRequest::is_resume)
    }
}

#[derive(Debug)]
enum ClientRequest {
    Subscribe(u32, Option<Timestamp>),
    Resume,
    /// A resume in a connection that already had a subscription: the new filter, and the position.
    ResumeHere(u32, Position),
    /// A resume of a client with saved subscriptions: the filter of its own subscription, and the position.
    ResumeSaved(Option<u32>, Position),
    Unsubscribe,
    /// The same for a client with saved subscriptions: from the subscription of this name, or from all.
    End(&'static str),
    EndAll,
    List,
}

impl ClientRequest {
    fn is_resume(&self) -> bool {
        matches!(self, Self::Resume | Self::ResumeHere(..) | Self::ResumeSaved(..))
    }
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
    /// The promises that have ended, and those that are in force.
    promises: Vec<Promise>,
    in_force: Vec<Promise>,
    received: BTreeMap<EpochId, Received>,
    /// For each key, priority and tags, the last event that came in this connection.
    order: BTreeMap<Lane, Seq>,
    /// All filters that it has ever had.
    filters: BTreeSet<u32>,
    notices: Vec<Notice>,
    /// The alerts that it received in a run in which they come again.
    alerts: Vec<ReceivedAlert>,
    /// What it knows of the saved subscriptions of its user; `None` if it does not want them.
    saved: Option<Box<ClientSaved>>,
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
            in_force: Vec::new(),
            received: BTreeMap::new(),
            order: BTreeMap::new(),
            filters: BTreeSet::new(),
            notices: Vec::new(),
            alerts: Vec::new(),
            saved: None,
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
    fn send(&mut self, mut frame: Value, request: ClientRequest) {
        if let (Some(saved), Some(_)) = (&mut self.saved, &self.connection) {
            // Saved subscriptions bring lists that answer nothing.
            frame["id"] = json!(saved.next_id());
        }
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

    /// Subscribes with `since`, unless another backfill may be under way, or the client gets saved subscriptions. Then
    /// it subscribes without.
    pub(super) fn look_back(&mut self, wanted: u32, since_text: &str, since: Timestamp) {
        let is_free =
            |request: &ClientRequest| matches!(request, ClientRequest::Subscribe(_, None) | ClientRequest::Unsubscribe);
        let may = |connection: &ClientConnection| connection.is_welcome && connection.requests.iter().all(is_free);
        if self.saved.is_some()
            || self.is_catching_up
            || self.past.is_some()
            || !self.connection.as_ref().is_some_and(may)
        {
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
            self.send(frame, ClientRequest::Subscribe(wanted, past.map(|(_, since)| since)));
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
            let request = if self.saved.is_some() { ClientRequest::End(NAME) } else { ClientRequest::Unsubscribe };
            self.send(json!({ "action": "unsubscribe", "name": NAME }), request);
        }
    }

    /// Asks for its position with `list`, unless it waits for an answer, which will have the position.
    pub(super) fn list(&mut self) {
        let may = |connection: &ClientConnection| connection.is_welcome && connection.requests.is_empty();
        if !self.in_force.is_empty() && self.connection.as_ref().is_some_and(may) {
            self.send(json!({ "action": "list" }), ClientRequest::List);
        }
    }

    /// Unsubscribes, and resumes from its position in the same connection with another filter.
    pub(super) fn resume_here(&mut self, wanted: u32) {
        let Some(mut from) = self.position.clone() else { return };
        if !self.connection.as_ref().is_some_and(|connection| connection.is_welcome && connection.requests.is_empty()) {
            return;
        }
        match &self.saved {
            // Those that are held back were not applied yet, so they cannot be ended first.
            Some(saved) if saved.is_held() => return,
            Some(_) => self.send(json!({ "action": "unsubscribe", "name": "*" }), ClientRequest::EndAll),
            None => self.unsubscribe(),
        }
        self.wanted = Some(wanted);
        self.filters.insert(wanted);
        let frame = self.resume(&from, Some(wanted));
        self.add_seen(&mut from);
        self.send(frame, ClientRequest::ResumeHere(wanted, from));
    }

    /// Moves a position on to the events that the client has seen after it.
    fn add_seen(&self, position: &mut Position) {
        for (partition, seq) in &self.seen {
            let at = &mut position.seqs[usize::from(partition.0)];
            *at = (*at).max(*seq);
        }
    }

    /// A resume frame, with a subscription of the client or none.
    fn resume(&self, position: &Position, wanted: Option<u32>) -> Value {
        let seen: BTreeMap<String, Seq> = self.seen.iter().map(|(p, seq)| (p.to_string(), *seq)).collect();
        let mut frame = json!({ "action": "resume", "position": position.to_string(), "seen": seen });
        if let Some(wanted) = wanted {
            frame["subscriptions"] = json!({ NAME: self.subscription_json(wanted) });
        }
        frame
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
        let Some(wanted) = self.wanted else { return self.end_promises(|_| true) };
        let [Promise { filter: in_force, .. }] = self.in_force[..] else { return self.subscribe(wanted) };
        let position = self.position.as_ref().expect("a promise has a position");
        let frame = self.resume(position, Some(in_force));
        self.send(frame, ClientRequest::Resume);
        if in_force != wanted {
            self.subscribe(wanted);
        }
    }

    /// Whether it got all events, or notices of them, up to these sequences.
    pub(super) fn has_reached(&self, epoch_id: EpochId, ends: &[Seq]) -> bool {
        let Some(connection) = &self.connection else { return !self.is_wanted };
        if connection.alerts.has_unanswered() {
            return false;
        }
        if self.wanted.is_none() && (self.saved.is_none() || self.in_force.is_empty()) {
            return connection.requests.is_empty() && self.past.is_none() && !self.is_catching_up;
        }
        let Some(position) = &self.position else { return false };
        let is_there = position.epoch_id == epoch_id && position.seqs.iter().zip(ends).all(|(at, end)| at >= end);
        let is_promised = !self.in_force.is_empty();
        is_there && connection.requests.is_empty() && !self.is_catching_up && self.past.is_none() && is_promised
    }
}
