//! The status of nodes over HTTP: what is read, and how an operator closes the sessions of a user. `access` has who may.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_testkit::eventually;

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed;
use crate::http::{Answer, send};
use crate::node::DEADLINE;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// How many events are published where each shard should time some: one in 64.
const EVENTS: usize = 128;

/// The document that is checked in.
pub(crate) const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// The status and the body of the answer to a request, with a token or none.
pub(crate) async fn ask(method: &str, address: SocketAddr, path: &str, token: Option<&str>) -> (u16, String) {
    let token = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
    let Answer { status, body, .. } = send(method, address, path, &headers, b"").await;
    (status, body)
}

/// The JSON of an answer 200 to a request without a token.
async fn read(method: &str, address: SocketAddr, path: &str) -> Value {
    // A node that is late says 503.
    let answer = eventually("the node can answer", DEADLINE, async || {
        Some(ask(method, address, path, None).await).filter(|(status, _)| *status != 503)
    });
    let (status, body) = answer.await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The sessions of a user on all gateways, by the admin server of a node, once both gateways have answered.
async fn sessions(admin: SocketAddr, user: &str) -> Vec<Value> {
    let known = eventually("both gateways have answered", DEADLINE, async || {
        let known = read("GET", admin, &format!("/v1/users/{user}")).await;
        (known["complete"] == true && known["gateways"].as_array().unwrap().len() == 2).then_some(known)
    })
    .await;
    let of_gateways = known["gateways"].as_array().unwrap().iter();
    let sessions: Vec<Value> =
        of_gateways.flat_map(|gateway| gateway["sessions"].as_array().unwrap().clone()).collect();
    assert_eq!(known["session_count"], sessions.len());
    sessions
}

#[tokio::test]
async fn operator_reads_and_closes_the_sessions_of_a_user_on_all_gateways() {
    // A gateway that was killed stays in the view until this test has asked about it.
    let mut cluster = Cluster::start_with(1, 2, &[("membership.timeout", "10s")]).await;
    let addresses = cluster.gateway_addresses().await;
    let address = addresses[0];
    // A node without sessions of ann, or without any, knows the same.
    let admin = cluster.routers[0].address("admin").await;
    let mut json_session = Socket::connect(address, "ann", Encoding::Json).await;
    let mut msgpack_session = Socket::connect(addresses[1], "ann", Encoding::MsgPack).await;
    let mut bob = Socket::connect(address, "bob", Encoding::Json).await;
    json_session.subscribe("apple", &json!({ "symbols": ["AAPL"] })).await;
    msgpack_session.subscribe("all", &json!({})).await;
    bob.subscribe("all", &json!({})).await;
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
    for socket in [&mut json_session, &mut msgpack_session, &mut bob] {
        socket.until(1).await;
    }

    let found = sessions(admin, "ann").await;
    let shown: BTreeSet<(&str, Vec<&String>)> = found
        .iter()
        .map(|session| {
            let subscriptions = session["subscriptions"].as_object().unwrap().keys().collect();
            (session["encoding"].as_str().unwrap(), subscriptions)
        })
        .collect();
    let (apple, all) = ("apple".to_owned(), "all".to_owned());
    assert_eq!(shown, BTreeSet::from([("json", vec![&apple]), ("msgpack", vec![&all])]));
    for session in &found {
        assert_eq!(session["address"], "127.0.0.1");
        assert_eq!((&session["counts"]["events"], &session["counts"]["welcomed"]), (&json!(1), &json!(true)));
    }
    let filter = found.iter().find_map(|session| session["subscriptions"].get("apple")).unwrap();
    assert_eq!(filter["filter"]["symbols"], json!(["AAPL"]));

    // A user reads the same of its own.
    let own = read("GET", address, "/v1/me?user=bob").await;
    assert_eq!((&own["user"], own["sessions"].as_array().unwrap().len()), (&json!("bob"), 1));

    let of_gateway = cluster.gateways[1].address("admin").await;
    assert_eq!(sessions(of_gateway, "bob").await.len(), 1);
    // A gateway that is late is silent, and is asked again.
    let mut tries = 0;
    let closed = eventually("both gateways answer in time", DEADLINE, async || {
        tries += 1;
        let answer = send("DELETE", of_gateway, "/v1/users/ann/sessions", &[], b"").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!((&closed["user"], &closed["silent"]), (&json!("ann"), &json!([])));
    let counts: Vec<&Value> = closed["gateways"].as_array().unwrap().iter().map(|one| &one["closed"]).collect();
    assert!(counts.len() == 2 && (tries > 1 || (&closed["closed"], counts) == (&json!(2), vec![&json!(1); 2])));
    for socket in [&mut json_session, &mut msgpack_session] {
        let expected = (CloseCode::ClosedByOperator.code(), CloseCode::ClosedByOperator.text().to_owned());
        assert_eq!(socket.closed().await, expected);
    }
    eventually("the sessions of ann have ended", DEADLINE, async || {
        sessions(admin, "ann").await.is_empty().then_some(())
    })
    .await;
    assert_eq!(sessions(admin, "bob").await.len(), 1);
    assert_eq!(read("DELETE", admin, "/v1/users/ann/sessions").await["closed"], 0);
    cluster.producer().await.publish(&feed::pattern("AAPL", 2)).await;
    bob.until(2).await;

    // A gateway that does not answer is named, and what the others know is told.
    let name = read("GET", of_gateway, "/v1/cluster").await["node"].clone();
    drop(cluster.gateways.pop());
    let (shown, closed) = tokio::join!(
        ask("GET", admin, "/v1/users/bob", None),
        send("DELETE", admin, "/v1/users/bob/sessions", &[], b"")
    );
    let shown: Value = serde_json::from_str(&shown.1).unwrap();
    assert_eq!((&shown["complete"], &shown["silent"]), (&json!(false), &json!([name])));
    let report = closed.json();
    assert_eq!((closed.status, &report["code"], &report["closed"]), (503, &json!("incomplete"), &json!(1)));
    assert_eq!(report["silent"], json!([name]));
    eventually("the gateway is out of the view", DEADLINE, async || {
        (send("DELETE", admin, "/v1/users/bob/sessions", &[], b"").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nodes_tell_what_they_know_of_the_cluster() {
    // A busy machine is slower than the targets.
    let settings = [
        ("health.route_warning", "30s"),
        ("health.route_error", "30s"),
        ("health.deliver_warning", "30s"),
        ("health.deliver_error", "30s"),
        ("health.filter_warning", "30s"),
        ("health.filter_error", "30s"),
        ("health.targets_warning", "0"),
        ("health.targets_error", "0"),
    ];
    let mut cluster = Cluster::start_with(2, 1, &settings).await;
    let address = cluster.gateway_addresses().await[0];
    let admin = cluster.gateways[0].address("admin").await;
    let mut socket = Socket::connect(address, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let events: Vec<_> = (0..EVENTS).map(|number| feed::pattern("AAPL", number)).collect();
    cluster.producer().await.publish_all(&events).await;
    socket.until(EVENTS).await;

    let known = eventually("the edge tells of the event, all members and all owners", DEADLINE, async || {
        let known = read("GET", admin, "/v1/cluster").await;
        let count = |name: &str| known[name].as_array().map(Vec::len).or(known[name].as_object().map(|all| all.len()));
        let is_complete = (count("members"), count("owners")) == (Some(3), Some(PARTITIONS as usize));
        (is_complete && known["status"]["coverage"]["last_event"].is_object()).then_some(known)
    })
    .await;
    assert_eq!(known["partitions"].as_u64(), Some(PARTITIONS.into()));
    let status = &known["status"];
    let counts = ["sessions", "users", "subscriptions"].map(|name| status[name].as_u64().unwrap());
    assert_eq!((counts, &status["interest"]["topics"]), ([1, 1, 1], &json!(1)));

    // All partitions and the catch-all have an owner.
    eventually("every source has an owner", DEADLINE, async || {
        let mut sources = BTreeSet::new();
        for router in &mut cluster.routers {
            let known = read("GET", router.address("admin").await, "/v1/cluster").await;
            let owned = known["status"]["sources"].as_array().unwrap().clone();
            sources.extend(owned.iter().map(|source| source["source"].as_str().unwrap().to_owned()));
        }
        (sources.len() == PARTITIONS as usize + 1).then_some(())
    })
    .await;

    let stats = eventually("the events are counted", DEADLINE, async || {
        let stats = read("GET", admin, "/v1/stats").await;
        (stats["counts"]["delivered"]["total"] == EVENTS).then_some(stats)
    })
    .await;
    for stage in ["filter", "deliver", "total"] {
        let latency = &stats["latency"][stage];
        assert!(latency["count"].as_u64() > Some(0) && latency["mean"].is_number(), "{stage}: {stats}");
    }
    let routers: Vec<SocketAddr> = cluster.admin_addresses().await[..2].to_vec();
    eventually("the events are timed by their router", DEADLINE, async || {
        let mut routed = 0;
        for router in &routers {
            let stats = read("GET", *router, "/v1/stats").await;
            routed += stats["latency"]["route"]["count"].as_u64().unwrap_or_default();
        }
        (routed >= EVENTS as u64).then_some(())
    })
    .await;
    for admin in cluster.admin_addresses().await {
        eventually("the node is healthy", DEADLINE, async || {
            let health = read("GET", admin, "/v1/health").await;
            (health["status"] == "healthy").then_some(())
        })
        .await;
    }
}

/// The status and the message of a part of `/v1/health`.
async fn part(admin: SocketAddr, name: &str) -> (String, String) {
    let health = read("GET", admin, "/v1/health").await;
    let part = health["parts"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap();
    let text = |field: &str| part[field].as_str().unwrap().to_owned();
    (text("status"), text("message"))
}

#[tokio::test]
async fn health_has_warnings_for_silence_errors_and_slow_routing() {
    let settings = [
        ("health.silence_hours", "always"),
        ("health.silence_warning", "1s"),
        ("health.errors_warning", "1"),
        ("health.route_warning", "1ms"),
        ("health.route_error", "30s"),
        ("health.route_target", "1ms"),
        ("health.targets_warning", "100"),
        ("health.targets_error", "0"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let (public, admin) = (cluster.gateway_addresses().await[0], cluster.routers[0].address("admin").await);
    let warned = async |name: &str| {
        let what = format!("{name} has a warning");
        eventually(&what, DEADLINE, async || {
            let (status, message) = part(admin, name).await;
            (status == "warning").then_some(message)
        })
        .await
    };
    assert!(warned("silence").await.starts_with("no event of kind pattern"));

    let mut socket = Socket::connect(public, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    let events: Vec<_> = (0..EVENTS).map(|number| feed::pattern("AAPL", number)).collect();
    producer.publish_all(&events).await;
    producer.publish(&ProducerMessage::json("pattern", "AAPL", &json!({ "confidence": 0.5 }))).await;
    let message = warned("errors").await;
    assert!(message.contains("tickwire_dead_letters_total 1"), "{message}");
    for slow in ["route", "targets"] {
        warned(slow).await;
    }
    eventually("pattern events arrive again", DEADLINE, async || {
        producer.publish(&feed::pattern("AAPL", 1)).await;
        (part(admin, "silence").await.0 == "healthy").then_some(())
    })
    .await;
}

#[tokio::test]
async fn event_over_http_is_stored_once_and_is_the_last_of_its_kind() {
    let mut cluster = Cluster::start(1, 1).await;
    let public = cluster.gateway_addresses().await[0];
    let admin = cluster.routers[0].address("admin").await;
    let mut socket = Socket::connect(public, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let post = async |query: &str, body: &Value| {
        let path = format!("/v1/events?{query}");
        send("POST", admin, &path, &[("Nats-Msg-Id", "m-1")], body.to_string().as_bytes()).await
    };
    let doji = json!({ "pattern": "Doji", "confidence": 0.5 });
    for is_duplicate in [false, true] {
        let stored = post("kind=pattern&key=BRK.B", &doji).await;
        assert_eq!(stored.status, 200, "{stored:?}");
        socket.until(1).await;
        let event = &socket.events[0];
        let expected = json!({ "stream": "EVENTS", "seq": event.seq.0, "duplicate": is_duplicate, "msg_id": "m-1" });
        assert_eq!(stored.json(), expected);
        assert_eq!((event.symbol.as_ref().map(|symbol| symbol.as_str()), event.id.as_str()), (Some("BRK.B"), "m-1"));
    }
    // NATS would end the connection of the router for a longer subject.
    let long = format!("kind=health&key={}", ".".repeat(1_000));
    for (query, body, status, code) in [
        (long.as_str(), json!({}), 400, "bad_query"),
        ("kind=pattern&key=%FF", doji.clone(), 400, "bad_query"),
        ("kind=pattern&key=AAPL", json!({ "pattern": "Doji", "tier": "weekly" }), 422, "bad_tier"),
        ("kind=rumour&key=AAPL", doji.clone(), 422, "unknown_kind"),
        ("kind=pattern&key=AAPL", json!([]), 422, "bad_json"),
        ("kind=pattern", doji.clone(), 400, "bad_query"),
    ] {
        let refused = post(query, &body).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (status, Some(code)), "{refused:?}");
    }
    // A method that a path does not have is refused like anything else, on both servers.
    for path in ["/v1/events", "/v1/openapi.json", "/livez"] {
        let method = if path == "/v1/events" { "GET" } else { "POST" };
        let refused = send(method, admin, path, &[], b"").await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (405, Some("method_not_allowed")), "{refused:?}");
        assert!(refused.header("allow").is_some_and(|methods| !methods.is_empty()), "{refused:?}");
    }
    let refused = send("POST", public, "/v1/openapi.json", &[], b"").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET,HEAD")), "{refused:?}");
    assert!(refused.body.contains("Allow"), "{refused:?}");
    let known = eventually("the router tells of the event", DEADLINE, async || {
        let known = read("GET", admin, "/v1/cluster").await;
        (known["status"]["last_events"]["pattern"]["seq"] == socket.events[0].seq.0).then_some(known)
    })
    .await;
    let last = &known["status"]["last_events"];
    assert_eq!(last.as_object().unwrap().len(), 1, "{last}");
}

/// The fields of an endpoint in the document, with the types that their values may have.
fn documented<'a>(document: &'a Value, path: &str) -> BTreeMap<&'a str, Vec<&'a str>> {
    let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    let types = |field: &'a Value| match &field["type"] {
        Value::String(only) => vec![only.as_str()],
        several => several.as_array().unwrap().iter().filter_map(Value::as_str).collect(),
    };
    schema["properties"].as_object().unwrap().iter().map(|(name, field)| (name.as_str(), types(field))).collect()
}

/// The type of a value, as the document names it.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let settings = [("gateway.connect_url", "wss://x/{gateway}/v1/stream")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let public = cluster.gateway_addresses().await[0];
    let (router, gateway) = (cluster.routers[0].address("admin").await, cluster.gateways[0].address("admin").await);
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    // Each node serves its own part of the document.
    let mut served = document.clone();
    served["paths"] = json!({});
    for address in [gateway, router] {
        let part = read("GET", address, "/v1/openapi.json").await;
        assert_eq!((&part["components"], &part["info"]), (&document["components"], &document["info"]));
        let paths = part["paths"].as_object().unwrap().clone();
        served["paths"].as_object_mut().unwrap().extend(paths);
    }
    assert_eq!(served, document);
    let rule = br#"{"id":"first","ttl_ms":500}"#;
    assert_eq!(send("PUT", router, "/v1/rules/first", &[], rule).await.status, 200);
    for (address, path, asked) in [
        (gateway, "/readyz", "/readyz"),
        (gateway, "/v1/cluster", "/v1/cluster"),
        (gateway, "/v1/nodes", "/v1/nodes"),
        (gateway, "/v1/stats", "/v1/stats"),
        (gateway, "/v1/health", "/v1/health"),
        (gateway, "/v1/users/{user}", "/v1/users/ann"),
        (gateway, "/v1/users/{user}/subscriptions", "/v1/users/ann/subscriptions"),
        (router, "/v1/cluster", "/v1/cluster"),
        (router, "/v1/nodes", "/v1/nodes"),
        (router, "/v1/stats", "/v1/stats"),
        (router, "/v1/health", "/v1/health"),
        (router, "/v1/rules", "/v1/rules"),
        (router, "/v1/rules/{id}", "/v1/rules/first"),
        (public, "/v1/me", "/v1/me?user=ann"),
        (public, "/v1/connect", "/v1/connect?user=ann"),
    ] {
        let answer = read("GET", address, asked).await;
        let (answer, documented) = (answer.as_object().unwrap(), documented(&document, path));
        let fields: BTreeSet<&str> = answer.keys().map(String::as_str).collect();
        assert_eq!(fields, documented.keys().copied().collect::<BTreeSet<&str>>(), "{asked}: {answer:?}");
        for (name, value) in answer {
            assert!(documented[name.as_str()].contains(&type_of(value)), "{asked}: {name} is {value}");
        }
    }
}
