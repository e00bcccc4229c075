//! The result of an attached run.

use serde::Serialize;
use std::fmt::Write;

use super::listeners::AttachHarvest;
use tickwire_node::terminal_text::in_line;

/// What the run was, and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct AttachFigures {
    /// The name of the run: the beginning of its symbols.
    pub(super) run: String,
    pub(super) sockets: u32,
    /// Sockets whose subscription was confirmed.
    pub(super) connected: u64,
    pub(super) symbols: u32,
    /// Events that this process has published.
    pub(super) published: u64,
    pub(super) expected: u64,
    pub(super) deliveries: u64,
    pub(super) missing: u64,
    pub(super) doubled: u64,
    pub(super) out_of_order: u64,
    pub(super) unexpected: u64,
    /// Symbols of sockets of which no last event has come to any socket.
    pub(super) unfinished: u64,
    /// Gaps that the sockets were notified of, and sessions that could not resume.
    pub(super) gaps: u64,
    /// Events that gateways have dropped or conflated, by their notices.
    pub(super) dropped: u64,
    pub(super) reconnects: u64,
    pub(super) most_reconnects_in_a_second: u64,
    /// From publishing to receipt, in milliseconds.
    pub(super) latency_ms: LatencyFigures,
    /// Why a socket ended before the run did.
    pub(super) failure: Option<String>,
    pub(super) exact: bool,
}

/// Quantiles.
#[derive(Debug, Serialize)]
pub(super) struct LatencyFigures {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl AttachFigures {
    pub(super) fn new(run: String, sockets: u32, symbols: u32, published: u64, harvest: AttachHarvest) -> Self {
        let AttachHarvest { connected, ledger, gaps, dropped, reconnects, most_reconnects, latencies, failure } =
            harvest;
        let exact = ledger.is_exact() && gaps == 0 && connected == u64::from(sockets) && failure.is_none();
        let ms = |microseconds: u64| microseconds as f64 / 1e3;
        let latency_ms = LatencyFigures {
            p50: ms(latencies.value_at_quantile(0.5)),
            p99: ms(latencies.value_at_quantile(0.99)),
            max: ms(latencies.max()),
        };
        Self {
            run,
            sockets,
            connected,
            symbols,
            published,
            expected: ledger.expected,
            deliveries: ledger.received,
            missing: ledger.missing,
            doubled: ledger.doubled,
            out_of_order: ledger.out_of_order,
            unexpected: ledger.unexpected,
            unfinished: ledger.unfinished,
            gaps,
            dropped,
            reconnects,
            most_reconnects_in_a_second: most_reconnects,
            latency_ms,
            failure,
            exact,
        }
    }

    /// As a table.
    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            writeln!(table, "{name:<34} {value:>14}").ok();
        };
        row("run", self.run.clone());
        row("connected", format!("{} of {}", self.connected, self.sockets));
        row("published here", self.published.to_string());
        row("deliveries expected", self.expected.to_string());
        row("deliveries", self.deliveries.to_string());
        row("missing", self.missing.to_string());
        row("doubled", self.doubled.to_string());
        row("out of order", self.out_of_order.to_string());
        row("unexpected", self.unexpected.to_string());
        row("symbols without a last event", self.unfinished.to_string());
        row("gaps", self.gaps.to_string());
        row("dropped, by notices", self.dropped.to_string());
        row("reconnects", self.reconnects.to_string());
        row("most reconnects in a second", self.most_reconnects_in_a_second.to_string());
        let LatencyFigures { p50, p99, max } = self.latency_ms;
        row("latency p50, ms", format!("{p50:.1}"));
        row("latency p99, ms", format!("{p99:.1}"));
        row("latency max, ms", format!("{max:.1}"));
        if let Some(failure) = &self.failure {
            row("a socket ended", in_line(failure).into_owned());
        }
        row("exact", if self.exact { "yes" } else { "no" }.to_owned());
        table
    }
}
