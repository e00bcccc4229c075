//! What a gateway has been given of each partition, and whether anything is missing: the one idea that makes lost
//! messages, crashes, zombies and hand-overs one case.
//!
//! Pure: sections, answers and the time come in; [`CoverageEvent`]s for the sessions and [`Ask`]s for the routers go out.
//! Partitions are independent: a gap in one holds no other. A gap that does not close within its grace is asked for;
//! what follows it waits meanwhile, within a bound. Only what nobody can give becomes a [`CoverageEvent::Gap`], with its reason.

pub mod builder;
pub mod completeness;
pub mod confirmations;
mod limits;
pub mod reached;
mod repair;
pub mod replay;
pub mod section;
mod track;
mod weight;

use crate::coverage::replay::{ReplayAnswer, ReplayPart, ReplayRefusal};
use crate::coverage::section::Section;
use crate::ids::{Epoch, EpochId, Millis, Partition, Revision, Seq};
use crate::protocol::position::Position;

pub use limits::RepairLimits;
pub use repair::{Ask, Repaired};
use track::PartitionCoverage;
pub use weight::Weight;

/// What a gateway is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoverageEvent<E> {
    /// The partition's history starts for this gateway after `at`.
    Adopt {
        /// The partition.
        partition: Partition,
        /// Nothing up to here was promised to anyone.
        at: Seq,
    },
    /// `events` are all that matches in `(from, through]`.
    Apply {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        through: Seq,
        /// The events, in order.
        events: Vec<(Seq, E)>,
    },
    /// Nobody can say what matched in `(from, through]`.
    Gap {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        through: Seq,
        /// Why.
        reason: GapReason,
    },
    /// Sequences are those of another life of the stream from here on.
    Reset {
        /// The former life, whose positions mean nothing any more; `None` at the very start.
        former: Option<EpochId>,
        /// The new life.
        epoch: Epoch,
    },
}

/// Why a range cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// It did not come, and no router could give it for as long as was asked.
    Lost,
    /// The stream had discarded it before it could be read.
    Retention,
    /// The stream should have it, and does not: its storage is damaged, or somebody deleted it.
    Damaged,
    /// More was missing than is asked for; this is the older part.
    TooLong,
}

impl GapReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lost, Self::Retention, Self::Damaged, Self::TooLong];

    /// As clients are told it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Retention => "retention",
            Self::Damaged => "damaged",
            Self::TooLong => "too_long",
        }
    }
}

/// What became of an offered section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionOutcome {
    /// It moved its partition on.
    Applied,
    /// Something before it is missing; it waits.
    Held,
    /// All of it was known.
    Duplicate,
    /// Its revision is older than a confirmed subscription needs: it proves nothing.
    Outdated,
    /// It speaks of a former life of the stream, of one that cannot be, or of a partition that there is not.
    Foreign,
    /// It contradicts itself: it proves nothing.
    Unsound,
}

/// The coverage of every partition.
#[derive(Debug)]
pub struct Coverage<E> {
    limits: RepairLimits,
    epoch: Option<Epoch>,
    need: Revision,
    tracks: Vec<PartitionCoverage<E>>,
    /// What all of them hold, in bytes.
    held_bytes: usize,
    /// Asks made so far.
    asks: u64,
}

impl<E: Weight> Coverage<E> {
    /// Coverage of `partitions` partitions, of which nothing is known.
    #[must_use]
    pub fn new(partitions: u16, limits: RepairLimits) -> Self {
        let tracks = (0..partitions).map(|number| PartitionCoverage::new(Partition(number))).collect();
        Self { limits, epoch: None, need: Revision(0), tracks, held_bytes: 0, asks: 0 }
    }

    /// Coverage of ranges of the past, one for each partition in order: what comes after the first sequence of a range up
    /// to its second is missing, and is asked for. Asks are numbered on from `asks`.
    pub fn of_ranges(
        now: Millis,
        epoch_id: EpochId,
        ranges: impl IntoIterator<Item = (Seq, Seq)>,
        asks: u64,
        limits: RepairLimits,
    ) -> Self {
        let track = |(number, (from, to))| PartitionCoverage::of_range(Partition(number), now, from, to, &limits);
        let tracks = (0..).zip(ranges).map(track).collect();
        let epoch = Some(Epoch { epoch_id, before: Seq(0) });
        Self { limits, epoch, need: Revision(0), tracks, held_bytes: 0, asks }
    }

    /// Takes a section that came at `now` from a router that reads this life of the stream.
    pub fn offer(
        &mut self,
        now: Millis,
        epoch: Epoch,
        section: Section<E>,
        steps: &mut Vec<CoverageEvent<E>>,
    ) -> SectionOutcome {
        if !self.enter(epoch, steps) {
            return SectionOutcome::Foreign;
        }
        let need = self.need;
        let offered = self.on(section.partition, |track, limits| {
            if !section.is_sound() {
                track.note(now, section.through, limits);
                return SectionOutcome::Unsound;
            }
            track.see(now, section.prev, section.through);
            track.revision = track.revision.max(section.revision);
            if section.revision < need {
                track.note(now, section.through, limits);
                return SectionOutcome::Outdated;
            }
            track.heard = Some(now);
            // Of the life before, nothing is this one's.
            track.adopt(section.prev.max(epoch.before), steps);
            track.take(now, section, need, limits, steps)
        });
        offered.unwrap_or(SectionOutcome::Foreign)
    }

    /// A section up to `through` came and could not be read. What it was about is asked for like anything that is missing.
    pub fn unreadable(&mut self, now: Millis, epoch_id: EpochId, partition: Partition, through: Seq) {
        if self.epoch_id() == Some(epoch_id) {
            self.on(partition, |track, limits| track.note(now, through, limits));
        }
    }

    /// Takes a message of the answer to the ask of this number. What it claims is judged like any section, whichever
    /// ask it belongs to; but it tells nothing of what routers know or read at present.
    pub fn answer(
        &mut self,
        now: Millis,
        number: u64,
        answer: ReplayAnswer<E>,
        steps: &mut Vec<CoverageEvent<E>>,
    ) -> SectionOutcome {
        let need = self.need;
        let ours = self.epoch_id() == Some(answer.epoch_id);
        let outcome = match answer.part {
            ReplayPart::Refused(ReplayRefusal::Busy) => {
                self.put_off(now, number);
                return SectionOutcome::Duplicate;
            }
            ReplayPart::Refused(_) => {
                self.refused(now, number, steps);
                return SectionOutcome::Duplicate;
            }
            _ if !ours => Some(SectionOutcome::Foreign),
            ReplayPart::Events(section) if !section.is_sound() => Some(SectionOutcome::Unsound),
            ReplayPart::Events(section) if section.revision < need => Some(SectionOutcome::Outdated),
            ReplayPart::Events(section) => self.on(section.partition, |track, limits| match track.mine {
                Some(_) => track.take(now, section, need, limits, steps),
                None => SectionOutcome::Foreign,
            }),
            ReplayPart::Removed { damaged: Some(revision), .. } if revision < need => Some(SectionOutcome::Outdated),
            ReplayPart::Removed { partition, from, through, damaged } => {
                let reason = damaged.map_or(GapReason::Retention, |_| GapReason::Damaged);
                self.on(partition, |track, limits| track.removed(now, (from, through, reason), need, limits, steps))
            }
        };
        if answer.last {
            self.refused(now, number, steps);
        }
        outcome.unwrap_or(SectionOutcome::Foreign)
    }

    /// The ask of this number is over: nobody answers it, or not now, or no more comes.
    pub fn refused(&mut self, now: Millis, number: u64, steps: &mut Vec<CoverageEvent<E>>) {
        let need = self.need;
        if let Some(partition) = self.asked(number) {
            self.on(partition, |track, limits| track.ended(now, need, limits, steps));
        }
    }

    /// The router that was asked has no time for it now. It is asked again, and this time does not count as in vain.
    fn put_off(&mut self, now: Millis, number: u64) {
        if let Some(partition) = self.asked(number) {
            self.on(partition, |track, _| track.put_off(now));
        }
    }

    /// The ask of this number could not be sent. It will be made again, and its time does not count.
    pub fn unsent(&mut self, now: Millis, number: u64) {
        if let Some(partition) = self.asked(number) {
            self.on(partition, |track, _| track.unsent(now));
        }
    }

    /// Gives up asks that were not answered in time, and tells the gaps that were asked for in vain for too long.
    pub fn expire(&mut self, now: Millis, steps: &mut Vec<CoverageEvent<E>>) {
        let need = self.need;
        for number in 0..self.tracks.len() {
            if self.tracks[number].deadline().is_some_and(|deadline| deadline <= now) {
                self.on(Partition(number as u16), |track, limits| track.expire(now, need, limits, steps));
            }
        }
    }

    /// What is to be asked for now: the longest due first, within the bound of what may be under way. The answers are to be
    /// matched against `revision` or a later one.
    pub fn asks(&mut self, now: Millis, revision: Revision, steps: &mut Vec<CoverageEvent<E>>) -> Vec<Ask> {
        let (need, mut free) = (self.need, self.free());
        let Some(epoch_id) = self.epoch_id() else { return Vec::new() };
        let due = self.tracks.iter().filter_map(|track| Some((track.due()?, track.partition)));
        let mut due: Vec<(Millis, Partition)> = due.filter(|(due, _)| *due <= now).collect();
        due.sort_by_key(|(due, _)| *due);
        let mut asks = Vec::new();
        for (_, partition) in due {
            if free == 0 {
                break;
            }
            let number = self.asks + 1;
            let asked = self.on(partition, |track, limits| track.ask(now, (number, revision), need, limits, steps));
            if let Some((from, to, unanswered)) = asked.flatten() {
                (self.asks, free) = (number, free - 1);
                asks.push(Ask { number, partition, epoch_id, from, to, unanswered });
            }
        }
        asks
    }

    /// When [`Self::expire`] and [`Self::asks`] are next to be called.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Millis> {
        let deadline = self.tracks.iter().filter_map(PartitionCoverage::deadline).min();
        let due = self.tracks.iter().filter_map(PartitionCoverage::due).min().filter(|_| self.free() > 0);
        deadline.into_iter().chain(due).min()
    }

    /// The lowest revision of what is on its way and proves something: answers that are waited for, what is held behind gaps,
    /// and what comes of partitions that were heard of after `since`. As long as no higher one is required, all of that
    /// proves what it says. `None` if there is nothing.
    #[must_use]
    pub fn coming_revision(&self, since: Millis) -> Option<Revision> {
        self.tracks.iter().filter_map(|track| track.coming_revision(since, self.need)).min()
    }

    /// The gaps that replays have closed since the last call.
    pub fn repaired(&mut self) -> impl Iterator<Item = Repaired> + '_ {
        self.tracks.iter_mut().filter_map(|track| track.repaired.take())
    }

    /// How many partitions wait for something that is missing.
    #[must_use]
    pub fn gaps(&self) -> usize {
        self.tracks.iter().filter(|track| track.is_waiting()).count()
    }

    /// The partitions of which nothing was ever heard in this life of the stream, and none to which anything was promised.
    pub fn unheard(&self) -> impl Iterator<Item = Partition> {
        self.tracks.iter().filter(|track| track.mine.is_none()).map(|track| track.partition)
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.tracks.len()
    }

    /// The partitions that wait for something that is missing, of which nothing has come since `since`.
    pub fn stuck(&self, since: Millis) -> impl Iterator<Item = Partition> {
        self.tracks.iter().filter(move |track| track.is_stuck(since)).map(|track| track.partition)
    }

    /// Whether routers were too busy with others to give something that is missing. Others are to give way to it.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.tracks.iter().any(PartitionCoverage::is_crowded)
    }

    /// What is held behind gaps, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The life of the stream that sequences belong to, once anything was heard of it.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    fn epoch_id(&self) -> Option<EpochId> {
        self.epoch.map(|epoch| epoch.epoch_id)
    }

    /// When any partition was last heard of.
    #[must_use]
    pub fn last_heard(&self) -> Option<Millis> {
        self.tracks.iter().filter_map(|track| track.heard).max()
    }

    /// Whether every partition's history has started. Before that nothing can be promised to anyone.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.tracks.iter().all(|track| track.mine.is_some())
    }

    /// The highest revision that every partition has carried.
    #[must_use]
    pub fn lowest_revision(&self) -> Revision {
        self.tracks.iter().map(|track| track.revision).min().unwrap_or_default()
    }

    /// The partitions of which routers have read nothing since `since`, or never: what they say of another revision alone
    /// does not count.
    pub fn silent(&self, since: Millis) -> impl Iterator<Item = Partition> {
        self.tracks.iter().filter(move |track| track.is_silent(since)).map(|track| track.partition)
    }

    /// A subscription is confirmed that is part of every revision from `revision` on: no older one proves anything
    /// any more.
    pub fn require(&mut self, revision: Revision) {
        self.need = self.need.max(revision);
    }

    /// Up to where everything was given or told; `None` before [`Self::is_complete`].
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let seqs = self.tracks.iter().map(|track| track.mine).collect::<Option<Vec<Seq>>>()?;
        Some(Position { epoch_id: self.epoch_id()?, seqs })
    }

    /// Does something with a partition, if there is one of this number.
    fn on<R>(
        &mut self,
        partition: Partition,
        act: impl FnOnce(&mut PartitionCoverage<E>, &RepairLimits) -> R,
    ) -> Option<R> {
        let partitions = self.tracks.len();
        let track = self.tracks.get_mut(usize::from(partition.0))?;
        let others = self.held_bytes - track.held_bytes;
        let result = act(track, &self.limits.of_one(partitions, others));
        self.held_bytes = others + track.held_bytes;
        Some(result)
    }

    /// The partition that the ask of this number is under way for.
    fn asked(&self, number: u64) -> Option<Partition> {
        self.tracks.iter().find(|track| track.is_asked(number)).map(|track| track.partition)
    }

    /// From now on so many replays may be under way at the same time.
    pub fn set_replays(&mut self, replays: usize) {
        self.limits.replays = replays;
    }

    /// How many more replays may be under way.
    fn free(&self) -> usize {
        let under_way = self.tracks.iter().filter(|track| track.deadline().is_some()).count();
        self.limits.replays.saturating_sub(under_way)
    }

    /// Goes on in this life of the stream, unless it is a former one. A session that was promised anything was promised
    /// all lives that follow, so they are covered from their beginning.
    fn enter(&mut self, epoch: Epoch, steps: &mut Vec<CoverageEvent<E>>) -> bool {
        match self.epoch {
            _ if epoch.epoch_id > EpochId::LAST => return false,
            Some(mine) if epoch.epoch_id < mine.epoch_id => return false,
            Some(mine) if epoch.epoch_id == mine.epoch_id => return true,
            Some(_) | None => {}
        }
        let is_promised = self.is_complete();
        let former = self.epoch.replace(epoch).map(|former| former.epoch_id);
        steps.push(CoverageEvent::Reset { former, epoch });
        self.held_bytes = 0;
        for track in &mut self.tracks {
            track.reset();
            if is_promised {
                track.adopt(epoch.before, steps);
            }
        }
        true
    }
}
