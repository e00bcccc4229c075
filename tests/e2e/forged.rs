//! Messages that a stranger forges in the names of nodes: what they claim of the stream is compared with the stream, and
//! costs no client an event.

use async_nats::{Client, Subscriber, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tickwire_core::alerts::AlertsRequest;
use tickwire_core::coverage::reached::GatewayCoverage;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Partition, Revision, Seq, UserId};
use tickwire_core::interest::{Interest, InterestBeat};
use tickwire_core::protocol::Encoding;
use tickwire_core::replay::{Purpose, ReplayAnswer, ReplayInterest, ReplayPart, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::lease::LeaseRecord;
use tickwire_node::names;
use tickwire_router_node::decisions::Checkpoint;
use tickwire_testkit::eventually;
use tokio::time::timeout;

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed;
use crate::node::{DEADLINE, TestNode};
use crate::oracle::{assert_exact, filter};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

const SECTIONS: &str = "tickwire_gateway_sections_total";

/// Far beyond the end of every stream.
const FAR: Seq = Seq(1 << 60);

/// The subject of the gateway, and the last batch that it got.
async fn batch(cluster: &Cluster) -> (String, Batch<Bytes>) {
    let mut batches = cluster.client.subscribe("gw.>").await.unwrap();
    loop {
        let message = timeout(DEADLINE, batches.next()).await.expect("a router sends batches").unwrap();
        if names::parse_gateway(&message.subject).is_some() {
            return (message.subject.to_string(), wire::decode(&message.payload).unwrap());
        }
    }
}

/// The number of sections that were sent to the gateway so far, forged ones and others.
async fn count_sections(client: &Client, subject: &str, sent: &mut Subscriber) -> usize {
    // This is no batch. It arrives after everything that the gateway has got.
    client.publish(subject.to_owned(), "".into()).await.unwrap();
    let mut count = 0;
    loop {
        let message = timeout(DEADLINE, sent.next()).await.expect("the last message arrives").unwrap();
        if message.payload.is_empty() {
            return count;
        }
        let batch: Batch<Bytes> = wire::decode(&message.payload).unwrap();
        count += batch.sections.len();
    }
}

/// The gateway of this name and nonce.
fn node(id: &str, nonce: &str) -> NodeRef {
    NodeRef { id: NodeId::new(id).unwrap(), nonce: Nonce(u64::from_str_radix(nonce, 16).unwrap()) }
}

/// An empty section of a partition.
fn section(partition: Partition, prev: Seq, through: Seq) -> Section<Bytes> {
    Section { partition, revision: Revision(u64::MAX), prev, through, events: Vec::new() }
}

#[tokio::test]
async fn forged_claims_about_the_stream_cost_no_event() {
    let mut cluster = Cluster::start(1, 1).await;
    let address = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(address, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let (subject, real) = batch(&cluster).await;
    let (id, nonce) = names::parse_gateway(&subject).unwrap();
    let partitions = || (0..PARTITIONS as u16).map(Partition);
    let mut sent = cluster.client.subscribe(subject.clone()).await.unwrap();
    let unseen = "outcome=\"unseen\"";
    let before = cluster.gateways[0].metrics().await.get_labelled(SECTIONS, unseen);

    // Batches of an epoch that the stream does not have, and beyond its end.
    let all = |prev, through| partitions().map(|partition| section(partition, prev, through)).collect::<Vec<_>>();
    for (epoch_id, sections) in [
        (EpochId::LAST, all(Seq(0), Seq(1))),
        (EpochId(real.epoch_id.0 + 1), all(Seq(0), Seq(1))),
        (real.epoch_id, all(Seq(0), FAR)),
        (real.epoch_id, all(FAR, Seq(0))),
    ] {
        let forged = Batch { epoch_id, sections, ..real.clone() };
        cluster.client.publish(subject.clone(), wire::encode(&forged).unwrap().into()).await.unwrap();
    }
    // Answers that nobody has asked for.
    for partition in partitions() {
        for (ask, part) in [
            (1, ReplayPart::Events(section(partition, Seq(0), Seq(100_000)))),
            (7, ReplayPart::Removed { partition, from: Seq(0), through: Seq(100_000), damaged: None }),
        ] {
            let answer = ReplayAnswer { router: real.router.clone(), epoch_id: real.epoch_id, part, last: true };
            let subject = names::replayed(id, nonce, ask);
            cluster.client.publish(subject, wire::encode(&answer).unwrap().into()).await.unwrap();
        }
    }
    // The coverage of the gateway, and the lease of a partition, in an epoch that no other could follow.
    let gateway = node(id, nonce);
    let reached = Some(GatewayCoverage { epoch_id: EpochId::LAST, through: Seq(1), last: None });
    let beat = InterestBeat { gateway, revision: Revision(0), reached };
    cluster.client.publish(names::interest_beat(id), wire::encode(&beat).unwrap().into()).await.unwrap();
    let leases = jetstream::new(cluster.client.clone()).get_key_value(names::LEASES_BUCKET).await.unwrap();
    let state = Checkpoint { checkpoint: Seq(1), epoch_id: EpochId::LAST, mark: None };
    let lease = LeaseRecord { owner: Some(real.router.clone()), state };
    leases.put(names::lease_key(0), wire::encode(&lease).unwrap().into()).await.unwrap();
    cluster.client.flush().await.unwrap();

    let producer = cluster.producer().await;
    let symbols: Vec<String> = (0..1_000).map(|number| format!("S{number}")).collect();
    let events: Vec<_> = symbols.iter().zip(0..).map(|(symbol, number)| feed::pattern(symbol, number)).collect();
    producer.publish_all(&events).await;
    let log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    let touched: BTreeSet<Partition> = log.entries.iter().map(|entry| entry.partition).collect();
    assert_eq!(touched.len(), PARTITIONS as usize, "every partition has an event");
    assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));

    let metrics = cluster.gateways[0].metrics().await;
    let sections = metrics.get_labelled(SECTIONS, unseen) - before;
    // On a busy machine the gateway may also be late to see what a router has sent it.
    let most = count_sections(&cluster.client, &subject, &mut sent).await as f64;
    assert!((f64::from(4 * PARTITIONS)..=most).contains(&sections), "{sections} of {most}");
    let answers = metrics.get_labelled("tickwire_gateway_replay_answers_total", "outcome=\"unasked\"");
    assert!(answers > 0.0, "{answers}");
    eventually("the router refuses both epochs", DEADLINE, async || {
        let metrics = cluster.routers[0].metrics().await;
        let refused = |source| metrics.get_labelled("tickwire_refused_epochs_total", source);
        (refused("source=\"coverage\"") > 0.0 && refused("source=\"lease\"") > 0.0).then_some(())
    })
    .await;
}

/// A gateway reports what it was given, and so may show what NATS has lost. Somebody else reports more in its name, over
/// and over, while the gateway reports the truth once a second.
#[tokio::test]
async fn coverage_that_somebody_else_reports_for_a_gateway_begins_no_epoch() {
    let mut cluster = Cluster::start(1, 1).await;
    let address = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(address, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let events = |from: usize| (from..from + 200).map(|number| feed::pattern(&format!("S{number}"), number));
    let producer = cluster.producer().await;
    producer.publish_all(&events(0).collect::<Vec<_>>()).await;
    let log = cluster.log().await;
    socket.catch_up(&log.end()).await;

    let (subject, real) = batch(&cluster).await;
    let (id, nonce) = names::parse_gateway(&subject).unwrap();
    let last = log.entries.iter().map(|entry| entry.seq).max().unwrap();
    let reports = [
        (real.epoch_id, Seq(last.0 + 1_000), None),
        (real.epoch_id, FAR, Some((FAR, Timestamp(7)))),
        (EpochId(real.epoch_id.0 + (1 << 40)), Seq(1), None),
    ];
    let taken_back = async |router: &mut TestNode| {
        router.metrics().await.get_labelled("tickwire_router_interest_refused_total", "reason=\"taken_back\"")
    };
    for (epoch_id, through, last) in reports {
        let reached = Some(GatewayCoverage { epoch_id, through, last });
        let beat = InterestBeat { gateway: node(id, nonce), revision: Revision(0), reached };
        let beat = Bytes::from(wire::encode(&beat).unwrap());
        let before = taken_back(&mut cluster.routers[0]).await;
        eventually("the gateway has reported the truth some times", DEADLINE, async || {
            cluster.client.publish(names::interest_beat(id), beat.clone()).await.unwrap();
            (taken_back(&mut cluster.routers[0]).await >= before + 4.0).then_some(())
        })
        .await;
    }
    producer.publish_all(&events(200).collect::<Vec<_>>()).await;
    let log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
    let losses = cluster.routers[0].metrics().await.get("tickwire_router_stream_losses_total");
    assert_eq!(losses, 0.0, "no epoch has begun");
}

/// Every gateway may ask routers. One that was taken over asks in the name of another one, for less than that one wants.
#[tokio::test]
async fn replays_that_are_asked_for_in_the_name_of_another_gateway_cost_its_clients_no_event() {
    const BACKFILLS: u64 = 4;
    let mut cluster = Cluster::start(1, 1).await;
    let address = cluster.gateway_addresses().await[0];
    let events: Vec<_> = (0..300).map(|number| feed::pattern(&format!("S{number}"), number)).collect();
    cluster.producer().await.publish_all(&events).await;
    let log = cluster.log().await;
    let (subject, real) = batch(&cluster).await;
    let (id, nonce) = names::parse_gateway(&subject).unwrap();
    let (gateway, to) = (node(id, nonce), log.entries.iter().map(|entry| entry.seq).max().unwrap());
    let nothing = Interest::default().parts(&gateway, Revision(1 << 40), usize::MAX).remove(0);
    let forge = |backfill: u64, partition: Partition| {
        let request = ReplayRequest {
            gateway: gateway.clone(),
            partition,
            from: Seq(0),
            to,
            epoch_id: real.epoch_id,
            interest: ReplayInterest::Carried(nothing.clone()),
            purpose: Purpose::Backfill,
        };
        // Its number, if the asks were counted.
        let answers = names::replayed(id, nonce, (backfill << 32) + u64::from(partition.0) + 1);
        (answers, Bytes::from(wire::encode(&request).unwrap()))
    };
    let client = cluster.client.clone();
    let flood = async |backfill: u64| {
        let forged: Vec<_> = (0..PARTITIONS as u16).map(|number| forge(backfill, Partition(number))).collect();
        let mut turns = tokio::time::interval(Duration::from_millis(20));
        loop {
            turns.tick().await;
            for (answers, request) in &forged {
                client.publish_with_reply(names::REPLAY, answers.clone(), request.clone()).await.unwrap();
            }
        }
    };
    for number in 0..BACKFILLS {
        let user = format!("u{number}");
        let mut socket = Socket::connect(address, &user, Encoding::Json).await;
        let follow = async {
            let all = json!({ "action": "subscribe", "name": "all", "filter": {}, "since": "1h" });
            socket.request(all).await;
            assert!(socket.caught_up().await.resumed, "{:?}", socket.gaps);
            socket.catch_up(&log.end()).await;
        };
        tokio::select! {
            () = flood(number + 1) => {}
            () = follow => {}
        }
        assert_exact(&user, &socket.events, &socket.gaps, &log.matching(&user, &[filter(&json!({}))]));
    }
    let unasked = "outcome=\"unasked\"";
    let unasked = cluster.gateways[0].metrics().await.get_labelled("tickwire_gateway_replay_answers_total", unasked);
    assert!(unasked > 0.0, "the gateway gets answers that it has not asked for");
}

/// Every gateway may ask routers for the alerts of users. One that was taken over asks without end, under many names.
#[tokio::test]
async fn alerts_come_again_while_somebody_asks_for_alerts_without_end() {
    let mut cluster = Cluster::start(1, 1).await;
    let address = cluster.gateway_addresses().await[0];
    let alert = ProducerMessage::json("alert", "ann", &json!({ "id": "a-1", "priority": "high" }));
    cluster.producer().await.publish(&alert).await;
    let forge = |number: u64| {
        let gateway = NodeRef { id: NodeId::new(&format!("x{number}")).unwrap(), nonce: Nonce(1) };
        let answers = names::alerts_answer(gateway.id.as_str(), &gateway.nonce.to_string(), number);
        let (user, since) = (UserId::new("bob").unwrap(), Timestamp(0));
        let request = AlertsRequest { gateway, user, since, after: Seq(0), acked: Vec::new() };
        (answers, Bytes::from(wire::encode(&request).unwrap()))
    };
    let (client, forged) = (cluster.client.clone(), (0..300).map(forge).collect::<Vec<_>>());
    let flood = async {
        let mut turns = tokio::time::interval(Duration::from_millis(20));
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            for (answers, request) in &forged {
                client.publish_with_reply(names::ALERTS, answers.clone(), request.clone()).await.unwrap();
            }
        }
    };
    let connect = async {
        // By now many more wait than the router answers within the deadline of a gateway.
        eventually("the router has answered many requests", DEADLINE, async || {
            let metrics = cluster.routers[0].metrics().await;
            let answered = metrics.get_labelled("tickwire_router_alert_requests_total", "outcome=\"answered\"");
            (answered >= 5_000.0).then_some(())
        })
        .await;
        for _ in 0..3 {
            let mut socket = Socket::connect(address, "ann", Encoding::Json).await;
            socket.subscribe("alerts", &json!({ "kinds": ["alert"] })).await;
            socket.until_that(|socket| !socket.again.is_empty()).await;
        }
    };
    tokio::select! {
        () = flood => {}
        () = connect => {}
    }
}
