//! A flood of messages on the subjects between nodes does not hold up events.

use crate::cluster::SOON;
use crate::gateway::one_of_each;
use crate::routing::{publish, stop_both};
use std::sync::Arc;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, NodeId, NodeRef, Nonce, Symbol};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_testkit::{Flood, eventually};

/// A large change of the interest of an unknown gateway.
fn delta() -> Vec<u8> {
    let stranger = NodeRef { id: NodeId::new("stranger").unwrap(), nonce: Nonce(1) };
    let mut log = InterestLog::new(stranger, View::default(), 0, Bounds::default());
    let symbols = (0..1_000).map(|number| Symbol::new(&format!("S{number}")).unwrap()).collect();
    log.add(&Arc::new(Filter { symbols: Some(symbols), ..Filter::default() }));
    wire::encode(&log.cut(Millis(0)).unwrap()).unwrap()
}

/// More deltas arrive all the time than a router can read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_flow_during_a_flood_of_interest_deltas() {
    let (server, nats, router, gateway) = one_of_each().await;
    let flood = Flood::start(&server.url(), &names::interest("stranger"), &[delta()], 2_000);
    eventually("the flood has begun", SOON, async || (flood.sent() > 4_000).then_some(())).await;
    for count in 1..=5 {
        publish(&nats, "AAPL", &count.to_string()).await;
        eventually("the event arrives", SOON, async || {
            (gateway.state.lock().unwrap().events.len() == count).then_some(())
        })
        .await;
    }
    drop(flood);
    assert_eq!(gateway.gaps(), []);
    stop_both(gateway, router).await;
}
