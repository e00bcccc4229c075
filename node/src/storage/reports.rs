//! The storage problems that all routers report, as this node has received them: for its readiness, its metrics, its
//! log, and the clients of a gateway.

use crate::admin::Check;
use crate::clock::Clock;
use crate::link::{Link, LinkError, LinkSubscriber};
use crate::metrics;
use crate::names;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::placement::Role;
use tickwire_core::storage::{StorageFault, StorageProblem, StorageReport};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How long a report is valid, in milliseconds: three report intervals.
const VALID_MS: u64 = 3_000;

/// How many routers are recorded, how many problems of each, and how many bytes of each text of a problem.
const ROUTERS: usize = 1_000;
const TROUBLES: usize = 8;
const TEXT: usize = 512;

/// How many bytes of reports may wait.
const BYTES: usize = 256 * 1024;

/// How often expired reports are looked for.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The reports. Pure.
#[derive(Debug, Default)]
pub struct StorageReports {
    reports: BTreeMap<NodeRef, (Millis, Vec<StorageProblem>)>,
}

impl StorageReports {
    /// Records a router's report.
    pub fn record(&mut self, now: Millis, report: StorageReport) {
        self.reports.retain(|_, (at, _)| now.since(*at) < VALID_MS);
        let StorageReport { router, mut troubles } = report;
        troubles.truncate(TROUBLES);
        for trouble in &mut troubles {
            for text in [&mut trouble.text, &mut trouble.stream] {
                text.truncate(text.floor_char_boundary(TEXT));
                // Without this the cut text would stay in memory.
                text.shrink_to_fit();
            }
        }
        if troubles.is_empty() {
            self.reports.remove(&router);
        } else if self.reports.len() < ROUTERS || self.reports.contains_key(&router) {
            self.reports.insert(router, (now, troubles));
        }
    }

    /// The current problems: one of each fault of each stream; first those that stop events, then by severity.
    pub fn troubles(&self, now: Millis) -> Vec<&StorageProblem> {
        let fresh = self.reports.values().filter(|(at, _)| now.since(*at) < VALID_MS);
        let mut troubles: Vec<&StorageProblem> = fresh.flat_map(|(_, troubles)| troubles).collect();
        troubles.sort_by(|one, other| rank(one).cmp(&rank(other)));
        troubles.dedup_by(|one, other| rank(one) == rank(other));
        troubles
    }
}

/// The sort order: problems that stop events first, then by severity.
fn rank(trouble: &StorageProblem) -> (bool, StorageFault, &str) {
    (!trouble.stops_events, trouble.fault, &trouble.stream)
}

/// Why NATS does not store events, in one line, while that lasts.
pub type Stopped = Option<Arc<str>>;

/// Subscribes to the reports.
///
/// # Errors
/// When this node may not subscribe.
pub fn subscribe(link: &Link) -> Result<LinkSubscriber, LinkError> {
    link.subscribe("storage", names::STORAGE, None, BYTES)
}

/// Collects reports, and informs the rest of the node, until `stop` is cancelled. A gateway is ready as long as events
/// arrive, whatever the state of the routers' buckets is.
pub async fn listen(
    mut inlet: LinkSubscriber,
    role: Role,
    check: Check,
    stopped: watch::Sender<Stopped>,
    stop: CancellationToken,
) {
    let (clock, mut board, mut known) = (Clock::start(), StorageReports::default(), BTreeMap::new());
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = clock.now();
        let troubles = board.troubles(now);
        log(now, &mut known, &troubles);
        for fault in StorageFault::ALL {
            let streams = troubles.iter().filter(|trouble| trouble.fault == fault).count();
            metrics::STORAGE_TROUBLES.with(fault.as_str()).set(streams as f64);
        }
        let matters = |trouble: &&&StorageProblem| {
            trouble.stops_events || role == Role::Router && trouble.fault != StorageFault::Replicas
        };
        let mut unmet = troubles.iter().filter(matters);
        match (unmet.next(), unmet.count()) {
            (None, _) => check.ok(),
            (Some(worst), 0) => check.missing(worst.text.clone()),
            (Some(worst), more) => check.missing(format!("{} (and {more} more)", worst.text)),
        }
        let first = troubles.first().filter(|trouble| trouble.stops_events);
        let text: Stopped = first.map(|trouble| trouble.text.as_str().into());
        stopped.send_if_modified(|current| std::mem::replace(current, text.clone()) != text);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = checks.tick() => {}
            message = inlet.next() => {
                let Some(message) = message else { return };
                match wire::decode(message.payload()) {
                    Ok(report) => board.record(clock.now(), report),
                    Err(error) => {
                        metrics::STORAGE_REPORTS_REFUSED.increment(1);
                        debug!(%error, "unreadable storage report refused");
                    }
                }
            }
        }
    }
}

/// Logs the beginning and the end of each problem once.
fn log(now: Millis, known: &mut BTreeMap<(String, StorageFault), Millis>, troubles: &[&StorageProblem]) {
    for StorageProblem { stream, fault, text, .. } in troubles {
        known.entry((stream.clone(), *fault)).or_insert_with(|| {
            warn!(stream, fault = fault.as_str(), reason = text, "trouble with the storage of NATS");
            now
        });
    }
    known.retain(|(stream, fault), since| {
        let lasts = troubles.iter().any(|trouble| trouble.stream == *stream && trouble.fault == *fault);
        if !lasts {
            let seconds = now.since(*since) / 1_000;
            info!(stream, fault = fault.as_str(), seconds, "storage of NATS recovered");
        }
        lasts
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};

    fn report(router: &str, troubles: &[(&str, StorageFault, bool)]) -> StorageReport {
        let trouble = |(stream, fault, stops_events): &(&str, StorageFault, bool)| StorageProblem {
            stream: (*stream).to_owned(),
            fault: *fault,
            stops_events: *stops_events,
            text: format!("{router}: {stream}"),
        };
        let router = NodeRef { id: NodeId::new(router).unwrap(), nonce: Nonce(1) };
        StorageReport { router, troubles: troubles.iter().map(trouble).collect() }
    }

    fn faults(board: &StorageReports, now: u64) -> Vec<(String, StorageFault)> {
        board.troubles(Millis(now)).iter().map(|trouble| (trouble.stream.clone(), trouble.fault)).collect()
    }

    #[test]
    fn report_holds_until_its_router_withdraws_it_or_is_silent() {
        let mut board = StorageReports::default();
        board.record(Millis(0), report("r1", &[("EVENTS", StorageFault::Sealed, true)]));
        board.record(
            Millis(500),
            report("r2", &[("L", StorageFault::Missing, false), ("EVENTS", StorageFault::Sealed, true)]),
        );
        let both = [("EVENTS".to_owned(), StorageFault::Sealed), ("L".to_owned(), StorageFault::Missing)];
        assert_eq!(faults(&board, 2_999), both);
        board.record(Millis(3_000), report("r1", &[]));
        assert_eq!(faults(&board, 3_499), both);
        assert_eq!(faults(&board, 3_500), []);
        board.record(Millis(4_000), report("r1", &[("EVENTS", StorageFault::Full, true)]));
        assert_eq!(faults(&board, 4_000), [("EVENTS".to_owned(), StorageFault::Full)]);
        board.record(Millis(4_001), report("r1", &[]));
        assert_eq!(faults(&board, 4_001), []);
    }

    #[test]
    fn number_and_size_of_reported_problems_are_bounded() {
        let mut board = StorageReports::default();
        let mut long = report("r1", &[("EVENTS", StorageFault::Full, true); 100]);
        for trouble in &mut long.troubles {
            (trouble.text, trouble.stream) = ("ä".repeat(10_000), "ä".repeat(100_000));
        }
        board.record(Millis(0), long);
        let (_, kept) = board.reports.values().next().unwrap();
        assert_eq!(kept.len(), TROUBLES);
        for text in kept.iter().flat_map(|trouble| [&trouble.text, &trouble.stream]) {
            assert_eq!((text.len(), text.capacity() <= 2 * TEXT), (TEXT, true));
        }
        for number in 0..2 * ROUTERS {
            board.record(Millis(1), report(&format!("x{number}"), &[("EVENTS", StorageFault::Full, true)]));
        }
        assert_eq!(board.reports.len(), ROUTERS);
    }
}
