//! What a gateway has been given of each partition, and whether anything is missing: the one idea that makes lost
//! messages, crashes, zombies and hand-overs one case.
//!
//! Pure: sections and the time come in, [`Step`]s go out. Partitions are independent: a gap in one holds no other.

use std::collections::VecDeque;

use crate::ids::{Incarnation, Millis, Partition, Revision, Seq};
use crate::position::Position;
use crate::section::Section;

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
    /// Nobody knows here what matched in `(from, upto]`.
    Gap {
        /// The partition.
        partition: Partition,
        /// The range starts after this sequence.
        from: Seq,
        /// The range ends with this sequence.
        upto: Seq,
    },
    /// Sequences are those of another life of the stream from here on.
    Reset {
        /// The former life, whose positions mean nothing any more; `None` at the very start.
        former: Option<Incarnation>,
        /// The new life.
        incarnation: Incarnation,
    },
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

/// How long and how much to hold when something is missing.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a gap may be mere reordering, in milliseconds.
    pub grace: u64,
    /// How many events may be held per partition.
    pub held_events: usize,
}

/// The coverage of every partition.
#[derive(Debug)]
pub struct Coverage<E> {
    limits: Limits,
    incarnation: Option<Incarnation>,
    need: Revision,
    tracks: Vec<Track<E>>,
}

#[derive(Debug)]
struct Track<E> {
    mine: Option<Seq>,
    /// The highest revision that any section carried.
    revision: Revision,
    /// Sections behind a gap, by where they start.
    held: VecDeque<Section<E>>,
    held_events: usize,
    /// When the gap is taken for real.
    expires: Option<Millis>,
    heard: Option<Millis>,
}

impl<E> Coverage<E> {
    /// Coverage of `partitions` partitions, of which nothing is known.
    #[must_use]
    pub fn new(partitions: u16, limits: Limits) -> Self {
        let track = || Track {
            mine: None,
            revision: Revision(0),
            held: VecDeque::new(),
            held_events: 0,
            expires: None,
            heard: None,
        };
        Self { limits, incarnation: None, need: Revision(0), tracks: (0..partitions).map(|_| track()).collect() }
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
        let Some(track) = self.tracks.get_mut(usize::from(section.partition.0)) else {
            return Offered::Foreign;
        };
        track.revision = track.revision.max(section.revision);
        if section.revision < need {
            return Offered::Outdated;
        }
        track.heard = Some(now);
        let mine = *track.mine.get_or_insert_with(|| {
            steps.push(Step::Adopt { partition: section.partition, at: section.prev });
            section.prev
        });
        if section.upto <= mine {
            return Offered::Duplicate;
        }
        if section.prev > mine {
            track.hold(now, section, limits);
            if track.held_events > limits.held_events {
                track.give_up(now, need, limits, steps);
                return Offered::Applied;
            }
            return Offered::Held;
        }
        track.apply(section, steps);
        track.settle(now, need, limits, steps);
        Offered::Applied
    }

    /// Takes for real every gap whose grace is over.
    pub fn expire(&mut self, now: Millis, steps: &mut Vec<Step<E>>) {
        for track in &mut self.tracks {
            if track.expires.is_some_and(|at| at <= now) {
                track.give_up(now, self.need, self.limits, steps);
            }
        }
    }

    /// When [`Self::expire`] is next to be called.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Millis> {
        self.tracks.iter().filter_map(|track| track.expires).min()
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
        (0..)
            .map(Partition)
            .zip(&self.tracks)
            .filter_map(move |(partition, track)| track.heard.is_none_or(|heard| heard < since).then_some(partition))
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

    fn reset(&mut self, incarnation: Incarnation, steps: &mut Vec<Step<E>>) {
        let former = self.incarnation.replace(incarnation);
        for track in &mut self.tracks {
            track.mine = None;
            track.held.clear();
            track.held_events = 0;
            track.expires = None;
        }
        steps.push(Step::Reset { former, incarnation });
    }
}

impl<E> Track<E> {
    fn hold(&mut self, now: Millis, section: Section<E>, limits: Limits) {
        self.held_events += section.events.len();
        let at = self.held.partition_point(|held| (held.prev, held.upto) <= (section.prev, section.upto));
        self.held.insert(at, section);
        self.expires.get_or_insert(now.plus(limits.grace));
    }

    /// Applies what of `section` is new; it starts at or before `mine`.
    fn apply(&mut self, section: Section<E>, steps: &mut Vec<Step<E>>) {
        let Section { partition, prev, upto, mut events, .. } = section;
        let from = self.mine.unwrap_or(prev);
        events.retain(|(seq, _)| *seq > from);
        self.mine = Some(upto);
        steps.push(Step::Apply { partition, from, upto, events });
    }

    /// Applies held sections that follow without a gap, and starts the grace anew if others remain.
    fn settle(&mut self, now: Millis, need: Revision, limits: Limits, steps: &mut Vec<Step<E>>) {
        while let Some(section) = self.held.pop_front_if(|held| Some(held.prev) <= self.mine) {
            self.held_events -= section.events.len();
            if section.revision >= need && Some(section.upto) > self.mine {
                self.apply(section, steps);
            }
        }
        self.expires = (!self.held.is_empty()).then(|| now.plus(limits.grace));
    }

    /// Tells the gap before the first held section that still proves something, and goes on behind it.
    fn give_up(&mut self, now: Millis, need: Revision, limits: Limits, steps: &mut Vec<Step<E>>) {
        self.held.retain(|held| held.revision >= need);
        self.held_events = self.held.iter().map(|held| held.events.len()).sum();
        if let (Some(first), Some(from)) = (self.held.front(), self.mine) {
            steps.push(Step::Gap { partition: first.partition, from, upto: first.prev });
            self.mine = Some(first.prev);
        }
        self.settle(now, need, limits, steps);
    }
}
