//! Alerts: subscriptions that ask for them, and those that operators and producers send to a user, again until they are
//! acknowledged.

use async_nats::jetstream;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tickwire_core::event::Priority;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, ReceivedEvent, ServerMessage, SubscriptionName};
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::Cluster;
use crate::node::DEADLINE;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// Sends an alert. Returns the status and the answer.
async fn send(admin: SocketAddr, alert: &Value) -> (u16, Value) {
    let (mut tcp, body) = (TcpStream::connect(admin).await.unwrap(), alert.to_string());
    let head =
        format!("POST /v1/alerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    tcp.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// An event of low priority with this confidence.
fn confident(id: &str, confidence: f64) -> ProducerMessage {
    let event = json!({ "id": id, "pattern": "Doji", "confidence": confidence, "priority": "low" });
    ProducerMessage::json("pattern", "AAPL", &event)
}

/// The id of an event, its priority, and the subscriptions that it names.
fn seen(event: &ReceivedEvent) -> (&str, Priority, Vec<&str>) {
    (&event.id, event.priority, event.subs.iter().map(SubscriptionName::as_str).collect())
}

#[tokio::test]
async fn alerts_are_raised_name_their_subscriptions_and_come_again_in_a_resume() {
    let mut cluster = Cluster::start(1, 1).await;
    let (gateway, producer) = (cluster.gateway_addresses().await[0], cluster.producer().await);
    for (user, encoding) in [("ann", Encoding::Json), ("bob", Encoding::MsgPack)] {
        let mut socket = Socket::connect(gateway, user, encoding).await;
        socket.subscribe("all", &json!({})).await;
        let sure = json!({ "filter": { "min_confidence": 0.8 }, "alert": true });
        let mut frame = json!({ "action": "subscribe", "name": "sure" });
        frame.as_object_mut().unwrap().extend(sure.as_object().unwrap().clone());
        let ServerMessage::Subscribed(list) = socket.request(frame).await else { panic!("not subscribed") };
        let asks: Vec<bool> = list.subscriptions.values().map(|subscription| subscription.alert).collect();
        assert_eq!(asks, [false, true]);

        for (id, confidence) in [("unsure", 0.5), ("high", 0.8), ("critical", 0.95)] {
            producer.publish(&confident(&format!("{user} {id}"), confidence)).await;
        }
        socket.until(3).await;
        // The next one arrives while nobody reads, and is sent again.
        producer.publish(&confident(&format!("{user} missed"), 0.95)).await;
        let all = json!({ "all": { "filter": {} }, "sure": sure });
        socket.resume(gateway, user, &all).await;
        assert!(socket.caught_up().await.resumed);
        socket.until(4).await;

        let mut received: Vec<_> = socket.events.iter().collect();
        received.sort_by_key(|event| event.seq);
        let ids = ["unsure", "high", "critical", "missed"].map(|id| format!("{user} {id}"));
        let both = vec!["all", "sure"];
        let expected = [
            (ids[0].as_str(), Priority::Low, vec![]),
            (ids[1].as_str(), Priority::High, both.clone()),
            (ids[2].as_str(), Priority::Critical, both.clone()),
            (ids[3].as_str(), Priority::Critical, both),
        ];
        assert_eq!(received.into_iter().map(seen).collect::<Vec<_>>(), expected);
        let alerts: Vec<&Value> = socket.objects.iter().filter(|object| object["T"] == "alert").collect();
        assert!(alerts.len() >= 3 && alerts.iter().all(|alert| alert["subs"] == json!(["all", "sure"])), "{alerts:?}");
    }
}

#[tokio::test]
async fn sent_alert_reaches_its_user_on_any_gateway_once_and_says_who_is_connected() {
    let mut cluster = Cluster::start(1, 2).await;
    let addresses = cluster.gateway_addresses().await;
    let other = cluster.gateways[1].address("admin").await;
    let mut ann = Socket::connect(addresses[0], "ann", Encoding::Json).await;
    let mut bob = Socket::connect(addresses[1], "bob", Encoding::Json).await;
    for socket in [&mut ann, &mut bob] {
        socket.subscribe("alerts", &json!({ "kinds": ["alert"] })).await;
    }

    let alert = json!({ "user": "ann", "alert_id": "a-1", "priority": "critical", "message": "Margin call" });
    let (status, sent) = send(other, &alert).await;
    assert_eq!((status, &sent["duplicate"]), (200, &json!(false)), "{sent}");
    // Gateways have half a second to say whether the user is connected. The same alert asks them again.
    let repeated = eventually("the gateway of the user answers in time", DEADLINE, async || {
        let (_, repeated) = send(other, &alert).await;
        assert_eq!((&repeated["seq"], &repeated["duplicate"]), (&sent["seq"], &json!(true)), "{repeated}");
        (repeated["connected"] == "yes").then_some(repeated)
    })
    .await;
    let evidence = repeated["evidence"].as_array().unwrap();
    let sessions: u64 = evidence.iter().map(|one| one["sessions"].as_u64().unwrap()).sum();
    assert_eq!(sessions, 1, "{repeated}");
    assert_eq!((&repeated["id"], &repeated["priority"]), (&sent["id"], &sent["priority"]));
    // Nobody has a session: all gateways say so.
    eventually("both gateways answer", DEADLINE, async || {
        let (status, sent) = send(other, &json!({ "user": "nobody" })).await;
        let answered = sent["evidence"].as_array().unwrap().len();
        (status == 200 && sent["connected"] == "no" && answered == 2 && sent["silent"] == json!([])).then_some(())
    })
    .await;
    let (status, refusal) = send(other, &json!({ "user": "ann", "priority": "urgent" })).await;
    assert_eq!((status, &refusal["code"]), (400, &json!("bad_priority")));
    // A message of somebody else that has its message id does not keep it from the stream.
    cluster.producer().await.publish(&confident("pattern", 0.5).id("events.alert.ann:a-2")).await;
    let (status, last) = send(other, &json!({ "user": "ann", "alert_id": "a-2" })).await;
    assert_eq!((status, &last["duplicate"]), (200, &json!(false)), "{last}");

    ann.until(2).await;
    let received: Vec<_> = ann.events.iter().map(|event| (event.id.as_str(), event.priority, event.seq.0)).collect();
    let seq = |sent: &Value| sent["seq"].as_u64().unwrap();
    assert_eq!(received, [("a-1", Priority::Critical, seq(&sent)), ("a-2", Priority::Low, seq(&last))]);
    assert_eq!(ann.events[0].data["message"], "Margin call");
    let first = (ann.events[0].p, ann.events[0].seq);
    bob.catch_up(&cluster.log().await.end()).await;
    assert!(bob.events.is_empty());

    // Only ann may acknowledge it, as often as she likes, and no event of another kind.
    let ack = |(p, seq): (Partition, Seq)| json!({ "action": "ack", "p": p, "seq": seq });
    for _ in 0..2 {
        let ServerMessage::Acked(acked) = ann.request(ack(first)).await else { panic!("not acknowledged") };
        assert_eq!((acked.p, acked.seq), first);
    }
    cluster.producer().await.publish(&confident("pattern", 0.5)).await;
    let pattern = cluster.log().await.entries.last().map(|entry| (entry.partition, entry.seq)).unwrap();
    for place in [pattern, (first.0, Seq(1_000_000))] {
        assert_eq!(ann.refused(ack(place)).await.code, ErrorCode::NotAnAlert.code(), "{place:?}");
    }
    assert_eq!(bob.refused(ack(first)).await.code, ErrorCode::NotAnAlert.code());
    let bucket = jetstream::new(cluster.client.clone()).get_key_value(names::ACKS_BUCKET).await.unwrap();
    let entry = bucket.entry("ann").await.unwrap().unwrap();
    assert_eq!((entry.revision, bucket.entry("bob").await.unwrap().is_none()), (1, true));
}

/// The ids of events.
fn ids(events: &[ReceivedEvent]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

#[tokio::test]
async fn unacknowledged_alerts_come_again_at_the_next_connect_and_a_resume_delivers_each_once() {
    let mut cluster = Cluster::start(1, 2).await;
    let addresses = cluster.gateway_addresses().await;
    let admin = cluster.gateways[0].address("admin").await;
    let alert = async |id: &str| {
        let (status, sent) = send(admin, &json!({ "user": "ann", "alert_id": id, "message": id })).await;
        assert_eq!(status, 200, "{sent}");
    };
    let alerts = json!({ "kinds": ["alert"] });
    let mut first = Socket::connect(addresses[0], "ann", Encoding::Json).await;
    first.subscribe("alerts", &alerts).await;
    for id in ["a-0", "a-1", "a-2", "a-3", "a-4"] {
        alert(id).await;
    }
    first.until(5).await;
    for number in [1, 3] {
        let ReceivedEvent { p, seq, .. } = first.events[number].clone();
        let acked = first.request(json!({ "action": "ack", "p": p, "seq": seq })).await;
        assert!(matches!(acked, ServerMessage::Acked(_)), "{acked:?}");
    }
    assert_eq!(ids(&first.again), [""; 0], "they were new");

    // At another gateway, without a resume, exactly the others come again. They do not move the position.
    let mut second = Socket::connect(addresses[1], "ann", Encoding::MsgPack).await;
    second.catch_up(&cluster.log().await.end()).await;
    let before: Position = second.subscribe("alerts", &alerts).await.position.parse().unwrap();
    second.until_that(|socket| socket.again.len() >= 3).await;
    let after: Position = second.list().await.position.parse().unwrap();
    assert!(before.seqs.iter().zip(&after.seqs).all(|(before, after)| before <= after), "{before} {after}");
    assert_eq!((ids(&second.again), second.events.len()), (vec!["a-0", "a-2", "a-4"], 0));
    assert!(second.again.iter().all(|event| event.again && event.data["message"] == event.id.as_str()));
    eventually("the three are counted", DEADLINE, async || {
        (cluster.gateways[1].metrics().await.get("tickwire_gateway_reminders_total") == 3.0).then_some(())
    })
    .await;

    // New alerts come as ever: one before the connection breaks, and one that the resume delivers. Those that the client
    // had before its position, and that nobody has acknowledged, come again.
    alert("a-5").await;
    second.until(1).await;
    alert("a-6").await;
    second.resume(addresses[0], "ann", &json!({ "alerts": { "filter": alerts } })).await;
    assert!(second.caught_up().await.resumed);
    second.until_that(|socket| socket.events.len() >= 2 && socket.again.len() >= 7).await;
    let ServerMessage::Pong(_) = second.request(json!({ "action": "ping" })).await else { panic!("no pong") };
    assert_eq!(ids(&second.events), ["a-5", "a-6"]);
    assert_eq!(ids(&second.again[3..]), ["a-0", "a-2", "a-4", "a-5"]);
}
