//! Decides when clients are notified that the gateway gets no new events, for any reason. Pure: the clock is passed in.

use std::fmt;

use tickwire_core::coverage::{Coverage, Weight};
use tickwire_core::ids::{Millis, Partition};
use tickwire_core::protocol::codes::NoticeCode;

/// How long NATS may be disconnected before clients are notified, in milliseconds. Most breaks are shorter, and the
/// gaps are repaired without a notice.
pub(crate) const AWAY_MS: u64 = 1_000;

/// How long the routers may take to report every partition to a gateway that has just started, in milliseconds.
const BEGIN_MS: u64 = 3_000;

/// How much later than planned a partition heartbeat may be reported, in milliseconds: the partition gets a new owner,
/// or a node is busy.
const LATE_MS: u64 = 1_000;

/// How long a gap may stay open, in milliseconds. The events after it wait for it.
const STUCK_MS: u64 = 10_000;

/// Why clients do not get new events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outage {
    /// There is no connection to NATS.
    Disconnected,
    /// Routers report that events cannot be stored. They also send the reason as text.
    NotStored,
    /// No router has ever reported anything of these partitions.
    NeverReported(Partitions),
    /// No router has reported anything of these for this many milliseconds, although their heartbeats are due.
    Silent(Partitions, u64),
    /// The same for all partitions, which are so many.
    AllSilent(usize, u64),
    /// These have a gap, and no router closes it.
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

/// What NATS does for this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NatsState {
    /// Whether there is a connection.
    pub(super) is_connected: bool,
    /// Whether events are stored.
    pub(super) is_stored: bool,
}

/// When something of every partition is due, even without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeartbeatTiming {
    /// The interval of partition heartbeats, in milliseconds.
    pub(super) interval: u64,
    /// The delay with which routers report them, in milliseconds.
    pub(super) report_delay: u64,
}

impl Outage {
    /// The outage now, if there is one. Time before `since` does not count.
    pub(super) fn of<E: Weight>(
        now: Millis,
        nats: NatsState,
        coverage: &Coverage<E>,
        heartbeats: HeartbeatTiming,
        since: Millis,
    ) -> Option<Self> {
        if !nats.is_connected {
            return Some(Self::Disconnected);
        }
        // If nothing is stored, that explains all other outages.
        if !nats.is_stored {
            return Some(Self::NotStored);
        }
        if let Some(partitions) = Partitions::of(coverage.never_reported()) {
            return Some(Self::NeverReported(partitions));
        }
        // If all are silent, no router is left. A single one may be moving to another router, so it gets longer.
        let before = |ms: u64| now.0.checked_sub(ms).filter(|before| since.0 <= *before).map(Millis);
        let silent = |ms: u64| Some((Partitions::of(coverage.silent(before(ms)?))?, ms));
        let HeartbeatTiming { interval, report_delay } = heartbeats;
        let all = silent(interval + report_delay + LATE_MS)
            .filter(|(partitions, _)| partitions.count() == coverage.partitions());
        if let Some((partitions, ms)) = all.or_else(|| silent(2 * interval + report_delay + LATE_MS)) {
            return Some(match partitions.count() {
                count if count == coverage.partitions() => Self::AllSilent(count, ms),
                _ => Self::Silent(partitions, ms),
            });
        }
        Partitions::of(coverage.stuck(before(STUCK_MS)?)).map(Self::Stuck)
    }

    /// The number of partitions of which no router reports anything.
    pub(super) fn silent(&self) -> usize {
        match self {
            Self::NeverReported(partitions) | Self::Silent(partitions, _) => partitions.count(),
            Self::AllSilent(count, _) => *count,
            Self::Disconnected | Self::NotStored | Self::Stuck(_) => 0,
        }
    }

    /// How long it may last before clients are notified.
    fn grace(&self) -> u64 {
        match self {
            Self::Disconnected => AWAY_MS,
            Self::NeverReported(_) => BEGIN_MS,
            // These have already lasted: routers report `NotStored` late, and the others have deadlines of their own.
            Self::NotStored | Self::Silent(..) | Self::AllSilent(..) | Self::Stuck(_) => 0,
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("no connection to NATS"),
            Self::NotStored => f.write_str("NATS does not store events"),
            Self::NeverReported(partitions) => {
                write!(f, "no router has reported {partitions} yet: is a router running, and can it read the stream?")
            }
            Self::Silent(partitions, ms) => write!(f, "no coverage of {partitions} for more than {} s", ms / 1_000),
            Self::AllSilent(count, ms) => {
                let seconds = ms / 1_000;
                write!(
                    f,
                    "no coverage of any of {count} partitions for more than {seconds} s: is a router running, and can it \
                     write to the stream?"
                )
            }
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

/// Which outage clients were notified of.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    /// Since when there is an outage, and how long it may last before clients are notified.
    outage: Option<(Millis, u64)>,
    notified: bool,
    /// Since when NATS is connected and stores events.
    open_since: Option<Millis>,
}

impl Upstream {
    /// Since when silence counts. Silence while NATS was disconnected says nothing about the routers, so it does not
    /// count. After clients were notified of an outage all silence counts, so that its end is sent only when all
    /// partitions are reported again.
    pub(super) fn silence_since(&mut self, now: Millis, nats: NatsState) -> Millis {
        if !(nats.is_connected && nats.is_stored) {
            self.open_since = None;
            return now;
        }
        let since = *self.open_since.get_or_insert(now);
        if self.notified { Millis(0) } else { since }
    }

    /// Takes the outage of now, and returns the notice for clients, if one is due.
    pub(super) fn update(&mut self, now: Millis, outage: Option<Outage>) -> Option<NoticeCode> {
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

    /// When to check again, if nothing changes.
    pub(super) fn next_check(&self) -> Option<Millis> {
        self.outage.filter(|_| !self.notified).map(|(since, grace)| since.plus(grace))
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
