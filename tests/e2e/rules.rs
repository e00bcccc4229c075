//! Rules: routers apply them to the events that flow, and skip those that are not valid.

use async_nats::jetstream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use tickwire_core::event::Priority;
use tickwire_core::protocol::{Encoding, ReceivedEvent};
use tickwire_node::names;
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::commands::run;
use crate::node::DEADLINE;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// Writes rules by the command, and returns what it printed.
fn put(cluster: &Cluster, rules: &Value, further: &[&str]) -> (Option<i32>, String, String) {
    let file = cluster.home().join("rules.json");
    fs::write(&file, rules.to_string()).unwrap();
    run(&[&["rules", "put", file.to_str().unwrap(), "--nats", &cluster.nats_url()][..], further].concat())
}

/// Waits until every router applies the rules of this revision.
async fn applied(cluster: &mut Cluster, revision: u64) {
    eventually("every router has the rules", DEADLINE, async || {
        let mut all = true;
        for router in &mut cluster.routers {
            all &= router.metrics().await.get("tickwire_router_rule_revision") == revision as f64;
        }
        all.then_some(())
    })
    .await;
}

/// The event with this number: every second one is a Doji.
fn event(number: usize) -> ProducerMessage {
    let pattern = if number.is_multiple_of(2) { "Doji" } else { "Hammer" };
    let event = json!({ "id": number.to_string(), "pattern": pattern, "confidence": 0.5 });
    ProducerMessage::json("pattern", &format!("S{}", number % 16), &event)
}

#[tokio::test]
async fn rule_changes_and_drops_flowing_events_without_a_gap_or_a_loss() {
    let mut cluster = Cluster::start(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let flow = cluster.producer().await.flow(Duration::from_millis(2), event);
    flow.more(100).await;
    let before = cluster.log().await.entries.last().unwrap().seq;

    let rules = json!([
        { "id": "quiet", "when": { "type": "Doji" }, "drop": true },
        { "id": "hot", "order": 1, "when": { "type": "Hammer" }, "set_priority": "critical", "add_tags": ["hot"] },
    ]);
    let (code, output, errors) = put(&cluster, &rules, &[]);
    assert_eq!((code, output.as_str()), (Some(0), "hot has revision 1\nquiet has revision 2\n"), "{errors}");
    applied(&mut cluster, 2).await;
    let after = cluster.log().await.entries.last().unwrap().seq;
    flow.more(200).await;
    // A router that starts has the rules before it routes its first event.
    cluster.add_router();
    cluster.settled().await;
    flow.more(200).await;
    let published = flow.stop().await;

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), published);
    socket.catch_up(&log.end()).await;
    assert_eq!(socket.gaps, []);
    let mut received: BTreeMap<_, &ReceivedEvent> = BTreeMap::new();
    for event in &socket.events {
        assert!(received.insert(event.seq, event).is_none(), "received twice: {event:?}");
    }
    for entry in &log.entries {
        let found = received.remove(&entry.seq);
        let is_doji = entry.event.pattern.as_ref().is_some_and(|pattern| pattern.as_str() == "Doji");
        let changed = found.map(|event| {
            let is_hot = event.tags.iter().any(|tag| tag == "hot");
            assert_eq!(is_hot, event.priority == Priority::Critical, "{event:?}");
            is_hot
        });
        match (is_doji, entry.seq) {
            (true, seq) if seq <= before => assert_eq!(changed, Some(false), "{entry:?}"),
            (true, seq) if seq > after => assert_eq!(changed, None, "{entry:?}"),
            (true, _) => assert_ne!(changed, Some(true), "{entry:?}"),
            (false, seq) if seq <= before => assert_eq!(changed, Some(false), "{entry:?}"),
            (false, seq) if seq > after => assert_eq!(changed, Some(true), "{entry:?}"),
            (false, _) => assert!(changed.is_some(), "{entry:?}"),
        }
    }
    assert!(received.is_empty(), "never published: {received:?}");
}

#[tokio::test]
async fn bad_rule_in_the_bucket_is_skipped_and_listed() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let url = cluster.nats_url();
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let good = json!({ "id": "good", "add_tags": ["ruled"] });
    assert_eq!(put(&cluster, &good, &["--if-match", "0"]).0, Some(0));
    let store = jetstream::new(cluster.client.clone()).get_key_value(names::RULES_BUCKET).await.unwrap();
    let bad = json!({ "rule": { "id": "bad", "ttl_ms": 0 } }).to_string();
    assert_eq!(store.put("bad", bad.into()).await.unwrap(), 2);
    applied(&mut cluster, 2).await;
    assert_eq!(cluster.routers[0].metrics().await.get("tickwire_router_rules_skipped"), 1.0);
    cluster.producer().await.publish_all(&[event(0)]).await;
    socket.until(1).await;
    assert!(socket.events[0].tags.iter().any(|tag| tag == "ruled"), "{:?}", socket.events[0]);

    let (code, list, errors) = run(&["rules", "list", "--nats", &url]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        list.starts_with("revision 2, 1 rule\n") && list.contains("skipped by routers:\n  bad: ttl_ms: "),
        "{list}"
    );
    let (code, _, errors) = put(&cluster, &good, &["--if-match", "7"]);
    assert_eq!((code, errors.contains("changed by somebody else")), (Some(1), true), "{errors}");
    let (code, _, errors) = put(&cluster, &json!({ "id": "worse" }), &[]);
    assert_eq!((code, errors.contains("worse: rule: it does nothing")), (Some(2), true), "{errors}");
    let (code, rule, errors) = run(&["rules", "get", "good", "--nats", &url]);
    assert_eq!((code, serde_json::from_str::<Value>(&rule).unwrap()), (Some(0), good), "{errors}");

    for id in ["bad", "good"] {
        assert_eq!(run(&["rules", "delete", id, "--nats", &url]).0, Some(0), "{id}");
    }
    assert_eq!(run(&["rules", "delete", "good", "--nats", &url]).0, Some(1));
    applied(&mut cluster, 4).await;
    assert_eq!(cluster.routers[0].metrics().await.get("tickwire_router_rules_skipped"), 0.0);
    cluster.producer().await.publish_all(&[event(1)]).await;
    socket.until(2).await;
    assert!(!socket.events[1].tags.iter().any(|tag| tag == "ruled"), "{:?}", socket.events[1]);
}
