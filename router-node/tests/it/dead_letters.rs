//! Messages that cannot be read are stored with their reason, once, while others are delivered.

use crate::cluster::{SOON, State, TestRouter};
use crate::gateway::one_of_each;
use crate::routing::{publish, stop_both};
use async_nats::HeaderMap;
use std::collections::BTreeMap;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_node::lease::Leases;
use tickwire_node::names;
use tickwire_testkit::eventually;

#[tokio::test]
async fn bad_events_become_dead_letters_with_their_reason_while_others_are_delivered() {
    let (server, nats, router, gateway) = one_of_each().await;

    let bad = [
        ("events.pattern.AAPL", "{not json", "bad_json"),
        ("events.pattern.AAPL", r#"{"pattern":"Doji","tier":"weekly"}"#, "bad_tier"),
        ("events.pattern.AAPL", r#"{"symbol":"AAPL"}"#, "missing_pattern"),
        ("events.rumour.AAPL", "{}", "unknown_kind"),
        ("events.Pattern.AAPL", r#"{"pattern":"Doji"}"#, "unknown_kind"),
        ("events.pattern.BRK.B", r#"{"pattern":"Doji"}"#, "bad_subject"),
        ("events.pattern", "{}", "bad_subject"),
    ];
    let mut headers = HeaderMap::new();
    headers.insert("Producer", "old one");
    headers.insert("Nats-Msg-Id", "mine");
    let mut expected: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
    for (number, (subject, payload, reason)) in bad.iter().enumerate() {
        publish(&nats, "AAPL", &format!("good {number}")).await;
        headers.insert("Nats-Msg-Id", format!("mine {number}").as_str());
        let sent = nats.jetstream.publish_with_headers(*subject, headers.clone(), (*payload).into()).await.unwrap();
        expected.insert(sent.await.unwrap().sequence, (payload, reason));
    }
    gateway.settle(&nats).await;
    let good: Vec<String> = (0..bad.len()).map(|number| format!("good {number}")).collect();
    assert_eq!(gateway.ids(), good);

    let dead_letters = nats.jetstream.get_stream(names::DEAD_LETTERS).await.unwrap();
    let count = async || dead_letters.get_info().await.unwrap().state.messages;
    eventually("all dead letters", SOON, async || (count().await == bad.len() as u64).then_some(())).await;
    let events = nats.jetstream.get_stream("EVENTS").await.unwrap();
    for number in 1..=bad.len() as u64 {
        let dead_letter = dead_letters.direct_get(number).await.unwrap();
        let header = |name: &str| dead_letter.headers.get(name).map(ToString::to_string).unwrap_or_default();
        let sequence: u64 = header("Tickwire-Sequence").parse().unwrap();
        let reason = header("Tickwire-Reason");
        assert_eq!(dead_letter.subject.as_str(), format!("dead.{reason}"));
        let found = (std::str::from_utf8(&dead_letter.payload).unwrap(), reason.as_str());
        assert_eq!(expected.remove(&sequence), Some(found));
        let stored = events.direct_get(sequence).await.unwrap().subject;
        assert_eq!(header("Tickwire-Subject"), stored.as_str());
        assert_eq!(header("Producer"), "old one");
        assert!(header("Nats-Msg-Id").ends_with(&format!(":{sequence}")));
        assert!(!header("Tickwire-Detail").is_empty());
    }

    // Another router reads on after the dead letters: none is stored twice.
    router.stop().await;
    let router = TestRouter::start(&server, "r2").await;
    router.ready().await;
    publish(&nats, "AAPL", "last").await;
    gateway.settle(&nats).await;
    assert_eq!(gateway.ids().len(), bad.len() + 1);
    assert_eq!(count().await, bad.len() as u64);
    assert_eq!(gateway.gaps(), []);
    stop_both(gateway, router).await;
}

/// Else retention would seem to remove what the catch-all has not read, as soon as the stream has reached its limits.
#[tokio::test]
async fn catch_all_without_messages_moves_on_with_the_stream() {
    let (_server, nats, router, gateway) = one_of_each().await;
    let me = NodeRef { id: NodeId::new("test").unwrap(), nonce: Nonce(0) };
    let leases = Leases::open(&nats, names::LEASES_BUCKET, me, SOON).await.unwrap();
    let sent = nats.jetstream.publish("events.pattern.AAPL", r#"{"pattern":"Doji"}"#.into()).await.unwrap();
    let sequence = sent.await.unwrap().sequence;
    eventually("the catch-all passes the event", SOON, async || {
        let read = leases.read::<State>(names::CATCH_ALL_KEY).await.unwrap();
        read.record.is_some_and(|record| record.state.0 >= sequence).then_some(())
    })
    .await;
    // It still finds what comes later.
    nats.jetstream.publish("events.pattern", "{}".into()).await.unwrap().await.unwrap();
    let dead_letters = nats.jetstream.get_stream(names::DEAD_LETTERS).await.unwrap();
    eventually("the dead letter", SOON, async || {
        (dead_letters.get_info().await.unwrap().state.messages == 1).then_some(())
    })
    .await;
    stop_both(gateway, router).await;
}
