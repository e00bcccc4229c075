//! A pass: what is read for its requests, which of it matches, and what the answers may claim. Pure.

use super::queue::QueuedReplay;
use super::replayed_event::ReplayedEvent;
use crate::dispatch::RoutedEvent;
use crate::metrics;
use crate::reader::span::{Proof, Span};
use crate::stream::{StreamFacts, StreamState};
use crate::walk::Walked;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::event::decode::MAX_PAYLOAD;
use tickwire_core::ids::{Revision, Seq};
use tickwire_core::interest::table::LatestInterest;
use tickwire_core::placement::{Homes, View};
use tickwire_core::replay::{ReplayBuilder, ReplayPart, ReplayRefusal, ReplayRequest};
use tracing::warn;

/// The most messages that are read for one answer. So a range with few matching events is answered in steps as well.
const ANSWER_MESSAGES: u64 = 4_000;

/// The most messages and bytes that are read for several answers together, as multiples of those for one.
const TOGETHER_MESSAGES: u64 = 16;
const TOGETHER_BYTES: usize = 16;

/// A large message counts as one more message for each multiple of this number of bytes, because the server's cost of
/// reading grows with the bytes.
const LARGE: usize = 4096;

/// How long a pass reads before it answers. A gateway that waits for longer asks again, perhaps another router.
pub(super) const LONGEST: Duration = Duration::from_millis(200);

/// The state of a pass.
#[derive(Debug)]
pub struct Pass<R> {
    readings: Vec<Reading<R>>,
    partitions: u16,
    /// How many bytes of events go into one answer.
    most_bytes: usize,
    /// The view, for events to one user: it names the home gateways.
    homes: Homes,
    /// The pass has read up to here.
    after: Seq,
    /// The most messages that it reads.
    most: u64,
    /// The messages that it has read.
    read: u64,
    /// The bytes of events in all answers.
    bytes: usize,
    /// Whether the stream, or the server's copy of it, had no more messages.
    has_ended: bool,
}

/// One request, and what was read for it.
#[derive(Debug)]
struct Reading<R> {
    waiting: QueuedReplay<R>,
    interest: Arc<LatestInterest>,
    answer: ReplayBuilder<RoutedEvent>,
    bytes: usize,
}

/// The state of the stream after a pass.
#[derive(Debug)]
pub struct Proved {
    /// Its epoch and its bounds.
    pub facts: StreamFacts,
    /// Its missing ranges.
    pub walked: Walked,
}

/// The result of a request.
#[derive(Debug)]
pub enum PassOutcome<R> {
    /// It is answered.
    Answered(QueuedReplay<R>, Vec<ReplayPart<RoutedEvent>>),
    /// It is refused.
    Refused(QueuedReplay<R>, ReplayRefusal),
    /// The pass did not reach it, or found nothing for it. It waits for another pass.
    Left(QueuedReplay<R>),
}

impl<R> Pass<R> {
    /// Nothing is read yet. `most_bytes` of events go into one answer.
    #[must_use]
    pub fn new(partitions: u16, most_bytes: usize, view: Arc<View>) -> Self {
        Self {
            readings: Vec::new(),
            partitions,
            most_bytes,
            homes: Homes::new(view),
            after: Seq(0),
            most: 0,
            read: 0,
            bytes: 0,
            has_ended: false,
        }
    }

    /// Adds a valid request: the pass also reads its range, and matches it against `interest`.
    pub fn add(&mut self, waiting: QueuedReplay<R>, revision: Revision, interest: Arc<LatestInterest>) {
        let answer = ReplayBuilder::new(&waiting.request, revision);
        self.readings.push(Reading { waiting, interest, answer, bytes: 0 });
    }

    /// The range of all requests together; `None` if there are none. For a single request, only its partition is read.
    /// For several, every message of the range is read: this costs the server less than a search for each partition.
    pub fn span(&mut self) -> Option<Span> {
        let requests = || self.readings.iter().map(|reading| &reading.waiting.request);
        let (from, to) = (requests().map(|request| request.from).min()?, requests().map(|request| request.to).max()?);
        let (partition, share) = match &self.readings[..] {
            [one] => (Some(one.waiting.request.partition), u64::from(self.partitions)),
            _ => (None, 1),
        };
        self.most = ANSWER_MESSAGES * (self.readings.len() as u64).min(TOGETHER_MESSAGES);
        self.after = from;
        let messages = (to.0.saturating_sub(from.0) / share).min(self.most);
        Some(Span { from, to, partition, messages })
    }

    /// Whether more is to be read, `elapsed` after the pass began.
    #[must_use]
    pub fn wants_more(&self, elapsed: Duration) -> bool {
        let Some(first) = self.readings.first() else { return false };
        let is_short = self.read < self.most && self.bytes < self.most_bytes * TOGETHER_BYTES && elapsed < LONGEST;
        !self.has_ended
            && self.readings.iter().any(|reading| reading.is_open(self.most_bytes))
            // The request that has waited longest is always reached.
            && (self.after <= first.waiting.request.from || is_short)
    }

    /// Takes the next message; `partition` is `None` if it is in no partition. `read` decodes it, and is called only if
    /// a request is for it.
    pub fn take(&mut self, seq: Seq, partition: Option<u32>, read: impl FnOnce() -> Option<ReplayedEvent>) {
        let Self { readings, most_bytes, homes, bytes, .. } = self;
        let mine = readings.iter_mut().filter(|one| Some(u32::from(one.waiting.request.partition.0)) == partition);
        let mut mine = mine.filter(|reading| reading.is_open(*most_bytes)).peekable();
        if mine.peek().is_some() {
            let mut found = read();
            mine.for_each(|reading| *bytes += reading.take(seq, found.as_mut(), homes));
        }
    }

    /// Notes that `count` messages up to `last` were taken. `is_all` is whether they are all messages of the stream up
    /// to there. If so, a single request has all of its partition up to there, too.
    pub fn advance(&mut self, count: u64, last: Seq, is_all: bool) {
        (self.read, self.after) = (self.read + count, last);
        if let [one] = &mut self.readings[..]
            && is_all
            && one.is_open(self.most_bytes)
        {
            one.answer.read(last, None);
        }
    }

    /// Notes that no more messages come: the stream ends here, or a server that lags has no more of it.
    pub fn ended(&mut self) {
        self.has_ended = true;
    }

    /// Whether one of the requests is a repair.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        self.readings.iter().any(|reading| reading.waiting.is_repair())
    }

    /// The range that the answers are about to claim, so that its missing ranges must be known; `None` if nothing was
    /// read. `facts` is the state of the stream after the reading.
    #[must_use]
    pub fn claimed(&self, facts: &StreamFacts) -> Option<(Seq, Seq)> {
        let begun = || self.readings.iter().filter(|reading| reading.has_begun());
        let from = begun().map(|reading| reading.waiting.request.from).min()?;
        let through = begun().map(|reading| reading.answer.through()).max()?;
        Some((from.max(facts.removed()).min(through), through))
    }

    /// Ends the pass. `proved` is the state of the stream after the reading, if it proves the reading.
    pub fn finish(self, proved: Result<&Proved, ReplayRefusal>) -> impl Iterator<Item = PassOutcome<R>> {
        let end = (!self.has_ended).then_some(self.after);
        self.readings.into_iter().map(move |reading| {
            let has_begun = reading.has_begun();
            let Reading { waiting, answer, .. } = reading;
            if !has_begun && let Some(end) = end.filter(|end| *end < waiting.request.to) {
                return PassOutcome::Left(QueuedReplay { is_sparse: end > waiting.request.from, ..waiting });
            }
            match proved.and_then(|proved| answer_of(&waiting.request, answer, proved)) {
                Ok(parts) => PassOutcome::Answered(waiting, parts),
                Err(refusal) => PassOutcome::Refused(waiting, refusal),
            }
        })
    }
}

/// Whether a request is valid for a stream with this number of partitions.
#[must_use]
pub fn makes_sense(request: &ReplayRequest, partitions: u16) -> bool {
    request.from < request.to && request.partition.0 < partitions
}

/// Whether the state of the stream after a reading proves it: what the stream still keeps was there all the time.
#[must_use]
pub fn is_proved(proofs: &[Proof], state: &StreamState) -> bool {
    let is_proved = proofs.iter().all(|proof| proof.holds(state));
    if !is_proved {
        metrics::UNVERIFIED_PASSES.increment(1);
        warn!(?proofs, leader = ?state.leader, "stream moved to another server during a replay");
    }
    is_proved
}

impl<R> Reading<R> {
    /// Whether anything of its range was read.
    fn has_begun(&self) -> bool {
        self.answer.through() > self.waiting.request.from
    }

    /// Whether its answer takes more.
    fn is_open(&self, most: usize) -> bool {
        !self.answer.is_complete() && self.bytes < most
    }

    /// Takes the next message of its partition. Returns by how many bytes the answer has grown.
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

/// The answer to a request, as far as the reading is proved.
fn answer_of(
    request: &ReplayRequest,
    answer: ReplayBuilder<RoutedEvent>,
    proved: &Proved,
) -> Result<Vec<ReplayPart<RoutedEvent>>, ReplayRefusal> {
    let Proved { facts, walked } = proved;
    if facts.epoch_id != request.epoch_id {
        return Err(ReplayRefusal::OtherStream);
    }
    let parts = answer.finish(facts.removed().max(walked.removed), walked.through, &walked.missing);
    if let [ReplayPart::Refused(refusal)] = parts[..] { Err(refusal) } else { Ok(parts) }
}

/// The cost of reading a payload of this size, in messages. A payload that is too large for an event costs no more than
/// the largest event: a pass that waits for one message for longer than [`LONGEST`] would never get past it.
pub(super) fn cost(bytes: usize) -> u64 {
    1 + (bytes.min(MAX_PAYLOAD) / LARGE) as u64
}
