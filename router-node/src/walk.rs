//! Walks the stream as a whole, wherever one partition of it is read, to see whether it still has every message.
//!
//! What was walked once is known for all who read there, until NATS was away or another server leads the stream: only
//! then can a disk have changed under it. Whoever comes first walks; the others wait for that.

use crate::metrics;
use crate::reader::direct::{DirectError, DirectReader};
use crate::reader::pace::ReplayPace;
use crate::stream::{StreamError, StreamFacts, StreamState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tickwire_core::coverage::completeness::{Completeness, MissingRange, Walk};
use tickwire_core::ids::{EpochId, Seq};
use tickwire_node::nats::Nats;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

/// One step walks at most this many sequences, and sends no further request after so long. Others have their turn
/// between two steps.
const STEP: u64 = 10_000;
const STEP_TIME: Duration = Duration::from_millis(200);

/// A walked message counts as this fraction (one in `SHARE`) of a replayed one.
const SHARE: u64 = 4;

/// Why the stream could not be walked.
#[derive(Debug, Error)]
pub(crate) enum WalkError {
    #[error("not in time")]
    Late,
    #[error("{0}")]
    Range(String),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the stream is another one, or led by another server, than when the walk began")]
    Moved,
    #[error("the stream ends before what was read of it")]
    Short,
}

impl From<DirectError> for WalkError {
    fn from(error: DirectError) -> Self {
        Self::Range(error.to_string())
    }
}

/// What is known of a part of the stream.
#[derive(Debug)]
pub struct Walked {
    /// Up to where it is known.
    pub through: Seq,
    /// What is missing of that, in order.
    pub missing: Vec<MissingRange>,
    /// Up to here the stream had removed everything by then, so that nothing of it counts as missing, even if it was.
    pub removed: Seq,
}

/// How long to walk, and at whose pace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WalkPace<'p> {
    /// Until all is known: what is live waits for it.
    Live,
    /// For so long, as one of the replays.
    Replay(Duration, &'p ReplayPace, bool),
}

/// Walks the stream.
#[derive(Debug)]
pub(crate) struct Walker {
    nats: Nats,
    stream: String,
    known: Mutex<WalkedStream>,
    /// Held by the one that walks.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct WalkedStream {
    whole: Completeness,
    /// Up to here the stream had removed everything after the last walk.
    removed: Seq,
    /// The epoch of the stream when it was walked, and the server that led it then.
    of: Option<(EpochId, Option<String>)>,
    connected: watch::Receiver<bool>,
}

impl Walker {
    /// Over the connection that replays are read by.
    pub(crate) fn new(nats: Nats, stream: String) -> Arc<Self> {
        let known =
            WalkedStream { whole: Completeness::default(), removed: Seq(0), of: None, connected: nats.connected() };
        Arc::new(Self { nats, stream, known: Mutex::new(known), turn: tokio::sync::Mutex::default() })
    }

    /// What is missing in `(after, through]`, all of which was stored. `seen` is the stream as it was just now, if it
    /// was looked at.
    pub(crate) async fn missing(
        &self,
        after: Seq,
        through: Seq,
        haste: WalkPace<'_>,
        mut seen: Option<StreamState>,
    ) -> Result<Walked, WalkError> {
        let begun = Instant::now();
        loop {
            let state = match seen.take() {
                Some(state) => state,
                None => StreamState::look(&self.nats, &self.stream).await?,
            };
            self.known().confront(&state);
            let is_over =
                |end| matches!(haste, WalkPace::Replay(longest, ..) if begun.elapsed() > longest && end > after);
            if let Some(walked) = self.known().walked(after, through, is_over) {
                return Ok(walked);
            }
            let turn = self.turn.lock().await;
            // Another one may have walked here meanwhile.
            let Some((from, to)) = self.known().whole.unknown(after, through) else { continue };
            let to = to.min(Seq(from.0.saturating_add(STEP)));
            let (walk, count, now) = self.step(from, to, &state).await?;
            // Another one may have seen another epoch meanwhile, of which this walk is not.
            self.learn(walk, &now);
            drop(turn);
            if let WalkPace::Replay(_, pace, is_first) = haste {
                pace.wait(count.div_ceil(SHARE), is_first).await;
            }
        }
    }

    /// Walks a part of the stream, or the first of it, and looks at the stream again. Also gives how many messages that
    /// were.
    async fn step(&self, from: Seq, to: Seq, before: &StreamState) -> Result<(Walk, u64, StreamState), WalkError> {
        let end = Instant::now() + STEP_TIME;
        let mut reader = DirectReader::of_all(&self.nats, &self.stream, from, to);
        let (mut walk, mut count, mut is_whole) = (Walk::after(from), 0, true);
        while walk.through() < to {
            // Each answer has a deadline of its own.
            let messages = reader.next().await?;
            if messages.is_empty() {
                break;
            }
            count += messages.len() as u64;
            messages.iter().for_each(|message| walk.pass(message.seq));
            if Instant::now() >= end && walk.through() < to {
                is_whole = false;
                break;
            }
        }
        metrics::WALKED_MESSAGES.increment(count);
        let now = StreamState::look(&self.nats, &self.stream).await?;
        let has_moved = now.leader != before.leader || now.facts.epoch_id != before.facts.epoch_id;
        if has_moved || !reader.proof().holds(&now) {
            return Err(WalkError::Moved);
        }
        if is_whole {
            walk.end(to.min(now.facts.last));
        }
        if is_whole && walk.through() < to { Err(WalkError::Short) } else { Ok((walk, count, now)) }
    }

    /// Takes a walk, by a reader of every message or made here, and the stream as it was seen after that.
    pub(crate) fn learn(&self, walk: Walk, state: &StreamState) {
        let mut known = self.known();
        known.confront(state);
        known.take(walk, &state.facts);
    }

    fn known(&self) -> MutexGuard<'_, WalkedStream> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WalkedStream {
    /// What was known is in doubt if the stream, or what keeps it, is not what it was.
    fn confront(&mut self, state: &StreamState) {
        let now = (state.facts.epoch_id, state.leader.clone());
        match &self.of {
            Some((epoch_id, _)) if *epoch_id != now.0 => self.whole = Completeness::default(),
            Some(of) if *of == now && !self.connected.has_changed().unwrap_or(false) => return,
            _ => self.whole.forget_walks(),
        }
        // A server that leads now may have removed less.
        self.removed = Seq(0);
        self.connected.mark_unchanged();
        self.of = Some(now);
    }

    /// What is known of `(after, through]`, if that is all, or as much as there is time for.
    fn walked(&self, after: Seq, through: Seq, is_over: impl Fn(Seq) -> bool) -> Option<Walked> {
        let unknown = self.whole.unknown(after, through);
        let end = unknown.map_or(through, |(from, _)| from);
        let is_known = unknown.is_none() || is_over(end);
        is_known.then(|| {
            let missing = self.whole.missing(after, end).collect();
            Walked { through: end, missing, removed: self.removed }
        })
    }

    fn take(&mut self, walk: Walk, facts: &StreamFacts) {
        self.removed = facts.removed().max(self.removed);
        for MissingRange { after, through } in self.whole.take(walk, facts.removed()) {
            metrics::MISSING_MESSAGES.increment(through.0 - after.0);
            error!(
                %after,
                %through,
                "the stream lacks messages that no limit has removed: its storage is damaged, or somebody has deleted them; \
                 clients that read there are told a gap"
            );
        }
    }
}
