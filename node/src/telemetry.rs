//! Logs and metrics, set up once and before anything that could log or count.
//!
//! Logs go to standard error, and only the configuration decides what is logged. A JSON line has the node's role and
//! name, so that the lines of many nodes can be read together. Metrics are kept in the process and rendered on a
//! request to the admin server. Repeated warnings of a node become one line with a count, and a panic is a line too.
//! With the feature `console`, tokio-console can look at the tasks.

#[cfg(feature = "console")]
mod console;
mod panics;
mod repeats;

use crate::config::{LogConfig, LogFormat};
use crate::metrics;
use crate::terminal_text::in_json;
use ::metrics::Label;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use repeats::RepeatFilter;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{Event, Subscriber};
#[cfg(feature = "console")]
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How often recorded values are moved into their buckets, so that memory stays bounded when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Upper bounds for metrics in seconds: from half of the router's window to the slowest recovery.
const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds for the time of a lookup, in seconds: it is much shorter.
const LOOKUP_SECONDS: [f64; 12] =
    [0.000_001, 0.000_002_5, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.05];

/// Upper bounds for metrics in bytes.
const BYTES: [f64; 9] = [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Upper bounds for counts, such as the events of a batch.
const COUNTS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0, 20000.0];

/// Why logs or metrics cannot be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The directives of `log.level` are not valid.
    #[error("log.level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else in this process has set up logs.
    #[error("logs are set up already: {0}")]
    Logs(#[from] tracing_subscriber::util::TryInitError),
    /// Something else in this process has set up metrics.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// The logs of a node. Dropped at the end of the process, it logs the last counts of repeated warnings.
#[derive(Debug)]
#[must_use]
pub struct NodeLogs(());

impl Drop for NodeLogs {
    fn drop(&mut self) {
        repeats::write_all();
    }
}

/// Sends the logs of a node to standard error, as configured, and with them the panics of this process. Repeated
/// warnings are counted, and [`Metrics::upkeep`] logs the counts.
///
/// # Errors
/// When the directives are not valid, or logs were set up before.
pub fn init_node_logs(config: &LogConfig, role: &str, node: &str) -> Result<NodeLogs, TelemetryError> {
    init(config, role, node, Some(RepeatFilter))?;
    panics::install();
    Ok(NodeLogs(()))
}

/// Sends the logs of any other command to standard error, every line of them.
///
/// # Errors
/// When the directives are not valid, or logs were set up before.
pub fn init_logs(config: &LogConfig) -> Result<(), TelemetryError> {
    init(config, "cli", "cli", None)
}

fn init(config: &LogConfig, role: &str, node: &str, once: Option<RepeatFilter>) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(&config.level)?;
    let lines = layer().with_writer(std::io::stderr);
    #[cfg(not(feature = "console"))]
    let logs = tracing_subscriber::registry().with(filter);
    // The console sees what the log leaves out, so that the filter is the log's alone.
    #[cfg(feature = "console")]
    let (logs, once) = (tracing_subscriber::registry().with(console::layer()), filter.and(once));
    match config.format {
        LogFormat::Json => {
            let lines = lines.fmt_fields(JsonFields::new()).event_format(Stamped::new(role, node));
            logs.with(lines.with_filter(once)).try_init()?;
        }
        LogFormat::Pretty => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            logs.with(lines.with_ansi(colours).with_filter(once)).try_init()?;
        }
    }
    Ok(())
}

/// The JSON format, with the node's role and name as the first fields of every line. What a terminal would follow is
/// escaped, since people read logs there, and users and other programs choose names and reasons.
struct Stamped {
    json: Format<Json>,
    stamp: String,
}

impl Stamped {
    fn new(role: &str, node: &str) -> Self {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let stamp = format!("{{\"role\":{},\"node\":{},", text(role), text(node));
        Self { json: Format::default().json().flatten_event(true).with_span_list(false), stamp }
    }
}

impl<S, N> FormatEvent<S, N> for Stamped
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.json.format_event(ctx, Writer::new(&mut line), event)?;
        writer.write_str(&self.stamp)?;
        writer.write_str(&in_json(line.strip_prefix('{').unwrap_or(&line)))
    }
}

/// The metrics of this process.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Starts recording, and records the version, role and name of this node. Nodes that share a process share its
    /// metrics: the second call returns the same ones.
    ///
    /// # Errors
    /// When another recorder has been set for this process.
    pub fn install(role: &str, node: &str) -> Result<Self, TelemetryError> {
        static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match installed.as_ref() {
            Some(handle) => handle.clone(),
            None => {
                let handle = PrometheusBuilder::new()
                    // Of suffixes that match, the first in the order of text counts.
                    .set_buckets_for_metric(Matcher::Suffix("_filter_seconds".to_owned()), &LOOKUP_SECONDS)?
                    .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
                    .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?
                    .set_buckets(&COUNTS)?
                    .install_recorder()?;
                installed.insert(handle).clone()
            }
        };
        let labels = [("version", env!("CARGO_PKG_VERSION").to_owned()), ("role", role.into()), ("node", node.into())];
        metrics::BUILD_INFO.state(labels.iter().map(Label::from).collect());
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics::PROCESS_START_TIME_SECONDS.set(started.as_secs_f64());
        Ok(Self { handle })
    }

    /// All metrics, in the text format of Prometheus.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps the recorder's memory bounded, and logs the counts of repeated warnings, until `stop` is cancelled. One
    /// task per process should run this.
    pub async fn upkeep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(UPKEEP_INTERVAL)).await.is_some() {
            self.handle.run_upkeep();
            repeats::write_ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    /// The captured log.
    #[derive(Clone, Default)]
    pub(super) struct Captured(pub(super) Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a node named `router-"1"` writes meanwhile in the JSON format.
    fn json_lines(log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(Stamped::new("router", "router-\"1\""))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_line_is_one_object_with_role_and_node() {
        let text = json_lines(|| {
            let _span = tracing::info_span!("task", task = "intake").entered();
            tracing::info!(partition = 3, "line\nbreak");
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["role"], "router");
        assert_eq!(line["node"], "router-\"1\"");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "line\nbreak");
        assert_eq!(line["partition"], 3);
        assert_eq!(line["span"]["task"], "intake");
    }

    #[test]
    fn json_line_has_nothing_that_a_terminal_follows() {
        let user = "a\u{1b}[2Jb\u{9b}2J\u{7f}\u{202e}c\u{2028}";
        let text = json_lines(|| {
            let _span = tracing::info_span!("session", user).entered();
            tracing::info!(reason = user, "{user}");
        });
        assert!(text.is_ascii() && !text.trim_end().contains(char::is_control), "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!([&line["message"], &line["reason"], &line["span"]["user"]], [user; 3]);
    }

    #[test]
    fn metrics_have_build_info_and_the_configured_buckets() {
        let metrics = Metrics::install("router", "r1").unwrap();
        Metrics::install("gateway", "g1").unwrap();
        fn reasons() -> Vec<&'static str> {
            vec!["lost", "late"]
        }
        crate::metrics! {
            TESTED:
            histogram LAG = "tickwire_test_lag_seconds", "Seconds", "Nothing.";
            histogram UNUSED = "tickwire_test_unused_seconds", "Seconds", "Nothing.";
            gauge GAUGE = "tickwire_test_gauge", "A gauge", "Nothing.";
            histogram LOOKUP = "tickwire_test_filter_seconds", "Seconds", "Nothing.";
            histogram SIZE = "tickwire_test_size_bytes", "Bytes", "Nothing.";
            histogram EVENTS = "tickwire_test_events", "Events", "Nothing.";
            counter PLAIN = "tickwire_test_plain_total", "A counter", "Nothing.";
            counter LABELLED by "reason" of reasons = "tickwire_test_labelled_total", "A counter by reason", "Nothing.";
        }
        metrics::describe(TESTED);
        LAG.record(0.002);
        LOOKUP.record(0.000_002);
        SIZE.record(5000.0);
        EVENTS.record(7.0);
        let text = metrics.render();
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            format!("tickwire_build_info{{version=\"{version}\",role=\"router\",node=\"r1\"}} 1"),
            format!("tickwire_build_info{{version=\"{version}\",role=\"gateway\",node=\"g1\"}} 1"),
            "# HELP tickwire_test_plain_total A counter".to_owned(),
            "tickwire_test_plain_total 0".to_owned(),
            "tickwire_test_labelled_total{reason=\"late\"} 0".to_owned(),
            "tickwire_test_unused_seconds_count 0".to_owned(),
            "tickwire_test_gauge 0".to_owned(),
            "tickwire_test_lag_seconds_bucket{le=\"0.001\"} 0".to_owned(),
            "tickwire_test_lag_seconds_bucket{le=\"0.0025\"} 1".to_owned(),
            "tickwire_test_filter_seconds_bucket{le=\"0.000001\"} 0".to_owned(),
            "tickwire_test_filter_seconds_bucket{le=\"0.0000025\"} 1".to_owned(),
            "tickwire_test_size_bytes_bucket{le=\"16384\"} 1".to_owned(),
            "tickwire_test_events_bucket{le=\"10\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(text.contains("tickwire_process_start_time_seconds 1"), "{text}");
    }
}
