//! The coverage of one partition: up to where it is covered, the sections held behind a gap, and the gap's repair.

use std::collections::VecDeque;

use super::repair::{Repair, Repaired};
use super::weight::{Weight, weight};
use super::{CoverageEvent, GapReason, RepairLimits, SectionOutcome};
use crate::coverage::section::Section;
use crate::ids::{Millis, Partition, Revision, Seq};

/// What a change is judged by, and where its results go.
#[derive(Debug)]
pub(super) struct CoverageContext<'a, E> {
    pub(super) now: Millis,
    /// Sections of older revisions are invalid.
    pub(super) need: Revision,
    pub(super) limits: &'a RepairLimits,
    pub(super) coverage_events: &'a mut Vec<CoverageEvent<E>>,
}

#[derive(Debug)]
pub(super) struct PartitionCoverage<E> {
    pub(super) partition: Partition,
    /// The sequence up to which everything was given or reported as a gap; `None` until the history starts.
    pub(super) covered: Option<Seq>,
    /// The highest revision of any section of a live batch.
    pub(super) revision: Revision,
    /// When the last valid live section was received.
    pub(super) received: Option<Millis>,
    /// When the last section with a range was received: its router reads the partition.
    read: Option<Millis>,
    /// A gap that was closed by a replay, until it is reported.
    pub(super) repaired: Option<Repaired>,
    /// Sections behind a gap, by where they start.
    held: VecDeque<Section<E>>,
    /// Their size in bytes.
    pub(super) held_bytes: usize,
    /// The highest sequence that is known to exist from a section that was dropped or invalid.
    dropped_through: Seq,
    repair: Option<Repair>,
}

impl<E: Weight> PartitionCoverage<E> {
    pub(super) fn new(partition: Partition) -> Self {
        Self {
            partition,
            covered: None,
            revision: Revision(0),
            received: None,
            read: None,
            repaired: None,
            held: VecDeque::new(),
            held_bytes: 0,
            dropped_through: Seq(0),
            repair: None,
        }
    }

    /// A partition that is covered up to `from`, and known to reach `to`.
    pub(super) fn of_range(partition: Partition, now: Millis, from: Seq, to: Seq, limits: &RepairLimits) -> Self {
        let mut track = Self { covered: Some(from), dropped_through: to, ..Self::new(partition) };
        track.review(now, from, limits);
        track
    }

    /// Forgets everything of the former epoch.
    pub(super) fn reset(&mut self) {
        self.covered = None;
        self.held.clear();
        (self.held_bytes, self.dropped_through) = (0, Seq(0));
        (self.repair, self.repaired) = (None, None);
    }

    /// A section with this range was received.
    pub(super) fn note_range(&mut self, now: Millis, prev: Seq, through: Seq) {
        if prev < through {
            self.read = Some(now);
        }
    }

    /// Whether no router has read the partition since `since`.
    pub(super) fn is_silent(&self, since: Millis) -> bool {
        self.read.is_none_or(|at| at < since)
    }

    /// Starts the partition's history after `at`, unless it has started.
    pub(super) fn adopt(&mut self, at: Seq, coverage_events: &mut Vec<CoverageEvent<E>>) {
        if self.covered.is_none() {
            self.covered = Some(at);
            coverage_events.push(CoverageEvent::Adopt { partition: self.partition, at });
        }
    }

    /// Takes a section with a valid revision: applies its new part, or holds it behind a gap.
    pub(super) fn take(&mut self, context: &mut CoverageContext<'_, E>, section: Section<E>) -> SectionOutcome {
        let Some(covered) = self.covered else { return SectionOutcome::Foreign };
        if section.through <= covered {
            return SectionOutcome::Duplicate;
        }
        if section.prev > covered {
            self.hold(section, context.limits);
            self.review(context.now, covered, context.limits);
            return SectionOutcome::Held;
        }
        self.apply(section, context.coverage_events);
        self.apply_held(context);
        self.review(context.now, covered, context.limits);
        SectionOutcome::Applied
    }

    /// An invalid section shows that the partition reaches `through`.
    pub(super) fn note_end(&mut self, now: Millis, through: Seq, limits: &RepairLimits) {
        let Some(covered) = self.covered else { return };
        self.dropped_through = self.dropped_through.max(through);
        self.review(now, covered, limits);
    }

    /// The range `(from, through]` cannot be read any more, for this reason. Held sections in the range are still
    /// given.
    pub(super) fn removed(
        &mut self,
        context: &mut CoverageContext<'_, E>,
        (from, through): (Seq, Seq),
        reason: GapReason,
    ) -> SectionOutcome {
        let Some(covered) = self.covered else { return SectionOutcome::Foreign };
        if from > covered || through <= covered {
            return SectionOutcome::Duplicate;
        }
        let end = self.held.front().map_or(through, |held| held.prev.min(through));
        self.report_gap(context, end, reason);
        self.review(context.now, covered, context.limits);
        SectionOutcome::Applied
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.repair.is_some()
    }

    /// Whether the last router was too busy to replay what is missing.
    pub(super) fn routers_busy(&self) -> bool {
        self.repair.is_some_and(|repair| repair.routers_busy)
    }

    /// Whether it waits for a missing range and has made no progress since `since`.
    pub(super) fn is_stuck(&self, since: Millis) -> bool {
        self.repair.is_some_and(|repair| repair.moved < since)
    }

    pub(super) fn is_asked(&self, number: u64) -> bool {
        self.repair.is_some_and(|repair| repair.is_asked(number))
    }

    /// Whether an answer with this number would move the coverage on, although it was not asked for.
    pub(super) fn is_unasked(&self, number: u64, through: Seq) -> bool {
        let is_new = self.covered.is_some_and(|covered| through > covered);
        is_new && self.repair.is_none_or(|repair| !repair.was_asked(number))
    }

    /// When to ask for what is missing; `None` if nothing is missing, or while an ask is pending.
    pub(super) fn due(&self) -> Option<Millis> {
        self.repair.and_then(|repair| repair.due())
    }

    /// When the pending ask times out.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.repair.and_then(|repair| repair.deadline())
    }

    /// The lowest valid revision on its way: of the pending answer, of the first held section (later ones are hardly
    /// older), and of the live sections if one was received after `since`.
    pub(super) fn lowest_pending_revision(&self, since: Millis, need: Revision) -> Option<Revision> {
        let answer = self.repair.and_then(|repair| repair.revision());
        let live = self.received.filter(|received| *received > since).map(|_| self.revision);
        let held = self.held.iter().map(|section| section.revision).find(|revision| *revision >= need);
        answer.into_iter().chain(live).filter(|revision| *revision >= need).chain(held).min()
    }

    /// Asks for what is missing at `revision`. Returns the range, and how many asks before were not answered in time;
    /// `None` if nothing is missing.
    pub(super) fn ask(
        &mut self,
        context: &mut CoverageContext<'_, E>,
        number: u64,
        revision: Revision,
    ) -> Option<(Seq, Seq, u32)> {
        self.drop_outdated(context.need);
        let (from, to) = self.missing()?;
        let least = Seq(to.0.saturating_sub(context.limits.replay_range));
        if least > from {
            self.report_gap(context, least, GapReason::TooLong);
            self.review(context.now, from, context.limits);
        }
        let (from, to) = self.missing()?;
        let repair = self.repair.as_mut()?;
        repair.ask(context.now, number, revision, context.limits);
        Some((from, to, repair.unanswered()))
    }

    /// The answer to the pending ask is complete, or is a refusal.
    pub(super) fn ended(&mut self, context: &mut CoverageContext<'_, E>) {
        if let Some(repair) = &mut self.repair {
            repair.ended(context.now);
        }
        self.give_up_failed(context);
    }

    /// The router that was asked is too busy.
    pub(super) fn defer(&mut self, now: Millis) {
        if let Some(repair) = &mut self.repair {
            repair.defer(now);
        }
    }

    /// The pending ask could not be sent.
    pub(super) fn unsent(&mut self, now: Millis) {
        if let Some(repair) = &mut self.repair {
            repair.unsent(now);
        }
    }

    /// Ends an ask that was not answered in time.
    pub(super) fn expire(&mut self, context: &mut CoverageContext<'_, E>) {
        if let Some(repair) = &mut self.repair
            && repair.deadline().is_some_and(|deadline| deadline <= context.now)
        {
            repair.late(context.now);
            self.give_up_failed(context);
        }
    }

    /// Holds a section. Above the limit, the last held sections are dropped.
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

    /// Drops held sections whose revision is not valid any more.
    fn drop_outdated(&mut self, need: Revision) {
        let Self { held, held_bytes, dropped_through, .. } = self;
        held.retain(|section| {
            let is_valid = section.revision >= need;
            if !is_valid {
                *held_bytes -= weight(section);
                *dropped_through = (*dropped_through).max(section.through);
            }
            is_valid
        });
    }

    /// Applies the new part of `section`, which starts at or before `covered`.
    fn apply(&mut self, section: Section<E>, coverage_events: &mut Vec<CoverageEvent<E>>) {
        let Section { partition, prev, through, mut events, .. } = section;
        let from = self.covered.unwrap_or(prev);
        events.retain(|(seq, _)| *seq > from);
        self.covered = Some(through);
        coverage_events.push(CoverageEvent::Apply { partition, from, through, events });
    }

    /// Applies held sections that follow without a gap.
    fn apply_held(&mut self, context: &mut CoverageContext<'_, E>) {
        self.drop_outdated(context.need);
        while let Some(section) = self.held.pop_front_if(|held| Some(held.prev) <= self.covered) {
            self.held_bytes -= weight(&section);
            if Some(section.through) > self.covered {
                self.apply(section, context.coverage_events);
            }
        }
    }

    /// The first missing range.
    fn missing(&self) -> Option<(Seq, Seq)> {
        let covered = self.covered?;
        let to = self.held.front().map_or(self.dropped_through, |held| held.prev);
        (to > covered).then_some((covered, to))
    }

    /// Begins, updates or ends the repair after a change. `before` is the former value of `covered`.
    fn review(&mut self, now: Millis, before: Seq, limits: &RepairLimits) {
        let Some(covered) = self.covered else { return };
        if self.missing().is_none() {
            if let Some(Repair { from, since, asks, .. }) = self.repair.take()
                && asks > 0
            {
                let (partition, lasted) = (self.partition, now.since(since));
                self.repaired = Some(Repaired { partition, from, through: covered, lasted, asks });
            }
            return;
        }
        let repair = self.repair.get_or_insert_with(|| Repair::new(now, covered, limits));
        if covered > before {
            repair.moved(now, limits);
        }
    }

    fn give_up_failed(&mut self, context: &mut CoverageContext<'_, E>) {
        if self.repair.is_none_or(|repair| !repair.has_failed(context.limits)) {
            return;
        }
        self.drop_outdated(context.need);
        if let Some((from, to)) = self.missing() {
            self.report_gap(context, to, GapReason::Lost);
            self.repair = None;
            self.review(context.now, from, context.limits);
        }
    }

    /// Reports a gap up to `through`, and continues after it.
    fn report_gap(&mut self, context: &mut CoverageContext<'_, E>, through: Seq, reason: GapReason) {
        if let Some(from) = self.covered
            && through > from
        {
            context.coverage_events.push(CoverageEvent::Gap { partition: self.partition, from, through, reason });
            self.covered = Some(through);
        }
        self.apply_held(context);
    }
}
