//! Performs the outputs of an intake over NATS, one after the other.

use super::{Intake, IntakeEvent, IntakeOutput, IntakeReport, IntakeTrouble, Opened};
use crate::dead_letters;
use crate::decode::{Content, Decoder};
use crate::enrich::tenure::{ContextStore, TenureContext};
use crate::metrics;
use crate::reader::pull::{Pull, PullPlan};
use crate::reader::{StreamMessage, leader};
use crate::route_cache::{CacheMetrics, RULES};
use crate::rules::LiveRules;
use crate::source::Tenure;
use crate::stream::{StreamLeader, StreamState};
use crate::walk::{WalkError, WalkPace, Walker};
use std::cell::RefCell;
use std::fmt::Display;
use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, NodeRef, Seq};
use tickwire_node::clock::{Clock, timestamp_now};
use tickwire_node::nats::Nats;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many messages are taken from the consumer at a time.
const PULL_MESSAGES: u64 = 256;

/// How many bytes of messages are taken at a time.
const PULL_BYTES: usize = 1024 * 1024;

/// How long a walk of the stream may take. One that is repeated continues where this one has ended.
const WALK_DEADLINE: Duration = Duration::from_secs(1);

/// How long a source may be silent if its owner stores a partition heartbeat this often.
#[must_use]
pub fn silence(tick_interval: Duration) -> Duration {
    tick_interval * 2 + Duration::from_secs(1)
}

/// What all intakes of a router share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) clock: Clock,
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) walker: Arc<Walker>,
    /// What owners of partitions keep for the context of events.
    pub(crate) store: ContextStore,
    /// How long a source may be silent.
    pub(crate) silence: Duration,
    /// The most bytes of the route cache of one intake.
    pub(crate) rule_cache_bytes: usize,
    pub(crate) engine: mpsc::Sender<IntakeReport>,
}

/// The task.
#[derive(Debug)]
pub(crate) struct Driver {
    intake: Intake,
    context: Arc<Context>,
    tenure: Tenure,
    epoch_id: EpochId,
    /// It reads what comes after this sequence.
    checkpoint: Seq,
    /// What the owner of the partition keeps for the context of its events.
    kept: TenureContext,
    /// What it keeps for the rules.
    rules: LiveRules,
    cache_metrics: CacheMetrics,
    connected: watch::Receiver<bool>,
    pull: Option<Pull>,
    /// How many messages waited in the stream after the last one that was read.
    pending: u64,
}

impl Driver {
    /// Reads what comes after `checkpoint`, in the epoch `epoch_id`.
    pub(crate) fn new(context: Arc<Context>, tenure: Tenure, epoch_id: EpochId, checkpoint: Seq) -> Self {
        let (intake, connected) = (Intake::new(tenure, epoch_id, checkpoint), context.nats.connected());
        let kept = TenureContext::new(tenure.source, epoch_id);
        let rules = LiveRules::new(context.rule_cache_bytes);
        Self {
            intake,
            context,
            tenure,
            epoch_id,
            checkpoint,
            kept,
            rules,
            cache_metrics: CacheMetrics::new(RULES),
            connected,
            pull: None,
            pending: 0,
        }
    }

    /// Reads until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
        self.set_pending(0);
        self.context.store.store_volumes(&mut self.kept);
        self.close().await;
    }

    async fn work(&mut self) {
        self.context.store.load(&self.context.decoder, &mut self.kept, self.checkpoint).await;
        while let Some(output) = self.intake.next_output() {
            self.perform(output).await;
        }
    }

    async fn perform(&mut self, output: IntakeOutput) {
        match output {
            IntakeOutput::Read => self.read().await,
            // Waits while the engine has too much to do.
            IntakeOutput::Report(what) => {
                match &what {
                    IntakeEvent::Events { through, .. } => self.context.store.report(&mut self.kept, *through),
                    IntakeEvent::Skip(_) => self.kept.context.forget(),
                    IntakeEvent::Flowing | IntakeEvent::Stuck(_) | IntakeEvent::Missing(_) => {}
                }
                if self.context.engine.send(IntakeReport { tenure: self.tenure, what }).await.is_err() {
                    debug!("engine has ended");
                }
            }
            IntakeOutput::Open { after, number } => {
                self.kept.context.read_again(after);
                let opened = self.open(after, number).await;
                self.updated_intake().opened(opened);
            }
            IntakeOutput::Close => self.close().await,
            IntakeOutput::Post(dead_letters) => {
                dead_letters::post(&self.context.nats, self.epoch_id, dead_letters).await;
                self.updated_intake().posted();
            }
            IntakeOutput::Pause(pause) => {
                tokio::select! {
                    () = reconnection(&mut self.connected) => {}
                    () = sleep(pause) => {}
                }
                self.updated_intake().paused();
            }
            question => self.ask(question).await,
        }
    }

    /// Asks NATS the question, and passes the answer to the intake.
    async fn ask(&mut self, question: IntakeOutput) {
        let (context, filter) = (Arc::clone(&self.context), self.tenure.source.filter());
        let (nats, stream) = (&context.nats, &context.decoder.stream);
        match question {
            IntakeOutput::Look => {
                let state = answer(nats, StreamState::look(nats, stream)).await;
                self.updated_intake().looked(state);
            }
            IntakeOutput::FindLast(facts, mark) => {
                let leader = StreamLeader { nats, stream };
                let found = answer(nats, facts.has(&leader, mark)).await;
                self.updated_intake().found_last(found);
            }
            IntakeOutput::Compare(after) => {
                let next = answer(nats, leader::first_after(nats, stream, after, &filter)).await;
                self.updated_intake().compared(next.map(|next| next.map(|next| next.seq)));
            }
            IntakeOutput::Rescue(after) => {
                let found = answer(nats, leader::first_after(nats, stream, after, &filter)).await;
                let content = |held: StreamMessage| -> (Seq, Timestamp, Content) {
                    (held.seq, held.stored, context.decoder.content(held, &mut self.kept.context, &mut self.rules))
                };
                let found = found.map(|found| found.map(content));
                self.updated_intake().rescued(found);
            }
            IntakeOutput::Walk { after, through } => {
                let walk = context.walker.missing(after, through, WalkPace::Live, None);
                let walked = timeout(WALK_DEADLINE, walk).await.unwrap_or(Err(WalkError::Late));
                self.updated_intake().walked(walked.map_err(|error| error.to_string()));
            }
            other => debug!(?other, "unexpected output of an intake"),
        }
    }

    /// The intake, with the current state of the connection.
    fn updated_intake(&mut self) -> &mut Intake {
        self.intake.set_connected(self.context.nats.is_connected());
        &mut self.intake
    }

    /// Creates a consumer. Each has a new name, so that one that is stuck does not block the next.
    async fn open(&mut self, after: Seq, number: u64) -> Result<Opened, IntakeTrouble> {
        let (Context { nats, me, decoder, .. }, tenure) = (&*self.context, self.tenure);
        self.connected.mark_unchanged();
        let plan = PullPlan {
            stream: &decoder.stream,
            name: format!("{}-{}-{}-{}-{number}", me.id, me.nonce, tenure.source.label(), tenure.number),
            description: format!("router {me} reads {}", tenure.source),
            after,
            filter: tenure.source.filter(),
            batch: PULL_MESSAGES,
            bytes: PULL_BYTES,
        };
        let pull = self.pull.insert(Pull::open(nats, plan).await?);
        Ok(Opened { pending: pull.pending, server: pull.server.clone() })
    }

    async fn close(&mut self) {
        if let Some(pull) = self.pull.take() {
            pull.close().await;
        }
    }

    /// This many messages wait in the stream. The gauge has the sum of all intakes.
    fn set_pending(&mut self, pending: u64) {
        let before = replace(&mut self.pending, pending);
        if pending != before {
            metrics::PENDING_MESSAGES.increment(pending as f64 - before as f64);
        }
    }

    async fn read(&mut self) {
        let Some(pull) = &mut self.pull else { return self.updated_intake().ended(&IntakeTrouble::Silent) };
        let came = tokio::select! {
            biased;
            () = reconnection(&mut self.connected) => return self.updated_intake().reconnected(),
            came = timeout(self.context.silence, pull.next()) => came,
        };
        let came = match came {
            Ok(Ok(came)) => came,
            Ok(Err(end)) => return self.updated_intake().ended(&end.into()),
            Err(_) => return self.updated_intake().ended(&IntakeTrouble::Silent),
        };
        let idle_at = pull.idle_at();
        if let Some(last) = came.last() {
            self.set_pending(last.delivery.pending);
            let lag = timestamp_now().0.saturating_sub(last.delivery.stored.0).max(0);
            metrics::READ_LAG_SECONDS.record(lag as f64 / 1000.0);
        }
        let Context { nats, clock, decoder, .. } = &*self.context;
        let idle_at = idle_at.map(|at| clock.shown(at));
        self.rules.set_time(clock.now());
        // Each message is decoded when its turn comes, so there is one borrower at a time.
        let kept = &RefCell::new((&mut self.kept.context, &mut self.rules));
        let messages = came.iter().map(|pulled| {
            let content = move || {
                let (context, rules) = &mut *kept.borrow_mut();
                decoder.content(pulled.held(), context, rules)
            };
            (pulled.delivery, content)
        });
        self.intake.set_connected(nats.is_connected());
        self.intake.take(clock.now(), idle_at, messages);
        let (counts, entries) = self.rules.take_counts();
        self.cache_metrics.note(counts, entries);
    }
}

/// The answer of NATS, or why there is none: it does not come if the connection is lost before.
async fn answer<T, E: Display>(nats: &Nats, answer: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match nats.while_connected(answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(lost) => Err(lost.to_string()),
    }
}

/// Waits until NATS is connected again.
async fn reconnection(connected: &mut watch::Receiver<bool>) {
    while connected.changed().await.is_ok() {
        if *connected.borrow_and_update() {
            return;
        }
    }
    std::future::pending().await
}
