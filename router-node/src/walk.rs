//! Walks the stream: reads every message of a range, wherever a partition is read late or again, to find missing
//! ranges.
//!
//! The result of a walk serves all readers of the range, until the connection to NATS is lost or another server leads
//! the stream: only then can the storage have changed. One walk runs at a time, and other readers wait for it.

use crate::metrics;
use crate::reader::direct::{DirectError, DirectReader};
use crate::reader::pace::ReplayPace;
use crate::stream::{StreamError, StreamFacts, StreamState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tickwire_core::coverage::completeness::{Completeness, MissingRange, Walk};
use tickwire_core::ids::{EpochId, Seq};
use tickwire_node::nats::{ConnectionLost, Nats};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::error;

/// One step walks at most `STEP` sequences, and sends no further request after `STEP_TIME`. Other readers get their
/// turn between two steps.
const STEP: u64 = 10_000;
const STEP_TIME: Duration = Duration::from_millis(200);

/// For how long after its beginning a walk that has lost its connection begins again. Later it fails.
const BEGINS_AGAIN: Duration = Duration::from_secs(1);

/// A walked message counts as this fraction (one in `SHARE`) of a replayed one.
const SHARE: u64 = 4;

/// Why the stream could not be walked.
#[derive(Debug, Error)]
pub(crate) enum WalkError {
    #[error("the walk timed out")]
    Late,
    #[error(transparent)]
    Disconnected(#[from] ConnectionLost),
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

/// The result of a walk.
#[derive(Debug)]
pub struct Walked {
    /// The range is known up to here.
    pub through: Seq,
    /// The missing ranges up to there, in order.
    pub missing: Vec<MissingRange>,
    /// The stream had removed everything up to here by then. Nothing of it counts as missing, even if it was.
    pub removed: Seq,
}

/// How long to walk, and at which pace.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WalkPace<'p> {
    /// Until the whole range is known, because live events wait for it.
    Live,
    /// For this time at most, at the pace of replays; the flag says whether it is for a repair.
    Replay(Duration, &'p ReplayPace, bool),
}

/// Walks the stream.
#[derive(Debug)]
pub(crate) struct Walker {
    nats: Nats,
    stream: String,
    known: Mutex<WalkedStream>,
    /// Held during a step of a walk.
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
    /// A walker over `nats`, the connection of the replays.
    pub(crate) fn new(nats: Nats, stream: String) -> Arc<Self> {
        let known =
            WalkedStream { whole: Completeness::default(), removed: Seq(0), of: None, connected: nats.connected() };
        Arc::new(Self { nats, stream, known: Mutex::new(known), turn: tokio::sync::Mutex::default() })
    }

    /// The missing ranges in `(after, through]`, a range that was stored. `current` is the state of the stream, if it
    /// was looked at just now. A walk during which the connection is lost begins again once that is back, if this is
    /// soon.
    pub(crate) async fn missing(
        &self,
        after: Seq,
        through: Seq,
        walk_pace: WalkPace<'_>,
        mut current: Option<StreamState>,
    ) -> Result<Walked, WalkError> {
        let begun = Instant::now();
        loop {
            let walk = self.find_missing(after, through, walk_pace, begun, current.take());
            match self.nats.while_connected(walk).await {
                Ok(Ok(walked)) => return Ok(walked),
                Ok(Err(error)) if self.nats.is_connected() => return Err(error),
                Ok(Err(_)) | Err(ConnectionLost) => {}
            }
            let left = BEGINS_AGAIN.saturating_sub(begun.elapsed());
            if left.is_zero() || !self.nats.up_within(left).await {
                return Err(ConnectionLost.into());
            }
        }
    }

    async fn find_missing(
        &self,
        after: Seq,
        through: Seq,
        walk_pace: WalkPace<'_>,
        begun: Instant,
        mut current: Option<StreamState>,
    ) -> Result<Walked, WalkError> {
        loop {
            let state = match current.take() {
                Some(state) => state,
                None => StreamState::look(&self.nats, &self.stream).await?,
            };
            self.known().check_state(&state);
            let is_over =
                |end| matches!(walk_pace, WalkPace::Replay(longest, ..) if begun.elapsed() > longest && end > after);
            if let Some(walked) = self.known().walked(after, through, is_over) {
                return Ok(walked);
            }
            let turn = self.turn.lock().await;
            // Another reader may have walked here meanwhile.
            let Some((from, to)) = self.known().whole.unknown(after, through) else { continue };
            let to = to.min(Seq(from.0.saturating_add(STEP)));
            let (walk, count, now) = self.step(from, to, &state).await?;
            // Another reader may have found another epoch meanwhile, to which this walk does not belong.
            self.learn(walk, &now);
            drop(turn);
            if let WalkPace::Replay(_, pace, is_repair) = walk_pace {
                pace.wait(count.div_ceil(SHARE), is_repair).await;
            }
        }
    }

    /// Walks a range, or its beginning if that takes too long, and looks at the stream again. Also returns the number
    /// of messages.
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

    /// Takes a walk, which was made here or by a reader of every message, and the state of the stream after it.
    pub(crate) fn learn(&self, walk: Walk, state: &StreamState) {
        let mut known = self.known();
        known.check_state(state);
        known.take(walk, &state.facts);
    }

    fn known(&self) -> MutexGuard<'_, WalkedStream> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WalkedStream {
    /// Forgets everything if the epoch has changed, and the walks if the leader or the connection has changed.
    fn check_state(&mut self, state: &StreamState) {
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

    /// The missing ranges in `(after, through]` if the whole range is known, or in its beginning if the time is over.
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
            // No limit has removed them: the storage is damaged, or somebody has deleted them.
            error!(%after, %through, "messages missing from the stream");
        }
    }
}
