//! The measurements: latencies from the time at which an event was due, and the processor time and memory of the
//! server's processes, from /proc.

use hdrhistogram::Histogram;
use std::fs;
use std::io;
use std::time::Duration;
use tickwire_node::clock::wall_clock;

use super::scenario::Plan;

/// The longest latency that is recorded. A longer one counts as this.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// The time in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    u64::try_from(wall_clock().as_micros()).unwrap_or(u64::MAX)
}

/// Latencies in nanoseconds, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    /// The measured events; in `slow`, those after readers have stalled.
    pub(crate) all: Histogram<u64>,
    /// The critical ones among them.
    pub(crate) critical: Histogram<u64>,
    /// The events before those.
    pub(crate) before: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = || {
            let bounded = Histogram::new_with_bounds(1_000, LONGEST.as_nanos() as u64, 3);
            bounded.expect("three digits fit between a microsecond and two minutes")
        };
        Self { all: histogram(), critical: histogram(), before: histogram() }
    }

    /// Records an event that came this time after the first one was due.
    pub(crate) fn record(&mut self, plan: &Plan, number: u64, came: Duration) {
        if number < plan.measure_from {
            return;
        }
        let latency = (came.as_nanos() as u64).saturating_sub(plan.schedule.due_ns(number));
        if number < plan.split {
            self.before.saturating_record(latency);
            return;
        }
        self.all.saturating_record(latency);
        if plan.draw.class(number).is_critical() {
            self.critical.saturating_record(latency);
        }
    }

    /// Adds other records.
    pub(crate) fn join(&mut self, other: &Self) {
        self.all += &other.all;
        self.critical += &other.critical;
        self.before += &other.before;
    }
}

/// The cost of a process so far, with all of its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on a processor, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Memory in use, in bytes.
    pub(crate) rss: u64,
}

/// Reads the cost of a process. The kernel rounds times to a hundredth of a second, mostly.
pub(crate) fn usage(pid: u32) -> io::Result<Usage> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid} does not read as expected"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let clock_ticks = parse_clock_ticks(&stat).ok_or_else(odd)?;
    let cpu = Duration::from_secs_f64(clock_ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    Ok(Usage { cpu, rss: parse_rss(&status).ok_or_else(odd)? })
}

/// `utime` and `stime` together, in clock ticks: the 14th and 15th field of proc_pid_stat(5). The second field is a
/// name that may hold spaces.
fn parse_clock_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// `VmRSS` in bytes.
fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Numbers, Scenario};

    #[test]
    fn latency_counts_from_the_planned_time_of_an_event() {
        let numbers = Numbers { seconds: Some(10), ..Numbers::small(1, 100.0) };
        let plan = Plan::new(Scenario::Slow, numbers);
        let mut latencies = Latencies::new();
        // Due at 0 s, 3 s and 8 s: the first is not measured, and between the others the readers stall.
        for (number, late_ms) in [(0, 5), (300, 20), (800, 50)] {
            let due = Duration::from_nanos(plan.schedule.due_ns(number));
            latencies.record(&plan, number, due + Duration::from_millis(late_ms));
        }
        let about = |histogram: &Histogram<u64>| (histogram.len(), (histogram.max() as f64 / 1e6).round());
        assert_eq!((about(&latencies.before), about(&latencies.all)), ((1, 20.0), (1, 50.0)));
    }

    #[test]
    fn processor_time_and_memory_are_read_from_proc() {
        let stat = "7 (a) b c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 100 1000 200";
        assert_eq!(parse_clock_ticks(stat), Some(300));
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t9\n"), Some(2_097_152));
        assert!(usage(std::process::id()).unwrap().rss > 100_000);
        assert!(usage(u32::MAX).is_err());
    }
}
