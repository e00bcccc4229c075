//! What a gateway misses is read again for it; what nobody can give is told, exactly.

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::ids::Seq;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_core::wire;

use crate::cluster::{Cluster, PARTITIONS};
use crate::cut::Line;
use crate::feed::{self, Feed};
use crate::node::DEADLINE;
use crate::oracle::{Log, assert_covered, assert_exact, at, filter};
use crate::producer::Outgoing;
use crate::socket::Socket;

/// How far the missing range reaches beyond what was claimed, in sequences.
const HOLE: u64 = 150;

/// A cluster with this many routers and two gateways: one as it is, and one, the second, on a line that can be cut.
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

/// Everything up to the end of `log` has left the routers, and so was lost by whoever was cut off.
async fn has_left(watcher: &mut Socket, log: &Log) {
    watcher.catch_up(&log.end()).await;
}

/// A gateway is cut off, a router dies meanwhile, and its clients miss nothing.
#[tokio::test]
async fn what_a_gateway_missed_comes_all_the_same_once_and_in_order() {
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

    let (producer, mut feed) = (cluster.producer().await, Feed::new(7));
    let mut events = |count: usize| -> Vec<_> { (0..count).map(|_| feed.event()).collect() };
    producer.publish_all(&events(200)).await;
    line.cut();
    producer.publish_all(&events(500)).await;
    has_left(&mut watcher, &cluster.log().await).await;
    cluster.routers[0].process.kill();
    producer.publish_all(&events(200)).await;
    has_left(&mut watcher, &cluster.log().await).await;
    line.mend();
    producer.publish_all(&events(200)).await;

    let log = cluster.log().await;
    for (user, wanted, socket) in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact(user, &socket.events, &socket.gaps, &log.matching(user, &[filter(wanted)]));
        assert!(socket.events.len() > 10, "{user}");
    }
    let metrics = cluster.gateways[1].metrics().await;
    assert_eq!(metrics.get("tickwire_gateway_gaps_total"), 0.0);
    assert!(metrics.get("tickwire_gateway_gaps_repaired_total") > 0.0);
    assert!(metrics.get("tickwire_gateway_replayed_events_total") > 100.0);
    assert!(cluster.routers[1].metrics().await.get("tickwire_router_replays_total") > 0.0);
}

/// What was missed comes all at once, and more of it than may wait for a session: what does not fit is told.
#[tokio::test]
async fn a_repair_larger_than_an_outbox_is_given_or_told() {
    // More than one frame takes, half sent: who asks for a list meanwhile is not behind with that.
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
        Outgoing::json("pattern", feed::SYMBOLS[n % feed::SYMBOLS.len()], &body)
    };
    cluster.producer().await.publish_all(&(0..2_000).map(event).collect::<Vec<_>>()).await;
    let log = cluster.log().await;
    has_left(&mut watcher, &log).await;
    line.mend();
    socket.catch_up(&log.end()).await;
    let told: u64 = socket.notices.iter().map(|notice| notice.dropped + notice.conflated).sum();
    assert_eq!(socket.events.len() as u64 + told, 2_000, "{:?}", socket.notices);
    assert_eq!(socket.gaps, []);
}

/// Clients stay, are told, and get what they missed without asking.
#[tokio::test]
async fn clients_are_told_when_the_cluster_is_away_and_when_it_is_back() {
    let (mut cluster, line) = cluster_with_a_line(1).await;
    let gateway = cluster.gateway_addresses().await[1];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &json!({})).await;
    let told = |socket: &Socket| socket.notices.iter().map(|notice| notice.code.to_string()).collect::<Vec<_>>();
    line.cut();
    socket.until_that(|socket| told(socket) == ["upstream_lost"]).await;
    let producer = cluster.producer().await;
    producer.publish(&feed::pattern("AAPL", 1)).await;
    assert!(matches!(socket.request(json!({ "action": "ping" })).await, ServerMessage::Pong(_)), "it is still served");
    line.mend();
    socket.until_that(|socket| told(socket) == ["upstream_lost", "upstream_restored"]).await;
    socket.until(1).await;
    producer.publish(&feed::pattern("AAPL", 2)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    assert_eq!((socket.events.len(), socket.gaps.len()), (2, 0));
}

/// Consumers that give nothing any more are told, though routers live and tell of every change of interest; they are made
/// anew, and nothing is lost.
#[tokio::test]
async fn clients_are_told_when_nothing_is_read_though_routers_live() {
    let mut cluster = Cluster::start_shipped(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let query = cluster.query("ann");
    let mut socket = Socket::open(gateway, &query, Encoding::Json).await;
    socket.welcome().await;
    socket.subscribe("mine", &json!({})).await;
    let mut restless = Socket::open(gateway, &query, Encoding::Json).await;
    restless.welcome().await;
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
    let told = |socket: &Socket| socket.notices.iter().map(|notice| notice.code.to_string()).collect::<Vec<_>>();
    let changes = async {
        for number in 0.. {
            restless.subscribe("new", &json!({ "symbols": [format!("N{number}")] })).await;
        }
    };
    tokio::select! {
        () = changes => unreachable!("it goes on for ever"),
        () = socket.until_that(|socket| told(socket) == ["upstream_lost"]) => {}
    }
    assert!(socket.events.is_empty(), "nothing was read yet");
    socket.until_that(|socket| told(socket) == ["upstream_lost", "upstream_restored"]).await;
    socket.until(1).await;
    assert_eq!(socket.gaps, []);
}

/// The stream is made anew while a gateway is cut off, and what is stored first has left the routers when it is back: its
/// sessions, and those that come back to it, are told what they lose and are given all of the new life.
#[tokio::test]
async fn all_of_a_stream_that_was_made_anew_comes_to_who_was_there_and_to_who_comes_back() {
    let (mut cluster, line) = cluster_with_a_line(1).await;
    let gateways = cluster.gateway_addresses().await;
    let wanted = json!({});
    let mut there = Socket::connect(gateways[1], "ann", Encoding::Json).await;
    let mut away = Socket::connect(gateways[1], "bob", Encoding::MsgPack).await;
    let mut watcher = Socket::connect(gateways[0], "watcher", Encoding::Json).await;
    let producer = cluster.producer().await;
    let events: Vec<_> = (0..60).map(|n| feed::pattern(feed::SYMBOLS[n % feed::SYMBOLS.len()], n)).collect();
    for socket in [&mut there, &mut away, &mut watcher] {
        socket.subscribe("mine", &wanted).await;
    }
    producer.publish_all(&events[..20]).await;
    let log = cluster.log().await;
    for socket in [&mut there, &mut away, &mut watcher] {
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

    there.until(60).await;
    assert!(!away.resume(gateways[1], "bob", &json!({ "mine": { "filter": wanted } })).await.subscriptions.is_empty());
    assert!(!away.caught_up().await.resumed);
    let log = cluster.log().await;
    for (user, socket) in [("ann", &there), ("bob", &away), ("watcher", &watcher)] {
        assert_exact(user, &socket.events[20..], &[], &log.matching(user, &[filter(&wanted)]));
        let told: BTreeSet<_> = socket.gaps.iter().map(|gap| (gap.p, gap.reason.as_str())).collect();
        assert_eq!((told.len(), socket.gaps.len()), (PARTITIONS as usize, PARTITIONS as usize), "{user}");
        assert!(told.iter().all(|(_, reason)| *reason == "reset"), "{user}: {told:?}");
    }
}

/// What retention has passed before it could be read again is told, and not one sequence more.
#[tokio::test]
async fn of_what_a_gateway_missed_the_part_that_is_gone_is_told() {
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
        (number - count..number).map(|n| feed::pattern(feed::SYMBOLS[n % feed::SYMBOLS.len()], n)).collect()
    };
    producer.publish_all(&events(100)).await;
    socket.catch_up(&cluster.log().await.end()).await;
    line.cut();
    producer.publish_all(&events(200)).await;
    let before = cluster.log().await;
    has_left(&mut watcher, &before).await;
    // The stream discards what came first of that.
    let discarded = before.entries[before.entries.len() - 80].seq;
    cluster.discard(discarded).await;
    line.mend();
    producer.publish_all(&events(100)).await;

    let mut log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    // The end of the log says nothing of partitions without events: of those a gap may still be asked for or on its way.
    cluster.ready_within(DEADLINE).await;
    let counted = cluster.gateways[1].metrics().await.get("tickwire_gateway_gaps_total");
    socket.until_that(|socket| socket.gaps.len() as f64 >= counted).await;
    assert_eq!(socket.gaps.len() as f64, counted);
    let kept = log.entries.split_off(0);
    log.entries = before.entries.into_iter().filter(|entry| entry.seq <= discarded).chain(kept).collect();
    let told = assert_covered("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&wanted)]));
    assert_eq!((told, socket.events.len()), (200 - 79, 100 + 79 + 100));
    // Where a later section says that a partition has had nothing since, its gap ends there.
    for gap in &socket.gaps {
        assert!(gap.reason == "retention" && gap.to <= discarded, "{gap:?}, and {discarded} was discarded");
    }
}

/// Without any router what is missing of what was claimed is told when it was asked for in vain for long enough, to whoever
/// subscribed.
#[tokio::test]
async fn a_missing_range_that_no_router_can_fill_is_told_to_whoever_subscribed() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.give_up_after", "1s")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL"] });
    let mut subscribed = Socket::connect(gateway, "ann", Encoding::Json).await;
    let mut idle = Socket::connect(gateway, "bob", Encoding::MsgPack).await;
    subscribed.subscribe("mine", &wanted).await;
    let mut tap = cluster.client.subscribe("gw.>").await.unwrap();
    cluster.client.flush().await.unwrap();
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
    // A claim that leaves out what comes before it, as if a router had said that and it was lost.
    let last = section.through;
    let claimed = Section { prev: Seq(last.0 + HOLE), through: Seq(last.0 + HOLE + 1), events: Vec::new(), ..section };
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
    assert_eq!(metrics.get("tickwire_gateway_gaps_total"), 1.0);
    // One that a dying router took, or five with pauses that double from 50 ms.
    let asked = metrics.get("tickwire_gateway_replays_asked_total");
    assert!((1.0..=6.0).contains(&asked), "{asked}");
}
