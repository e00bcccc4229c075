//! Nodes start, stop and restart in any order, with default settings, while clients connect, and end when they are
//! stopped before NATS is there.

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::{NatsServer, Process, eventually};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::cluster::waiting::until_subscribed;
use crate::feed;
use crate::node::{DEADLINE, tickwire};
use crate::socket::{Socket, query};

/// How soon clients must get a notice that a gateway has no coverage, on a busy machine.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(20);

/// How soon all clients must be served when the last missing node has started, on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

fn codes(socket: &Socket) -> Vec<&str> {
    socket.notices.iter().map(|notice| notice.code.as_str()).collect()
}

/// Connects clients to a gateway without coverage, and waits for their notices.
async fn connect_without_coverage(gateway: SocketAddr, count: usize) -> Vec<Socket> {
    let knocks = (0..count).map(|number| async move {
        let start = Instant::now();
        let mut socket = Socket::open(gateway, &query(&format!("user-{number}")), Encoding::ALL[number % 2]).await;
        socket.until_that(|socket| codes(socket) == ["upstream_lost"]).await;
        assert!(start.elapsed() < NOTIFIED_WITHIN, "notified after {:?}", start.elapsed());
        let reason = socket.notices[0].msg.as_deref().unwrap();
        assert!(reason.contains("is a router running"), "{reason}");
        socket
    });
    join_all(knocks).await
}

/// Fails unless all clients are served in time: welcomed, subscribed, notified of the end of the outage, and sent new
/// events.
async fn assert_served(cluster: &Cluster, mut sockets: Vec<Socket>, since: Instant) -> Vec<Socket> {
    for socket in &mut sockets {
        socket.welcome().await;
        socket.subscribe("mine", &json!({ "symbols": ["AAPL"] })).await;
    }
    assert!(since.elapsed() < SERVED_WITHIN, "served after {:?}", since.elapsed());
    assert_served_again(cluster, sockets).await
}

async fn assert_served_again(cluster: &Cluster, mut sockets: Vec<Socket>) -> Vec<Socket> {
    let number = sockets[0].events.len();
    let seq = cluster.producer().await.publish(&feed::pattern("AAPL", number)).await;
    for socket in &mut sockets {
        socket.until_that(|socket| codes(socket).last() == Some(&"upstream_restored")).await;
        socket.until(number + 1).await;
        assert_eq!((socket.events[number].seq.0, socket.events.len(), socket.gaps.len()), (seq, number + 1, 0));
    }
    sockets
}

#[tokio::test]
async fn gateways_started_before_routers_wait_idle_and_serve_later() {
    // The first view may name only one gateway; the other would then join later and get sessions by a rebalance.
    let mut cluster = Cluster::as_shipped_but_for(&[("gateway.rebalance_rate", "0")]).await;
    // Routers have run before.
    cluster.create_streams().await;
    cluster.add_gateway();
    cluster.add_gateway();
    let gateways = cluster.gateway_addresses().await;
    let start = (Instant::now(), cluster.gateways[0].process.cpu());
    let [first, second] =
        [connect_without_coverage(gateways[0], 3).await, connect_without_coverage(gateways[1], 3).await];
    let (waited, used) = (start.0.elapsed(), cluster.gateways[0].process.cpu() - start.1);
    assert!(used < waited / 4, "{used:?} of {waited:?} used without work");

    let since = Instant::now();
    cluster.add_router();
    let first = assert_served(&cluster, first, since).await;
    assert_served(&cluster, second, since).await;

    // The router dies, and another one starts.
    cluster.routers[0].process.kill();
    let died = Instant::now();
    let mut sockets = first;
    for socket in &mut sockets {
        socket.until_that(|socket| codes(socket).last() == Some(&"upstream_lost")).await;
        assert!(died.elapsed() < NOTIFIED_WITHIN, "notified after {:?}", died.elapsed());
    }
    let mut late = Socket::open(gateways[0], &query("late"), Encoding::Json).await;
    late.until_that(|socket| codes(socket).last() == Some(&"upstream_lost")).await;
    // A client whose interest is confirmed already is served at once, and gets the notice as well.
    let mut again = Socket::open(gateways[0], &query("user-0"), Encoding::Json).await;
    again.welcome().await;
    again.subscribe("mine", &json!({ "symbols": ["AAPL"] })).await;
    again.until_that(|socket| codes(socket).last() == Some(&"upstream_lost")).await;
    cluster.add_router();
    assert_served_again(&cluster, sockets).await;
    late.welcome().await;
    again.until_that(|socket| codes(socket).last() == Some(&"upstream_restored")).await;
    for gateway in &mut cluster.gateways {
        assert_eq!(gateway.metrics().await.get("tickwire_gateway_overdue_turns_total"), 0.0);
    }
}

#[tokio::test]
async fn nodes_of_a_new_cluster_come_up_in_any_order() {
    // A bare socket does not follow a session that is moved.
    let mut cluster = Cluster::as_shipped_but_for(&[("gateway.rebalance_rate", "0")]).await;
    let mut looks = cluster.client.subscribe("$JS.API.STREAM.INFO.EVENTS").await.unwrap();
    until_subscribed(&cluster.client).await;
    cluster.add_gateway();
    timeout(NOTIFIED_WITHIN, looks.next()).await.unwrap().unwrap();
    let first = Instant::now();
    for _ in 0..4 {
        timeout(NOTIFIED_WITHIN, looks.next()).await.unwrap().unwrap();
    }
    // The pauses are 100, 200, 400 and 800 ms, and the first look may be seen late.
    let looked = first.elapsed();
    assert!(looked >= Duration::from_millis(1_000), "five looks within {looked:?}");
    let gateway = &cluster.gateways[0].process;
    eventually("it says what it waits for", NOTIFIED_WITHIN, async || {
        gateway.stderr().contains("stream missing, waiting for a router to create it").then_some(())
    })
    .await;
    let streams = async_nats::jetstream::new(cluster.client.clone()).query_account().await.unwrap().streams;
    assert_eq!(streams, 0, "a gateway has created a stream");

    cluster.add_router();
    cluster.add_gateway();
    let gateways = cluster.gateway_addresses().await;
    cluster.settled().await;
    let mut sockets = Vec::new();
    for gateway in gateways {
        let mut socket = Socket::open(gateway, &query("ann"), Encoding::Json).await;
        socket.welcome().await;
        socket.subscribe("mine", &json!({ "symbols": ["AAPL"] })).await;
        sockets.push(socket);
    }
    cluster.producer().await.publish(&feed::pattern("AAPL", 0)).await;
    for socket in &mut sockets {
        socket.until(1).await;
    }
}

#[tokio::test]
async fn node_without_nats_says_so_long_before_it_gives_up() {
    let home = TempDir::with_prefix("tickwire-e2e-lonely-").unwrap();
    let mut command = tickwire();
    command.args(["router", "--set", "nats.url=nats://127.0.0.1:1", "--set", "nats.connect_timeout=60s"]);
    command.args(["--set", "admin.listen=127.0.0.1:0"]);
    let mut router = Process::start("router", home.path(), &mut command);
    let messages = ["connecting to NATS", "NATS not reachable yet, trying again"];
    eventually("it logs that it does not reach NATS", NOTIFIED_WITHIN, async || {
        assert_eq!(router.exit(), None, "it has ended: {}", router.stderr());
        let text = router.stderr();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let found = messages.map(|message| lines.iter().find(|line| line["message"] == message));
        let [Some(start), Some(failure)] = found else { return None };
        assert_eq!([&start["url"], &failure["url"]], ["nats://127.0.0.1:1"; 2]);
        assert_eq!((&failure["level"], failure["reason"].is_string()), (&json!("WARN"), true), "{failure}");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn feed_that_waits_for_a_stream_says_where_to_look() {
    let (nats, home) = (NatsServer::start(), TempDir::with_prefix("tickwire-e2e-waiting-").unwrap());
    let mut command = tickwire();
    command.args(["feed", "--speed", "500", "--nats", &nats.url()]);
    let feed = Process::start("feed", home.path(), &mut command);
    let named = async || feed.stderr().contains("waiting for the stream: `tickwire doctor` says why").then_some(());
    eventually("the feed names the doctor", DEADLINE, named).await;
}

#[tokio::test]
async fn program_of_a_container_that_waits_for_nats_ends_at_sigterm() {
    for program in ["router", "gateway", "feed"] {
        // It takes connections, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats.url=nats://{}", silent.local_addr().unwrap());
        let home = TempDir::with_prefix("tickwire-e2e-waiting-").unwrap();
        let mut command = tickwire();
        command.arg(program);
        let listen = ["auth.mode=dev", "gateway.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0"];
        for setting in [url.as_str(), "nats.connect_timeout=10m"].into_iter().chain(listen) {
            command.args(["--set", setting]);
        }
        let mut process = Process::start(program, home.path(), &mut command);
        let _connection = timeout(DEADLINE, silent.accept()).await.unwrap().unwrap();
        process.terminate();
        assert_eq!(process.wait(DEADLINE).await.code(), Some(0), "{program}: {}", process.stderr());
    }
}
