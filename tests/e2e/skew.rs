//! A rolling upgrade: a cluster of an earlier version is replaced node by node by the binary under test, routers first,
//! while the clients of a ledger stay. Then one node of each role goes back. Nothing is lost, and the nodes of both
//! versions answer each other's questions.
//!
//! `make skew-test PREVIOUS=<revision>` builds the earlier binary, and runs this test.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tickwire_core::placement::Role;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::feed;
use crate::http::send;
use crate::ledger::book::{Crowd, DEFAULTS_CROWD, Ledger, seed};
use crate::ledger::reader::SETTLE;
use crate::node::{DEADLINE, get};
use crate::rules;
use crate::socket::Socket;

/// The variable that names the binary of the earlier version.
const PREVIOUS: &str = "TICKWIRE_PREVIOUS";

/// Nobody is slow: a client misses only what its rate drops, with a notice.
const CROWD: Crowd = Crowd { slow: 0, ..DEFAULTS_CROWD };

/// How long a node may take to stop: `node.shutdown_grace`, and what comes after it.
const STOP: Duration = Duration::from_secs(30);

/// The user of the questions, who gets no events of the ledger.
const USER: &str = "skew";

/// The user who saves subscriptions, and has no other session.
const SAVER: &str = "saver";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the binary of an earlier version: `make skew-test` builds it"]
async fn nothing_is_lost_while_nodes_are_upgraded_one_by_one_and_two_go_back() {
    let Some(previous) = std::env::var_os(PREVIOUS).map(PathBuf::from) else {
        panic!(
            "{PREVIOUS} must name the `tickwire` binary of an earlier version; `make skew-test PREVIOUS=v0.1.0` \
                builds that of the revision v0.1.0, and runs this test"
        );
    };
    assert!(previous.is_file(), "{PREVIOUS}: {} is no file", previous.display());
    let cluster = Cluster::start_shipped_by(&previous, 2, 2).await;
    let mut ledger = Ledger::start_with("skew", seed(9), cluster, CROWD).await;
    exercise(&mut ledger, 1).await;
    ledger.cluster.binary = None;
    for (step, (role, at)) in
        [(Role::Router, 0), (Role::Router, 1), (Role::Gateway, 0), (Role::Gateway, 1)].into_iter().enumerate()
    {
        restart(&mut ledger, role, at).await;
        exercise(&mut ledger, step as u64 + 2).await;
    }
    ledger.cluster.binary = Some(previous);
    for (step, role) in [Role::Gateway, Role::Router].into_iter().enumerate() {
        restart(&mut ledger, role, 0).await;
        exercise(&mut ledger, step as u64 + 6).await;
    }
    ledger.close().await;
}

/// Stops a node by SIGTERM, and starts it again with its name by the current binary of the cluster.
async fn restart(ledger: &mut Ledger, role: Role, at: usize) {
    let Ledger { cluster, gateways, publisher, .. } = ledger;
    let mut leaving = match role {
        Role::Router => cluster.routers.remove(at),
        Role::Gateway => cluster.gateways.remove(at),
    };
    let id = leaving.id.clone();
    eprintln!("restart {id} by {:?}", cluster.binary);
    if role == Role::Gateway {
        let address = leaving.gateway().await;
        gateways.lock().unwrap().retain(|known| *known != address);
    }
    leaving.process.terminate();
    assert_eq!(leaving.process.wait(STOP).await.code(), Some(0), "{id}: {}", leaving.process.stderr());
    drop(leaving);
    publisher.more(50).await;
    let node = cluster.node_again(role.as_str(), &id);
    match role {
        Role::Router => cluster.routers.insert(at, node),
        Role::Gateway => cluster.gateways.insert(at, node),
    }
    let known = cluster.gateway_addresses().await;
    *gateways.lock().unwrap() = known;
    cluster.settled().await;
    if role == Role::Gateway {
        // The other gateway sends it sessions that were there when it joined. The test's own come later, and stay.
        eventually("the gateway has sessions again", SETTLE, async || {
            let sessions = cluster.gateways[at].metrics().await.get("tickwire_gateway_sessions");
            (sessions > 0.0).then_some(())
        })
        .await;
    }
    publisher.more(150).await;
}

/// Uses everything that nodes do together. `step` counts from 1.
async fn exercise(ledger: &mut Ledger, step: u64) {
    eprintln!("step {step}");
    change_the_rules(&mut ledger.cluster, step).await;
    every_node_answers_for_all(&mut ledger.cluster).await;
    for (from, to) in [(0, 1), (1, 0)] {
        save_and_see(&mut ledger.cluster, step, from, to).await;
        move_a_session(ledger, step, from, to).await;
    }
    ledger.publisher.more(100).await;
}

/// What the rules of a step add to the events of the user.
fn tag(step: u64) -> String {
    format!("step-{step}")
}

/// Changes a rule at one of the routers, and waits until both apply it.
async fn change_the_rules(cluster: &mut Cluster, step: u64) {
    let when = json!({ "kind": ["alert", "backtest"], "conditions": [{ "field": "key", "eq": USER }] });
    let rule = json!({ "id": "skew", "when": when, "add_tags": [tag(step)] });
    let router = &mut cluster.routers[step as usize % 2];
    let admin = router.address("admin").await;
    let written = send("PUT", admin, "/v1/rules/skew", &[], rule.to_string().as_bytes()).await;
    assert_eq!((written.status, &written.json()["revision"]), (200, &json!(step)), "{written:?}");
    rules::applied(cluster, step).await;
}

/// Every node names all nodes, with the reports of those that know this question: early versions do not, or answer on a
/// subject that does not name the sender. They know nothing of nodes that have gone.
async fn every_node_answers_for_all(cluster: &mut Cluster) {
    let mut reporting = Vec::new();
    for admin in cluster.admin_addresses().await {
        if get(admin, "/v1/nodes").await.1.contains("\"gone\":") {
            reporting.push(admin);
        }
    }
    for admin in &reporting {
        eventually("all nodes report", DEADLINE, async || {
            let answer = read(*admin, "/v1/nodes").await;
            let nodes = answer["nodes"].as_array().unwrap();
            let reports = nodes.iter().filter(|node| node["report"]["up_ms"].is_u64()).count();
            ((nodes.len(), reports) == (4, reporting.len())).then_some(())
        })
        .await;
    }
}

/// Saves a subscription at one gateway. The other one gives it to a new session.
async fn save_and_see(cluster: &mut Cluster, step: u64, from: usize, to: usize) {
    let (name, query) = (format!("step-{step}-{from}"), cluster.query(SAVER));
    let admin = cluster.gateways[from].address("admin").await;
    let path = format!("/v1/users/{SAVER}/subscriptions/{name}");
    let saved = send("PUT", admin, &path, &[], br#"{"filter":{"symbols":["AAPL"]}}"#).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    let gateway = cluster.gateways[to].gateway().await;
    eventually("the other gateway has the saved subscription", DEADLINE, async || {
        let welcome = Socket::open(gateway, &query, Encoding::Json).await.welcome().await;
        welcome.subscriptions.iter().any(|known| known.as_str() == name).then_some(())
    })
    .await;
}

/// A session at one gateway gets an alert that the other one has taken, and acknowledges it. Then it resumes at the
/// other gateway.
async fn move_a_session(ledger: &mut Ledger, step: u64, from: usize, to: usize) {
    let Ledger { cluster, others, .. } = ledger;
    let (addresses, query) = (cluster.gateway_addresses().await, cluster.query(USER));
    let filter = json!({ "kinds": ["alert", "backtest"] });
    let mut first = Socket::open(addresses[from], &query, Encoding::MsgPack).await;
    first.welcome().await;
    first.subscribe("mine", &filter).await;
    every_node_finds_the_session(cluster, from).await;

    let alert = json!({ "user": USER, "alert_id": format!("{step}-{from}"), "message": "Margin call" });
    let admin = cluster.gateways[to].address("admin").await;
    let sent = send("POST", admin, "/v1/alerts", &[], alert.to_string().as_bytes()).await;
    assert_eq!((sent.status, &sent.json()["connected"]), (200, &json!("yes")), "{sent:?}");
    *others += 1;
    first.until(1).await;
    let alert = first.events[0].clone();
    assert!(alert.tags.iter().any(|known| known.as_str() == tag(step)), "{alert:?}");
    let acked = first.request(json!({ "action": "ack", "p": alert.p, "seq": alert.seq })).await;
    assert!(matches!(acked, ServerMessage::Acked(_)), "{acked:?}");

    // Its position is behind the alert, so only what comes now is missing.
    first.catch_up(&cluster.log().await.end()).await;
    let resume = first.resume_frame(&json!({ "mine": { "filter": filter } }));
    let again = first.again.len();
    assert_eq!((first.abort().len(), again), (1, 0), "one alert, which did not come again");
    cluster.producer().await.publish(&feed::backtest(USER, 2 * step as usize + from)).await;
    *others += 1;
    let mut second = Socket::open(addresses[to], &query, Encoding::Json).await;
    second.welcome().await;
    let answer = second.request(resume).await;
    assert!(matches!(answer, ServerMessage::Subscribed(_) | ServerMessage::Subscriptions(_)), "{answer:?}");
    assert!(second.caught_up().await.resumed);
    second.until(1).await;
    second.catch_up(&cluster.log().await.end()).await;
    assert_eq!((second.events.len(), second.again.len(), second.gaps.len()), (1, 0, 0), "{:?}", second.events);
    let missed = &second.events[0];
    assert!(
        missed.kind.as_str() == "backtest" && missed.tags.iter().any(|known| known.as_str() == tag(step)),
        "{missed:?}"
    );
    second.abort();
}

/// Every node finds the one session of the user, at that gateway.
async fn every_node_finds_the_session(cluster: &mut Cluster, gateway: usize) {
    let id = cluster.gateways[gateway].id.clone();
    for admin in cluster.admin_addresses().await {
        eventually("the session is found", DEADLINE, async || {
            let user = read(admin, &format!("/v1/users/{USER}")).await;
            let here = user["gateways"].as_array().unwrap().iter().find(|answer| answer["gateway"] == id.as_str())?;
            let found = (&user["complete"], &user["session_count"], &here["session_count"]);
            (found == (&json!(true), &json!(1), &json!(1))).then_some(())
        })
        .await;
    }
}

/// The answer of an admin server.
async fn read(admin: SocketAddr, path: &str) -> Value {
    let (status, body) = get(admin, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}
