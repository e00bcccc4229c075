//! Replays: a request is answered from the stream, exactly, or refused.

use crate::asking::{ask, ask_at, ask_until_answered, ranges_and_ids, read_all, refusal, request};
use crate::cluster::{SOON, TestRouter, config, connect};
use crate::gateway::Gateway;
use crate::routing::{by_number, numbered, publish, symbols};
use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{EpochId, NodeRef, Partition, Revision, Seq};
use tickwire_core::replay::{ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_testkit::{NatsServer, eventually};
use tokio::time::timeout;

/// Batches that the gateway loses are replayed, whether the request carries the interest or only names it.
#[tokio::test]
async fn lost_batches_are_replayed_exactly() {
    for is_carried in [true, false] {
        let server = NatsServer::start();
        let nats = connect(&server).await;
        let router = TestRouter::start(&server, "r1").await;
        let (gateway, other) = (Gateway::start(&server, "g1").await, Gateway::start(&server, "g2").await);
        router.ready().await;
        gateway.subscribe(&symbols(&["A", "B"])).await;
        if !is_carried {
            let more: Vec<String> = (0..100).map(|number| format!("S{number}")).collect();
            gateway.subscribe(&symbols(&more.iter().map(String::as_str).collect::<Vec<_>>())).await;
        }
        let alerts = Filter { kinds: [tickwire_core::event::Kind::Alert].into(), ..Filter::default() };
        gateway.subscribe(&alerts).await;
        gateway.connect_user("ann").await;
        let mut expected = Vec::new();
        for round in 0..3 {
            gateway.state.lock().unwrap().drops_batches = round == 1;
            for number in 0..60 {
                let id = format!("{round}-{number}");
                publish(&nats, ["A", "B", "C"][number % 3], &id).await;
                if number % 3 < 2 {
                    expected.push(id);
                }
            }
            let alert = format!(r#"{{"id":"alert {round}"}}"#);
            let sent = nats.jetstream.publish(names::source("alert", "ann"), alert.into()).await.unwrap();
            sent.await.unwrap();
            expected.push(format!("alert {round}"));
            // The lost batches must have left the router before the losing ends; it sends to this gateway first.
            if round == 1 {
                other.settle(&nats).await;
            }
        }
        gateway.settle(&nats).await;
        assert_eq!((gateway.ids(), gateway.gaps()), (expected, vec![]));
        assert!(gateway.state.lock().unwrap().replays > 0);
        gateway.stop().await;
        other.stop().await;
        router.stop().await;
    }
}

#[tokio::test]
async fn answer_is_bounded_and_the_rest_is_requested() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    for id in numbered(0..30) {
        let payload = format!(r#"{{"pattern":"Doji","id":"{id}","note":"{}"}}"#, "x".repeat(100_000));
        let sent = nats.jetstream.publish(names::source("pattern", "A"), payload.into()).await.unwrap();
        sent.await.unwrap();
    }
    let router = TestRouter::start(&server, "r1").await;
    let mut next = request(&nats, "A", 0, 30).await;
    let (mut all, mut asks) = (Vec::new(), 0);
    while next.from < next.to {
        let answers = ask_until_answered(&nats, &next).await;
        asks += 1;
        assert!(answers.len() > 1, "each message of an answer is far smaller than the server's largest");
        let (ranges, ids) = ranges_and_ids(answers);
        for (prev, through) in ranges {
            assert_eq!(prev, next.from.0, "ranges are contiguous");
            next.from = Seq(through);
        }
        all.extend(ids);
    }
    assert_eq!(all, numbered(0..30));
    // On a busy machine an answer may end before it is full.
    assert!(asks >= 3, "{asks}");
    router.stop().await;
}

#[tokio::test]
async fn replay_skips_unreadable_messages_without_a_second_dead_letter() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let router = TestRouter::start(&server, "r1").await;
    router.ready().await;
    publish(&nats, "A", "0").await;
    let sent = nats.jetstream.publish(names::source("pattern", "A"), "{broken".into()).await.unwrap();
    sent.await.unwrap();
    // Headers that look like the server's own do not mislead the reader.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Sequence", "1");
    headers.insert("Nats-Subject", "ev.0.pattern.OTHER");
    headers.insert("Nats-Time-Stamp", "never");
    let payload = r#"{"pattern":"Doji","id":"1"}"#;
    let sent =
        nats.jetstream.publish_with_headers(names::source("pattern", "A"), headers, payload.into()).await.unwrap();
    let last = sent.await.unwrap().sequence;
    let dead_letters =
        async || nats.jetstream.get_stream(names::DEAD_LETTERS).await.unwrap().cached_info().state.messages;
    eventually("the dead letter", SOON, async || (dead_letters().await == 1).then_some(())).await;
    let answers = ask_until_answered(&nats, &request(&nats, "A", 0, last).await).await;
    assert_eq!(ranges_and_ids(answers), (vec![(0, last)], numbered(0..2)));
    publish(&nats, "A", "2").await;
    router.stop().await;
    assert_eq!(dead_letters().await, 1);
}

#[tokio::test]
async fn range_removed_by_retention_is_reported_and_the_rest_is_returned() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    for id in numbered(0..20) {
        publish(&nats, "A", &id).await;
    }
    let router = TestRouter::start(&server, "r1").await;
    nats.jetstream.get_stream("EVENTS").await.unwrap().purge().sequence(11).await.unwrap();
    let whole = request(&nats, "A", 3, 20).await;
    let mut answers = ask_until_answered(&nats, &whole).await;
    let (partition, from, through) = (whole.partition, Seq(3), Seq(10));
    assert_eq!(answers.remove(0).part, ReplayPart::Removed { partition, from, through, damaged: None });
    assert_eq!(ranges_and_ids(answers), (vec![(10, 20)], numbered(10..20)));
    let gone = ask_until_answered(&nats, &ReplayRequest { to: Seq(9), ..whole }).await;
    assert_eq!(gone[0].part, ReplayPart::Removed { partition, from, through: Seq(9), damaged: None });
    assert_eq!(gone.len(), 1);
    router.stop().await;
}

#[tokio::test]
async fn requests_that_cannot_be_answered_are_refused_with_a_reason() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    publish(&nats, "A", "0").await;
    let router = TestRouter::start(&server, "r1").await;
    let good = request(&nats, "A", 0, 1).await;
    let refused = async |request: ReplayRequest| refusal(&ask_until_answered(&nats, &request).await);
    assert_eq!(refused(good.clone()).await, None);
    let other = EpochId(good.epoch_id.0 - 1);
    assert_eq!(refused(ReplayRequest { epoch_id: other, ..good.clone() }).await, Some(ReplayRefusal::OtherStream));
    let unknown = ReplayInterest::ByRevision(Revision(1));
    assert_eq!(
        refused(ReplayRequest { interest: unknown, ..good.clone() }).await,
        Some(ReplayRefusal::UnknownInterest)
    );
    let missing = ReplayRequest { from: Seq(u64::MAX - 1), to: Seq(u64::MAX), ..good.clone() };
    assert_eq!(refused(missing).await, Some(ReplayRefusal::NotThere));
    assert_eq!(refused(ReplayRequest { from: Seq(1), ..good.clone() }).await, Some(ReplayRefusal::Malformed));
    assert_eq!(
        refused(ReplayRequest { partition: Partition(32), ..good.clone() }).await,
        Some(ReplayRefusal::Malformed)
    );
    let ReplayInterest::Carried(part) = good.interest.clone() else { panic!("it is small") };
    let half = ReplayInterest::Carried(tickwire_core::interest::SnapshotPart { parts: 2, ..part });
    assert_eq!(refused(ReplayRequest { interest: half, ..good.clone() }).await, Some(ReplayRefusal::Malformed));
    // An invalid request does no harm.
    for junk in [&[][..], &[1], &[2, 0x90], b"\x01\xc1"] {
        let inbox = nats.client.new_inbox();
        nats.client.publish_with_reply(names::REPLAY, inbox, Bytes::copy_from_slice(junk)).await.unwrap();
    }
    assert_eq!(refused(good).await, None);
    router.stop().await;
}

/// A gateway that has missed everything requests all partitions at once, and one pass over the stream answers them. A
/// long pass reads in another way than a short one.
#[tokio::test]
async fn many_partitions_are_read_in_one_pass_and_answered_separately() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let router = TestRouter::start(&server, "r1").await;
    router.ready().await;
    let mut published = 0;
    for events in [600, 2_500] {
        for number in published..events {
            publish(&nats, &format!("S{}", number % 40), &number.to_string()).await;
        }
        published = events;
        let last = nats.jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
        let one = request(&nats, "S0", 0, last).await;
        let reads =
            (0..32).map(|number| read_all(&nats, ReplayRequest { partition: Partition(number), ..one.clone() }));
        let ids = join_all(reads).await.concat();
        assert_eq!(by_number(ids), numbered(0..events));
    }
    // The consumers of a long pass are deleted.
    eventually("only the consumers of the sources", SOON, async || {
        let consumers = nats.jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.consumer_count;
        (consumers == 33).then_some(())
    })
    .await;
    router.stop().await;
}

/// How often the machine may disturb the requests.
const TRIES: usize = 3;

/// Requests that one pass does not reach are read by the next, and are not reported as removed.
#[tokio::test]
async fn requests_that_a_pass_does_not_reach_wait_for_the_next() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let mut config = config(&server, "r1");
    config.router.replay_rate = 1_000;
    let router = TestRouter::start_as(&config).await;
    router.ready().await;
    for number in 0..1_000 {
        publish(&nats, &format!("S{}", number % 40), &number.to_string()).await;
    }
    let stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let mut requests = Vec::new();
    for symbol in (0..40).map(|number| format!("S{number}")) {
        let last = stream.get_last_raw_message_by_subject(&format!("ev.*.pattern.{symbol}")).await.unwrap().sequence;
        requests.push(request(&nats, &symbol, 0, last).await);
        requests.push(request(&nats, &symbol, last - 1, last).await);
    }
    // A machine that pauses for a second makes requests stale, which are refused.
    let mut least = usize::MAX;
    for _ in 0..TRIES {
        let refused = join_all(requests.iter().map(|request| ask(&nats, request))).await;
        let refused: Vec<_> = refused.iter().filter_map(|answers| refusal(answers)).collect();
        assert!(refused.iter().all(|refusal| *refusal == ReplayRefusal::Busy), "{refused:?}");
        least = least.min(refused.len());
        if least < requests.len() / 2 {
            break;
        }
    }
    assert!(least < requests.len() / 2, "{least} of {} are refused", requests.len());
    router.stop().await;
}

/// A gateway without an answer asks one router after the other.
#[tokio::test]
async fn router_answers_requests_to_its_name() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let (one, other) = (TestRouter::start(&server, "r1").await, TestRouter::start(&server, "r2").await);
    for router in [&one, &other] {
        router.ready().await;
    }
    publish(&nats, "AAPL", "0").await;
    let last = nats.jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
    let wanted = request(&nats, "AAPL", 0, last).await;
    // Both are reached in this way soon.
    let mut known = BTreeMap::new();
    while known.len() < 2 {
        let NodeRef { id, nonce } = ask_until_answered(&nats, &wanted).await[0].router.clone();
        known.insert(id.to_string(), nonce.to_string());
    }
    for (id, nonce) in known {
        let answers = ask_at(&nats, &names::replay_of(&id, &nonce), &wanted).await;
        assert!(answers.iter().all(|answer| answer.router.id.as_str() == id));
        assert_eq!(ranges_and_ids(answers).1, ["0"]);
    }
    one.stop().await;
    other.stop().await;
}

/// A message that was stored when NATS accepted larger ones than now, and that no consumer delivers, in the middle of a
/// range that is requested for all partitions.
#[tokio::test]
async fn long_replay_skips_a_message_that_no_consumer_delivers() {
    let home = tempfile::TempDir::with_prefix("tickwire-nats-config-").unwrap();
    let file = home.path().join("nats.conf");
    let takes = |bytes: usize| std::fs::write(&file, format!("max_payload: {bytes}\n")).unwrap();
    takes(8 << 20);
    let mut server = NatsServer::start_with(&["-js", "-c", file.to_str().unwrap()]);
    let mut config = config(&server, "r1");
    config.stream.max_message = 8 << 20;
    let nats = Nats::connect(&config.nats, "router", "test").await.unwrap();
    tickwire_node::provision::provision(&nats, &config.stream).await.unwrap();
    for number in 0..2_200 {
        if number == 1_100 {
            let sent = nats.jetstream.publish("events.pattern.S0", "x".repeat(6 << 20).into()).await.unwrap();
            sent.await.unwrap();
        }
        publish(&nats, &format!("S{}", number % 40), &number.to_string()).await;
    }
    takes(1 << 20);
    server.kill();
    server.restart();
    let router = TestRouter::start_as(&config).await;
    router.ready().await;
    let last = nats.jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
    let one = request(&nats, "S0", 0, last).await;
    let reads = (0..32).map(|number| read_all(&nats, ReplayRequest { partition: Partition(number), ..one.clone() }));
    let ids = timeout(SOON * 2, join_all(reads)).await.unwrap().concat();
    assert_eq!(by_number(ids), numbered(0..2_200));
    // A range that begins right after the large message of its partition is read as well.
    let behind = read_all(&nats, ReplayRequest { from: Seq(1_101), ..one }).await;
    assert_eq!(behind.iter().find(|id| id.parse::<usize>().unwrap() % 40 == 0).unwrap(), "1120");
    router.stop().await;
}
