//! Nobody's flood is another's delay: while three connections do the worst that they can, another client's events come
//! in time and a new client is served.

mod attacks;

use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tickwire_core::protocol::Encoding;
use tokio::task::spawn_blocking;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::get;
use crate::socket::Socket;
use attacks::{AT_THE_ADMIN_PORT, AT_THE_DOOR, Attack, AttackResult};

/// How many events are timed during a flood.
const EVENTS: usize = 100;

/// How long the slowest of a hundred may take at most. The bar is 50 ms, on a machine that is not busy with other tests.
const MOST: Duration = Duration::from_secs(1);

/// How many connections flood, or hold many that do.
const FLOODS: usize = 3;

/// Connections that come again when they are ended.
fn start(attack: Attack, address: SocketAddr, told: &Arc<AttackResult>) -> Vec<JoinHandle<()>> {
    let flood = |_| {
        let told = Arc::clone(told);
        std::thread::spawn(move || {
            while !told.is_over() {
                if attack(address, &told).is_err() {
                    std::thread::yield_now();
                }
            }
        })
    };
    (0..FLOODS).map(flood).collect()
}

/// Times a client's events during each of these floods.
async fn time_events(mut cluster: Cluster, attacks: &[(&str, Attack)], address: SocketAddr) {
    let gateway = cluster.gateway_addresses().await[0];
    let admin = cluster.gateways[0].address("admin").await;
    let mut good = Socket::connect(gateway, "good", Encoding::Json).await;
    good.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    for (name, attack) in attacks {
        let told = Arc::new(AttackResult::default());
        let threads = start(*attack, address, &told);
        let mut latencies = Vec::new();
        for number in 0..EVENTS {
            let (start, known) = (Instant::now(), good.events.len());
            producer.publish(&feed::pattern("AAPL", number)).await;
            good.until(known + 1).await;
            latencies.push(start.elapsed());
        }
        // One who comes now is let in, and so is one who looks after the node.
        let others = async {
            let mut new = Socket::connect(gateway, "new", Encoding::Json).await;
            new.subscribe("all", &json!({})).await;
            assert_eq!(get(admin, "/livez").await.0, 200, "{name}");
            told.end();
            spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
        };
        // A client that is not read answers no pings.
        tokio::select! {
            () = others => {}
            () = good.until_that(|_| false) => unreachable!("what is waited for never comes"),
        }
        latencies.sort_unstable();
        let (p50, p99) = (latencies[EVENTS / 2], latencies[EVENTS * 99 / 100 - 1]);
        println!("{name}: p50 {p50:.1?}, p99 {p99:.1?}, {} connections", told.opened());
        assert!(p99 <= MOST, "{name}: {p99:?}");
        assert_eq!((good.gaps.len(), good.notices.len()), (0, 0), "{name}: nothing is lost");
    }
    assert_eq!(cluster.gateways[0].metrics().await.get("tickwire_gateway_dropped_events_total"), 0.0);
}

/// A cluster with fewer places than the floods take, so that they have to be given up to others. No rate is set, so that
/// none holds back the events that are timed.
async fn narrow() -> Cluster {
    let settings = [("gateway.max_connections", "64"), ("gateway.max_unnamed", "64"), ("gateway.window", "0s")];
    Cluster::start_with(1, 1, &settings).await
}

#[tokio::test]
async fn while_others_flood_events_come_in_time_and_new_clients_are_served() {
    let mut cluster = narrow().await;
    let gateway = cluster.gateway_addresses().await[0];
    time_events(cluster, AT_THE_DOOR, gateway).await;
}

#[tokio::test]
async fn a_flood_on_the_admin_port_delays_no_event() {
    let mut cluster = narrow().await;
    let admin = cluster.gateways[0].address("admin").await;
    time_events(cluster, AT_THE_ADMIN_PORT, admin).await;
}
