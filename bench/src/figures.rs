//! The figures of a run, computed from what was measured, and the check whether they count.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

use super::oracle::{Difference, EventTally};
use super::scenario::Plan;
use super::sockets::{Harvest, Received};
use super::through::Through;

/// The time that is measured.
#[derive(Debug, Clone)]
pub(crate) struct Interval {
    pub(crate) length: Duration,
    /// Events that came to all sockets.
    pub(crate) events: u64,
    /// Processor time of each process, that of all gateways together.
    pub(crate) cpu: BTreeMap<&'static str, Duration>,
    /// Events that came to each gateway from the routers.
    pub(crate) intake: Vec<u64>,
    /// What the route caches of the routers did; `None` without such routers.
    pub(crate) route_cache: Option<RouteCacheFigures>,
}

/// What the route caches of all routers did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct RouteCacheFigures {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) evictions: u64,
    /// The decisions in them at the end.
    pub(crate) entries: u64,
}

/// What is known of a run beside what its sockets counted.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) through: Through,
    /// From the first connection to the last confirmation.
    pub(crate) connecting: Duration,
    /// Memory of the server without sockets, with them, and after the load, in bytes.
    pub(crate) rss: [u64; 3],
    pub(crate) interval: Interval,
    /// By how much the latest event was sent late.
    pub(crate) late: Duration,
    /// What came to all sockets, from the first event on.
    pub(crate) received: Received,
    /// How often the server wrote to sockets meanwhile.
    pub(crate) sends: u64,
    /// The counters at the end, of all gateways together.
    pub(crate) metrics: BTreeMap<String, f64>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// What stalled readers did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Slow {
    pub(crate) stalled: u64,
    /// Those that read a notice, a gap or a close code.
    pub(crate) notified: u64,
    /// Those that the gateway closed, by its metrics, but that did not read the close code: they read again too late.
    pub(crate) closed_unread: u64,
    /// Those that got everything in the end, so that there was nothing to notify them of.
    pub(crate) complete: u64,
    /// The latency of all others before.
    pub(crate) before: Option<Percentiles>,
    /// The 99th percentile of all others with stalled readers, by that without.
    pub(crate) p99_ratio: Option<f64>,
    /// What the server's memory grew by.
    pub(crate) rss_growth: u64,
}

/// A run in numbers.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) through: Through,
    pub(crate) sockets: u32,
    pub(crate) connects_per_second: f64,
    pub(crate) published: u64,
    /// The time that is measured, as it was.
    pub(crate) seconds: f64,
    pub(crate) deliveries_per_second: f64,
    /// Deliveries that the oracle demands, over the whole run.
    pub(crate) expected: u64,
    pub(crate) lost: u64,
    pub(crate) extra: u64,
    /// Sockets that got the right number of events, but not the right ones.
    pub(crate) mixed_up: u64,
    /// What the gateway itself counts as dropped, conflated, throttled or missing.
    pub(crate) dropped: u64,
    /// Sockets that ended before the run did.
    pub(crate) closed: u64,
    /// Why the first of them did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_close: Option<String>,
    pub(crate) latency_ms: Option<Percentiles>,
    pub(crate) critical_latency_ms: Option<Percentiles>,
    /// Processor seconds of the process that holds the sockets; `None` without deliveries.
    pub(crate) cpu_per_million: Option<f64>,
    /// Events a second that came to each gateway from the routers.
    pub(crate) intake_per_second: Vec<f64>,
    /// Their mean; `None` where there is no gateway.
    pub(crate) intake_mean: Option<f64>,
    /// What the route caches of the routers did in the time that is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route_cache: Option<RouteCacheFigures>,
    /// Processor seconds of each process, and of the generator, in the time that is measured.
    pub(crate) cpu_seconds: BTreeMap<&'static str, f64>,
    pub(crate) rss_per_socket: f64,
    pub(crate) bytes_per_event: Option<f64>,
    pub(crate) frames_per_delivery: Option<f64>,
    pub(crate) sends_per_delivery: Option<f64>,
    /// By how much the latest event was sent late; part of the latencies.
    pub(crate) sent_late_ms: f64,
    /// Frames without events that came meanwhile, by type.
    pub(crate) other_frames: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) churned: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow: Option<Slow>,
}

impl RouteCacheFigures {
    /// What was done after an earlier time.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(earlier.hits),
            misses: self.misses.saturating_sub(earlier.misses),
            evictions: self.evictions.saturating_sub(earlier.evictions),
            entries: self.entries,
        }
    }

    /// The share of the lookups that found a decision, in percent; `None` if there were no lookups.
    pub(crate) fn hit_percent(self) -> Option<f64> {
        ratio(self.hits as f64 * 100.0, self.hits + self.misses)
    }
}

impl Percentiles {
    /// `None` of nothing.
    pub(crate) fn of(nanoseconds: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1e6;
        let max = nanoseconds.max() as f64 / 1e6;
        (!nanoseconds.is_empty()).then(|| Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max })
    }
}

impl Figures {
    /// The numbers of a run, from what each socket should have got and what came.
    pub(crate) fn of(plan: &Plan, expected: &[EventTally], harvest: &Harvest, measured: &Measured) -> Self {
        let Measured { through, interval, received, metrics, .. } = measured;
        let steady = || harvest.ends.iter().filter(|end| !plan.stalls(end.number));
        let wanted = |socket: u32| expected.get(socket as usize).copied().unwrap_or_default();
        let mut difference = Difference::default();
        steady().for_each(|end| difference.compare(wanted(end.number), end.tally));
        let Difference { lost, extra, mixed_up } = difference;
        let cpu_seconds: BTreeMap<_, _> = interval.cpu.iter().map(|(name, cpu)| (*name, cpu.as_secs_f64())).collect();
        let cpu = cpu_seconds.get(through.under_test()).copied().unwrap_or_default();
        let (churn_lost, churn_reason) = &harvest.churn_lost;
        let reason = steady().find_map(|end| end.lost.as_ref()).or(churn_reason.as_ref());
        let [empty, connected, _] = measured.rss;
        let intake: Vec<f64> =
            interval.intake.iter().map(|events| *events as f64 / interval.length.as_secs_f64()).collect();
        Self {
            through: *through,
            sockets: plan.sockets,
            connects_per_second: f64::from(plan.sockets) / measured.connecting.as_secs_f64(),
            published: plan.schedule.total(),
            seconds: interval.length.as_secs_f64(),
            deliveries_per_second: interval.events as f64 / interval.length.as_secs_f64(),
            expected: steady().map(|end| wanted(end.number).events).sum(),
            lost,
            extra,
            mixed_up,
            dropped: metrics.iter().filter(|(name, _)| is_drop(name)).map(|(_, count)| *count as u64).sum(),
            closed: steady().filter(|end| end.lost.is_some()).count() as u64 + churn_lost,
            first_close: reason.map(ToString::to_string),
            latency_ms: Percentiles::of(&harvest.latencies.all),
            critical_latency_ms: Percentiles::of(&harvest.latencies.critical),
            cpu_per_million: ratio(cpu * 1e6, interval.events),
            intake_mean: ratio(intake.iter().sum(), intake.len() as u64),
            intake_per_second: intake,
            route_cache: interval.route_cache,
            cpu_seconds,
            rss_per_socket: connected.saturating_sub(empty) as f64 / f64::from(plan.sockets),
            bytes_per_event: ratio(received.bytes as f64, received.events),
            frames_per_delivery: ratio(received.frames as f64, received.events),
            sends_per_delivery: ratio(measured.sends as f64, received.events),
            sent_late_ms: measured.late.as_secs_f64() * 1e3,
            other_frames: harvest.other_frames.clone(),
            churned: harvest.churned,
            slow: plan.stall_at().map(|_| Slow::of(plan, expected, harvest, measured)),
        }
    }

    /// Why this run does not count; `None` if it does.
    pub(crate) fn fault(&self) -> Option<String> {
        let Self { lost, extra, mixed_up, dropped, closed, .. } = self;
        let mut faults = Vec::new();
        if *lost + extra + mixed_up > 0 {
            faults.push(format!(
                "{lost} deliveries are lost and {extra} too many, of {}; {mixed_up} sockets got others than theirs",
                self.expected
            ));
        }
        match &self.slow {
            None if *dropped > 0 => faults.push(format!("the gateway counts {dropped} events dropped or missing")),
            Some(slow) if slow.notified + slow.closed_unread + slow.complete < slow.stalled => {
                let (notified, closed) = (slow.notified, slow.closed_unread);
                faults.push(format!(
                    "of {} stalled readers only {notified} were notified and {closed} closed",
                    slow.stalled
                ));
            }
            _ => {}
        }
        if *closed > 0 {
            let reason = self.first_close.as_deref().unwrap_or("unknown");
            faults.push(format!("{closed} sockets ended early; reason of the first: {reason}"));
        }
        (!faults.is_empty()).then(|| faults.join("; "))
    }
}

impl Slow {
    fn of(plan: &Plan, expected: &[EventTally], harvest: &Harvest, measured: &Measured) -> Self {
        let stalled = || harvest.ends.iter().filter(|end| plan.stalls(end.number));
        let complete = |end: &&super::sockets::SocketEndState| expected.get(end.number as usize) == Some(&end.tally);
        let before = Percentiles::of(&harvest.latencies.before);
        let after = Percentiles::of(&harvest.latencies.all);
        let [_, connected, loaded] = measured.rss;
        let coded = stalled().filter(|end| end.closed_with_code()).count() as u64;
        let cut_off =
            stalled().filter(|end| end.lost.is_some() && !end.warned && !end.closed_with_code()).count() as u64;
        let closes = measured.metrics.get("tickwire_gateway_closes_total").map_or(0, |closes| *closes as u64);
        Self {
            stalled: stalled().count() as u64,
            notified: stalled().filter(|end| end.warned || end.closed_with_code()).count() as u64,
            closed_unread: cut_off.min(closes.saturating_sub(coded)),
            complete: stalled().filter(complete).filter(|end| !end.warned && end.lost.is_none()).count() as u64,
            before,
            p99_ratio: before.zip(after).map(|(before, after)| after.p99 / before.p99),
            rss_growth: loaded.saturating_sub(connected),
        }
    }
}

/// Whether a counter of the gateway counts events that a session did not get.
fn is_drop(metric: &str) -> bool {
    let words = ["dropped_events", "conflated_events", "gaps_notified"];
    metric.starts_with("tickwire_gateway_") && words.iter().any(|word| metric.contains(word))
}

/// `None` where there is nothing to divide by.
fn ratio(amount: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| amount / count as f64)
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::client::Lost;
    use crate::measure::Latencies;
    use crate::scenario::{Numbers, Scenario};
    use crate::sockets::SocketEndState;

    /// 400 sockets of which each should get event 7, except that `lost` did not.
    pub(crate) fn figures(scenario: Scenario, lost: &[u32], cpu_ms: u64) -> Figures {
        let numbers = Numbers { seconds: Some(4), ..Numbers::small(400, 10.0) };
        let plan = Plan::new(scenario, numbers);
        let mut one = EventTally::default();
        one.add(7);
        let end = |number| {
            let gone = lost.contains(&number);
            let tally = if gone { EventTally::default() } else { one };
            SocketEndState { number, tally, lost: gone.then_some(Lost::Closed(4008)), warned: false }
        };
        let mut latencies = Latencies::new();
        for (milliseconds, count) in [(1, 990), (10, 9), (100, 1)] {
            latencies.all.saturating_record_n(milliseconds * 1_000_000, count);
        }
        let ends = (0..400).map(end).collect();
        let harvest = Harvest { ends, latencies, other_frames: BTreeMap::new(), churned: 0, churn_lost: (0, None) };
        let earlier = RouteCacheFigures { hits: 100, misses: 50, evictions: 1, entries: 40 };
        let later = RouteCacheFigures { hits: 850, misses: 300, evictions: 3, entries: 60 };
        let route_cache = Some(later.since(earlier));
        let cpu = BTreeMap::from([("gateway", Duration::from_millis(cpu_ms)), ("router", Duration::from_secs(9))]);
        let measured = Measured {
            through: Through::Gateway,
            connecting: Duration::from_millis(500),
            rss: [10_000_000, 12_000_000, 13_000_000],
            interval: Interval {
                length: Duration::from_secs(4),
                events: 200_000,
                cpu,
                intake: vec![4_000, 2_000],
                route_cache,
            },
            late: Duration::from_micros(300),
            received: Received { events: 400, frames: 100, bytes: 140_000 },
            sends: 110,
            metrics: BTreeMap::from([("tickwire_gateway_dropped_events_total".to_owned(), lost.len() as f64)]),
        };
        Figures::of(&plan, &vec![one; 400], &harvest, &measured)
    }

    #[test]
    fn figures_are_ratios_of_what_was_measured() {
        let figures = figures(Scenario::Selective, &[], 1_200);
        assert_eq!(figures.connects_per_second, 800.0);
        assert_eq!(figures.deliveries_per_second, 50_000.0);
        assert_eq!(figures.cpu_per_million, Some(6.0));
        assert_eq!(figures.rss_per_socket, 5_000.0);
        let per_event = (figures.bytes_per_event, figures.frames_per_delivery, figures.sends_per_delivery);
        assert_eq!(per_event, (Some(350.0), Some(0.25), Some(0.275)));
        assert_eq!((figures.intake_per_second.clone(), figures.intake_mean), (vec![1_000.0, 500.0], Some(750.0)));
        let cache = figures.route_cache.unwrap();
        assert_eq!((cache.hit_percent(), cache.evictions, cache.entries), (Some(75.0), 2, 60));
        let latency = figures.latency_ms.unwrap();
        assert_eq!([latency.p50, latency.p99, latency.p999, latency.max].map(f64::round), [1.0, 1.0, 10.0, 100.0]);
        assert_eq!((figures.expected, figures.fault()), (400, None));
    }

    #[test]
    fn a_run_that_loses_or_drops_does_not_count() {
        let figures = figures(Scenario::Selective, &[3, 4], 1_200);
        assert_eq!((figures.lost, figures.dropped, figures.closed), (2, 2, 2));
        let fault = figures.fault().unwrap();
        for part in ["2 deliveries are lost", "2 events dropped", "2 sockets ended early", "code 4008"] {
            assert!(fault.contains(part), "{part:?} is not in {fault:?}");
        }
    }

    #[test]
    fn stalled_readers_must_be_notified_and_others_must_get_everything() {
        // Every hundredth reader stalls, and these are meant to lose events.
        let notified = figures(Scenario::Slow, &[0, 100, 200, 300], 1_200);
        assert_eq!(notified.fault(), None);
        let slow = notified.slow.unwrap();
        assert_eq!((slow.stalled, slow.notified, slow.complete, slow.rss_growth), (4, 4, 0, 1_000_000));
        let complete = figures(Scenario::Slow, &[0], 1_200);
        assert_eq!((complete.fault(), complete.slow.unwrap().complete), (None, 3));
        assert!(figures(Scenario::Slow, &[1], 1_200).fault().is_some());
    }
}
