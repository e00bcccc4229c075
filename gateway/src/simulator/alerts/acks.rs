//! How a gateway records acknowledgements: it looks for the alerts in the stream, reads the record of their user, and
//! writes it by its revision. Between these steps other gateways may write the record. Requests and answers may be lost:
//! then it is not known whether a write has taken effect.

use tickwire_core::event::{Timestamp, key};
use tickwire_core::ids::{Millis, Seq, UserId};
use tickwire_node::clock::millis;
use tickwire_node::names;

use super::super::clocks;
use super::super::cluster::{SimCluster, StoredEvent};
use super::super::trace;
use super::AlertTasks;
use crate::acks::record::{AckRecord, AckedAlert};
use crate::acks::{AckFailure, AckRequest, DEADLINE, TRIES, by_user};
use crate::messages::ToShard;

/// The acknowledgements of one user that a gateway has taken together.
pub(super) struct AckTask {
    user: UserId,
    requests: Vec<AckRequest>,
    /// The alerts that they are about.
    found: Vec<Result<AckedAlert, AckFailure>>,
    step: AckStep,
    /// How often another gateway was faster.
    tries: usize,
    due: Millis,
    /// The time by which they must be answered.
    until: Millis,
}

/// What comes next.
enum AckStep {
    Find,
    Read,
    /// The record is written if it has this revision.
    Write(u64, AckRecord),
}

impl AckTask {
    /// When it is due next.
    pub(super) fn due(&self) -> Millis {
        self.due
    }

    /// The alerts that were found.
    fn alerts(&self) -> Vec<AckedAlert> {
        self.found.iter().filter_map(|found| found.ok()).collect()
    }
}

impl SimCluster {
    /// Takes acknowledgements when all before them are answered, and goes on with those that are due. Returns whether
    /// any was answered.
    pub(super) fn turn_acks(&mut self, number: usize, tasks: &mut AlertTasks) -> bool {
        if tasks.recording.is_empty() {
            let until = self.now.plus(millis(DEADLINE));
            for (user, requests) in by_user(std::iter::from_fn(|| tasks.acks.try_recv().ok())) {
                let (found, step, due) = (Vec::new(), AckStep::Find, self.now.plus(self.network.delay()));
                tasks.recording.push(AckTask { user, requests, found, step, tries: 0, due, until });
            }
        }
        let (now, mut is_answered) = (self.now, false);
        for mut task in tasks.recording.extract_if(.., |task| task.due <= now).collect::<Vec<_>>() {
            match self.advance_ack(number, &mut task, &mut tasks.loses_answer) {
                None => tasks.recording.push(task),
                Some(results) => {
                    self.answer_acks(number, tasks, task, results);
                    is_answered = true;
                }
            }
        }
        is_answered
    }

    /// Takes the next step. Returns the result of each acknowledgement if it was the last one.
    fn advance_ack(
        &mut self,
        number: usize,
        task: &mut AckTask,
        loses_answer: &mut bool,
    ) -> Option<Vec<Result<(), AckFailure>>> {
        if task.until <= self.now {
            return Some(vec![Err(AckFailure::Unavailable); task.requests.len()]);
        }
        // Without an answer nothing happens until the deadline.
        task.due = task.until;
        if self.gateways[number].is_cut || self.network.loses() {
            return None;
        }
        let mut is_answer_lost = self.network.loses();
        let written = match std::mem::replace(&mut task.step, AckStep::Read) {
            AckStep::Find => {
                task.found = task.requests.iter().map(|request| self.find_alert(request)).collect();
                task.alerts().is_empty().then_some(Ok(()))
            }
            AckStep::Read => {
                let (revision, mut record) = self.bucket().record(&task.user);
                let now = Timestamp(clocks::time_of_day(self.now).0 + self.gateways[number].ahead);
                let is_changed = record.add(now, &task.alerts());
                task.step = AckStep::Write(revision, record);
                (!is_changed).then_some(Ok(()))
            }
            AckStep::Write(revision, record) => {
                is_answer_lost |= std::mem::take(loses_answer);
                let is_written = self.bucket().write(&task.user, revision, &record);
                trace::line(|| format!("{} writes {revision}, {record:?}: {is_written}", self.gateways[number].node));
                task.tries += usize::from(!is_written);
                match is_written {
                    true => Some(Ok(())),
                    false => (task.tries == TRIES).then_some(Err(AckFailure::Unavailable)),
                }
            }
        };
        if is_answer_lost {
            trace::line(|| format!("{} gets no answer about {}", self.gateways[number].node, task.user));
            return None;
        }
        task.due = self.now.plus(self.network.delay());
        written.map(|written| task.found.iter().map(|found| found.and(written)).collect())
    }

    /// The alert that an acknowledgement is about, as the leader of the stream has it.
    fn find_alert(&self, request: &AckRequest) -> Result<AckedAlert, AckFailure> {
        let found = self.readable(Seq(request.seq.0.saturating_sub(1))).next();
        let stored = found.filter(|stored| stored.seq == request.seq).ok_or(AckFailure::NotAnAlert)?;
        request.alert_in(&subject(stored), stored.event.stored)
    }

    /// Answers acknowledgements, and notes which ones the gateway has confirmed.
    fn answer_acks(&mut self, number: usize, tasks: &AlertTasks, task: AckTask, results: Vec<Result<(), AckFailure>>) {
        let AckTask { user, requests, found, .. } = task;
        trace::line(|| format!("{} answers {requests:?}: {results:?}", self.gateways[number].node));
        let now = self.now;
        for (found, result) in found.into_iter().zip(&results) {
            if let (Ok(alert), Ok(())) = (found, result) {
                self.bucket().answered.entry((user.clone(), alert)).or_insert(now);
            }
        }
        for (request, result) in requests.into_iter().zip(results) {
            let shard = usize::from(request.session.shard);
            tasks.shards[shard].send(ToShard::Acked(request.answer(result)));
        }
    }
}

/// The subject that a message is stored under.
fn subject(StoredEvent { partition, event, is_heartbeat, is_unreadable, .. }: &StoredEvent) -> String {
    match *is_heartbeat && !*is_unreadable {
        true => names::heartbeat(partition.0.into()),
        false => names::stored_event(partition.0.into(), event.kind.as_str(), &key::encode(&event.key)),
    }
}
