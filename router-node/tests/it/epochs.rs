//! Epochs of the stream that routers must detect by themselves: an end of the stream that was lost and filled up again,
//! a stream that was created again under an older clock.

use crate::cluster::{SOON, TestRouter, config, connect, connect_to};
use crate::gateway::{Gateway, one_of_each};
use crate::routing::{by_number, numbered, publish, stop_both};
use std::ops::Range;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_core::filter::Filter;
use tickwire_node::epoch::METADATA;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_testkit::{NatsServer, eventually};

/// An epoch that begins in the year 2096.
const FAR: u64 = 4_000_000_000_000_000_000;

async fn publish_all(nats: &Nats, range: Range<usize>) {
    for id in numbered(range) {
        publish(nats, &format!("S{id}"), &id).await;
    }
}

async fn end(nats: &Nats) -> u64 {
    eventually("the stream is there", SOON, async || {
        let stream = nats.jetstream.get_stream("EVENTS").await.ok()?;
        Some(stream.cached_info().state.last_sequence)
    })
    .await
}

/// Publishes events from this number on until the stream is longer than it was. Returns the number after the last.
async fn refill(nats: &Nats, mut number: usize, longer_than: u64) -> usize {
    while end(nats).await <= longer_than + 64 {
        publish_all(nats, number..number + 50).await;
        number += 50;
    }
    number
}

/// Waits until `count` events were received, after `resets` resets. Returns their ids in order.
async fn received(gateway: &Gateway, count: usize, resets: usize) -> Vec<String> {
    eventually("every event is received", SOON, async || {
        let state = gateway.state.lock().unwrap();
        (state.events.len() >= count && state.resets >= resets).then_some(())
    })
    .await;
    assert_eq!(gateway.state.lock().unwrap().resets, resets);
    by_number(gateway.ids())
}

/// Waits until every event up to this number was received once, after `resets` resets.
async fn received_once(gateway: &Gateway, count: usize, resets: usize) {
    assert_eq!(received(gateway, count, resets).await, numbered(0..count));
}

/// Waits until every event up to this number was received at least once, after one reset.
async fn received_at_least_once(gateway: &Gateway, count: usize) {
    let mut ids = received(gateway, count, 1).await;
    ids.dedup();
    assert_eq!(ids, numbered(0..count));
}

/// A cluster that has had 150 events, and a copy of its store from when it had 50.
async fn with_saved_store() -> (NatsServer, Nats, TestRouter, Gateway, TempDir) {
    let (mut server, nats, router, gateway) = one_of_each().await;
    publish_all(&nats, 0..50).await;
    gateway.settle(&nats).await;
    let saved = server.kill_and_save();
    server.restart();
    end(&nats).await;
    publish_all(&nats, 50..150).await;
    gateway.settle(&nats).await;
    (server, nats, router, gateway, saved)
}

#[tokio::test]
async fn lost_and_refilled_end_is_detected_by_routers_that_start_later() {
    let (mut server, nats, router, gateway, saved) = with_saved_store().await;
    let before = end(&nats).await;
    router.stop().await;
    server.kill_and_restore_stream(&saved, "EVENTS");
    server.restart();
    let count = refill(&nats, 150, before).await;
    let router = TestRouter::start(&server, "r2").await;
    received_once(&gateway, count, 1).await;
    router.ready().await;
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn lost_and_refilled_end_is_detected_by_running_routers() {
    let (mut server, nats, router, gateway, saved) = with_saved_store().await;
    let before = end(&nats).await;
    server.kill_and_restore_stream(&saved, "EVENTS");
    // It is filled up before any router is connected again and can see that it was short.
    let hidden = connect_to(&server.restart_elsewhere()).await;
    let count = refill(&hidden, 150, before).await;
    drop(hidden);
    server.restart();
    received_at_least_once(&gateway, count).await;
    router.ready().await;
    stop_both(gateway, router).await;
}

/// Only gateways know the lost messages: the leases have lost as much as the stream, and no router remembers.
#[tokio::test]
async fn refilled_end_lost_together_with_leases_is_detected_from_gateways() {
    let (mut server, nats, router, gateway, saved) = with_saved_store().await;
    let before = end(&nats).await;
    router.stop().await;
    server.kill_and_restore(&saved);
    server.restart();
    let count = refill(&nats, 150, before).await;
    let router = TestRouter::start(&server, "r2").await;
    received_once(&gateway, count, 1).await;
    router.ready().await;
    stop_both(gateway, router).await;
}

/// The same before the stream is filled up: the gateways are ahead of the stream.
#[tokio::test]
async fn end_lost_together_with_leases_is_detected_from_gateways_ahead_of_the_stream() {
    let (mut server, nats, router, gateway, saved) = with_saved_store().await;
    router.stop().await;
    server.kill_and_restore(&saved);
    server.restart();
    let router = TestRouter::start(&server, "r2").await;
    eventually("a new epoch", SOON, async || (gateway.state.lock().unwrap().resets == 1).then_some(())).await;
    publish_all(&nats, 150..160).await;
    received_once(&gateway, 160, 1).await;
    stop_both(gateway, router).await;
}

/// Only the intake itself knows what it has read after the last checkpoint.
#[tokio::test]
async fn intake_resumes_only_where_its_last_read_message_still_exists() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let mut config = config(&server, "r1");
    config.router.checkpoint_interval = Duration::from_secs(60);
    let router = TestRouter::start_as(&config).await;
    let gateway = Gateway::start(&server, "g1").await;
    gateway.state.lock().unwrap().hides_coverage = true;
    router.ready().await;
    gateway.subscribe(&Filter::default()).await;
    let has = async |count: usize| {
        eventually("events", SOON, async || (gateway.state.lock().unwrap().events.len() >= count).then_some(())).await;
    };
    let mut server = server;
    publish_all(&nats, 0..50).await;
    has(50).await;
    let saved = server.kill_and_save();
    server.restart();
    end(&nats).await;
    publish_all(&nats, 50..150).await;
    has(150).await;
    let before = end(&nats).await;
    server.kill_and_restore_stream(&saved, "EVENTS");
    server.restart();
    let count = refill(&nats, 150, before).await;
    received_at_least_once(&gateway, count).await;
    stop_both(gateway, router).await;
}

/// Begins an epoch in the far future, and waits until the gateway knows it.
async fn begin_future_epoch(nats: &Nats, gateway: &Gateway) {
    let stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    let before = stream.cached_info().state.last_sequence;
    config.metadata.insert(METADATA.to_owned(), format!("{FAR}@{before}"));
    nats.jetstream.update_stream(config).await.unwrap();
    eventually("the epoch of the future", SOON, async || (gateway.state.lock().unwrap().resets == 1).then_some(()))
        .await;
}

async fn create_again(server: &NatsServer, nats: &Nats) {
    nats.jetstream.delete_stream("EVENTS").await.unwrap();
    provision(nats, &config(server, "test").stream).await.unwrap();
}

#[tokio::test]
async fn stream_created_again_under_an_older_clock_has_a_later_epoch_for_new_routers() {
    let (server, nats, router, gateway) = one_of_each().await;
    begin_future_epoch(&nats, &gateway).await;
    publish_all(&nats, 0..50).await;
    received_once(&gateway, 50, 1).await;
    router.stop().await;
    create_again(&server, &nats).await;
    publish_all(&nats, 50..100).await;
    let router = TestRouter::start(&server, "r2").await;
    received_once(&gateway, 100, 2).await;
    let again = connect(&server).await;
    assert!(provision(&again, &config(&server, "test").stream).await.unwrap().epoch.epoch_id.0 > FAR);
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn stream_created_again_under_an_older_clock_is_read_from_its_beginning_by_running_routers() {
    let (server, nats, router, gateway) = one_of_each().await;
    begin_future_epoch(&nats, &gateway).await;
    publish_all(&nats, 0..50).await;
    received_once(&gateway, 50, 1).await;
    create_again(&server, &nats).await;
    publish_all(&nats, 50..100).await;
    received_once(&gateway, 100, 2).await;
    router.ready().await;
    stop_both(gateway, router).await;
}
