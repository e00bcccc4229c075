//! Reads one source, without a hole, for one tenure: a consumer of its own, made anew whenever there is doubt.
//!
//! What makes it contiguous:
//!
//! * Sequences of a partition are sparse, so a hole shows only in the consumer's own count. After one, the consumer is
//!   made anew behind the last message that was read without a hole.
//! * Retention can pass a slow reader unseen, since the consumer just goes on behind what was removed. So whenever a
//!   message was late (stored more than a second ago, or with many behind it), the stream is asked, before anything of
//!   its batch is claimed, whether it still begins at or before what was to be read next; if not, the range that
//!   nobody can read any more is skipped, which every gateway sees as a gap. While nothing is late, limits cannot have
//!   passed us, unless the stream holds less than a second of events.
//! * Every tick of the owner passes through here, so silence for longer than two of them means that the consumer is
//!   broken, whatever it says.

mod trouble;

use crate::decode::{Decoded, Decoder, Readable, StoredMessage, to_wire};
use crate::letters::{self, Letter};
use crate::source::{Source, Tenure};
use crate::stream::Facts;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::{self, MessagesError};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use futures_util::{Stream, StreamExt};
use metrics::{counter, describe_counter};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::claims::{Delivered, Reading};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Incarnation, NodeRef, Seq};
use tickwire_node::clock::{millis, wall_clock};
use tickwire_node::nats::Nats;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use trouble::{Trouble, backoff};

/// How many messages are taken from the consumer at a time.
const BATCH: usize = 256;

/// A message stored longer ago than this, in milliseconds, is late.
const LATE: i64 = 1_000;

/// A message with more than this behind it is late.
const BACKLOG: u64 = 1_000;

/// How long making or deleting a consumer may take.
const CONSUMER_DEADLINE: Duration = Duration::from_secs(1);

/// After how long the server may delete a consumer that nobody pulls from, should we not do it.
const INACTIVE: Duration = Duration::from_secs(30);

/// What the engine hears from an intake.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Of which tenure it was read.
    pub(crate) tenure: Tenure,
    /// What was read.
    pub(crate) what: What,
}

/// What was read.
#[derive(Debug)]
pub(crate) enum What {
    /// The source can be read.
    Flowing,
    /// The source cannot be read, for this reason.
    Stuck(String),
    /// Nothing up to here can be read any more.
    Skip(Seq),
    /// All up to a sequence was read, and these are the events in it.
    Events {
        /// The last sequence.
        upto: Seq,
        /// The events, in order.
        events: Vec<Readable>,
    },
}

/// What all intakes of a router share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) decoder: Arc<Decoder>,
    /// How long a source may be silent.
    pub(crate) silence: Duration,
    pub(crate) engine: mpsc::Sender<Heard>,
}

/// One intake.
#[derive(Debug)]
pub(crate) struct Intake {
    context: Arc<Context>,
    tenure: Tenure,
    incarnation: Incarnation,
    reading: Reading,
    connected: watch::Receiver<bool>,
    /// Whether the last batch was late.
    late: bool,
    /// Consumers made so far.
    consumers: u64,
    /// Consumers made since a message came.
    attempts: u32,
}

type Chunks = Pin<Box<dyn Stream<Item = Vec<Result<Message, MessagesError>>> + Send>>;

impl Intake {
    /// Reads what comes after `floor`, in the stream's life `incarnation`.
    pub(crate) fn new(context: Arc<Context>, tenure: Tenure, incarnation: Incarnation, floor: Seq) -> Self {
        Self {
            connected: context.nats.connected(),
            context,
            tenure,
            incarnation,
            reading: Reading::after(floor),
            late: true,
            consumers: 0,
            attempts: 0,
        }
    }

    /// Reads until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.consumers += 1;
            let name = self.consumer_name();
            let trouble = tokio::select! {
                biased;
                () = stop.cancelled() => Trouble::Stopped,
                trouble = self.read(&name) => trouble,
            };
            self.delete(&name).await;
            match (&trouble, self.tenure.source) {
                (Trouble::Stopped, _) => return,
                // No ticks come there, so that silence is no fault, and another consumer no more than a precaution.
                (Trouble::Silent, Source::CatchAll) => {
                    self.attempts = 0;
                    continue;
                }
                _ => {}
            }
            counter!("tickwire_router_intake_restarts_total", "cause" => trouble.label()).increment(1);
            warn!(source = %self.tenure.source, after = %self.reading.last, cause = trouble.text(), "reading anew");
            self.attempts += 1;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.tell(What::Stuck(trouble.text())) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(backoff(self.attempts)) => {}
            }
        }
    }

    /// Makes a consumer and reads from it until there is doubt.
    async fn read(&mut self, name: &str) -> Trouble {
        match self.open(name).await {
            Ok(mut chunks) => loop {
                if let Err(trouble) = self.read_chunk(&mut chunks).await {
                    return trouble;
                }
            },
            Err(trouble) => trouble,
        }
    }

    async fn open(&mut self, name: &str) -> Result<Chunks, Trouble> {
        let context = Arc::clone(&self.context);
        self.connected.mark_unchanged();
        let config = pull::Config {
            name: Some(name.to_owned()),
            description: Some(format!("router {} reads {}", context.me, self.tenure.source)),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.reading.last.0 + 1 },
            ack_policy: AckPolicy::None,
            filter_subject: self.tenure.source.filter(),
            inactive_threshold: INACTIVE,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let made = context.nats.jetstream.create_consumer_on_stream(config, context.decoder.stream.as_str());
        let made = timeout(CONSUMER_DEADLINE, made).await;
        let consumer: PullConsumer = made
            .map_err(|_| Trouble::Failed(format!("no consumer within {CONSUMER_DEADLINE:?}")))?
            .map_err(|error| Trouble::Failed(format!("no consumer: {error}")))?;
        self.reading = Reading::after(self.reading.last);
        // Asked for when the consumer is there: a later stream than the consumer's would show.
        self.keep_up(self.reading.last).await?;
        let messages = consumer.stream().max_messages_per_batch(BATCH).messages().await;
        let messages = messages.map_err(|error| Trouble::Failed(error.to_string()))?;
        // After more than one failure only a message proves that it can be read, where ticks are sure to come.
        if self.attempts <= 1 || self.tenure.source == Source::CatchAll {
            self.tell(What::Flowing).await;
        }
        Ok(Box::pin(messages.ready_chunks(BATCH)))
    }

    async fn read_chunk(&mut self, chunks: &mut Chunks) -> Result<(), Trouble> {
        let context = Arc::clone(&self.context);
        let chunk = tokio::select! {
            biased;
            () = reconnection(&mut self.connected) => return Err(Trouble::Reconnected),
            chunk = timeout(context.silence, chunks.next()) => chunk,
        };
        let chunk = chunk.map_err(|_| Trouble::Silent)?;
        let chunk = chunk.ok_or_else(|| Trouble::Failed("the consumer has ended".to_owned()))?;

        let before = self.reading;
        let mut read = Chunk::default();
        let mut trouble = None;
        for message in chunk {
            if let Err(found) = self.accept(message, &mut read) {
                trouble = Some(found);
                break;
            }
        }
        if self.reading.last > before.last {
            read.count();
            if read.late || self.late {
                self.catch_up(before, &mut read).await?;
            }
            self.late = read.late;
            letters::post(&context.nats, self.incarnation, read.letters).await;
            if self.attempts > 1 {
                self.tell(What::Flowing).await;
            }
            self.attempts = 0;
            let (upto, events) = (self.reading.last, read.events);
            self.tell(What::Events { upto, events }).await;
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Takes one message of a chunk.
    fn accept(&mut self, message: Result<Message, MessagesError>, read: &mut Chunk) -> Result<(), Trouble> {
        let message = message.map_err(|error| Trouble::Failed(error.to_string()))?;
        let info = message.info().map_err(|error| Trouble::Failed(error.to_string()))?;
        let seq = Seq(info.stream_sequence);
        match self.reading.accept(seq, info.consumer_sequence) {
            Delivered::Known => return Ok(()),
            Delivered::Hole => return Err(Trouble::Hole),
            Delivered::Next => {}
        }
        let stored = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        read.late |= info.pending > BACKLOG || now_millis() - stored > LATE;
        let held = StoredMessage {
            subject: &message.subject,
            headers: message.headers.as_ref(),
            payload: &message.payload,
            seq,
            stored: Timestamp(stored),
        };
        let refusal = match self.context.decoder.read(&held) {
            Decoded::Tick => {
                read.ticks += 1;
                return Ok(());
            }
            Decoded::Event(event) => match to_wire(&event) {
                Ok(wire) => {
                    read.events.push(Readable { seq, event: *event, wire });
                    return Ok(());
                }
                Err(refusal) => refusal,
            },
            Decoded::Dead(refusal) => refusal,
        };
        read.letters.push(Letter { refusal, seq, message });
        Ok(())
    }

    /// Makes sure that retention has not passed what was to be read after `before`, and skips what it has taken. When
    /// the server cannot be asked, the chunk is not claimed, and is read again.
    async fn catch_up(&mut self, before: Reading, read: &mut Chunk) -> Result<(), Trouble> {
        let kept = self.keep_up(before.last).await.inspect_err(|_| self.reading = before)?;
        read.events.retain(|event| event.seq > kept);
        Ok(())
    }

    /// Skips what cannot be read any more after `last`. Returns up to where that is, or `last`.
    async fn keep_up(&mut self, last: Seq) -> Result<Seq, Trouble> {
        let context = &self.context;
        let facts = Facts::look(&context.nats, &context.decoder.stream).await;
        let facts = facts.map_err(|error| Trouble::Failed(error.to_string()))?;
        if facts.incarnation != self.incarnation {
            return Err(Trouble::OtherStream);
        }
        let least = facts.least_floor();
        if least <= last {
            return Ok(last);
        }
        warn!(source = %self.tenure.source, after = %last, upto = %least, "retention has passed what was to be read");
        counter!("tickwire_router_skipped_ranges_total").increment(1);
        self.reading.last = self.reading.last.max(least);
        self.tell(What::Skip(least)).await;
        Ok(least)
    }

    /// Tells the engine; waits while it has too much to do.
    async fn tell(&self, what: What) {
        let heard = Heard { tenure: self.tenure, what };
        if self.context.engine.send(heard).await.is_err() {
            debug!("the engine has ended");
        }
    }

    /// A new name for every consumer: one that is stuck must not stand in the way of the next.
    fn consumer_name(&self) -> String {
        let (me, tenure) = (&self.context.me, self.tenure);
        format!("{}-{}-{}-{}-{}", me.id, me.nonce, tenure.source.label(), tenure.number, self.consumers)
    }

    async fn delete(&self, name: &str) {
        let context = &self.context;
        if !context.nats.is_connected() {
            return;
        }
        let deletion = context.nats.jetstream.delete_consumer_from_stream(name, context.decoder.stream.as_str());
        match timeout(CONSUMER_DEADLINE, deletion).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(name, %error, "the consumer was not deleted"),
            Err(late) => debug!(name, %late, "the consumer was not deleted"),
        }
    }
}

/// What was read of a chunk.
#[derive(Debug, Default)]
struct Chunk {
    events: Vec<Readable>,
    letters: Vec<Letter>,
    ticks: u64,
    late: bool,
}

impl Chunk {
    fn count(&self) {
        let (events, letters) = (self.events.len() as u64, self.letters.len() as u64);
        for (what, count) in [("event", events), ("dead_letter", letters), ("tick", self.ticks)] {
            counter!("tickwire_router_messages_total", "what" => what).increment(count);
        }
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

fn now_millis() -> i64 {
    i64::try_from(millis(wall_clock())).unwrap_or(i64::MAX)
}

pub(crate) fn describe() {
    describe_counter!("tickwire_router_messages_total", "Messages read from the stream, by what they are");
    describe_counter!("tickwire_router_intake_restarts_total", "Consumers made anew, by cause");
    describe_counter!(
        "tickwire_router_skipped_ranges_total",
        "Ranges that retention removed before they were read; gateways see each as a gap"
    );
}
