//! The logs alone say why a user missed events: who was connected where, what was dropped and why, and what a resume
//! has brought.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::position::Position;
use tickwire_testkit::eventually;

use crate::cluster::{Cluster, PARTITIONS, PATIENT};
use crate::node::{DEADLINE, TestNode};
use crate::oracle::filter;
use crate::producer::ProducerMessage;
use crate::socket::{Incoming, Socket, query};

/// How much each event takes, so that a client that does not read is soon behind.
const EVENT_BYTES: usize = 8 * 1024;

/// What these tests need beside the settings of others: little may wait for a client, and it may read slowly for long.
const SETTINGS: [(&str, &str); 2] = [("gateway.outbox_bytes", "65536"), ("gateway.slow_deadline", "60s")];

/// The lines of a node with this message, and with these fields of their span.
fn lines(node: &TestNode, message: &str, span: &Value) -> Vec<Value> {
    let text = node.process.stderr();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_span = |line: &Value| span.as_object().unwrap().iter().all(|(name, value)| line["span"][name] == *value);
    lines.filter(|line| line["message"] == message && of_span(line)).collect()
}

/// The one line of a node with this message about a user, once it is there.
pub(crate) async fn line(node: &TestNode, message: &str, user: &str) -> Value {
    let what = format!("{} logs {message:?} of {user}", node.id);
    let found = eventually(&what, DEADLINE, async || {
        Some(lines(node, message, &json!({ "name": "session", "user": user }))).filter(|lines| !lines.is_empty())
    });
    let [line] = &found.await[..] else { panic!("{what} more than once") };
    line.clone()
}

fn large(number: usize) -> ProducerMessage {
    let event =
        json!({ "pattern": "BreakoutBO", "priority": "high", "number": number, "padding": "x".repeat(EVENT_BYTES) });
    ProducerMessage::json("pattern", "AAPL", &event)
}

#[tokio::test]
async fn the_logs_say_what_a_slow_client_missed_and_that_it_resumed_elsewhere() {
    let mut cluster = Cluster::start_with(1, 2, &SETTINGS).await;
    let gateways = cluster.gateway_addresses().await;
    let wanted = json!({ "symbols": ["AAPL"] });
    let mut ann = Socket::open_narrow(gateways[0], &query("ann"), Encoding::Json).await;
    let welcome = ann.welcome().await;
    ann.subscribe("mine", &wanted).await;

    // It does not read, and so events are dropped.
    let producer = cluster.producer().await;
    let events: Vec<ProducerMessage> = (0..600).map(large).collect();
    producer.publish_all(&events).await;
    eventually("events are dropped", DEADLINE, async || {
        let metrics = cluster.gateways[0].metrics().await;
        (metrics.get("tickwire_gateway_shard_events_total") > 0.0
            && metrics.get("tickwire_gateway_dropped_events_total") > 100.0)
            .then_some(())
    })
    .await;
    let log = cluster.log().await;
    ann.catch_up(&log.end()).await;
    let dropped: u64 = ann.notices.iter().map(|notice| notice.dropped).sum();
    assert_eq!(ann.events.len() as u64 + dropped, 600, "nothing is lost in silence");
    let ranges = || ann.notices.iter().flat_map(|notice| &notice.ranges);
    let first = ranges().map(|range| range.first.0).min().unwrap();
    let last = ranges().map(|range| range.last.0).max().unwrap();
    let (received, notices) = (ann.events.len(), ann.notices.len());

    // While it is connected, a line says so: one every five seconds, if that takes so long.
    let of = |misses: &[Value], field: &str| -> Vec<u64> {
        misses.iter().map(|line| line[field].as_u64().unwrap()).collect()
    };
    let misses = eventually("the log says what is missed", DEADLINE, async || {
        let session = json!({ "name": "session", "user": "ann" });
        let misses = lines(&cluster.gateways[0], "session misses events", &session);
        (of(&misses, "dropped").iter().sum::<u64>() >= dropped).then_some(misses)
    })
    .await;
    let sum = |field: &str| of(&misses, field).iter().sum::<u64>();
    let sums = ["dropped", "slow_consumer", "gaps"].map(sum);
    assert_eq!(sums, [dropped, dropped, 0], "{misses:?}");
    let ends = (of(&misses, "first").into_iter().min(), of(&misses, "last").into_iter().max());
    assert_eq!(ends, (Some(first), Some(last)), "{misses:?}");

    // It breaks off, misses something, and resumes at the other gateway.
    let position = ann.position.clone();
    producer.publish_all(&(600..605).map(large).collect::<Vec<_>>()).await;
    ann.until(received + 5).await;
    ann.resume(gateways[1], "ann", &json!({ "mine": { "filter": wanted } })).await;
    assert!(ann.caught_up().await.resumed);
    producer.publish_all(&(605..610).map(large).collect::<Vec<_>>()).await;
    ann.until(received + 10).await;
    let opened = line(&cluster.gateways[0], "session opened", "ann").await;
    let closed = line(&cluster.gateways[0], "session closed", "ann").await;
    let span = json!({
        "name": "session", "session": welcome.session, "user": "ann", "peer": "127.0.0.1",
        "gateway": "gateway-2", "shard": opened["span"]["shard"],
    });
    assert_eq!((&opened["span"], &closed["span"]), (&span, &span));
    let expected = json!({
        "code": null, "reason": "the client left, or its connection broke", "welcomed": true, "resumed": false,
        "events": received + 5, "unsent": 0, "dropped": dropped, "slow_consumer": dropped, "throttled": 0, "quota": 0,
        "expired": 0, "conflated": 0, "delayed": 0, "gaps": 0, "first": first, "last": last, "notices": notices,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(closed[field], *value, "{field}: {closed}");
    }
    assert!(closed["bytes"].as_u64().unwrap() > (received * EVENT_BYTES) as u64, "{closed}");

    // The other gateway says from where on, and that nothing more is missing.
    let other = &cluster.gateways[1];
    let resumes = line(other, "session resumes", "ann").await;
    let place = |text: &str| text.parse::<Position>().unwrap();
    let (from, position) = (place(resumes["position"].as_str().unwrap()), place(&position));
    assert_eq!(from.epoch_id, position.epoch_id);
    // What came after the position is named beside it.
    let key = cluster.log().await.entries[0].partition;
    for (p, (from, position)) in from.seqs.iter().zip(&position.seqs).enumerate() {
        assert!(from == position || (p == usize::from(key.0) && from > position), "{p}: {resumes}");
    }
    assert_eq!(line(other, "session caught up", "ann").await["complete"], json!(true));
    let (log, mine) = (cluster.log().await, filter(&wanted));
    let missed = log.matching("ann", &[mine]).len() - ann.events.len();
    assert_eq!((missed as u64, ann.gaps.len()), (dropped, 0), "what the logs say is all");

    // It is sent away with a code.
    cluster.gateways[1].process.terminate();
    let code = loop {
        if let Incoming::Closed(code, _) = ann.next().await {
            break code;
        }
    };
    cluster.gateways[1].process.wait(DEADLINE).await;
    let closed = line(&cluster.gateways[1], "session closed", "ann").await;
    for (field, value) in [("code", json!(code)), ("resumed", json!(true)), ("events", json!(5))] {
        assert_eq!(closed[field], value, "{field}: {closed}");
    }
}

#[tokio::test]
async fn the_logs_say_which_router_owned_a_partition() {
    let mut cluster = Cluster::start_with(1, 1, &PATIENT).await;
    let router = &cluster.routers[0];
    // The partitions, and what has no partition.
    let owned = eventually("all is owned", DEADLINE, async || {
        let owned = lines(router, "partition owned", &json!({ "name": "partition" }));
        (owned.len() > PARTITIONS as usize).then_some(owned)
    })
    .await;
    assert_eq!(owned.len(), PARTITIONS as usize + 1);
    cluster.routers[0].process.terminate();
    assert!(cluster.routers[0].process.wait(DEADLINE).await.success());
    let over = lines(&cluster.routers[0], "partition no longer owned", &json!({ "name": "partition" }));
    assert_eq!(over.len(), owned.len());
    for (owned, over) in owned.iter().map(|owned| (owned, over.iter().find(|over| over["span"] == owned["span"]))) {
        let over = over.unwrap_or_else(|| panic!("{owned} is never over"));
        assert_eq!(
            (&over["reason"], over["from"].to_string()),
            (&json!("released"), owned["checkpoint"].as_str().unwrap().to_owned())
        );
        assert!(over["through"].as_u64() >= over["from"].as_u64(), "{over}");
    }
}

/// A node that could not start has left a line of plain text, at which `jq` alone would end.
#[test]
fn commands_of_operations_skip_lines_that_are_no_json() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let commands: Vec<&str> = document.lines().filter(|line| line.contains(".log | jq")).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        let flags = command.split_once("jq -").and_then(|(_, rest)| rest.split_once(" 'fromjson? | select("));
        assert!(flags.is_some_and(|(flags, _)| flags.contains('R')), "{command}");
    }
}

#[tokio::test]
async fn node_without_nats_says_in_its_log_why_it_does_not_reach_it() {
    let mut cluster = Cluster::start(1, 0).await;
    cluster.nats[0].kill();
    let router = &cluster.routers[0];
    let found = eventually("the log has the reason", DEADLINE, async || {
        let lines = lines(router, "cannot reach NATS for reading, trying again", &json!({}));
        lines.into_iter().find(|line| line["reason"].as_str().is_some_and(|reason| reason.contains("refused")))
    })
    .await;
    assert_eq!(found["level"], "WARN");
}
