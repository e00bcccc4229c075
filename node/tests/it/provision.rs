//! Provisioning on a real nats-server: what is created, how it works, what is updated and what is refused.

use crate::load;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::StorageType;
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use tickwire_node::admin::Readiness;
use tickwire_node::config::StreamConfig;
use tickwire_node::names::{self, StoredSubject};
use tickwire_node::nats::Nats;
use tickwire_node::provision::{ProvisionError, Provisioned, await_streams, provision};
use tickwire_testkit::{NatsServer, eventually};

/// The deadline of each step.
const SOON: Duration = Duration::from_secs(15);

fn stream(sets: &[(&str, &str)]) -> StreamConfig {
    load(sets).stream
}

async fn connect(server: &NatsServer) -> Nats {
    Nats::connect(&load(&[("nats.url", &server.url())]).nats, "router", "r1").await.unwrap()
}

async fn publish(nats: &Nats, subject: &str) -> u64 {
    nats.jetstream.publish(subject.to_owned(), "{}".into()).await.unwrap().await.unwrap().sequence
}

#[tokio::test]
async fn events_are_stored_by_partition_and_unrecognised_subjects_unchanged() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    provision(&nats, &stream(&[])).await.unwrap();
    let events = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let stored = async |sequence| events.direct_get(sequence).await.unwrap().subject.to_string();

    let mut partitions = BTreeSet::new();
    for number in 0..200 {
        let sequence = publish(&nats, &names::source("pattern", &format!("S{number}"))).await;
        let subject = stored(sequence).await;
        let StoredSubject::Event { partition, kind, key } = names::parse_stored(&subject) else { panic!("{subject}") };
        assert_eq!((kind, key), ("pattern", format!("S{number}").as_str()));
        assert!(names::partition(partition).starts_with(&format!("ev.{partition}.")));
        partitions.insert(partition);
    }
    assert!(partitions.iter().all(|partition| *partition < 32));
    assert!(partitions.len() > 25, "{partitions:?}");

    let same = publish(&nats, "events.pattern.S0").await;
    assert_eq!(stored(same).await, stored(1).await);
    for odd in ["events.a.b.c", "events.a"] {
        let sequence = publish(&nats, odd).await;
        assert_eq!(stored(sequence).await, odd);
        assert_eq!(names::parse_stored(odd), StoredSubject::Unrecognised);
    }
    let tick = publish(&nats, &names::heartbeat(7)).await;
    assert_eq!(names::parse_stored(&stored(tick).await), StoredSubject::Heartbeat { partition: 7 });
    let dead = publish(&nats, &names::dead_letter("bad_tier")).await;
    assert_eq!(dead, 1);
}

#[tokio::test]
async fn unrecognised_messages_can_be_read_by_one_filter() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    provision(&nats, &stream(&[])).await.unwrap();
    for subject in ["events.pattern.A", "events.a.b.c", "events.market.B", "events.a"] {
        publish(&nats, subject).await;
    }
    let events = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let config = async_nats::jetstream::consumer::pull::Config {
        filter_subject: names::SOURCE_ALL.to_owned(),
        ..Default::default()
    };
    let consumer = events.create_consumer(config).await.unwrap();
    assert_eq!(consumer.cached_info().num_pending, 2);
}

/// A message that no node would read is not a message of the stream, and its publisher gets an error.
#[tokio::test]
async fn heartbeats_of_unknown_partitions_are_refused_even_by_a_stream_that_accepted_them() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    provision(&nats, &stream(&[])).await.unwrap();
    let events = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = events.cached_info().config.clone();
    config.subjects = vec![names::SOURCE_ALL.to_owned(), "ev.*.tick".to_owned()];
    nats.jetstream.update_stream(config).await.unwrap();
    publish(&nats, "ev.x.tick").await;
    provision(&nats, &stream(&[])).await.unwrap();
    for number in [0, 31] {
        publish(&nats, &names::heartbeat(number)).await;
    }
    for unread in ["ev.x.tick", "ev.32.tick", "ev.03.tick", "ev.3.pattern.AAPL", "ev.3.tick.AAPL"] {
        let sent = nats.jetstream.publish(unread, "{}".into()).await.unwrap();
        assert_eq!(sent.await.unwrap_err().kind(), PublishErrorKind::StreamNotFound, "{unread}");
    }
    publish(&nats, "events.pattern.A").await;
}

#[tokio::test]
async fn nodes_that_race_each_other_all_succeed_with_the_same_epoch() {
    let server = NatsServer::start();
    let config = stream(&[]);
    let mut nodes = Vec::new();
    for _ in 0..12 {
        nodes.push(connect(&server).await);
    }
    let racing = nodes.iter().map(|nats| provision(nats, &config));
    let all: Vec<Provisioned> = futures_util::future::try_join_all(racing).await.unwrap();
    assert!(all[0].epoch.epoch_id.0 > 1_700_000_000_000_000_000);
    assert_eq!(all[0].partitions, 32);
    assert!(all.iter().all(|one| *one == all[0]));
    assert_eq!(provision(&nodes[0], &config).await.unwrap(), all[0]);

    nodes[0].jetstream.delete_stream("EVENTS").await.unwrap();
    assert!(provision(&nodes[0], &config).await.unwrap().epoch.epoch_id > all[0].epoch.epoch_id);
}

#[tokio::test]
async fn changed_limits_are_updated_and_other_settings_kept() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let made = provision(&nats, &stream(&[])).await.unwrap();
    publish(&nats, "events.pattern.A").await;
    let changed = stream(&[
        ("stream.max_age", "2h"),
        ("stream.max_bytes", "10485760"),
        ("stream.max_message", "524288"),
        ("stream.duplicate_window", "30s"),
    ]);
    assert_eq!(provision(&nats, &changed).await.unwrap(), made);
    let events = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let config = &events.cached_info().config;
    assert_eq!(config.max_age, Duration::from_secs(7200));
    assert_eq!(config.max_bytes, 10_485_760);
    assert_eq!(config.max_message_size, 524_288);
    assert_eq!(config.duplicate_window, Duration::from_secs(30));
    assert!(config.allow_direct);
    assert_eq!(config.metadata["tickwire.partitions"], "32");
    assert_eq!(events.cached_info().state.messages, 1);
    assert_eq!(config.storage, StorageType::File);
}

/// What gateways do: they need no permission to create or edit a stream.
#[tokio::test]
async fn gateway_waits_for_the_streams_that_it_uses_and_creates_and_changes_none() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let readiness = Readiness::default();
    let check = readiness.register("storage");
    let changed = stream(&[("stream.max_age", "2h")]);
    let waits = |config: StreamConfig| {
        let (nats, check) = (nats.clone(), check.clone());
        tokio::spawn(async move { await_streams(&nats, &config, &check).await })
    };
    let until_said = async |text: &str| {
        eventually(&format!("the check says {text:?}"), SOON, async || {
            let missing = readiness.report(false).checks[0].missing.clone()?;
            missing.contains(text).then_some(())
        })
        .await;
    };
    let until_missing =
        async |name: &str| until_said(&format!("the stream {name} does not exist: start a router")).await;

    let waiting = waits(changed.clone());
    until_missing("EVENTS").await;
    // While the server does not answer, nobody knows whether the stream exists.
    server.freeze();
    until_said("NATS does not say whether the stream EVENTS exists").await;
    server.thaw();
    until_missing("EVENTS").await;
    assert_eq!(nats.jetstream.query_account().await.unwrap().streams, 0);
    let made = provision(&nats, &stream(&[])).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), made);

    for bucket in ["KV_TICKWIRE_VIEW", "KV_TICKWIRE_ACKS"] {
        nats.jetstream.delete_stream(bucket).await.unwrap();
        let waiting = waits(changed.clone());
        until_missing(bucket).await;
        provision(&nats, &stream(&[])).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), made);
    }

    // It does not use the leases, and may not ask for them.
    nats.jetstream.delete_stream("KV_TICKWIRE_LEASES").await.unwrap();
    let mut updates = nats.client.subscribe("$JS.EVENT.ADVISORY.STREAM.UPDATED.>").await.unwrap();
    assert_eq!(waits(changed).await.unwrap().unwrap(), made);
    nats.check().await.unwrap();
    assert!(updates.next().now_or_never().is_none(), "a stream was changed");
    assert!(nats.jetstream.get_stream("KV_TICKWIRE_LEASES").await.is_err(), "a stream was created");
    let other = waits(stream(&[("stream.partitions", "16")])).await.unwrap();
    assert!(matches!(other, Err(ProvisionError::Partitions { running: 32, configured: 16, .. })), "{other:?}");
}

/// As on a leaf node whose hub restarts: the connection stays or is back at once, and JetStream comes later.
#[tokio::test]
async fn gateway_that_waits_goes_on_when_jetstream_was_away_for_a_moment() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("nats.conf");
    let set = |settings: &str| fs::write(&file, settings).unwrap();
    set("jetstream: enabled\n");
    let mut server = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
    // So that a request that a restart has lost soon counts as one without an answer.
    let config = load(&[("nats.url", &server.url()), ("nats.request_timeout", "500ms")]).nats;
    let nats = Nats::connect(&config, "gateway", "gw-1").await.unwrap();
    let readiness = Readiness::default();
    let check = readiness.register("storage");
    let waiting = {
        let nats = nats.clone();
        tokio::spawn(async move { await_streams(&nats, &stream(&[]), &check).await })
    };
    let until_said = async |text: &str| {
        eventually(&format!("the check says {text:?}"), SOON, async || {
            let missing = readiness.report(false).checks[0].missing.clone()?;
            missing.contains(text).then_some(())
        })
        .await;
    };
    until_said("the stream EVENTS does not exist").await;
    set("# no JetStream\n");
    server.restart();
    until_said("jetstream unavailable").await;
    set("jetstream: enabled\n");
    server.restart();
    until_said("the stream EVENTS does not exist").await;
    let made = provision(&nats, &stream(&[])).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), made);
}

#[tokio::test]
async fn gateway_does_not_wait_for_streams_on_a_server_without_jetstream() {
    let server = NatsServer::start_with(&[]);
    let nats = connect(&server).await;
    let check = Readiness::default().register("storage");
    assert!(matches!(await_streams(&nats, &stream(&[]), &check).await, Err(ProvisionError::JetStreamOff)));
}

#[tokio::test]
async fn provisioned_cluster_is_not_changed() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    provision(&nats, &stream(&[])).await.unwrap();
    let mut updates = nats.client.subscribe("$JS.EVENT.ADVISORY.STREAM.UPDATED.>").await.unwrap();
    provision(&nats, &stream(&[])).await.unwrap();
    provision(&nats, &stream(&[("stream.max_age", "2h")])).await.unwrap();
    let update = updates.next().await.unwrap();
    assert_eq!(update.subject.as_str(), "$JS.EVENT.ADVISORY.STREAM.UPDATED.EVENTS");
    nats.check().await.unwrap();
    assert!(updates.next().now_or_never().is_none());
}

#[tokio::test]
async fn buckets_support_compare_and_set() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    provision(&nats, &stream(&[])).await.unwrap();
    for bucket in [
        names::VIEW_BUCKET,
        names::LEASES_BUCKET,
        names::RULES_BUCKET,
        names::CONTEXT_BUCKET,
        names::REFERENCE_BUCKET,
        names::SUBSCRIPTIONS_BUCKET,
        names::ACKS_BUCKET,
    ] {
        let store = nats.jetstream.get_key_value(bucket).await.unwrap();
        let revision = store.put(names::lease_key(3), "a".into()).await.unwrap();
        assert!(store.update(names::lease_key(3), "b".into(), revision + 1).await.is_err());
        store.update(names::lease_key(3), "b".into(), revision).await.unwrap();
        assert_eq!(store.get(names::lease_key(3)).await.unwrap().unwrap(), "b");
    }
}

#[tokio::test]
async fn other_partition_count_is_refused_with_both_numbers() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    provision(&nats, &stream(&[("stream.partitions", "16")])).await.unwrap();
    match provision(&nats, &stream(&[])).await {
        Err(ProvisionError::Partitions { running, configured, .. }) => assert_eq!((running, configured), (16, 32)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn stream_that_cannot_match_the_configuration_is_refused_at_once() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let foreign = async_nats::jetstream::stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        ..Default::default()
    };
    nats.jetstream.create_stream(foreign).await.unwrap();
    let refused = async |sets: &[(&str, &str)]| provision(&nats, &stream(sets)).await.unwrap_err();
    assert!(matches!(refused(&[]).await, ProvisionError::NotOurs { .. }));
    assert!(matches!(refused(&[("stream.name", "OTHER")]).await, ProvisionError::Overlap { .. }));
    nats.jetstream.delete_stream("EVENTS").await.unwrap();

    assert!(matches!(refused(&[("stream.replicas", "3")]).await, ProvisionError::Replicas { .. }));
    let huge = i64::MAX.to_string();
    assert!(matches!(refused(&[("stream.max_bytes", &huge)]).await, ProvisionError::NoRoom { .. }));
    provision(&nats, &stream(&[])).await.unwrap();
    assert!(matches!(refused(&[("stream.storage", "memory")]).await, ProvisionError::Storage { .. }));
}

#[tokio::test]
async fn server_without_jetstream_is_reported() {
    let server = NatsServer::start_with(&[]);
    let nats = connect(&server).await;
    assert!(matches!(provision(&nats, &stream(&[])).await, Err(ProvisionError::JetStreamOff)));
}
