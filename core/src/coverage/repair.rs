//! The repair of one gap: when to ask for it next, and when to give up.
//!
//! A failed ask is made again: at once after a timeout, after a growing pause if it was refused or the router was busy.
//! The gap is given up when asks have failed for a long time. Asks that a busy router refused and asks that could not
//! be sent do not count. Any progress of the partition resets the count.

use super::RepairLimits;
use crate::backoff::Backoff;
use crate::ids::{EpochId, Millis, Partition, Revision, Seq};

/// The pauses after a refused ask.
const BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// The pause after an ask that could not be sent, in milliseconds.
const UNSENT_PAUSE: u64 = 100;

/// How many asks for a gap are remembered, so that a late answer is recognised.
const RECENT: usize = 4;

/// A request to the routers: replay the range `(from, to]` of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Identifies the answers to this ask.
    pub number: u64,
    /// The partition.
    pub partition: Partition,
    /// The epoch of the sequences.
    pub epoch_id: EpochId,
    /// The range starts after this sequence.
    pub from: Seq,
    /// The range ends with this sequence.
    pub to: Seq,
    /// How many asks for it in a row before this one were not answered in time: the router may be dead.
    pub unanswered: u32,
}

/// A gap that was closed after asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The partition.
    pub partition: Partition,
    /// The coverage of the partition when the gap was found.
    pub from: Seq,
    /// Its coverage now.
    pub through: Seq,
    /// How long it was open, in milliseconds.
    pub lasted: u64,
    /// The number of asks.
    pub asks: u32,
}

/// An open gap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repair {
    /// The coverage of the partition when the gap was found.
    pub(super) from: Seq,
    pub(super) since: Millis,
    /// The number of asks.
    pub(super) asks: u32,
    /// When the partition last made progress; at first when the gap was found.
    pub(super) moved: Millis,
    /// How long asks have failed, in milliseconds.
    failed_for: u64,
    /// How many asks in a row were not answered in time.
    unanswered: u32,
    /// Whether the last router was too busy.
    pub(super) routers_busy: bool,
    /// The number of pauses since the last progress.
    pauses: u32,
    /// When to ask next, unless an ask is pending.
    due: Millis,
    pending: Option<PendingAsk>,
    /// The numbers of the last asks, the newest first; 0 for none.
    recent: [u64; RECENT],
}

/// A pending ask.
#[derive(Clone, Copy, Debug)]
struct PendingAsk {
    number: u64,
    /// The lowest revision that the answer is matched against.
    revision: Revision,
    since: Millis,
    deadline: Millis,
    /// Whether it brought progress.
    moved: bool,
}

impl Repair {
    pub(super) fn new(now: Millis, from: Seq, limits: &RepairLimits) -> Self {
        let due = now.plus(limits.grace);
        Self {
            from,
            since: now,
            asks: 0,
            moved: now,
            failed_for: 0,
            unanswered: 0,
            routers_busy: false,
            pauses: 0,
            due,
            pending: None,
            recent: [0; RECENT],
        }
    }

    pub(super) fn is_asked(&self, number: u64) -> bool {
        self.pending.is_some_and(|pending| pending.number == number)
    }

    /// Whether this is the number of one of the last asks for the gap, whose answer may be late.
    pub(super) fn was_asked(&self, number: u64) -> bool {
        number > 0 && self.recent.contains(&number)
    }

    /// When to ask; `None` while an ask is pending.
    pub(super) fn due(&self) -> Option<Millis> {
        self.pending.is_none().then_some(self.due)
    }

    /// How many asks in a row, including the last one, were not answered in time.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// When the pending ask times out.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.pending.map(|pending| pending.deadline)
    }

    /// The lowest revision that the pending answer is matched against.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.pending.map(|pending| pending.revision)
    }

    /// An ask is sent.
    pub(super) fn ask(&mut self, now: Millis, number: u64, revision: Revision, limits: &RepairLimits) {
        self.asks = self.asks.saturating_add(1);
        self.recent.rotate_right(1);
        self.recent[0] = number;
        let deadline = now.plus(limits.replay_timeout);
        self.pending = Some(PendingAsk { number, revision, since: now, deadline, moved: false });
    }

    /// The partition has made progress, but something is still missing.
    pub(super) fn moved(&mut self, now: Millis, limits: &RepairLimits) {
        (self.moved, self.failed_for, self.unanswered, self.pauses) = (now, 0, 0, 0);
        self.routers_busy = false;
        match &mut self.pending {
            Some(pending) => {
                (pending.deadline, pending.moved) = (now.plus(limits.replay_timeout), true);
            }
            // The first gap closed by itself; the next one may do so too.
            None if self.asks == 0 => self.due = now.plus(limits.grace),
            None => {}
        }
    }

    /// The pending ask is over. The next one follows at once, or after a pause if this one brought nothing.
    pub(super) fn ended(&mut self, now: Millis) {
        let Some(pending) = self.pending.take() else { return };
        (self.due, self.unanswered, self.routers_busy) = (now, 0, false);
        if !pending.moved {
            self.pause(now);
            self.failed_for = self.failed_for.saturating_add(self.due.since(pending.since));
        }
    }

    /// The router that was asked is too busy.
    pub(super) fn defer(&mut self, now: Millis) {
        if self.pending.take().is_some() {
            (self.unanswered, self.routers_busy) = (0, true);
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Millis) {
        self.pauses = self.pauses.saturating_add(1);
        self.due = now.plus(BACKOFF.after(self.pauses));
    }

    /// The pending ask was not answered in time. The next one follows without a pause.
    pub(super) fn late(&mut self, now: Millis) {
        let Some(pending) = self.pending.take() else { return };
        self.routers_busy = false;
        self.failed_for = self.failed_for.saturating_add(now.since(pending.since));
        self.unanswered = self.unanswered.saturating_add(1);
        self.due = now;
    }

    /// The pending ask could not be sent.
    pub(super) fn unsent(&mut self, now: Millis) {
        self.pending = None;
        self.asks = self.asks.saturating_sub(1);
        self.due = now.plus(UNSENT_PAUSE);
    }

    /// Whether asks have failed for too long.
    pub(super) fn has_failed(&self, limits: &RepairLimits) -> bool {
        self.pending.is_none() && self.failed_for >= limits.give_up_after
    }
}
