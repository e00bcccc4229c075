//! The status of nodes over HTTP: who may read what, what is read, and how an operator closes the sessions of a user.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_testkit::eventually;

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed;
use crate::http::{Answer, send};
use crate::node::DEADLINE;
use crate::socket::Socket;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The document that is checked in.
const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// The status and the body of the answer to a request, with a token or none.
async fn ask(method: &str, address: SocketAddr, path: &str, token: Option<&str>) -> (u16, String) {
    let token = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = token.iter().map(|token| ("Authorization", token.as_str())).collect();
    let Answer { status, body, .. } = send(method, address, path, &headers, b"").await;
    (status, body)
}

/// The JSON of an answer 200 to a request without a token.
async fn read(method: &str, address: SocketAddr, path: &str) -> Value {
    let (status, body) = ask(method, address, path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

fn token(more: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({ "sub": "ann", "exp": now + 600 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[tokio::test]
async fn access_is_as_the_matrix_says() {
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt_secret", SECRET),
        ("admin.require_token", "always"),
        ("gateway.connect_url", "wss://x/{gateway}/v1/stream"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let public = cluster.gateway_addresses().await[0];
    let (router, gateway) = (cluster.routers[0].address("admin").await, cluster.gateways[0].address("admin").await);
    let user = token(&json!({}));
    let producer = token(&json!({ "role": "producer" }));
    let operator = token(&json!({ "role": "operator" }));
    let forged = format!("{operator}x");
    let tokens = [None, Some(&user), Some(&producer), Some(&operator), Some(&forged)];

    let (anyone, nobody) = ([200; 5], [404; 5]);
    let (readers, operators) = ([401, 403, 200, 200, 401], [401, 403, 403, 200, 401]);
    let users = [401, 200, 200, 200, 401];
    // Whoever may send an alert learns that the request is empty.
    let senders = [401, 403, 400, 400, 401];
    for (method, address, path, expected) in [
        ("GET", gateway, "/livez", anyone),
        ("GET", gateway, "/readyz", anyone),
        ("GET", gateway, "/metrics", anyone),
        ("GET", gateway, "/v1/openapi.json", anyone),
        ("GET", gateway, "/v1/cluster", readers),
        ("GET", gateway, "/v1/stats", readers),
        ("GET", gateway, "/v1/health", readers),
        ("GET", gateway, "/v1/users/ann", operators),
        ("DELETE", gateway, "/v1/users/ann/sessions", operators),
        ("GET", gateway, "/v1/users/ann/subscriptions/none", [401, 403, 403, 404, 401]),
        ("DELETE", gateway, "/v1/users/bob/subscriptions/none", [401, 403, 403, 404, 401]),
        ("POST", gateway, "/v1/alerts", senders),
        ("GET", gateway, "/v1/me", nobody),
        ("GET", gateway, "/v1/connect", nobody),
        ("PUT", gateway, "/v1/subscriptions", [401, 403, 403, 400, 401]),
        ("PUT", public, "/v1/subscriptions", nobody),
        ("GET", router, "/readyz", anyone),
        ("GET", router, "/v1/openapi.json", anyone),
        ("GET", router, "/v1/cluster", readers),
        ("GET", router, "/v1/stats", readers),
        ("GET", router, "/v1/health", readers),
        ("GET", router, "/v1/users/ann", nobody),
        ("GET", router, "/v1/rules", operators),
        ("GET", router, "/v1/rules/none", [401, 403, 403, 404, 401]),
        ("PUT", router, "/v1/rules/none", [401, 403, 403, 422, 401]),
        ("DELETE", router, "/v1/rules/none", [401, 403, 403, 404, 401]),
        ("POST", router, "/v1/events?kind=pattern&key=AAPL", [401, 403, 422, 422, 401]),
        ("GET", gateway, "/v1/rules", nobody),
        ("POST", gateway, "/v1/events?kind=pattern&key=AAPL", nobody),
        ("POST", router, "/v1/alerts", nobody),
        ("GET", public, "/v1/openapi.json", anyone),
        ("GET", public, "/v1/me", users),
        ("GET", public, "/v1/connect", users),
        ("GET", public, "/v1/users/ann/subscriptions/none", [401, 404, 404, 404, 401]),
        ("DELETE", public, "/v1/users/bob/subscriptions/none", [401, 403, 403, 403, 401]),
        ("GET", public, "/v1/cluster", nobody),
        ("GET", public, "/v1/users/ann", nobody),
        ("DELETE", public, "/v1/users/ann/sessions", nobody),
        ("GET", public, "/v1/rules", nobody),
        ("POST", public, "/v1/alerts", nobody),
        ("GET", public, "/metrics", nobody),
    ] {
        for (token, expected) in tokens.iter().zip(expected) {
            let (status, body) = ask(method, address, path, token.map(String::as_str)).await;
            assert_eq!(status, expected, "{method} {path} {token:?}: {body}");
        }
    }
    // A refusal has a stable code.
    for (token, code) in [(None, "no_token"), (Some(&user), "wrong_role"), (Some(&forged), "bad_token")] {
        let (_, body) = ask("GET", gateway, "/v1/users/ann", token.map(String::as_str)).await;
        let refusal: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(refusal["code"], code, "{body}");
    }
    let long = format!("/v1/users/{}", "x".repeat(200));
    let (status, body) = ask("GET", gateway, &long, Some(&operator)).await;
    assert!(status == 400 && body.contains("bad_user"), "{body}");
}

/// The sessions of a user by the admin server of a gateway.
async fn sessions(admin: SocketAddr, user: &str) -> Vec<Value> {
    read("GET", admin, &format!("/v1/users/{user}")).await["sessions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn operator_reads_and_closes_the_sessions_of_a_user() {
    let mut cluster = Cluster::start(1, 1).await;
    let address = cluster.gateway_addresses().await[0];
    let admin = cluster.gateways[0].address("admin").await;
    let mut json_session = Socket::connect(address, "ann", Encoding::Json).await;
    let mut msgpack_session = Socket::connect(address, "ann", Encoding::MsgPack).await;
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

    let closed = read("DELETE", admin, "/v1/users/ann/sessions").await;
    assert_eq!((&closed["closed"], &closed["user"]), (&json!(2), &json!("ann")));
    for socket in [&mut json_session, &mut msgpack_session] {
        let expected = (CloseCode::ClosedByOperator.code(), CloseCode::ClosedByOperator.text().to_owned());
        assert_eq!(socket.closed().await, expected);
    }
    assert_eq!((sessions(admin, "ann").await.len(), sessions(admin, "bob").await.len()), (0, 1));
    assert_eq!(read("DELETE", admin, "/v1/users/ann/sessions").await["closed"], 0);
    cluster.producer().await.publish(&feed::pattern("AAPL", 2)).await;
    bob.until(2).await;
}

#[tokio::test]
async fn nodes_tell_what_they_know_of_the_cluster() {
    let mut cluster = Cluster::start(2, 1).await;
    let address = cluster.gateway_addresses().await[0];
    let admin = cluster.gateways[0].address("admin").await;
    let mut socket = Socket::connect(address, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
    socket.until(1).await;

    let known = eventually("the edge tells of the event", DEADLINE, async || {
        let known = read("GET", admin, "/v1/cluster").await;
        known["status"]["coverage"]["last_event"].is_object().then_some(known)
    })
    .await;
    assert_eq!(
        (known["members"].as_array().unwrap().len(), known["partitions"].as_u64()),
        (3, Some(PARTITIONS.into()))
    );
    assert_eq!(known["owners"].as_object().unwrap().len(), PARTITIONS as usize);
    let status = &known["status"];
    let counts = ["sessions", "users", "subscriptions"].map(|name| status[name].as_u64().unwrap());
    assert_eq!((counts, &status["interest"]["topics"]), ([1, 1, 1], &json!(1)));

    // All partitions and the catch-all have an owner.
    let mut sources = BTreeSet::new();
    for router in &mut cluster.routers {
        let known = read("GET", router.address("admin").await, "/v1/cluster").await;
        let owned = known["status"]["sources"].as_array().unwrap().clone();
        sources.extend(owned.iter().map(|source| source["source"].as_str().unwrap().to_owned()));
    }
    assert_eq!(sources.len(), PARTITIONS as usize + 1, "{sources:?}");

    eventually("the event is counted", DEADLINE, async || {
        let stats = read("GET", admin, "/v1/stats").await;
        (stats["counts"]["delivered"]["total"] == 1).then_some(())
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
    for (query, body, status, code) in [
        ("kind=pattern&key=AAPL", json!({ "pattern": "Doji", "tier": "weekly" }), 422, "bad_tier"),
        ("kind=rumour&key=AAPL", doji.clone(), 422, "unknown_kind"),
        ("kind=pattern&key=AAPL", json!([]), 422, "bad_json"),
        ("kind=pattern", doji.clone(), 400, "bad_query"),
    ] {
        let refused = post(query, &body).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (status, Some(code)), "{refused:?}");
    }
    let known = read("GET", admin, "/v1/cluster").await;
    let last = &known["status"]["last_events"];
    assert_eq!(last["pattern"]["seq"], socket.events[0].seq.0);
    assert_eq!(last.as_object().unwrap().len(), 1, "{last}");
}

/// The names of the fields of an endpoint in the document.
fn documented<'a>(document: &'a Value, path: &str) -> BTreeSet<&'a String> {
    let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    schema["properties"].as_object().unwrap().keys().collect()
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
        (gateway, "/v1/stats", "/v1/stats"),
        (gateway, "/v1/health", "/v1/health"),
        (gateway, "/v1/users/{user}", "/v1/users/ann"),
        (router, "/v1/cluster", "/v1/cluster"),
        (router, "/v1/stats", "/v1/stats"),
        (router, "/v1/health", "/v1/health"),
        (router, "/v1/rules", "/v1/rules"),
        (router, "/v1/rules/{id}", "/v1/rules/first"),
        (public, "/v1/me", "/v1/me?user=ann"),
        (public, "/v1/connect", "/v1/connect?user=ann"),
    ] {
        let answer = read("GET", address, asked).await;
        let fields: BTreeSet<&String> = answer.as_object().unwrap().keys().collect();
        assert_eq!(fields, documented(&document, path), "{asked}: {answer}");
    }
}
