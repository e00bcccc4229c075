//! Alerts about gateways and their clients: clients that read nothing or seldom, too many events for a shard, few
//! file descriptors, more messages of NATS than a queue holds, and as many bytes as a link carries.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tickwire_core::protocol::Encoding;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::super::prometheus_server::{Prometheus, targets};
use super::super::rule_file::short_rules;
use crate::cluster::Cluster;
use crate::foreign::tools::{is_full, report};
use crate::node::{DEADLINE, TestNode};
use crate::producer::ProducerMessage;
use crate::socket::{Socket, query, try_connect};

/// What [`alerts_about_gateways_fire`] causes.
pub(super) const CAUSED: &[&str] = &[
    "TickwireDescriptors",
    "TickwireSlowClients",
    "TickwireDeliverySlow",
    "TickwireShardBehind",
    "TickwireNatsMessagesDropped",
    "TickwireEgressHigh",
];

/// The file descriptors of a gateway that has few, and its sessions: more than four fifths of them.
const FEW_DESCRIPTORS: &str = "-n 400";
const MANY_SESSIONS: usize = 330;

/// Clients that do not read: more than twenty, even if one scrape misses a part of their closes.
const UNREADING: usize = 60;

/// The clients that read seldom: how long they do not read, how long they read then, and the bytes of an event. What
/// comes while they do not read is less than `gateway.outbox_bytes`.
const SELDOM: usize = 40;
const NAP: Duration = Duration::from_secs(4);
const AWAKE: Duration = Duration::from_millis(300);
const WAITING: usize = 10_000;

/// The clients whose subscriptions search each large event, how many subscriptions each has, and the bytes that they
/// search.
const SEARCHING: usize = 30;
const SEARCHES: usize = 10;
const LARGE: usize = 150_000;

/// How many clients get each large event, and the time between two: together more than twice what the alert allows.
const READERS: usize = 60;
const PAUSE: Duration = Duration::from_millis(40);

/// How often a flood is repeated at most until its alert fires.
const FLOODS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_about_gateways_fire() {
    if !is_full() {
        return;
    }
    let mut cluster = Cluster::start(1, 1).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    fill_descriptors(&mut cluster, &prometheus).await;
    leave_unread(&mut cluster, &prometheus).await;
    read_seldom(&mut cluster, &prometheus).await;
    overload_shard(&mut cluster, &prometheus).await;
    flood_queue(&cluster, &prometheus).await;
    send_much(&mut cluster, &prometheus).await;
    prometheus.assert_rules_are_sound().await;
    report("alerts: gateways", &format!("{} alerts about gateways fired", CAUSED.len()));
}

/// Adds a ready gateway to what is scraped.
async fn join(cluster: &mut Cluster, prometheus: &Prometheus, mut gateway: TestNode) {
    eventually("it is ready", DEADLINE, async || (gateway.readyz().await.0 == 200).then_some(())).await;
    cluster.gateways.push(gateway);
    prometheus.scrape(&targets(cluster).await);
    let id = &cluster.gateways.last().unwrap().id;
    // Its counters are known before they grow.
    prometheus.until(&format!("count_over_time(up{{instance='{id}'}}[1m]) > 3")).await;
}

/// Ends the newest gateway.
async fn leave(cluster: &mut Cluster, prometheus: &Prometheus) {
    cluster.gateways.pop();
    prometheus.scrape(&targets(cluster).await);
}

/// The sessions of a gateway take most of the file descriptors that it may have.
async fn fill_descriptors(cluster: &mut Cluster, prometheus: &Prometheus) {
    // Few connections of other kinds, for which a gateway keeps descriptors.
    let few = [("gateway.max_connections", "8"), ("admin.max_connections", "4"), ("gateway.shards", "1")];
    let gateway = cluster.node_limited("gateway", "small", FEW_DESCRIPTORS, &few);
    join(cluster, prometheus, gateway).await;
    let address = cluster.gateways.last_mut().unwrap().gateway().await;
    let mut sockets = Vec::new();
    for number in 0..MANY_SESSIONS {
        sockets.push(Socket::connect(address, &format!("user-{number}"), Encoding::Json).await);
    }
    prometheus.until_fired(&["TickwireDescriptors"]).await;
    leave(cluster, prometheus).await;
}

/// Clients read nothing, and so answer no ping.
async fn leave_unread(cluster: &mut Cluster, prometheus: &Prometheus) {
    let gateway = cluster.node_with("gateway", &[("gateway.heartbeat_interval", "300ms")]);
    join(cluster, prometheus, gateway).await;
    let address = cluster.gateways.last_mut().unwrap().gateway().await;
    let mut sockets = Vec::new();
    for number in 0..UNREADING {
        sockets.push(Socket::connect(address, &format!("idle-{number}"), Encoding::Json).await);
    }
    prometheus.until_fired(&["TickwireSlowClients"]).await;
    leave(cluster, prometheus).await;
}

/// Clients read only now and then, so that events wait for their sockets.
async fn read_seldom(cluster: &mut Cluster, prometheus: &Prometheus) {
    let gateway = cluster.node_with("gateway", &[("gateway.shards", "1")]);
    join(cluster, prometheus, gateway).await;
    let address = cluster.gateways.last_mut().unwrap().gateway().await;
    let mut readers = JoinSet::new();
    for number in 0..SELDOM {
        let mut socket = Socket::open_narrow(address, &query(&format!("seldom-{number}")), Encoding::Json).await;
        socket.welcome().await;
        socket.subscribe("all", &json!({})).await;
        readers.spawn(async move {
            loop {
                sleep(NAP).await;
                timeout(AWAKE, socket.next()).await.ok();
            }
        });
    }
    let event = json!({ "pattern": "Doji", "note": "x".repeat(WAITING) });
    let message = ProducerMessage::json("pattern", "AAPL", &event);
    let flow = cluster.producer().await.flow(Duration::from_millis(100), move |_| message.clone());
    prometheus.until_fired(&["TickwireDeliverySlow"]).await;
    flow.stop().await;
    leave(cluster, prometheus).await;
}

/// Many subscriptions search large events, which takes a shard longer than their arrival takes.
async fn overload_shard(cluster: &mut Cluster, prometheus: &Prometheus) {
    let settings = [("gateway.shards", "1"), ("gateway.shard_bytes", "1048576"), ("gateway.slow_deadline", "10m")];
    let gateway = cluster.node_with("gateway", &settings);
    join(cluster, prometheus, gateway).await;
    let address = cluster.gateways.last_mut().unwrap().gateway().await;
    let mut sockets = Vec::new();
    let end = |number: usize| format!("end{number}.");
    for number in 0..SEARCHING {
        let mut socket = Socket::open_narrow(address, &query(&format!("search-{number}")), Encoding::Json).await;
        socket.welcome().await;
        for search in 0..SEARCHES {
            let filter = json!({ "data": { "note": { "contains": end(number * SEARCHES + search) } } });
            socket.subscribe(&format!("end-{search}"), &filter).await;
        }
        sockets.push(socket);
    }
    let ends: Vec<String> = (0..SEARCHING * SEARCHES).map(end).collect();
    let note = format!("{}{}", "e".repeat(LARGE), ends.concat());
    let event = |number: usize| {
        ProducerMessage::json("pattern", "AAPL", &json!({ "pattern": format!("P{number}"), "note": note }))
    };
    let events: Vec<ProducerMessage> = (0..100).map(event).collect();
    let producer = cluster.producer().await;
    until_caused(prometheus, "TickwireShardBehind", async || producer.publish_all(&events).await).await;
    leave(cluster, prometheus).await;
}

/// While a gateway is frozen, far more messages are published on the subject of its name than the queue of it holds.
async fn flood_queue(cluster: &Cluster, prometheus: &Prometheus) {
    let gateway = &cluster.gateways[0];
    until_caused(prometheus, "TickwireNatsMessagesDropped", async || {
        gateway.process.freeze();
        for _ in 0..20_000 {
            cluster.client.publish(names::name(&gateway.id), "x".into()).await.unwrap();
        }
        cluster.client.flush().await.unwrap();
        gateway.process.thaw();
    })
    .await;
}

/// Many clients read large events as fast as they come.
async fn send_much(cluster: &mut Cluster, prometheus: &Prometheus) {
    cluster.settled().await;
    let address = cluster.gateways[0].gateway().await;
    let subscribe = json!({ "action": "subscribe", "name": "all", "filter": {} });
    let subscribe = rmp_serde::to_vec_named(&subscribe).unwrap();
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let user = query(&format!("reader-{number}"));
        let mut ws = try_connect(address, &user, Encoding::MsgPack).await.unwrap();
        ws.send(Message::binary(subscribe.clone())).await.unwrap();
        readers.spawn(async move { while let Some(Ok(_)) = ws.next().await {} });
    }
    let event = json!({ "pattern": "Doji", "note": "x".repeat(LARGE) });
    let message = ProducerMessage::json("pattern", "AAPL", &event);
    let flow = cluster.producer().await.flow(PAUSE, move |_| message.clone());
    prometheus.until_fired(&["TickwireEgressHigh"]).await;
    flow.stop().await;
}

/// Does something again until this alert has fired. Fails if it has not fired after [`FLOODS`] times.
async fn until_caused(prometheus: &Prometheus, alert: &str, mut cause: impl AsyncFnMut()) {
    for _ in 0..FLOODS {
        cause().await;
        // For some scrapes and evaluations.
        for _ in 0..15 {
            sleep(Duration::from_millis(200)).await;
            if prometheus.fired().await.contains(alert) {
                return;
            }
        }
    }
    panic!("not fired after {FLOODS} times: {alert}");
}
