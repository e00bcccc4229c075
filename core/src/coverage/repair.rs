//! The repair of one gap: when it is next asked for, and when to give up.
//!
//! An ask that brings nothing is made again: at once if it was not answered in time, after a growing pause if it was
//! refused or put off. It is given up when asking has brought nothing for a long time, in which only asks count that
//! were sent and got no help: not those that a busy router put off, nor those that could not be sent. Whatever moves the
//! partition on starts the counting anew.

use super::RepairLimits;
use crate::backoff::Backoff;
use crate::ids::{EpochId, Millis, Partition, Revision, Seq};

/// The pauses after refusals.
const BACKOFF: Backoff = Backoff { first: 50, most: 2_000 };

/// The pause after an ask that could not be sent, in milliseconds.
const UNSENT_PAUSE: u64 = 100;

/// What is to be asked of the routers: the range `(from, to]` of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Tells the answers to this ask from those to others.
    pub number: u64,
    /// The partition.
    pub partition: Partition,
    /// The life of the stream that the sequences belong to.
    pub epoch_id: EpochId,
    /// The range starts after this sequence.
    pub from: Seq,
    /// The range ends with this sequence.
    pub to: Seq,
    /// How many asks for it in a row, just before this one, were not answered in time: the router may be dead.
    pub unanswered: u32,
}

/// A gap that was asked for, and that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The partition.
    pub partition: Partition,
    /// Where the partition stood when the gap was seen.
    pub from: Seq,
    /// Where it stands now.
    pub through: Seq,
    /// How long it was open, in milliseconds.
    pub lasted: u64,
    /// How often it was asked for.
    pub asks: u32,
}

/// A gap that is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repair {
    /// Where the partition stood when the gap was seen.
    pub(super) from: Seq,
    pub(super) since: Millis,
    /// How often it was asked for.
    pub(super) asks: u32,
    /// When it last moved on; at first when it was seen.
    pub(super) moved: Millis,
    /// How long asking has brought nothing, in milliseconds.
    vain: u64,
    /// How often in a row that was not answered in time.
    unanswered: u32,
    /// Whether the last that was asked was too busy with others.
    pub(super) crowded: bool,
    /// How many pauses there were since something came.
    pauses: u32,
    /// When it is next asked for, unless it is being answered.
    due: Millis,
    asked: Option<PendingAsk>,
}

/// An ask under way.
#[derive(Clone, Copy, Debug)]
struct PendingAsk {
    number: u64,
    /// What the answer is matched against, at least.
    revision: Revision,
    since: Millis,
    deadline: Millis,
    /// Whether anything came of it.
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
            vain: 0,
            unanswered: 0,
            crowded: false,
            pauses: 0,
            due,
            asked: None,
        }
    }

    pub(super) fn is_asked(&self, number: u64) -> bool {
        self.asked.is_some_and(|asked| asked.number == number)
    }

    /// When it is to be asked for; `None` while it is being answered.
    pub(super) fn due(&self) -> Option<Millis> {
        self.asked.is_none().then_some(self.due)
    }

    /// How many asks in a row, to the last one, were not answered in time.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// When the ask under way is given up.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.asked.map(|asked| asked.deadline)
    }

    /// The revision that the answer under way is matched against, at least.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.asked.map(|asked| asked.revision)
    }

    /// It is being asked for.
    pub(super) fn ask(&mut self, now: Millis, number: u64, revision: Revision, limits: &RepairLimits) {
        self.asks = self.asks.saturating_add(1);
        let deadline = now.plus(limits.replay_timeout);
        self.asked = Some(PendingAsk { number, revision, since: now, deadline, moved: false });
    }

    /// The partition has moved on, and something is still missing.
    pub(super) fn moved(&mut self, now: Millis, limits: &RepairLimits) {
        (self.moved, self.vain, self.unanswered, self.pauses) = (now, 0, 0, 0);
        self.crowded = false;
        match &mut self.asked {
            Some(asked) => {
                (asked.deadline, asked.moved) = (now.plus(limits.replay_timeout), true);
            }
            // What was seen behind a gap that closed by itself may close by itself as well.
            None if self.asks == 0 => self.due = now.plus(limits.grace),
            None => {}
        }
    }

    /// The ask under way is over, and what is missing is asked for next: after a pause if it brought nothing.
    pub(super) fn ended(&mut self, now: Millis) {
        let Some(asked) = self.asked.take() else { return };
        (self.due, self.unanswered, self.crowded) = (now, 0, false);
        if !asked.moved {
            self.pause(now);
            self.vain = self.vain.saturating_add(self.due.since(asked.since));
        }
    }

    /// The router that was asked has no time for it, and says so.
    pub(super) fn put_off(&mut self, now: Millis) {
        if self.asked.take().is_some() {
            (self.unanswered, self.crowded) = (0, true);
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Millis) {
        self.pauses = self.pauses.saturating_add(1);
        self.due = now.plus(BACKOFF.after(self.pauses));
    }

    /// The ask under way was not answered in time, which was pause enough.
    pub(super) fn late(&mut self, now: Millis) {
        let Some(asked) = self.asked.take() else { return };
        self.crowded = false;
        self.vain = self.vain.saturating_add(now.since(asked.since));
        self.unanswered = self.unanswered.saturating_add(1);
        self.due = now;
    }

    /// The ask under way could not be sent.
    pub(super) fn unsent(&mut self, now: Millis) {
        self.asked = None;
        self.asks = self.asks.saturating_sub(1);
        self.due = now.plus(UNSENT_PAUSE);
    }

    /// Whether asking has brought nothing for too long.
    pub(super) fn is_hopeless(&self, limits: &RepairLimits) -> bool {
        self.asked.is_none() && self.vain >= limits.give_up_after
    }
}
