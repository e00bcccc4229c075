//! Cohorts: sessions that ask within a short time for about the same range get it together. So the cost of many clients
//! that reconnect at once depends on the range, not on the number of clients. Pure.
//!
//! "About the same" is a [`CohortKey`]: a size that is a power of four sequences, from 4,096 on, and a place in the
//! stream. So no session gets much more than it lacks, and one that was away for long delays no other. One cohort of a
//! key runs at a time, unless its clients read slowly; sessions that arrive meanwhile wait for the next one. A cohort
//! has a coverage of its range, which works as the live one does: it asks for gaps, and holds, trims and reports
//! events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tickwire_core::coverage::{Ask, Coverage, CoverageEvent, RepairLimits, SectionOutcome};
use tickwire_core::ids::{EpochId, Millis, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::placement::ViewId;
use tickwire_core::replay::ReplayAnswer;

use crate::delivery::Delivery;
use crate::limits::backfill_slots::CohortKey;
use crate::messages::BackfillRanges;
use crate::messages::{SessionId, SharedCoverageEvents};

/// The most entries of an interest that a request contains. A larger interest is named by its revision.
pub(crate) const CARRIED_ENTRIES: usize = 64;

/// How long a cohort waits for further sessions before it begins, in milliseconds.
const COHORT_MS: u64 = 50;

/// The number of a cohort's ask has the cohort's number above these bits. The ask numbers of live coverage are smaller.
pub(crate) const ASK_BITS: u32 = 32;

/// While shards have this many unprocessed chunks, or this many bytes of them, the cohort asks for nothing more.
const UNPROCESSED: usize = 8;
const UNPROCESSED_BYTES: usize = 2 * 1024 * 1024;

/// How many cohorts may run. There is one of each key, and further ones if clients read slowly.
const RUNNING: usize = 32;

/// A cohort may hold the bytes that live coverage may hold, divided by this.
const HOLD_SHARE: usize = RUNNING;

/// How many replays may run for one cohort. Routers read those of many partitions in one pass.
const REPLAYS: usize = 32;

/// How many replays may run for all cohorts together. Each running cohort gets an equal part.
const ALL_REPLAYS: usize = 64;

/// A cohort that has not begun.
#[derive(Debug)]
struct WaitingCohort {
    due: Millis,
    epoch_id: EpochId,
    from: Vec<Seq>,
    to: Vec<Seq>,
    sought: Interest,
    sessions: BTreeSet<SessionId>,
}

/// A cohort that has begun.
#[derive(Debug)]
struct RunningCohort {
    key: CohortKey,
    coverage: Coverage<Arc<Delivery>>,
    sought: Interest,
    sessions: BTreeSet<SessionId>,
    coverage_events: Vec<CoverageEvent<Arc<Delivery>>>,
    /// Chunks that shards have not processed yet.
    unprocessed: usize,
    unprocessed_bytes: usize,
}

/// What a cohort has received since the last call of [`Cohorts::take`].
#[derive(Debug)]
pub(crate) struct CohortProgress {
    pub(crate) cohort: u64,
    pub(crate) coverage_events: SharedCoverageEvents,
    /// Whether the cohort has ended.
    pub(crate) ends: bool,
}

/// All cohorts of a gateway.
#[derive(Debug)]
pub(crate) struct Cohorts {
    limits: RepairLimits,
    waiting: BTreeMap<CohortKey, WaitingCohort>,
    running: BTreeMap<u64, RunningCohort>,
    /// The cohorts of each session, so that a session that leaves is found without a search.
    places: HashMap<SessionId, Vec<CohortPlace>>,
    last: u64,
    /// Whether cohorts ask for nothing, because live repairs have precedence.
    gives_way: bool,
}

/// A cohort in which a session waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CohortPlace {
    Waiting(CohortKey),
    Running(u64),
}

impl Cohorts {
    /// No cohorts yet. `limits` are those of live coverage.
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

    /// Adds a session to the waiting cohort of its key.
    pub(crate) fn add(&mut self, now: Millis, session: SessionId, ranges: BackfillRanges, view: ViewId) {
        let key = CohortKey::of(&ranges.from, &ranges.to);
        let waiting = self.waiting.entry(key).or_insert_with(|| WaitingCohort {
            due: now.plus(COHORT_MS),
            epoch_id: ranges.epoch_id,
            from: ranges.from.clone(),
            to: ranges.to.clone(),
            sought: Interest { view, ..Interest::default() },
            sessions: BTreeSet::new(),
        });
        waiting.from.iter_mut().zip(ranges.from).for_each(|(from, other)| *from = other.min(*from));
        waiting.to.iter_mut().zip(ranges.to).for_each(|(to, other)| *to = other.max(*to));
        // An interest too large for a request grows no further: the request names the gateway's revision instead.
        for filter in &ranges.filters {
            if is_carried(&waiting.sought) {
                waiting.sought.add(filter);
            }
        }
        if is_carried(&waiting.sought) {
            waiting.sought.strays.insert(ranges.user);
        }
        if waiting.sessions.insert(session) {
            self.places.entry(session).or_default().push(CohortPlace::Waiting(key));
        }
    }

    /// Removes a session. A cohort without sessions ends.
    pub(crate) fn leave(&mut self, session: SessionId) {
        for place in self.places.remove(&session).unwrap_or_default() {
            match place {
                CohortPlace::Waiting(key) => {
                    let left = self.waiting.get_mut(&key).map(|waiting| {
                        waiting.sessions.remove(&session);
                        waiting.sessions.len()
                    });
                    if left == Some(0) {
                        self.waiting.remove(&key);
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

    /// Ends all cohorts, because a new epoch has begun.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.running.clear();
        self.places.clear();
    }

    /// Begins the cohorts that are due. Returns the number and the sessions of each. Sections that were matched against
    /// a revision older than `need` prove nothing, because these sessions may not have been part of it.
    pub(crate) fn begin(&mut self, now: Millis, need: Revision) -> Vec<(u64, Vec<SessionId>)> {
        let Self { waiting, running, places, limits, last, .. } = self;
        let mut begun = Vec::new();
        // One at a time, because each that begins counts for the limits of the next.
        while let Some(entry) = waiting.iter().find(|(key, one)| one.due <= now && is_free(running, **key))
            && let key = *entry.0
            && let Some(WaitingCohort { epoch_id, from, to, sought, sessions, .. }) = waiting.remove(&key)
        {
            *last += 1;
            for session in &sessions {
                for place in places.get_mut(session).into_iter().flatten() {
                    if *place == CohortPlace::Waiting(key) {
                        *place = CohortPlace::Running(*last);
                    }
                }
            }
            begun.push((*last, sessions.iter().copied().collect()));
            let ranges = from.into_iter().zip(to);
            let mut coverage = Coverage::of_ranges(now, epoch_id, ranges, *last << ASK_BITS, *limits);
            coverage.require(need);
            let (coverage_events, unprocessed) = (Vec::new(), 0);
            let cohort =
                RunningCohort { key, coverage, sought, sessions, coverage_events, unprocessed, unprocessed_bytes: 0 };
            running.insert(*last, cohort);
        }
        if !begun.is_empty() {
            self.share_replays();
        }
        begun
    }

    /// Sets whether live repairs find the routers busy. While they do, cohorts ask for nothing.
    pub(crate) fn pause(&mut self, gives_way: bool) {
        self.gives_way = gives_way;
    }

    /// The asks that are due now, each with its interest.
    pub(crate) fn asks(&mut self, now: Millis) -> Vec<(Ask, &Interest)> {
        let mut asks = Vec::new();
        for running in self.running.values_mut() {
            let is_blocked = running.is_blocked();
            let RunningCohort { coverage, sought, coverage_events, .. } = running;
            coverage.expire(now, coverage_events);
            if !is_blocked && !self.gives_way {
                // This coverage confirms nothing, so no revision is needed.
                asks.extend(coverage.asks(now, Revision(0), coverage_events).into_iter().map(|ask| (ask, &*sought)));
            }
        }
        asks
    }

    /// Whether the ask with this number belongs to a cohort.
    pub(crate) fn is_cohort_ask(ask: u64) -> bool {
        ask >> ASK_BITS > 0
    }

    /// The ask could not be sent.
    pub(crate) fn unsent(&mut self, now: Millis, ask: u64) {
        if let Some(running) = self.running.get_mut(&(ask >> ASK_BITS)) {
            running.coverage.unsent(now, ask);
        }
    }

    /// No router is subscribed to the subject of the ask.
    pub(crate) fn refused(&mut self, now: Millis, ask: u64) {
        if let Some(RunningCohort { coverage, coverage_events, .. }) = self.running.get_mut(&(ask >> ASK_BITS)) {
            coverage.refused(now, ask, coverage_events);
        }
    }

    /// Whether the answer to this ask is awaited.
    #[cfg(test)]
    pub(crate) fn is_pending(&self, ask: u64) -> bool {
        let running = self.running.get(&(ask >> ASK_BITS));
        running.is_some_and(|running| running.coverage.partition_of_ask(ask).is_some())
    }

    /// The sessions in cohorts.
    #[cfg(test)]
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let waiting = self.waiting.values().map(|waiting| &waiting.sessions);
        waiting.chain(self.running.values().map(|running| &running.sessions)).flatten().copied()
    }

    /// Takes a message of the answer to the ask.
    pub(crate) fn answer(&mut self, now: Millis, ask: u64, answer: ReplayAnswer<Arc<Delivery>>) -> SectionOutcome {
        match self.running.get_mut(&(ask >> ASK_BITS)) {
            Some(RunningCohort { coverage, coverage_events, .. }) => coverage.answer(now, ask, answer, coverage_events),
            None => SectionOutcome::Unasked,
        }
    }

    /// What the cohorts have received. A chunk counts as unprocessed once for each shard. Cohorts that end are removed.
    pub(crate) fn take(&mut self, shards: usize) -> Vec<CohortProgress> {
        let mut progress = Vec::new();
        let Self { running, places, .. } = self;
        running.retain(|cohort, running| {
            let (coverage_events, ends) = (std::mem::take(&mut running.coverage_events), running.coverage.gaps() == 0);
            let chunks = if coverage_events.is_empty() { 0 } else { shards };
            if chunks > 0 || ends {
                let coverage_events = SharedCoverageEvents::new(coverage_events);
                running.unprocessed += chunks;
                running.unprocessed_bytes += chunks * coverage_events.weight();
                progress.push(CohortProgress { cohort: *cohort, coverage_events, ends });
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
        if progress.iter().any(|one| one.ends) {
            self.share_replays();
        }
        progress
    }

    /// Gives each running cohort an equal part of the replays.
    fn share_replays(&mut self) {
        let share = (ALL_REPLAYS / self.running.len().max(1)).clamp(1, REPLAYS);
        self.running.values_mut().for_each(|running| running.coverage.set_replays(share));
    }

    /// A shard has processed a chunk of `bytes`.
    pub(crate) fn processed(&mut self, cohort: u64, bytes: usize) {
        if let Some(running) = self.running.get_mut(&cohort) {
            running.unprocessed = running.unprocessed.saturating_sub(1);
            running.unprocessed_bytes = running.unprocessed_bytes.saturating_sub(bytes);
        }
    }

    /// When something is due next.
    pub(crate) fn next_turn(&self) -> Option<Millis> {
        let is_free = |key: &&CohortKey| is_free(&self.running, **key);
        let begins = self.waiting.iter().filter(|(key, _)| is_free(key)).map(|(_, waiting)| waiting.due);
        let asks = self.running.values().filter(|running| !running.is_blocked() && !self.gives_way);
        begins.chain(asks.filter_map(|running| running.coverage.next_expiry())).min()
    }
}

impl RunningCohort {
    /// Whether it must wait for its clients to read.
    fn is_blocked(&self) -> bool {
        self.unprocessed >= UNPROCESSED || self.unprocessed_bytes >= UNPROCESSED_BYTES
    }
}

/// Whether a cohort of this key may begin.
fn is_free(running: &BTreeMap<u64, RunningCohort>, key: CohortKey) -> bool {
    running.len() < RUNNING && running.values().all(|other| other.key != key || other.is_blocked())
}

/// Whether an interest has few enough entries for a request to contain it.
pub(crate) fn is_carried(interest: &Interest) -> bool {
    interest.wants.len() <= CARRIED_ENTRIES && interest.strays.len() <= CARRIED_ENTRIES
}

#[cfg(test)]
#[path = "cohorts_tests.rs"]
mod tests;
