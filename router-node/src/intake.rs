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

pub(crate) mod driver;
mod lateness;
mod output;
pub(crate) mod proof;
mod read_messages;
mod trouble;

pub use output::{IntakeOutput, Opened};
pub use trouble::IntakeTrouble;

use crate::checkpoint::{Checkpoint, Mark};
use crate::decode::{Content, Readable};
use crate::metrics;
use crate::reader::delivery::ConsumerDelivery;
use crate::source::{Source, Tenure};
use lateness::Lateness;
use proof::{Claim, LookReason};
use read_messages::ReadMessages;
use std::collections::VecDeque;
use std::mem::{replace, take};
use tickwire_core::coverage::builder::{Contiguity, Delivered};
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, Millis, Seq};
use tracing::{debug, warn};
use trouble::backoff;

/// After this number of failures in a row, the intake reads one message from the leader.
const FAILURES: u32 = 3;

/// At most this number of late messages is compared with the leader's, one by one. More are read from the leader.
const COMPARED: usize = 8;

/// A report of an intake to the engine.
#[derive(Debug)]
pub struct IntakeReport {
    /// The tenure that it belongs to.
    pub tenure: Tenure,
    /// Its content.
    pub what: IntakeEvent,
}

/// The content of a report.
#[derive(Debug)]
pub enum IntakeEvent {
    /// The source can be read.
    Flowing,
    /// The source cannot be read, for this reason.
    Stuck(String),
    /// Nothing up to here can be read any more.
    Skip(Seq),
    /// A message that was read is no longer in the stream, or another one is in its place.
    Missing(Checkpoint),
    /// All up to a sequence was read, and these are the events in it.
    Events {
        /// The last sequence.
        through: Seq,
        /// The last message in that range.
        mark: Option<Mark>,
        /// The events, in order.
        events: Vec<Readable>,
    },
}

impl IntakeEvent {
    /// Whether it may change the engine's report to the rest of the node.
    pub(crate) fn is_news(&self) -> bool {
        matches!(self, Self::Flowing | Self::Stuck(_) | Self::Missing(_))
    }
}

/// What the intake waits for.
#[derive(Debug)]
enum Doing {
    /// Nothing, or the end of a pause.
    Idle,
    /// A new consumer. The number counts those that were created in a row to get one on the leader of the stream.
    Opening(u32),
    /// The state of the stream.
    Looking(LookReason),
    /// Whether the stream still has the last message that was read. After that, the intake reads from the consumer, or
    /// one message from the leader.
    FindingLast { is_rescue: bool },
    /// Messages of the consumer.
    Reading,
    /// One message from the leader.
    Rescuing,
    /// The leader's message to compare with.
    Comparing(Claim),
    /// The missing ranges of the claim.
    Walking(Claim),
    /// The end of a pause, after which the missing ranges are asked for again.
    PausingWalk(Claim),
    /// The storage of dead letters.
    Posting(Claim),
}

/// The state of an intake.
#[derive(Debug)]
pub struct Intake {
    tenure: Tenure,
    epoch_id: EpochId,
    reading: Contiguity,
    /// The last message that was read.
    mark: Option<Mark>,
    /// The server of the consumer.
    server: Option<String>,
    /// The end of the stream when the consumer was new.
    end: Option<Seq>,
    is_connected: bool,
    lateness: Lateness,
    /// Whether the messages that were last read were late.
    late: bool,
    /// The number of consumers so far.
    consumers: u64,
    /// The number of failures since the last report of messages.
    attempts: u32,
    /// The number of walks that have failed since the last one that did not.
    failed_walks: u32,
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
            end: None,
            is_connected: true,
            lateness: Lateness::default(),
            late: true,
            consumers: 0,
            attempts: 0,
            failed_walks: 0,
            doing: Doing::Idle,
            outputs: VecDeque::new(),
        };
        intake.open(0);
        intake
    }

    /// The next output. There always is one once the last output that has an answer was answered.
    pub fn next_output(&mut self) -> Option<IntakeOutput> {
        self.outputs.pop_front()
    }

    /// Sets whether there is a connection to NATS.
    pub fn set_connected(&mut self, is_connected: bool) {
        self.is_connected = is_connected;
    }

    /// Adds an output, and waits for its answer.
    fn ask(&mut self, doing: Doing, output: IntakeOutput) {
        self.doing = doing;
        self.outputs.push_back(output);
    }

    /// Adds a report to the engine.
    fn report(&mut self, what: IntakeEvent) {
        self.outputs.push_back(IntakeOutput::Report(what));
    }

    /// Creates a consumer. `made` were created before it to get one on the leader of the stream.
    fn open(&mut self, made: u32) {
        self.consumers += 1;
        let (after, number) = (self.reading.last, self.consumers);
        self.ask(Doing::Opening(made + 1), IntakeOutput::Open { after, number });
    }

    /// Takes the result of creating a consumer.
    pub fn opened(&mut self, opened: Result<Opened, IntakeTrouble>) {
        let Doing::Opening(made) = replace(&mut self.doing, Doing::Idle) else { return };
        match opened {
            Ok(opened) => {
                self.reading = Contiguity::after(self.reading.last);
                self.lateness.restart();
                // After the creation, so that an epoch of the stream is noticed that is later than the consumer's.
                self.ask(Doing::Looking(LookReason::Opened { opened, made }), IntakeOutput::Look);
            }
            Err(trouble) => self.give_up(&trouble),
        }
    }

    /// Starts to read from the consumer.
    fn begin(&mut self) {
        // A message may have been damaged before this consumer could read it, even if nothing is pending now: the first
        // messages are always checked.
        self.late = true;
        // After more than one failure, only a message proves that the source can be read. The catch-all may have none,
        // since it has no heartbeats.
        if self.attempts <= 1 || self.tenure.source == Source::CatchAll {
            self.report(IntakeEvent::Flowing);
        }
        self.ask(Doing::Reading, IntakeOutput::Read);
    }

    /// Takes messages that arrived at `now`, in order. Each is read only if it is the next one. `idle_at` is the time,
    /// on the same clock, of the server's last report that nothing is left to deliver.
    pub fn take<R: FnOnce() -> Content>(
        &mut self,
        now: Millis,
        idle_at: Option<Millis>,
        messages: impl IntoIterator<Item = (ConsumerDelivery, R)>,
    ) {
        let Doing::Reading = self.doing else { return };
        if let Some(idle_at) = idle_at {
            self.lateness.note_current(idle_at);
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
            return self.read_more(trouble.as_ref());
        }
        let is_late = self.lateness.take_late();
        let was_late = replace(&mut self.late, is_late);
        let claim = Claim { before, kept: before.last, compared: 0, read, trouble, is_rescue: false };
        if is_late || was_late {
            self.ask(Doing::Looking(LookReason::Late(claim)), IntakeOutput::Look);
        } else {
            self.deliver(claim);
        }
    }

    /// The consumer has ended, or was silent for too long.
    pub fn ended(&mut self, trouble: &IntakeTrouble) {
        if let Doing::Reading = self.doing {
            self.give_up(trouble);
        }
    }

    /// NATS is connected again. Messages that were on their way are lost, and the consumer may be lost too.
    pub fn reconnected(&mut self) {
        self.ended(&IntakeTrouble::Reconnected);
    }

    /// Passes on what was read. Dead letters are stored before the engine gets anything after them.
    fn deliver(&mut self, mut claim: Claim) {
        claim.read.count();
        let dead_letters = take(&mut claim.read.dead_letters);
        if dead_letters.is_empty() {
            self.report_read(claim);
        } else {
            self.ask(Doing::Posting(claim), IntakeOutput::Post(dead_letters));
        }
    }

    /// The dead letters are stored, or given up.
    pub fn posted(&mut self) {
        if let Doing::Posting(claim) = replace(&mut self.doing, Doing::Idle) {
            self.report_read(claim);
        }
    }

    /// Reports to the engine what was read. Every gateway gets a gap for each missing range.
    fn report_read(&mut self, claim: Claim) {
        let Claim { mut read, trouble, is_rescue, .. } = claim;
        if self.attempts > 1 {
            self.report(IntakeEvent::Flowing);
        }
        self.attempts = 0;
        self.mark = read.mark.or(self.mark);
        for MissingRange { after, through } in take(&mut read.missing) {
            let events = read.take_until(after);
            self.report(IntakeEvent::Events { through: after, mark: None, events });
            self.report(IntakeEvent::Skip(through));
        }
        let (through, mark, events) = (self.reading.last, read.mark, read.events);
        self.report(IntakeEvent::Events { through, mark, events });
        if is_rescue { self.pause() } else { self.read_more(trouble.as_ref()) }
    }

    /// Waits for more messages, unless there was a fault.
    fn read_more(&mut self, trouble: Option<&IntakeTrouble>) {
        match trouble {
            Some(trouble) => self.give_up(trouble),
            None => self.ask(Doing::Reading, IntakeOutput::Read),
        }
    }

    /// Closes the consumer. Another one is created later.
    fn give_up(&mut self, trouble: &IntakeTrouble) {
        self.outputs.push_back(IntakeOutput::Close);
        // The catch-all has no heartbeats, so silence is no fault there. The new consumer is only a precaution.
        if (trouble, self.tenure.source) == (&IntakeTrouble::Silent, Source::CatchAll) {
            self.attempts = 0;
            return self.open(0);
        }
        metrics::INTAKE_RESTARTS.with(trouble.label()).increment(1);
        warn!(source = %self.tenure.source, after = %self.reading.last, reason = trouble.text(), "intake restarted");
        self.attempts += 1;
        self.report(IntakeEvent::Stuck(trouble.text()));
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
        match replace(&mut self.doing, Doing::Idle) {
            Doing::Idle => self.open(0),
            Doing::PausingWalk(claim) => self.walk(claim),
            other => self.doing = other,
        }
    }

    /// Takes the source's next message from the leader of the stream, if there is one. Consumers have failed at it.
    pub fn rescued(&mut self, found: Result<Option<(Seq, Timestamp, Content)>, String>) {
        let Doing::Rescuing = replace(&mut self.doing, Doing::Idle) else { return };
        match found {
            Err(reason) => self.fail(true, &IntakeTrouble::Failed(reason)),
            Ok(None) => self.pause(),
            Ok(Some((seq, stored, content))) => {
                warn!(source = %self.tenure.source, %seq, "message read from the leader after consumers failed");
                metrics::LEADER_READS.increment(1);
                let (before, mut read) = (self.reading, ReadMessages::default());
                self.reading.last = seq;
                read.take(seq, stored, content);
                // Retention may have removed messages before this one, which the look at the stream shows.
                let claim = Claim { before, kept: before.last, compared: 0, read, trouble: None, is_rescue: true };
                self.ask(Doing::Looking(LookReason::Late(claim)), IntakeOutput::Look);
            }
        }
    }

    /// A check failed, or has shown that the consumer cannot be used.
    fn fail(&mut self, is_rescue: bool, trouble: &IntakeTrouble) {
        if is_rescue {
            debug!(source = %self.tenure.source, reason = trouble.text(), "message not read from the leader");
            self.pause();
        } else {
            self.give_up(trouble);
        }
    }
}

#[cfg(test)]
mod tests;
