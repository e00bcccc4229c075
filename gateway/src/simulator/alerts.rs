//! Alerts that clients acknowledge, or that come again. Gateways write the records of acknowledgements at the same time,
//! and requests and answers are lost on their way (`acks`). What sessions ask for is read in steps, between which other
//! things happen (`readings`). Both are the production types, in the order in which their drivers call them.

mod acks;
mod readings;

use std::collections::BTreeMap;

use tickwire_core::event::{Audience, Kind, key};
use tickwire_core::ids::{Millis, Partition, UserId};
use tickwire_node::names;
use tokio::sync::mpsc;

use super::cluster::{AT_ONCE, PARTITIONS, SimCluster, StoredEvent};
use super::plan::{self, Action};
use super::{failing, run};
use crate::acks::AckRequest;
use crate::acks::record::{AckRecord, AckedAlert};
use crate::byte_queue::ByteSender;
use crate::messages::ToShard;
use crate::reminders::ReminderRequest;
use crate::reminders::users::ReadUsers;
use acks::AckTask;
use readings::SimReading;

/// How many alerts come again at most: so few that runs reach it.
pub(super) const AGAIN_MAX: usize = 5;

/// The next turn of tasks that have nothing to do.
const NEVER: Millis = Millis(u64::MAX);

/// What users have acknowledged: the bucket, and the answers that gateways have given.
#[derive(Debug, Default)]
pub(super) struct SimAlerts {
    /// The record of each user, with its revision.
    records: BTreeMap<UserId, (u64, Vec<u8>)>,
    /// How many writes there were.
    writes: u64,
    /// When a gateway first answered that an alert is acknowledged.
    answered: BTreeMap<(UserId, AckedAlert), Millis>,
    /// The clients that connect at the end of a run to get what is not acknowledged.
    pub(super) readers: Vec<usize>,
}

impl SimAlerts {
    /// The record of a user and its revision, which is 0 if there is none. It must have everything that a gateway has
    /// answered.
    pub(super) fn record(&self, user: &UserId) -> (u64, AckRecord) {
        let found = self.records.get(user);
        let record = found.map(|(_, value)| AckRecord::read(value).expect("a record can be read"));
        let record = record.unwrap_or_default();
        let known = record.sequences();
        for (_, alert) in self.answered.keys().filter(|(of, _)| of == user) {
            let is_there = known.binary_search(&(alert.seq, alert.stored)).is_ok();
            assert!(is_there, "{alert:?} of {user} was acknowledged, and is not in {record:?}");
        }
        (found.map_or(0, |(revision, _)| *revision), record)
    }

    /// Writes the record of a user if it has this revision. Returns whether it had.
    fn write(&mut self, user: &UserId, revision: u64, record: &AckRecord) -> bool {
        let is_same = self.records.get(user).map_or(0, |(revision, _)| *revision) == revision;
        if is_same {
            self.writes += 1;
            let value = record.write().expect("a record can be written");
            self.records.insert(user.clone(), (self.writes, value));
        }
        is_same
    }

    /// When a gateway first answered that this alert of a user is acknowledged.
    pub(super) fn answered_at(&self, user: &UserId, stored: &StoredEvent) -> Option<Millis> {
        let StoredEvent { partition: p, seq, event, .. } = stored;
        let alert = AckedAlert { stored: event.stored, p: *p, seq: *seq };
        self.answered.get(&(user.clone(), alert)).copied()
    }
}

/// The tasks of a gateway that record acknowledgements, and read alerts that come again.
pub(super) struct AlertTasks {
    shards: Vec<ByteSender<ToShard>>,
    acks: mpsc::Receiver<AckRequest>,
    /// The users whose acknowledgements are recorded now.
    recording: Vec<AckTask>,
    /// Whether the answer to the next write is lost.
    loses_answer: bool,
    requests: mpsc::Receiver<ReminderRequest>,
    users: ReadUsers,
    readings: Vec<SimReading>,
}

impl AlertTasks {
    pub(super) fn new(
        acks: mpsc::Receiver<AckRequest>,
        requests: mpsc::Receiver<ReminderRequest>,
        shards: Vec<ByteSender<ToShard>>,
    ) -> Box<Self> {
        let (recording, users, readings) = (Vec::new(), ReadUsers::default(), Vec::new());
        Box::new(Self { shards, acks, recording, loses_answer: false, requests, users, readings })
    }

    /// Whether all acknowledgements are answered.
    pub(super) fn has_recorded(&self) -> bool {
        self.recording.is_empty() && self.acks.is_empty()
    }

    /// The time of the next turn.
    fn due(&self) -> Millis {
        let readings = self.readings.iter().map(SimReading::due);
        self.recording.iter().map(AckTask::due).chain(readings).fold(NEVER, Millis::min)
    }
}

impl SimCluster {
    /// Gives the tasks of a gateway a turn. Returns when the gateway must have its next one.
    pub(super) fn turn_alerts(&mut self, number: usize) -> Millis {
        let Some(mut tasks) = self.gateways[number].alerts.take() else { return NEVER };
        let is_answered = self.turn_acks(number, &mut tasks) | self.turn_readings(number, &mut tasks);
        let due = if is_answered { AT_ONCE } else { tasks.due() };
        self.gateways[number].alerts = Some(tasks);
        due
    }

    /// A gateway gets no answer to the next record that it writes, although it is stored.
    pub(super) fn lose_ack_answer(&mut self, number: usize) {
        if let Some(tasks) = &mut self.gateways[number].alerts {
            tasks.loses_answer = true;
        }
    }

    /// What users have acknowledged, in a run in which they do.
    fn bucket(&mut self) -> &mut SimAlerts {
        self.alerts.as_mut().expect("users acknowledge alerts in this run")
    }
}

/// Whether a message is an alert to this user.
pub(super) fn is_alert_to(stored: &StoredEvent, user: &UserId) -> bool {
    let StoredEvent { event, is_heartbeat, .. } = stored;
    !*is_heartbeat && event.kind == Kind::Alert && matches!(&event.audience, Audience::User(to) if to == user)
}

/// The partition that has the alerts of a user.
pub(super) fn partition_of_alerts(user: &UserId) -> Partition {
    Partition(names::alerts_of(PARTITIONS.into(), &key::encode(user.as_str())).0 as u16)
}

/// Two clients of a user acknowledge alerts at two gateways at once. One gateway gets no answer, so its client sends the
/// acknowledgement again. At the end, new clients get the other alerts.
#[test]
fn only_alerts_that_no_gateway_has_recorded_come_again() {
    for seed in 0..8 {
        let connect = |gateway| Action::Connect { gateway, user: 2, filter: 6 };
        let alerts = std::iter::repeat_n(Action::Address { user: 2 }, 8);
        let mut actions = vec![connect(0), connect(1), Action::Pass(1_500)];
        actions.extend(alerts.chain([Action::Pass(1_000), Action::LoseAckAnswer { gateway: 1 }]));
        let acks = [(0, 1), (1, 2), (0, 3), (1, 1)];
        actions.extend(acks.map(|(session, back)| Action::Acknowledge { session, back }));
        actions.extend([Action::Pass(6_500), Action::Resume { session: 0, gateway: 2 }, Action::Pass(1_000)]);
        run(&failing(seed, 0, plan::GIVE_UP_AFTER, actions));
    }
}
