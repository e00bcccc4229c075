//! The configuration of NATS that is shipped: with it the cluster does its whole job, and no role can do the work of
//! another. `make_users` tries the script that writes the users, `secured` starts a server with them, `commands` has the
//! tests of commands, and `every_line` takes each line of the permissions away.

mod commands;
mod every_line;
mod make_users;
mod secured;

use async_nats::jetstream;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_testkit::{NatsServer, eventually};

use crate::cluster::Cluster;
use crate::dev::free_pair;
use crate::feed;
use crate::http::{Answer, send};
use crate::node::{DEADLINE, TestNode, get, tickwire};
use crate::producer::Producer;
use crate::saved::list as saved_list;
use crate::socket::Socket;
use secured::SecuredNats;

/// Sends a request without a token to an admin server.
async fn ask(node: &mut TestNode, method: &str, path: &str, body: &Value) -> Value {
    let address = node.address("admin").await;
    let headers = [("Content-Type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer: Answer = send(method, address, path, &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
    answer.json()
}

async fn wait_until_ready(nodes: &mut [TestNode]) {
    for node in nodes {
        eventually(&format!("{} is ready", node.id), DEADLINE, async || {
            let (status, _) = node.readyz().await;
            (status == 200).then_some(())
        })
        .await;
    }
}

/// Waits until a gateway has logged which stream it waits for.
async fn waits_for_streams(gateway: &TestNode) {
    eventually(&format!("{} waits for streams", gateway.id), DEADLINE, async || {
        let text = gateway.process.stderr();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut missing = lines.filter(|line| line["message"] == "stream missing, waiting for a router to create it");
        missing.find(|line| line["level"] == "WARN" && line["stream"] == "EVENTS").map(drop)
    })
    .await;
}

#[tokio::test]
async fn gateway_alone_says_what_it_waits_for_is_not_ready_and_can_be_stopped() {
    let nats = SecuredNats::start(&[]);
    for interrupted in [false, true] {
        let clients = free_pair();
        let mut gateway = nats.node("gateway", "g1", "gateway", &[("gateway.listen", &clients.to_string())]);
        waits_for_streams(&gateway).await;
        let refused = send("GET", clients, "/v1/stream", &[], b"").await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
        assert!(refused.body.contains("this gateway starts"), "{refused:?}");
        let text = gateway.process.stderr();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut admin = lines.filter(|line| line["message"] == "admin server listening");
        let admin = admin.find_map(|line| line["address"].as_str()?.parse().ok()).unwrap();
        assert_eq!(get(admin, "/livez").await.0, 200);
        let (status, report) = get(admin, "/readyz").await;
        assert_eq!(status, 503, "{report}");
        assert!(report.contains("the stream EVENTS does not exist: start a router"), "{report}");
        // The connection is well: no alert may send an operator to NATS.
        assert!(report.contains("{\"name\":\"nats\",\"ok\":true}"), "{report}");
        if interrupted {
            gateway.process.interrupt()
        } else {
            gateway.process.terminate()
        }
        let ended = gateway.process.wait(DEADLINE).await;
        assert_eq!(ended.code(), Some(0), "{}", gateway.process.stderr());
    }
    let operator = nats.connect("operator", "_INBOX_operator").await;
    assert_eq!(jetstream::new(operator.client).query_account().await.unwrap().streams, 0);
    assert_eq!(nats.violations(), [] as [String; 0]);
}

#[tokio::test]
async fn cluster_does_its_whole_job_with_the_users_of_the_shipped_configuration() {
    let nats = SecuredNats::start(&["--gateway", "g1", "--gateway", "g2"]);
    // A gateway is first, and waits for the streams, which it cannot create.
    let mut nodes = vec![nats.node("gateway", "g1", "gateway-g1", &[])];
    waits_for_streams(&nodes[0]).await;
    nodes.push(nats.node("router", "r1", "router", &[]));
    nodes.push(nats.node("gateway", "g2", "gateway-g2", &[]));
    wait_until_ready(&mut nodes).await;
    let (first, second) = (nodes[0].gateway().await, nodes[2].gateway().await);

    // Events, and a backfill of earlier ones.
    let producer = Producer::new(nats.connect("producer", "_INBOX").await.client);
    producer.publish(&feed::pattern("AAPL", 0)).await;
    let mut socket = Socket::connect(first, "ann", Encoding::Json).await;
    let all = json!({ "kinds": ["pattern", "alert"] });
    socket.request(json!({ "action": "subscribe", "name": "all", "filter": all, "since": "5m" })).await;
    socket.until(1).await;
    producer.publish(&feed::pattern("AAPL", 1)).await;
    socket.until(2).await;

    // Alerts of producers that may send them, and over HTTP; who has sessions is known at every node.
    let alerts = Producer::new(nats.connect("alerts", "_INBOX").await.client);
    alerts.publish(&feed::alert("ann", 2)).await;
    let alert = json!({ "user": "ann", "alert_id": "hello", "message": "hello" });
    eventually("the gateway of the user says in time that she is connected", DEADLINE, async || {
        // The stream keeps only the first one.
        let sent = ask(&mut nodes[2], "POST", "/v1/alerts", &alert).await;
        (sent["connected"] == "yes").then_some(())
    })
    .await;
    socket.until(4).await;
    for node in &mut nodes {
        eventually(&format!("{} knows the sessions of all gateways", node.id), DEADLINE, async || {
            let known = ask(node, "GET", "/v1/users/ann", &Value::Null).await;
            (known["complete"] == true && known["session_count"] == 1).then_some(())
        })
        .await;
        eventually(&format!("{} has the reports of all nodes", node.id), DEADLINE, async || {
            let known = ask(node, "GET", "/v1/nodes", &Value::Null).await;
            let nodes = known["nodes"].as_array().unwrap();
            (nodes.len() == 3 && nodes.iter().all(|node| node["report"].is_object())).then_some(())
        })
        .await;
    }
    let alert = socket.events.iter().find(|event| event.key.as_deref() == Some("ann")).unwrap();
    let ack = json!({ "action": "ack", "p": alert.p, "seq": alert.seq });
    assert!(matches!(socket.request(ack).await, ServerMessage::Acked(_)));

    // Saved subscriptions, and rules by HTTP and by command.
    let saved = json!({ "filter": { "symbols": ["NVDA"] } });
    ask(&mut nodes[0], "PUT", "/v1/users/ann/subscriptions/mine", &saved).await;
    assert_eq!(saved_list(&mut socket).await.subscriptions.len(), 2);
    ask(&mut nodes[1], "PUT", "/v1/rules/keep", &json!({ "id": "keep", "ttl_ms": 600_000 })).await;
    let url = nats.server.url();
    let listed = tickwire().args(["rules", "list", "--nats", &url]).args(nats.login("operator")).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("keep"), "{listed:?}");
    let published = ["publish", "--key", "NVDA", "--pattern", "BreakoutBO", "--nats", &url];
    let published = tickwire().args(published).args(nats.login("producer")).output().unwrap();
    assert!(published.status.success(), "{published:?}");
    socket.until(5).await;

    // A client moves while its events are published, and another router takes over where the first one has ended.
    nodes.push(nats.node("router", "r2", "router", &[]));
    wait_until_ready(&mut nodes).await;
    nodes[1].process.kill();
    for number in 5..10 {
        producer.publish(&feed::pattern("AAPL", number)).await;
    }
    socket.resume(second, "ann", &json!({ "all": { "filter": all } })).await;
    socket.until(10).await;
    assert_eq!((socket.events.len(), socket.gaps.len()), (10, 0));
    assert_eq!(nats.violations(), [] as [String; 0]);
}

#[tokio::test]
async fn no_user_can_do_what_is_the_work_of_another() {
    let nats = SecuredNats::start(&["--gateway", "g1", "--gateway", "g2"]);
    let mut router = [nats.node("router", "r1", "router", &[])];
    wait_until_ready(&mut router).await;
    assert!(async_nats::connect(nats.server.url()).await.is_err(), "a stranger is connected");

    let producer = nats.connect("producer", "_INBOX").await;
    let edits = [
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.STREAM.MSG.DELETE.EVENTS",
        "$JS.API.STREAM.DELETE.KV_TICKWIRE_RULES",
        "$JS.API.STREAM.PURGE.KV_TICKWIRE_SUBSCRIPTIONS",
    ];
    let of_routers =
        ["gw.g2.0", "tw.view", "tw.beat.router.r1", "tw.storage", "ev.0.tick", "dead.x", "tw.replayed.g2.0.1"];
    let leases = ["$KV.TICKWIRE_LEASES.p.0", "$KV.TICKWIRE_VIEW.view", "$KV.TICKWIRE_CONTEXT.volumes.0"];
    let of_gateways = ["tw.interest.g2", "tw.gwbeat.g2", "tw.beat.gateway.g2", "tw.presence", "$KV.TICKWIRE_ACKS.ann"];
    let of_operators = ["$KV.TICKWIRE_REFERENCE.AAPL", "$JS.API.STREAM.INFO.OTHER"];
    let rules = ["$KV.TICKWIRE_RULES.r", "$JS.API.STREAM.UPDATE.EVENTS", "$JS.API.CONSUMER.CREATE.EVENTS.x"];
    let creations = ["EVENTS", "DEADLETTERS", "KV_TICKWIRE_VIEW", "KV_TICKWIRE_ACKS", "OTHER"]
        .map(|stream| format!("$JS.API.STREAM.CREATE.{stream}"));
    let creations = creations.each_ref().map(String::as_str);
    let reading = [">", "events.>", "ev.>", "dead.>", "gw.>", "$KV.>", "_INBOX_router.>", "_INBOX_gateway.>"];

    let own = [
        "events.alert.ann",
        "events.pattern",
        "tw.replay",
        "tw.alerts",
        "tw.nodes",
        "tw.nodes.r1.0.1.g1",
        "$JS.API.STREAM.INFO.EVENTS",
    ];
    let publishes = [&own[..], &edits, &creations, &of_routers, &leases, &of_gateways, &of_operators, &rules].concat();
    producer.is_denied(&publishes, &[&reading[..], &["tw.>", "_INBOX_operator.>"]].concat()).await;

    let gateway = nats.connect("gateway-g1", "_INBOX_gateway.g1").await;
    let own = [
        "events.pattern.AAPL",
        "tw.name.g2",
        "tw.beat.gateway.g2",
        "tw.interest.g2",
        "tw.gwbeat.g2",
        "tw.snapshot.g2.0",
        "tw.alerts.g2.0.1",
        // A report of another gateway, and of a router.
        "tw.nodes.r1.0.1.g2",
        "tw.nodes.g1.0.1.r1",
        // The server would send the event to any subject that the request names.
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.DIRECT.GET.KV_TICKWIRE_ACKS",
        // It would tell the keys of what a gateway has no part in.
        "$JS.API.STREAM.INFO.KV_TICKWIRE_LEASES",
        "$JS.API.STREAM.INFO.DEADLETTERS",
        "$JS.API.STREAM.MSG.GET.DEADLETTERS",
        "$JS.API.CONSUMER.CREATE.KV_TICKWIRE_ACKS.x",
    ];
    let publishes = [&own[..], &edits, &creations, &of_routers, &leases, &of_operators, &rules].concat();
    let others = [
        "gw.g2.0",
        "gw.g2.>",
        "tw.snapshot.g2.*",
        "tw.replayed.g2.*.*",
        "tw.alerts.g2.*.*",
        "tw.nodes.g2.*.*.*",
        "tw.name.g2",
        "_INBOX_gateway.g2.>",
        "_INBOX.>",
        "tw.>",
        "tw.interest.*",
        "tw.gwbeat.*",
        "tw.replay",
        "tw.beat.*.*",
    ];
    gateway.is_denied(&publishes, &[&reading[..], &others].concat()).await;

    let of_router = nats.connect("router", "_INBOX_router.r1").await;
    let own = ["$KV.TICKWIRE_SUBSCRIPTIONS.ann"];
    let publishes = [&own[..], &edits, &of_gateways, &of_operators].concat();
    // A router gets its share of the requests, and must not read those of other routers.
    let others = ["tw.replay", "tw.alerts", "gw.g1.0", "ev.0.tick"];
    let reading = reading.iter().copied().filter(|subject| *subject != "_INBOX_router.>");
    let reading: Vec<&str> = reading.chain(others).collect();
    of_router.is_denied(&publishes, &reading).await;

    let operator = nats.connect("operator", "_INBOX_operator").await;
    let own = ["events.pattern.AAPL", "events.alert.ann", "$KV.TICKWIRE_SUBSCRIPTIONS.ann"];
    let publishes = [&own[..], &of_routers, &leases, &of_gateways].concat();
    operator.is_denied(&publishes, &["ev.>", "events.>", "gw.>", "tw.>", "_INBOX_router.>"]).await;
}

#[tokio::test]
async fn acknowledgement_that_a_producer_directs_elsewhere_changes_nothing_and_is_no_alert() {
    let nats = SecuredNats::start(&[]);
    let mut router = [nats.node("router", "r1", "router", &[])];
    wait_until_ready(&mut router).await;
    let client = nats.connect("producer", "_INBOX").await.client;
    let producer = Producer::new(client.clone());
    let first = producer.publish(&feed::pattern("AAPL", 0)).await;
    for request in ["STREAM.PURGE.EVENTS", "STREAM.MSG.DELETE.EVENTS", "STREAM.DELETE.EVENTS"] {
        let reply = format!("$JS.API.{request}");
        client.publish_with_reply("events.pattern.AAPL", reply, "{}".into()).await.unwrap();
    }
    // He may not send alerts.
    let event = feed::pattern("AAPL", 0).payload().clone();
    client.publish_with_reply("events.pattern.AAPL", "events.alert.ann", event).await.unwrap();
    // It is stored after the others, so the server has acknowledged them.
    let last = producer.publish(&feed::pattern("AAPL", 1)).await;
    let operator = nats.connect("operator", "_INBOX_operator").await;
    let jetstream = jetstream::new(operator.client);
    let events = jetstream.get_stream("EVENTS").await.unwrap();
    let state = events.get_info().await.unwrap().state;
    assert!(last >= first + 5 && state.last_sequence >= last, "{first} {last} {state:?}");
    assert_eq!((state.first_sequence, state.messages), (1, state.last_sequence), "a message is missing");
    let dead_letters = jetstream.get_stream("DEADLETTERS").await.unwrap();
    let dead_letter = eventually("no acknowledgement is an alert", DEADLINE, async || {
        dead_letters.get_last_raw_message_by_subject("dead.nats_answer").await.ok()
    });
    assert!(dead_letter.await.payload.starts_with(b"{\"stream\":\"EVENTS\""));
}

#[tokio::test]
async fn node_without_a_permission_ends_at_once_and_names_user_and_subject() {
    let cases = [
        ("router", "$JS.API.CONSUMER.CREATE.EVENTS.>", "Publish", "$JS.API.CONSUMER.CREATE.EVENTS."),
        ("router", "$JS.API.STREAM.MSG.GET.KV_TICKWIRE_VIEW", "Publish", "$JS.API.STREAM.MSG.GET.KV_TICKWIRE_VIEW"),
        ("router", "tw.interest.*", "Subscription", "tw.interest.*"),
        ("router", "tw.beat.router.*", "Publish", "tw.beat.router.router-x"),
        ("gateway", "tw.presence", "Subscription", "tw.presence"),
        ("gateway", "gw.*.*", "Subscription", "gw.gateway-x."),
    ];
    for (role, lacking, direction, subject) in cases {
        let nats = SecuredNats::start_lacking(role, lacking);
        // A gateway alone would wait for the streams.
        let mut router = Vec::new();
        if role == "gateway" {
            router.push(nats.node("router", "first", "router", &[]));
            wait_until_ready(&mut router).await;
        }
        let mut node = nats.node(role, &format!("{role}-x"), role, &[]);
        let status = node.process.wait(DEADLINE).await;
        assert_eq!(status.code(), Some(1), "{role} without {lacking}");
        // In a line of the log the quotes have backslashes.
        let text = node.process.stderr().replace('\\', "");
        let last = text.lines().rfind(|line| line.contains("NATS refused a request of this node")).unwrap_or_default();
        for part in [&format!("as user \"{role}\""), direction, subject, "tickwire doctor --role"] {
            assert!(last.contains(part), "{role} without {lacking}: {part} is not in {text}");
        }
    }
}

/// Starts a server with JetStream in the domain `hub`, and returns it with its address for leaf nodes.
async fn start_hub(home: &Path) -> (NatsServer, String) {
    let file = home.join("hub.conf");
    fs::write(&file, "jetstream { domain: hub }\nleafnodes { listen: \"127.0.0.1:-1\" }\n").unwrap();
    let hub = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
    let listening = "Listening for leafnode connections on ";
    let address = eventually("the hub listens for leaf nodes", DEADLINE, async || {
        let log = hub.log();
        Some(log.lines().find_map(|line| line.split_once(listening))?.1.trim().to_owned())
    })
    .await;
    (hub, address)
}

#[tokio::test]
async fn whole_cluster_works_in_a_jetstream_domain_behind_a_leaf_node() {
    let home = tempfile::tempdir().unwrap();
    let (hub, address) = start_hub(home.path()).await;
    let remote = format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://{address}\" }} ] }}\n");
    let file = home.path().join("leaf.conf");
    fs::write(&file, format!("server_name: leaf\njetstream {{ domain: leaf }}\n{remote}")).unwrap();
    let leaf = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
    let mut cluster = Cluster::start_on(vec![leaf], 1, 1, &[("nats.domain", "hub")]).await;

    let gateway = cluster.gateway_addresses().await[0];
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("AAPL", 0)).await;
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let filter = json!({ "symbols": ["AAPL"] });
    socket.request(json!({ "action": "subscribe", "name": "mine", "filter": filter, "since": "5m" })).await;
    socket.until(1).await;
    ask(&mut cluster.gateways[0], "PUT", "/v1/users/ann/subscriptions/mine", &json!({ "filter": filter })).await;
    // Another router starts at the checkpoint of the first one.
    cluster.routers[0].process.kill();
    cluster.routers.clear();
    cluster.add_router();
    producer.publish(&feed::pattern("AAPL", 1)).await;
    socket.until(2).await;
    cluster.settled().await;

    let streams = async |url: String| {
        let context = jetstream::new(async_nats::connect(url).await.unwrap());
        context.query_account().await.unwrap().streams
    };
    assert_eq!((streams(hub.url()).await, streams(cluster.nats_url()).await), (9, 0));
}
