//! Requests that are read in one pass: whose interest, what the stream holds of the ranges, what of it is wanted, and the
//! answers.
//!
//! It is the live path's decoder and the live path's match, so a replayed event is the very same bytes. What cannot be
//! read was dead-lettered when it was read first; here it is passed over.

use super::found::ReplayedEvent;
use super::{QueuedReplay, ReplaySetup};
use crate::dispatch::RoutedEvent;
use crate::dispatch::pack::{self, ENVELOPE};
use crate::interest::InterestInquiry;
use crate::metrics;
use crate::reader::StreamMessage;
use crate::reader::pace::ReplayPace;
use crate::reader::range::{Proof, RangeError, RangeReader, Span};
use crate::stream::{StreamFacts, StreamView};
use crate::walk::{WalkPace, Walked};
use async_nats::Subject;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tickwire_core::coverage::completeness::Walk;
use tickwire_core::event::decode::MAX_PAYLOAD;
use tickwire_core::ids::{EpochId, NodeRef, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::interest::table::{LatestInterest, SharedInterest};
use tickwire_core::placement::Homes;
use tickwire_core::replay::{ReplayAnswer, ReplayBuilder, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::link::LinkError;
use tickwire_node::names;
use tickwire_node::nats::NatsError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

/// How many messages are decoded before others have their turn.
const TURN: usize = 16;

/// How many messages one answer takes at most: a range of which little is wanted is answered in steps as well.
const ANSWER_MESSAGES: u64 = 4_000;

/// Several answers together take at most so many times as many messages, and as many bytes.
const TOGETHER_MESSAGES: u64 = 16;
const TOGETHER_BYTES: usize = 16;

/// Of a large message so many bytes count as a message more: what reading costs the server follows its bytes.
const LARGE: usize = 4096;

/// After so long what was read is answered: a gateway that waits for longer asks again, perhaps another router.
const LONGEST: Duration = Duration::from_millis(200);

/// The largest message of an answer.
const CHUNK: usize = 256 * 1024;

/// How long the engine may take to say what a gateway wants.
const INQUIRY_DEADLINE: Duration = Duration::from_millis(500);

/// So many sequences are walked before a range is read, at most.
const AHEAD: u64 = 20_000;

/// How long the reading for one answer may take. Its gateway has long asked again then, unless it is told to wait longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the client may take to accept a message.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

/// Does replays. It holds nothing of any of them.
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
    pub(super) async fn serve(&self, requests: Vec<QueuedReplay>) -> Vec<QueuedReplay> {
        let start = Instant::now();
        let (mut readings, mut left, mut known) = (Vec::new(), Vec::new(), Vec::new());
        self.walk_ahead(&requests).await;
        for waiting in requests {
            match self.begin(&waiting.request, &mut known).await {
                Ok((revision, interest)) => readings.push(ReplayReading::new(waiting, revision, interest)),
                Err(refusal) => self.turn_down(&waiting, refusal).await,
            }
        }
        let read = timeout(DEADLINE, self.read(&mut readings)).await.unwrap_or(Err(ReplayRefusal::Unreadable));
        let (end, proved) = match read {
            Ok(PassResult { end, proofs, walk }) => (end, self.prove(&readings, &proofs, walk).await),
            Err(refusal) => (None, Err(refusal)),
        };
        for reading in readings {
            let epoch_begun = reading.epoch_begun();
            let ReplayReading { waiting, answer, .. } = reading;
            if !epoch_begun && let Some(end) = end.filter(|end| *end < waiting.request.to) {
                left.push(QueuedReplay { is_sparse: end > waiting.request.from, ..waiting });
                continue;
            }
            let parts =
                proved.as_ref().map_err(|refusal| *refusal).and_then(|proved| judge(&waiting.request, answer, proved));
            match parts {
                Ok(parts) => self.answer(&waiting, parts).await,
                Err(refusal) => self.turn_down(&waiting, refusal).await,
            }
        }
        metrics::REPLAY_SECONDS.record(start.elapsed().as_secs_f64());
        left
    }

    /// Walks where a request is about to be read by its partition. What is matched against the interest of a while ago proves
    /// nothing where subscriptions come by the second: so nothing that takes time is left for after the match.
    async fn walk_ahead(&self, requests: &[QueuedReplay]) {
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

    /// Says that nothing can be said.
    pub(super) async fn refuse(&self, reply: &Subject, refusal: ReplayRefusal) {
        metrics::REPLAYS_REFUSED.with(refusal.as_str()).increment(1);
        self.publish(reply, EpochId(0), ReplayPart::Refused(refusal), true).await;
    }

    async fn turn_down(&self, waiting: &QueuedReplay, refusal: ReplayRefusal) {
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
        if request.from >= request.to || request.partition.0 >= self.setup.partitions {
            return Err(ReplayRefusal::Malformed);
        }
        self.sought(request, known).await
    }

    /// Reads as much as goes into one answer to each. A single request is read by its partition; for several the stream
    /// is read as it stands, which costs the server less than to look for one partition after the other.
    async fn read(&self, readings: &mut [ReplayReading]) -> Result<PassResult, ReplayRefusal> {
        let Some((span, most)) = self.span(readings) else { return Ok(PassResult::default()) };
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
        let done = self.read_from(&mut reader, span, most, readings, &mut walk).await;
        let proofs = reader.proofs();
        reader.close().await;
        done.map(|end| PassResult { end, proofs, walk }).map_err(unreadable)
    }

    /// What the requests ask for together, and how many messages of it are read at most.
    fn span(&self, readings: &[ReplayReading]) -> Option<(Span, u64)> {
        let from = readings.iter().map(|reading| reading.waiting.request.from).min()?;
        let to = readings.iter().map(|reading| reading.waiting.request.to).max()?;
        let (partition, share) = match readings {
            [one] => (Some(one.waiting.request.partition), u64::from(self.setup.partitions)),
            _ => (None, 1),
        };
        let most = ANSWER_MESSAGES * (readings.len() as u64).min(TOGETHER_MESSAGES);
        let messages = (to.0.saturating_sub(from.0) / share).min(most);
        Some((Span { from, to, partition, messages }, most))
    }

    async fn read_from(
        &self,
        reader: &mut RangeReader,
        span: Span,
        most_read: u64,
        readings: &mut [ReplayReading],
        walk: &mut Option<Walk>,
    ) -> Result<Option<Seq>, RangeError> {
        let mut homes = Homes::new(self.setup.view.borrow().clone());
        let most = self.setup.config.replay_bytes;
        let begun = Instant::now();
        let (mut read, mut bytes, mut after) = (0, 0, span.from);
        while after < span.to
            && readings.iter().any(|reading| reading.is_open(most))
            // Whoever has waited for longest is come to.
            && (after <= readings[0].waiting.request.from
                || (read < most_read && bytes < most * TOGETHER_BYTES && begun.elapsed() < LONGEST))
        {
            let messages = reader.next().await?;
            let Some(last) = messages.last() else { return Ok(None) };
            after = last.seq;
            if let Some(walk) = walk {
                messages.iter().for_each(|message| walk.pass(message.seq));
            }
            let count = messages.len() as u64;
            metrics::REPLAY_MESSAGES.increment(count);
            let cost = messages.iter().map(|message| cost(message.payload.len())).sum();
            self.pace.wait(cost, readings[0].waiting.is_repair()).await;
            read += count;
            bytes += self.take(messages, readings, &mut homes).await;
            if let [one] = &mut *readings
                && reader.reads_all()
                && one.is_open(most)
            {
                one.pass(after);
            }
        }
        Ok(Some(after))
    }

    /// Gives messages to the requests of their partitions. Returns how many bytes the answers have grown by.
    async fn take(&self, messages: Vec<StreamMessage>, readings: &mut [ReplayReading], homes: &mut Homes) -> usize {
        let (most, mut bytes) = (self.setup.config.replay_bytes, 0);
        for (number, message) in messages.into_iter().enumerate() {
            // What is live has its turn in between.
            if number % TURN == 0 {
                tokio::task::yield_now().await;
            }
            let mut found = None;
            let partition = names::partition_of(&message.subject);
            let mine =
                readings.iter_mut().filter(|reading| Some(u32::from(reading.waiting.request.partition.0)) == partition);
            for reading in mine.filter(|reading| reading.is_open(most)) {
                let found = found.get_or_insert_with(|| ReplayedEvent::of(self.setup.decoder.read(&message)));
                bytes += reading.take(message.seq, found.as_mut(), homes);
            }
        }
        bytes
    }

    /// What the stream is like after the reading, if the reading is proved: sequences are those of its present life, what
    /// it still keeps now it kept all the time, and what is missing of it is known.
    async fn prove(
        &self,
        readings: &[ReplayReading],
        proofs: &[Proof],
        walk: Option<Walk>,
    ) -> Result<Proved, ReplayRefusal> {
        let sight = self.look().await?;
        if !proofs.iter().all(|proof| proof.holds(&sight)) {
            metrics::REPLAYS_UNPROVED.increment(1);
            warn!(?proofs, leader = ?sight.leader, "the stream has moved to other servers; what was read is not claimed");
            return Err(ReplayRefusal::Unreadable);
        }
        if let Some(walk) = walk {
            self.setup.walker.learn(walk, &sight);
        }
        let begun = readings.iter().filter(|reading| reading.epoch_begun());
        let from = begun.clone().map(|reading| reading.waiting.request.from).min();
        let through = begun.map(|reading| reading.answer.through()).max();
        let (Some(from), Some(through)) = (from, through) else {
            return Ok(Proved { facts: sight.facts, walked: Walked { through: Seq(0), missing: Vec::new() } });
        };
        let is_first = readings.iter().any(|reading| reading.waiting.is_repair());
        let haste = WalkPace::Replay(LONGEST, &self.pace, is_first);
        let from = from.max(sight.facts.removed()).min(through);
        match self.setup.walker.missing(from, through, haste, Some(sight.clone())).await {
            Ok(walked) => Ok(Proved { facts: sight.facts, walked }),
            Err(error) => {
                metrics::REPLAYS_UNPROVED.increment(1);
                warn!(%error, "whether anything is missing of what was read is not known; it is not claimed");
                Err(ReplayRefusal::Unreadable)
            }
        }
    }

    async fn look(&self) -> Result<StreamView, ReplayRefusal> {
        let sight = StreamView::look(&self.setup.nats, &self.setup.decoder.stream).await.map_err(|error| {
            warn!(%error, "what was read for a replay proves nothing");
            ReplayRefusal::Unreadable
        })?;
        self.copies.store(sight.facts.replicas, Ordering::Relaxed);
        Ok(sight)
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
            ReplayInterest::Told(least) => {
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

    async fn answer(&self, waiting: &QueuedReplay, parts: Vec<ReplayPart<RoutedEvent>>) {
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
/// What a pass has come to.
#[derive(Debug, Default)]
struct PassResult {
    /// Up to where it came, unless the stream ended.
    end: Option<Seq>,
    /// What proves that no server's copy lacked what the leader has.
    proofs: Vec<Proof>,
    /// Every message that it read, if it read every one.
    walk: Option<Walk>,
}

/// The stream as it was seen after a pass.
#[derive(Debug)]
struct Proved {
    facts: StreamFacts,
    walked: Walked,
}

/// One request, and what was read for it.
#[derive(Debug)]
struct ReplayReading {
    waiting: QueuedReplay,
    interest: Arc<LatestInterest>,
    answer: ReplayBuilder<RoutedEvent>,
    bytes: usize,
}

impl ReplayReading {
    fn new(waiting: QueuedReplay, revision: Revision, interest: Arc<LatestInterest>) -> Self {
        let answer = ReplayBuilder::new(&waiting.request, revision);
        Self { waiting, interest, answer, bytes: 0 }
    }

    /// Whether anything of its range was read.
    fn epoch_begun(&self) -> bool {
        self.answer.through() > self.waiting.request.from
    }

    /// Whether more goes into its answer.
    fn is_open(&self, most: usize) -> bool {
        !self.answer.is_complete() && self.bytes < most
    }

    /// Everything up to here was read of the whole stream: more of its partition there is not.
    fn pass(&mut self, seq: Seq) {
        self.answer.read(seq, None);
    }

    /// Takes the next message of its partition. Gives how many bytes the answer has grown by.
    fn take(&mut self, seq: Seq, found: Option<&mut ReplayedEvent>, homes: &mut Homes) -> usize {
        let Self { waiting: QueuedReplay { request, .. }, interest, .. } = self;
        let within = found.filter(|_| seq > request.from && seq <= request.to);
        let wanted = within
            .filter(|found| interest.admits(&found.event, &request.gateway, homes))
            .and_then(ReplayedEvent::routed);
        let grown = wanted.as_ref().map_or(0, |event| event.wire.len());
        self.answer.read(seq, wanted);
        self.bytes += grown;
        grown
    }
}

/// What may be said of what was read.
fn judge(
    request: &ReplayRequest,
    answer: ReplayBuilder<RoutedEvent>,
    proved: &Proved,
) -> Result<Vec<ReplayPart<RoutedEvent>>, ReplayRefusal> {
    let Proved { facts, walked } = proved;
    if facts.epoch_id != request.epoch_id {
        return Err(ReplayRefusal::OtherStream);
    }
    let parts = answer.finish(facts.removed(), walked.through, &walked.missing);
    if let [ReplayPart::Refused(refusal)] = parts[..] { Err(refusal) } else { Ok(parts) }
}

/// What reading a payload of so many bytes costs, in messages. One that is too large for an event costs no more than the
/// largest: a pass that waits for one message for longer than [`LONGEST`] would never come past it.
fn cost(bytes: usize) -> u64 {
    1 + (bytes.min(MAX_PAYLOAD) / LARGE) as u64
}
