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
use crate::http::{Answer, send};
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
pub(crate) async fn applied(cluster: &mut Cluster, revision: u64) {
    eventually("every router has the rules", DEADLINE, async || {
        let mut all = true;
        for router in &mut cluster.routers {
            all &= router.metrics().await.get("tickwire_router_rule_revision") == revision as f64;
        }
        all.then_some(())
    })
    .await;
}

/// Waits until the first router says that it skips this number of rules.
async fn skipped(cluster: &mut Cluster, count: f64) {
    eventually("the skipped rules are counted", DEADLINE, async || {
        (cluster.routers[0].metrics().await.get("tickwire_router_rules_skipped") == count).then_some(())
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
    assert!(errors.contains(&format!("written at {}\n", cluster.nats_url())), "{errors}");
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

    // Most of that was decided by the route cache, before the change of the rules and after it.
    for stage in ["stage=\"rules\"", "stage=\"interest\""] {
        eventually(&format!("lookups with {stage} have hit"), DEADLINE, async || {
            let metrics = cluster.routers[0].metrics().await;
            let count = |what: &str| metrics.get_labelled(&format!("tickwire_router_route_cache_{what}"), stage);
            (count("hits_total") > count("misses_total") && count("entries") > 0.0).then_some(())
        })
        .await;
    }
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
    skipped(&mut cluster, 1.0).await;
    cluster.producer().await.publish_all(&[event(0)]).await;
    socket.until(1).await;
    assert!(socket.events[0].tags.iter().any(|tag| tag == "ruled"), "{:?}", socket.events[0]);

    let (code, list, errors) = run(&["rules", "list", "--nats", &url]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        list.starts_with("revision 2, 1 rule\n") && list.contains("skipped by routers:\n  bad: ttl_ms: "),
        "{list}"
    );
    let (code, copy, errors) = run(&["rules", "list", "--json", "--nats", &url]);
    let stored = json!([{ "id": "bad", "ttl_ms": 0 }, good]);
    assert_eq!((code, serde_json::from_str::<Value>(&copy).unwrap()), (Some(0), stored), "{errors}");
    let (code, _, errors) = put(&cluster, &good, &["--if-match", "7"]);
    assert_eq!((code, errors.contains("somebody else has changed it")), (Some(1), true), "{errors}");
    let (code, _, errors) = put(&cluster, &json!({ "id": "worse" }), &[]);
    assert_eq!((code, errors.contains("worse: rule: it does nothing")), (Some(2), true), "{errors}");
    let (code, rule, errors) = run(&["rules", "get", "good", "--nats", &url]);
    assert_eq!((code, serde_json::from_str::<Value>(&rule).unwrap()), (Some(0), good), "{errors}");

    for id in ["bad", "good"] {
        assert_eq!(run(&["rules", "delete", id, "--nats", &url]).0, Some(0), "{id}");
    }
    assert_eq!(run(&["rules", "delete", "good", "--nats", &url]).0, Some(1));
    // A copy of no rules is put back without an error, so that a script goes on.
    let (code, copy, errors) = run(&["rules", "list", "--json", "--nats", &url]);
    assert_eq!((code, serde_json::from_str::<Value>(&copy).unwrap()), (Some(0), json!([])), "{errors}");
    let (code, output, errors) = put(&cluster, &json!([]), &[]);
    assert_eq!((code, output.as_str()), (Some(0), "nothing was written: the list has no rules\n"), "{errors}");
    applied(&mut cluster, 4).await;
    skipped(&mut cluster, 0.0).await;
    cluster.producer().await.publish_all(&[event(1)]).await;
    socket.until(2).await;
    assert!(!socket.events[1].tags.iter().any(|tag| tag == "ruled"), "{:?}", socket.events[1]);
}

/// The code of a refusal with this status.
fn code(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    answer.json()["code"].as_str().unwrap().to_owned()
}

/// The revision that an answer has as its entity tag and in its body.
fn revision(answer: &Answer) -> u64 {
    let revision = answer.json()["revision"].as_u64().unwrap();
    assert_eq!((answer.status, answer.header("etag")), (200, Some(format!("\"{revision}\"").as_str())), "{answer:?}");
    revision
}

#[tokio::test]
async fn operators_change_rules_over_http_only_if_nobody_else_has_changed_them() {
    let mut cluster = Cluster::start(1, 1).await;
    let admin = cluster.routers[0].address("admin").await;
    let put = async |id: &str, condition: (&str, &str), rule: Value| {
        send("PUT", admin, &format!("/v1/rules/{id}"), &[condition], rule.to_string().as_bytes()).await
    };
    let tagged = |tag: &str| json!({ "id": "hot", "when": { "type": "Doji" }, "add_tags": [tag] });
    let (new, first, second) = (("If-None-Match", "*"), ("If-Match", "\"1\""), ("If-Match", "\"2\""));
    let written = put("hot", new, tagged("one")).await;
    assert_eq!((revision(&written), &written.json()["updated_by"]), (1, &json!("127.0.0.1 without a token")));
    assert_eq!(code(&put("hot", new, tagged("two")).await, 412), "other_revision");
    assert_eq!(revision(&put("hot", first, tagged("two")).await), 2);
    assert_eq!(code(&put("hot", first, tagged("three")).await, 412), "other_revision");
    let unknown = json!({ "id": "none", "when": { "type": "Doji" }, "add_tags": ["three"] });
    assert_eq!(code(&put("none", ("If-Match", "*"), unknown).await, 412), "other_revision");
    assert_eq!(code(&put("hot", ("If-Match", "2"), tagged("three")).await, 400), "bad_precondition");
    assert_eq!(code(&put("a.b", new, tagged("three")).await, 400), "bad_rule_id");

    // A rule with a mistake is refused with its path and a hint, and nothing is written.
    for (id, rule, path) in [
        ("hot", json!({ "id": "hot", "ttl_ms": 0 }), "ttl_ms"),
        ("warm", tagged("three"), "id"),
        ("hot", json!(7), "rule"),
    ] {
        let refused = put(id, if id == "warm" { new } else { second }, rule).await;
        assert_eq!(code(&refused, 422), "bad_rule");
        let body = refused.json();
        let (found, hint) = (&body["path"], &body["hint"]);
        assert_eq!((found.as_str(), hint.as_str().is_some_and(|hint| !hint.is_empty())), (Some(path), true));
    }
    let stored = send("GET", admin, "/v1/rules/hot", &[], b"").await;
    assert_eq!((revision(&stored), &stored.json()["rule"]), (2, &tagged("two")));
    assert_eq!(stored.json()["skipped"], Value::Null);

    let delete = async |condition: (&str, &str)| send("DELETE", admin, "/v1/rules/hot", &[condition], b"").await;
    assert_eq!(code(&delete(first).await, 412), "other_revision");
    assert_eq!(delete(second).await.status, 204);
    assert_eq!(code(&delete(second).await, 404), "no_such_rule");
    assert_eq!(code(&send("GET", admin, "/v1/rules/hot", &[], b"").await, 404), "no_such_rule");
}

#[tokio::test]
async fn list_shows_how_much_a_router_uses_each_rule_and_which_it_skips() {
    let mut cluster = Cluster::start(1, 1).await;
    let admin = cluster.routers[0].address("admin").await;
    let rules = json!([
        { "id": "doji", "when": { "type": "Doji" }, "add_tags": ["hot"] },
        { "id": "other", "order": 1, "when": { "type": "Engulfing" }, "add_tags": ["hot"] },
    ]);
    assert_eq!(put(&cluster, &rules, &[]).0, Some(0));
    let store = jetstream::new(cluster.client.clone()).get_key_value(names::RULES_BUCKET).await.unwrap();
    store.put("junk", "{".into()).await.unwrap();
    applied(&mut cluster, 3).await;
    let events: Vec<ProducerMessage> = (0..10).map(event).collect();
    cluster.producer().await.publish_all(&events).await;
    let list = eventually("all events have met the rules", DEADLINE, async || {
        let list = send("GET", admin, "/v1/rules", &[], b"").await.json();
        (list["rules"][0]["usage"]["matched"] == 5).then_some(list)
    })
    .await;
    assert_eq!((&list["revision"], list["rules"].as_array().unwrap().len()), (&json!(3), 3));
    let ids: Vec<&str> = (0..3_usize).map(|place| list["rules"][place]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["doji", "other", "junk"]);
    let [used, unused, skipped] = [0_usize, 1, 2].map(|place| &list["rules"][place]);
    assert!(used["usage"]["last_used"].is_string() && used["usage"]["spent_ns"].as_u64().unwrap() > 0, "{used}");
    assert_eq!((&unused["usage"]["matched"], &unused["usage"]["last_used"]), (&json!(0), &Value::Null));
    assert_eq!((&used["revision"], &used["skipped"], &used["rule"]), (&json!(1), &Value::Null, &rules[0]));
    assert_eq!((&skipped["revision"], &skipped["skipped"]["path"]), (&json!(3), &json!("rule")));
}
