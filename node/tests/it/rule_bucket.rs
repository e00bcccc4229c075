//! The bucket of the rules on a real nats-server.

use crate::load;
use serde_json::json;
use tickwire_node::bucket::BucketEntry;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_node::rule_bucket::{RuleBucket, RuleBucketError, StoredRule};
use tickwire_testkit::NatsServer;

fn rule(id: &str, ttl_ms: u64) -> StoredRule {
    StoredRule { rule: json!({ "id": id, "ttl_ms": ttl_ms }), updated_by: "ann".to_owned(), updated_at: None }
}

/// The key, the revision, and whether it is deleted.
fn shown(entries: Vec<BucketEntry>) -> Vec<(String, u64, bool)> {
    entries.into_iter().map(|BucketEntry { key, revision, value, .. }| (key, revision, value.is_empty())).collect()
}

#[tokio::test]
async fn entries_after_a_sequence_are_what_has_changed_since() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = RuleBucket::open(&nats).await.unwrap();
    assert_eq!((bucket.state().await.unwrap().last, bucket.entries_after(0).await.unwrap()), (0, vec![]));

    assert_eq!(bucket.put("a", &rule("a", 1), Some(0)).await.unwrap(), 1);
    assert_eq!(bucket.put("b", &rule("b", 1), None).await.unwrap(), 2);
    assert_eq!(bucket.put("a", &rule("a", 2), Some(1)).await.unwrap(), 3);
    bucket.delete("b", Some(2)).await.unwrap();
    let entries = shown(bucket.entries_after(0).await.unwrap());
    assert_eq!(entries, [("a".to_owned(), 3, false), ("b".to_owned(), 4, true)]);
    assert_eq!(shown(bucket.entries_after(3).await.unwrap()), [("b".to_owned(), 4, true)]);
    assert_eq!(bucket.state().await.unwrap().last, 4);
    let found = bucket.entry_of("a").await.unwrap().unwrap();
    assert_eq!(StoredRule::read("a", &found.value), Ok(rule("a", 2)));
    assert_eq!(bucket.entry_of("b").await.unwrap(), None);
}

#[tokio::test]
async fn write_with_an_outdated_revision_is_refused() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let bucket = RuleBucket::open(&nats).await.unwrap();
    bucket.put("a", &rule("a", 1), None).await.unwrap();
    bucket.put("a", &rule("a", 2), None).await.unwrap();
    for outdated in [0, 1] {
        let refused = bucket.put("a", &rule("a", 3), Some(outdated)).await;
        assert!(matches!(refused, Err(RuleBucketError::OtherRevision { .. })), "{refused:?}");
    }
    assert!(matches!(bucket.delete("a", Some(1)).await, Err(RuleBucketError::OtherRevision { .. })));
    bucket.delete("a", None).await.unwrap();
    // The rule is gone, so this is a new one.
    assert_eq!(bucket.put("a", &rule("a", 3), Some(0)).await.unwrap(), 4);
}
