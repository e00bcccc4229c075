//! Crashes, stolen leases, a server outage, a stream that is created again, and retention that overtakes a reader.

use crate::cluster::{SOON, State, TestRouter, config, connect, owners};
use crate::gateway::{Gateway, one_of_each};
use crate::routing::{by_number, numbered, publish, stop_both};
use tickwire_core::coverage::GapReason;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_node::epoch::METADATA;
use tickwire_node::lease::Leases;
use tickwire_node::names;
use tickwire_node::provision::provision;
use tickwire_testkit::{NatsServer, eventually};

#[tokio::test]
async fn partitions_of_a_vanished_router_are_taken_over_from_their_checkpoints() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let (first, second) = (TestRouter::start(&server, "r1").await, TestRouter::start(&server, "r2").await);
    let gateway = Gateway::start(&server, "g1").await;
    for router in [&first, &second] {
        router.ready().await;
    }
    gateway.subscribe(&Filter::default()).await;
    for id in numbered(0..100) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    first.abandon().await;
    for id in numbered(100..200) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    assert_eq!((gateway.ids(), gateway.gaps()), (numbered(0..200), vec![]));
    assert!(owners(&nats).await.values().all(|owner| owner == "r2"));
    gateway.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn router_that_lost_a_lease_stops_and_takes_over_again() {
    let (_server, nats, router, gateway) = one_of_each().await;
    let thief = NodeRef { id: NodeId::new("thief").unwrap(), nonce: Nonce(1) };
    let leases = Leases::open(&nats, names::LEASES_BUCKET, thief, SOON).await.unwrap();
    for id in numbered(0..50) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    // The thief reads nothing and gives nothing back: the lease becomes stale with its old checkpoint.
    let key = names::lease_key(7);
    eventually("the lease is stolen", SOON, async || {
        let read = leases.read::<State>(&key).await.unwrap();
        leases.write(&key, read.revision, true, &read.record?.state).await.ok()
    })
    .await;
    for id in numbered(50..100) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    eventually("the lease is taken again", SOON, async || (owners(&nats).await.get(&7)? == "r1").then_some(())).await;
    for id in numbered(100..150) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    assert_eq!((gateway.ids(), gateway.gaps()), (numbered(0..150), vec![]));
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn nothing_is_missing_after_a_server_outage() {
    let (mut server, nats, router, gateway) = one_of_each().await;
    for id in numbered(0..50) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    server.kill();
    eventually("the router notices", SOON, async || (!router.report().ready).then_some(())).await;
    server.restart();
    eventually("the test is connected again", SOON, async || nats.is_connected().then_some(())).await;
    for id in numbered(50..100) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    assert_eq!((gateway.ids(), gateway.gaps()), (numbered(0..100), vec![]));
    router.ready().await;
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn stream_that_was_created_again_is_a_reset_and_is_read_from_its_beginning() {
    let (server, nats, router, gateway) = one_of_each().await;
    for id in numbered(0..50) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    nats.jetstream.delete_stream("EVENTS").await.unwrap();
    provision(&nats, &config(&server, "test").stream).await.unwrap();
    for id in numbered(50..100) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    eventually("the events of the new stream", SOON, async || {
        let state = gateway.state.lock().unwrap();
        (state.events.len() == 100 && state.resets == 1).then_some(())
    })
    .await;
    assert_eq!(gateway.gaps(), []);
    router.ready().await;
    stop_both(gateway, router).await;
}

/// NATS restarts with an older store: the same sequences are given to other events.
#[tokio::test]
async fn stream_that_lost_events_is_a_reset_and_new_events_are_not_taken_for_known() {
    let (mut server, nats, router, gateway) = one_of_each().await;
    for id in numbered(0..50) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    let saved = server.kill_and_save();
    server.restart();
    eventually("the server is back", SOON, async || nats.jetstream.get_stream("EVENTS").await.ok()).await;
    for id in numbered(50..500) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    gateway.settle(&nats).await;
    server.kill_and_restore(&saved);
    server.restart();
    eventually("the router notices", SOON, async || {
        let stream = nats.jetstream.get_stream("EVENTS").await.ok()?;
        stream.cached_info().config.metadata.get(METADATA).cloned()
    })
    .await;
    for id in numbered(500..550) {
        publish(&nats, &format!("S{id}"), &id).await;
    }
    eventually("the new events, after a reset", SOON, async || {
        let state = gateway.state.lock().unwrap();
        (state.events.len() == 550 && state.resets == 1).then_some(())
    })
    .await;
    // Other events had the same sequences before.
    assert_eq!((by_number(gateway.ids()), gateway.gaps()), (numbered(0..550), vec![]));
    router.ready().await;
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn unread_events_removed_by_retention_are_a_gap() {
    let (server, nats, router, gateway) = one_of_each().await;
    publish(&nats, "A", "first").await;
    gateway.settle(&nats).await;
    router.stop().await;
    for number in 0..20 {
        publish(&nats, "A", &format!("unread {number}")).await;
    }
    let mut stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    stream.purge().sequence(last - 4).await.unwrap();
    let router = TestRouter::start(&server, "r2").await;
    router.ready().await;
    publish(&nats, "A", "last").await;
    gateway.settle(&nats).await;
    let expected: Vec<String> = ["first".to_owned()]
        .into_iter()
        .chain((15..20).map(|number| format!("unread {number}")))
        .chain(["last".to_owned()])
        .collect();
    assert_eq!(gateway.ids(), expected);
    let gaps = gateway.gaps();
    assert_eq!(gaps.len(), 32, "every partition reports what could not be read");
    assert!(
        gaps.iter().all(|(_, from, through, reason)| from < through
            && through.0 == last - 5
            && *reason == GapReason::Retention)
    );
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn single_router_is_ready_without_waiting_for_others() {
    let server = NatsServer::start();
    // If it waited for others that might be there, it would do so for longer than the test.
    let mut config = config(&server, "r1");
    (config.membership.timeout, config.membership.lease_ttl) = (SOON * 2, SOON * 2);
    let router = TestRouter::start_as(&config).await;
    router.ready().await;
    let nats = connect(&server).await;
    assert_eq!(owners(&nats).await.len(), 32);
    router.stop().await;
}
