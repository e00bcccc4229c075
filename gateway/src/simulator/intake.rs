//! What routers read: shipped intakes, and consumers of the stream, which lag, fail, fall silent and lose messages.

mod consumer;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tickwire_core::event::decode::{Reason, Undecodable};
use tickwire_core::event::{Event, Timestamp};
use tickwire_core::ids::{EpochId, Millis, Partition, Seq};
use tickwire_node::clock::millis;
use tickwire_router_node::decisions::{
    CONSUMER_HEARTBEAT, CONSUMER_SILENCE, ConsumerDelivery, Content, DeadLetter, Decoded, Intake, IntakeEvent,
    IntakeOutput, IntakeReport, IntakeTrouble, MessageHeaders, Opened, Source, StreamMessage, Tenure, silence,
};

use super::cluster::{SimCluster, StoredEvent};

/// How many messages come of a consumer at a time at most, and how many are counted: more than any intake asks for.
const BATCH: u64 = 4;
const MAX_PENDING: usize = 20;

/// The interval of a consumer's idle heartbeats, and after how long a silence it is given up, in milliseconds.
const HEARTBEAT: u64 = CONSUMER_HEARTBEAT.as_millis() as u64;
const SILENCE: u64 = CONSUMER_SILENCE.as_millis() as u64;

/// How long anything that is asked takes at most, when nodes fail, in milliseconds.
pub(super) const MAX_ANSWER_DELAY: u64 = 60;

/// Of so many questions one is not answered, when nodes fail.
const UNANSWERED: u64 = 40;

/// How many outputs an intake may have at one moment. A burst of events needs several for each message.
const TURNS: usize = 4_000;

/// What happens to the consumers of a router.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Fault {
    /// They say nothing any more.
    Silent,
    /// Their server says that they are gone.
    Ended,
    /// They deliver nothing for so long.
    Late(u64),
    /// No other one can be made, so many times.
    Refused(u8),
    /// The router loses its connection to NATS, and has it again.
    Cut,
}

/// An intake, and what it waits for.
pub(super) struct SimIntake {
    intake: Intake,
    partition: Option<Partition>,
    epoch_id: EpochId,
    /// What is under way, and when it is over.
    under_way: Option<(IntakeOutput, Millis)>,
    /// When it began.
    since: Millis,
    consumer: Option<Consumer>,
    /// NATS was away, which it has not heard of.
    was_disconnected: bool,
    /// Up to where it has told the engine.
    reported: Seq,
}

/// A consumer of one partition, which reads the copy that a server has.
struct Consumer {
    server: usize,
    /// The number of the server start in which it was created. A later start ends it.
    start: u64,
    cursor: Seq,
    number: u64,
    /// Since when it has delivered everything, and until when that is sure.
    idle_since: Option<Millis>,
    idle_at: Option<Millis>,
    /// When a message of it was lost on its way, and nothing came behind that.
    lost_at: Option<Millis>,
    /// Since when it says nothing.
    silent_since: Option<Millis>,
    is_ended: bool,
    held_until: Millis,
}

/// What a consumer has for its reader.
enum ConsumerOutput {
    /// Messages, and when it last said that it had delivered everything.
    Messages(Option<Millis>, Vec<(ConsumerDelivery, StoredEvent)>),
    Trouble(IntakeTrouble),
    /// Nothing until then.
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
            under_way: None,
            since,
            consumer: None,
            was_disconnected: false,
            reported: checkpoint,
        }
    }

    /// NATS was away.
    pub(super) fn reconnect(&mut self) {
        self.was_disconnected = true;
        // Whatever it waits for may be over.
        if let Some((_, until)) = &mut self.under_way {
            *until = Millis(0);
        }
    }

    /// Something happens to its consumer.
    pub(super) fn disturb(&mut self, now: Millis, fault: Fault) {
        let Some(consumer) = &mut self.consumer else { return };
        match fault {
            Fault::Silent => consumer.silent_since = consumer.silent_since.or(Some(now)),
            Fault::Ended => consumer.is_ended = true,
            Fault::Late(time) => (consumer.held_until, consumer.idle_since) = (now.plus(time), None),
            Fault::Refused(_) | Fault::Cut => consumer.is_ended = true,
        }
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Millis {
        self.under_way.as_ref().map_or(Millis(0), |(_, until)| *until)
    }
}

impl SimCluster {
    /// Gives an intake its turns. Returns whether it has done anything.
    pub(super) fn turn_intake(&mut self, number: usize, tenure: Tenure, now: Millis) -> bool {
        let Some(mut reader) = self.routers[number].intakes.remove(&tenure) else { return false };
        let mut is_busy = false;
        for _ in 0..TURNS {
            let (output, until) = match reader.under_way.take() {
                Some(under_way) => under_way,
                None => {
                    let output = reader.intake.next_output().expect("an intake waits for something");
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
        panic!("an intake is busy for ever: {:#?}", reader.intake);
    }

    /// When something is over that an intake wants done.
    fn until(&mut self, now: Millis, output: &IntakeOutput) -> Millis {
        match output {
            IntakeOutput::Read | IntakeOutput::Report(_) | IntakeOutput::Close => now,
            IntakeOutput::Pause(pause) => now.plus(millis(*pause)),
            _ if self.failing && self.network.random(4) == 0 => now.plus(1 + self.network.random(MAX_ANSWER_DELAY)),
            _ => now,
        }
    }

    /// Does what an intake wants done, if that is over by now. If not, it is returned.
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
        match output {
            IntakeOutput::Read => return self.read(number, reader, now),
            IntakeOutput::Pause(_) if is_over || std::mem::take(&mut reader.was_disconnected) => reader.intake.paused(),
            _ if !is_over => return Some((output, until)),
            IntakeOutput::Close => reader.consumer = None,
            IntakeOutput::Report(what) => {
                self.check_dead_letters(reader, &what);
                self.routers[number].report(IntakeReport { tenure, what });
            }
            // Without a connection it is tried again.
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

    /// Answers what an intake asks of the stream, or does not.
    fn answer(&mut self, number: usize, reader: &mut SimIntake, question: IntakeOutput) {
        let failure = self.is_unanswered(number).then(|| "no answer".to_owned());
        let partition = reader.partition;
        let next =
            |cluster: &Self, after| cluster.readable(after).find(|one| Some(one.partition) == partition).cloned();
        let intake = &mut reader.intake;
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
                    (stored.seq, stored.event.stored, content(&stored))
                };
                let next = next(self, after).map(content);
                intake.rescued(failure.map_or(Ok(next), Err));
            }
            IntakeOutput::Walk { after, through } => {
                let is_short = through > self.last;
                let failure = failure.or_else(|| is_short.then(|| "the stream ends before".to_owned()));
                let walked = failure.map_or_else(|| Ok(self.walk(number, after, through)), Err);
                reader.intake.walked(walked);
            }
            other => panic!("{other:?} is no question"),
        }
    }

    /// Whether what a router asks just now is not answered.
    pub(super) fn is_unanswered(&mut self, number: usize) -> bool {
        self.routers[number].is_cut || self.failing && self.network.random(UNANSWERED) == 0
    }

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

    /// An intake waits for messages. Returns what it waits for still.
    fn read(&mut self, number: usize, reader: &mut SimIntake, now: Millis) -> Option<(IntakeOutput, Millis)> {
        if std::mem::take(&mut reader.was_disconnected) {
            reader.intake.reconnected();
            return None;
        }
        match self.poll_consumer(number, reader, now) {
            ConsumerOutput::Messages(idle_at, messages) => {
                let messages = messages.iter().map(|(delivery, stored)| (*delivery, || content(stored)));
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

    /// Before the engine hears of anything behind a message that is no event, that is a dead letter.
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
        // Where the stream has lost something another message may stand now than the one that was read.
        let end = self.stream.unchanged_through.map_or(through, |end| end.min(through));
        let reported = self.readable(after).take_while(|stored| stored.seq <= end);
        for StoredEvent { seq, .. } in
            reported.filter(|one| one.is_unreadable && Some(one.partition) == reader.partition)
        {
            assert!(self.dead_letters.contains(&(reader.epoch_id, *seq)), "{seq} is no event, and no dead letter");
        }
    }
}

/// What a message holds, as the decoder would find.
fn content(stored: &StoredEvent) -> Content {
    let StoredEvent { seq, event, wire, is_heartbeat, is_unreadable, .. } = stored;
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
    Ok(if *is_heartbeat { Decoded::Heartbeat } else { Decoded::Event(Box::new(Event::clone(event)), wire.clone()) })
}
