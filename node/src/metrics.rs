//! Metrics as typed handles: each is declared once, by [`metrics!`](crate::metrics!), with its name, its label and the
//! values of the label, its help text, and what to do when it moves. It is used by its handle. A name that is misspelt
//! does not compile, none lacks a text, and [`describe`] is one loop.
//!
//! * `macros` has the macro of the declarations, and `declared` the metrics of every node;
//! * `document` writes the tables of `docs/metrics.md`, which tests compare (`make metrics-doc` writes them);
//! * `text` reads what the admin server answers at `/metrics`.
//!
//! Each use looks its series up in the recorder, as the macros of the crate `metrics` do. What is counted for each
//! event is looked up once, by `series`.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, with_recorder};

mod declared;
mod document;
mod labels;
mod macros;
mod text;

pub(crate) use declared::*;
pub use document::rows;
pub use text::{Sample, samples};

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

    /// What it is.
    fn kind(&self) -> MetricKind;

    /// Its label, if it has one.
    fn label(&self) -> Option<&LabelValues> {
        None
    }
}

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that is set.
    Gauge,
    /// How often values lie within bounds.
    Histogram,
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

impl MetricKind {
    /// Its name in the text format and in documents.
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// Describes a metric of this kind, and registers these series of it.
    fn describe(self, Named { name, help, .. }: &Named, series: &[Key], recorder: &dyn Recorder) {
        let (name, help) = (KeyName::from(*name), SharedString::from(*help));
        match self {
            Self::Counter => {
                recorder.describe_counter(name, None, help);
                series.iter().for_each(|key| drop(recorder.register_counter(key, &METADATA)));
            }
            Self::Gauge => {
                recorder.describe_gauge(name, None, help);
                series.iter().for_each(|key| drop(recorder.register_gauge(key, &METADATA)));
            }
            Self::Histogram => {
                recorder.describe_histogram(name, None, help);
                series.iter().for_each(|key| drop(recorder.register_histogram(key, &METADATA)));
            }
        }
    }
}

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

/// Says of which kind the metrics of a type are, and in which field of the type their label is, if they have one.
macro_rules! metric_types {
    ($($type:ident is $kind:ident $(by $label:tt)?;)+) => { $(
        impl Metric for $type {
            fn named(&self) -> &Named {
                &self.0
            }

            fn kind(&self) -> MetricKind {
                MetricKind::$kind
            }

            $(fn label(&self) -> Option<&LabelValues> {
                Some(&self.$label)
            })?
        }
    )+ };
}

metric_types! {
    Counter is Counter;
    CounterBy is Counter by 1;
    Gauge is Gauge;
    GaugeBy is Gauge by 1;
    Info is Gauge by 1;
    Histogram is Histogram;
}

/// Describes these metrics to the recorder, which must be installed before. Each is shown from 0 on, so that its first
/// count is seen as growth, and no query is without data; one with a label is shown for each of the values that are
/// known beforehand.
pub fn describe(metrics: &[&dyn Metric]) {
    for metric in metrics {
        let named = metric.named();
        let series = match metric.label() {
            None => vec![named.key.clone()],
            Some(label) => (label.known)().into_iter().map(|value| named.key(label.name, value)).collect(),
        };
        with_recorder(|recorder| metric.kind().describe(named, &series, recorder));
    }
}
