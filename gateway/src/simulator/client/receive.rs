//! Processes the frames that a client receives: answers begin promises, events and gaps are recorded, and positions
//! move on (`promise`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Encoding, Heartbeat, ReceivedEvent, ServerError, ServerMessage};

use super::super::trace;
use super::alerts::is_of_ack;
use super::facts::ClusterFacts;
use super::promise::{PastRequest, PromiseStart};
use super::{ClientConnection, ClientRequest, LogEntry, MAY_CLOSE, NAME, ReceivedForm, SimClient, TOKEN_EXPIRED};

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
            ServerMessage::Welcome(welcome) => {
                self.connection.as_mut().expect("it is connected").is_welcome = true;
                if self.saved.is_some() {
                    self.begin_with_saved(&welcome, facts);
                } else {
                    assert!(welcome.subscriptions.is_empty(), "it wants no saved subscriptions: {self:#?}");
                    self.subscribe_or_resume();
                }
            }
            ServerMessage::Subscribed(list) if self.saved.is_some() => self.receive_list(&list, true, facts),
            ServerMessage::Subscriptions(list) if self.saved.is_some() => self.receive_list(&list, false, facts),
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
            ServerMessage::Event(event) if event.again => self.receive_again(&event, facts),
            ServerMessage::Event(event) => {
                self.note_alert(&event, is_early, facts);
                self.check_delay(&event, facts);
                self.receive_event(&event, is_early);
            }
            ServerMessage::Gap(gap) => {
                let epoch_id = self.position.as_ref().expect("gaps come after an answer").epoch_id;
                // The epoch ends at `gap.from`. Up to there the client has all events, or notices of them.
                if gap.reason == "reset" && !self.is_catching_up {
                    self.in_force.iter_mut().for_each(|promise| promise.end[usize::from(gap.p.0)] = gap.from);
                }
                if let Some(connection) = self.connection.as_mut().filter(|_| gap.reason == "reset") {
                    connection.resets.insert(gap.p);
                    connection.alerts.begin_epoch();
                }
                self.received.entry(epoch_id).or_default().gaps.push(gap);
            }
            ServerMessage::Notice(notice) => {
                self.check_upstream_notice(&notice);
                self.check_again_notice(&notice, facts);
                self.check_expired(&notice, facts);
                if let Some(position) = &self.position {
                    self.received.entry(position.epoch_id).or_default().dropped.extend(&notice.ranges);
                }
                self.notices.push(notice);
            }
            ServerMessage::Acked(acked) => self.receive_acked(&acked, facts),
            ServerMessage::Error(error) if error.id.as_ref().is_some_and(is_of_ack) => {
                self.receive_not_acked(&error, facts);
            }
            // The client connects again later, to some gateway.
            ServerMessage::Error(error) if self.may_refuse(&error, facts) => self.disconnect(),
            ServerMessage::Error(error) if self.saved.is_some() => self.receive_error(&error, facts),
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
        let is_resume =
            |connection: &ClientConnection| connection.requests.first().is_some_and(ClientRequest::is_resume);
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
                self.come_again_after(from);
                self.connection.as_mut().expect("it is connected").is_new = false;
                self.end_promises(|_| true);
                self.in_force.push(PromiseStart::at(from).promise(NAME, *filter));
                self.is_catching_up = true;
                self.update_position(position, facts, true);
            }
            ClientRequest::Subscribe(filter, since) => {
                self.update_position(position, facts, false);
                self.abandon_past();
                let start = self.start_subscription(facts);
                let past = since.map(|since| PastRequest {
                    filter: *filter,
                    since,
                    epoch_id: start.epoch_id,
                    end: start.end.clone(),
                    latest: start.start.clone(),
                    waits: start.waits,
                    given: BTreeSet::new(),
                    order: BTreeMap::new(),
                    is_wanted: true,
                });
                self.past = past.or(self.past.take());
                self.end_promises(|_| true);
                self.in_force.push(start.promise(NAME, *filter));
            }
            ClientRequest::List => self.update_position(position, facts, self.is_catching_up),
            ClientRequest::Unsubscribe => {
                self.update_position(position, facts, false);
                self.abandon_past();
                self.end_promises(|_| true);
            }
            ClientRequest::ResumeSaved(..) | ClientRequest::End(_) | ClientRequest::EndAll => {
                panic!("a request of a client with saved subscriptions: {request:?}: {self:#?}")
            }
        }
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
        received.lists.extend(self.saved.as_ref().map(|saved| (place, saved.list_in_force())));
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
