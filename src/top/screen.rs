//! What is shown: rows and rates, from two readings. `--json` prints it as it is. Pure.

use serde::Serialize;
use std::collections::BTreeMap;
use tickwire_core::placement::Role;

use super::answer::{GoneAnswer, NodeAnswer, Report};
use super::problems::{self, ProblemRow};
use super::reading::Trend;

/// The order of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SortKey {
    /// By name.
    Name,
    /// The gateways with the most sessions first.
    Sessions,
    /// The gateways with the most drops first.
    Drops,
    /// The nodes that are furthest behind first.
    Lag,
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Ready,
    NotReady,
    Draining,
    Silent,
    Gone,
}

/// All that is known. A rate is null before the second reading of a node; other values are null if the node does not
/// report them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Screen {
    /// The version of the member view.
    pub(super) view: u64,
    /// The router that writes the view.
    pub(super) coordinator: Option<String>,
    /// How many partitions the stream has, and how many of them routers own.
    pub(super) partitions: u64,
    pub(super) owned: u64,
    /// How many nodes there are, without those that have gone, and how many of them are ready.
    pub(super) nodes: usize,
    pub(super) ready: usize,
    /// Events that routers read, events that gateways sent and dropped, and sessions.
    pub(super) events_per_s: Option<f64>,
    pub(super) delivered_per_s: Option<f64>,
    pub(super) dropped_per_s: Option<f64>,
    pub(super) sessions: u64,
    pub(super) gateways: Vec<GatewayRow>,
    pub(super) routers: Vec<RouterRow>,
    pub(super) problems: Vec<ProblemRow>,
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct GatewayRow {
    pub(super) node: String,
    pub(super) state: State,
    pub(super) sessions: Option<u64>,
    pub(super) delivered_per_s: Option<f64>,
    pub(super) bytes_per_s: Option<f64>,
    pub(super) dropped_per_s: Option<f64>,
    /// The same by reason; only reasons that occur.
    pub(super) dropped_per_s_by: BTreeMap<String, f64>,
    /// Since the start of the gateway.
    pub(super) dropped: Option<u64>,
    pub(super) conflated_per_s: Option<f64>,
    pub(super) open_gaps: Option<u64>,
    pub(super) queue_bytes: Option<f64>,
    /// From the arrival of a batch to the socket, and from the stream to the socket: 99 % of the last minute.
    pub(super) deliver_p99_s: Option<f64>,
    pub(super) total_p99_s: Option<f64>,
}

/// A router.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RouterRow {
    pub(super) node: String,
    pub(super) state: State,
    pub(super) partitions: Option<u64>,
    pub(super) events_per_s: Option<f64>,
    pub(super) batches_per_s: Option<f64>,
    /// The age of the last message of the partition that is furthest behind.
    pub(super) lag_s: Option<f64>,
    pub(super) pending: Option<u64>,
    /// From the stream to the publication: 99 % of the last minute.
    pub(super) route_p99_s: Option<f64>,
    pub(super) rule_revision: Option<u64>,
    /// The part of the lookups in the route cache that were hits, from 0 to 1.
    pub(super) cache_hits: Option<f64>,
}

impl Screen {
    /// What is known.
    pub(super) fn of(trend: &Trend, sort: SortKey) -> Self {
        let reading = &trend.now;
        let of_nodes = reading.nodes.values().map(|node| (node.role, Row::of(node, trend.before(node))));
        let of_gone = reading.gone.values().map(|gone| (gone.role, Row::of_gone(gone)));
        let (mut gateways, mut routers) = (Vec::new(), Vec::new());
        for (role, row) in of_nodes.chain(of_gone) {
            match role {
                Role::Gateway => gateways.push(row.gateway()),
                Role::Router => routers.push(row.router()),
            }
        }
        gateways.sort_by(|one, other| sort.of_gateway(other).total_cmp(&sort.of_gateway(one)));
        routers.sort_by(|one, other| sort.of_router(other).total_cmp(&sort.of_router(one)));
        let mut coordinators = reading
            .nodes
            .values()
            .filter(|node| node.report.as_ref().is_some_and(|report| report.levels.get("coordinator") == Some(&1.0)));
        let mut screen = Self {
            view: reading.view,
            coordinator: coordinators.next().map(|node| node.node.clone()),
            partitions: reading.partitions,
            owned: routers.iter().filter_map(|router| router.partitions).fold(0, u64::saturating_add),
            nodes: reading.nodes.len(),
            ready: reading.nodes.values().filter(|node| state(node) == State::Ready).count(),
            events_per_s: sum(routers.iter().map(|router| router.events_per_s)),
            delivered_per_s: sum(gateways.iter().map(|gateway| gateway.delivered_per_s)),
            dropped_per_s: sum(gateways.iter().map(|gateway| gateway.dropped_per_s)),
            sessions: gateways.iter().filter_map(|gateway| gateway.sessions).fold(0, u64::saturating_add),
            gateways,
            routers,
            problems: Vec::new(),
        };
        screen.problems = problems::of(trend, &screen);
        screen
    }
}

impl SortKey {
    /// What is sorted by, the highest first. What is not known comes last; equal rows stay in the order of names.
    fn of_gateway(self, row: &GatewayRow) -> f64 {
        let value = match self {
            Self::Name => None,
            Self::Sessions => row.sessions.map(|sessions| sessions as f64),
            Self::Drops => row.dropped_per_s,
            Self::Lag => row.total_p99_s,
        };
        value.unwrap_or(-1.0)
    }

    fn of_router(self, row: &RouterRow) -> f64 {
        let value = match self {
            Self::Lag => row.lag_s,
            Self::Name | Self::Sessions | Self::Drops => None,
        };
        value.unwrap_or(-1.0)
    }
}

/// A node, what it reports, and what it reported before.
struct Row<'a> {
    node: &'a str,
    state: State,
    report: Option<&'a Report>,
    before: Option<&'a Report>,
}

impl<'a> Row<'a> {
    fn of(node: &'a NodeAnswer, before: Option<&'a Report>) -> Self {
        Self { node: &node.node, state: state(node), report: node.report.as_ref(), before }
    }

    fn of_gone(gone: &'a GoneAnswer) -> Self {
        Self { node: &gone.node, state: State::Gone, report: None, before: None }
    }

    fn gateway(&self) -> GatewayRow {
        GatewayRow {
            node: self.node.to_owned(),
            state: self.state,
            sessions: self.number("sessions"),
            delivered_per_s: self.rate("delivered"),
            bytes_per_s: self.rate("bytes"),
            dropped_per_s: self.rate("dropped"),
            dropped_per_s_by: self.rates_by("dropped"),
            dropped: self.report.and_then(|report| Some(report.counts.get("dropped")?.total)),
            conflated_per_s: self.rate("conflated"),
            open_gaps: self.number("open_gaps"),
            queue_bytes: self.level("queue_bytes"),
            deliver_p99_s: self.time("deliver"),
            total_p99_s: self.time("total"),
        }
    }

    fn router(&self) -> RouterRow {
        let (hits, misses) = (self.rate("cache_hits"), self.rate("cache_misses"));
        let lookups = sum([hits, misses].into_iter()).filter(|lookups| *lookups > 0.0);
        RouterRow {
            node: self.node.to_owned(),
            state: self.state,
            partitions: self.number("partitions"),
            events_per_s: self.rate_of(|report| Some(count_by(report, "messages", "event"))),
            batches_per_s: self.rate("batches"),
            lag_s: self.level("lag_s"),
            pending: self.number("pending"),
            route_p99_s: self.time("route"),
            rule_revision: self.number("rule_revision"),
            cache_hits: hits.zip(lookups).map(|(hits, lookups)| hits / lookups),
        }
    }

    fn level(&self, name: &str) -> Option<f64> {
        self.report?.levels.get(name).copied()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.level(name).map(|level| level as u64)
    }

    fn time(&self, stage: &str) -> Option<f64> {
        self.report?.times.get(stage).copied().flatten()
    }

    fn rate(&self, count: &str) -> Option<f64> {
        self.rate_of(|report| Some(report.counts.get(count)?.total))
    }

    fn rates_by(&self, count: &str) -> BTreeMap<String, f64> {
        let reasons = self.report.and_then(|report| report.counts.get(count)).map(|count| count.by.keys());
        let rates = reasons.into_iter().flatten().filter_map(|reason| {
            let rate = self.rate_of(|report| Some(count_by(report, count, reason)))?;
            (rate > 0.0).then(|| (reason.clone(), rate))
        });
        rates.collect()
    }

    /// How fast a count grows, by the clock of the node.
    fn rate_of(&self, count: impl Fn(&Report) -> Option<u64>) -> Option<f64> {
        let (now, before) = (self.report?, self.before?);
        let millis = now.up_ms.checked_sub(before.up_ms).filter(|millis| *millis > 0)?;
        Some(count(now)?.saturating_sub(count(before)?) as f64 * 1_000.0 / millis as f64)
    }
}

/// A count of one value of its label. Its series begins with the first such count.
fn count_by(report: &Report, count: &str, label: &str) -> u64 {
    report.counts.get(count).and_then(|count| count.by.get(label)).copied().unwrap_or_default()
}

fn state(node: &NodeAnswer) -> State {
    match &node.report {
        None => State::Silent,
        Some(_) if node.draining => State::Draining,
        Some(report) if report.ready => State::Ready,
        Some(_) => State::NotReady,
    }
}

/// The sum of what is known; `None` if nothing is.
fn sum(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().reduce(|sum, value| sum + value)
}
