//! Listens to running nodes: their reports on the storage, and their names. The doctor stores nothing, so only the
//! nodes know whether NATS stores messages.

use std::collections::BTreeMap;
use std::time::Duration;
use tickwire_core::ids::{NodeRef, Nonce};
use tickwire_core::placement::Role;
use tickwire_core::placement::duplicate_names::NodeAnnouncement;
use tickwire_core::storage::{StorageProblem, StorageReport};
use tickwire_core::wire;
use tickwire_node::link::LinkSubscriber;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::{Instant, timeout_at};

use super::{CheckFinding, Verdict};

/// How long to listen at least.
const LISTENING_TIME: Duration = Duration::from_millis(1_500);

/// How many messages to receive at most, and how many bytes of each of both kinds may wait.
const MESSAGES: usize = 10_000;
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// What is kept of them: so many routers that report on the storage, so many problems of each, so many nodes of one
/// name, and so many bytes of each text. A stranger may send more.
const MOST_ROUTERS: usize = 1_000;
const MOST_PROBLEMS: usize = 8;
const MOST_BEARERS: usize = 16;
const MOST_TEXT: usize = 512;

/// Messages that arrive during the other checks.
pub(super) enum NodeReports {
    Listening { until: Instant, storage: LinkSubscriber, bearers: LinkSubscriber },
    Refused(String),
}

/// How long to listen: longer than a node needs to send everything once.
fn listening_time(beat_interval: Duration) -> Duration {
    LISTENING_TIME.max(beat_interval * 3 / 2)
}

/// Starts to listen. Each node sends its name every `beat_interval`.
pub(super) fn listen(nats: &Nats, beat_interval: Duration) -> NodeReports {
    let storage = nats.link.subscribe("storage", names::STORAGE, None, WAITING_BYTES);
    let bearers = nats.link.subscribe("namesakes", &names::name("*"), None, WAITING_BYTES);
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
                    Some(message) = storage.next() => note_report(&mut reports, message.payload()),
                    Some(message) = bearers.next() => note_bearer(&mut nodes, message.subject(), message.payload()),
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
    let Ok(StorageReport { router, mut troubles }) = wire::decode(payload) else { return };
    troubles.truncate(MOST_PROBLEMS);
    troubles.iter_mut().flat_map(|trouble| [&mut trouble.stream, &mut trouble.text]).for_each(cut);
    if reports.len() < MOST_ROUTERS || reports.contains_key(&router) {
        reports.insert(router, troubles);
    }
}

/// Keeps the last announcement of each node. One on the subject of another name is not of that node: NATS lets each
/// gateway announce its own name alone.
fn note_bearer(nodes: &mut BTreeMap<NodeRef, NodeAnnouncement>, subject: &[u8], payload: &[u8]) {
    let Ok(mut announcement) = wire::decode::<NodeAnnouncement>(payload) else { return };
    let node = announcement.node.clone();
    if subject != names::name(node.id.as_str()).as_bytes() {
        return;
    }
    [&mut announcement.host, &mut announcement.admin].into_iter().for_each(cut);
    let of_name = |nonce| NodeRef { id: node.id.clone(), nonce: Nonce(nonce) };
    let bearers = nodes.range(of_name(0)..=of_name(u64::MAX)).count();
    if bearers < MOST_BEARERS || nodes.contains_key(&node) {
        nodes.insert(node, announcement);
    }
}

/// Cuts a text of a node, and gives back the memory.
fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    text.shrink_to_fit();
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
            "running gateways: {gateways}, and no router answers: clients get no events; start one (tickwire router), \
             or see in the /readyz of those that run whether they reach NATS"
        )),
        (1.., 0) => Some(format!(
            "running routers: {routers}, and no gateway answers: no client can connect; start one (tickwire gateway), \
             or see in the /readyz of those that run whether they reach NATS"
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
    use tickwire_core::ids::NodeId;
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
    fn announcement_on_the_subject_of_another_name_does_not_count() {
        let mut nodes = BTreeMap::new();
        let mut note = |subject: &str, id: &str, nonce| {
            let (_, announcement) = announcement(Role::Gateway, id, nonce, "a");
            note_bearer(&mut nodes, subject.as_bytes(), &wire::encode(&announcement).unwrap());
        };
        note("tw.name.g1", "g1", 1);
        note("tw.name.g2", "r1", 2);
        note("tw.name.r1.x", "r1", 3);
        assert_eq!(nodes.into_keys().collect::<Vec<_>>(), [node("g1", 1)]);
    }

    #[test]
    fn what_strangers_send_is_kept_in_bounds() {
        let (long, mut nodes, mut reports) = ("x".repeat(100_000), BTreeMap::new(), BTreeMap::new());
        let trouble = StorageProblem {
            stream: long.clone(),
            fault: StorageFault::Full,
            stops_events: true,
            text: "é".repeat(100_000),
        };
        for nonce in 0..1_100 {
            let (router, announced) = announcement(Role::Router, "r1", nonce, &long[..1_000]);
            note_bearer(&mut nodes, b"tw.name.r1", &wire::encode(&announced).unwrap());
            let troubles = vec![trouble.clone(); if nonce == 0 { 20 } else { 0 }];
            note_report(&mut reports, &wire::encode(&StorageReport { router, troubles }).unwrap());
        }
        assert_eq!((nodes.len(), reports.len()), (MOST_BEARERS, MOST_ROUTERS));
        assert!(nodes.values().all(|announced| announced.host.len() == MOST_TEXT));
        let kept = &reports[&node("r1", 0)];
        assert_eq!(kept.len(), MOST_PROBLEMS);
        assert!(kept.iter().all(|kept| kept.stream.len() == MOST_TEXT && kept.text.len() == MOST_TEXT));
        // A later one of a node that is known replaces its former one.
        let (_, announced) = announcement(Role::Router, "r1", 3, "b");
        note_bearer(&mut nodes, b"tw.name.r1", &wire::encode(&announced).unwrap());
        assert_eq!((nodes.len(), nodes[&node("r1", 3)].host.as_str()), (MOST_BEARERS, "b"));
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
