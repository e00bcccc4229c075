//! `/v1/stats`: counts since the start and per minute, ratios and latencies, from the last readings of the metrics.

use super::{NamedCount, NamedRatio, Status};
use crate::admin::Reading;
use crate::clock::millis;
use serde_json::{Map, Value, json};
use std::time::Duration;

pub(super) fn report(status: &Status) -> Value {
    let role = &status.of_role;
    let numbers = status.readings.span().map(|(newest, oldest)| {
        json!({
            "age_ms": millis(newest.age()),
            "over_ms": millis(newest.since(&oldest)),
            "counts": named(role.counts(), |(name, metric)| (*name, counted(metric.named().name(), &newest, &oldest))),
            "ratios": named(role.ratios(), |ratio| divided(ratio, &newest)),
            "latency": named(role.stages(), |stage| latency(stage, &newest)),
        })
    });
    let mut report = numbers.unwrap_or_else(|| json!({}));
    report["node"] = json!(status.me.id.as_str());
    report["role"] = json!(status.role.as_str());
    report
}

fn named<T>(list: &[T], read: impl Fn(&T) -> (&'static str, Value)) -> Map<String, Value> {
    list.iter().map(read).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A count in total and per minute, and the same for each value of its label.
fn counted(metric: &str, newest: &Reading, oldest: &Reading) -> Value {
    let over = newest.since(oldest);
    let count =
        |total: f64, before: f64| json!({ "total": total as u64, "per_minute": per_minute(total - before, over) });
    let mut shown = count(newest.total(metric), oldest.total(metric));
    let before = oldest.by_label(metric);
    let by = newest.by_label(metric).into_iter().map(|(label, total)| {
        let value = count(total, before.get(label).copied().unwrap_or_default());
        (label.to_owned(), value)
    });
    let by: Map<String, Value> = by.collect();
    if !by.is_empty() {
        shown["by"] = Value::Object(by);
    }
    shown
}

fn divided((name, dividend, divisor): &NamedRatio, newest: &Reading) -> (&'static str, Value) {
    let divisor = newest.total(divisor.named().name());
    let ratio = (divisor > 0.0).then(|| newest.total(dividend.named().name()) / divisor);
    (*name, json!(ratio))
}

/// The count, the mean and two quantiles of a histogram. A quantile beyond all buckets is null.
fn latency((stage, metric): &NamedCount, newest: &Reading) -> (&'static str, Value) {
    let metric = metric.named().name();
    let count = newest.total(&format!("{metric}_count"));
    let mean = (count > 0.0).then(|| newest.total(&format!("{metric}_sum")) / count);
    let distribution = newest.distribution(metric);
    let quantile = |part| distribution.quantile(part);
    (*stage, json!({ "count": count as u64, "mean": mean, "p50": quantile(0.5), "p99": quantile(0.99) }))
}

fn per_minute(count: f64, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { (count.max(0.0) * 60.0 / over.as_secs_f64()).round() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_scaled_to_a_minute() {
        assert_eq!(per_minute(50.0, Duration::from_secs(5)), 600.0);
        assert_eq!(per_minute(60.0, Duration::from_secs(60)), 60.0);
        assert_eq!((per_minute(5.0, Duration::ZERO), per_minute(-5.0, Duration::from_secs(1))), (0.0, 0.0));
    }
}
