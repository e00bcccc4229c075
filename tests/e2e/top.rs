//! `tickwire top` with a running cluster: one address shows every node, and what is wrong.

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_core::protocol::Encoding;
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::time::timeout;

use crate::cluster::waiting::until_subscribed;
use crate::cluster::{Cluster, PARTITIONS};
use crate::node::{DEADLINE, get, tickwire};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Runs `top --once`, while the tasks of this test go on. Returns its exit code, its standard output and its standard
/// error.
async fn top(admins: &[SocketAddr], more: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tickwire();
    command.args(["top", "--once"]).args(more);
    for admin in admins {
        command.args(["--admin", &format!("http://{admin}")]);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let Output { status, stdout, stderr } = output.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The reading as JSON, with a token that the command signs.
async fn reading(admins: &[SocketAddr]) -> Value {
    let secret = format!("auth.jwt_secret={SECRET}");
    let (code, text, errors) = top(admins, &["--json", "--set", &secret]).await;
    assert_eq!(code, Some(0), "{errors}");
    serde_json::from_str(&text).unwrap()
}

/// The same of an admin server that asks for no token.
async fn open_reading(admin: SocketAddr) -> Value {
    let (code, text, errors) = top(&[admin], &["--json"]).await;
    assert_eq!(code, Some(0), "{errors}");
    serde_json::from_str(&text).unwrap()
}

/// What `/v1/nodes` has of a node.
async fn reported(admin: SocketAddr, node: &str) -> Value {
    let (status, body) = get(admin, "/v1/nodes").await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    answer["nodes"].as_array().unwrap().iter().find(|row| row["node"] == node).cloned().unwrap_or_default()
}

/// The row of a node.
fn row<'a>(reading: &'a Value, table: &str, node: &str) -> &'a Value {
    reading[table].as_array().unwrap().iter().find(|row| row["node"] == node).unwrap()
}

/// The states of the nodes in a table, by name.
fn states<'a>(reading: &'a Value, table: &str) -> BTreeMap<&'a str, &'a str> {
    let rows = reading[table].as_array().unwrap().iter();
    rows.map(|row| (row["node"].as_str().unwrap(), row["state"].as_str().unwrap())).collect()
}

/// The parts of the problems of a node.
fn problems<'a>(reading: &'a Value, node: &str) -> Vec<&'a str> {
    let problems = reading["problems"].as_array().unwrap().iter();
    problems.filter(|problem| problem["node"] == node).map(|problem| problem["part"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn flood_of_questions_is_not_answered_with_a_flood_of_reports() {
    let mut cluster = Cluster::start(1, 1).await;
    let client = async_nats::connect(cluster.nats_url()).await.unwrap();
    let stranger = NodeRef { id: NodeId::new("stranger").unwrap(), nonce: Nonce(1) };
    let mut answers = client.subscribe("tw.nodes.stranger.>").await.unwrap();
    let ask = async |number: u64| {
        let question = wire::encode(&(&stranger, number)).unwrap();
        client.publish(names::NODES, question.into()).await.unwrap();
    };
    ask(0).await;
    timeout(DEADLINE, answers.next()).await.expect("an answer in time").expect("an answer");
    for number in 1..500 {
        ask(number).await;
    }
    for node in cluster.gateways.iter_mut().chain(&mut cluster.routers) {
        eventually("questions are refused", DEADLINE, async || {
            let refused = node.metrics().await.get("tickwire_refused_node_messages_total");
            (refused > 0.0).then_some(())
        })
        .await;
    }
    // A moment later it is answered again.
    let router = cluster.routers[0].address("admin").await;
    eventually("both nodes report", DEADLINE, async || {
        let (_, shown, _) = top(&[router], &["--json"]).await;
        shown.contains(r#""nodes":2,"ready":2,"#).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_address_shows_the_whole_cluster_and_a_killed_gateway_as_silent() {
    let settings = [
        ("gateway.rate", "20"),
        // A node that was killed stays in the view for the whole test.
        ("membership.timeout", "60s"),
        ("admin.require_token", "always"),
        ("auth.jwt_secret", SECRET),
    ];
    let mut cluster = Cluster::start_with(2, 2, &settings).await;
    let gateways = cluster.gateway_addresses().await;
    let router = cluster.routers[0].address("admin").await;
    let killed = cluster.gateways[1].address("admin").await;
    let names = [cluster.gateways[0].id.clone(), cluster.gateways[1].id.clone()];
    let mut sockets = [
        Socket::connect(gateways[0], "ann", Encoding::Json).await,
        Socket::connect(gateways[0], "bob", Encoding::Json).await,
        Socket::connect(gateways[1], "eve", Encoding::MsgPack).await,
    ];
    sockets[0].subscribe("mine", &json!({})).await;
    // Each event has its own pattern, so that none is conflated: what is above the rate is dropped.
    let event = |number: usize| json!({ "pattern": format!("P{number}"), "confidence": 0.1 });
    let flow = cluster
        .producer()
        .await
        .flow(Duration::from_millis(5), move |number| ProducerMessage::json("pattern", "AAPL", &event(number)));

    let shown = eventually("events are read, delivered and dropped", DEADLINE, async || {
        let shown = reading(&[router]).await;
        let rates = ["events_per_s", "delivered_per_s", "dropped_per_s"];
        let is_whole = (&shown["nodes"], &shown["ready"], &shown["sessions"]) == (&json!(4), &json!(4), &json!(3));
        (is_whole && rates.iter().all(|rate| shown[*rate].as_f64() > Some(0.0))).then_some(shown)
    })
    .await;
    assert_eq!((&shown["partitions"], &shown["owned"]), (&json!(PARTITIONS), &json!(PARTITIONS)));
    let routers: Vec<&str> = cluster.routers.iter().map(|router| router.id.as_str()).collect();
    assert!(routers.contains(&shown["coordinator"].as_str().unwrap()), "{shown}");
    for (name, sessions) in names.iter().zip([2, 1]) {
        let gateway = row(&shown, "gateways", name);
        assert_eq!((&gateway["sessions"], &gateway["state"]), (&json!(sessions), &json!("ready")));
    }
    for name in routers {
        let router = row(&shown, "routers", name);
        assert!(router["partitions"].as_u64() > Some(0) && router["lag_s"].is_number(), "{router}");
    }
    let gateway = row(&shown, "gateways", &names[0]);
    assert!(gateway["delivered_per_s"].as_f64() > Some(0.0) && gateway["dropped"].as_u64() > Some(0), "{gateway}");
    assert!(gateway["dropped_per_s_by"]["throttled"].as_f64() > Some(0.0), "{gateway}");
    assert!(problems(&shown, &names[0]).contains(&"dropping"), "{shown}");

    cluster.gateways[1].process.kill();
    // On a busy machine another node may be silent, too.
    let shown = eventually("the other nodes answer in time", DEADLINE, async || {
        Some(reading(&[router]).await).filter(|shown| shown["ready"] == 3)
    })
    .await;
    let gateway = row(&shown, "gateways", &names[1]);
    assert_eq!((&gateway["state"], &gateway["sessions"]), (&json!("silent"), &json!(null)));
    assert_eq!(problems(&shown, &names[1]), ["silent"]);
    // An admin server that does not answer costs nothing if another one does.
    let secret = format!("auth.jwt_secret={SECRET}");
    let text = eventually("the other nodes answer in time", DEADLINE, async || {
        let (code, text, errors) = top(&[killed, router], &["--set", &secret]).await;
        assert_eq!(code, Some(0), "{errors}");
        text.contains("nodes ready 3/4").then_some(text)
    })
    .await;
    assert!(text.starts_with("tickwire  events ") && !text.contains('\u{1b}'), "{text}");
    for expected in [&format!("ERROR {} silent: ", names[1]), &format!("admin: http://{killed}: ")] {
        assert!(text.contains(expected), "{expected}: {text}");
    }

    let (code, _, errors) = top(&[killed], &[]).await;
    assert!(code == Some(1) && errors.contains("cannot connect: ") && errors.contains("--admin"), "{errors}");
    let (code, _, errors) = top(&[router], &[]).await;
    assert!(code == Some(1) && errors.contains("401 no_token") && errors.contains("--token"), "{errors}");
    flow.stop().await;
}

#[tokio::test]
async fn killed_gateway_is_gone_until_it_comes_back_and_one_that_drained_is_not() {
    let mut cluster = Cluster::start(1, 3).await;
    let router = cluster.routers[0].address("admin").await;
    let gateway = cluster.gateways[0].address("admin").await;
    let names: Vec<String> = cluster.gateways.iter().map(|gateway| gateway.id.clone()).collect();
    let [first, killed, drained] = [0, 1, 2].map(|at| names[at].as_str());

    cluster.gateways[2].process.terminate();
    cluster.gateways[2].process.wait(DEADLINE).await;
    cluster.gateways[1].process.kill();
    // Both roles remember it, and `top` has asked neither before.
    for admin in [router, gateway] {
        let shown = eventually("the gateway is gone", DEADLINE, async || {
            let shown = open_reading(admin).await;
            let is_gone = states(&shown, "gateways") == BTreeMap::from([(first, "ready"), (killed, "gone")]);
            is_gone.then_some(shown)
        })
        .await;
        assert_eq!((problems(&shown, killed), problems(&shown, drained)), (vec!["gone"], vec![]));
        assert_eq!((&shown["nodes"], &shown["ready"]), (&json!(2), &json!(2)));
    }

    let _back = cluster.node_again("gateway", killed);
    let shown = eventually("the gateway is back", DEADLINE, async || {
        let shown = open_reading(router).await;
        let is_back = states(&shown, "gateways") == BTreeMap::from([(first, "ready"), (killed, "ready")]);
        is_back.then_some(shown)
    })
    .await;
    assert!(!problems(&shown, killed).contains(&"gone"), "{shown}");
}

/// The gateway reads only the newest view, and that one shows no drain.
#[tokio::test]
async fn router_that_drained_unseen_is_not_gone_and_a_killed_one_is() {
    let mut cluster = Cluster::start(3, 1).await;
    let router = cluster.routers[0].address("admin").await;
    let gateway = cluster.gateways[0].address("admin").await;
    let names: Vec<String> = cluster.routers.iter().map(|router| router.id.clone()).collect();
    let [first, killed, stopped] = [0, 1, 2].map(|at| names[at].as_str());

    cluster.gateways[0].process.freeze();
    cluster.routers[2].process.terminate();
    assert_eq!(cluster.routers[2].process.wait(DEADLINE).await.code(), Some(0));
    eventually("the router has left the view", DEADLINE, async || {
        reported(router, stopped).await.is_null().then_some(())
    })
    .await;
    cluster.gateways[0].process.thaw();
    cluster.routers[1].process.kill();
    for admin in [router, gateway] {
        let shown = eventually("only the killed router is gone", DEADLINE, async || {
            let shown = open_reading(admin).await;
            let is_gone = states(&shown, "routers") == BTreeMap::from([(first, "ready"), (killed, "gone")]);
            is_gone.then_some(shown)
        })
        .await;
        assert_eq!((problems(&shown, killed), problems(&shown, stopped)), (vec!["gone"], vec![]));
    }
}

#[tokio::test]
async fn gateway_whose_name_another_one_has_shows_it() {
    let mut cluster = Cluster::start(1, 1).await;
    let router = cluster.routers[0].address("admin").await;
    let name = cluster.gateways[0].id.clone();
    let mut copy = cluster.node_again("gateway", &name);
    // The view has the copy. It works, so this is only a warning.
    let problem = eventually("the gateway in the view shows that another one has its name", DEADLINE, async || {
        let shown = open_reading(router).await;
        let mut problems = shown["problems"].as_array()?.iter();
        let problem = problems.find(|problem| problem["node"] == name.as_str() && problem["part"] == "name")?;
        (row(&shown, "gateways", &name)["state"] == "ready").then(|| problem.clone())
    })
    .await;
    assert_eq!(problem["grade"], "warning");
    let message = problem["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("another node has the name {name}")) && message.contains("node.id"),
        "{message}"
    );
    copy.process.kill();
    eventually("the name is that of one gateway", DEADLINE, async || {
        let shown = open_reading(router).await;
        let is_ready = states(&shown, "gateways").get(name.as_str()) == Some(&"ready");
        (is_ready && !problems(&shown, &name).contains(&"name")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn answer_on_the_subject_of_another_node_is_refused() {
    // The gateway stays in the view while it is frozen.
    let mut cluster = Cluster::start_with(1, 1, &[("membership.timeout", "60s")]).await;
    let router = cluster.routers[0].address("admin").await;
    let gateway = cluster.gateways[0].id.clone();
    let known = eventually("the gateway reports", DEADLINE, async || {
        let known = reported(router, &gateway).await;
        known["report"].is_object().then_some(known)
    })
    .await;
    cluster.gateways[0].process.freeze();
    let nonce = u64::from_str_radix(known["nonce"].as_str().unwrap(), 16).unwrap();
    let node = NodeRef { id: NodeId::new(&gateway).unwrap(), nonce: Nonce(nonce) };
    let nothing = BTreeMap::<String, u64>::new();
    let report = (77_u64, true, "healthy", [0_u8; 0], &nothing, &nothing, &nothing);
    let forged = wire::encode(&(&node, report)).unwrap();
    let client = async_nats::connect(cluster.nats_url()).await.unwrap();
    let mut questions = client.subscribe(names::NODES).await.unwrap();
    until_subscribed(&client).await;
    for (sender, shown) in [("stranger", Value::Null), (gateway.as_str(), json!(77))] {
        let answer = async {
            let question = timeout(DEADLINE, questions.next()).await.expect("a question in time").expect("a question");
            let (asker, ask): (NodeRef, u64) = wire::decode(&question.payload).unwrap();
            let subject = names::node_report(asker.id.as_str(), &asker.nonce.to_string(), ask, sender);
            client.publish(subject, forged.clone().into()).await.unwrap();
            client.flush().await.unwrap();
        };
        let (row, ()) = tokio::join!(reported(router, &gateway), answer);
        assert_eq!(row["report"]["up_ms"], shown, "an answer of {sender}");
    }
    let refused = cluster.routers[0].metrics().await.get("tickwire_refused_node_messages_total");
    assert_eq!(refused, 1.0);
    cluster.gateways[0].process.thaw();
}
