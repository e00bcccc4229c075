//! Buckets on a real nats-server.

use crate::load;
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_node::bucket::{ALL_KEYS, Bucket, BucketEntry, BucketError, BucketNews, BucketReader};
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
async fn removed_key_leaves_nothing_behind() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = Bucket::open(&nats, names::CONTEXT_BUCKET).await.unwrap();
    for market in ["US", "EU"] {
        bucket.put(&names::market_key(1, market), vec![1]).await.unwrap();
    }
    for _ in 0..2 {
        bucket.remove("market.1.US").await.unwrap();
        assert_eq!(keys(&bucket.entries_after(ALL_KEYS, 0).await.unwrap()), ["market.1.EU"]);
    }
    bucket.put("market.1.US", vec![2]).await.unwrap();
    assert_eq!(keys(&bucket.entries_after(ALL_KEYS, 0).await.unwrap()), ["market.1.EU", "market.1.US"]);
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

#[tokio::test]
async fn look_reads_what_has_changed_also_after_the_bucket_was_created_again() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = Bucket::open(&nats, names::RULES_BUCKET).await.unwrap();
    for key in ["a", "b"] {
        bucket.put(key, vec![1]).await.unwrap();
    }
    let mut reader = BucketReader::new(bucket.clone(), ALL_KEYS, 100);
    let shown = |news: BucketNews| {
        let keys = keys(&news.entries).into_iter().map(str::to_owned).collect::<Vec<_>>();
        (news.is_all, news.state.last, keys)
    };
    let texts = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    let first = reader.first(Duration::from_secs(60)).await.unwrap();
    assert_eq!(shown(first), (true, 2, texts(&["a", "b"])));
    assert_eq!(reader.look().await.unwrap().news, None);
    bucket.delete("a", None).await.unwrap();
    assert_eq!(shown(reader.look().await.unwrap().news.unwrap()), (false, 3, texts(&["a"])));

    nats.jetstream.delete_key_value(names::RULES_BUCKET).await.unwrap();
    assert!(matches!(reader.look().await, Err(BucketError::Missing { .. })));
    provision(&nats, &config.stream).await.unwrap();
    bucket.put("c", vec![1]).await.unwrap();
    assert_eq!(shown(reader.look().await.unwrap().news.unwrap()), (true, 1, texts(&["c"])));
}

#[tokio::test]
async fn bucket_that_holds_too_much_is_not_read() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = Bucket::open(&nats, names::RULES_BUCKET).await.unwrap();
    let mut reader = BucketReader::new(bucket.clone(), ALL_KEYS, 100);
    for number in 0..30 {
        bucket.put(&format!("junk-{number}"), vec![b' '; 600_000]).await.unwrap();
    }
    assert!(matches!(reader.look().await, Err(BucketError::TooLarge { .. })));
    assert!(matches!(bucket.entries_after(ALL_KEYS, 0).await, Err(BucketError::TooLarge { .. })));
    for number in 0..30 {
        bucket.delete(&format!("junk-{number}"), None).await.unwrap();
    }
    assert!(reader.look().await.unwrap().news.is_some());
}
