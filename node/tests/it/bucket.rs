//! Buckets on a real nats-server.

use crate::load;
use tickwire_core::event::Timestamp;
use tickwire_node::bucket::{ALL_KEYS, Bucket, BucketEntry};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_testkit::NatsServer;

fn keys(entries: &[BucketEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

#[tokio::test]
async fn keys_of_a_pattern_are_read_and_a_look_has_the_time_of_the_server() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = Bucket::open(&nats, names::CONTEXT_BUCKET).await.unwrap();
    let before = bucket.look().await.unwrap();
    for key in [names::market_key(1, "US"), names::volumes_key(1), names::market_key(2, "EU")] {
        bucket.put(&key, vec![1]).await.unwrap();
    }
    let all = bucket.entries_after(names::ALL_MARKETS, 0).await.unwrap();
    assert_eq!(keys(&all), ["market.1.US", "market.2.EU"]);
    assert_eq!(keys(&bucket.entries_after(names::ALL_MARKETS, 1).await.unwrap()), ["market.2.EU"]);
    assert_eq!(keys(&bucket.entries_after(&names::markets_of(1), 0).await.unwrap()), ["market.1.US"]);
    let after = bucket.look().await.unwrap();
    assert_eq!((before.state.last, after.state.last, before.state.created), (0, 3, after.state.created));
    let is_between = |at: Timestamp| before.at <= at && at <= after.at;
    assert!(all.iter().all(|entry| is_between(entry.stored)), "{before:?} {all:?} {after:?}");
}

#[tokio::test]
async fn many_entries_are_read_in_order_in_several_parts() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = Bucket::open(&nats, names::REFERENCE_BUCKET).await.unwrap();
    for number in 0..600 {
        bucket.put(&format!("S{number}"), vec![1]).await.unwrap();
    }
    bucket.delete("S7", None).await.unwrap();
    let entries = bucket.many_entries_after(ALL_KEYS, 0, 590).await.unwrap();
    let revisions: Vec<_> = entries.iter().map(|entry| entry.revision).collect();
    let expected: Vec<_> = (1..=601).filter(|revision| *revision != 8).collect();
    assert_eq!(revisions, expected);
    assert!(entries.last().is_some_and(|entry| entry.key == "S7" && entry.value.is_empty()));
    let later = bucket.many_entries_after(ALL_KEYS, 598, 601).await.unwrap();
    assert_eq!(keys(&later), ["S598", "S599", "S7"]);
}
