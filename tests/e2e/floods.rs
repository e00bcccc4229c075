//! A flood does not delay other clients: while three connections attack, another client's events arrive in time and a
//! new client is served.

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
use attacks::{ADMIN_ATTACKS, Attack, AttackResult, GATEWAY_ATTACKS};

/// How many events are timed during a flood.
const EVENTS: usize = 100;

/// The largest allowed latency of a hundred events. The bar is 50 ms, on a machine without other tests.
const MOST: Duration = Duration::from_secs(1);

/// How often the events are timed during a flood, until they take no longer: other tests may disturb one time.
const TRIES: usize = 3;

/// How many threads attack.
const FLOODS: usize = 3;

/// Starts threads that repeat an attack whenever its connection ends.
fn start(attack: Attack, address: SocketAddr, result: &Arc<AttackResult>) -> Vec<JoinHandle<()>> {
    let flood = |_| {
        let result = Arc::clone(result);
        std::thread::spawn(move || {
            while !result.is_over() {
                if attack(address, &result).is_err() {
                    std::thread::yield_now();
                }
            }
        })
    };
    (0..FLOODS).map(flood).collect()
}

/// Measures the latency of a client's events during each of these floods.
async fn time_events(mut cluster: Cluster, attacks: &[(&str, Attack)], address: SocketAddr) {
    let gateway = cluster.gateway_addresses().await[0];
    let admin = cluster.gateways[0].address("admin").await;
    let mut listener = Socket::connect(gateway, "listener", Encoding::Json).await;
    listener.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    for (name, attack) in attacks {
        let result = Arc::new(AttackResult::default());
        let threads = start(*attack, address, &result);
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            let mut latencies = Vec::new();
            for number in 0..EVENTS {
                let (start, known) = (Instant::now(), listener.events.len());
                producer.publish(&feed::pattern("AAPL", number)).await;
                listener.until(known + 1).await;
                latencies.push(start.elapsed());
            }
            latencies.sort_unstable();
            let (p50, p99) = (latencies[EVENTS / 2], latencies[EVENTS * 99 / 100 - 1]);
            println!("{name}: p50 {p50:.1?}, p99 {p99:.1?}, {} connections", result.opened());
            best = best.min(p99);
            if best <= MOST {
                break;
            }
        }
        // A new client is admitted, and the admin server answers.
        let others = async {
            let mut new = Socket::connect(gateway, "new", Encoding::Json).await;
            new.subscribe("all", &json!({})).await;
            assert_eq!(get(admin, "/livez").await.0, 200, "{name}");
            result.end();
            spawn_blocking(|| threads.into_iter().for_each(|thread| thread.join().unwrap())).await.unwrap();
        };
        // The first client must read meanwhile to answer pings.
        tokio::select! {
            () = others => {}
            () = listener.until_that(|_| false) => unreachable!("this condition is never true"),
        }
        assert!(best <= MOST, "{name}: {best:?}");
        assert_eq!((listener.gaps.len(), listener.event_notices().len()), (0, 0), "{name}: nothing is lost");
    }
    assert_eq!(cluster.gateways[0].metrics().await.get("tickwire_gateway_dropped_events_total"), 0.0);
}

/// A cluster with fewer slots than the floods use, so that they displace each other. No rate is set, so that none
/// delays the measured events.
async fn narrow() -> Cluster {
    let settings = [("gateway.max_connections", "64"), ("gateway.max_unnamed", "64"), ("gateway.window", "0s")];
    Cluster::start_with(1, 1, &settings).await
}

#[tokio::test]
async fn gateway_floods_delay_neither_events_nor_new_clients() {
    let mut cluster = narrow().await;
    let gateway = cluster.gateway_addresses().await[0];
    time_events(cluster, GATEWAY_ATTACKS, gateway).await;
}

#[tokio::test]
async fn admin_port_floods_delay_no_event() {
    let mut cluster = narrow().await;
    let admin = cluster.gateways[0].address("admin").await;
    time_events(cluster, ADMIN_ATTACKS, admin).await;
}
