//! What an intake checks before it claims anything: that retention has removed nothing unread, that the copy it reads
//! lacks nothing that the leader has, and that the stream is still the one that it has read. Pure.

use super::read_messages::ReadMessages;
use super::trouble::IntakeTrouble;
use super::{COMPARED, Doing, Intake, IntakeEvent, IntakeOutput, Opened};
use crate::checkpoint::Checkpoint;
use crate::metrics;
use crate::source::Source;
use crate::stream::{StreamFacts, StreamState};
use crate::walk::Walked;
use std::mem::replace;
use std::time::Duration;
use tickwire_core::coverage::builder::Contiguity;
use tickwire_core::ids::Seq;
use tracing::{debug, warn};

/// After this number of walks that failed in a row, what was read is delivered without one: live events do not wait for
/// longer. While walks keep failing, each further range gets one.
pub const WALKS: u32 = 3;

/// The pause before a failed walk is repeated. Together they last as long as a lost connection takes to return.
pub(super) const WALK_PAUSE: Duration = Duration::from_secs(2);

/// How many consumers are created in a row to get one on the leader of the stream. After that, any server will do.
pub(super) const PLACES: u32 = 6;

/// Why the stream is looked at.
#[derive(Debug)]
pub(super) enum LookReason {
    /// A consumer was created. `made` counts those that were created in a row to get one on the leader of the stream.
    Opened { opened: Opened, made: u32 },
    /// What was read was late.
    Late(Claim),
    /// One message is to be read from the leader.
    Rescue,
}

/// A range that was read, but that the engine does not know of yet.
#[derive(Debug)]
pub(super) struct Claim {
    /// The state of the reading before it.
    pub(super) before: Contiguity,
    /// Everything up to here was read before, or was removed from the stream since.
    pub(super) kept: Seq,
    /// How many of the first messages were compared with what the leader has.
    pub(super) compared: usize,
    pub(super) read: ReadMessages,
    /// The fault after it, if any.
    pub(super) trouble: Option<IntakeTrouble>,
    /// Whether it was read from the leader, as one message.
    pub(super) is_rescue: bool,
}

impl Intake {
    /// Takes the state of the stream, or why it could not be read.
    pub fn looked(&mut self, state: Result<StreamState, String>) {
        let Doing::Looking(reason) = replace(&mut self.doing, Doing::Idle) else { return };
        let (last, is_rescue) = match &reason {
            LookReason::Late(claim) => (claim.before.last, claim.is_rescue),
            LookReason::Opened { .. } => (self.reading.last, false),
            LookReason::Rescue => (self.reading.last, true),
        };
        let (kept, state) = match self.skip_removed(last, state) {
            Ok(kept) => kept,
            Err(trouble) => {
                // What was read is not claimed, and is read again.
                if let LookReason::Late(claim) = reason {
                    self.reading = claim.before;
                }
                return self.fail(is_rescue, &trouble);
            }
        };
        match reason {
            LookReason::Opened { opened, made } => self.place(opened, made, &state),
            LookReason::Late(claim) => self.check_late(Claim { kept, ..claim }, &state),
            LookReason::Rescue => self.find_last(state.facts, true),
        }
    }

    /// Skips the range after `last` that cannot be read any more. Returns its end (`last` if there is none), and the
    /// state of the stream.
    fn skip_removed(
        &mut self,
        last: Seq,
        state: Result<StreamState, String>,
    ) -> Result<(Seq, StreamState), IntakeTrouble> {
        let state = state.map_err(IntakeTrouble::Failed)?;
        if state.facts.epoch_id != self.epoch_id {
            return Err(IntakeTrouble::OtherStream);
        }
        let least = state.facts.least_checkpoint();
        if least <= last {
            return Ok((last, state));
        }
        self.skip(last, least);
        Ok((least, state))
    }

    /// Continues after `least`, because nothing up to there can be read any more.
    fn skip(&mut self, last: Seq, least: Seq) {
        warn!(source = %self.tenure.source, after = %last, through = %least, "retention removed an unread range");
        metrics::SKIPPED_RANGES.increment(1);
        self.reading.last = self.reading.last.max(least);
        self.report(IntakeEvent::Skip(least));
    }

    /// Uses the new consumer, unless it has many messages to deliver and is not on the leader of the stream.
    fn place(&mut self, opened: Opened, made: u32, state: &StreamState) {
        let Opened { pending, server } = opened;
        let matters = state.facts.replicas > 1 && pending > COMPARED as u64;
        if matters && made < PLACES && server != state.leader {
            self.outputs.push_back(IntakeOutput::Close);
            return self.open(made);
        }
        self.server = server;
        self.pass_silence(pending, state);
        self.find_last(state.facts, false);
    }

    /// The catch-all may have no messages for days, while the stream goes on and removes its beginning. That must not
    /// look as if it had not read what was removed. If a new consumer on the leader has nothing to deliver, the stream
    /// had no message of the catch-all up to the end that it had when the consumer before was new. A stream that has lost
    /// that end proves nothing: a position beyond its end would look like another loss.
    fn pass_silence(&mut self, pending: u64, state: &StreamState) {
        let end = self.end.replace(state.facts.last);
        let is_of_leader = state.facts.replicas <= 1 || self.server == state.leader;
        if self.tenure.source != Source::CatchAll || pending > 0 || !is_of_leader {
            return;
        }
        if let Some(through) = end.filter(|end| *end > self.reading.last && *end <= state.facts.last) {
            self.reading.last = through;
            self.report(IntakeEvent::Events { through, mark: None, events: Vec::new() });
        }
    }

    /// Checks that the stream still has the last message that was read, and not another one in its place.
    fn find_last(&mut self, facts: StreamFacts, is_rescue: bool) {
        match self.mark {
            Some(mark) => self.ask(Doing::FindingLast { is_rescue }, IntakeOutput::FindLast(facts, mark)),
            None => self.start_reading(is_rescue),
        }
    }

    /// Takes whether the stream has the last message that was read; `None` if it was removed.
    pub fn found_last(&mut self, found: Result<Option<bool>, String>) {
        let Doing::FindingLast { is_rescue } = replace(&mut self.doing, Doing::Idle) else { return };
        match (found, self.mark) {
            (Ok(Some(false)), Some(mark)) => {
                let (checkpoint, epoch_id, mark) = (mark.seq, self.epoch_id, Some(mark));
                self.report(IntakeEvent::Missing(Checkpoint { checkpoint, epoch_id, mark }));
                self.fail(is_rescue, &IntakeTrouble::Lost);
            }
            (Ok(_), _) => self.start_reading(is_rescue),
            (Err(reason), _) => self.fail(is_rescue, &IntakeTrouble::Failed(reason)),
        }
    }

    /// Starts to read, since the stream is the one that was read before.
    fn start_reading(&mut self, is_rescue: bool) {
        if is_rescue {
            self.ask(Doing::Rescuing, IntakeOutput::Rescue(self.reading.last));
        } else {
            self.begin();
        }
    }

    /// Checks late messages against the leader: each must be the leader's next one as well. That takes too long for
    /// many messages, so these are read again from the leader.
    fn check_late(&mut self, claim: Claim, state: &StreamState) {
        let server = self.server.as_ref().filter(|_| !claim.is_rescue);
        if state.facts.replicas <= 1 || server == state.leader.as_ref() {
            return self.walk(claim);
        }
        if claim.read.first.len() > COMPARED {
            return self.refuse(&claim, &IntakeTrouble::Elsewhere);
        }
        self.compare(claim);
    }

    /// Compares the next message.
    fn compare(&mut self, mut claim: Claim) {
        let Claim { kept, compared, read, .. } = &mut claim;
        // Messages that retention has removed meanwhile are not compared.
        *compared = read.first.partition_point(|seq| *seq <= *kept).max(*compared);
        if *compared == read.first.len() {
            return self.walk(claim);
        }
        let after = read.first[..*compared].last().map_or(*kept, |last| *last.max(kept));
        self.ask(Doing::Comparing(claim), IntakeOutput::Compare(after));
    }

    /// Takes the leader's next message of the source, if there is one.
    pub fn compared(&mut self, next: Result<Option<Seq>, String>) {
        let Doing::Comparing(mut claim) = replace(&mut self.doing, Doing::Idle) else { return };
        let is_before = |next: Seq| claim.read.first.get(claim.compared).is_some_and(|seq| next < *seq);
        match next {
            Err(reason) => self.refuse(&claim, &IntakeTrouble::Failed(reason)),
            Ok(Some(next)) if is_before(next) => self.refuse(&claim, &IntakeTrouble::Behind),
            Ok(_) => {
                claim.compared += 1;
                self.compare(claim);
            }
        }
    }

    /// Drops the claim, so that its range is read again.
    fn refuse(&mut self, claim: &Claim, trouble: &IntakeTrouble) {
        self.reading = Contiguity::after(claim.kept);
        self.fail(claim.is_rescue, trouble);
    }

    /// Finds out what the stream lacks up to the last message that was read.
    pub(super) fn walk(&mut self, mut claim: Claim) {
        let (after, through) = (claim.kept, self.reading.last);
        claim.read.events.retain(|event| event.seq > after);
        self.ask(Doing::Walking(claim), IntakeOutput::Walk { after, through });
    }

    /// Takes the missing ranges, in order. If they could not be found out, the stream is walked again. If that fails
    /// several times, live events are delivered without them.
    pub fn walked(&mut self, walked: Result<Walked, String>) {
        let Doing::Walking(mut claim) = replace(&mut self.doing, Doing::Idle) else { return };
        match walked {
            Ok(Walked { missing, removed, .. }) => {
                self.failed_walks = 0;
                claim.read.missing = missing;
                // A message that was damaged may have been removed since the stream was looked at.
                if removed > claim.kept {
                    self.skip(claim.kept, removed);
                    claim.kept = removed;
                    claim.read.events.retain(|event| event.seq > removed);
                }
            }
            // Nothing can be delivered now either, so it is read again later.
            Err(reason) if !self.is_connected => return self.refuse(&claim, &IntakeTrouble::Failed(reason)),
            Err(reason) if self.failed_walks + 1 < WALKS => {
                self.failed_walks += 1;
                debug!(source = %self.tenure.source, reason, "walk of the stream failed and is repeated");
                return self.ask(Doing::PausingWalk(claim), IntakeOutput::Pause(WALK_PAUSE));
            }
            Err(reason) => {
                metrics::UNVERIFIED_RANGES.increment(1);
                warn!(source = %self.tenure.source, reason, "range not checked for missing messages");
            }
        }
        self.deliver(claim);
    }
}
