//! Presets: a gateway turns them into filters and quotas, in `subscribe` and in `resume`.

use serde_json::{Value, json};
use tickwire_core::protocol::{Encoding, ServerMessage, Subscription, SubscriptionName, Subscriptions};

use crate::cluster::Cluster;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

async fn subscribed(socket: &mut Socket, frame: Value) -> Subscriptions {
    match socket.request(frame).await {
        ServerMessage::Subscribed(list) => list,
        other => panic!("not subscribed: {other:?}"),
    }
}

fn only<'a>(list: &'a Subscriptions, name: &str) -> &'a Subscription {
    assert_eq!(list.subscriptions.len(), 1, "{list:?}");
    &list.subscriptions[&SubscriptionName::new(name).unwrap()]
}

#[tokio::test]
async fn preset_selects_events_by_its_filter_and_survives_a_resume() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let frame = json!({ "action": "subscribe", "name": "swing", "preset": "swing_trading", "symbols": ["AAPL"] });
    let list = subscribed(&mut socket, frame).await;
    let swing = only(&list, "swing");
    let filter = json!({
        "kinds": ["pattern"], "symbols": ["AAPL"],
        "patterns": ["BreakoutBO", "ResistanceBreak", "SupportBreak", "TrendReversal"],
        "tiers": ["daily", "combo"], "min_confidence": 0.7, "min_priority": "medium",
    });
    assert_eq!((json!(swing.filter), swing.max_events_per_hour), (filter.clone(), Some(25)));

    let event = |id: &str, symbol: &str, pattern: &str, tier: &str, confidence: f64| {
        let event = json!({ "id": id, "pattern": pattern, "tier": tier, "confidence": confidence });
        ProducerMessage::json("pattern", symbol, &event)
    };
    let events = [
        event("daily", "AAPL", "BreakoutBO", "daily", 0.7),
        event("combo", "AAPL", "SupportBreak", "combo", 0.9),
        event("too unsure", "AAPL", "BreakoutBO", "daily", 0.69),
        event("other tier", "AAPL", "BreakoutBO", "intraday", 0.9),
        event("other pattern", "AAPL", "Doji", "daily", 0.9),
        event("other symbol", "TSLA", "BreakoutBO", "daily", 0.9),
    ];
    cluster.producer().await.publish_all(&events).await;
    let end = cluster.log().await.end();
    socket.catch_up(&end).await;
    let mut ids: Vec<_> = socket.events.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["combo", "daily"]);

    let mut socket = Socket::connect(gateway, "ann", Encoding::MsgPack).await;
    let subscriptions = json!({
        "swing": { "preset": "swing_trading", "symbols": ["AAPL"], "max_events_per_hour": 300 },
    });
    let frame = json!({ "action": "resume", "position": list.position, "subscriptions": subscriptions });
    let list = subscribed(&mut socket, frame).await;
    let swing = only(&list, "swing");
    assert_eq!((json!(swing.filter), swing.max_events_per_hour), (filter, Some(300)));
}
