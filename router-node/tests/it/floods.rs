//! What peers send in heaps on the subjects between nodes holds up nothing.

use crate::gateway::one_of_each;
use crate::routing::publish;
use std::time::Duration;
use tickwire_node::names;
use tickwire_testkit::{Flood, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_flow_while_a_peer_floods_what_gateways_say_and_ask() {
    const RATE: usize = 50_000;
    const WITHIN: Duration = Duration::from_secs(3);
    let (server, nats, router, gateway) = one_of_each().await;
    let mut count = 0;
    for subject in [names::INTEREST, names::GATEWAY_BEAT, names::REPLAY] {
        let flood = Flood::start(&server.url(), subject, b"\x01\xc1", RATE);
        eventually("the flood has begun", WITHIN, async || (flood.sent() > 10_000).then_some(())).await;
        for _ in 0..5 {
            publish(&nats, "AAPL", &count.to_string()).await;
            count += 1;
            eventually("the event comes", WITHIN, async || {
                (gateway.state.lock().unwrap().events.len() == count).then_some(())
            })
            .await;
        }
        println!("{subject}: {} sent", flood.sent());
    }
    assert_eq!(gateway.gaps(), []);
    gateway.stop().await;
    router.stop().await;
}
