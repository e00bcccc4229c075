//! Metrics as typed handles: each is declared once, by [`metrics!`](crate::metrics!), with its name, its label and the
//! values of the label, its help text, and what to do when it moves. It is used by its handle. A name that is misspelt
//! does not compile, none lacks a text, and [`describe`] is one loop.
//!
//! * `macros` has the macro of the declarations, and `declared` the metrics of every node;
//! * `document` writes the tables of `docs/metrics.md`, which tests compare (`make metrics-doc` writes them).
//!
//! Each use looks its series up in the recorder, as the macros of the crate `metrics` do. What is counted for each
//! event is looked up once, by `series`.

use metrics::{Key, Label, Level, Metadata, SharedString, with_recorder};

mod declared;
mod document;
mod labels;
mod macros;

pub(crate) use declared::*;
pub use document::rows;

static METADATA: Metadata<'static> = Metadata::new("tickwire", Level::INFO, None);

/// What a metric is called and means.
#[derive(Debug)]
pub struct Named {
    name: &'static str,
    help: &'static str,
    advice: &'static str,
    key: Key,
}

impl Named {
    const fn new([name, help, advice]: [&'static str; 3]) -> Self {
        Self { name, help, advice, key: Key::from_static_name(name) }
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

    /// Its label, if it has one.
    fn label(&self) -> Option<&LabelValues> {
        None
    }

    /// Describes it to the recorder. It is shown from 0 on, so that its first count is seen as growth, and no query is
    /// without data; one with a label is shown for each of the values that are known beforehand.
    fn describe(&self);
}

/// A label, and the values that it can have.
#[derive(Debug)]
pub struct LabelValues {
    /// The name of the label.
    pub name: &'static str,
    /// Every value; none if they are not known beforehand.
    pub known: fn() -> Vec<&'static str>,
    /// What bounds the values if they are not known beforehand.
    pub bound: &'static str,
}

/// A number that only grows.
#[derive(Debug)]
pub struct Counter(Named);

/// The same for each value of a label.
#[derive(Debug)]
pub struct CounterBy(Named, LabelValues);

/// A number that is set.
#[derive(Debug)]
pub struct Gauge(Named);

/// The same for each value of a label.
#[derive(Debug)]
pub struct GaugeBy(Named, LabelValues);

/// What is known of the whole process: a gauge that is always 1, and whose labels state it.
#[derive(Debug)]
pub struct Info(Named, LabelValues);

/// How often values lie within bounds.
#[derive(Debug)]
pub struct Histogram(Named);

impl Counter {
    /// One with these texts: the name, the meaning, and what to do.
    #[must_use]
    pub const fn new(texts: [&'static str; 3]) -> Self {
        Self(Named::new(texts))
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
    /// One with these texts: the name, the meaning, and what to do. Known values are shown from 0 on.
    #[must_use]
    pub const fn new(texts: [&'static str; 3], label: LabelValues) -> Self {
        Self(Named::new(texts), label)
    }

    /// The series with these labels, for a metric that has another label beside its own.
    pub fn labelled(&self, labels: Vec<Label>) -> metrics::Counter {
        let key = Key::from_parts(self.0.name, labels);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }

    /// The series of a value.
    pub fn with(&self, value: impl Into<SharedString>) -> metrics::Counter {
        let key = self.0.key(self.1.name, value);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }
}

impl Gauge {
    /// One with these texts: the name, the meaning, and what to do.
    #[must_use]
    pub const fn new(texts: [&'static str; 3]) -> Self {
        Self(Named::new(texts))
    }

    /// Sets it.
    pub fn set(&self, value: f64) {
        with_recorder(|recorder| recorder.register_gauge(&self.0.key, &METADATA)).set(value);
    }

    /// Adds to it.
    pub fn increment(&self, value: f64) {
        with_recorder(|recorder| recorder.register_gauge(&self.0.key, &METADATA)).increment(value);
    }
}

impl GaugeBy {
    /// One with these texts: the name, the meaning, and what to do. Known values are shown from 0 on.
    #[must_use]
    pub const fn new(texts: [&'static str; 3], label: LabelValues) -> Self {
        Self(Named::new(texts), label)
    }

    /// The series of a value.
    pub fn with(&self, value: impl Into<SharedString>) -> metrics::Gauge {
        let key = self.0.key(self.1.name, value);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }
}

impl Info {
    /// One with these texts: the name, the meaning, and what to do.
    #[must_use]
    pub const fn new(texts: [&'static str; 3], label: LabelValues) -> Self {
        Self(Named::new(texts), label)
    }

    /// States these labels.
    pub fn state(&self, labels: Vec<Label>) {
        let key = Key::from_parts(self.0.name, labels);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA)).set(1.0);
    }
}

impl Histogram {
    /// One with these texts: the name, the meaning, and what to do.
    #[must_use]
    pub const fn new(texts: [&'static str; 3]) -> Self {
        Self(Named::new(texts))
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

    fn label(&self) -> Option<&LabelValues> {
        Some(&self.1)
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_counter(self.0.name.into(), None, self.0.help.into()));
        for value in (self.1.known)() {
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
        self.increment(0.0);
    }
}

impl Metric for GaugeBy {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "gauge"
    }

    fn label(&self) -> Option<&LabelValues> {
        Some(&self.1)
    }

    fn describe(&self) {
        with_recorder(|recorder| recorder.describe_gauge(self.0.name.into(), None, self.0.help.into()));
        for value in (self.1.known)() {
            self.with(value).increment(0.0);
        }
    }
}

impl Metric for Info {
    fn named(&self) -> &Named {
        &self.0
    }

    fn kind(&self) -> &'static str {
        "gauge"
    }

    fn label(&self) -> Option<&LabelValues> {
        Some(&self.1)
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
        // The series is there from its registration on.
        drop(self.series());
    }
}

/// Describes these metrics to the recorder, which must be installed before.
pub fn describe(metrics: &[&dyn Metric]) {
    metrics.iter().for_each(|metric| metric.describe());
}
