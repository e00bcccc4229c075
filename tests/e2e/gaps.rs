//! Routers replay ranges that a gateway missed. Clients get exact gaps for ranges that no router can replay.

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::ids::Seq;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_core::wire;

use crate::cluster::waiting::until_subscribed;
use crate::cluster::{Cluster, PARTITIONS};
use crate::cut::Line;
use crate::feed::{self, RunningFeed};
use crate::node::DEADLINE;
use crate::oracle::{Log, assert_covered, assert_exact, at, filter};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// The length of the missing range, in sequences.
const MISSING: u64 = 150;

/// A cluster with this many routers and two gateways. The second gateway has a line to NATS that can be cut.
async fn cluster_with_a_line(routers: usize) -> (Cluster, Line) {
    cluster_with(routers, &[]).await
}

/// The same with further settings for the gateway on the line.
async fn cluster_with(routers: usize, settings: &[(&str, &str)]) -> (Cluster, Line) {
    let mut cluster = Cluster::start(routers, 1).await;
    let line = Line::to(&cluster.nats_url());
    let url = line.url();
    let gateway = cluster.node_with("gateway", &[&[("nats.url", url.as_str())], settings].concat());
    cluster.gateways.push(gateway);
    cluster.settled().await;
    (cluster, line)
}

/// Waits until the routers have sent everything up to the end of `log`, so that a gateway that is cut off has lost it.
async fn wait_until_sent(watcher: &mut Socket, log: &Log) {
    watcher.catch_up(&log.end()).await;
}

/// A gateway is cut off, a router dies meanwhile, and its clients miss nothing.
#[tokio::test]
async fn missed_events_are_replayed_once_and_in_order() {
    let (mut cluster, line) = cluster_with_a_line(2).await;
    let gateways = cluster.gateway_addresses().await;
    let every = json!({ "kinds": ["pattern", "market", "health", "alert", "backtest"] });
    let wanted = [json!({ "symbols": ["AAPL", "SPY"] }), every.clone(), json!({ "min_confidence": 0.5 })];
    let mut sockets: Vec<(&str, &Value, Socket)> = Vec::new();
    for (number, user) in ["ann", "bob@x.com", "carl"].into_iter().enumerate() {
        let mut socket = Socket::connect(gateways[1], user, Encoding::ALL[number % 2]).await;
        socket.subscribe("mine", &wanted[number]).await;
        sockets.push((user, &wanted[number], socket));
    }
    let mut watcher = Socket::connect(gateways[0], "watcher", Encoding::Json).await;
    watcher.subscribe("all", &every).await;

    let (producer, mut feed) = (cluster.producer().await, RunningFeed::new(7));
    let mut events = |count: usize| -> Vec<_> { (0..count).map(|_| feed.event()).collect() };
    producer.publish_all(&events(200)).await;
    line.cut();
    producer.publish_all(&events(500)).await;
    wait_until_sent(&mut watcher, &cluster.log().await).await;
    cluster.routers[0].process.kill();
    producer.publish_all(&events(200)).await;
    wait_until_sent(&mut watcher, &cluster.log().await).await;
    line.mend();
    producer.publish_all(&events(200)).await;

    let log = cluster.log().await;
    for (user, wanted, socket) in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact(user, &socket.events, &socket.gaps, &log.matching(user, &[filter(wanted)]));
        assert!(socket.events.len() > 10, "{user}");
    }
    let metrics = cluster.gateways[1].metrics().await;
    assert_eq!(metrics.get("tickwire_gateway_unfilled_gaps_total"), 0.0);
    assert!(metrics.get("tickwire_gateway_gaps_repaired_total") > 0.0);
    assert!(metrics.get("tickwire_gateway_replayed_events_total") > 100.0);
    assert!(cluster.routers[1].metrics().await.get("tickwire_router_replays_total") > 0.0);
}

/// The missed events arrive at once and exceed the outbox: the session gets notices of events that do not fit.
#[tokio::test]
async fn repair_larger_than_an_outbox_is_delivered_or_noticed() {
    // Larger than one frame that is partly sent: otherwise `list` alone would make the session slow.
    let (mut cluster, line) = cluster_with(1, &[("gateway.outbox_bytes", "131072")]).await;
    let gateways = cluster.gateway_addresses().await;
    let mut socket = Socket::connect(gateways[1], "ann", Encoding::Json).await;
    let mut watcher = Socket::connect(gateways[0], "watcher", Encoding::Json).await;
    for socket in [&mut socket, &mut watcher] {
        socket.subscribe("mine", &json!({})).await;
    }
    line.cut();
    let note = "x".repeat(2_000);
    let event = |n: usize| {
        let body = json!({ "pattern": format!("P{n}"), "note": note, "id": n.to_string() });
        ProducerMessage::json("pattern", feed::SYMBOLS[n % feed::SYMBOLS.len()], &body)
    };
    cluster.producer().await.publish_all(&(0..2_000).map(event).collect::<Vec<_>>()).await;
    let log = cluster.log().await;
    wait_until_sent(&mut watcher, &log).await;
    line.mend();
    socket.catch_up(&log.end()).await;
    let noticed: u64 = socket.notices.iter().map(|notice| notice.dropped + notice.conflated).sum();
    assert_eq!(socket.events.len() as u64 + noticed, 2_000, "{:?}", socket.notices);
    assert_eq!(socket.gaps, []);
}

/// The code of the last notice. On a busy machine there may have been another outage before.
fn last_notice(socket: &Socket) -> Option<&str> {
    socket.notices.last().map(|notice| notice.code.as_str())
}

/// Clients stay connected, get notices, and get the missed events without asking.
#[tokio::test]
async fn clients_get_upstream_lost_and_restored() {
    let (mut cluster, line) = cluster_with_a_line(1).await;
    let gateway = cluster.gateway_addresses().await[1];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &json!({})).await;
    line.cut();
    socket.until_that(|socket| last_notice(socket) == Some("upstream_lost")).await;
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("AAPL", 1)).await;
    assert!(
        matches!(socket.request(json!({ "action": "ping" })).await, ServerMessage::Pong(_)),
        "the session is still served"
    );
    line.mend();
    socket.until_that(|socket| last_notice(socket) == Some("upstream_restored")).await;
    socket.until(1).await;
    producer.publish(&feed::pattern("AAPL", 2)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_eq!((socket.events.len(), socket.gaps.len()), (2, 0));
}

/// Clients get a notice when consumers deliver nothing, although routers run and answer every change of interest. The
/// consumers are created again, and nothing is lost.
#[tokio::test]
async fn clients_get_upstream_lost_when_consumers_stall() {
    let mut cluster = Cluster::start_with_defaults(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let query = cluster.query("ann");
    let mut socket = Socket::open(gateway, &query, Encoding::Json).await;
    socket.welcome().await;
    socket.subscribe("mine", &json!({})).await;
    let mut changing = Socket::open(gateway, &query, Encoding::Json).await;
    changing.welcome().await;
    let stream = jetstream::new(cluster.client.clone()).get_stream("EVENTS").await.unwrap();
    let mut names = stream.consumer_names();
    while let Some(name) = names.next().await {
        let subject = format!("$JS.API.CONSUMER.PAUSE.EVENTS.{}", name.unwrap());
        let until = json!({ "pause_until": "2099-01-01T00:00:00Z" }).to_string();
        let answer = cluster.client.request(subject, until.into()).await.unwrap();
        assert!(std::str::from_utf8(&answer.payload).unwrap().contains("\"paused\":true"), "{answer:?}");
    }
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("AAPL", 1)).await;
    let changes = async {
        for number in 0.. {
            changing.subscribe("new", &json!({ "symbols": [format!("N{number}")] })).await;
        }
    };
    tokio::select! {
        () = changes => unreachable!("it never ends"),
        () = socket.until_that(|socket| last_notice(socket) == Some("upstream_lost")) => {}
    }
    assert!(socket.events.is_empty(), "nothing was read yet");
    socket.until_that(|socket| last_notice(socket) == Some("upstream_restored")).await;
    socket.until(1).await;
    assert_eq!(socket.gaps, []);
}

/// The stream is created again while a gateway is cut off, and the routers have sent the first events before it is
/// back. Its sessions, and those that resume at it, get a reset and all events of the new epoch.
#[tokio::test]
async fn new_stream_is_delivered_to_live_and_resuming_sessions() {
    let (mut cluster, line) = cluster_with_a_line(1).await;
    let gateways = cluster.gateway_addresses().await;
    let wanted = json!({});
    let mut live = Socket::connect(gateways[1], "ann", Encoding::Json).await;
    let mut resuming = Socket::connect(gateways[1], "bob", Encoding::MsgPack).await;
    let mut watcher = Socket::connect(gateways[0], "watcher", Encoding::Json).await;
    let producer = cluster.producer().await;
    let events = feed::patterns(0..60);
    for socket in [&mut live, &mut resuming, &mut watcher] {
        socket.subscribe("mine", &wanted).await;
    }
    producer.publish_all(&events[..20]).await;
    let log = cluster.log().await;
    for socket in [&mut live, &mut resuming, &mut watcher] {
        socket.catch_up(&log.end()).await;
    }
    line.cut();
    let jetstream = async_nats::jetstream::new(cluster.client.clone());
    let config = jetstream.get_stream("EVENTS").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("EVENTS").await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    producer.publish_all(&events[20..]).await;
    watcher.until(60).await;
    line.mend();

    live.until(60).await;
    assert!(
        !resuming.resume(gateways[1], "bob", &json!({ "mine": { "filter": wanted } })).await.subscriptions.is_empty()
    );
    assert!(!resuming.caught_up().await.resumed);
    let log = cluster.log().await;
    for (user, socket) in [("ann", &live), ("bob", &resuming), ("watcher", &watcher)] {
        assert_exact(user, &socket.events[20..], &[], &log.matching(user, &[filter(&wanted)]));
        let resets: BTreeSet<_> = socket.gaps.iter().map(|gap| (gap.p, gap.reason.as_str())).collect();
        assert_eq!((resets.len(), socket.gaps.len()), (PARTITIONS as usize, PARTITIONS as usize), "{user}");
        assert!(resets.iter().all(|(_, reason)| *reason == "reset"), "{user}: {resets:?}");
    }
}

/// The stream discards a part of the missed range: clients get a gap for exactly that part.
#[tokio::test]
async fn only_the_discarded_part_of_a_missed_range_is_a_gap() {
    let (mut cluster, line) = cluster_with_a_line(1).await;
    let gateways = cluster.gateway_addresses().await;
    let wanted = json!({});
    let mut socket = Socket::connect(gateways[1], "ann", Encoding::Json).await;
    let mut watcher = Socket::connect(gateways[0], "watcher", Encoding::Json).await;
    for socket in [&mut socket, &mut watcher] {
        socket.subscribe("mine", &wanted).await;
    }
    let (producer, mut number) = (cluster.producer().await, 0);
    let mut events = |count: usize| -> Vec<_> {
        number += count;
        feed::patterns(number - count..number)
    };
    producer.publish_all(&events(100)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    line.cut();
    producer.publish_all(&events(200)).await;
    let before = cluster.log().await;
    wait_until_sent(&mut watcher, &before).await;
    // The stream discards the first events of the missed range.
    let discarded = before.entries[before.entries.len() - 80].seq;
    cluster.discard(discarded).await;
    line.mend();
    producer.publish_all(&events(100)).await;

    let mut log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    // Partitions without events are not in the log: their gaps may still be repaired or on their way.
    cluster.ready_within(DEADLINE).await;
    let counted = cluster.gateways[1].metrics().await.get("tickwire_gateway_unfilled_gaps_total");
    socket.until_that(|socket| socket.gaps.len() as f64 >= counted).await;
    assert_eq!(socket.gaps.len() as f64, counted);
    let kept = log.entries.split_off(0);
    log.entries = before.entries.into_iter().filter(|entry| entry.seq <= discarded).chain(kept).collect();
    let in_gaps = assert_covered("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&wanted)]));
    assert_eq!((in_gaps, socket.events.len()), (200 - 79, 100 + 79 + 100));
    // A gap ends where a later section proves that the partition has no events.
    for gap in &socket.gaps {
        assert!(gap.reason == "retention" && gap.to <= discarded, "{gap:?}, and {discarded} was discarded");
    }
}

/// Without routers, sessions with subscriptions get a gap `lost` after `gateway.give_up_after`.
#[tokio::test]
async fn unrepairable_range_is_a_gap_for_subscribed_sessions() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.give_up_after", "1s")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL"] });
    let mut subscribed = Socket::connect(gateway, "ann", Encoding::Json).await;
    let mut idle = Socket::connect(gateway, "bob", Encoding::MsgPack).await;
    subscribed.subscribe("mine", &wanted).await;
    let mut tap = cluster.client.subscribe("gw.>").await.unwrap();
    until_subscribed(&cluster.client).await;
    cluster.producer().await.publish(&feed::pattern("AAPL", 0)).await;
    subscribed.until(1).await;
    let partition = subscribed.events[0].p;
    let (subject, mut batch, section) = loop {
        let message = tap.next().await.unwrap();
        let batch: Batch<Bytes> = wire::decode(&message.payload).unwrap();
        if let Some(section) = batch.sections.iter().find(|section| section.partition == partition) {
            let section = section.clone();
            break (message.subject, batch, section);
        }
    };
    cluster.routers[0].process.kill();
    // A section that leaves out a range before it, as if the section with that range was lost.
    let last = section.through;
    let claimed =
        Section { prev: Seq(last.0 + MISSING), through: Seq(last.0 + MISSING + 1), events: Vec::new(), ..section };
    batch.sections = vec![claimed.clone()];
    cluster.client.publish(subject, wire::encode(&batch).unwrap().into()).await.unwrap();
    cluster.client.flush().await.unwrap();
    subscribed.until_that(|socket| !socket.gaps.is_empty()).await;
    let [gap] = &subscribed.gaps[..] else { panic!("not one gap: {:?}", subscribed.gaps) };
    assert_eq!((gap.p, gap.to, gap.reason.as_str()), (partition, claimed.prev, "lost"));
    assert!(last <= gap.from && gap.from < gap.to, "{gap:?} after {last}");
    assert_eq!(at(&subscribed.list().await.position, partition), claimed.through);
    idle.list().await;
    assert_eq!((idle.events.len(), idle.gaps.len()), (0, 0));
    let metrics = cluster.gateways[0].metrics().await;
    assert_eq!(metrics.get("tickwire_gateway_unfilled_gaps_total"), 1.0);
    // One ask that a dying router took, or five with pauses that double from 50 ms.
    let asked = metrics.get("tickwire_gateway_replay_requests_total");
    assert!((1.0..=6.0).contains(&asked), "{asked}");
}
