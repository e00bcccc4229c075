//! The production intakes, and consumers of the stream that lag, fail, fall silent and lose messages.

mod consumer;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tickwire_core::event::Timestamp;
use tickwire_core::event::decode::{Reason, Undecodable};
use tickwire_core::ids::{EpochId, Millis, Partition, Seq};
use tickwire_node::clock::millis;
use tickwire_router_node::decisions::{
    CONSUMER_HEARTBEAT, CONSUMER_SILENCE, ConsumerDelivery, Content, DeadLetter, Decoded, Intake, IntakeEvent,
    IntakeOutput, IntakeReport, IntakeTrouble, LiveRules, MessageHeaders, Opened, ReadPurpose, Source, StreamMessage,
    Tenure, WALKS, silence,
};

use super::cluster::{SimCluster, StoredEvent};
use super::rules::SimRevision;

/// The most messages that a consumer delivers at a time, and the most that it counts as pending: more than an
/// intake asks for.
const BATCH: u64 = 4;
const MAX_PENDING: usize = 20;

/// The interval of a consumer's idle heartbeats, and the silence after which it counts as broken, in milliseconds.
const HEARTBEAT: u64 = CONSUMER_HEARTBEAT.as_millis() as u64;
const SILENCE: u64 = CONSUMER_SILENCE.as_millis() as u64;

/// How long an answer to a router takes at most where nodes fail, in milliseconds.
pub(super) const MAX_ANSWER_DELAY: u64 = 60;

/// Where nodes fail, one in this many questions is not answered.
const UNANSWERED: u64 = 40;

/// The most outputs that an intake may have at one simulated time. A burst of events needs several for each message.
const TURNS: usize = 4_000;

/// The bytes of the route cache of an intake: for some classes of events, so that others are removed.
const RULE_CACHE_BYTES: usize = 1_000;

/// A fault of the consumers of a router.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Fault {
    /// They send nothing any more.
    Silent,
    /// Their server ends them.
    Ended,
    /// They deliver nothing for this many milliseconds.
    Late(u64),
    /// They end, and this many requests for new ones are refused.
    Refused(u8),
    /// They end, since the router's connection to NATS is lost and restored at once.
    Cut,
}

/// An intake, and the output that it waits for.
pub(super) struct SimIntake {
    intake: Intake,
    partition: Option<Partition>,
    epoch_id: EpochId,
    /// What it keeps for the rules.
    live: LiveRules,
    /// The output that is under way, and when it is done.
    under_way: Option<(IntakeOutput, Millis)>,
    /// When the output began.
    since: Millis,
    consumer: Option<Consumer>,
    /// Whether the connection to NATS was lost and restored, and the intake has not processed that yet.
    was_disconnected: bool,
    /// The number of walks that have failed since the last one that did not.
    failed_walks: u32,
    /// The sequence up to which it has reported to the engine.
    reported: Seq,
}

/// A consumer of one partition. It reads the copy of the stream on one server.
struct Consumer {
    server: usize,
    /// The number of the server start in which it was created. A later start ends it.
    start: u64,
    /// The last sequence that it has delivered or passed.
    cursor: Seq,
    /// How many messages it has delivered.
    number: u64,
    /// Since when it has delivered everything, and the last time at which that was still true.
    idle_since: Option<Millis>,
    idle_at: Option<Millis>,
    /// When its last message was lost, if no message came after that.
    lost_at: Option<Millis>,
    /// Since when it sends nothing.
    silent_since: Option<Millis>,
    is_ended: bool,
    /// It delivers nothing before this.
    held_until: Millis,
}

/// What a consumer has for its intake.
enum ConsumerOutput {
    /// Messages, and the time of its last idle heartbeat.
    Messages(Option<Millis>, Vec<(ConsumerDelivery, StoredEvent)>),
    Trouble(IntakeTrouble),
    /// Nothing before this time.
    Nothing(Millis),
}

impl SimIntake {
    pub(super) fn new(tenure: Tenure, epoch_id: EpochId, checkpoint: Seq) -> Self {
        let partition = match tenure.source {
            Source::Partition(partition) => Some(partition),
            Source::CatchAll => None,
        };
        let intake = Intake::new(tenure, epoch_id, checkpoint);
        let since = Millis(0);
        Self {
            intake,
            partition,
            epoch_id,
            live: LiveRules::new(RULE_CACHE_BYTES),
            under_way: None,
            since,
            consumer: None,
            was_disconnected: false,
            failed_walks: 0,
            reported: checkpoint,
        }
    }

    /// The connection to NATS was lost and restored.
    pub(super) fn reconnect(&mut self) {
        self.was_disconnected = true;
        // What it waits for may be over now.
        if let Some((_, until)) = &mut self.under_way {
            *until = Millis(0);
        }
    }

    /// Inflicts a fault on its consumer.
    pub(super) fn disturb(&mut self, now: Millis, fault: Fault) {
        let Some(consumer) = &mut self.consumer else { return };
        match fault {
            Fault::Silent => consumer.silent_since = consumer.silent_since.or(Some(now)),
            Fault::Ended => consumer.is_ended = true,
            Fault::Late(time) => (consumer.held_until, consumer.idle_since) = (now.plus(time), None),
            Fault::Refused(_) | Fault::Cut => consumer.is_ended = true,
        }
    }

    /// When it is due next.
    pub(super) fn due(&self) -> Millis {
        self.under_way.as_ref().map_or(Millis(0), |(_, until)| *until)
    }
}

impl SimCluster {
    /// Gives an intake its turns. Returns whether it did anything.
    pub(super) fn turn_intake(&mut self, number: usize, tenure: Tenure, now: Millis) -> bool {
        let Some(mut reader) = self.routers[number].intakes.remove(&tenure) else { return false };
        let mut is_busy = false;
        for _ in 0..TURNS {
            let (output, until) = match reader.under_way.take() {
                Some(under_way) => under_way,
                None => {
                    let output = reader.intake.next_output().expect("an intake has an output");
                    reader.since = now;
                    let until = self.until(now, &output);
                    (output, until)
                }
            };
            let waits = self.perform_for(number, tenure, &mut reader, (output, until), now);
            reader.under_way = waits;
            if reader.under_way.is_some() {
                self.routers[number].intakes.insert(tenure, reader);
                return is_busy;
            }
            is_busy = true;
        }
        panic!("an intake never runs out of work: {:#?}", reader.intake);
    }

    /// When an output of an intake is done.
    fn until(&mut self, now: Millis, output: &IntakeOutput) -> Millis {
        match output {
            IntakeOutput::Read | IntakeOutput::Report(_) | IntakeOutput::Close => now,
            IntakeOutput::Pause(pause) => now.plus(millis(*pause)),
            _ if self.failing && self.network.random(4) == 0 => now.plus(1 + self.network.random(MAX_ANSWER_DELAY)),
            _ => now,
        }
    }

    /// Completes an output of an intake, or returns it if it is not done yet.
    fn perform_for(
        &mut self,
        number: usize,
        tenure: Tenure,
        reader: &mut SimIntake,
        (output, until): (IntakeOutput, Millis),
        now: Millis,
    ) -> Option<(IntakeOutput, Millis)> {
        let is_over = until <= now;
        reader.intake.set_connected(!self.routers[number].is_cut);
        reader.live.set_time(now);
        match output {
            IntakeOutput::Read => return self.read(number, reader, now),
            IntakeOutput::Pause(_) if is_over || std::mem::take(&mut reader.was_disconnected) => reader.intake.paused(),
            _ if !is_over => return Some((output, until)),
            IntakeOutput::Close => reader.consumer = None,
            IntakeOutput::Report(what) => {
                self.check_dead_letters(reader, &what);
                self.routers[number].report(IntakeReport { tenure, what });
            }
            // Without a connection the driver tries again.
            IntakeOutput::Post(_) if self.routers[number].is_cut => return Some((output, now.plus(MAX_ANSWER_DELAY))),
            IntakeOutput::Post(dead_letters) => {
                let epoch = reader.epoch_id;
                self.dead_letters.extend(dead_letters.iter().map(|dead_letter| (epoch, dead_letter.message.seq)));
                reader.intake.posted();
            }
            IntakeOutput::Open { after, .. } => {
                let opened = self.open(number, reader, after, now);
                reader.intake.opened(opened);
            }
            question => self.answer(number, reader, question),
        }
        None
    }

    /// Gives an intake the stream's answer to a question, or a failure.
    fn answer(&mut self, number: usize, reader: &mut SimIntake, question: IntakeOutput) {
        let failure = self.is_unanswered(number).then(|| "no answer".to_owned());
        let (partition, rules) = (reader.partition, Rc::clone(&self.routers[number].rules));
        let next =
            |cluster: &Self, after| cluster.readable(after).find(|one| Some(one.partition) == partition).cloned();
        let (intake, live) = (&mut reader.intake, &mut reader.live);
        match question {
            IntakeOutput::Look => intake.looked(failure.map_or_else(|| Ok(self.state()), Err)),
            IntakeOutput::FindLast(facts, mark) => {
                let found = facts.has(self, mark).now_or_never().expect("an answer").expect("no failure");
                intake.found_last(failure.map_or(Ok(found), Err));
            }
            IntakeOutput::Compare(after) => {
                let next = next(self, after).map(|stored| stored.seq);
                intake.compared(failure.map_or(Ok(next), Err));
            }
            IntakeOutput::Rescue(after) => {
                let content = |stored: StoredEvent| -> (Seq, Timestamp, Content) {
                    (stored.seq, stored.event.stored, content(&stored, &rules, live))
                };
                let next = next(self, after).map(content);
                intake.rescued(failure.map_or(Ok(next), Err));
            }
            IntakeOutput::Walk { after, through } => {
                let is_short = through > self.last;
                // After several failures in a row the intake goes on without a walk. In the simulator they are fewer.
                let is_cut = self.routers[number].is_cut;
                let failure = failure.filter(|_| is_cut || reader.failed_walks + 1 < WALKS);
                let failure = failure.or_else(|| is_short.then(|| "the stream ends before".to_owned()));
                reader.failed_walks = if failure.is_some() && !is_cut { reader.failed_walks + 1 } else { 0 };
                let walked = failure.map_or_else(|| Ok(self.walk(number, after, through)), Err);
                reader.intake.walked(walked);
            }
            other => panic!("{other:?} is no question"),
        }
    }

    /// Whether a question of a router gets no answer.
    pub(super) fn is_unanswered(&mut self, number: usize) -> bool {
        self.routers[number].is_cut || self.failing && self.network.random(UNANSWERED) == 0
    }

    /// Opens a consumer for an intake.
    fn open(
        &mut self,
        number: usize,
        reader: &mut SimIntake,
        after: Seq,
        now: Millis,
    ) -> Result<Opened, IntakeTrouble> {
        reader.was_disconnected = false;
        let refused = &mut self.routers[number].refused;
        if *refused > 0 {
            *refused -= 1;
            return Err(IntakeTrouble::Failed("no consumer".to_owned()));
        }
        if self.is_unanswered(number) {
            return Err(IntakeTrouble::Failed("no answer".to_owned()));
        }
        let (server, name) = self.some_server();
        let available = self.readable_at(server, after).filter(|stored| Some(stored.partition) == reader.partition);
        let pending = available.take(MAX_PENDING).count() as u64;
        reader.consumer = Some(Consumer {
            server,
            start: self.stream.starts,
            cursor: after,
            number: 0,
            idle_since: (pending == 0).then_some(now),
            idle_at: None,
            lost_at: None,
            silent_since: None,
            is_ended: false,
            held_until: Millis(0),
        });
        Ok(Opened { pending, server: name })
    }

    /// Gives an intake what its consumer delivers. Returns the output if the intake must wait.
    fn read(&mut self, number: usize, reader: &mut SimIntake, now: Millis) -> Option<(IntakeOutput, Millis)> {
        if std::mem::take(&mut reader.was_disconnected) {
            reader.intake.reconnected();
            return None;
        }
        match self.poll_consumer(number, reader, now) {
            ConsumerOutput::Messages(idle_at, messages) => {
                let rules: &SimRevision = &self.routers[number].rules;
                let live = &RefCell::new(&mut reader.live);
                let messages = messages
                    .iter()
                    .map(|(delivery, stored)| (*delivery, move || content(stored, rules, &mut live.borrow_mut())));
                reader.intake.take(now, idle_at, messages);
                None
            }
            ConsumerOutput::Trouble(trouble) => {
                reader.intake.ended(&trouble);
                None
            }
            ConsumerOutput::Nothing(until) => Some((IntakeOutput::Read, until)),
        }
    }

    /// A message that is no event must be stored as a dead letter before the intake reports anything after it.
    fn check_dead_letters(&self, reader: &mut SimIntake, what: &IntakeEvent) {
        let through = match what {
            IntakeEvent::Events { through, .. } => *through,
            IntakeEvent::Skip(through) => return reader.reported = *through,
            _ => return,
        };
        let after = std::mem::replace(&mut reader.reported, through);
        if reader.epoch_id != self.epoch.epoch_id {
            return;
        }
        // If the stream has lost messages, their sequences may have other messages than those that the intake read.
        let end = self.stream.unchanged_through.map_or(through, |end| end.min(through));
        let reported = self.readable(after).take_while(|stored| stored.seq <= end);
        for StoredEvent { seq, .. } in
            reported.filter(|one| one.is_unreadable && Some(one.partition) == reader.partition)
        {
            assert!(
                self.dead_letters.contains(&(reader.epoch_id, *seq)),
                "{seq} is no event, and was not stored as a dead letter"
            );
        }
    }
}

/// The content of a message, as the decoder of a router with these rules would return it.
fn content(stored: &StoredEvent, rules: &SimRevision, live: &mut LiveRules) -> Content {
    let StoredEvent { seq, event, is_heartbeat, is_unreadable, .. } = stored;
    if *is_unreadable {
        let message = StreamMessage {
            seq: *seq,
            stored: event.stored,
            subject: Bytes::new(),
            headers: MessageHeaders::None,
            payload: Bytes::new(),
        };
        return Err(Box::new(DeadLetter { refusal: Undecodable::new(Reason::Unreadable, String::new()), message }));
    }
    if *is_heartbeat {
        return Ok(Decoded::Heartbeat);
    }
    Ok(match rules.read(stored, ReadPurpose::Live(live)) {
        Decoded::Event(event, wire) => Decoded::Event(event, wire.into()),
        Decoded::Heartbeat => Decoded::Heartbeat,
        Decoded::Dropped => Decoded::Dropped,
    })
}
