//! Readings of all metrics at regular times, for rates and for what the status shows. One rendering serves any number of
//! requests, so no request makes the node count. What the process takes of its machine is measured at the same times.

use super::distribution::Distribution;
use crate::metrics::samples;
use crate::resources;
use crate::telemetry::Metrics;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// The time between two readings.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many readings are kept: a minute of them.
const KEPT: usize = 13;

/// All metrics at one moment.
#[derive(Debug)]
pub struct Reading {
    at: Instant,
    /// Values by series, such as `name{label="value"}`.
    series: BTreeMap<String, f64>,
}

/// The last readings.
#[derive(Debug)]
pub struct Readings {
    metrics: Metrics,
    // Held to add or to copy a pointer.
    last: Mutex<VecDeque<Arc<Reading>>>,
    // Held while a reading is taken, so that all who want one then get the same.
    extra: Mutex<Option<Arc<Reading>>>,
}

impl Readings {
    /// Readings of these metrics, the first of them now.
    pub(super) fn new(metrics: Metrics) -> Self {
        let readings = Self { metrics, last: Mutex::default(), extra: Mutex::default() };
        readings.take();
        readings
    }

    /// Takes a reading at regular times. Does not end.
    pub(super) async fn run(&self) {
        let mut times = interval_at(Instant::now() + INTERVAL, INTERVAL);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            self.take();
        }
    }

    fn take(&self) {
        resources::measure();
        let reading = Arc::new(Reading::parse(Instant::now(), &self.metrics.render()));
        let mut last = self.lock();
        last.push_back(reading);
        if last.len() > KEPT {
            last.pop_front();
        }
    }

    /// The newest reading, and the oldest that is kept, which is about a minute older.
    pub fn span(&self) -> Option<(Arc<Reading>, Arc<Reading>)> {
        let last = self.lock();
        Some((Arc::clone(last.back()?), Arc::clone(last.front()?)))
    }

    /// A reading that is not older than this. It is taken if there is none, and not kept for [`span`](Self::span).
    pub fn fresh(&self, most_age: Duration) -> Arc<Reading> {
        let mut extra = self.extra.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reading) = extra.as_ref().filter(|reading| reading.age() <= most_age) {
            return Arc::clone(reading);
        }
        let reading = Arc::new(Reading::parse(Instant::now(), &self.metrics.render()));
        *extra = Some(Arc::clone(&reading));
        reading
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Reading>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Reads the text that this process writes for Prometheus.
    pub(crate) fn parse(at: Instant, text: &str) -> Self {
        Self { at, series: samples(text).map(|sample| (sample.series.to_owned(), sample.value)).collect() }
    }

    /// The time since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }

    /// The time since a moment before it.
    pub fn after(&self, moment: Instant) -> Duration {
        self.at.saturating_duration_since(moment)
    }

    /// How old it is.
    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// The sum of all series of this name.
    pub fn total(&self, name: &str) -> f64 {
        self.series_of(name).map(|(_, value)| value).sum()
    }

    /// The values by the value of the label.
    pub fn by_label(&self, name: &str) -> BTreeMap<&str, f64> {
        self.series_of(name).filter_map(|(labels, value)| Some((label_value(labels)?, value))).collect()
    }

    /// What a histogram has recorded since the start.
    pub fn distribution(&self, name: &str) -> Distribution {
        Distribution::new(self.by_label(&format!("{name}_bucket")).into_iter())
    }

    /// What it has recorded since an earlier reading.
    pub fn distribution_since(&self, earlier: &Self, name: &str) -> Distribution {
        self.distribution(name).without(&earlier.distribution(name))
    }

    /// The labels and values of the series of this name.
    fn series_of<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = (&'a str, f64)> + use<'a, 'n> {
        let from = self.series.range(name.to_owned()..);
        let of_name = from.map_while(move |(series, value)| Some((series.strip_prefix(name)?, *value)));
        of_name.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
    }
}

/// The value of the last label of `{name="value"}`.
fn label_value(labels: &str) -> Option<&str> {
    let (_, value) = labels.strip_suffix("\"}")?.rsplit_once("=\"")?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP events_total Events
# TYPE events_total counter
events_total 7
events_total_of_others 100

dropped_total{reason=\"quota\"} 2
dropped_total{reason=\"slow_consumer\"} 3
lag_seconds_bucket{le=\"0.1\"} 50
lag_seconds_bucket{le=\"2.5\"} 98
lag_seconds_bucket{le=\"10\"} 98
lag_seconds_bucket{le=\"+Inf\"} 100
lag_seconds_sum 12.5
lag_seconds_count 100
";

    #[test]
    fn series_are_found_by_name_and_label() {
        let reading = Reading::parse(Instant::now(), TEXT);
        assert_eq!((reading.total("events_total"), reading.total("dropped_total")), (7.0, 5.0));
        assert_eq!((reading.total("events"), reading.total("nothing_total")), (0.0, 0.0));
        assert_eq!(reading.by_label("dropped_total"), BTreeMap::from([("quota", 2.0), ("slow_consumer", 3.0)]));
        assert_eq!(reading.total("lag_seconds_sum"), 12.5);
    }

    #[test]
    fn quantile_is_the_bound_of_its_bucket() {
        let reading = Reading::parse(Instant::now(), TEXT);
        let lags = reading.distribution("lag_seconds");
        assert_eq!([0.5, 0.9, 0.99].map(|part| lags.quantile(part)), [Some(0.1), Some(2.5), None]);
        assert_eq!(reading.distribution("events_total").quantile(0.5), None);
    }

    #[test]
    fn distribution_of_the_last_minute_leaves_out_what_was_before() {
        let now = Instant::now();
        let earlier = Reading::parse(now, TEXT);
        let text = TEXT.replace("} 98", "} 118").replace("} 100", "} 120");
        let lags = Reading::parse(now, &text).distribution_since(&earlier, "lag_seconds");
        assert_eq!((lags.count(), lags.share_within(0.1), lags.share_within(2.5)), (20.0, 0.0, 1.0));
        let nothing = earlier.distribution_since(&earlier, "lag_seconds");
        assert_eq!((nothing.count(), nothing.quantile(0.5)), (0.0, None));
    }

    #[test]
    fn histogram_that_is_new_has_nothing_before() {
        let (before, now) = (Reading::parse(Instant::now(), ""), Reading::parse(Instant::now(), TEXT));
        assert_eq!(now.distribution_since(&before, "lag_seconds").count(), 100.0);
    }
}
