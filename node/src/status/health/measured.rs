//! The parts that are measured, graded by their thresholds. What is counted or timed covers the last minute.

use super::{CacheCounters, Grade, HealthPart, RoleLoad, advice, grade};
use crate::admin::{Distribution, Reading};
use crate::config::HealthConfig;
use crate::metrics::Metric;
use std::time::Duration;

/// With fewer values than this a share or a quantile says nothing.
const FEWEST: f64 = 20.0;

/// What to do about times that are too long.
const STAGES: &str = "/v1/stats shows which stage is slow, docs/operations.md (Alerts) what to do";

/// The part of the times that a threshold may not be below.
const SLOWEST: f64 = 0.99;

/// The measured parts of a node between two readings.
pub(super) fn of_load(
    thresholds: &HealthConfig,
    load: &RoleLoad,
    newest: &Reading,
    oldest: &Reading,
) -> Vec<HealthPart> {
    let minute = LastMinute { thresholds, newest, oldest };
    let &RoleLoad { sessions, queue, deliveries, pending, lag, .. } = load;
    let &RoleLoad { filter, route, deliver, total, cache, errors, .. } = load;
    let (filter_times, route_times) = (filter.map(|it| minute.times(it)), route.map(|it| minute.times(it)));
    let (deliver_times, total_times) = (deliver.map(|it| minute.times(it)), total.map(|it| minute.times(it)));
    let HealthConfig { filter_warning, filter_error, route_warning, route_error, .. } = *thresholds;
    let HealthConfig { deliver_warning, deliver_error, .. } = *thresholds;
    let targets = [
        ("filter", filter_times.as_ref(), thresholds.filter_target),
        ("route", route_times.as_ref(), thresholds.route_target),
        ("total", total_times.as_ref(), thresholds.total_target),
    ];
    let targets: Vec<(&str, &Distribution, Duration)> =
        targets.into_iter().filter_map(|(stage, times, target)| Some((stage, times?, target))).collect();
    let parts = [
        sessions.map(|sessions| minute.sessions(sessions)),
        queue.map(|queue| minute.queue(queue)),
        deliveries.map(|(_, dropped)| minute.drops(dropped)),
        deliveries.map(|(delivered, dropped)| minute.success(delivered, dropped)),
        pending.map(|pending| minute.pending(pending)),
        lag.map(|lag| minute.lag(lag)),
        filter_times.as_ref().map(|times| latency("filter", times, filter_warning, filter_error)),
        route_times.as_ref().map(|times| latency("route", times, route_warning, route_error)),
        deliver_times.as_ref().map(|times| latency("deliver", times, deliver_warning, deliver_error)),
        minute.targets(&targets),
        cache.map(|cache| minute.cache(cache)),
        (!errors.is_empty()).then(|| minute.errors(errors)),
    ];
    parts.into_iter().flatten().collect()
}

/// What was measured in the last minute.
struct LastMinute<'a> {
    thresholds: &'a HealthConfig,
    newest: &'a Reading,
    oldest: &'a Reading,
}

impl LastMinute<'_> {
    fn counted(&self, metric: &dyn Metric) -> u64 {
        let name = metric.named().name();
        (self.newest.total(name) - self.oldest.total(name)).max(0.0) as u64
    }

    fn times(&self, metric: &dyn Metric) -> Distribution {
        self.newest.distribution_since(self.oldest, metric.named().name())
    }

    fn sessions(&self, (count, most): (usize, usize)) -> HealthPart {
        let percent = count.saturating_mul(100) / most.max(1);
        let HealthConfig { sessions_warning, sessions_error, .. } = *self.thresholds;
        let status = grade(&percent, &sessions_warning.into(), &sessions_error.into());
        let advice = advice(status, "add gateways, or raise gateway.max_sessions");
        HealthPart { name: "sessions", status, message: format!("{count} of {most} sessions, {percent} %{advice}") }
    }

    fn queue(&self, (bytes, most): (usize, usize)) -> HealthPart {
        let percent = bytes.saturating_mul(100) / most.max(1);
        let HealthConfig { queue_warning, queue_error, .. } = *self.thresholds;
        let status = grade(&percent, &queue_warning.into(), &queue_error.into());
        let advice = advice(status, "a shard is too slow for its sessions: add gateways or processors");
        let message = format!("{percent} % of gateway.shard_bytes wait for the fullest shard{advice}");
        HealthPart { name: "queue", status, message }
    }

    fn drops(&self, dropped: &dyn Metric) -> HealthPart {
        let count = self.counted(dropped);
        let status = grade(&count, &self.thresholds.drops_warning.into(), &self.thresholds.drops_error.into());
        let advice = advice(status, "tickwire_gateway_dropped_events_total has the reasons");
        HealthPart { name: "drops", status, message: format!("{count} events dropped in the last minute{advice}") }
    }

    fn success(&self, delivered: &dyn Metric, dropped: &dyn Metric) -> HealthPart {
        let (delivered, dropped) = (self.counted(delivered) as f64, self.counted(dropped) as f64);
        let all = delivered + dropped;
        if all < FEWEST {
            return too_few("success", all);
        }
        let percent = delivered * 100.0 / all;
        let status = grade_low(percent, self.thresholds.success_warning, self.thresholds.success_error);
        let advice = advice(status, "tickwire_gateway_dropped_events_total has the reasons");
        HealthPart { name: "success", status, message: format!("{percent:.1} % of {all} events delivered{advice}") }
    }

    fn pending(&self, pending: &dyn Metric) -> HealthPart {
        let count = self.newest.total(pending.named().name()).max(0.0) as u64;
        let status = grade(&count, &self.thresholds.pending_warning.into(), &self.thresholds.pending_error.into());
        let advice = advice(status, "add routers, or look at their processors and at NATS");
        HealthPart { name: "pending", status, message: format!("{count} messages wait in the stream{advice}") }
    }

    fn lag(&self, lag: Duration) -> HealthPart {
        let status = grade(&lag, &self.thresholds.lag_warning, &self.thresholds.lag_error);
        let advice = advice(status, "/v1/cluster has the partitions; see the processors of routers and NATS");
        let message = format!("the last message of a partition is {:.1} s old{advice}", lag.as_secs_f64());
        HealthPart { name: "lag", status, message }
    }

    fn errors(&self, errors: &[&dyn Metric]) -> HealthPart {
        let counts = errors.iter().map(|metric| (metric.named().name(), self.counted(*metric)));
        let counts: Vec<(&str, u64)> = counts.filter(|(_, count)| *count > 0).collect();
        let count: u64 = counts.iter().map(|(_, count)| count).sum();
        let status = grade(&count, &self.thresholds.errors_warning.into(), &self.thresholds.errors_error.into());
        let names: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let names = format!("{}; docs/metrics.md explains them", names.join(", "));
        let advice = advice(status, &names);
        let threshold = match status {
            Grade::Healthy => String::new(),
            Grade::Warning => format!(", health.errors_warning is {}", self.thresholds.errors_warning),
            Grade::Error => format!(", health.errors_error is {}", self.thresholds.errors_error),
        };
        HealthPart { name: "errors", status, message: format!("{count} errors in the last minute{threshold}{advice}") }
    }

    fn cache(&self, CacheCounters { hits, misses }: CacheCounters) -> HealthPart {
        let (hits, misses) = (self.counted(hits) as f64, self.counted(misses) as f64);
        let lookups = hits + misses;
        if lookups < FEWEST {
            return too_few("cache", lookups);
        }
        let percent = hits * 100.0 / lookups;
        let status = grade_low(percent, self.thresholds.cache_warning, self.thresholds.cache_error);
        let advice = advice(status, "events repeat less than the cache needs, or rules and interest change too often");
        HealthPart { name: "cache", status, message: format!("{percent:.1} % of {lookups} lookups were hits{advice}") }
    }

    /// The target that is met least often decides; `None` for a node without targets.
    fn targets(&self, targets: &[(&str, &Distribution, Duration)]) -> Option<HealthPart> {
        let most = targets.iter().map(|(_, times, _)| times.count()).max_by(f64::total_cmp)?;
        let measured = targets.iter().filter(|(_, times, _)| times.count() >= FEWEST);
        let shares = measured.map(|(stage, times, target)| {
            let percent = times.share_within(target.as_secs_f64()) * 100.0;
            (percent, *stage, *target)
        });
        let Some((percent, stage, target)) = shares.min_by(|(one, ..), (other, ..)| one.total_cmp(other)) else {
            return Some(too_few("targets", most));
        };
        let status = grade_low(percent, self.thresholds.targets_warning, self.thresholds.targets_error);
        let advice = advice(status, STAGES);
        let threshold = match status {
            Grade::Healthy => String::new(),
            Grade::Warning => format!(", below health.targets_warning, {} %", self.thresholds.targets_warning),
            Grade::Error => format!(", below health.targets_error, {} %", self.thresholds.targets_error),
        };
        let message = format!("{percent:.1} % within health.{stage}_target, {target:?}{threshold}{advice}");
        Some(HealthPart { name: "targets", status, message })
    }
}

/// Times of which nearly all should be below a threshold.
fn latency(name: &'static str, times: &Distribution, warning: Duration, error: Duration) -> HealthPart {
    if times.count() < FEWEST {
        return too_few(name, times.count());
    }
    let is_above = |threshold: Duration| times.share_within(threshold.as_secs_f64()) < SLOWEST;
    let status = match (is_above(warning), is_above(error)) {
        (_, true) => Grade::Error,
        (true, false) => Grade::Warning,
        (false, false) => Grade::Healthy,
    };
    let (count, advice) = (times.count(), advice(status, STAGES));
    let threshold = match status {
        Grade::Healthy => String::new(),
        Grade::Warning => format!(", above health.{name}_warning, {warning:?}"),
        Grade::Error => format!(", above health.{name}_error, {error:?}"),
    };
    let message = match times.quantile(SLOWEST) {
        Some(bound) => {
            let bound = Duration::from_secs_f64(bound);
            format!("99 % of {count} took up to {bound:?}{threshold}{advice}")
        }
        None => format!("more than 1 % of {count} took longer than the last bound in /metrics{threshold}{advice}"),
    };
    HealthPart { name, status, message }
}

/// The grade of a part of 100 that should be high.
fn grade_low(percent: f64, warning: u8, error: u8) -> Grade {
    if percent < f64::from(error) {
        Grade::Error
    } else if percent < f64::from(warning) {
        Grade::Warning
    } else {
        Grade::Healthy
    }
}

/// A part of which too little is known.
fn too_few(name: &'static str, count: f64) -> HealthPart {
    let message = format!("{count} in the last minute, too few to grade");
    HealthPart { name, status: Grade::Healthy, message }
}

#[cfg(test)]
mod tests;
