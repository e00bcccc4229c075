//! Saved subscriptions: written at one gateway, applied at another one, to new sessions and to those that are open.

use async_nats::jetstream;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tickwire_client::{ClientError, Message};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Encoding, ServerMessage, SubscriptionName, Subscriptions};
use tickwire_node::names;
use tickwire_testkit::{Process, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::Cluster;
use crate::cut::Line;
use crate::feed;
use crate::http::send;
use crate::listener::Listener;
use crate::node::{DEADLINE, tickwire};
use crate::oracle::filter;
use crate::socket::{Incoming, Socket};

/// An answer: its status, its ETag and its body.
struct Answer {
    status: u16,
    tag: Option<String>,
    body: String,
}

/// Sends a request about a saved subscription of ann, or to a path.
async fn ask(address: SocketAddr, method: &str, name: &str, if_match: Option<&str>, body: &str) -> Answer {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let if_match = if_match.map(|tag| format!("If-Match: {tag}\r\n")).unwrap_or_default();
    let path = match name.starts_with('/') {
        true => name.to_owned(),
        false => format!("/v1/users/ann/subscriptions/{name}?user=ann"),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{if_match}");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).map(str::to_owned);
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), tag, body: body.to_owned() }
}

async fn put(address: SocketAddr, name: &str, request: &Value) -> Answer {
    ask(address, "PUT", name, None, &request.to_string()).await
}

/// The next list of subscriptions that the session gets without having asked.
pub(crate) async fn list(socket: &mut Socket) -> Subscriptions {
    match socket.next().await {
        Incoming::Message(ServerMessage::Subscribed(list) | ServerMessage::Subscriptions(list)) => {
            assert_eq!(list.id, None);
            list
        }
        other => panic!("no list but {other:?}"),
    }
}

fn names(list: &Subscriptions) -> Vec<&str> {
    list.subscriptions.keys().map(|name| name.as_str()).collect()
}

#[tokio::test]
async fn saved_subscription_is_applied_at_another_gateway_and_follows_changes() {
    let mut cluster = Cluster::start(1, 2).await;
    let addresses = cluster.gateway_addresses().await;
    let (writes, serves) = (addresses[0], addresses[1]);
    let request = json!({ "filter": { "symbols": ["AAPL"] }, "window_ms": 0 });
    let saved = put(writes, "portfolio", &request).await;
    assert_eq!(saved.status, 200, "{}", saved.body);
    let body: Value = serde_json::from_str(&saved.body).unwrap();
    assert_eq!((&body["request"], &body["updated_by"]), (&request, &json!("ann")));
    assert_eq!(body["created"], body["last_used"]);
    let all = ask(serves, "GET", "/v1/users/ann/subscriptions?user=ann", None, "").await;
    assert_eq!((all.status, &all.tag), (200, &saved.tag), "{}", all.body);
    let portfolio = json!({ "request": request, "created": body["created"], "last_used": body["last_used"],
        "updated_by": "ann" });
    let expected = json!({ "user": "ann", "subscriptions": { "portfolio": portfolio } });
    assert_eq!(serde_json::from_str::<Value>(&all.body).unwrap(), expected);

    // The other gateway learns of it within a second.
    let mut socket = eventually("the welcome names the saved subscription", DEADLINE, async || {
        let mut socket = Socket::open(serves, "?user=ann", Encoding::Json).await;
        let welcome = socket.welcome().await;
        (!welcome.subscriptions.is_empty()).then_some(socket)
    })
    .await;
    assert_eq!(names(&list(&mut socket).await), ["portfolio"]);
    let producer = cluster.producer().await;
    producer.publish_all(&[feed::pattern("AAPL", 1), feed::pattern("TSLA", 2)]).await;
    socket.until(1).await;

    // A change and a deletion reach the open session.
    let changed = json!({ "filter": { "symbols": ["TSLA"] }, "window_ms": 0 });
    let tag = saved.tag.unwrap();
    let put = ask(writes, "PUT", "portfolio", Some(&tag), &changed.to_string()).await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(ask(writes, "PUT", "portfolio", Some(&tag), &changed.to_string()).await.status, 412);
    assert_eq!(names(&list(&mut socket).await), ["portfolio"]);
    producer.publish_all(&[feed::pattern("AAPL", 3), feed::pattern("TSLA", 4)]).await;
    socket.until(2).await;
    let symbols: Vec<_> = socket.events.iter().map(|event| event.symbol.as_ref().unwrap().as_str()).collect();
    assert_eq!(symbols, ["AAPL", "TSLA"]);

    assert_eq!(ask(serves, "DELETE", "portfolio", None, "").await.status, 204);
    assert!(list(&mut socket).await.subscriptions.is_empty());
    assert_eq!(ask(writes, "GET", "portfolio", None, "").await.status, 404);

    // Changes without a condition wait for each other, at both gateways.
    let changes = (0..40_usize).map(|number| {
        let body = json!({ "filter": { "symbols": ["AAPL"] }, "window_ms": number }).to_string();
        let address = addresses[number % 2];
        async move { ask(address, "PUT", "portfolio", None, &body).await.status }
    });
    assert_eq!(join_all(changes).await, [200; 40]);
}

/// The names in a message about saved subscriptions.
fn saved_names(message: &Message) -> Option<Vec<&str>> {
    let Message::SavedSubscriptions(saved) = message else { return None };
    Some(saved.keys().map(SubscriptionName::as_str).collect())
}

/// A client and `watch` without subscriptions of their own are cut off. Meanwhile events arrive, and another
/// subscription is saved.
#[tokio::test]
async fn rust_client_resumes_saved_subscriptions_and_acknowledges_their_alerts() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let alerts = json!({ "filter": { "kinds": ["alert"] }, "alert": true, "window_ms": 0 });
    assert_eq!(put(gateway, "alerts", &alerts).await.status, 200);
    let line = Line::to_address(gateway);
    let url = format!("ws://{}", line.address);
    let watch = ["watch", "--url", &url, "--user", "ann", "--saved", "--json"];
    let mut watch = Process::start("watch", cluster.home(), tickwire().args(watch));
    let mut listener = Listener::connect(&[line.address], "ann", Encoding::MsgPack).await;
    // Until this answer the gateway holds the saved subscriptions back.
    listener.client.list().await.unwrap();
    listener.until("the saved one", |message| saved_names(message) == Some(vec!["alerts"])).await;
    eventually("watch has it as well", DEADLINE, async || {
        watch.stderr().lines().any(|line| line == "saved subscriptions: alerts").then_some(())
    })
    .await;
    let producer = cluster.producer().await;
    producer.publish(&feed::alert("ann", 1)).await;
    listener.until("the alert", |message| matches!(message, Message::Alert(_))).await;
    listener.client.acknowledge(&listener.events[0]).await.unwrap();

    line.cut();
    listener.until("the cut", |message| matches!(message, Message::Disconnected { .. })).await;
    producer.publish_all(&[feed::alert("ann", 2), feed::pattern("AAPL", 3), feed::pattern("TSLA", 4)]).await;
    let portfolio = json!({ "filter": { "symbols": ["AAPL"] }, "window_ms": 0 });
    assert_eq!(put(gateway, "portfolio", &portfolio).await.status, 200);
    eventually("the gateway knows both", DEADLINE, async || {
        let mut socket = Socket::open(gateway, "?user=ann", Encoding::Json).await;
        (socket.welcome().await.subscriptions.len() == 2).then_some(())
    })
    .await;
    line.mend();
    listener.until("all of it", |message| *message == Message::Resumed { complete: true }).await;
    assert!(!listener.others.contains(&Message::Interrupted), "{:?}", listener.others);
    let log = cluster.log().await;
    let wanted = [json!({ "kinds": ["alert"] }), json!({ "symbols": ["AAPL"] })].map(|wanted| filter(&wanted));
    let due: Vec<_> = log.matching("ann", &wanted).iter().map(|entry| (entry.partition, entry.seq)).collect();
    // The second alert was not acknowledged when the client connected, so it may come again.
    let in_place = listener.events.iter().filter(|event| !event.again);
    let mut received: Vec<_> = in_place.map(|event| (event.p, event.seq)).collect();
    received.sort_by_key(|(_, seq)| *seq);
    assert_eq!((&received, received.len()), (&due, 3));

    // Only an event of kind alert can be acknowledged.
    for event in &listener.events[1..] {
        let answer = listener.client.acknowledge(event).await;
        match event.pattern {
            None => answer.unwrap(),
            Some(_) => {
                let code = ErrorCode::NotAnAlert.code();
                assert!(matches!(&answer, Err(ClientError::Refused { code: got, .. }) if *got == code), "{answer:?}");
            }
        }
    }
    // It may have connected later.
    eventually("watch prints the same", DEADLINE, async || {
        let text = watch.stdout();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let events = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut printed: Vec<(String, u64)> = events
            .filter(|event| event["again"].is_null())
            .map(|event| (event["T"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap()))
            .collect();
        printed.sort_by_key(|(_, seq)| *seq);
        let types = ["alert", "alert", "event"];
        let expected = due.iter().zip(types).map(|((_, seq), of)| (of.to_owned(), seq.0));
        (printed == expected.collect::<Vec<_>>()).then_some(())
    })
    .await;
    assert_eq!(ask(gateway, "DELETE", "portfolio", None, "").await.status, 204);
    listener.until("the change", |message| saved_names(message) == Some(vec!["alerts"])).await;
    watch.interrupt();
    assert_eq!(watch.wait(DEADLINE).await.code(), Some(0), "{}", watch.stderr());
}

#[tokio::test]
async fn refused_subscription_is_not_saved_and_a_session_may_do_without() {
    let mut cluster = Cluster::start(1, 1).await;
    let address = cluster.gateway_addresses().await[0];
    for (request, path) in [
        (json!({ "filter": { "symbols": ["A?"] } }), "symbols[0]"),
        (json!({ "filter": {}, "window_ms": 5_000 }), "window_ms"),
        (json!({ "since": "5m" }), "since"),
        (json!({ "preset": "daily", "patterns": ["Doji"] }), "patterns"),
    ] {
        let answer = put(address, "bad", &request).await;
        assert!(answer.status == 400 && answer.body.contains(path), "{request}: {} {}", answer.status, answer.body);
    }
    assert_eq!(ask(address, "GET", "bad", None, "").await.status, 404);

    assert_eq!(put(address, "good", &json!({ "preset": "daily" })).await.status, 200);
    let welcomed = async |query: &'static str| {
        let mut socket = Socket::open(address, query, Encoding::MsgPack).await;
        (socket.welcome().await.subscriptions.len(), socket)
    };
    eventually("the gateway knows it", DEADLINE, async || {
        let (count, _) = welcomed("?user=ann").await;
        (count == 1).then_some(())
    })
    .await;
    let (count, mut without) = welcomed("?user=ann&saved=false").await;
    assert_eq!(count, 0);
    assert!(without.list().await.subscriptions.is_empty());
    let (_, mut other) = welcomed("?user=bob").await;
    assert!(other.list().await.subscriptions.is_empty());

    // What a newer version has written of ann stays as it is.
    let newer = r#"{"version":2,"subscriptions":{"good":{"request":{"preset":"daily"},"mood":"calm"}}}"#;
    let bucket = jetstream::new(cluster.client.clone()).get_key_value(names::SUBSCRIPTIONS_BUCKET).await.unwrap();
    bucket.put("ann", newer.into()).await.unwrap();
    for (method, body) in [("GET", ""), ("PUT", "{\"preset\":\"daily\"}"), ("DELETE", "")] {
        assert_eq!(ask(address, method, "good", None, body).await.status, 409, "{method}");
    }
    assert_eq!(bucket.get("ann").await.unwrap().unwrap(), newer);
    eventually("the gateway counts it", DEADLINE, async || {
        let newer = cluster.gateways[0].metrics().await.get("tickwire_gateway_newer_subscriptions");
        (newer == 1.0).then_some(())
    })
    .await;
    let (count, _) = welcomed("?user=ann").await;
    assert_eq!(count, 0);
}

/// A client that leaves while its request is under way changes nothing of it.
async fn disconnected_request_is_finished(admin: SocketAddr) {
    let portfolio = json!({ "portfolio": { "filter": { "symbols": ["AAPL"] } } });
    let users: serde_json::Map<_, _> = (0..1_000).map(|number| (format!("u{number:03}"), portfolio.clone())).collect();
    let body = json!({ "subscriptions": users }).to_string();
    let mut client = TcpStream::connect(admin).await.unwrap();
    let head = "PUT /v1/subscriptions?atomic=true HTTP/1.1\r\nHost: x\r\n";
    client.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let is_saved = async |user: &str| {
        let path = format!("/v1/users/{user}/subscriptions/portfolio");
        (ask(admin, "GET", &path, None, "").await.status == 200).then_some(())
    };
    eventually("the first user is written", DEADLINE, async || is_saved("u000").await).await;
    drop(client);
    eventually("the last user is written", DEADLINE, async || is_saved("u999").await).await;
}

#[tokio::test]
async fn many_users_succeed_alone_or_together() {
    let mut cluster = Cluster::start(1, 1).await;
    let (public, admin) = (cluster.gateway_addresses().await[0], cluster.gateways[0].address("admin").await);
    let portfolio = json!({ "portfolio": { "filter": { "symbols": ["AAPL"] } } });
    let some = json!({ "subscriptions": { "ann": portfolio, "bob": { "portfolio": { "window_ms": 5_000 } } } });
    let count = |answer: &Answer| {
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let results = body["results"].as_array().unwrap().clone();
        (answer.status, results.iter().map(|result| result["saved"].as_bool().unwrap()).collect::<Vec<_>>())
    };
    let refused = ask(admin, "PUT", "/v1/subscriptions?atomic=true", None, &some.to_string()).await;
    assert_eq!(count(&refused), (409, vec![false, false]));
    assert_eq!(ask(public, "GET", "portfolio", None, "").await.status, 404);
    let partly = ask(admin, "PUT", "/v1/subscriptions", None, &some.to_string()).await;
    assert_eq!(count(&partly), (200, vec![true, false]));
    assert_eq!(ask(public, "GET", "portfolio", None, "").await.status, 200);
    // Nothing is written of eve, so it can be repeated.
    let all = json!({ "subscriptions": { "ann": portfolio, "bob": portfolio, "eve": {} } });
    for _ in 0..2 {
        let together = ask(admin, "PUT", "/v1/subscriptions?atomic=true", None, &all.to_string()).await;
        assert_eq!(count(&together), (200, vec![true, true, true]), "{}", together.body);
    }
    disconnected_request_is_finished(admin).await;
    let eve = async |header: &str| {
        let path = "/v1/users/eve/subscriptions/portfolio";
        send("PUT", admin, path, &[(header, "*")], b"{\"preset\":\"daily\"}").await
    };
    assert_eq!(eve("If-Match").await.status, 412, "there is none yet");
    assert!(eve("If-None-Match").await.header("etag").is_some());
    assert_eq!(eve("If-None-Match").await.status, 412);
    let malformed = ask(admin, "PUT", "/v1/users/eve/subscriptions/portfolio", Some("17"), "{}").await;
    assert!(malformed.status == 400 && malformed.body.contains("bad_precondition"), "{}", malformed.body);
}
