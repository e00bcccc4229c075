//! What a gateway has been given of each partition, and whether anything is missing: the one idea that makes lost
//! messages, crashes, zombies and hand-overs one case.
//!
//! Pure: sections, answers and the time come in; [`Step`]s for the sessions and [`Ask`]s for the routers go out.
//! Partitions are independent: a gap in one holds no other. A gap that does not close within its grace is asked for;
//! what follows it waits meanwhile, within a bound. Only what nobody can give becomes a [`Step::Gap`], with its reason.

mod repair;
mod track;

use crate::ids::{Incarnation, Millis, Partition, Revision, Seq};
use crate::position::Position;
use crate::replay::{Part, Refusal, ReplayAnswer};
use crate::section::Section;

pub use repair::{Ask, Repaired};
use track::Track;

/// What a gateway is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<E> {
    /// The partition's history starts for this gateway after `at`.
    Adopt {
        /// The partition.
        partition: Partition,
        /// Nothing up to here was promised to anyone.
        at: Seq,
    },
    /// `events` are all that matches in `(from, upto]`.
    Apply {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        upto: Seq,
        /// The events, in order.
        events: Vec<(Seq, E)>,
    },
    /// Nobody can say what matched in `(from, upto]`.
    Gap {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        upto: Seq,
        /// Why.
        reason: GapReason,
    },
    /// Sequences are those of another life of the stream from here on.
    Reset {
        /// The former life, whose positions mean nothing any more; `None` at the very start.
        former: Option<Incarnation>,
        /// The new life.
        incarnation: Incarnation,
    },
}

/// Why a range cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// It did not come, and no router could give it in time.
    Lost,
    /// The stream had discarded it before it could be read.
    Retention,
    /// More was missing than is asked for; this is the older part.
    TooLong,
}

impl GapReason {
    /// As clients are told it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Retention => "retention",
            Self::TooLong => "too_long",
        }
    }
}

/// What became of an offered section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It moved its partition on.
    Applied,
    /// Something before it is missing; it waits.
    Held,
    /// All of it was known.
    Duplicate,
    /// Its revision is older than a confirmed subscription needs: it proves nothing.
    Outdated,
    /// It speaks of a former life of the stream, or of a partition that there is not.
    Foreign,
}

/// How long and how much to hold when something is missing, and how hard to try to get it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a gap may be mere reordering, in milliseconds.
    pub grace: u64,
    /// How many events may be held per partition.
    pub held_events: usize,
    /// How many replays may be under way at the same time.
    pub replays: usize,
    /// How long a router that was asked may be silent, in milliseconds.
    pub replay_timeout: u64,
    /// After so many replays in a row that brought nothing a gap is told.
    pub replay_tries: u32,
    /// The longest range that is asked for, in sequences of the stream.
    pub replay_range: u64,
}

/// The coverage of every partition.
#[derive(Debug)]
pub struct Coverage<E> {
    limits: Limits,
    incarnation: Option<Incarnation>,
    need: Revision,
    tracks: Vec<Track<E>>,
    /// Asks made so far.
    asks: u64,
}

impl<E> Coverage<E> {
    /// Coverage of `partitions` partitions, of which nothing is known.
    #[must_use]
    pub fn new(partitions: u16, limits: Limits) -> Self {
        let tracks = (0..partitions).map(|number| Track::new(Partition(number))).collect();
        Self { limits, incarnation: None, need: Revision(0), tracks, asks: 0 }
    }

    /// Coverage of ranges of the past, one for each partition in order: what comes after the first sequence of a range up
    /// to its second is missing, and is asked for. Asks are numbered on from `asks`.
    pub fn of_ranges(
        now: Millis,
        incarnation: Incarnation,
        ranges: impl IntoIterator<Item = (Seq, Seq)>,
        asks: u64,
        limits: Limits,
    ) -> Self {
        let track = |(number, (from, to))| Track::of_range(Partition(number), now, from, to, &limits);
        let tracks = (0..).zip(ranges).map(track).collect();
        Self { limits, incarnation: Some(incarnation), need: Revision(0), tracks, asks }
    }

    /// Takes a section that came at `now` from a router that reads the stream's life `incarnation`.
    pub fn offer(
        &mut self,
        now: Millis,
        incarnation: Incarnation,
        section: Section<E>,
        steps: &mut Vec<Step<E>>,
    ) -> Offered {
        match self.incarnation {
            Some(mine) if incarnation < mine => return Offered::Foreign,
            Some(mine) if incarnation == mine => {}
            Some(_) | None => self.reset(incarnation, steps),
        }
        let (need, limits) = (self.need, self.limits);
        let Some(track) = self.track(section.partition) else {
            return Offered::Foreign;
        };
        track.revision = track.revision.max(section.revision);
        if section.revision < need {
            return Offered::Outdated;
        }
        track.heard = Some(now);
        track.adopt(section.prev, steps);
        track.take(now, section, need, &limits, steps)
    }

    /// Takes a message of the answer to the ask of this number. What it claims is judged like any section, whichever
    /// ask it belongs to; but it tells nothing of what routers know or read at present.
    pub fn answer(&mut self, now: Millis, number: u64, answer: ReplayAnswer<E>, steps: &mut Vec<Step<E>>) -> Offered {
        let (need, limits) = (self.need, self.limits);
        let ours = self.incarnation == Some(answer.incarnation);
        let outcome = match answer.part {
            Part::Refused(Refusal::Busy) => {
                self.put_off(now, number);
                return Offered::Duplicate;
            }
            Part::Refused(_) => {
                self.refused(now, number, steps);
                return Offered::Duplicate;
            }
            _ if !ours => Offered::Foreign,
            Part::Events(section) if section.revision < need => Offered::Outdated,
            Part::Events(section) => match self.track(section.partition) {
                Some(track) if track.mine.is_some() => track.take(now, section, need, &limits, steps),
                _ => Offered::Foreign,
            },
            Part::Removed { partition, from, upto } => match self.track(partition) {
                Some(track) => track.removed(now, from, upto, need, &limits, steps),
                None => Offered::Foreign,
            },
        };
        let asking = self.tracks.iter_mut().find(|track| track.is_asked(number));
        if let Some(track) = asking
            && answer.last
        {
            track.ended(now, need, &limits, steps);
        }
        outcome
    }

    /// Nobody answers the ask of this number, or not now.
    pub fn refused(&mut self, now: Millis, number: u64, steps: &mut Vec<Step<E>>) {
        let (need, limits) = (self.need, self.limits);
        if let Some(track) = self.tracks.iter_mut().find(|track| track.is_asked(number)) {
            track.ended(now, need, &limits, steps);
        }
    }

    /// Whoever was asked has no time for it now. It will be made again, and does not count as a try.
    fn put_off(&mut self, now: Millis, number: u64) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.is_asked(number)) {
            track.put_off(now);
        }
    }

    /// The ask of this number could not be sent. It will be made again, and does not count as a try.
    pub fn unsent(&mut self, now: Millis, number: u64) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.is_asked(number)) {
            track.unsent(now);
        }
    }

    /// Gives up asks that were not answered in time, and tells the gaps that were tried for often enough.
    pub fn expire(&mut self, now: Millis, steps: &mut Vec<Step<E>>) {
        let (need, limits) = (self.need, self.limits);
        for track in &mut self.tracks {
            track.expire(now, need, &limits, steps);
        }
    }

    /// What is to be asked for now: the longest due first, within the bound of what may be under way.
    pub fn asks(&mut self, now: Millis, steps: &mut Vec<Step<E>>) -> Vec<Ask> {
        let (need, limits, mut free) = (self.need, self.limits, self.free());
        let Some(incarnation) = self.incarnation else { return Vec::new() };
        let mut due: Vec<&mut Track<E>> =
            self.tracks.iter_mut().filter(|track| track.due().is_some_and(|due| due <= now)).collect();
        due.sort_by_key(|track| track.due());
        let mut asks = Vec::new();
        for track in due {
            if free == 0 {
                break;
            }
            let number = self.asks + 1;
            if let Some((from, to, unanswered)) = track.ask(now, number, need, &limits, steps) {
                (self.asks, free) = (number, free - 1);
                asks.push(Ask { number, partition: track.partition, incarnation, from, to, unanswered });
            }
        }
        asks
    }

    /// When [`Self::expire`] and [`Self::asks`] are next to be called.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Millis> {
        let deadline = self.tracks.iter().filter_map(Track::deadline).min();
        let due = self.tracks.iter().filter_map(Track::due).min().filter(|_| self.free() > 0);
        deadline.into_iter().chain(due).min()
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

    /// The life of the stream that sequences belong to, once anything was heard of it.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation
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

    /// The partitions that were not heard of since `since`, or never.
    pub fn silent(&self, since: Millis) -> impl Iterator<Item = Partition> {
        let silent = move |track: &&Track<E>| track.heard.is_none_or(|heard| heard < since);
        self.tracks.iter().filter(silent).map(|track| track.partition)
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
        Some(Position { incarnation: self.incarnation?, seqs })
    }

    fn track(&mut self, partition: Partition) -> Option<&mut Track<E>> {
        self.tracks.get_mut(usize::from(partition.0))
    }

    /// How many more replays may be under way.
    fn free(&self) -> usize {
        let under_way = self.tracks.iter().filter(|track| track.deadline().is_some()).count();
        self.limits.replays.saturating_sub(under_way)
    }

    fn reset(&mut self, incarnation: Incarnation, steps: &mut Vec<Step<E>>) {
        let former = self.incarnation.replace(incarnation);
        self.tracks.iter_mut().for_each(Track::reset);
        steps.push(Step::Reset { former, incarnation });
    }
}
