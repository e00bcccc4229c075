//! What some clients ask for delays nobody else: each flood comes over three connections while another client's events are
//! timed, and none of these is missing.

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed;
use crate::producer::Outgoing;
use crate::socket::{Socket, query, try_connect};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tickwire_core::codes::ErrorCode;
use tickwire_core::frames::Encoding;
use tickwire_core::ids::Seq;
use tickwire_core::position::Position;
use tickwire_testkit::eventually;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::node::DEADLINE;

/// How many events are timed.
const EVENTS: usize = 100;

/// How many connections flood.
const FLOODS: usize = 3;

/// Far above what is promised, for a machine that is busy with other tests.
const LATENCY: Duration = Duration::from_millis(250);

/// Sends these frames over and over, each as soon as the connection takes it, and reads whatever is answered.
async fn flood(gateway: SocketAddr, user: String, first: Vec<Value>, then: Vec<Value>) {
    let ws = try_connect(gateway, &query(&user), Encoding::Json).await.unwrap();
    let (mut write, mut read) = ws.split();
    let text = |frame: &Value| Message::text(frame.to_string());
    let (first, then): (Vec<_>, Vec<_>) = (first.iter().map(text).collect(), then.iter().map(text).collect());
    let say = async {
        for frame in first {
            write.send(frame).await?;
        }
        loop {
            for frame in &then {
                write.feed(frame.clone()).await?;
            }
        }
    };
    let listen = async { while let Some(Ok(_)) = read.next().await {} };
    let said: Result<(), tokio_tungstenite::tungstenite::Error> = tokio::select! {
        said = say => said,
        () = listen => Ok(()),
    };
    drop(said);
}

/// Times the events of a client, one after the other, while others flood, and checks that it misses none.
async fn time_events(cluster: &mut Cluster, socket: &mut Socket, what: &str, mut floods: JoinSet<()>) {
    let producer = cluster.producer().await;
    let known = socket.events.len();
    let mut took = Vec::new();
    for number in 0..EVENTS {
        let begun = Instant::now();
        producer.publish(&Outgoing::json("pattern", "GOOD", &json!({ "pattern": format!("P{number}") }))).await;
        socket.until(known + number + 1).await;
        took.push(begun.elapsed());
    }
    assert_eq!((socket.events.len(), socket.gaps.len()), (known + EVENTS, 0), "{what}");
    assert_eq!(floods.len(), FLOODS);
    assert!(floods.try_join_next().is_none(), "{what}: no flood was closed");
    floods.shutdown().await;
    took.sort_unstable();
    let (middle, most, last) = (took[EVENTS / 2], took[EVENTS * 99 / 100 - 1], took[EVENTS - 1]);
    println!("{what}: another client's events took {middle:?} at p50, {most:?} at p99, {last:?} at most");
    assert!(most < LATENCY, "{what}: {most:?} at p99");
}

/// A client whose events are timed: each is sent at once.
async fn good(gateway: SocketAddr) -> Socket {
    let mut socket = Socket::connect(gateway, "good", Encoding::Json).await;
    let frame = json!({ "action": "subscribe", "name": "mine", "filter": { "symbols": ["GOOD"] }, "window_ms": 0 });
    socket.request(frame).await;
    socket
}

fn floods(gateway: SocketAddr, first: &[Value], then: &[Value]) -> JoinSet<()> {
    (0..FLOODS).map(|number| flood(gateway, format!("flood-{number}"), first.to_vec(), then.to_vec())).collect()
}

#[tokio::test]
async fn who_subscribes_or_lists_without_end_delays_nobody() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = good(gateway).await;
    let subscribe = json!({ "action": "subscribe", "name": "a" });
    time_events(&mut cluster, &mut socket, "pipelined subscribe", floods(gateway, &[], &[subscribe])).await;

    let symbols: Vec<String> = (0..500).map(|number| format!("SYMBOL{number:04}")).collect();
    let large = json!({ "action": "subscribe", "name": "large", "filter": { "symbols": symbols } });
    let list = json!({ "action": "list" });
    time_events(&mut cluster, &mut socket, "list of a large filter", floods(gateway, &[large], &[list])).await;

    let change = [json!({ "action": "unsubscribe", "name": "*" }), json!({ "action": "subscribe", "name": "b" })];
    time_events(&mut cluster, &mut socket, "subscribe and unsubscribe", floods(gateway, &[], &change)).await;
    let metrics = cluster.gateways[0].metrics().await;
    assert!(metrics.get("tickwire_gateway_paused_commands_total") > 0.0);
    assert_eq!(metrics.get("tickwire_gateway_dropped_events_total"), 0.0);
}

#[tokio::test]
async fn a_position_of_other_partitions_than_the_streams_is_refused_and_costs_nobody_anything() {
    let settings = [("gateway.max_malformed", "1000")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = good(gateway).await;
    let of = |partitions: usize| {
        let mut position = Position::from_str(&socket.position).unwrap();
        position.seqs = vec![Seq(0); partitions];
        position.to_string()
    };
    let (many, few, right) = (of(49_000), of(PARTITIONS as usize - 1), of(PARTITIONS as usize));
    for position in [&many, &few] {
        let since = json!({ "action": "subscribe", "name": "s", "filter": {}, "since": position });
        let resume = json!({ "action": "resume", "position": position, "subscriptions": { "s": { "filter": {} } } });
        for frame in [since, resume] {
            let refused = socket.refused(frame).await;
            assert_eq!(refused.code, ErrorCode::BadField.code(), "{refused:?}");
            assert!(refused.msg.contains("partitions"), "{refused:?}");
        }
    }
    assert_eq!(socket.list().await.subscriptions.len(), 1);
    let since = json!({ "action": "subscribe", "name": "s", "filter": { "symbols": ["NONE"] }, "since": right });
    socket.request(since).await;
    assert!(socket.caught_up().await.resumed);

    let frame = json!({ "action": "subscribe", "name": "x", "since": many });
    // Whoever says nothing else is closed in the end, so each says something else in between.
    let frames = vec![frame, json!({ "action": "ping" })];
    let mut all = JoinSet::new();
    for number in 0..FLOODS {
        let frames = frames.clone();
        all.spawn(async move {
            loop {
                flood(gateway, format!("flood-{number}"), Vec::new(), frames.clone()).await;
            }
        });
    }
    time_events(&mut cluster, &mut socket, "positions of 49,000 partitions", all).await;
}

#[tokio::test]
async fn who_asks_for_the_past_over_and_over_delays_nobody_and_keeps_no_other_from_the_past() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = good(gateway).await;
    let events: Vec<Outgoing> = (0..3_000).map(|n| feed::pattern(feed::SYMBOLS[n % feed::SYMBOLS.len()], n)).collect();
    cluster.producer().await.publish_all(&events).await;
    let nothing = json!({ "action": "subscribe", "name": "s", "filter": { "symbols": ["NONE"] }, "since": "1h" });
    time_events(&mut cluster, &mut socket, "since in a loop", floods(gateway, &[], std::slice::from_ref(&nothing)))
        .await;

    let all = floods(gateway, &[], &[nothing]);
    eventually("the floods ask for the past", DEADLINE, async || {
        let metrics = cluster.gateways[0].metrics().await;
        (metrics.get("tickwire_gateway_put_off_catch_ups_total") > 0.0
            || metrics.get("tickwire_gateway_gatherings_total") > 5.0)
            .then_some(())
    })
    .await;
    let past = json!({ "action": "subscribe", "name": "past", "filter": {}, "since": "1h" });
    let known = socket.events.len();
    socket.request(past).await;
    assert!(socket.caught_up().await.resumed);
    assert_eq!(socket.events.len() - known, 3_000 + EVENTS);
    drop(all);
}
