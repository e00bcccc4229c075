//! Requests that are read in one pass: whose interest, what the stream holds of the ranges, what of it is wanted, and
//! the answers.
//!
//! It is the live path's decoder and the live path's match, so a replayed event is the very same bytes. What cannot be
//! read was dead-lettered when it was read first; here it is passed over.

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

/// The largest message of an answer.
const CHUNK: usize = 256 * 1024;

/// How long the engine may take to say what a gateway wants.
const INQUIRY_DEADLINE: Duration = Duration::from_millis(500);

/// So many sequences are walked before a range is read, at most.
const AHEAD: u64 = 20_000;

/// How long the reading for one answer may take. Its gateway has long asked again then, unless it is told to wait
/// longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the client may take to accept a message.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

/// Performs replays. It keeps no state between two of them.
#[derive(Debug)]
pub(super) struct Worker {
    setup: ReplaySetup,
    pace: ReplayPace,
    /// How many readers there were.
    readers: AtomicU64,
    /// How many copies of the stream there were at the last look; 0 before the first.
    copies: AtomicUsize,
}

impl Worker {
    pub(super) fn new(setup: ReplaySetup) -> Self {
        let pace = ReplayPace::new(setup.config.replay_rate);
        Self { pace, readers: AtomicU64::new(0), copies: AtomicUsize::new(0), setup }
    }

    /// Answers requests that are read in one pass: a single one, or several whose ranges lie in the same part of the
    /// stream. Returns those that the pass did not come to, or found nothing for.
    pub(super) async fn serve(&self, requests: Vec<Request>) -> Vec<Request> {
        let start = Instant::now();
        let (mut sought, mut known) = (Vec::new(), Vec::new());
        self.walk_ahead(&requests).await;
        for waiting in requests {
            match self.begin(&waiting.request, &mut known).await {
                Ok((revision, interest)) => sought.push((waiting, revision, interest)),
                Err(refusal) => self.turn_down(&waiting, refusal).await,
            }
        }
        let view = self.setup.view.borrow().clone();
        let mut pass = Pass::new(self.setup.partitions, self.setup.config.replay_bytes, view);
        sought.into_iter().for_each(|(waiting, revision, interest)| pass.add(waiting, revision, interest));
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
                PassOutcome::Refused(waiting, refusal) => self.turn_down(&waiting, refusal).await,
                PassOutcome::Left(waiting) => left.push(waiting),
            }
        }
        metrics::REPLAY_SECONDS.record(start.elapsed().as_secs_f64());
        left
    }

    /// Walks where a request is about to be read by its partition. What is matched against the interest of a while ago
    /// proves nothing where subscriptions come by the second: so nothing that takes time is left for after the match.
    async fn walk_ahead(&self, requests: &[Request]) {
        let [QueuedReplay { request, .. }] = requests else { return };
        if request.from < request.to {
            let to = request.to.min(Seq(request.from.0.saturating_add(AHEAD)));
            let haste = WalkPace::Replay(LONGEST, &self.pace, request.purpose.is_repair());
            // What could not be walked is not claimed, and is told then.
            self.setup.walker.missing(request.from, to, haste, None).await.ok();
        }
    }

    /// Sends what was answered, and ends the connection.
    pub(super) async fn close(&self) -> Result<(), NatsError> {
        self.setup.nats.close().await
    }

    /// Waits until the server has handled all that was said over the connection for reading.
    pub(super) async fn flush(&self, deadline: Duration) -> Result<(), LinkError> {
        self.setup.nats.link.flush(deadline).await
    }

    /// Answers with a refusal.
    pub(super) async fn refuse(&self, reply: &Subject, refusal: ReplayRefusal) {
        metrics::REPLAYS_REFUSED.with(refusal.as_str()).increment(1);
        self.publish(reply, EpochId(0), ReplayPart::Refused(refusal), true).await;
    }

    async fn turn_down(&self, waiting: &Request, refusal: ReplayRefusal) {
        let ReplayRequest { gateway, partition, from, to, .. } = &waiting.request;
        debug!(%gateway, %partition, %from, %to, refusal = refusal.as_str(), "a replay was refused");
        self.refuse(&waiting.reply, refusal).await;
    }

    /// The interest of a request that makes sense.
    async fn begin(
        &self,
        request: &ReplayRequest,
        known: &mut KnownInterests,
    ) -> Result<(Revision, Arc<LatestInterest>), ReplayRefusal> {
        if !makes_sense(request, self.setup.partitions) {
            return Err(ReplayRefusal::Malformed);
        }
        self.sought(request, known).await
    }

    /// Reads as much as goes into one answer to each. Gives what proves that no server's copy lacked what the leader
    /// has, and every message that was read, if every one was.
    async fn read(&self, pass: &mut Pass<Subject>) -> Result<(Vec<Proof>, Option<Walk>), ReplayRefusal> {
        let Some(span) = pass.span() else { return Ok((Vec::new(), None)) };
        let copies = match self.copies.load(Ordering::Relaxed) {
            0 => self.look().await?.facts.replicas,
            known => known,
        };
        let unreadable = |error: RangeError| {
            warn!(%error, "the stream cannot be read for a replay");
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
            pass.came(count, last, reader.reads_all());
        }
        Ok(())
    }

    /// Gives messages to the requests of their partitions.
    async fn take(&self, messages: &[StreamMessage], pass: &mut Pass<Subject>) {
        for (number, message) in messages.iter().enumerate() {
            // What is live has its turn in between.
            if number % TURN == 0 {
                tokio::task::yield_now().await;
            }
            let read = || ReplayedEvent::of(self.setup.decoder.read(message));
            pass.take(message.seq, names::partition_of(&message.subject), read);
        }
    }

    /// What the stream is like after the reading, if the reading is proved: its sequences are of its epoch, what
    /// it still keeps now it kept all the time, and what is missing of it is known.
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
        let haste = WalkPace::Replay(LONGEST, &self.pace, pass.is_repair());
        match self.setup.walker.missing(from, through, haste, Some(state)).await {
            Ok(walked) => Ok(Proved { facts, walked }),
            Err(error) => {
                metrics::REPLAYS_UNPROVED.increment(1);
                warn!(%error, "whether anything is missing of what was read is not known; it is not claimed");
                Err(ReplayRefusal::Unreadable)
            }
        }
    }

    async fn look(&self) -> Result<StreamState, ReplayRefusal> {
        let state = StreamState::look(&self.setup.nats, &self.setup.decoder.stream).await.map_err(|error| {
            warn!(%error, "what was read for a replay proves nothing");
            ReplayRefusal::Unreadable
        })?;
        self.copies.store(state.facts.replicas, Ordering::Relaxed);
        Ok(state)
    }

    /// The interest to match against. Requests of a gateway that are read together are matched against the same.
    async fn sought(
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
                let told = timeout(INQUIRY_DEADLINE, inquire).await.ok().flatten();
                let (revision, told) = told.ok_or(ReplayRefusal::UnknownInterest)?;
                let interest = Arc::new(told.held());
                known.push((request.gateway.clone(), revision, Arc::clone(&interest)));
                Ok((revision, interest))
            }
        }
    }

    async fn answer(&self, waiting: &Request, parts: Vec<ReplayPart<RoutedEvent>>) {
        let QueuedReplay { request, reply, .. } = waiting;
        let most = self.setup.nats.client.max_payload() / 2;
        let most = most.saturating_sub(ENVELOPE).min(CHUNK);
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
        debug!(%gateway, %partition, %from, %to, %through, outcome, "a replay was answered");
        let count = messages.len();
        for (at, part) in messages.into_iter().enumerate() {
            self.publish(reply, *epoch_id, part, at + 1 == count).await;
            // What is live has its turn in between.
            tokio::task::yield_now().await;
        }
    }

    /// What cannot be published is asked for again.
    async fn publish(&self, reply: &Subject, epoch_id: EpochId, part: ReplayPart<Bytes>, last: bool) {
        let answer = ReplayAnswer { router: self.setup.me.clone(), epoch_id, part, last };
        let bytes = match wire::encode(&answer) {
            Ok(bytes) => bytes,
            Err(error) => return warn!(%error, "an answer to a request for a replay cannot be encoded"),
        };
        let publish = self.setup.nats.client.publish(reply.clone(), bytes.into());
        if !matches!(timeout(PUBLISH_DEADLINE, publish).await, Ok(Ok(()))) {
            metrics::REPLAY_PARTS_LOST.increment(1);
            debug!("a part of a replay was not published; it will be asked for again");
        }
    }
}

/// What gateways were heard to want, in one pass.
type KnownInterests = Vec<(NodeRef, Revision, Arc<LatestInterest>)>;
