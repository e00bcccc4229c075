//! Metrics as typed handles: each is declared once, by [`metrics!`](crate::metrics!), with its name, its help text and
//! its label, and used by its handle. A name that is misspelt does not compile, none lacks a help text, and
//! [`describe`] is one loop. `docs/metrics.md` lists all, which tests compare.
//!
//! Each use looks its series up in the recorder, as the macros of the crate `metrics` do. What is counted for each
//! event is looked up once, by `series`.

use metrics::{Key, Label, Level, Metadata, SharedString, with_recorder};
use std::fmt::Write as _;

mod declared;

pub(crate) use declared::*;

static METADATA: Metadata<'static> = Metadata::new("tickwire", Level::INFO, None);

/// What a metric is called and means.
#[derive(Debug)]
pub struct Named {
    name: &'static str,
    help: &'static str,
    key: Key,
}

impl Named {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, key: Key::from_static_name(name) }
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The key of the series with this value of a label.
    fn key(&self, label: &'static str, value: impl Into<SharedString>) -> Key {
        Key::from_parts(self.name, vec![Label::new(label, value)])
    }
}

/// A metric that can be described.
pub trait Metric: Sync {
    /// Its name and its help text.
    fn named(&self) -> &Named;

    /// What it is: `counter`, `gauge` or `histogram`.
    fn kind(&self) -> &'static str;

    /// The name of its label, if it has one.
    fn label(&self) -> Option<&'static str> {
        None
    }

    /// Describes it to the recorder. A counter is shown from 0 on, so that its first count is seen as growth; one
    /// with a label is shown for each of the values that are known beforehand.
    fn describe(&self);
}

/// A number that only grows.
#[derive(Debug)]
pub struct Counter(Named);

/// The same for each value of a label.
#[derive(Debug)]
pub struct CounterBy(Named, &'static str, fn() -> Vec<&'static str>);

/// A number that is set.
#[derive(Debug)]
pub struct Gauge(Named);

/// The same for each value of a label.
#[derive(Debug)]
pub struct GaugeBy(Named, &'static str);

/// How often values lie within bounds.
#[derive(Debug)]
pub struct Histogram(Named);

impl Counter {
    /// One of this name.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Named::new(name, help))
    }

    /// Its series, to be kept where it is counted often.
    pub fn series(&self) -> metrics::Counter {
        with_recorder(|recorder| recorder.register_counter(&self.0.key, &METADATA))
    }

    /// Adds to it.
    pub fn increment(&self, count: u64) {
        self.series().increment(count);
    }
}

impl CounterBy {
    /// One of this name. The series of the values that `shown` gives are shown from 0 on.
    #[must_use]
    pub const fn new(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        shown: fn() -> Vec<&'static str>,
    ) -> Self {
        Self(Named::new(name, help), label, shown)
    }

    /// The series of a value.
    pub fn with(&self, value: impl Into<SharedString>) -> metrics::Counter {
        let key = self.0.key(self.1, value);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }
}

impl Gauge {
    /// One of this name.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Named::new(name, help))
    }

    /// Sets it.
    pub fn set(&self, value: f64) {
        with_recorder(|recorder| recorder.register_gauge(&self.0.key, &METADATA)).set(value);
    }

    /// Adds to it.
    pub fn increment(&self, value: f64) {
        with_recorder(|recorder| recorder.register_gauge(&self.0.key, &METADATA)).increment(value);
    }

    /// The series with these labels, for what is known of the whole process.
    pub fn labelled(&self, labels: Vec<Label>) -> metrics::Gauge {
        let key = Key::from_parts(self.0.name, labels);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }
}

impl GaugeBy {
    /// One of this name.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str, label: &'static str) -> Self {
        Self(Named::new(name, help), label)
    }

    /// The series of a value.
    pub fn with(&self, value: impl Into<SharedString>) -> metrics::Gauge {
        let key = self.0.key(self.1, value);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }
}

impl Histogram {
    /// One of this name.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Named::new(name, help))
    }

    /// Its series, to be kept where it is recorded often.
    pub fn series(&self) -> metrics::Histogram {
        with_recorder(|recorder| recorder.register_histogram(&self.0.key, &METADATA))
    }

    /// Records a value.
    pub fn record(&self, value: f64) {
        self.series().record(value);
    }
}

impl Metric for Counter {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "counter"
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_counter(self.0.name.into(), None, self.0.help.into()));
        self.increment(0);
    }
}

impl Metric for CounterBy {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "counter"
    }

    fn label(&self) -> Option<&'static str> {
        Some(self.1)
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_counter(self.0.name.into(), None, self.0.help.into()));
        for value in (self.2)() {
            self.with(value).increment(0);
        }
    }
}

impl Metric for Gauge {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "gauge"
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_gauge(self.0.name.into(), None, self.0.help.into()));
    }
}

impl Metric for GaugeBy {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "gauge"
    }

    fn label(&self) -> Option<&'static str> {
        Some(self.1)
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_gauge(self.0.name.into(), None, self.0.help.into()));
    }
}

impl Metric for Histogram {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "histogram"
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_histogram(self.0.name.into(), None, self.0.help.into()));
    }
}

/// Describes these metrics to the recorder, which must be installed before.
pub fn describe(metrics: &[&dyn Metric]) {
    metrics.iter().for_each(|metric| metric.describe());
}

/// The unit of a metric, which ends its name.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)).unwrap_or("")
}

/// These metrics as rows of `docs/metrics.md`, for the test that compares them.
#[must_use]
pub fn rows(metrics: &[&dyn Metric]) -> String {
    let mut rows = String::new();
    for metric in metrics {
        let Named { name, help, .. } = metric.named();
        let label = metric.label().map(|label| format!("`{label}`")).unwrap_or_default();
        // Writing to a String cannot fail.
        writeln!(rows, "| `{name}` | {} | {} | {label} | {help} |", metric.kind(), unit(name)).unwrap_or_default();
    }
    rows
}

/// The rows of a document under a heading.
#[must_use]
pub fn listed(document: &str, heading: &str) -> String {
    let section = document.split("\n## ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
    let rows = section.unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| format!("{line}\n")).collect()
}

/// Declares the metrics of a crate in one place, and a list of all of them:
///
/// ```
/// tickwire_node::metrics! {
///     ALL:
///     counter BATCHES = "tickwire_example_batches_total", "Batches that came";
///     counter DROPPED by "reason" = "tickwire_example_dropped_total", "Events dropped, by reason";
///     gauge SESSIONS = "tickwire_example_sessions", "Sessions that are here";
///     histogram SECONDS = "tickwire_example_seconds", "How long it took";
/// }
/// tickwire_node::metrics::describe(ALL);
/// BATCHES.increment(1);
/// DROPPED.with("closed").increment(2);
/// # SESSIONS.set(1.0);
/// # SECONDS.record(1.0);
/// ```
///
/// A counter `by "reason" of reasons` is shown from 0 on for each value that the function `reasons` gives.
#[macro_export]
macro_rules! metrics {
    ($list:ident: $($kind:ident $name:ident $(by $label:literal $(of $shown:path)?)? = $text:literal, $help:literal;)+) => {
        $($crate::metric! { $kind $name $(by $label $(of $shown)?)? = $text, $help })+

        #[doc = "All of these."]
        pub(crate) static $list: &[&dyn $crate::metrics::Metric] = &[$(&$name),+];
    };
}

/// One line of [`metrics!`](crate::metrics!).
#[doc(hidden)]
#[macro_export]
macro_rules! metric {
    (counter $name:ident = $text:literal, $help:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::Counter = $crate::metrics::Counter::new($text, $help);
    };
    (counter $name:ident by $label:literal = $text:literal, $help:literal) => {
        $crate::metric! { counter $name by $label of ::std::vec::Vec::new = $text, $help }
    };
    (counter $name:ident by $label:literal of $shown:path = $text:literal, $help:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::CounterBy =
            $crate::metrics::CounterBy::new($text, $help, $label, $shown);
    };
    (gauge $name:ident = $text:literal, $help:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::Gauge = $crate::metrics::Gauge::new($text, $help);
    };
    (gauge $name:ident by $label:literal = $text:literal, $help:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::GaugeBy = $crate::metrics::GaugeBy::new($text, $help, $label);
    };
    (histogram $name:ident = $text:literal, $help:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::Histogram = $crate::metrics::Histogram::new($text, $help);
    };
}
