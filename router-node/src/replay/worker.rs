//! Performs passes: finds the interest of each request, reads the ranges, proves the reading, and sends the answers.
//!
//! Decoder and match are those of live events, so a replayed event has the same bytes. A message that cannot be read
//! became a dead letter when it was read first. Here it is skipped.

use super::pass::{LONGEST, Pass, PassOutcome, Proved, cost, is_proved, makes_sense};
use super::queue::QueuedReplay;
use super::replayed_event::ReplayedEvent;
use super::{ReplaySetup, Request};
use crate::dispatch::RoutedEvent;
use crate::dispatch::pack::{self, ENVELOPE};
use crate::interest::InterestInquiry;
use crate::metrics;
use crate::reader::StreamMessage;
use crate::reader::pace::ReplayPace;
use crate::reader::range::{RangeError, RangeReader};
use crate::reader::span::Proof;
use crate::stream::StreamState;
use crate::walk::{WalkPace, Walked};
use async_nats::Subject;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tickwire_core::coverage::completeness::Walk;
use tickwire_core::ids::{EpochId, NodeRef, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::interest::table::{LatestInterest, SharedInterest};
use tickwire_core::placement::View;
use tickwire_core::replay::{ReplayAnswer, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::link::LinkError;
use tickwire_node::names;
use tickwire_node::nats::NatsError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

/// How many messages are decoded before others have their turn.
const TURN: usize = 16;

/// The largest part of an answer, in bytes.
const MAX_PART: usize = 256 * 1024;

/// How long the engine may take to answer an inquiry about interest.
const INQUIRY_DEADLINE: Duration = Duration::from_millis(500);

/// The most sequences that are walked before a range is read.
const AHEAD: u64 = 20_000;

/// How long the reading for one answer may take. By then its gateway has asked again, unless it is configured to wait
/// longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the client may take to accept a message.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

/// Performs replays. It keeps no state between two of them.
#[derive(Debug)]
pub(super) struct Worker {
    setup: ReplaySetup,
    pace: ReplayPace,
    /// The number of readers so far.
    readers: AtomicU64,
    /// The number of copies of the stream at the last look; 0 before the first.
    copies: AtomicUsize,
}

impl Worker {
    pub(super) fn new(setup: ReplaySetup) -> Self {
        let pace = ReplayPace::new(setup.config.replay_rate);
        Self { pace, readers: AtomicU64::new(0), copies: AtomicUsize::new(0), setup }
    }

    /// Answers requests that are read in one pass: a single one, or several whose ranges lie in the same part of the
    /// stream. Returns those that the pass did not reach, or found nothing for.
    pub(super) async fn serve(&self, requests: Vec<Request>) -> Vec<Request> {
        let start = Instant::now();
        let (mut accepted, mut known) = (Vec::new(), Vec::new());
        self.walk_ahead(&requests).await;
        for waiting in requests {
            match self.begin(&waiting.request, &mut known).await {
                Ok((revision, interest)) => accepted.push((waiting, revision, interest)),
                Err(refusal) => self.log_and_refuse(&waiting, refusal).await,
            }
        }
        let view = self.view();
        let mut pass = Pass::new(self.setup.partitions, self.setup.config.replay_bytes, view);
        accepted.into_iter().for_each(|(waiting, revision, interest)| pass.add(waiting, revision, interest));
        let read = timeout(DEADLINE, self.read(&mut pass)).await.unwrap_or(Err(ReplayRefusal::Unreadable));
        let proved = match read {
            Ok((proofs, walk)) => self.prove(&pass, &proofs, walk).await,
            Err(refusal) => {
                pass.ended();
                Err(refusal)
            }
        };
        let mut left = Vec::new();
        for outcome in pass.finish(proved.as_ref().map_err(|refusal| *refusal)) {
            match outcome {
                PassOutcome::Answered(waiting, parts) => self.answer(&waiting, parts).await,
                PassOutcome::Refused(waiting, refusal) => self.log_and_refuse(&waiting, refusal).await,
                PassOutcome::Left(waiting) => left.push(waiting),
            }
        }
        metrics::REPLAY_SECONDS.record(start.elapsed().as_secs_f64());
        left
    }

    /// Walks the range of a single request before it is read. A walk takes time. An answer that was matched against an
    /// interest that has changed since proves nothing, so the walk comes before the match.
    async fn walk_ahead(&self, requests: &[Request]) {
        let [QueuedReplay { request, .. }] = requests else { return };
        if request.from < request.to {
            let to = request.to.min(Seq(request.from.0.saturating_add(AHEAD)));
            let walk_pace = WalkPace::Replay(LONGEST, &self.pace, request.purpose.is_repair());
            // If this fails, the walk after the reading fails as well, and logs why.
            self.setup.walker.missing(request.from, to, walk_pace, None).await.ok();
        }
    }

    /// The view that the requests are compared with.
    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.setup.view.borrow())
    }

    /// Flushes the answers, and closes the connection.
    pub(super) async fn close(&self) -> Result<(), NatsError> {
        self.setup.nats.close().await
    }

    /// Waits until the server has handled everything that was sent over the connection for reading.
    pub(super) async fn flush(&self, deadline: Duration) -> Result<(), LinkError> {
        self.setup.nats.link.flush(deadline).await
    }

    /// Answers with a refusal.
    pub(super) async fn refuse(&self, reply: &Subject, refusal: ReplayRefusal) {
        metrics::REPLAYS_REFUSED.with(refusal.as_str()).increment(1);
        self.publish(reply, EpochId(0), ReplayPart::Refused(refusal), true).await;
    }

    async fn log_and_refuse(&self, waiting: &Request, refusal: ReplayRefusal) {
        let ReplayRequest { gateway, partition, from, to, .. } = &waiting.request;
        debug!(%gateway, %partition, %from, %to, refusal = refusal.as_str(), "replay refused");
        self.refuse(&waiting.reply, refusal).await;
    }

    /// The interest of a request, if the request is valid.
    async fn begin(
        &self,
        request: &ReplayRequest,
        known: &mut KnownInterests,
    ) -> Result<(Revision, Arc<LatestInterest>), ReplayRefusal> {
        if !makes_sense(request, self.setup.partitions) {
            return Err(ReplayRefusal::Malformed);
        }
        self.find_interest(request, known).await
    }

    /// Reads as much as goes into one answer to each request. Returns the proofs that no server's copy lacked what the
    /// leader has, and the walk if every message of the range was read.
    async fn read(&self, pass: &mut Pass<Subject>) -> Result<(Vec<Proof>, Option<Walk>), ReplayRefusal> {
        let Some(span) = pass.span() else { return Ok((Vec::new(), None)) };
        let copies = match self.copies.load(Ordering::Relaxed) {
            0 => self.look().await?.facts.replicas,
            known => known,
        };
        let unreadable = |error: RangeError| {
            warn!(%error, "stream not read for a replay");
            ReplayRefusal::Unreadable
        };
        let ReplaySetup { nats, decoder, me, .. } = &self.setup;
        let name = format!("{}-{}-replay-{}", me.id, me.nonce, self.readers.fetch_add(1, Ordering::Relaxed));
        let mut reader = RangeReader::open(nats, &decoder.stream, span, copies, &name).await.map_err(unreadable)?;
        let mut walk = reader.reads_all().then(|| Walk::after(span.from));
        let done = self.read_from(&mut reader, pass, &mut walk).await;
        let proofs = reader.proofs();
        reader.close().await;
        done.map(|()| (proofs, walk)).map_err(unreadable)
    }

    async fn read_from(
        &self,
        reader: &mut RangeReader,
        pass: &mut Pass<Subject>,
        walk: &mut Option<Walk>,
    ) -> Result<(), RangeError> {
        let begun = Instant::now();
        while pass.wants_more(begun.elapsed()) {
            let messages = reader.next().await?;
            let Some(last) = messages.last().map(|last| last.seq) else {
                pass.ended();
                break;
            };
            if let Some(walk) = walk {
                messages.iter().for_each(|message| walk.pass(message.seq));
            }
            let count = messages.len() as u64;
            metrics::REPLAY_MESSAGES.increment(count);
            let cost = messages.iter().map(|message| cost(message.payload.len())).sum();
            self.pace.wait(cost, pass.is_repair()).await;
            self.take(&messages, pass).await;
            pass.advance(count, last, reader.reads_all());
        }
        Ok(())
    }

    /// Passes messages to the requests of their partitions.
    async fn take(&self, messages: &[StreamMessage], pass: &mut Pass<Subject>) {
        for (number, message) in messages.iter().enumerate() {
            // Live events get their turn in between.
            if number % TURN == 0 {
                tokio::task::yield_now().await;
            }
            let read = || ReplayedEvent::of(self.setup.decoder.read(message));
            pass.take(message.seq, names::partition_of(&message.subject), read);
        }
    }

    /// The state of the stream after the reading, if it proves the reading: what the stream still keeps was there all
    /// the time, and its missing ranges are known.
    async fn prove(&self, pass: &Pass<Subject>, proofs: &[Proof], walk: Option<Walk>) -> Result<Proved, ReplayRefusal> {
        let state = self.look().await?;
        if !is_proved(proofs, &state) {
            return Err(ReplayRefusal::Unreadable);
        }
        if let Some(walk) = walk {
            self.setup.walker.learn(walk, &state);
        }
        let facts = state.facts;
        let Some((from, through)) = pass.claimed(&facts) else {
            return Ok(Proved { facts, walked: Walked { through: Seq(0), missing: Vec::new(), removed: Seq(0) } });
        };
        let walk_pace = WalkPace::Replay(LONGEST, &self.pace, pass.is_repair());
        match self.setup.walker.missing(from, through, walk_pace, Some(state)).await {
            Ok(walked) => Ok(Proved { facts, walked }),
            Err(error) => {
                metrics::UNVERIFIED_PASSES.increment(1);
                warn!(%error, "replayed range not checked for missing messages");
                Err(ReplayRefusal::Unreadable)
            }
        }
    }

    async fn look(&self) -> Result<StreamState, ReplayRefusal> {
        let state = StreamState::look(&self.setup.nats, &self.setup.decoder.stream).await.map_err(|error| {
            warn!(%error, "state of the stream not read for a replay");
            ReplayRefusal::Unreadable
        })?;
        self.copies.store(state.facts.replicas, Ordering::Relaxed);
        Ok(state)
    }

    /// The interest to match against. All requests of a gateway in one pass are matched against the same interest.
    async fn find_interest(
        &self,
        request: &ReplayRequest,
        known: &mut KnownInterests,
    ) -> Result<(Revision, Arc<LatestInterest>), ReplayRefusal> {
        match &request.interest {
            ReplayInterest::Carried(part) => {
                let (revision, interest) = Interest::assemble(vec![part.clone()]).ok_or(ReplayRefusal::Malformed)?;
                Ok((revision, Arc::new(SharedInterest::new(interest).held())))
            }
            ReplayInterest::ByRevision(least) => {
                let is_it =
                    |(gateway, revision, _): &&(NodeRef, Revision, _)| *gateway == request.gateway && revision >= least;
                if let Some((_, revision, interest)) = known.iter().find(is_it) {
                    return Ok((*revision, Arc::clone(interest)));
                }
                let (answer, answered) = oneshot::channel();
                let inquiry = InterestInquiry { gateway: request.gateway.clone(), least: *least, answer };
                let inquire = async {
                    self.setup.inquiries.send(inquiry).await.ok()?;
                    answered.await.ok()?
                };
                let found = timeout(INQUIRY_DEADLINE, inquire).await.ok().flatten();
                let (revision, shared) = found.ok_or(ReplayRefusal::UnknownInterest)?;
                let interest = Arc::new(shared.held());
                known.push((request.gateway.clone(), revision, Arc::clone(&interest)));
                Ok((revision, interest))
            }
        }
    }

    async fn answer(&self, waiting: &Request, parts: Vec<ReplayPart<RoutedEvent>>) {
        let QueuedReplay { request, reply, .. } = waiting;
        let most = self.setup.nats.client.max_payload() / 2;
        let most = most.saturating_sub(ENVELOPE).min(MAX_PART);
        let (mut messages, mut through, mut removed): (Vec<ReplayPart<Bytes>>, Seq, bool) =
            (Vec::new(), request.from, false);
        for part in parts {
            match part {
                ReplayPart::Events(section) => {
                    through = section.through;
                    metrics::REPLAY_EVENTS.increment(section.events.len() as u64);
                    let bytes: usize = section.events.iter().map(|(_, event)| event.wire.len()).sum();
                    metrics::REPLAY_BYTES.increment(bytes as u64);
                    messages.extend(pack::pack(vec![section], most).into_iter().flatten().map(ReplayPart::Events));
                }
                ReplayPart::Removed { partition, from, through: end, damaged } => {
                    (through, removed) = (end, removed || damaged.is_none());
                    messages.push(ReplayPart::Removed { partition, from, through: end, damaged });
                }
                ReplayPart::Refused(refusal) => messages.push(ReplayPart::Refused(refusal)),
            }
        }
        let outcome = match (removed, through >= request.to) {
            (true, _) => "removed",
            (false, true) => "complete",
            (false, false) => "partial",
        };
        metrics::REPLAYS.with(outcome).increment(1);
        let ReplayRequest { gateway, partition, from, to, epoch_id, .. } = request;
        debug!(%gateway, %partition, %from, %to, %through, outcome, "replay answered");
        let count = messages.len();
        for (at, part) in messages.into_iter().enumerate() {
            self.publish(reply, *epoch_id, part, at + 1 == count).await;
            // Live events get their turn in between.
            tokio::task::yield_now().await;
        }
    }

    /// Publishes a part of an answer. If that fails, the gateway asks again.
    async fn publish(&self, reply: &Subject, epoch_id: EpochId, part: ReplayPart<Bytes>, last: bool) {
        let answer = ReplayAnswer { router: self.setup.me.clone(), epoch_id, part, last };
        let bytes = match wire::encode(&answer) {
            Ok(bytes) => bytes,
            Err(error) => return warn!(%error, "replay answer not encoded"),
        };
        let publish = self.setup.nats.client.publish(reply.clone(), bytes.into());
        if !matches!(timeout(PUBLISH_DEADLINE, publish).await, Ok(Ok(()))) {
            metrics::REPLAY_PARTS_LOST.increment(1);
            debug!("replay answer not published");
        }
    }
}

/// The interests that were looked up in one pass.
type KnownInterests = Vec<(NodeRef, Revision, Arc<LatestInterest>)>;
