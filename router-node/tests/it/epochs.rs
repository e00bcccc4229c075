//! Lives of the stream that routers have to find out by themselves: a tail that was lost and filled up again, a stream
//! that was made anew under an older clock.

use crate::cluster::{SOON, TestRouter, config, connect, connect_to};
use crate::gateway::{Gateway, one_of_each};
use crate::routing::publish;
use std::ops::Range;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_core::filter::Filter;
use tickwire_node::epoch::METADATA;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_testkit::{NatsServer, eventually};

/// A life that begins in the year 2096.
const FAR: u64 = 4_000_000_000_000_000_000;

fn numbered(range: Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

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

/// Everything up to this number has come, each event once, after so many resets.
async fn has_come(gateway: &Gateway, count: usize, resets: usize) {
    eventually("everything has come", SOON, async || {
        let state = gateway.state.lock().unwrap();
        (state.events.len() >= count && state.resets >= resets).then_some(())
    })
    .await;
    let mut ids = gateway.ids();
    ids.sort_by_key(|id| id.parse::<usize>().unwrap());
    assert_eq!((ids, gateway.state.lock().unwrap().resets), (numbered(0..count), resets));
}

/// Everything up to this number has come, each event at least once, after one reset.
async fn has_come_again(gateway: &Gateway, count: usize) {
    eventually("everything has come", SOON, async || {
        let state = gateway.state.lock().unwrap();
        (state.events.len() >= count && state.resets == 1).then_some(())
    })
    .await;
    let mut ids = gateway.ids();
    ids.sort_by_key(|id| id.parse::<usize>().unwrap());
    ids.dedup();
    assert_eq!(ids, numbered(0..count));
}

/// A cluster that has had 150 events, and a copy of its store from when it had 50.
async fn with_a_past() -> (NatsServer, Nats, TestRouter, Gateway, TempDir) {
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
async fn a_tail_that_was_lost_and_filled_up_again_is_noticed_by_routers_that_start_after_that() {
    let (mut server, nats, router, gateway, saved) = with_a_past().await;
    let before = end(&nats).await;
    router.stop().await;
    server.kill_and_restore_stream(&saved, "EVENTS");
    server.restart();
    let count = refill(&nats, 150, before).await;
    let router = TestRouter::start(&server, "r2").await;
    has_come(&gateway, count, 1).await;
    router.ready().await;
    gateway.stop().await;
    router.stop().await;
}

#[tokio::test]
async fn a_tail_that_was_lost_and_filled_up_again_at_once_is_noticed_by_routers_that_were_there() {
    let (mut server, nats, router, gateway, saved) = with_a_past().await;
    let before = end(&nats).await;
    server.kill_and_restore_stream(&saved, "EVENTS");
    // It is filled up before any router is connected again, and may see that it was short.
    let hidden = connect_to(&server.restart_elsewhere()).await;
    let count = refill(&hidden, 150, before).await;
    drop(hidden);
    server.restart();
    has_come_again(&gateway, count).await;
    router.ready().await;
    gateway.stop().await;
    router.stop().await;
}

/// Nobody but gateways knows what was there: the leases have lost as much as the stream, and no router remembers.
#[tokio::test]
async fn a_tail_that_was_lost_with_the_leases_and_filled_up_again_is_noticed_by_what_gateways_have_had() {
    let (mut server, nats, router, gateway, saved) = with_a_past().await;
    let before = end(&nats).await;
    router.stop().await;
    server.kill_and_restore(&saved);
    server.restart();
    let count = refill(&nats, 150, before).await;
    let router = TestRouter::start(&server, "r2").await;
    has_come(&gateway, count, 1).await;
    router.ready().await;
    gateway.stop().await;
    router.stop().await;
}

/// The same before it is filled up: the gateways are ahead of the stream.
#[tokio::test]
async fn a_tail_that_was_lost_with_the_leases_is_noticed_by_gateways_that_are_ahead_of_the_stream() {
    let (mut server, nats, router, gateway, saved) = with_a_past().await;
    router.stop().await;
    server.kill_and_restore(&saved);
    server.restart();
    let router = TestRouter::start(&server, "r2").await;
    eventually("another life", SOON, async || (gateway.state.lock().unwrap().resets == 1).then_some(())).await;
    publish_all(&nats, 150..160).await;
    has_come(&gateway, 160, 1).await;
    gateway.stop().await;
    router.stop().await;
}

/// What was read after the last checkpoint is known to nobody but who has read it.
#[tokio::test]
async fn an_intake_reads_on_only_where_the_last_message_that_it_has_read_is_there_still() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let mut config = config(&server, "r1");
    config.router.checkpoint_interval = Duration::from_secs(60);
    let router = TestRouter::start_as(&config).await;
    let gateway = Gateway::start(&server, "g1").await;
    gateway.state.lock().unwrap().tells_reached = false;
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
    has_come_again(&gateway, count).await;
    gateway.stop().await;
    router.stop().await;
}

/// Has the stream live a life of the far future, and everyone know of it.
async fn live_in_the_future(nats: &Nats, gateway: &Gateway) {
    let stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    let before = stream.cached_info().state.last_sequence;
    config.metadata.insert(METADATA.to_owned(), format!("{FAR}@{before}"));
    nats.jetstream.update_stream(config).await.unwrap();
    eventually("the life of the future", SOON, async || (gateway.state.lock().unwrap().resets == 1).then_some(()))
        .await;
}

async fn make_anew(server: &NatsServer, nats: &Nats) {
    nats.jetstream.delete_stream("EVENTS").await.unwrap();
    provision(nats, &config(server, "test").stream).await.unwrap();
}

#[tokio::test]
async fn a_stream_made_anew_under_an_older_clock_is_a_later_life_for_routers_that_start_after_that() {
    let (server, nats, router, gateway) = one_of_each().await;
    live_in_the_future(&nats, &gateway).await;
    publish_all(&nats, 0..50).await;
    has_come(&gateway, 50, 1).await;
    router.stop().await;
    make_anew(&server, &nats).await;
    publish_all(&nats, 50..100).await;
    let router = TestRouter::start(&server, "r2").await;
    has_come(&gateway, 100, 2).await;
    let again = connect(&server).await;
    assert!(provision(&again, &config(&server, "test").stream).await.unwrap().epoch.epoch_id.0 > FAR);
    gateway.stop().await;
    router.stop().await;
}

#[tokio::test]
async fn a_stream_made_anew_under_an_older_clock_is_read_from_its_beginning_by_routers_that_were_there() {
    let (server, nats, router, gateway) = one_of_each().await;
    live_in_the_future(&nats, &gateway).await;
    publish_all(&nats, 0..50).await;
    has_come(&gateway, 50, 1).await;
    make_anew(&server, &nats).await;
    publish_all(&nats, 50..100).await;
    has_come(&gateway, 100, 2).await;
    router.ready().await;
    gateway.stop().await;
    router.stop().await;
}
