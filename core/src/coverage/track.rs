//! The coverage of one partition: up to where it was given, what waits behind a gap, and the gap's repair.

use std::collections::VecDeque;

use super::repair::{Repair, Repaired};
use super::weight::{Weight, weight};
use super::{CoverageEvent, GapReason, RepairLimits, SectionOutcome};
use crate::coverage::section::Section;
use crate::ids::{Millis, Partition, Revision, Seq};

#[derive(Debug)]
pub(super) struct PartitionCoverage<E> {
    pub(super) partition: Partition,
    pub(super) mine: Option<Seq>,
    /// The highest revision that any section of a live batch carried.
    pub(super) revision: Revision,
    pub(super) heard: Option<Millis>,
    /// When a section last told that its router reads it: one of no range does not.
    read: Option<Millis>,
    /// A gap that was closed by a replay, until it is told.
    pub(super) repaired: Option<Repaired>,
    /// Sections behind a gap, by where they start.
    held: VecDeque<Section<E>>,
    /// What is held, in bytes.
    pub(super) held_bytes: usize,
    /// Up to where something is known to be there that was let go, or that proved nothing.
    dropped_through: Seq,
    repair: Option<Repair>,
}

impl<E: Weight> PartitionCoverage<E> {
    pub(super) fn new(partition: Partition) -> Self {
        Self {
            partition,
            mine: None,
            revision: Revision(0),
            heard: None,
            read: None,
            repaired: None,
            held: VecDeque::new(),
            held_bytes: 0,
            dropped_through: Seq(0),
            repair: None,
        }
    }

    /// A partition that was given up to `from`, and of which something up to `to` is known to exist.
    pub(super) fn of_range(partition: Partition, now: Millis, from: Seq, to: Seq, limits: &RepairLimits) -> Self {
        let mut track = Self { mine: Some(from), dropped_through: to, ..Self::new(partition) };
        track.review(now, from, limits);
        track
    }

    /// Forgets everything of a former life of the stream.
    pub(super) fn reset(&mut self) {
        self.mine = None;
        self.held.clear();
        (self.held_bytes, self.dropped_through) = (0, Seq(0));
        (self.repair, self.repaired) = (None, None);
    }

    /// A section of this range came.
    pub(super) fn see(&mut self, now: Millis, prev: Seq, through: Seq) {
        if prev < through {
            self.read = Some(now);
        }
    }

    /// Whether its router has read nothing since then, or was never heard of.
    pub(super) fn is_silent(&self, since: Millis) -> bool {
        self.read.is_none_or(|at| at < since)
    }

    /// Starts the partition's history after `at`, unless it has started.
    pub(super) fn adopt(&mut self, at: Seq, steps: &mut Vec<CoverageEvent<E>>) {
        if self.mine.is_none() {
            self.mine = Some(at);
            steps.push(CoverageEvent::Adopt { partition: self.partition, at });
        }
    }

    /// Takes a section whose revision proves something: applies what of it is new, or holds it behind a gap.
    pub(super) fn take(
        &mut self,
        now: Millis,
        section: Section<E>,
        need: Revision,
        limits: &RepairLimits,
        steps: &mut Vec<CoverageEvent<E>>,
    ) -> SectionOutcome {
        let Some(mine) = self.mine else { return SectionOutcome::Foreign };
        if section.through <= mine {
            return SectionOutcome::Duplicate;
        }
        if section.prev > mine {
            self.hold(section, limits);
            self.review(now, mine, limits);
            return SectionOutcome::Held;
        }
        self.apply(section, steps);
        self.settle(need, steps);
        self.review(now, mine, limits);
        SectionOutcome::Applied
    }

    /// The partition is known to go on to `through`, by something that proves nothing of what is there.
    pub(super) fn note(&mut self, now: Millis, through: Seq, limits: &RepairLimits) {
        let Some(mine) = self.mine else { return };
        self.dropped_through = self.dropped_through.max(through);
        self.review(now, mine, limits);
    }

    /// Nothing in `(from, through]` can be read any more, for this reason. What is held of it, or came otherwise, is given all the same.
    pub(super) fn removed(
        &mut self,
        now: Millis,
        (from, through, reason): (Seq, Seq, GapReason),
        need: Revision,
        limits: &RepairLimits,
        steps: &mut Vec<CoverageEvent<E>>,
    ) -> SectionOutcome {
        let Some(mine) = self.mine else { return SectionOutcome::Foreign };
        if from > mine || through <= mine {
            return SectionOutcome::Duplicate;
        }
        let known = self.held.front().map_or(through, |held| held.prev.min(through));
        self.tell(known, reason, need, steps);
        self.review(now, mine, limits);
        SectionOutcome::Applied
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.repair.is_some()
    }

    /// Whether routers were too busy with others to give what is missing.
    pub(super) fn is_crowded(&self) -> bool {
        self.repair.is_some_and(|repair| repair.crowded)
    }

    /// Whether it waits for what is missing, and nothing of that has come since `since`.
    pub(super) fn is_stuck(&self, since: Millis) -> bool {
        self.repair.is_some_and(|repair| repair.moved < since)
    }

    pub(super) fn is_asked(&self, number: u64) -> bool {
        self.repair.is_some_and(|repair| repair.is_asked(number))
    }

    /// When what is missing is to be asked for; `None` if nothing is, or while it is being answered.
    pub(super) fn due(&self) -> Option<Millis> {
        self.repair.and_then(|repair| repair.due())
    }

    /// When the ask under way is given up.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.repair.and_then(|repair| repair.deadline())
    }

    /// The lowest revision of what is on its way and proves something: the answer that is waited for, the first that is held
    /// (later ones are hardly older), and what comes next if anything has come after `since`.
    pub(super) fn coming_revision(&self, since: Millis, need: Revision) -> Option<Revision> {
        let answer = self.repair.and_then(|repair| repair.revision());
        let live = self.heard.filter(|heard| *heard > since).map(|_| self.revision);
        let held = self.held.iter().map(|section| section.revision).find(|revision| *revision >= need);
        answer.into_iter().chain(live).filter(|revision| *revision >= need).chain(held).min()
    }

    /// Asks for what is missing, as it matches `revision`. Returns the range, and how many asks just before were not answered
    /// in time, unless nothing is missing after all.
    pub(super) fn ask(
        &mut self,
        now: Millis,
        (number, revision): (u64, Revision),
        need: Revision,
        limits: &RepairLimits,
        steps: &mut Vec<CoverageEvent<E>>,
    ) -> Option<(Seq, Seq, u32)> {
        self.let_outdated_go(need);
        let (from, to) = self.missing()?;
        let least = Seq(to.0.saturating_sub(limits.replay_range));
        if least > from {
            self.tell(least, GapReason::TooLong, need, steps);
            self.review(now, from, limits);
        }
        let (from, to) = self.missing()?;
        let repair = self.repair.as_mut()?;
        repair.ask(now, number, revision, limits);
        Some((from, to, repair.unanswered()))
    }

    /// The answer to the ask under way is complete, or is a refusal.
    pub(super) fn ended(
        &mut self,
        now: Millis,
        need: Revision,
        limits: &RepairLimits,
        steps: &mut Vec<CoverageEvent<E>>,
    ) {
        if let Some(repair) = &mut self.repair {
            repair.ended(now);
        }
        self.give_up_hopeless(now, need, limits, steps);
    }

    /// The router that was asked has no time for it now.
    pub(super) fn put_off(&mut self, now: Millis) {
        if let Some(repair) = &mut self.repair {
            repair.put_off(now);
        }
    }

    /// The ask under way could not be sent.
    pub(super) fn unsent(&mut self, now: Millis) {
        if let Some(repair) = &mut self.repair {
            repair.unsent(now);
        }
    }

    /// Gives up an ask that was not answered in time.
    pub(super) fn expire(
        &mut self,
        now: Millis,
        need: Revision,
        limits: &RepairLimits,
        steps: &mut Vec<CoverageEvent<E>>,
    ) {
        if let Some(repair) = &mut self.repair
            && repair.deadline().is_some_and(|deadline| deadline <= now)
        {
            repair.late(now);
            self.give_up_hopeless(now, need, limits, steps);
        }
    }

    /// Holds a section, and lets go of what is behind it when that is too much.
    fn hold(&mut self, section: Section<E>, limits: &RepairLimits) {
        self.held_bytes += weight(&section);
        let at = self.held.partition_point(|held| (held.prev, held.through) <= (section.prev, section.through));
        self.held.insert(at, section);
        while self.held_bytes > limits.hold_bytes
            && let Some(section) = self.held.pop_back()
        {
            self.held_bytes -= weight(&section);
            self.dropped_through = self.dropped_through.max(section.through);
        }
    }

    /// Lets go of held sections that prove nothing any more.
    fn let_outdated_go(&mut self, need: Revision) {
        let Self { held, held_bytes, dropped_through, .. } = self;
        held.retain(|section| {
            let proves = section.revision >= need;
            if !proves {
                *held_bytes -= weight(section);
                *dropped_through = (*dropped_through).max(section.through);
            }
            proves
        });
    }

    /// Applies what of `section` is new; it starts at or before `mine`.
    fn apply(&mut self, section: Section<E>, steps: &mut Vec<CoverageEvent<E>>) {
        let Section { partition, prev, through, mut events, .. } = section;
        let from = self.mine.unwrap_or(prev);
        events.retain(|(seq, _)| *seq > from);
        self.mine = Some(through);
        steps.push(CoverageEvent::Apply { partition, from, through, events });
    }

    /// Applies held sections that follow without a gap.
    fn settle(&mut self, need: Revision, steps: &mut Vec<CoverageEvent<E>>) {
        self.let_outdated_go(need);
        while let Some(section) = self.held.pop_front_if(|held| Some(held.prev) <= self.mine) {
            self.held_bytes -= weight(&section);
            if Some(section.through) > self.mine {
                self.apply(section, steps);
            }
        }
    }

    /// The first range that is known to be missing.
    fn missing(&self) -> Option<(Seq, Seq)> {
        let mine = self.mine?;
        let to = self.held.front().map_or(self.dropped_through, |held| held.prev);
        (to > mine).then_some((mine, to))
    }

    /// Begins, goes on with, or ends a repair, after something has changed. `before` is where the partition stood.
    fn review(&mut self, now: Millis, before: Seq, limits: &RepairLimits) {
        let Some(mine) = self.mine else { return };
        if self.missing().is_none() {
            if let Some(Repair { from, since, asks, .. }) = self.repair.take()
                && asks > 0
            {
                let (partition, lasted) = (self.partition, now.since(since));
                self.repaired = Some(Repaired { partition, from, through: mine, lasted, asks });
            }
            return;
        }
        let repair = self.repair.get_or_insert_with(|| Repair::new(now, mine, limits));
        if mine > before {
            repair.moved(now, limits);
        }
    }

    fn give_up_hopeless(
        &mut self,
        now: Millis,
        need: Revision,
        limits: &RepairLimits,
        steps: &mut Vec<CoverageEvent<E>>,
    ) {
        if self.repair.is_none_or(|repair| !repair.is_hopeless(limits)) {
            return;
        }
        self.let_outdated_go(need);
        if let Some((from, to)) = self.missing() {
            self.tell(to, GapReason::Lost, need, steps);
            self.repair = None;
            self.review(now, from, limits);
        }
    }

    /// Tells the gap up to `through`, and goes on behind it.
    fn tell(&mut self, through: Seq, reason: GapReason, need: Revision, steps: &mut Vec<CoverageEvent<E>>) {
        if let Some(from) = self.mine
            && through > from
        {
            steps.push(CoverageEvent::Gap { partition: self.partition, from, through, reason });
            self.mine = Some(through);
        }
        self.settle(need, steps);
    }
}
