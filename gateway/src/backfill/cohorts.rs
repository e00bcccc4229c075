//! Sessions that lack something of the past, gathered: those that come within a short time and lack about as much are
//! given it together, so that a crowd that connects again costs what the range costs and not what the crowd does. Pure.
//!
//! "About as much" is a power of four, from 4,096 on, in sequences of the stream, in the same place of it ([`CohortKey`]):
//! nobody reads much more than it lacks itself, and one that was away for long delays nobody. Of each such class one
//! gathering runs at a time, unless its clients read slowly; who comes meanwhile gathers for the next. A gathering is
//! coverage of a range: asked for, held, trimmed and told as the live one is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tickwire_core::coverage::replay::ReplayAnswer;
use tickwire_core::coverage::{Ask, Coverage, CoverageEvent, RepairLimits, SectionOutcome};
use tickwire_core::ids::{EpochId, Millis, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::placement::ViewId;

use crate::backfill::ranges::{BackfillRanges, CohortKey};
use crate::delivery::Delivery;
use crate::edge::replay::is_carried;
use crate::messages::{SessionId, SharedCoverageEvents};

/// How long sessions gather, in milliseconds.
const GATHER_MS: u64 = 50;

/// The numbers of a gathering's asks begin with its own number; those of live coverage do not come up to here.
const ASK_BITS: u32 = 32;

/// With so many pieces that shards have not digested, or so many bytes of them, no more is asked for.
const UNDIGESTED: usize = 8;
const UNDIGESTED_BYTES: usize = 2 * 1024 * 1024;

/// How many gatherings may run. Of each class one does, and further ones where clients read slowly.
const RUNNING: usize = 32;

/// What each gathering may hold is this part of what the gateway holds of live coverage.
const HOLD_SHARE: usize = RUNNING;

/// How many replays may be under way for one: routers read those of many partitions in one pass.
const REPLAYS: usize = 32;

/// How many may be under way for all together. Each that runs has an equal part of them.
const ALL_REPLAYS: usize = 64;

/// Those of a class that will be asked for together.
#[derive(Debug)]
struct WaitingCohort {
    due: Millis,
    epoch_id: EpochId,
    from: Vec<Seq>,
    to: Vec<Seq>,
    sought: Interest,
    sessions: BTreeSet<SessionId>,
}

/// Those that are asked for.
#[derive(Debug)]
struct RunningCohort {
    class: CohortKey,
    coverage: Coverage<Arc<Delivery>>,
    sought: Interest,
    sessions: BTreeSet<SessionId>,
    steps: Vec<CoverageEvent<Arc<Delivery>>>,
    /// Pieces that shards have yet to digest.
    unprocessed: usize,
    undigested_bytes: usize,
}

/// What came of a gathering since the last time.
#[derive(Debug)]
pub(crate) struct CohortProgress {
    pub(crate) cohort: u64,
    pub(crate) steps: SharedCoverageEvents,
    /// Whether that is all.
    pub(crate) ends: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Cohorts {
    limits: RepairLimits,
    waiting: BTreeMap<CohortKey, WaitingCohort>,
    running: BTreeMap<u64, RunningCohort>,
    /// Where each session waits, so that one that leaves is not looked for.
    places: HashMap<SessionId, Vec<CohortPlace>>,
    last: u64,
    /// Whether nothing is asked for, because live repairs go first.
    gives_way: bool,
}

/// Where a session waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CohortPlace {
    Waiting(CohortKey),
    Running(u64),
}

impl Cohorts {
    /// None. `limits` are those of live coverage.
    pub(crate) fn new(limits: RepairLimits) -> Self {
        let limits = RepairLimits { grace: 0, replays: REPLAYS, hold_bytes: limits.hold_bytes / HOLD_SHARE, ..limits };
        Self {
            limits,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            places: HashMap::new(),
            last: 0,
            gives_way: false,
        }
    }

    /// A session lacks something.
    pub(crate) fn add(&mut self, now: Millis, session: SessionId, ranges: BackfillRanges, view: ViewId) {
        let class = CohortKey::of(&ranges.from, &ranges.to);
        let waiting = self.waiting.entry(class).or_insert_with(|| WaitingCohort {
            due: now.plus(GATHER_MS),
            epoch_id: ranges.epoch_id,
            from: ranges.from.clone(),
            to: ranges.to.clone(),
            sought: Interest { view, ..Interest::default() },
            sessions: BTreeSet::new(),
        });
        waiting.from.iter_mut().zip(ranges.from).for_each(|(from, other)| *from = other.min(*from));
        waiting.to.iter_mut().zip(ranges.to).for_each(|(to, other)| *to = other.max(*to));
        // One that is too large to travel grows no further: in its place the gateway's own is named.
        for filter in &ranges.filters {
            if is_carried(&waiting.sought) {
                waiting.sought.add(filter);
            }
        }
        if is_carried(&waiting.sought) {
            waiting.sought.strays.insert(ranges.user);
        }
        if waiting.sessions.insert(session) {
            self.places.entry(session).or_default().push(CohortPlace::Waiting(class));
        }
    }

    /// A session is gone. What nobody waits for any more is not asked for.
    pub(crate) fn leave(&mut self, session: SessionId) {
        for place in self.places.remove(&session).unwrap_or_default() {
            match place {
                CohortPlace::Waiting(class) => {
                    let left = self.waiting.get_mut(&class).map(|waiting| {
                        waiting.sessions.remove(&session);
                        waiting.sessions.len()
                    });
                    if left == Some(0) {
                        self.waiting.remove(&class);
                    }
                }
                CohortPlace::Running(cohort) => {
                    let left = self.running.get_mut(&cohort).map(|running| {
                        running.sessions.remove(&session);
                        running.sessions.len()
                    });
                    if left == Some(0) {
                        self.running.remove(&cohort);
                    }
                }
            }
        }
    }

    /// Sequences mean something else from now on.
    pub(crate) fn forget_all(&mut self) {
        self.waiting.clear();
        self.running.clear();
        self.places.clear();
    }

    /// Begins what is due, and tells for each number whose it is. What was matched against an interest older than `need`
    /// proves nothing: these sessions may not have been part of it.
    pub(crate) fn begin(&mut self, now: Millis, need: Revision) -> Vec<(u64, Vec<SessionId>)> {
        let Self { waiting, running, places, limits, last, .. } = self;
        let mut gaps = Vec::new();
        // One at a time: each that begins counts against what the next may.
        while let Some(entry) = waiting.iter().find(|(class, one)| one.due <= now && is_free(running, **class))
            && let class = *entry.0
            && let Some(WaitingCohort { epoch_id, from, to, sought, sessions, .. }) = waiting.remove(&class)
        {
            *last += 1;
            for session in &sessions {
                for place in places.get_mut(session).into_iter().flatten() {
                    if *place == CohortPlace::Waiting(class) {
                        *place = CohortPlace::Running(*last);
                    }
                }
            }
            gaps.push((*last, sessions.iter().copied().collect()));
            let ranges = from.into_iter().zip(to);
            let mut coverage = Coverage::of_ranges(now, epoch_id, ranges, *last << ASK_BITS, *limits);
            coverage.require(need);
            let (steps, unprocessed) = (Vec::new(), 0);
            let begun = RunningCohort { class, coverage, sought, sessions, steps, unprocessed, undigested_bytes: 0 };
            running.insert(*last, begun);
        }
        if !gaps.is_empty() {
            self.share();
        }
        gaps
    }

    /// Whether live repairs find the routers busy: then they go first, and nothing is asked for until they are answered.
    pub(crate) fn give_way(&mut self, gives_way: bool) {
        self.gives_way = gives_way;
    }

    /// What is to be asked for now, each with the interest it is asked for with.
    pub(crate) fn asks(&mut self, now: Millis) -> Vec<(Ask, &Interest)> {
        let mut asks = Vec::new();
        for running in self.running.values_mut() {
            let is_clogged = running.is_clogged();
            let RunningCohort { coverage, sought, steps, .. } = running;
            coverage.expire(now, steps);
            if !is_clogged && !self.gives_way {
                // Nothing is confirmed by this coverage, so nothing waits for its answers.
                asks.extend(coverage.asks(now, Revision(0), steps).into_iter().map(|ask| (ask, &*sought)));
            }
        }
        asks
    }

    /// Whether an ask of this number is one of a gathering's.
    pub(crate) fn is_asked(ask: u64) -> bool {
        ask >> ASK_BITS > 0
    }

    /// That ask could not be sent.
    pub(crate) fn unsent(&mut self, now: Millis, ask: u64) {
        if let Some(running) = self.running.get_mut(&(ask >> ASK_BITS)) {
            running.coverage.unsent(now, ask);
        }
    }

    /// Nobody answers that ask.
    pub(crate) fn refused(&mut self, now: Millis, ask: u64) {
        if let Some(RunningCohort { coverage, steps, .. }) = self.running.get_mut(&(ask >> ASK_BITS)) {
            coverage.refused(now, ask, steps);
        }
    }

    /// Takes a message of the answer to that ask.
    pub(crate) fn answer(&mut self, now: Millis, ask: u64, answer: ReplayAnswer<Arc<Delivery>>) -> SectionOutcome {
        match self.running.get_mut(&(ask >> ASK_BITS)) {
            Some(RunningCohort { coverage, steps, .. }) => coverage.answer(now, ask, answer, steps),
            None => SectionOutcome::Foreign,
        }
    }

    /// What came. The pieces count as undigested by so many shards; what ends is forgotten.
    pub(crate) fn take(&mut self, shards: usize) -> Vec<CohortProgress> {
        let mut came = Vec::new();
        let Self { running, places, .. } = self;
        running.retain(|cohort, running| {
            let (steps, ends) = (std::mem::take(&mut running.steps), running.coverage.gaps() == 0);
            let pieces = if steps.is_empty() { 0 } else { shards };
            if pieces > 0 || ends {
                let steps = SharedCoverageEvents::new(steps);
                running.unprocessed += pieces;
                running.undigested_bytes += pieces * steps.weight();
                came.push(CohortProgress { cohort: *cohort, steps, ends });
            }
            for session in running.sessions.iter().filter(|_| ends) {
                if let Some(of_session) = places.get_mut(session) {
                    of_session.retain(|place| *place != CohortPlace::Running(*cohort));
                    if of_session.is_empty() {
                        places.remove(session);
                    }
                }
            }
            !ends
        });
        if came.iter().any(|came| came.ends) {
            self.share();
        }
        came
    }

    /// Gives each that runs its part of the replays that may be under way.
    fn share(&mut self) {
        let share = (ALL_REPLAYS / self.running.len().max(1)).clamp(1, REPLAYS);
        self.running.values_mut().for_each(|running| running.coverage.set_replays(share));
    }

    /// A shard is done with a piece of so many bytes.
    pub(crate) fn processed(&mut self, cohort: u64, bytes: usize) {
        if let Some(running) = self.running.get_mut(&cohort) {
            running.unprocessed = running.unprocessed.saturating_sub(1);
            running.undigested_bytes = running.undigested_bytes.saturating_sub(bytes);
        }
    }

    /// When something is next due.
    pub(crate) fn next_turn(&self) -> Option<Millis> {
        let is_free = |class: &&CohortKey| is_free(&self.running, **class);
        let begins = self.waiting.iter().filter(|(class, _)| is_free(class)).map(|(_, waiting)| waiting.due);
        let asks = self.running.values().filter(|running| !running.is_clogged() && !self.gives_way);
        begins.chain(asks.filter_map(|running| running.coverage.next_expiry())).min()
    }
}

impl RunningCohort {
    /// Whether it goes on as its clients read.
    fn is_clogged(&self) -> bool {
        self.unprocessed >= UNDIGESTED || self.undigested_bytes >= UNDIGESTED_BYTES
    }
}

/// Whether a gathering of this class may begin.
fn is_free(running: &BTreeMap<u64, RunningCohort>, class: CohortKey) -> bool {
    running.len() < RUNNING && running.values().all(|other| other.class != class || other.is_clogged())
}

#[cfg(test)]
#[path = "cohorts_tests.rs"]
mod tests;
