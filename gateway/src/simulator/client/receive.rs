//! Processes the frames that a client receives: answers begin promises, events and gaps are recorded, and positions
//! move on.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use bytes::Bytes;
use tickwire_core::ids::{EpochId, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Heartbeat, ReceivedEvent, ServerError, ServerMessage};

use super::super::trace;
use super::facts::ClusterFacts;
use super::{
    ClientConnection, ClientRequest, LogEntry, MAY_CLOSE, PastRequest, Promise, ReceivedForm, SimClient, TOKEN_EXPIRED,
};

impl SimClient {
    /// Receives the frames that have arrived. Returns whether there were any.
    pub(super) fn receive(&mut self, facts: &ClusterFacts) -> bool {
        let mut has_received = false;
        while let Some(connection) = &self.connection {
            let Some(frame) = connection.socket.borrow_mut().receive() else { break };
            has_received = true;
            let frame = Bytes::from(frame);
            trace::line(|| format!("{} receives {:?}", self.name(), LogEntry::Frame(frame.clone())));
            self.log.push(LogEntry::Frame(frame.clone()));
            let messages = ServerMessage::parse(&frame, Encoding::Json).expect("a frame can be read");
            let is_early = messages.first() == Some(&ServerMessage::Early);
            for message in messages {
                self.receive_message(message, is_early, facts);
            }
        }
        let closed = self.connection.as_ref().and_then(|connection| connection.socket.borrow().close_code());
        if let Some(code) = closed {
            has_received = true;
            trace::line(|| format!("{} is closed with {code}", self.name()));
            self.log.push(LogEntry::Closed(code));
            let has_token = self.connection.as_ref().is_some_and(|connection| connection.has_token);
            let may_close = MAY_CLOSE.contains(&code) || has_token && code == TOKEN_EXPIRED;
            assert!(may_close, "closed with {code}: {self:#?}");
            self.disconnect();
        }
        if self.connection.as_ref().is_some_and(|connection| connection.socket.borrow().has_ended()) {
            self.disconnect();
        }
        has_received
    }

    /// Processes one message of a frame.
    fn receive_message(&mut self, message: ServerMessage, is_early: bool, facts: &ClusterFacts) {
        let is_position = matches!(message, ServerMessage::Heartbeat(Heartbeat { position: Some(_) }));
        let was_position = self
            .connection
            .as_mut()
            .is_some_and(|connection| std::mem::replace(&mut connection.is_position_last, is_position));
        match message {
            ServerMessage::Welcome(_) => {
                self.connection.as_mut().expect("it is connected").is_welcome = true;
                self.subscribe_or_resume();
            }
            ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list) => {
                let request = self.connection.as_mut().expect("it is connected").requests.remove(0);
                self.receive_answer(&request, &list.position, facts);
                self.serve_from(facts.now);
            }
            ServerMessage::CaughtUp(end) => {
                self.serve_from(facts.now);
                self.check_resets(&end.position);
                match self.past.take() {
                    Some(past) => {
                        self.pasts.push(past);
                        self.update_position(&end.position, facts, false);
                    }
                    None => {
                        self.is_catching_up = false;
                        self.update_position(&end.position, facts, true);
                    }
                }
            }
            ServerMessage::Heartbeat(Heartbeat { position: Some(position) }) => {
                self.check_resets(&position);
                self.update_position(&position, facts, self.is_catching_up);
            }
            ServerMessage::Heartbeat(Heartbeat { position: None }) => {
                let is_placed = self.connection.as_ref().is_some_and(ClientConnection::is_placed);
                assert!(!is_placed, "a heartbeat without a position: {self:#?}");
            }
            ServerMessage::Event(event) => {
                self.check_delay(&event, facts);
                self.receive_event(&event, is_early);
            }
            ServerMessage::Gap(gap) => {
                let epoch_id = self.position.as_ref().expect("gaps come after an answer").epoch_id;
                // The epoch ends at `gap.from`. Up to there the client has all events, or notices of them.
                let promise = self.promises.last_mut().filter(|_| self.is_promised && !self.is_catching_up);
                if let Some(promise) = promise.filter(|_| gap.reason == "reset") {
                    promise.end[usize::from(gap.p.0)] = gap.from;
                }
                if let Some(connection) = self.connection.as_mut().filter(|_| gap.reason == "reset") {
                    connection.resets.insert(gap.p);
                }
                self.received.entry(epoch_id).or_default().gaps.push(gap);
            }
            ServerMessage::Notice(notice) => {
                self.check_upstream_notice(&notice);
                self.check_expired(&notice, facts);
                if let Some(position) = &self.position {
                    self.received.entry(position.epoch_id).or_default().dropped.extend(&notice.ranges);
                }
                self.notices.push(notice);
            }
            // The client connects again later, to some gateway.
            ServerMessage::Error(error) if self.may_refuse(&error, facts) => self.disconnect(),
            ServerMessage::Error(error) => panic!("refused: {error:?}: {self:#?}"),
            ServerMessage::Goaway(_) => {
                let is_placed = self.connection.as_ref().is_some_and(ClientConnection::is_placed);
                assert!(was_position || !is_placed, "sent away without a position: {self:#?}");
            }
            ServerMessage::Early | ServerMessage::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Whether a client that keeps to the protocol may be refused: its position is beyond the coverage of a gateway
    /// that has lost its cluster or lags.
    fn may_refuse(&self, error: &ServerError, facts: &ClusterFacts) -> bool {
        let is_resume = |connection: &ClientConnection| {
            matches!(connection.requests[..], [ClientRequest::Resume | ClientRequest::ResumeHere(..), ..])
        };
        self.connection.as_ref().is_some_and(is_resume)
            && (error.code == ErrorCode::Unavailable.code() || facts.is_tight && error.msg.contains("beyond the end"))
    }

    /// Processes the answer to a request.
    fn receive_answer(&mut self, request: &ClientRequest, position: &str, facts: &ClusterFacts) {
        match request {
            ClientRequest::Resume => {
                self.connection.as_mut().expect("it is connected").is_new = false;
                self.is_catching_up = true;
                self.update_position(position, facts, true);
            }
            ClientRequest::ResumeHere(filter, from) => {
                // Events after the position of the resume come again, in order.
                let received = self.received.get(&from.epoch_id).into_iter().flat_map(|received| &received.events);
                self.may_come_again.extend(received.filter(|(p, seq)| *seq > from.seqs[usize::from(p.0)]));
                self.order.clear();
                self.connection.as_mut().expect("it is connected").is_new = false;
                let (filter, epoch_id, start) = (*filter, from.epoch_id, from.seqs.clone());
                self.promises.push(Promise { filter, epoch_id, end: start.clone(), start });
                (self.is_promised, self.is_catching_up) = (true, true);
                self.update_position(position, facts, true);
            }
            ClientRequest::Subscribe(filter, since) => {
                self.update_position(position, facts, false);
                self.abandon_past();
                let at = self.position.clone().expect("an answer has a position");
                // If events wait for the client, its position is before the first new event of the subscription.
                let (was_slow, is_new) = self.connection.as_ref().map_or((false, true), |at| (at.was_slow, at.is_new));
                let may_wait = self.is_catching_up || self.past.is_some() || was_slow || facts.has_burst;
                let waits = may_wait && !is_new;
                let (epoch_id, end) = (at.epoch_id, at.seqs);
                let start = if waits { facts.ends(epoch_id) } else { end.clone() };
                // A client that does not resume may have connected to a gateway that lags behind the former one.
                if self.connection.as_mut().is_some_and(|connection| std::mem::take(&mut connection.is_new)) {
                    let given = self.received.get(&epoch_id).into_iter().flat_map(|received| &received.events);
                    self.may_come_again.extend(given.filter(|(p, seq)| *seq > end[usize::from(p.0)]));
                }
                let past = since.map(|since| PastRequest {
                    filter: *filter,
                    since,
                    epoch_id,
                    end: end.clone(),
                    latest: start.clone(),
                    waits,
                    given: BTreeSet::new(),
                    order: BTreeMap::new(),
                    is_wanted: true,
                });
                self.past = past.or(self.past.take());
                self.promises.push(Promise { filter: *filter, epoch_id, start, end });
                self.is_promised = true;
            }
            ClientRequest::List => self.update_position(position, facts, self.is_catching_up),
            ClientRequest::Unsubscribe => {
                self.update_position(position, facts, false);
                self.abandon_past();
                self.is_promised = false;
            }
        }
    }

    /// The subscription with `since` ends before its backfill does.
    fn abandon_past(&mut self) {
        self.past.iter_mut().for_each(|past| past.is_wanted = false);
    }

    /// The client has all events, or notices of them, up to a position. `is_resume` says whether this position
    /// continues that of an earlier connection.
    fn update_position(&mut self, position: &str, facts: &ClusterFacts, is_resume: bool) {
        let position = Position::from_str(position).expect("a position can be read");
        self.seen.retain(|partition, seq| *seq > position.seqs[usize::from(partition.0)]);
        let former = self.position.as_ref().map(|position| position.epoch_id);
        let former = former.filter(|former| *former != position.epoch_id);
        if let (Some(past), Some(former)) = (&mut self.past, former) {
            // Only earlier events that the new epoch keeps can still come.
            let kept = facts.epochs[&position.epoch_id].common_through(former).unwrap_or_default();
            past.latest.iter_mut().for_each(|most| *most = kept.min(*most));
        }
        let promise = self.promises.last().filter(|_| self.is_promised);
        if let Some(promise) = promise {
            if promise.epoch_id == position.epoch_id {
                let moves_back = position.seqs.iter().zip(&promise.end).any(|(now, before)| now < before);
                assert!(!moves_back, "the position moves back to {position}: {self:#?}");
            } else {
                let epoch = facts.epochs[&position.epoch_id];
                // A live session gets the new epoch. One that resumes also gets what the new epoch keeps of the former.
                let kept = epoch.common_through(promise.epoch_id).filter(|_| is_resume);
                // A position that was held back for a former subscription may be before the start of the promise.
                let reached = promise.end.iter().zip(&promise.start).map(|(end, start)| *end.max(start));
                let begin = |seq: Seq| kept.map_or(epoch.before, |kept| kept.min(seq));
                let start: Vec<Seq> = reached.map(begin).collect();
                let (filter, end) = (promise.filter, start.clone());
                self.promises.push(Promise { filter, epoch_id: position.epoch_id, start, end });
                self.begin_epoch(position.epoch_id);
            }
        } else if former.is_some() {
            self.begin_epoch(position.epoch_id);
        }
        if let Some(promise) = self.promises.last_mut().filter(|_| self.is_promised) {
            promise.end.clone_from(&position.seqs);
        }
        self.position = Some(position);
    }

    /// A new epoch begins, in which sequences mean other events.
    fn begin_epoch(&mut self, epoch_id: EpochId) {
        self.seen.clear();
        self.early.clear();
        // A session may get an epoch again from its beginning, at a gateway that did not know the epoch yet.
        self.may_come_again = self.received.get(&epoch_id).map(|received| received.events.clone()).unwrap_or_default();
        self.order.clear();
    }

    /// Records an event, which must be new or may come again, and must come in order.
    fn receive_event(&mut self, event: &ReceivedEvent, is_early: bool) {
        let place = (event.p, event.seq);
        let epoch_id = self.position.as_ref().expect("events come after an answer").epoch_id;
        let key = event.symbol.as_ref().map_or_else(|| format!("{:?}", event.key), ToString::to_string);
        let lane = (event.p, format!("{}/{key}", event.kind), format!("{:?} {:?}", event.priority, event.tags));
        // Earlier events of a subscription with `since` come once, with an order of their own.
        let past = self.past.as_mut().filter(|past| is_early && event.seq <= past.latest[usize::from(event.p.0)]);
        if let Some(past) = past.filter(|past| !past.given.contains(&place)) {
            past.given.insert(place);
            self.early.insert(place);
            let before = past.order.insert(lane, event.seq);
            assert!(before.is_none_or(|before| before < event.seq), "{place:?} comes after {before:?}: {self:#?}");
            return;
        }
        let received = self.received.entry(epoch_id).or_default();
        received.ids.insert((event.p, event.id.clone()));
        let (tags, rooms) = (event.tags.clone(), event.rooms.clone());
        received.forms.push((place, ReceivedForm { priority: event.priority, tags, rooms }));
        let is_new = received.events.insert(place);
        let comes_again = self.may_come_again.remove(&place);
        assert!(is_new || comes_again, "{place:?} comes again: {self:#?}");
        if is_early {
            self.early.insert(place);
        } else {
            let seen = self.seen.entry(event.p).or_insert(event.seq);
            *seen = event.seq.max(*seen);
        }
        let before = self.order.insert(lane, event.seq);
        assert!(before.is_none_or(|before| before < event.seq), "{place:?} comes after {before:?}: {self:#?}");
    }
}
