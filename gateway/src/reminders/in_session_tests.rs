//! What comes again to a session, by examples and against a naive account of all that has happened.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, Millis, NodeId, NodeRef, Nonce, Partition, UserId};
use tickwire_testkit::blank_event;

use super::*;
use crate::acks::record::{AckRecord, AckedAlert};
use crate::outbox::FRAME_EVENTS;
use crate::reminders::reading::{NextPage, ReadPage, ReminderLimits, UserReading};

const PARTITION: Partition = Partition(1);

/// An alert about a topic, stored at the time of its sequence.
fn alert(seq: u64, topic: u8) -> Arc<Delivery> {
    let event = Event { id: topic.to_string().into(), stored: Timestamp(seq as i64), ..blank_event() };
    Arc::new(Delivery::new(event, PARTITION, Seq(seq)))
}

fn alerts(seqs: &[u64]) -> Vec<Arc<Delivery>> {
    seqs.iter().map(|seq| alert(*seq, 0)).collect()
}

/// Up to this sequence of the partition of the alerts.
fn through(seq: u64) -> Arc<[Seq]> {
    [Seq(0), Seq(seq)].into()
}

/// The sequences of what comes again to all subscriptions of these alerts.
fn chosen(reminders: &mut SessionReminders, seqs: &[u64]) -> Vec<u64> {
    let chosen = reminders.choose(&alerts(seqs), |_, _, _| true);
    chosen.into_iter().map(|(_, alert)| alert.seq.0).collect()
}

#[test]
fn alerts_before_a_subscription_come_again_once() {
    let mut reminders = SessionReminders::default();
    assert!(!reminders.begin_reading(), "nothing is due");
    reminders.owe(1, &through(10));
    assert!(reminders.begin_reading() && !reminders.begin_reading(), "one reading at a time");
    assert_eq!(chosen(&mut reminders, &[4, 10, 11]), [4, 10], "it gets 11 as a new event");
    reminders.owe(2, &through(20));
    assert!(reminders.begin_reading());
    assert_eq!(chosen(&mut reminders, &[4, 10, 11, 20]), [11, 20]);
}

#[test]
fn what_the_session_was_given_does_not_come_again() {
    let mut reminders = SessionReminders::default();
    [12, 11, 12].into_iter().for_each(|seq| reminders.note_given(Seq(seq)));
    reminders.owe(1, &through(20));
    assert!(reminders.begin_reading());
    reminders.note_given(Seq(14));
    assert_eq!(chosen(&mut reminders, &[10, 11, 12, 13, 14]), [10, 13]);
}

#[test]
fn subscription_that_is_added_during_a_reading_waits_for_the_next_one() {
    let mut reminders = SessionReminders::default();
    reminders.owe(1, &through(10));
    assert!(reminders.begin_reading());
    reminders.owe(2, &through(12));
    let of_first = reminders.choose(&alerts(&[9, 11]), |subscription, _, _| subscription == 2);
    assert!(of_first.is_empty(), "the reading was for the first one alone");
    assert!(reminders.begin_reading());
    let of_second = reminders.choose(&alerts(&[9, 11]), |subscription, _, _| subscription == 2);
    assert_eq!(
        of_second.iter().map(|(subscription, alert)| (*subscription, alert.seq.0)).collect::<Vec<_>>(),
        [(2, 9), (2, 11)]
    );
    reminders.owe(2, &through(12));
    assert!(reminders.begin_reading() && reminders.is_awaited() && reminders.fail() && !reminders.fail());
}

#[test]
fn nothing_from_before_a_new_epoch_comes_again() {
    let mut reminders = SessionReminders::default();
    reminders.owe(1, &through(10));
    assert!(reminders.begin_reading());
    reminders.begin_epoch(Seq(8));
    assert!(!reminders.begin_reading() && !reminders.is_awaited(), "the former reading is still under way");
    assert_eq!(chosen(&mut reminders, &[7, 9]), [0; 0]);
    reminders.owe(1, &through(10));
    assert!(reminders.begin_reading());
    assert_eq!(chosen(&mut reminders, &[7, 9]), [9]);
}

#[test]
fn memory_is_bounded_and_nothing_comes_twice_beyond_it() {
    let mut reminders = SessionReminders::default();
    let many = GIVEN as u64 + 5;
    (1..=many).for_each(|seq| reminders.note_given(Seq(2 * seq)));
    assert_eq!((reminders.given.len(), reminders.floor), (GIVEN, Seq(10)));
    reminders.owe(1, &through(1_000));
    assert!(reminders.begin_reading());
    assert_eq!(chosen(&mut reminders, &[3, 4, 9, 11, 12, 13]), [11, 13]);
}

fn enqueue(reminders: &mut SessionReminders, seq: u64) {
    let (delivery, since) = (alert(seq, 0), Millis(0));
    reminders.enqueue(QueuedEvent { delivery, since, subscription: 1, conflated: 0, alert: false, exempt: false });
}

#[test]
fn alert_that_a_backfill_delivers_while_it_waits_does_not_come_again() {
    let (mut reminders, mut frame) = (SessionReminders::default(), Frame::default());
    (1..=3).for_each(|seq| enqueue(&mut reminders, seq));
    reminders.note_given(Seq(2));
    assert!(reminders.fill(&mut frame, Encoding::Json));
    let sent: Vec<u64> = frame.events.iter().map(|waiting| waiting.delivery.seq.0).collect();
    assert_eq!(sent, [1, 3]);
}

#[test]
fn waiting_alerts_leave_in_frames_of_bounded_size() {
    let (mut reminders, mut frame, mut sent) = (SessionReminders::default(), Frame::default(), Vec::new());
    (1..=FRAME_EVENTS as u64 + 2).for_each(|seq| enqueue(&mut reminders, seq));
    while reminders.fill(&mut frame, Encoding::Json) {
        assert!(frame.again && !frame.early && frame.notices.is_empty());
        sent.push(frame.events.len());
    }
    assert_eq!(sent, [FRAME_EVENTS, 2]);
}

/// A step of a run. Topics are 0 to 2, and a subscription wants those whose bits are set.
#[derive(Clone, Debug)]
enum Step {
    Store(u8),
    Subscribe(u32, u8),
    Acknowledge(usize),
    /// A reading begins, with pages of this many alerts.
    Read(usize),
    Answer,
    Epoch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u8).prop_map(Step::Store),
        3 => (1..4_u32, 1..8_u8).prop_map(|(number, topics)| Step::Subscribe(number, topics)),
        2 => any::<usize>().prop_map(Step::Acknowledge),
        3 => (1..5_usize).prop_map(Step::Read),
        3 => Just(Step::Answer),
        1 => Just(Step::Epoch),
    ]
}

/// Whether a subscription to these topics wants alerts about this one.
fn wants(topics: u8, topic: u8) -> bool {
    topics & (1_u8 << topic) != 0
}

/// All that is known of an alert.
#[derive(Debug)]
struct KnownAlert {
    seq: u64,
    topic: u8,
    is_of_this_epoch: bool,
    is_acked: bool,
    /// How often the session was given it.
    given: u32,
}

/// The subscriptions of a reading, and up to where alerts are due for each, and the alerts that it has read.
type RunningReading = (BTreeMap<u32, u64>, Vec<Arc<Delivery>>);

/// A session, and the naive account of it.
#[derive(Debug, Default)]
struct SessionRun {
    reminders: SessionReminders,
    window: u64,
    most: usize,
    /// Each has the sequence of its place, from 1 on.
    alerts: Vec<KnownAlert>,
    topics: BTreeMap<u32, u8>,
    /// The subscriptions for which alerts are due, and up to where.
    due: BTreeMap<u32, u64>,
    /// The same for the reading under way.
    reading: Option<RunningReading>,
}

impl SessionRun {
    fn last(&self) -> u64 {
        self.alerts.len() as u64
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Store(topic) => {
                let seq = self.last() + 1;
                let is_wanted = self.topics.values().any(|topics| wants(*topics, *topic));
                if is_wanted {
                    self.reminders.note_given(Seq(seq));
                }
                let (topic, given) = (*topic, u32::from(is_wanted));
                self.alerts.push(KnownAlert { seq, topic, is_of_this_epoch: true, is_acked: false, given });
            }
            Step::Subscribe(number, topics) => {
                self.reminders.owe(*number, &through(self.last()));
                self.topics.insert(*number, *topics);
                self.due.insert(*number, self.last());
            }
            Step::Acknowledge(which) => {
                let count = self.alerts.len();
                if let Some(alert) = self.alerts.get_mut(which % count.max(1)) {
                    alert.is_acked = true;
                }
            }
            Step::Read(size) => self.read(*size)?,
            Step::Answer => self.answer()?,
            Step::Epoch => {
                self.reminders.begin_epoch(Seq(self.last()));
                self.alerts.iter_mut().for_each(|alert| alert.is_of_this_epoch = false);
                self.due.clear();
                if let Some((due, _)) = &mut self.reading {
                    due.clear();
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, size: usize) -> Result<(), TestCaseError> {
        let begins = self.reading.is_none() && !self.due.is_empty();
        prop_assert_eq!(self.reminders.begin_reading(), begins);
        if begins {
            let read = self.read_pages(size)?;
            self.reading = Some((std::mem::take(&mut self.due), read));
        }
        Ok(())
    }

    /// Reads all pages, and compares what is kept with the newest unacknowledged alerts of the window.
    fn read_pages(&self, size: usize) -> Result<Vec<Arc<Delivery>>, TestCaseError> {
        let since = self.last().saturating_sub(self.window);
        let within = || self.alerts.iter().filter(move |alert| alert.seq >= since);
        if within().next().is_none() {
            return Ok(Vec::new());
        }
        let mut record = AckRecord::default();
        let acked = self.alerts.iter().filter(|alert| alert.is_acked);
        let acked =
            acked.map(|alert| AckedAlert { stored: Timestamp(alert.seq as i64), p: PARTITION, seq: Seq(alert.seq) });
        record.add(Timestamp(0), &acked.collect::<Vec<_>>());
        let of = (NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) }, UserId::new("ann").unwrap());
        let limits = ReminderLimits { most: self.most, bytes: usize::MAX };
        let mut reading = UserReading::new(of, Timestamp(since as i64), Seq(self.last()), &record, limits);
        loop {
            let after = reading.request().after.0;
            let page: Vec<_> = within().filter(|alert| alert.seq > after).take(size).collect();
            let through = Seq(page.last().map_or(after, |alert| alert.seq));
            let alerts = page.into_iter().map(|known| alert(known.seq, known.topic)).collect();
            match reading.take(ReadPage { epoch_id: EpochId(1), through, alerts }) {
                NextPage::Ask => {}
                NextPage::Nothing => break,
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        let all: Vec<u64> = within().filter(|alert| !alert.is_acked).map(|alert| alert.seq).collect();
        let (cut, newest) = all.split_at(all.len().saturating_sub(self.most));
        let read = reading.finish();
        let seqs: Vec<u64> = read.alerts.iter().map(|alert| alert.seq.0).collect();
        prop_assert_eq!((&seqs[..], read.cut), (newest, cut.len()));
        Ok(read.alerts)
    }

    fn answer(&mut self) -> Result<(), TestCaseError> {
        let Some((due, read)) = self.reading.take() else { return Ok(()) };
        let topics = self.topics.clone();
        let is_wanted = |number: u32, topic: u8| topics.get(&number).is_some_and(|topics| wants(*topics, topic));
        let chosen = self.reminders.choose(&read, |number, event, _| is_wanted(number, event.id.parse().unwrap()));
        let chosen: Vec<u64> = chosen.into_iter().map(|(_, alert)| alert.seq.0).collect();
        let mut expected = Vec::new();
        for read in &read {
            let Some(alert) = self.alerts.get_mut(read.seq.0 as usize - 1) else { continue };
            let is_due = due.iter().any(|(number, through)| alert.seq <= *through && is_wanted(*number, alert.topic));
            if alert.is_of_this_epoch && alert.given == 0 && is_due {
                alert.given += 1;
                expected.push(alert.seq);
            }
        }
        prop_assert_eq!(chosen, expected);
        Ok(())
    }
}

proptest! {
    /// What comes again is exactly what a naive account says: unacknowledged alerts of the window, the newest ones, from
    /// before a subscription that wants them, each at most once for the session, in any way. Without limits nothing is
    /// missing at the end that a subscription wants.
    #[test]
    fn exactly_the_unacknowledged_alerts_come_again_that_the_session_was_not_given(
        steps in prop::collection::vec(step(), 1..60),
        (window, most) in prop_oneof![Just((12_u64, 4_usize)), Just((1_000, 1_000))],
    ) {
        let mut run = SessionRun { window, most, ..SessionRun::default() };
        for step in &steps {
            run.apply(step)?;
        }
        for step in [Step::Answer, Step::Read(3), Step::Answer] {
            run.apply(&step)?;
        }
        let SessionRun { alerts, topics, .. } = run;
        for alert in &alerts {
            let is_wanted = topics.values().any(|topics| wants(*topics, alert.topic));
            let is_promised = most > alerts.len() && is_wanted && alert.is_of_this_epoch && !alert.is_acked;
            prop_assert!(alert.given <= 1 && (alert.given == 1 || !is_promised), "{:?}", alert);
        }
    }
}
