//! Clients that do as docs/protocol.md says, and keep what they were promised, given and told.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::str::FromStr;

use bytes::Bytes;
use serde_json::{Value, json};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Epoch, EpochId, Partition, Seq, UserId};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Gap, Notice, Range, ReceivedEvent, ServerError, ServerMessage};

use super::cluster::{AT_ONCE, NODES, PARTITIONS, SimCluster, StoredEvent};
use super::gateway::identity;
use super::made::filter;
use super::plan::REPLAY_RANGE;
use super::socket::Line;
use super::trace;

/// The name of the one subscription that a client has.
const NAME: &str = "mine";

/// What a client that does nothing wrong may be closed with; all ask it to come back: it read too slowly, another gateway has
/// room, or this one has lost its cluster.
const MAY_CLOSE: [u16; 4] = [4008, 4010, 4012, 4013];

/// From when on a filter is in force until it is replaced, or another life of the stream begins.
#[derive(Debug)]
pub(super) struct Promise {
    filter: u32,
    epoch_id: EpochId,
    /// Per partition, after which sequence it begins.
    start: Vec<Seq>,
    /// Per partition, up to where everything was given or told, as the client was told.
    end: Vec<Seq>,
}

/// What was stored before a subscription that is wanted with it.
#[derive(Debug)]
struct AskedPast {
    filter: u32,
    /// From when on it was stored.
    since: Timestamp,
    epoch_id: EpochId,
    /// Per partition, up to where it is promised, and up to where it may be given: something may have waited for the client.
    end: Vec<Seq>,
    most: Vec<Seq>,
    given: BTreeSet<(Partition, Seq)>,
    /// Per key and priority, the last event of it.
    order: BTreeMap<Lane, Seq>,
    /// Whether its subscription is there still.
    is_wanted: bool,
}

/// Within this, events come in their order.
type Lane = (Partition, String, String);

/// What a client cannot know.
pub(super) struct ClientWorld<'a> {
    /// All lives of the stream so far.
    pub(super) epochs: &'a BTreeMap<EpochId, Epoch>,
    /// What was stored in each.
    pub(super) history: &'a BTreeMap<EpochId, Vec<StoredEvent>>,
    /// Whether a gateway that lags a little takes positions for ones that cannot be.
    pub(super) is_tight: bool,
}

impl ClientWorld<'_> {
    /// Per partition, the last message that is stored.
    fn ends(&self, epoch_id: EpochId) -> Vec<Seq> {
        let mut ends = vec![self.epochs[&epoch_id].before; usize::from(PARTITIONS)];
        for stored in &self.history[&epoch_id] {
            let end = &mut ends[usize::from(stored.partition.0)];
            *end = stored.seq.max(*end);
        }
        ends
    }
}

/// What came of a life of the stream.
#[derive(Debug, Default)]
struct Taken {
    events: BTreeSet<(Partition, Seq)>,
    gaps: Vec<Gap>,
    /// Where events stand that were dropped, since the client read too slowly.
    dropped: Vec<Range>,
}

/// A connection.
#[derive(Debug)]
struct ClientConnection {
    gateway: usize,
    line: Line,
    is_welcome: bool,
    /// What was asked for and is not answered yet, in order.
    asked: Vec<AskedSubscription>,
    /// Whether its kernel has ever not taken all that came.
    was_slow: bool,
    /// Whether it was told of an outage of the cluster, and not yet of its end.
    outage_notified: bool,
    /// Whether nothing was in force in it yet.
    is_new: bool,
}

#[derive(Debug)]
enum AskedSubscription {
    Subscribe(u32, Option<Timestamp>),
    Resume,
    /// The same in a connection in which something was subscribed to: what is wanted, and from where on.
    ResumeHere(u32, Position),
    Unsubscribe,
}

#[derive(Debug)]
pub(super) struct SimClient {
    user: UserId,
    connection: Option<ClientConnection>,
    /// Whether it means to be connected.
    pub(super) is_wanted: bool,
    /// The filter that it wants; `None` for none.
    wanted: Option<u32>,
    position: Option<Position>,
    seen: BTreeMap<Partition, Seq>,
    /// What came early in this connection.
    early: BTreeSet<(Partition, Seq)>,
    /// What came early in one before, and may come again.
    may_come_again: BTreeSet<(Partition, Seq)>,
    /// The past is on its way: positions are held back.
    is_catching_up: bool,
    /// What is on its way of the time before a subscription.
    past: Option<AskedPast>,
    /// What was all given or told of that.
    pasts: Vec<AskedPast>,
    promises: Vec<Promise>,
    /// Whether the last promise is in force.
    is_promised: bool,
    taken: BTreeMap<EpochId, Taken>,
    /// Per key and priority, the last event that came in this connection.
    order: BTreeMap<Lane, Seq>,
    /// What it has ever asked for.
    filters: BTreeSet<u32>,
    notices: Vec<Notice>,
    /// Whether it has ever not taken all that came.
    was_slow: bool,
    /// The last things that it heard, for a reader of a failure.
    heard: Vec<String>,
}

impl SimClient {
    pub(super) fn new(user: UserId) -> Self {
        Self {
            user,
            connection: None,
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
            taken: BTreeMap::new(),
            order: BTreeMap::new(),
            filters: BTreeSet::new(),
            notices: Vec::new(),
            was_slow: false,
            heard: Vec::new(),
        }
    }

    /// That gateway is no more.
    pub(super) fn lose(&mut self, gateway: usize) {
        if self.connection.as_ref().is_some_and(|connection| connection.gateway == gateway) {
            self.disconnect();
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Goes without a word.
    pub(super) fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.line.borrow_mut().cut();
        }
        self.may_come_again.append(&mut self.early);
        self.order.clear();
        (self.is_catching_up, self.past) = (false, None);
    }

    /// From now on so many bytes of what it is sent are taken, or all.
    pub(super) fn set_room(&mut self, room: Option<usize>) {
        if let Some(connection) = &mut self.connection {
            connection.was_slow |= room.is_some();
            self.was_slow |= room.is_some();
            connection.line.borrow_mut().set_room(room);
        }
    }

    /// Who it is, and where, for a reader.
    fn name(&self) -> String {
        let at = self.connection.as_ref().map(|connection| format!(" at gateway {}", connection.gateway));
        format!("{}{}", self.user, at.unwrap_or_default())
    }

    fn say(&mut self, frame: &Value, asked: AskedSubscription) {
        trace::line(|| format!("{} says {frame}", self.name()));
        if let Some(connection) = &mut self.connection {
            connection.line.borrow_mut().say(frame);
            connection.asked.push(asked);
        }
    }

    /// Wants this from now on, beside nothing else.
    pub(super) fn subscribe(&mut self, wanted: u32) {
        self.want(wanted, None);
    }

    /// The same, from a time on, as it is spoken, if nothing of the past is on its way.
    pub(super) fn look_back(&mut self, wanted: u32, spoken: &str, since: Timestamp) {
        let is_free = |asked: &AskedSubscription| {
            matches!(asked, AskedSubscription::Subscribe(_, None) | AskedSubscription::Unsubscribe)
        };
        let may = |connection: &ClientConnection| connection.is_welcome && connection.asked.iter().all(is_free);
        if self.is_catching_up || self.past.is_some() || !self.connection.as_ref().is_some_and(may) {
            return self.subscribe(wanted);
        }
        self.want(wanted, Some((spoken, since)));
    }

    fn want(&mut self, wanted: u32, past: Option<(&str, Timestamp)>) {
        self.wanted = Some(wanted);
        self.filters.insert(wanted);
        if self.connection.as_ref().is_some_and(|connection| connection.is_welcome) {
            let mut frame = json!({ "action": "subscribe", "name": NAME, "filter": filter(wanted) });
            if let Some((spoken, _)) = past {
                frame["since"] = json!(spoken);
            }
            self.say(&frame, AskedSubscription::Subscribe(wanted, past.map(|(_, since)| since)));
        }
    }

    pub(super) fn unsubscribe(&mut self) {
        if self.wanted.take().is_none() {
            return;
        }
        if self.connection.as_ref().is_some_and(|connection| connection.is_welcome) {
            self.say(&json!({ "action": "unsubscribe", "name": NAME }), AskedSubscription::Unsubscribe);
        }
    }

    /// Gives up what it has, and goes on in the same connection where it is, with something else.
    pub(super) fn resume_here(&mut self, wanted: u32) {
        let Some(mut from) = self.position.clone() else { return };
        if !self.connection.as_ref().is_some_and(|connection| connection.is_welcome && connection.asked.is_empty()) {
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
        self.say(&frame, AskedSubscription::ResumeHere(wanted, from));
    }

    fn resume(&self, position: &Position, wanted: u32) -> Value {
        let seen: BTreeMap<String, Seq> = self.seen.iter().map(|(p, seq)| (p.to_string(), *seq)).collect();
        json!({
            "action": "resume",
            "position": position.to_string(),
            "seen": seen,
            "subscriptions": { NAME: { "filter": filter(wanted) } },
        })
    }

    /// Says what it wants: where it was, if it was somewhere.
    fn begin(&mut self) {
        let Some(wanted) = self.wanted else {
            self.is_promised = false;
            return;
        };
        let Some(position) = self.position.as_ref().filter(|_| self.is_promised) else { return self.subscribe(wanted) };
        let in_force = self.promises.last().expect("a promise is in force").filter;
        let frame = self.resume(position, in_force);
        self.say(&frame, AskedSubscription::Resume);
        if in_force != wanted {
            self.subscribe(wanted);
        }
    }

    /// Takes in what has come. Returns whether anything has.
    pub(super) fn hear(&mut self, world: &ClientWorld) -> bool {
        let mut has_heard = false;
        while let Some(connection) = &self.connection {
            let Some(frame) = connection.line.borrow_mut().hear() else { break };
            has_heard = true;
            trace::line(|| format!("{} hears {}", self.name(), String::from_utf8_lossy(&frame)));
            self.heard.push(String::from_utf8_lossy(&frame).into_owned());
            let messages = ServerMessage::parse(&Bytes::from(frame), Encoding::Json).expect("a frame can be read");
            let is_early = messages.first() == Some(&ServerMessage::Early);
            for message in messages {
                self.take(message, is_early, world);
            }
        }
        let closed = self.connection.as_ref().and_then(|connection| connection.line.borrow().closed());
        if let Some(code) = closed {
            has_heard = true;
            trace::line(|| format!("{} is closed with {code}", self.name()));
            self.heard.push(format!("closed {code}"));
            // What a client that does nothing wrong may be closed with, which all ask it to come back.
            assert!(MAY_CLOSE.contains(&code), "closed with {code}: {self:#?}");
            self.disconnect();
        }
        if self.connection.as_ref().is_some_and(|connection| connection.line.borrow().is_over()) {
            self.disconnect();
        }
        has_heard
    }

    fn take(&mut self, message: ServerMessage, is_early: bool, world: &ClientWorld) {
        match message {
            ServerMessage::Welcome(_) => {
                self.connection.as_mut().expect("it is connected").is_welcome = true;
                self.begin();
            }
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => {
                let asked = self.connection.as_mut().expect("it is connected").asked.remove(0);
                self.answered(&asked, &list.position, world);
            }
            ServerMessage::CaughtUp(end) => match self.past.take() {
                Some(past) => {
                    self.pasts.push(past);
                    self.move_on(&end.position, world, false);
                }
                None => {
                    self.is_catching_up = false;
                    self.move_on(&end.position, world, true);
                }
            },
            ServerMessage::Heartbeat(beat) => self.move_on(&beat.position, world, self.is_catching_up),
            ServerMessage::Event(event) => self.given(&event, is_early),
            ServerMessage::Gap(gap) => {
                let epoch_id = self.position.as_ref().expect("gaps come behind an answer").epoch_id;
                // A life of the stream ends there: up to there everything was given or told.
                let promise = self.promises.last_mut().filter(|_| self.is_promised && !self.is_catching_up);
                if let Some(promise) = promise.filter(|_| gap.reason == "reset") {
                    promise.end[usize::from(gap.p.0)] = gap.from;
                }
                self.taken.entry(epoch_id).or_default().gaps.push(gap);
            }
            ServerMessage::Notice(notice) => {
                self.hear_of_upstream(&notice);
                if let Some(position) = &self.position {
                    self.taken.entry(position.epoch_id).or_default().dropped.extend(&notice.ranges);
                }
                self.notices.push(notice);
            }
            // It comes back later, at some gateway.
            ServerMessage::Error(error) if self.may_refuse(&error, world) => self.disconnect(),
            ServerMessage::Error(error) => panic!("refused: {error:?}: {self:#?}"),
            ServerMessage::Early | ServerMessage::Goaway(_) | ServerMessage::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Whether a client that does nothing wrong may be refused: it is further than a gateway that has lost its cluster.
    fn may_refuse(&self, error: &ServerError, world: &ClientWorld) -> bool {
        let is_resume = |connection: &ClientConnection| {
            matches!(connection.asked[..], [AskedSubscription::Resume | AskedSubscription::ResumeHere(..), ..])
        };
        self.connection.as_ref().is_some_and(is_resume)
            && (error.code == ErrorCode::Unavailable.code() || world.is_tight && error.msg.contains("beyond the end"))
    }

    fn answered(&mut self, asked: &AskedSubscription, position: &str, world: &ClientWorld) {
        match asked {
            AskedSubscription::Resume => {
                self.connection.as_mut().expect("it is connected").is_new = false;
                self.is_catching_up = true;
                self.move_on(position, world, true);
            }
            AskedSubscription::ResumeHere(filter, from) => {
                // What came while it was on its way comes again, in order.
                let taken = self.taken.get(&from.epoch_id).into_iter().flat_map(|taken| &taken.events);
                self.may_come_again.extend(taken.filter(|(p, seq)| *seq > from.seqs[usize::from(p.0)]));
                self.order.clear();
                let (filter, epoch_id, start) = (*filter, from.epoch_id, from.seqs.clone());
                self.promises.push(Promise { filter, epoch_id, end: start.clone(), start });
                (self.is_promised, self.is_catching_up) = (true, true);
                self.move_on(position, world, true);
            }
            AskedSubscription::Subscribe(filter, since) => {
                self.move_on(position, world, false);
                self.leave_past();
                let at = self.position.clone().expect("an answer has a position");
                // Where something waits for the client, its position lies further back than what is new begins.
                let was_slow = self.connection.as_ref().is_some_and(|connection| connection.was_slow);
                let waits = self.is_catching_up || self.past.is_some() || was_slow;
                let (epoch_id, end) = (at.epoch_id, at.seqs);
                let start = if waits { world.ends(epoch_id) } else { end.clone() };
                // Whoever does not go on where it was may be at a gateway that lags.
                if self.connection.as_mut().is_some_and(|connection| std::mem::take(&mut connection.is_new)) {
                    let given = self.taken.get(&epoch_id).into_iter().flat_map(|taken| &taken.events);
                    self.may_come_again.extend(given.filter(|(p, seq)| *seq > end[usize::from(p.0)]));
                }
                let past = since.map(|since| AskedPast {
                    filter: *filter,
                    since,
                    epoch_id,
                    end: end.clone(),
                    most: start.clone(),
                    given: BTreeSet::new(),
                    order: BTreeMap::new(),
                    is_wanted: true,
                });
                self.past = past.or(self.past.take());
                self.promises.push(Promise { filter: *filter, epoch_id, start, end });
                self.is_promised = true;
            }
            AskedSubscription::Unsubscribe => {
                self.move_on(position, world, false);
                self.leave_past();
                self.is_promised = false;
            }
        }
    }

    /// The subscription whose past is on its way has ended.
    fn leave_past(&mut self) {
        self.past.iter_mut().for_each(|past| past.is_wanted = false);
    }

    /// It has been given or told everything up to here. `goes_on` is whether that was where an earlier connection was.
    fn move_on(&mut self, position: &str, world: &ClientWorld, goes_on: bool) {
        let position = Position::from_str(position).expect("a position can be read");
        self.seen.retain(|partition, seq| *seq > position.seqs[usize::from(partition.0)]);
        if let Some(past) = self.past.as_mut().filter(|past| past.epoch_id != position.epoch_id) {
            // Of that only what the new life keeps can come.
            let kept = world.epochs[&position.epoch_id].common_through(past.epoch_id).unwrap_or_default();
            past.most.iter_mut().for_each(|most| *most = kept.min(*most));
        }
        let promise = self.promises.last().filter(|_| self.is_promised);
        if let Some(promise) = promise {
            if promise.epoch_id == position.epoch_id {
                let moves_back = position.seqs.iter().zip(&promise.end).any(|(now, before)| now < before);
                assert!(!moves_back, "a position moves back to {position}: {self:#?}");
            } else {
                let epoch = world.epochs[&position.epoch_id];
                // Who was there when it began is given the new life; who comes back, also what that keeps of the former.
                let kept = epoch.common_through(promise.epoch_id).filter(|_| goes_on);
                // A position that is held back for what was given up lies before where the promise begins.
                let reached = promise.end.iter().zip(&promise.start).map(|(end, start)| *end.max(start));
                let begin = |seq: Seq| kept.map_or(epoch.before, |kept| kept.min(seq));
                let start: Vec<Seq> = reached.map(begin).collect();
                let (filter, end) = (promise.filter, start.clone());
                self.promises.push(Promise { filter, epoch_id: position.epoch_id, start, end });
                self.seen.clear();
                self.early.clear();
                // Who was at a gateway that had not come to this life yet is given it from its beginning, once more.
                let taken = self.taken.get(&position.epoch_id);
                self.may_come_again = taken.map(|taken| taken.events.clone()).unwrap_or_default();
                self.order.clear();
            }
        }
        if let Some(promise) = self.promises.last_mut().filter(|_| self.is_promised) {
            promise.end.clone_from(&position.seqs);
        }
        self.position = Some(position);
    }

    fn given(&mut self, event: &ReceivedEvent, is_early: bool) {
        let place = (event.p, event.seq);
        let epoch_id = self.position.as_ref().expect("events come behind an answer").epoch_id;
        let key = event.symbol.as_ref().map_or_else(|| format!("{:?}", event.key), ToString::to_string);
        let lane = (event.p, format!("{}/{key}", event.kind), format!("{:?}", event.priority));
        // What is before a subscription is given beside all else, and once.
        let past = self.past.as_mut().filter(|past| is_early && event.seq <= past.most[usize::from(event.p.0)]);
        if let Some(past) = past.filter(|past| !past.given.contains(&place)) {
            past.given.insert(place);
            self.early.insert(place);
            let before = past.order.insert(lane, event.seq);
            assert!(before.is_none_or(|before| before < event.seq), "{place:?} comes behind {before:?}: {self:#?}");
            return;
        }
        let is_new = self.taken.entry(epoch_id).or_default().events.insert(place);
        let comes_again = self.may_come_again.remove(&place);
        assert!(is_new || comes_again, "{place:?} comes again: {self:#?}");
        if is_early {
            self.early.insert(place);
        } else {
            let seen = self.seen.entry(event.p).or_insert(event.seq);
            *seen = event.seq.max(*seen);
        }
        let before = self.order.insert(lane, event.seq);
        assert!(before.is_none_or(|before| before < event.seq), "{place:?} comes behind {before:?}: {self:#?}");
    }

    /// Whether everything was given or told, up to here.
    pub(super) fn is_at(&self, epoch_id: EpochId, ends: &[Seq]) -> bool {
        let Some(connection) = &self.connection else { return !self.is_wanted };
        if self.wanted.is_none() {
            return connection.asked.is_empty() && self.past.is_none() && !self.is_catching_up;
        }
        let Some(position) = &self.position else { return false };
        let is_there = position.epoch_id == epoch_id && position.seqs.iter().zip(ends).all(|(at, end)| at >= end);
        is_there && connection.asked.is_empty() && !self.is_catching_up && self.past.is_none() && self.is_promised
    }
}

impl SimCluster {
    /// A client connects to a gateway, if it is there.
    pub(super) fn connect(&mut self, at: usize, gateway: usize) {
        let (now, client) = (self.now, &mut self.clients[at]);
        client.is_wanted = true;
        if client.connection.is_some() || self.gateways[gateway].is_down {
            return;
        }
        let line = Line::default();
        self.gateways[gateway].arrive(now, identity(&client.user), &line);
        client.connection = Some(ClientConnection {
            gateway,
            line: Rc::clone(&line),
            is_welcome: false,
            asked: Vec::new(),
            was_slow: false,
            outage_notified: false,
            is_new: true,
        });
    }

    /// Clients take in what has come.
    pub(super) fn hear(&mut self) {
        let is_tight = self.config.gateway.replay_range < REPLAY_RANGE;
        let world = ClientWorld { epochs: &self.epochs, history: &self.history, is_tight };
        let mut have_heard = [false; NODES];
        for client in &mut self.clients {
            let gateway = client.connection.as_ref().map(|connection| connection.gateway);
            if let Some(gateway) = gateway.filter(|_| client.hear(&world)) {
                self.gateways[gateway].due = AT_ONCE;
                have_heard[gateway] = true;
            }
        }
        (0..NODES).filter(|gateway| have_heard[*gateway]).for_each(|gateway| self.check_outage(gateway));
    }
}
