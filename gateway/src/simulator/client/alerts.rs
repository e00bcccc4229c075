//! Alerts that come again to a client, and acknowledgements. What comes again must be an alert to the client's user that
//! was not acknowledged before the client connected, that a subscription in force admits, and that the client was not
//! given before in this connection. Every acknowledgement must be answered.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;
use serde_json::json;
use tickwire_core::event::{Kind, Kinds};
use tickwire_core::filter::Filter;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::{Partition, Seq, UserId};
use tickwire_core::protocol::codes::{ErrorCode, NoticeCode};
use tickwire_core::protocol::{Acked, Id, Notice, ReceivedEvent, ServerError};

use super::super::cluster::{PARTITIONS, StoredEvent};
use super::super::fixtures::filter;
use super::super::socket::ClientMessage;
use super::super::trace;
use super::SimClient;
use super::facts::ClusterFacts;
use crate::handling::admits;

/// A sequence that no run comes to.
const NEVER_STORED: Seq = Seq(1 << 40);

/// The id of the first acknowledgement of a connection. Other requests have smaller ones.
const FIRST_ACK: u64 = 1_000_000;

/// An alert that a client received, for the first time or again.
#[derive(Debug)]
pub(super) struct ReceivedAlert {
    place: (Partition, Seq),
    id: CompactString,
}

/// What a client knows of alerts in a connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionAlerts {
    /// How many acknowledgements it has sent.
    acks: u64,
    /// The places in those that are not answered, by their ids.
    unanswered: BTreeMap<u64, (Partition, Seq)>,
    /// The ids of the alerts of this epoch that came as new or earlier events, and of those that came again.
    given: BTreeSet<CompactString>,
    again: BTreeSet<CompactString>,
}

impl ConnectionAlerts {
    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// A new epoch begins. It may have the same alerts.
    pub(super) fn begin_epoch(&mut self) {
        self.given.clear();
        self.again.clear();
    }
}

impl SimClient {
    pub(in super::super) fn user_id(&self) -> &UserId {
        &self.user
    }

    /// Whether it has received an alert, for the first time or again.
    pub(in super::super) fn has_alert(&self, stored: &StoredEvent) -> bool {
        self.alerts.iter().any(|alert| alert.id == stored.event.id)
    }

    /// Acknowledges the alert that is this far before the last one, or a place where there may be none. A client with
    /// saved subscriptions acknowledges nothing.
    pub(in super::super) fn acknowledge(&mut self, back: u8) {
        if self.saved.is_some() {
            return;
        }
        let at = self.alerts.len().checked_sub(1 + usize::from(back));
        let other = (Partition(u16::from(back) % PARTITIONS), NEVER_STORED);
        self.send_ack(at.map_or(other, |at| self.alerts[at].place));
    }

    fn send_ack(&mut self, place: (Partition, Seq)) {
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_welcome) else { return };
        let id = FIRST_ACK + connection.alerts.acks;
        connection.alerts.acks += 1;
        connection.alerts.unanswered.insert(id, place);
        let (Partition(p), Seq(seq)) = place;
        let frame = json!({ "action": "ack", "id": id, "p": p, "seq": seq });
        connection.socket.borrow_mut().send(ClientMessage::Frame(frame.to_string().into()));
        trace::line(|| format!("{} sends {frame}", self.name()));
    }

    /// Removes an acknowledgement that is answered. Returns its place.
    fn take_ack(&mut self, id: Option<&Id>) -> (Partition, Seq) {
        let waiting = id.and_then(ack_number).zip(self.connection.as_mut());
        let place = waiting.and_then(|(number, connection)| connection.alerts.unanswered.remove(&number));
        place.unwrap_or_else(|| panic!("no acknowledgement with the id {id:?} waits: {self:#?}"))
    }

    /// An acknowledgement is recorded: the client's user must have had an alert there.
    pub(super) fn receive_acked(&mut self, acked: &Acked, facts: &ClusterFacts) {
        let place = self.take_ack(acked.id.as_ref());
        assert_eq!(place, (acked.p, acked.seq), "another place is acknowledged: {self:#?}");
        let was_alert = facts.alerts_at(&self.user, place).next().is_some();
        assert!(was_alert, "{place:?} is acknowledged and never was an alert to this user: {self:#?}");
    }

    /// An acknowledgement is refused. If it could not be recorded, the client sends it again.
    pub(super) fn receive_not_acked(&mut self, error: &ServerError, facts: &ClusterFacts) {
        let place = self.take_ack(error.id.as_ref());
        let was_alert = facts.alerts_at(&self.user, place).next().is_some();
        match error.code {
            code if code == ErrorCode::NotAnAlert.code() => {
                assert!(!facts.is_quiet || !was_alert, "{place:?} is an alert to this user: {self:#?}");
            }
            code if code == ErrorCode::Unavailable.code() => {
                assert!(!facts.is_quiet, "{place:?} is not recorded without a fault: {self:#?}");
                self.send_ack(place);
            }
            _ => panic!("{error:?} does not answer an acknowledgement: {self:#?}"),
        }
    }

    /// An alert comes that is not sent again. A new one must not have come again before.
    pub(super) fn note_alert(&mut self, event: &ReceivedEvent, is_early: bool, facts: &ClusterFacts) {
        if facts.alerts.is_none() || event.kind != Kind::Alert {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        connection.alerts.given.insert(event.id.clone());
        // A backfill has what the client asks for, whether it came before or not.
        let is_new = !is_early && !self.is_catching_up;
        let came_again = connection.alerts.again.contains(&event.id);
        assert!(!is_new || !came_again, "{event:?} came again before it was new: {self:#?}");
        self.alerts.push(ReceivedAlert { place: (event.p, event.seq), id: event.id.clone() });
    }

    /// An alert comes again.
    pub(super) fn receive_again(&mut self, event: &ReceivedEvent, facts: &ClusterFacts) {
        let place = (event.p, event.seq);
        let stored = facts.alerts_at(&self.user, place).find(|stored| stored.event.id == event.id);
        let (Some(alerts), Some(stored)) = (facts.alerts, stored) else {
            panic!("{event:?} comes again, and never was an alert to this user: {self:#?}");
        };
        let connection = self.connection.as_mut().expect("it is connected");
        let was_given = connection.alerts.given.contains(&event.id);
        let is_first = connection.alerts.again.insert(event.id.clone());
        let is_acked = alerts.answered_at(&self.user, stored).is_some_and(|at| at < connection.since);
        assert!(!is_acked, "{event:?} comes again, and was acknowledged before this connection: {self:#?}");
        assert!(!was_given && is_first, "{event:?} comes again although it came in this connection: {self:#?}");
        // What waits for a slow client may be of a subscription that has ended.
        let is_wanted = self.in_force.iter().any(|promise| {
            let wanted = Filter::parse(&filter(promise.filter), &Kinds::default()).unwrap();
            admits(&wanted, &stored.event, &mut LongValues::default())
        });
        assert!(is_wanted || self.was_slow, "{event:?} comes again, and no subscription admits it: {self:#?}");
        self.alerts.push(ReceivedAlert { place, id: event.id.clone() });
    }

    /// Without faults, all alerts are read.
    pub(super) fn check_again_notice(&self, notice: &Notice, facts: &ClusterFacts) {
        let has_failed = notice.code == NoticeCode::AgainFailed.as_str();
        assert!(!has_failed || !facts.is_quiet, "alerts are not read without a fault: {self:#?}");
    }
}

/// Whether this is the id of an acknowledgement.
pub(super) fn is_of_ack(id: &Id) -> bool {
    ack_number(id).is_some()
}

fn ack_number(id: &Id) -> Option<u64> {
    match id {
        Id::Number(number) => number.as_u64().filter(|number| *number >= FIRST_ACK),
        Id::Text(_) => None,
    }
}
