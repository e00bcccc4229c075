//! What is wrong, in one line each: what nodes report of their health, and what only the whole shows. Pure.

use serde::Serialize;
use tickwire_core::placement::Role;

use super::numbers;
use super::reading::Trend;
use super::screen::{GatewayRow, Screen, State};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    Error,
    Warning,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ProblemRow {
    pub(super) grade: Grade,
    /// The node that has it; `None` if it is one of the cluster.
    pub(super) node: Option<String>,
    /// The part of the node's health, or `silent`, `gone`, `dropping`, `partitions`, `coordinator`, `admin`.
    pub(super) part: String,
    pub(super) message: String,
}

/// The problems, errors first.
pub(super) fn of(trend: &Trend, screen: &Screen) -> Vec<ProblemRow> {
    let mut problems = of_cluster(trend, screen);
    problems.extend(trend.now.nodes.values().filter(|node| node.report.is_none()).map(|node| {
        let message = "does not answer over NATS: it is dead, frozen, cut off, or of an older version";
        of_node(Grade::Error, &node.node, "silent", message)
    }));
    problems.extend(trend.now.gone.values().map(|gone| {
        let (role, ago) = (gone.role.as_str(), gone.ago_ms / 1_000);
        let message =
            format!("the {role} left the member view {ago} s ago without a goodbye: it died, hangs, or is cut off");
        of_node(Grade::Warning, &gone.node, "gone", &message)
    }));
    for node in trend.now.nodes.values() {
        let reported = node.report.iter().flat_map(|report| &report.problems);
        problems.extend(reported.map(|problem| {
            let grade = if problem.status == "error" { Grade::Error } else { Grade::Warning };
            of_node(grade, &node.node, &problem.part, &problem.message)
        }));
    }
    problems.extend(screen.gateways.iter().filter_map(dropping));
    problems.sort_by_key(|problem| problem.grade);
    problems
}

fn of_cluster(trend: &Trend, screen: &Screen) -> Vec<ProblemRow> {
    let of = |grade, part: &str, message: String| ProblemRow { grade, node: None, part: part.to_owned(), message };
    let lost = trend
        .lost
        .iter()
        .map(move |fault| of(Grade::Error, "admin", format!("{fault}; what is shown is the last reading")));
    let faults = trend.now.faults.iter().map(move |fault| of(Grade::Warning, "admin", fault.clone()));
    // A silent router may own partitions, and be the coordinator.
    let knows_routers = screen.routers.iter().all(|router| router.state != State::Silent);
    let unowned = screen.partitions.saturating_sub(screen.owned);
    let unowned = (knows_routers && unowned > 0).then(|| {
        let message = format!("no router owns {unowned} of {} partitions: their events wait", screen.partitions);
        of(Grade::Error, "partitions", message)
    });
    let uncoordinated = (knows_routers && screen.coordinator.is_none()).then(|| {
        let routers = trend.now.nodes.values().filter(|node| node.role == Role::Router).count();
        let message = match routers {
            0 => "there is no router: start one (tickwire router)".to_owned(),
            _ => "no router is the coordinator: the member view does not change".to_owned(),
        };
        of(Grade::Warning, "coordinator", message)
    });
    lost.chain(faults).chain(unowned).chain(uncoordinated).collect()
}

/// Which events a gateway drops now.
fn dropping(gateway: &GatewayRow) -> Option<ProblemRow> {
    let rate = gateway.dropped_per_s.filter(|rate| *rate > 0.0)?;
    let by = gateway.dropped_per_s_by.iter();
    let reasons: Vec<String> = by.map(|(reason, rate)| format!("{reason} {}", numbers::rate(Some(*rate)))).collect();
    let message = format!("drops {} events/s: {}", numbers::rate(Some(rate)), reasons.join(", "));
    Some(of_node(Grade::Warning, &gateway.node, "dropping", &message))
}

fn of_node(grade: Grade, node: &str, part: &str, message: &str) -> ProblemRow {
    ProblemRow { grade, node: Some(node.to_owned()), part: part.to_owned(), message: message.to_owned() }
}
