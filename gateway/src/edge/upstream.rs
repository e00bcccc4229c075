//! Whether clients are told that the cluster does not reach this gateway, for whatever reason. Pure: the clock is passed
//! in.

use std::fmt;

use tickwire_core::coverage::{Coverage, Weight};
use tickwire_core::ids::{Millis, Partition};
use tickwire_core::protocol::codes::NoticeCode;

/// How long NATS may be away before clients are told, in milliseconds: most breaks are over sooner, and what was missed
/// is repaired without a word.
const AWAY_MS: u64 = 1_000;

/// How long the routers may take to tell a gateway that has just started of every partition, in milliseconds.
const BEGIN_MS: u64 = 3_000;

/// How much later than routers mean to tell of a tick that may come, in milliseconds: a new owner begins, a node is busy.
const LATE_MS: u64 = 1_000;

/// How long what is missing may take to come, in milliseconds. What follows it waits for it.
const STUCK_MS: u64 = 10_000;

/// Why clients are not given what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outage {
    /// There is no connection to NATS.
    Disconnected,
    /// Routers say that events cannot be stored; why, they say in words.
    NotStored,
    /// No router has ever told anything of these partitions.
    Unheard(Partitions),
    /// No router has told anything of these for so many milliseconds, though their ticks are due.
    Silent(Partitions, u64),
    /// Something of these is missing, and no router gives it.
    Stuck(Partitions),
}

/// Some partitions: the first, and how many more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partitions {
    first: Partition,
    others: usize,
}

impl Partitions {
    fn of(mut partitions: impl Iterator<Item = Partition>) -> Option<Self> {
        let first = partitions.next()?;
        Some(Self { first, others: partitions.count() })
    }

    fn count(self) -> usize {
        self.others + 1
    }
}

impl Outage {
    /// What is wrong now, if anything is. Every partition has a tick every `heartbeat` milliseconds, of which its router tells
    /// within `notified` more. What does not come is waited for from `since` on.
    pub(super) fn of<E: Weight>(
        now: Millis,
        (connected, is_stored): (bool, bool),
        coverage: &Coverage<E>,
        (heartbeat, notified): (u64, u64),
        since: Millis,
    ) -> Option<Self> {
        if !connected {
            return Some(Self::Disconnected);
        }
        // It explains what else is wrong.
        if !is_stored {
            return Some(Self::NotStored);
        }
        if let Some(partitions) = Partitions::of(coverage.unheard()) {
            return Some(Self::Unheard(partitions));
        }
        // Where all are silent, no router is left. One alone may be on its way from one router to another.
        let before = |ms: u64| now.0.checked_sub(ms).filter(|before| since.0 <= *before).map(Millis);
        let silent = |ms: u64| Some((Partitions::of(coverage.silent(before(ms)?))?, ms));
        let all = silent(heartbeat + notified + LATE_MS)
            .filter(|(partitions, _)| partitions.count() == coverage.partitions());
        if let Some((partitions, ms)) = all.or_else(|| silent(2 * heartbeat + notified + LATE_MS)) {
            return Some(Self::Silent(partitions, ms));
        }
        Partitions::of(coverage.stuck(before(STUCK_MS)?)).map(Self::Stuck)
    }

    /// How many partitions of which no router tells anything.
    pub(super) fn silent(&self) -> usize {
        match self {
            Self::Unheard(partitions) | Self::Silent(partitions, _) => partitions.count(),
            Self::Disconnected | Self::NotStored | Self::Stuck(_) => 0,
        }
    }

    /// How long it may last before clients are told.
    fn grace(&self) -> u64 {
        match self {
            Self::Disconnected => AWAY_MS,
            Self::Unheard(_) => BEGIN_MS,
            // Routers have made sure of it before they say so.
            Self::NotStored | Self::Silent(..) | Self::Stuck(_) => 0,
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("no connection to NATS"),
            Self::NotStored => f.write_str("NATS does not store events"),
            Self::Unheard(partitions) => {
                write!(f, "no router has reported {partitions} yet: is a router running, and can it read the stream?")
            }
            Self::Silent(partitions, ms) => write!(f, "no coverage of {partitions} for more than {} s", ms / 1_000),
            Self::Stuck(partitions) => write!(f, "{partitions} incomplete, and no router gives what is missing"),
        }
    }
}

impl fmt::Display for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}", self.first)?;
        match self.others {
            0 => Ok(()),
            others => write!(f, " and {others} more"),
        }
    }
}

/// What clients know of it.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    /// Since when there is an outage, and how long it may last before clients are told.
    outage: Option<(Millis, u64)>,
    notified: bool,
    /// Since when there is a way for events to come: NATS is there, and stores them.
    open_since: Option<Millis>,
}

impl Upstream {
    /// From when on is waited for what does not come. What came last before NATS was away says nothing of the routers;
    /// but clients that know of an outage are told of its end when all of it is over.
    pub(super) fn waits_since(&mut self, now: Millis, (connected, is_stored): (bool, bool)) -> Millis {
        if !(connected && is_stored) {
            self.open_since = None;
            return now;
        }
        let since = *self.open_since.get_or_insert(now);
        if self.notified { Millis(0) } else { since }
    }

    /// Takes what is wrong now, and gives what clients are to be told.
    pub(super) fn see(&mut self, now: Millis, outage: Option<Outage>) -> Option<NoticeCode> {
        let Some(outage) = outage else {
            self.outage = None;
            return std::mem::take(&mut self.notified).then_some(NoticeCode::UpstreamRestored);
        };
        let since = self.outage.map_or(now, |(since, _)| since);
        self.outage = Some((since, outage.grace()));
        if self.notified || now.since(since) < outage.grace() {
            return None;
        }
        self.notified = true;
        Some(NoticeCode::UpstreamLost)
    }

    /// When to look again, if nothing changes.
    pub(super) fn next_look(&self) -> Option<Millis> {
        self.outage.filter(|_| !self.notified).map(|(since, grace)| since.plus(grace))
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
