//! Coverage: how far a gateway has been given everything, for each partition. It treats lost messages, crashes, routers
//! with an expired lease and hand-overs as one case: a range is missing.
//!
//! Pure: sections, replay answers and the time go in; [`CoverageEvent`]s for the sessions and [`Ask`]s for the routers
//! come out. Partitions are independent: a gap in one does not delay another. A gap that does not close within its
//! grace is asked for as a replay. Sections behind it are held meanwhile, within a limit. A range that no router can
//! give becomes a [`CoverageEvent::Gap`] with its reason.
//!
//! `section` and `answer` are the messages of routers, and `builder` is the router's side. On the gateway's side
//! `partition` is one partition and `repair` one gap, within `limits`, with sizes from `weight`, and `outcome` is what
//! comes out. `confirmations` decides when a subscription is confirmed, `reached` is what a gateway reports of its
//! coverage, and `completeness` finds ranges that are missing in the stream itself.

pub(crate) mod answer;
pub mod builder;
pub mod completeness;
pub mod confirmations;
mod limits;
mod outcome;
mod partition;
pub mod reached;
mod repair;
pub mod section;
mod weight;

use crate::coverage::answer::{ReplayAnswer, ReplayPart, ReplayRefusal};
use crate::coverage::partition::{CoverageContext, PartitionCoverage};
use crate::coverage::section::Section;
use crate::ids::{Epoch, EpochId, Millis, Partition, Revision, Seq};
use crate::protocol::position::Position;

pub use limits::RepairLimits;
pub use outcome::{CoverageEvent, GapReason, SectionOutcome};
pub use repair::{Ask, Repaired};
pub use weight::Weight;

/// The coverage of every partition.
#[derive(Debug)]
pub struct Coverage<E> {
    limits: RepairLimits,
    epoch: Option<Epoch>,
    need: Revision,
    by_partition: Vec<PartitionCoverage<E>>,
    /// The sections that all partitions hold, in bytes.
    held_bytes: usize,
    /// The number of asks so far.
    asks: u64,
}

impl<E: Weight> Coverage<E> {
    /// Coverage of `partitions` partitions, none of which has started.
    #[must_use]
    pub fn new(partitions: u16, limits: RepairLimits) -> Self {
        let by_partition = (0..partitions).map(|number| PartitionCoverage::new(Partition(number))).collect();
        Self { limits, epoch: None, need: Revision(0), by_partition, held_bytes: 0, asks: 0 }
    }

    /// Coverage of the ranges `(first, second]` of a backfill, one for each partition in order. All of them are
    /// missing, and are asked for. Asks are numbered from `asks + 1`.
    pub fn of_ranges(
        now: Millis,
        epoch_id: EpochId,
        ranges: impl IntoIterator<Item = (Seq, Seq)>,
        asks: u64,
        limits: RepairLimits,
    ) -> Self {
        let track = |(number, (from, to))| PartitionCoverage::of_range(Partition(number), now, from, to, &limits);
        let by_partition = (0..).zip(ranges).map(track).collect();
        let epoch = Some(Epoch { epoch_id, before: Seq(0) });
        Self { limits, epoch, need: Revision(0), by_partition, held_bytes: 0, asks }
    }

    /// Takes a section received at `now` from a router that reads this epoch of the stream.
    pub fn offer(
        &mut self,
        now: Millis,
        epoch: Epoch,
        section: Section<E>,
        coverage_events: &mut Vec<CoverageEvent<E>>,
    ) -> SectionOutcome {
        if !self.enter(epoch, coverage_events) {
            return SectionOutcome::Foreign;
        }
        let need = self.need;
        let outcome = self.with(section.partition, |track, limits| {
            if !section.is_sound() {
                track.note_end(now, section.through, limits);
                return SectionOutcome::Unsound;
            }
            track.note_range(now, section.prev, section.through);
            track.revision = track.revision.max(section.revision);
            if section.revision < need {
                track.note_end(now, section.through, limits);
                return SectionOutcome::Outdated;
            }
            track.received = Some(now);
            // Sequences up to `before` belong to the former epoch.
            track.adopt(section.prev.max(epoch.before), coverage_events);
            track.take(&mut CoverageContext { now, need, limits, coverage_events }, section)
        });
        outcome.unwrap_or(SectionOutcome::Foreign)
    }

    /// A received section up to `through` could not be decoded. Its range is asked for like any missing range.
    pub fn unreadable(&mut self, now: Millis, epoch_id: EpochId, partition: Partition, through: Seq) {
        if self.epoch_id() == Some(epoch_id) {
            self.with(partition, |track, limits| track.note_end(now, through, limits));
        }
    }

    /// Takes a message of the answer to the ask `number`, which may be late: the gap may have been asked for again. What
    /// was not asked for changes nothing. An answer does not show what routers read or which revision they know at
    /// present.
    pub fn answer(
        &mut self,
        now: Millis,
        number: u64,
        answer: ReplayAnswer<E>,
        coverage_events: &mut Vec<CoverageEvent<E>>,
    ) -> SectionOutcome {
        let need = self.need;
        let is_this_epoch = self.epoch_id() == Some(answer.epoch_id);
        let outcome = match answer.part {
            ReplayPart::Refused(ReplayRefusal::Busy) => {
                self.defer(now, number);
                return SectionOutcome::Duplicate;
            }
            ReplayPart::Refused(_) => {
                self.refused(now, number, coverage_events);
                return SectionOutcome::Duplicate;
            }
            _ if !is_this_epoch => Some(SectionOutcome::Foreign),
            ReplayPart::Events(section) if !section.is_sound() => Some(SectionOutcome::Unsound),
            ReplayPart::Events(section) if section.revision < need => Some(SectionOutcome::Outdated),
            ReplayPart::Events(section) => self.with(section.partition, |track, limits| match track.covered {
                Some(_) if track.is_unasked(number, section.through) => SectionOutcome::Unasked,
                Some(_) => track.take(&mut CoverageContext { now, need, limits, coverage_events }, section),
                None => SectionOutcome::Foreign,
            }),
            ReplayPart::Removed { damaged: Some(revision), .. } if revision < need => Some(SectionOutcome::Outdated),
            ReplayPart::Removed { partition, from, through, damaged } => {
                let reason = damaged.map_or(GapReason::Retention, |_| GapReason::Damaged);
                self.with(partition, |track, limits| {
                    if track.is_unasked(number, through) {
                        return SectionOutcome::Unasked;
                    }
                    let mut context = CoverageContext { now, need, limits, coverage_events };
                    track.removed(&mut context, (from, through), reason)
                })
            }
        };
        if answer.last {
            self.refused(now, number, coverage_events);
        }
        outcome.unwrap_or(SectionOutcome::Foreign)
    }

    /// The ask `number` is over: no router answers it, it was refused, or the answer is complete.
    pub fn refused(&mut self, now: Millis, number: u64, coverage_events: &mut Vec<CoverageEvent<E>>) {
        let need = self.need;
        if let Some(partition) = self.partition_of_ask(number) {
            self.with(partition, |track, limits| {
                track.ended(&mut CoverageContext { now, need, limits, coverage_events });
            });
        }
    }

    /// The router is too busy for the ask `number`. It is asked again later, and the time does not count as failed.
    fn defer(&mut self, now: Millis, number: u64) {
        if let Some(partition) = self.partition_of_ask(number) {
            self.with(partition, |track, _| track.defer(now));
        }
    }

    /// The ask `number` could not be sent. It is made again, and the time does not count as failed.
    pub fn unsent(&mut self, now: Millis, number: u64) {
        if let Some(partition) = self.partition_of_ask(number) {
            self.with(partition, |track, _| track.unsent(now));
        }
    }

    /// Gives up asks that were not answered in time, and reports gaps whose asks have failed for too long.
    pub fn expire(&mut self, now: Millis, coverage_events: &mut Vec<CoverageEvent<E>>) {
        let need = self.need;
        for number in 0..self.by_partition.len() {
            if self.by_partition[number].deadline().is_some_and(|deadline| deadline <= now) {
                self.with(Partition(number as u16), |track, limits| {
                    track.expire(&mut CoverageContext { now, need, limits, coverage_events });
                });
            }
        }
    }

    /// The asks to send now: the longest due first, within the limit of concurrent replays. Routers must match the
    /// answers against `revision` or a later one.
    pub fn asks(&mut self, now: Millis, revision: Revision, coverage_events: &mut Vec<CoverageEvent<E>>) -> Vec<Ask> {
        let (need, mut free) = (self.need, self.free());
        let Some(epoch_id) = self.epoch_id() else { return Vec::new() };
        let due = self.by_partition.iter().filter_map(|track| Some((track.due()?, track.partition)));
        let mut due: Vec<(Millis, Partition)> = due.filter(|(due, _)| *due <= now).collect();
        due.sort_by_key(|(due, _)| *due);
        let mut asks = Vec::new();
        for (_, partition) in due {
            if free == 0 {
                break;
            }
            let number = self.asks + 1;
            let range = self.with(partition, |track, limits| {
                track.ask(&mut CoverageContext { now, need, limits, coverage_events }, number, revision)
            });
            if let Some((from, to, unanswered)) = range.flatten() {
                (self.asks, free) = (number, free - 1);
                asks.push(Ask { number, partition, epoch_id, from, to, unanswered });
            }
        }
        asks
    }

    /// When to call [`Self::expire`] and [`Self::asks`] next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Millis> {
        let deadline = self.by_partition.iter().filter_map(PartitionCoverage::deadline).min();
        let due = self.by_partition.iter().filter_map(PartitionCoverage::due).min().filter(|_| self.free() > 0);
        deadline.into_iter().chain(due).min()
    }

    /// The lowest revision of the sections that are on their way and valid: expected answers, sections held behind
    /// gaps, and live sections of partitions that have sent one after `since`. As long as no higher revision is
    /// required, all of them stay valid. `None` if there are none.
    #[must_use]
    pub fn lowest_pending_revision(&self, since: Millis) -> Option<Revision> {
        self.by_partition.iter().filter_map(|track| track.lowest_pending_revision(since, self.need)).min()
    }

    /// The gaps that replays have closed since the last call.
    pub fn repaired(&mut self) -> impl Iterator<Item = Repaired> + '_ {
        self.by_partition.iter_mut().filter_map(|track| track.repaired.take())
    }

    /// How many partitions wait for a missing range.
    #[must_use]
    pub fn gaps(&self) -> usize {
        self.by_partition.iter().filter(|track| track.is_waiting()).count()
    }

    /// The partitions whose history has not started in this epoch: no section was received and nothing was promised.
    pub fn never_reported(&self) -> impl Iterator<Item = Partition> {
        self.by_partition.iter().filter(|track| track.covered.is_none()).map(|track| track.partition)
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.by_partition.len()
    }

    /// The partitions that wait for a missing range and have received none of it since `since`.
    pub fn stuck(&self, since: Millis) -> impl Iterator<Item = Partition> {
        self.by_partition.iter().filter(move |track| track.is_stuck(since)).map(|track| track.partition)
    }

    /// Whether routers were too busy to replay a missing range. Other replays should make room for it.
    #[must_use]
    pub fn routers_busy(&self) -> bool {
        self.by_partition.iter().any(PartitionCoverage::routers_busy)
    }

    /// The sections held behind gaps, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The epoch of the sequences; `None` until a section was received.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    fn epoch_id(&self) -> Option<EpochId> {
        self.epoch.map(|epoch| epoch.epoch_id)
    }

    /// When the last valid live section was received.
    #[must_use]
    pub fn last_received(&self) -> Option<Millis> {
        self.by_partition.iter().filter_map(|track| track.received).max()
    }

    /// Whether the history of every partition has started. Before that, nothing can be promised to a session.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.by_partition.iter().all(|track| track.covered.is_some())
    }

    /// The highest revision that live sections of every partition have reached.
    #[must_use]
    pub fn lowest_revision(&self) -> Revision {
        self.by_partition.iter().map(|track| track.revision).min().unwrap_or_default()
    }

    /// The partitions of which routers have read nothing since `since`, or never. Sections with an empty range do not
    /// count: they only announce a revision.
    pub fn silent(&self, since: Millis) -> impl Iterator<Item = Partition> {
        self.by_partition.iter().filter(move |track| track.is_silent(since)).map(|track| track.partition)
    }

    /// A subscription that is part of every revision from `revision` on is confirmed. Sections of older revisions are
    /// invalid from now on.
    pub fn require(&mut self, revision: Revision) {
        self.need = self.need.max(revision);
    }

    /// Up to where everything was given or reported as a gap; `None` before [`Self::is_complete`].
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let seqs = self.by_partition.iter().map(|track| track.covered).collect::<Option<Vec<Seq>>>()?;
        Some(Position { epoch_id: self.epoch_id()?, seqs })
    }

    /// Runs `act` on a partition, if it exists, and keeps `held_bytes` up to date.
    fn with<R>(
        &mut self,
        partition: Partition,
        act: impl FnOnce(&mut PartitionCoverage<E>, &RepairLimits) -> R,
    ) -> Option<R> {
        let partitions = self.by_partition.len();
        let track = self.by_partition.get_mut(usize::from(partition.0))?;
        let others = self.held_bytes - track.held_bytes;
        let result = act(track, &self.limits.of_one(partitions, others));
        self.held_bytes = others + track.held_bytes;
        Some(result)
    }

    /// The partition of the ask `number`; `None` if it is not pending.
    #[must_use]
    pub fn partition_of_ask(&self, number: u64) -> Option<Partition> {
        self.by_partition.iter().find(|track| track.is_asked(number)).map(|track| track.partition)
    }

    /// Sets how many replays may run at the same time.
    pub fn set_replays(&mut self, replays: usize) {
        self.limits.replays = replays;
    }

    /// How many more replays may start.
    fn free(&self) -> usize {
        let running = self.by_partition.iter().filter(|track| track.deadline().is_some()).count();
        self.limits.replays.saturating_sub(running)
    }

    /// Changes to this epoch if it is new; `false` if it is a former or an impossible one. A promise to a session
    /// includes all later epochs, so a new epoch is covered from its beginning.
    fn enter(&mut self, epoch: Epoch, coverage_events: &mut Vec<CoverageEvent<E>>) -> bool {
        match self.epoch {
            _ if epoch.epoch_id > EpochId::LAST => return false,
            Some(current) if epoch.epoch_id < current.epoch_id => return false,
            Some(current) if epoch.epoch_id == current.epoch_id => return true,
            Some(_) | None => {}
        }
        let is_promised = self.is_complete();
        let former = self.epoch.replace(epoch).map(|former| former.epoch_id);
        coverage_events.push(CoverageEvent::Reset { former, epoch });
        self.held_bytes = 0;
        for track in &mut self.by_partition {
            track.reset();
            if is_promised {
                track.adopt(epoch.before, coverage_events);
            }
        }
        true
    }
}
