//! Reads everything of one source for one tenure: a consumer of its own, made anew whenever there is doubt.
//!
//! What makes it contiguous:
//!
//! * Sequences of a partition are sparse, so a missed message shows only in the consumer's own count. After one, the
//!   consumer is made anew behind the last message up to which everything was read.
//! * Retention can pass a slow reader unseen, since the consumer just goes on behind what was removed. So whenever a
//!   message was late (it may have waited for a second, or has many behind it), the stream is asked, before anything of
//!   its batch is claimed, whether it still begins at or before what was to be read next; if not, the range that
//!   nobody can read any more is skipped, which every gateway sees as a gap. While nothing is late, limits cannot have
//!   passed us, unless the stream holds less than a second of events.
//! * Every tick of the owner passes through here, so silence for longer than two of them means that the consumer is
//!   broken, whatever it says.
//! * A consumer reads the copy of one server, which may have removed more than the leader of the stream. Where there are
//!   several copies, what was late is read from the leader's, or each message of it, if they are few, must be the leader's
//!   next one too.
//! * What was late may have been damaged before it was read. So the stream is walked as a whole where it was late, to see
//!   whether any sequence is missing; what is missing is skipped as well.
//! * Before it reads on after anything went wrong, the last message that was read must still be there, stored at the same
//!   time: a stream that has lost its tail gives the same sequences again.
//!
//! Where reading has failed three times, one message is read from the leader in another form, and put aside if it is no
//! event: whatever it holds, it cannot stop what comes behind it.

mod chunk;
mod lateness;
mod proof;
mod trouble;

use crate::checkpoint::{Checkpoint, Mark};
use crate::dead_letters;
use crate::decode::{Decoder, Readable};
use crate::metrics;
use crate::reader::leader;
use crate::reader::pull::{Pull, PullPlan, PulledMessage};
use crate::source::{Source, Tenure};
use crate::walk::Walker;
use chunk::Chunk;
use lateness::Lateness;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::coverage::builder::{Contiguity, Delivered};
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::ids::{EpochId, NodeRef, Seq};
use tickwire_node::nats::Nats;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use trouble::{IntakeTrouble, backoff};

/// How many messages are taken from the consumer at a time.
const BATCH: u64 = 256;

/// How many bytes of them.
const BYTES: usize = 1024 * 1024;

/// After so many failures in a row one message is read in another way.
const FAILURES: u32 = 3;

/// So many messages that were late are compared with what the leader has, one by one. More are read from the leader.
const COMPARED: usize = 8;

/// How many consumers are made for that until one is where the stream is led. Then there is a pause before more of them.
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

/// What all intakes of a router share.
#[derive(Debug)]
pub(crate) struct IntakeContext {
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) walker: Arc<Walker>,
    /// How long a source may be silent.
    pub(crate) silence: Duration,
    pub(crate) engine: mpsc::Sender<IntakeReport>,
}

/// One intake.
#[derive(Debug)]
pub(crate) struct Intake {
    context: Arc<IntakeContext>,
    tenure: Tenure,
    epoch_id: EpochId,
    reading: Contiguity,
    /// The last message that was read.
    mark: Option<Mark>,
    connected: watch::Receiver<bool>,
    lateness: Lateness,
    /// Whether the last batch was late.
    late: bool,
    /// Consumers made so far.
    consumers: u64,
    /// Consumers made since a message came.
    attempts: u32,
}

impl Intake {
    /// Reads what comes after `checkpoint`, in the stream's life `epoch_id`.
    pub(crate) fn new(context: Arc<IntakeContext>, tenure: Tenure, epoch_id: EpochId, checkpoint: Seq) -> Self {
        Self {
            connected: context.nats.connected(),
            context,
            tenure,
            epoch_id,
            reading: Contiguity::after(checkpoint),
            mark: None,
            lateness: Lateness::default(),
            late: true,
            consumers: 0,
            attempts: 0,
        }
    }

    /// Reads until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut pull = None;
            let trouble = tokio::select! {
                biased;
                () = stop.cancelled() => IntakeTrouble::Stopped,
                trouble = self.read(&mut pull) => trouble,
            };
            if let Some(pull) = pull {
                pull.close().await;
            }
            match (&trouble, self.tenure.source) {
                (IntakeTrouble::Stopped, _) => return,
                // No ticks come there, so that silence is no fault, and another consumer no more than a precaution.
                (IntakeTrouble::Silent, Source::CatchAll) => {
                    self.attempts = 0;
                    continue;
                }
                _ => {}
            }
            metrics::INTAKE_RESTARTS.with(trouble.label()).increment(1);
            warn!(source = %self.tenure.source, after = %self.reading.last, cause = trouble.text(), "reading anew");
            self.attempts += 1;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.tell(IntakeEvent::Stuck(trouble.text())) => {}
            }
            let is_other = matches!(trouble, IntakeTrouble::OtherStream | IntakeTrouble::Lost);
            let is_at_hand = !is_other && self.context.nats.is_connected();
            if self.attempts >= FAILURES && is_at_hand {
                let passed = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    passed = self.read_one() => passed,
                };
                if let Err(trouble) = passed {
                    debug!(source = %self.tenure.source, cause = trouble.text(), "not read in another way either");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = reconnection(&mut self.connected) => {}
                () = sleep(backoff(self.attempts)) => {}
            }
        }
    }

    /// Makes a consumer and reads from it until there is doubt.
    async fn read(&mut self, made: &mut Option<Pull>) -> IntakeTrouble {
        if let Err(trouble) = self.open(made).await {
            return trouble;
        }
        let Some(pull) = made else { return IntakeTrouble::Silent };
        loop {
            if let Err(trouble) = self.read_chunk(pull).await {
                return trouble;
            }
        }
    }

    /// Makes a consumer: where the stream is led, if that matters.
    async fn open(&mut self, made: &mut Option<Pull>) -> Result<(), IntakeTrouble> {
        let context = Arc::clone(&self.context);
        self.connected.mark_unchanged();
        let mut attempts = 0;
        let facts = loop {
            if let Some(misplaced) = made.take() {
                misplaced.close().await;
            }
            self.consumers += 1;
            attempts += 1;
            let plan = PullPlan {
                stream: &context.decoder.stream,
                name: self.consumer_name(),
                description: format!("router {} reads {}", context.me, self.tenure.source),
                after: self.reading.last,
                filter: self.tenure.source.filter(),
                batch: BATCH,
                bytes: BYTES,
            };
            let pull = made.insert(Pull::open(&context.nats, plan).await?);
            self.reading = Contiguity::after(self.reading.last);
            self.lateness.restart();
            // Asked for when the consumer is there: a later stream than the consumer's would show.
            let (_, sight) = self.keep_up(self.reading.last).await?;
            let matters = sight.facts.replicas > 1 && pull.pending > COMPARED as u64;
            if !matters || attempts >= PLACES || pull.server == sight.leader {
                break sight.facts;
            }
        };
        self.check_last(&facts).await?;
        self.late |= facts.replicas > 1;
        // After more than one failure only a message proves that it can be read, where ticks are sure to come.
        if self.attempts <= 1 || self.tenure.source == Source::CatchAll {
            self.tell(IntakeEvent::Flowing).await;
        }
        Ok(())
    }

    async fn read_chunk(&mut self, pull: &mut Pull) -> Result<(), IntakeTrouble> {
        let context = Arc::clone(&self.context);
        let chunk = tokio::select! {
            biased;
            () = reconnection(&mut self.connected) => return Err(IntakeTrouble::Reconnected),
            chunk = timeout(context.silence, pull.next()) => chunk,
        };
        let chunk = chunk.map_err(|_| IntakeTrouble::Silent)??;

        if let Some(idle_at) = pull.idle_at() {
            self.lateness.is_current(idle_at);
        }
        let (before, now) = (self.reading, Instant::now());
        let mut read = Chunk::default();
        let mut trouble = None;
        for message in &chunk {
            if let Err(found) = self.accept(now, message, &mut read) {
                trouble = Some(found);
                break;
            }
        }
        if self.reading.last > before.last {
            let is_late = self.lateness.take_late();
            if is_late || self.late {
                self.catch_up(before, pull.server.as_deref(), &mut read).await?;
            }
            self.late = is_late;
            self.hand_on(read).await;
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Hands on what was read: letters are stored before anything behind them is told. What is missing in it every gateway
    /// sees as a gap.
    async fn hand_on(&mut self, mut read: Chunk) {
        read.count();
        let dead_letters = std::mem::take(&mut read.dead_letters);
        dead_letters::post(&self.context.nats, self.epoch_id, dead_letters).await;
        if self.attempts > 1 {
            self.tell(IntakeEvent::Flowing).await;
        }
        self.attempts = 0;
        self.mark = read.mark.or(self.mark);
        for MissingRange { after, through } in std::mem::take(&mut read.missing) {
            let events = read.take_until(after);
            self.tell(IntakeEvent::Events { through: after, mark: None, events }).await;
            self.tell(IntakeEvent::Skip(through)).await;
        }
        let (through, mark, events) = (self.reading.last, read.mark, read.events);
        self.tell(IntakeEvent::Events { through, mark, events }).await;
    }

    /// Takes one message of a chunk.
    fn accept(&mut self, now: Instant, message: &PulledMessage, read: &mut Chunk) -> Result<(), IntakeTrouble> {
        let delivery = message.delivery;
        match self.reading.accept(delivery.seq, delivery.number) {
            Delivered::Known => return Ok(()),
            Delivered::Missed => return Err(IntakeTrouble::Missed),
            Delivered::Next => {}
        }
        self.lateness.take(now, delivery.pending);
        read.take(&self.context.decoder, message.held());
        Ok(())
    }

    /// Reads the next message from the leader of the stream, in a form that holds any bytes. Consumers have failed at it.
    async fn read_one(&mut self) -> Result<(), IntakeTrouble> {
        let context = Arc::clone(&self.context);
        let (_, sight) = self.keep_up(self.reading.last).await?;
        self.check_last(&sight.facts).await?;
        let before = self.reading;
        let filter = self.tenure.source.filter();
        let found = leader::first_after(&context.nats, &context.decoder.stream, before.last, &filter).await;
        let Some(held) = found.map_err(IntakeTrouble::Failed)? else { return Ok(()) };
        warn!(source = %self.tenure.source, seq = %held.seq, "read in another way what consumers have failed at");
        metrics::RESCUED_MESSAGES.increment(1);
        let mut read = Chunk::default();
        self.reading.last = held.seq;
        read.take(&context.decoder, held);
        // What retention took meanwhile was not the leader's next message.
        self.catch_up(before, None, &mut read).await?;
        self.hand_on(read).await;
        Ok(())
    }

    /// Tells the engine; waits while it has too much to do.
    async fn tell(&self, what: IntakeEvent) {
        let heard = IntakeReport { tenure: self.tenure, what };
        if self.context.engine.send(heard).await.is_err() {
            debug!("the engine has ended");
        }
    }

    /// A new name for every consumer: one that is stuck must not stand in the way of the next.
    fn consumer_name(&self) -> String {
        let (me, tenure) = (&self.context.me, self.tenure);
        format!("{}-{}-{}-{}-{}", me.id, me.nonce, tenure.source.label(), tenure.number, self.consumers)
    }
}

/// Waits until there is a connection that was not there: what was on its way is lost, and the consumer may be, too.
async fn reconnection(connected: &mut watch::Receiver<bool>) {
    while connected.changed().await.is_ok() {
        if *connected.borrow_and_update() {
            return;
        }
    }
    std::future::pending().await
}
