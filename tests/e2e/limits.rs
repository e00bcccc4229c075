//! Rates, quotas and slow readers. Notices count every missing event.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tickwire_core::protocol::codes::CloseCode;
use tickwire_core::protocol::{Encoding, Notice, ServerMessage};

use crate::cluster::Cluster;
use crate::logs::line;
use crate::node::tickwire;

use crate::producer::ProducerMessage;
use crate::socket::Socket;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Low events, each with its own pattern, so that none is conflated with another.
fn distinct(count: u64) -> Vec<ProducerMessage> {
    let event = |n: u64| json!({ "pattern": format!("P{n}"), "confidence": 0.1, "id": n.to_string() });
    (0..count).map(|n| ProducerMessage::json("pattern", "AAPL", &event(n))).collect()
}

/// Fails unless notices count all events that were published and not received, with the right ranges.
fn assert_notified(socket: &Socket, published: u64, code: &str) {
    let notices = socket.event_notices();
    let noticed: u64 = notices.iter().map(|notice| notice.dropped + notice.conflated).sum();
    assert_eq!(published - socket.events.len() as u64, noticed, "{notices:?}");
    assert!(notices.iter().all(|notice| notice.code == code), "{notices:?}");
    let received: BTreeSet<_> = socket.events.iter().map(|event| event.seq).collect();
    assert_eq!(received.len(), socket.events.len(), "once");
    let ranges = || notices.iter().flat_map(|notice| &notice.ranges);
    let (first, last) = (ranges().map(|range| range.first).min(), ranges().map(|range| range.last).max());
    assert!(noticed == 0 || first.is_some() && first <= last);
}

#[tokio::test]
async fn sessions_of_a_user_share_a_rate_and_excess_is_noticed() {
    let settings = [("gateway.rate", "40"), ("gateway.critical_rate", "5")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut tabs = [
        Socket::connect(gateway, "ann", Encoding::Json).await,
        Socket::connect(gateway, "ann", Encoding::MsgPack).await,
    ];
    for tab in &mut tabs {
        tab.subscribe("mine", &json!({})).await;
    }
    let mut other = Socket::connect(gateway, "bob", Encoding::Json).await;
    other.subscribe("few", &json!({ "patterns": ["P1", "P2"] })).await;
    let producer = cluster.producer().await;
    producer.publish_all(&distinct(400)).await;
    let end = cluster.log().await.end();
    for tab in &mut tabs {
        tab.catch_up(&end).await;
        assert_notified(tab, 400, "throttled");
        assert!(
            tab.event_notices()
                .iter()
                .all(|notice| notice.subscription.as_ref().is_some_and(|name| name.as_str() == "mine"))
        );
        assert!(tab.notices.iter().any(|notice| notice.msg.as_deref().is_some_and(|msg| msg.contains("2 sessions"))));
    }
    other.catch_up(&end).await;
    assert_eq!((other.events.len(), other.event_notices().len()), (2, 0));
    // Critical events are delivered all the same.
    producer.publish_all(&distinct(100)).await;
    producer
        .publish(&ProducerMessage::json("pattern", "AAPL", &json!({ "pattern": "Now", "priority": "critical" })))
        .await;
    let urgent =
        |tab: &Socket| tab.events.iter().any(|event| event.pattern.as_ref().is_some_and(|p| p.as_str() == "Now"));
    for tab in &mut tabs {
        tab.until_that(urgent).await;
    }
    let metrics = cluster.gateways[0].metrics().await;
    assert!(metrics.get("tickwire_gateway_dropped_events_total") > 0.0);
}

#[tokio::test]
async fn newer_events_of_a_key_replace_older_ones() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.rate", "10")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::MsgPack).await;
    socket.subscribe("mine", &json!({})).await;
    let same: Vec<ProducerMessage> = (0..200)
        .map(|n: u64| ProducerMessage::json("pattern", "AAPL", &json!({ "pattern": "Doji", "id": n.to_string() })))
        .collect();
    cluster.producer().await.publish_all(&same).await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_notified(&socket, 200, "throttled");
    assert_eq!(socket.events.last().map(|event| event.id.as_str()), Some("199"), "the newest is always given");
    let stood_for: u64 = socket.events.iter().map(|event| u64::from(event.conflated)).sum();
    assert_eq!(stood_for, socket.notices.iter().map(|notice| notice.conflated).sum::<u64>());
}

#[tokio::test]
async fn quota_limits_one_subscription_with_a_notice() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let frame = json!({ "action": "subscribe", "name": "few", "filter": {}, "max_events_per_hour": 30 });
    let ServerMessage::Subscribed(list) = socket.request(frame).await else { panic!("not subscribed") };
    assert_eq!(list.subscriptions.values().map(|s| s.max_events_per_hour).collect::<Vec<_>>(), [Some(30)]);
    cluster.producer().await.publish_all(&distinct(100)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_eq!(socket.events.len(), 30);
    assert_notified(&socket, 100, "quota");
}

#[tokio::test]
async fn quota_survives_resubscribing_and_limits_no_other_subscription() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let few =
        json!({ "action": "subscribe", "name": "few", "filter": {}, "window_ms": 1000, "max_events_per_hour": 30 });
    let producer = cluster.producer().await;
    for round in 1..=5 {
        socket.request(few.clone()).await;
        producer.publish_all(&distinct(20)).await;
        socket.request(json!({ "action": "ping" })).await;
        let end = cluster.log().await.end();
        // Some events wait for their window when the subscription is replaced.
        if round == 5 {
            socket.catch_up(&end).await;
        }
    }
    assert_eq!(socket.events.len(), 30);
    assert_notified(&socket, 100, "quota");
    let named = |notice: &Notice| notice.subscription.as_ref().is_some_and(|name| name.as_str() == "few");
    assert!(socket.event_notices().into_iter().all(named), "{:?}", socket.notices);

    // It limits neither another subscription to the same events with quota left nor critical events.
    let more = json!({ "action": "subscribe", "name": "more", "filter": {}, "max_events_per_hour": 40 });
    socket.request(more).await;
    producer.publish_all(&distinct(50)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_eq!(socket.events.len(), 30 + 40);
    producer
        .publish(&ProducerMessage::json("pattern", "AAPL", &json!({ "pattern": "Now", "priority": "critical" })))
        .await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_eq!(socket.events.len(), 30 + 40 + 1);
    assert_notified(&socket, 151, "quota");
}

#[tokio::test]
async fn plan_sets_the_rate_of_a_user() {
    let settings =
        [("auth.mode", "jwt"), ("auth.jwt_secret", SECRET), ("gateway.rate", "10"), ("gateway.plans.pro", "0")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let token = |arguments: &[&str]| {
        let made = tickwire().args(["token", "--secret", SECRET]).args(arguments).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        format!("?token={}", String::from_utf8(made.stdout).unwrap().trim())
    };
    let mut pro =
        Socket::open(gateway, &token(&["--user", "ann", "--plan", "pro", "--weight", "9"]), Encoding::Json).await;
    let mut usual = Socket::open(gateway, &token(&["--user", "bob"]), Encoding::Json).await;
    for socket in [&mut pro, &mut usual] {
        socket.welcome().await;
        socket.subscribe("all", &json!({})).await;
    }
    cluster.producer().await.publish_all(&distinct(300)).await;
    let end = cluster.log().await.end();
    pro.catch_up(&end).await;
    usual.catch_up(&end).await;
    assert_eq!((pro.events.len(), pro.event_notices().len()), (300, 0));
    assert!(usual.events.len() < 300, "the rate of the plan is not that of others");
    assert_notified(&usual, 300, "throttled");
}

#[tokio::test]
async fn stalled_reader_is_notified_and_closed_without_loss_for_others() {
    let settings =
        [("gateway.outbox_bytes", "65536"), ("gateway.slow_deadline", "1s"), ("gateway.max_malformed", "1000")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut stalled = Socket::connect(gateway, "ann", Encoding::Json).await;
    let mut reading = Socket::connect(gateway, "bob", Encoding::Json).await;
    for socket in [&mut stalled, &mut reading] {
        socket.subscribe("all", &json!({})).await;
    }
    let note = "x".repeat(8_000);
    let event = |n: usize| -> Value { json!({ "pattern": format!("P{n}"), "note": note, "id": n.to_string() }) };
    let producer = cluster.producer().await;
    let mut published = 0;
    // Publish far more than the sockets' buffers hold, until the gateway closes the slow one.
    while cluster.gateways[0].metrics().await.get("tickwire_gateway_closes_total") < 1.0 {
        assert!(published < 20_000, "the reader is never closed");
        // Fewer than fill an outbox, so that the fast reader need not read them all at once.
        let some: Vec<_> =
            (published..published + 5).map(|n| ProducerMessage::json("pattern", "AAPL", &event(n))).collect();
        producer.publish_all(&some).await;
        published += 5;
        reading.until(published).await;
    }
    assert_eq!(reading.event_notices().len(), 0, "{:?}", reading.notices);
    let (code, _) = stalled.closed().await;
    assert_eq!(code, CloseCode::SlowConsumer.code());
    let last = stalled.events.last().map_or(0, |event| event.seq.0);
    let notices = stalled.event_notices();
    assert!(notices.iter().all(|notice| notice.code == "slow_consumer"), "{notices:?}");
    let noticed: u64 = stalled.notices.iter().map(|notice| notice.dropped + notice.conflated).sum();
    assert!(noticed > 0 && last > 0);
    assert!(stalled.events.len() as u64 + noticed <= published as u64);
    // The log line separates dropped events from unsent ones, which a resume brings.
    let closed = line(&cluster.gateways[0], "session closed", "ann").await;
    let count = |field: &str| closed[field].as_u64().unwrap();
    assert_eq!(closed["code"], json!(code), "{closed}");
    let logged = count("events") + count("dropped") + count("unsent");
    assert_eq!(logged, stalled.events.len() as u64 + noticed, "{closed}");
}
