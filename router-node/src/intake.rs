//! Reads all messages of one source for one tenure, and reports them to the engine. No I/O: an intake decides what
//! comes next, and its outputs wait for the [driver](self::driver), which performs them one after the other.
//!
//! ```text
//! open ──▶ look ──▶ is the last message there? ──▶ read ──▶ late? look, compare, walk ──▶ dead letters ──▶ engine
//!  ▲                                                │
//!  └────── pause ◀── (one message, from the leader) ◀── trouble
//! ```
//!
//! A report to the engine claims that it has every message of its range. These checks make that true:
//!
//! * Loss on the way: a partition has only some of the sequences, so sequences do not show that a message was lost. But
//!   the consumer numbers its deliveries. If a number is missing, the intake creates another consumer, which starts
//!   after the last message up to which everything was read.
//! * Retention: if retention removes messages that the consumer has not delivered yet, the consumer continues after
//!   them and reports nothing. This can only concern late messages: those that may have waited for a second, or that
//!   many others wait after. Before the intake reports late messages, it looks where the stream begins. If that is
//!   after the next message to read, the intake skips the removed range, and every gateway sees a gap. (A stream that
//!   holds less than a second of events is not protected.)
//! * Silence: the owner of a partition stores heartbeats in it, which arrive here. If nothing arrives for longer than
//!   two intervals and a second, the consumer is broken, even if the server still sends idle heartbeats.
//! * Copies: a consumer reads the copy of one server, and that server may have removed more than the leader of the
//!   stream. So if the stream has several copies, the intake compares late messages with those of the leader, one by
//!   one. If they are many, it reads them again by a consumer on the leader.
//! * Damage: the storage may lose a late message before it is read. So every sequence of the stream in the late range
//!   is walked, and missing ranges are skipped.
//! * A lost end: a stream that has lost its end gives the same sequences to other messages. So before the intake reads
//!   from a new consumer, it checks that its last message is still there and was stored at the same time.
//!
//! After three failures in a row, the intake reads one message from the leader, in a form that holds any bytes. If it
//! is not an event, it becomes a dead letter. So no message stops those after it.

mod chunk;
pub(crate) mod driver;
mod lateness;
mod output;
mod proof;
mod trouble;

pub use output::{IntakeOutput, Opened};
pub use trouble::IntakeTrouble;

use crate::checkpoint::{Checkpoint, Mark};
use crate::decode::{Content, Readable};
use crate::metrics;
use crate::reader::delivery::ConsumerDelivery;
use crate::source::{Source, Tenure};
use chunk::ReadMessages;
use lateness::Lateness;
use proof::{Claim, LookReason};
use std::collections::VecDeque;
use std::mem::{replace, take};
use tickwire_core::coverage::builder::{Contiguity, Delivered};
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, Millis, Seq};
use tracing::{debug, warn};
use trouble::backoff;

/// After so many failures in a row one message is read in another way.
const FAILURES: u32 = 3;

/// So many messages that were late are compared with what the leader has, one by one. More are read from the leader.
const COMPARED: usize = 8;

/// How many consumers are made for that until one is where the stream is led. Then there is a pause before more of
/// them.
const PLACES: u32 = 6;

/// What the engine hears from an intake.
#[derive(Debug)]
pub struct IntakeReport {
    /// Of which tenure it was read.
    pub tenure: Tenure,
    /// What was read.
    pub what: IntakeEvent,
}

/// What was read.
#[derive(Debug)]
pub enum IntakeEvent {
    /// The source can be read.
    Flowing,
    /// The source cannot be read, for this reason.
    Stuck(String),
    /// Nothing up to here can be read any more.
    Skip(Seq),
    /// This was read, and is not in the stream any more, or another message is in its place.
    Missing(Checkpoint),
    /// All up to a sequence was read, and these are the events in it.
    Events {
        /// The last sequence.
        through: Seq,
        /// The last message of that.
        mark: Option<Mark>,
        /// The events, in order.
        events: Vec<Readable>,
    },
}

impl IntakeEvent {
    /// Whether the rest of the node is to know of it.
    pub(crate) fn is_news(&self) -> bool {
        matches!(self, Self::Flowing | Self::Stuck(_) | Self::Missing(_))
    }
}

/// What is under way.
#[derive(Debug)]
enum Doing {
    /// Nothing that has an answer, or a pause.
    Idle,
    /// A consumer is made; so many were made before, to have one where the stream is led.
    Opening(u32),
    /// The stream is looked at.
    Looking(LookReason),
    /// The last message that was read is looked for, before the source is read; or before one message is, from the
    /// leader.
    FindingLast { is_rescue: bool },
    /// Messages are waited for.
    Reading,
    /// One message is read from the leader.
    Rescuing,
    /// What was read is compared with what the leader has.
    Comparing(Claim),
    /// What the stream lacks of what was read is looked for.
    Walking(Claim),
    /// Dead letters are stored.
    Posting(Claim),
}

/// One intake.
#[derive(Debug)]
pub struct Intake {
    tenure: Tenure,
    epoch_id: EpochId,
    reading: Contiguity,
    /// The last message that was read.
    mark: Option<Mark>,
    /// The server of the consumer.
    server: Option<String>,
    is_connected: bool,
    lateness: Lateness,
    /// Whether the last chunk was late.
    late: bool,
    /// Consumers made so far.
    consumers: u64,
    /// Consumers made since a message came.
    attempts: u32,
    doing: Doing,
    outputs: VecDeque<IntakeOutput>,
}

impl Intake {
    /// Reads what comes after `checkpoint`, in the epoch `epoch_id`.
    #[must_use]
    pub fn new(tenure: Tenure, epoch_id: EpochId, checkpoint: Seq) -> Self {
        let mut intake = Self {
            tenure,
            epoch_id,
            reading: Contiguity::after(checkpoint),
            mark: None,
            server: None,
            is_connected: true,
            lateness: Lateness::default(),
            late: true,
            consumers: 0,
            attempts: 0,
            doing: Doing::Idle,
            outputs: VecDeque::new(),
        };
        intake.open(0);
        intake
    }

    /// What is to be done next. There is always something, once what was to be done before is answered.
    pub fn next_output(&mut self) -> Option<IntakeOutput> {
        self.outputs.pop_front()
    }

    /// Whether there is a connection to NATS.
    pub fn set_connected(&mut self, is_connected: bool) {
        self.is_connected = is_connected;
    }

    /// Adds an output, and waits for its answer.
    fn ask(&mut self, doing: Doing, output: IntakeOutput) {
        self.doing = doing;
        self.outputs.push_back(output);
    }

    /// Tells the engine.
    fn tell(&mut self, what: IntakeEvent) {
        self.outputs.push_back(IntakeOutput::Tell(what));
    }

    /// Makes a consumer: where the stream is led, if that matters.
    fn open(&mut self, made: u32) {
        self.consumers += 1;
        let (after, number) = (self.reading.last, self.consumers);
        self.ask(Doing::Opening(made + 1), IntakeOutput::Open { after, number });
    }

    /// The consumer was made, or was not.
    pub fn opened(&mut self, opened: Result<Opened, IntakeTrouble>) {
        let Doing::Opening(made) = replace(&mut self.doing, Doing::Idle) else { return };
        match opened {
            Ok(opened) => {
                self.reading = Contiguity::after(self.reading.last);
                self.lateness.restart();
                // Asked for when the consumer is there: a later stream than the consumer's would show.
                self.ask(Doing::Looking(LookReason::Opened { opened, made }), IntakeOutput::Look);
            }
            Err(trouble) => self.give_up(&trouble),
        }
    }

    /// Waits for messages of the consumer, which was made where it should be.
    fn begin(&mut self) {
        // A message may have been damaged before this consumer could read it, even if nothing is pending now: the first
        // chunk is always checked.
        self.late = true;
        // After more than one failure only a message proves that it can be read, where heartbeats come.
        if self.attempts <= 1 || self.tenure.source == Source::CatchAll {
            self.tell(IntakeEvent::Flowing);
        }
        self.ask(Doing::Reading, IntakeOutput::Read);
    }

    /// Messages came, at `now`, in order; each is read only if it is the next one. `idle_at` is when the server last
    /// said that nothing was left to be delivered, on the same clock.
    pub fn take<R: FnOnce() -> Content>(
        &mut self,
        now: Millis,
        idle_at: Option<Millis>,
        messages: impl IntoIterator<Item = (ConsumerDelivery, R)>,
    ) {
        let Doing::Reading = self.doing else { return };
        if let Some(idle_at) = idle_at {
            self.lateness.is_current(idle_at);
        }
        let (before, mut read, mut trouble) = (self.reading, ReadMessages::default(), None);
        for (delivery, content) in messages {
            match self.reading.accept(delivery.seq, delivery.number) {
                Delivered::Known => continue,
                Delivered::Missed => {
                    trouble = Some(IntakeTrouble::Missed);
                    break;
                }
                Delivered::Next => {}
            }
            self.lateness.take(now, delivery.pending);
            read.take(delivery.seq, delivery.stored, content());
        }
        if self.reading.last == before.last {
            return self.go_on(trouble.as_ref());
        }
        let is_late = self.lateness.take_late();
        let was_late = replace(&mut self.late, is_late);
        let claim = Claim { before, kept: before.last, compared: 0, read, trouble, is_rescue: false };
        if is_late || was_late {
            self.ask(Doing::Looking(LookReason::Late(claim)), IntakeOutput::Look);
        } else {
            self.hand_on(claim);
        }
    }

    /// No more comes of the consumer, or nothing for too long.
    pub fn ended(&mut self, trouble: &IntakeTrouble) {
        if let Doing::Reading = self.doing {
            self.give_up(trouble);
        }
    }

    /// There is a connection that was not there: what was on its way is lost, and the consumer may be, too.
    pub fn reconnected(&mut self) {
        self.ended(&IntakeTrouble::Reconnected);
    }

    /// Passes on what was read. Dead letters are stored before the engine gets anything after them.
    fn hand_on(&mut self, mut claim: Claim) {
        claim.read.count();
        let dead_letters = take(&mut claim.read.dead_letters);
        if dead_letters.is_empty() {
            self.tell_read(claim);
        } else {
            self.ask(Doing::Posting(claim), IntakeOutput::Post(dead_letters));
        }
    }

    /// The dead letters are stored, or given up.
    pub fn posted(&mut self) {
        if let Doing::Posting(claim) = replace(&mut self.doing, Doing::Idle) {
            self.tell_read(claim);
        }
    }

    /// Tells the engine what was read. What is missing in it every gateway sees as a gap.
    fn tell_read(&mut self, claim: Claim) {
        let Claim { mut read, trouble, is_rescue, .. } = claim;
        if self.attempts > 1 {
            self.tell(IntakeEvent::Flowing);
        }
        self.attempts = 0;
        self.mark = read.mark.or(self.mark);
        for MissingRange { after, through } in take(&mut read.missing) {
            let events = read.take_until(after);
            self.tell(IntakeEvent::Events { through: after, mark: None, events });
            self.tell(IntakeEvent::Skip(through));
        }
        let (through, mark, events) = (self.reading.last, read.mark, read.events);
        self.tell(IntakeEvent::Events { through, mark, events });
        if is_rescue { self.pause() } else { self.go_on(trouble.as_ref()) }
    }

    /// Waits for more, if nothing is wrong with what came.
    fn go_on(&mut self, trouble: Option<&IntakeTrouble>) {
        match trouble {
            Some(trouble) => self.give_up(trouble),
            None => self.ask(Doing::Reading, IntakeOutput::Read),
        }
    }

    /// Ends the consumer. There will be another one.
    fn give_up(&mut self, trouble: &IntakeTrouble) {
        self.outputs.push_back(IntakeOutput::Close);
        // The catch-all has no heartbeats, so silence is no fault there. The new consumer is only a precaution.
        if (trouble, self.tenure.source) == (&IntakeTrouble::Silent, Source::CatchAll) {
            self.attempts = 0;
            return self.open(0);
        }
        metrics::INTAKE_RESTARTS.with(trouble.label()).increment(1);
        warn!(source = %self.tenure.source, after = %self.reading.last, cause = trouble.text(), "reading anew");
        self.attempts += 1;
        self.tell(IntakeEvent::Stuck(trouble.text()));
        let is_other = matches!(trouble, IntakeTrouble::OtherStream | IntakeTrouble::Lost);
        if self.attempts >= FAILURES && !is_other && self.is_connected {
            self.ask(Doing::Looking(LookReason::Rescue), IntakeOutput::Look);
        } else {
            self.pause();
        }
    }

    /// Waits before another consumer is made.
    fn pause(&mut self) {
        self.ask(Doing::Idle, IntakeOutput::Pause(backoff(self.attempts)));
    }

    /// The pause is over.
    pub fn paused(&mut self) {
        if let Doing::Idle = self.doing {
            self.open(0);
        }
    }

    /// The next message of the source, as the leader of the stream has it, if there is one. Consumers have failed at
    /// it.
    pub fn rescued(&mut self, found: Result<Option<(Seq, Timestamp, Content)>, String>) {
        let Doing::Rescuing = replace(&mut self.doing, Doing::Idle) else { return };
        match found {
            Err(reason) => self.fail(true, &IntakeTrouble::Failed(reason)),
            Ok(None) => self.pause(),
            Ok(Some((seq, stored, content))) => {
                warn!(source = %self.tenure.source, %seq, "message read from the leader after consumers failed");
                metrics::RESCUED_MESSAGES.increment(1);
                let (before, mut read) = (self.reading, ReadMessages::default());
                self.reading.last = seq;
                read.take(seq, stored, content);
                // What retention took meanwhile was not the leader's next message.
                let claim = Claim { before, kept: before.last, compared: 0, read, trouble: None, is_rescue: true };
                self.ask(Doing::Looking(LookReason::Late(claim)), IntakeOutput::Look);
            }
        }
    }

    /// A check failed, or has shown that the consumer cannot be used.
    fn fail(&mut self, is_rescue: bool, trouble: &IntakeTrouble) {
        if is_rescue {
            debug!(source = %self.tenure.source, cause = trouble.text(), "message not read from the leader either");
            self.pause();
        } else {
            self.give_up(trouble);
        }
    }
}

#[cfg(test)]
mod tests;
