//! Listens to running nodes: their reports on the storage, and their names. The doctor stores nothing, so only the
//! nodes know whether NATS stores messages.

use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::time::Duration;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::Role;
use tickwire_core::placement::duplicate_names::NodeAnnouncement;
use tickwire_core::storage::{StorageProblem, StorageReport};
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::{Instant, timeout_at};

use super::{CheckFinding, Verdict};

/// How long to listen at least.
const LISTENING_TIME: Duration = Duration::from_millis(1_500);

/// How many messages to receive at most.
const MESSAGES: usize = 10_000;

/// Messages that arrive during the other checks.
pub(super) enum NodeReports {
    Listening { until: Instant, storage: async_nats::Subscriber, bearers: async_nats::Subscriber },
    Refused(String),
}

/// How long to listen: longer than a node needs to send everything once.
fn listening_time(beat_interval: Duration) -> Duration {
    LISTENING_TIME.max(beat_interval * 3 / 2)
}

/// Starts to listen. Each node sends its name every `beat_interval`.
pub(super) async fn listen(nats: &Nats, beat_interval: Duration) -> NodeReports {
    let storage = nats.client.subscribe(names::STORAGE).await;
    let bearers = nats.client.subscribe(names::name("*")).await;
    match (storage, bearers) {
        (Ok(storage), Ok(bearers)) => {
            NodeReports::Listening { until: Instant::now() + listening_time(beat_interval), storage, bearers }
        }
        (Err(error), _) | (_, Err(error)) => NodeReports::Refused(error.to_string()),
    }
}

impl NodeReports {
    /// Waits for the end of the time, and returns the findings.
    pub(super) async fn findings(self) -> Vec<CheckFinding> {
        let (until, mut storage, mut bearers) = match self {
            Self::Refused(reason) => return vec![CheckFinding::new(Verdict::Note, "nodes", reason)],
            Self::Listening { until, storage, bearers } => (until, storage, bearers),
        };
        let (mut reports, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..MESSAGES {
            let received = timeout_at(until, async {
                tokio::select! {
                    Some(message) = storage.next() => note_report(&mut reports, &message.payload),
                    Some(message) = bearers.next() => note_bearer(&mut nodes, &message.payload),
                    else => std::future::pending().await,
                }
            });
            if received.await.is_err() {
                break;
            }
        }
        findings(&reports, &nodes)
    }
}

/// Keeps the last report of each router.
fn note_report(reports: &mut BTreeMap<NodeRef, Vec<StorageProblem>>, payload: &[u8]) {
    if let Ok(report) = wire::decode::<StorageReport>(payload) {
        reports.insert(report.router, report.troubles);
    }
}

fn note_bearer(nodes: &mut BTreeMap<NodeRef, NodeAnnouncement>, payload: &[u8]) {
    if let Ok(announcement) = wire::decode::<NodeAnnouncement>(payload) {
        nodes.insert(announcement.node.clone(), announcement);
    }
}

/// Turns the received messages into findings.
fn findings(
    reports: &BTreeMap<NodeRef, Vec<StorageProblem>>,
    nodes: &BTreeMap<NodeRef, NodeAnnouncement>,
) -> Vec<CheckFinding> {
    let mut findings = Vec::new();
    let mut problems: Vec<&StorageProblem> = reports.values().flatten().collect();
    let by_stream = |trouble: &&StorageProblem| (trouble.stream.clone(), trouble.fault);
    problems.sort_by_key(by_stream);
    problems.dedup_by_key(|trouble| by_stream(trouble));
    findings.extend(problems.iter().map(|trouble| CheckFinding::new(Verdict::Fail, "storage", trouble.text.as_str())));
    let mut names: BTreeMap<&str, Vec<&NodeAnnouncement>> = BTreeMap::new();
    for announcement in nodes.values().filter(|announcement| !announcement.draining) {
        names.entry(announcement.node.id.as_str()).or_default().push(announcement);
    }
    for (name, bearers) in names.iter().filter(|(_, bearers)| bearers.len() > 1) {
        let who: Vec<String> = bearers.iter().map(ToString::to_string).collect();
        let found =
            format!("{} nodes bear the name {name}: {}; give each its own node.id", bearers.len(), who.join("; and "));
        findings.push(CheckFinding::new(Verdict::Fail, "names", found));
    }
    let count =
        |role| names.values().filter(|bearers| bearers.iter().any(|announcement| announcement.role == role)).count();
    let (routers, gateways) = (count(Role::Router), count(Role::Gateway));
    let one_sided = match (routers, gateways) {
        (0, 1..) => Some(format!(
            "running gateways: {gateways}, and no router answers: clients get no events; start one (tickwire router)"
        )),
        (1.., 0) => Some(format!(
            "running routers: {routers}, and no gateway answers: no client can connect; start one (tickwire gateway)"
        )),
        _ => None,
    };
    findings.extend(one_sided.map(|found| CheckFinding::new(Verdict::Fail, "nodes", found)));
    if findings.is_empty() {
        let found = match names.len() {
            0 => "no node answers: none runs, or this user may not subscribe to tw.>; whether NATS stores messages is \
                  unknown"
                .to_owned(),
            _ => format!(
                "running routers: {routers}, gateways: {gateways}; all names differ, and no router reports a storage \
                 problem"
            ),
        };
        findings.push(CheckFinding::new(if names.is_empty() { Verdict::Note } else { Verdict::Ok }, "nodes", found));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::storage::StorageFault;

    fn node(id: &str, nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new(id).unwrap(), nonce: Nonce(nonce) }
    }

    fn announcement(role: Role, id: &str, nonce: u64, host: &str) -> (NodeRef, NodeAnnouncement) {
        let admin = "127.0.0.1:1".to_owned();
        let node = node(id, nonce);
        (node.clone(), NodeAnnouncement { node, role, host: host.to_owned(), process: 7, admin, draining: false })
    }

    #[test]
    fn equal_storage_reports_and_equal_names_are_reported_once() {
        let text = "NATS does not store events".to_owned();
        let trouble =
            StorageProblem { stream: "EVENTS".to_owned(), fault: StorageFault::Sealed, stops_events: true, text };
        let reports = BTreeMap::from([(node("r1", 1), vec![trouble.clone()]), (node("r2", 1), vec![trouble])]);
        let nodes = BTreeMap::from([
            announcement(Role::Router, "r1", 1, "a"),
            announcement(Role::Router, "r2", 1, "a"),
            announcement(Role::Router, "r2", 2, "b"),
        ]);
        let found = findings(&reports, &nodes);
        let [storage, names, one_sided] = &found[..] else { panic!("{found:?}") };
        assert_eq!((storage.verdict, storage.what.as_str()), (Verdict::Fail, "storage"));
        assert_eq!((names.verdict, names.what.as_str()), (Verdict::Fail, "names"));
        assert_eq!((one_sided.verdict, one_sided.what.as_str()), (Verdict::Fail, "nodes"));
        for part in ["2 nodes bear the name r2", "host a", "host b"] {
            assert!(names.found.contains(part), "{part} is not in {}", names.found);
        }
    }

    #[test]
    fn listening_time_grows_with_the_beat_interval() {
        let listening_time =
            [20, 500, 1_000, 10_000].map(|millis| listening_time(Duration::from_millis(millis)).as_millis());
        assert_eq!(listening_time, [1_500, 1_500, 1_500, 15_000]);
    }

    #[test]
    fn healthy_cluster_passes_absent_one_is_noted_and_a_single_role_fails() {
        let verdicts = |nodes| findings(&BTreeMap::new(), &nodes).iter().map(|found| found.verdict).collect::<Vec<_>>();
        let router = announcement(Role::Router, "r1", 1, "a");
        assert_eq!(verdicts(BTreeMap::from([router.clone()])), [Verdict::Fail]);
        assert_eq!(verdicts(BTreeMap::from([router, announcement(Role::Gateway, "g1", 1, "a")])), [Verdict::Ok]);
        assert_eq!(verdicts(BTreeMap::new()), [Verdict::Note]);
        assert_eq!(verdicts(BTreeMap::from([announcement(Role::Gateway, "g1", 1, "a")])), [Verdict::Fail]);
    }
}
