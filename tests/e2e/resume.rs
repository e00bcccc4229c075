//! A client resumes at its position, at any gateway.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tickwire_core::ids::{EpochId, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Gap};

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed::{self, RunningFeed};
use crate::oracle::{OracleEntry, assert_covered, assert_exact, filter};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

fn every() -> Value {
    json!({ "kinds": ["pattern", "market", "health", "alert", "backtest"] })
}

/// One subscription, as a field of a resume.
fn only(name: &str, filter: &Value) -> Value {
    json!({ name: { "filter": filter } })
}

/// The gateway dies while events flow; its clients resume at the other one, and get every event once and in order.
#[tokio::test]
async fn clients_of_a_killed_gateway_resume_elsewhere_without_loss() {
    let mut cluster = Cluster::start(2, 2).await;
    let gateways = cluster.gateway_addresses().await;
    let wanted = [every(), json!({ "symbols": ["AAPL", "SPY"] }), json!({ "min_confidence": 0.5 })];
    let mut sockets: Vec<(&str, &Value, Socket)> = Vec::new();
    for number in 0..12 {
        let (user, wanted) = (feed::USERS[number % feed::USERS.len()], &wanted[number % wanted.len()]);
        let mut socket = Socket::connect(gateways[0], user, Encoding::ALL[number % 2]).await;
        socket.subscribe("mine", wanted).await;
        sockets.push((user, wanted, socket));
    }
    let producer = cluster.producer().await;
    let mut feed = RunningFeed::new(11);
    let events: Vec<ProducerMessage> = (0..900).map(|_| feed.event()).collect();
    producer.publish_all(&events[..300]).await;
    sockets[0].2.until(10).await;
    cluster.gateways[0].process.kill();
    producer.publish_all(&events[300..600]).await;
    for (user, wanted, socket) in &mut sockets {
        let list = socket.resume(gateways[1], user, &only("mine", wanted)).await;
        assert_eq!(list.subscriptions.len(), 1);
        assert!(socket.caught_up().await.resumed, "{user}");
    }
    producer.publish_all(&events[600..]).await;
    let log = cluster.log().await;
    for (user, wanted, socket) in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact(user, &socket.events, &socket.gaps, &log.matching(user, &[filter(wanted)]));
    }
    let metrics = cluster.gateways[1].metrics().await;
    assert_eq!(metrics.get("tickwire_gateway_backfills_total"), 12.0);
    assert_eq!(metrics.get("tickwire_gateway_unfilled_gaps_total"), 0.0);
}

/// A hundred sessions that resume at once cost one reading of the range.
#[tokio::test]
async fn sessions_that_resume_together_share_one_replay() {
    const CROWD: usize = 100;
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL", "SPY"] });
    let mut first = Socket::connect(gateway, "ann", Encoding::Json).await;
    first.subscribe("mine", &wanted).await;
    let events = feed::patterns(0..200);
    cluster.producer().await.publish_all(&events).await;
    let log = cluster.log().await;
    first.catch_up(&log.end()).await;
    let before = cluster.routers[0].metrics().await.get("tickwire_router_replay_requests_total");
    let mut frame = first.resume_frame(&only("mine", &wanted));
    let from = Socket::connect(gateway, "bob", Encoding::Json).await.list().await.position;
    assert_eq!(first.position, from, "no event arrived since");

    // Each lacks all events since an earlier position.
    let mut start = Position::from_str(&from).unwrap();
    start.seqs.iter_mut().for_each(|seq| seq.0 = 0);
    (frame["position"], frame["seen"]) = (json!(start.to_string()), json!({}));
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        crowd.push(Socket::connect(gateway, &format!("user-{number}"), Encoding::ALL[number % 2]).await);
    }
    for socket in &mut crowd {
        socket.send(&frame).await;
    }
    let expected = log.matching("ann", &[filter(&wanted)]);
    for socket in &mut crowd {
        socket.next().await;
        assert!(socket.caught_up().await.resumed);
        assert_exact("one of the crowd", &socket.events, &socket.gaps, &expected);
    }
    let asked = cluster.routers[0].metrics().await.get("tickwire_router_replay_requests_total") - before;
    // Some cohorts, if the frames of the crowd arrive slowly; each session alone would ask for every partition.
    assert!(asked <= f64::from(PARTITIONS) * CROWD as f64 / 5.0, "{asked} requests for {CROWD} clients");
}

/// Lets a session of each of these users resume at once, and one of another user after them. Fails unless all get all
/// missed events. Returns how long it took them, and the other one.
async fn resume_at_once(
    gateway: SocketAddr,
    users: &[String],
    other: &str,
    frame: &Value,
    expected: &[&OracleEntry],
) -> (Duration, Duration) {
    let mut sockets = Vec::new();
    for (number, user) in users.iter().enumerate() {
        sockets.push(Socket::connect(gateway, user, Encoding::ALL[number % 2]).await);
    }
    let begun = Instant::now();
    for socket in &mut sockets {
        socket.send(frame).await;
    }
    let mut back = Socket::connect(gateway, other, Encoding::Json).await;
    back.send(frame).await;
    back.next().await;
    assert!(back.caught_up().await.resumed);
    let alone = begun.elapsed();
    assert_exact(other, &back.events, &back.gaps, expected);
    for socket in &mut sockets {
        socket.next().await;
        assert!(socket.caught_up().await.resumed);
        assert_exact("one of the sessions", &socket.events, &socket.gaps, expected);
    }
    (begun.elapsed(), alone)
}

/// All sessions of one user connect again at once, like those of a trading floor when a gateway dies. They get the
/// missed events together, like sessions of many users, and another user who comes after them does not wait longer.
#[tokio::test]
async fn five_hundred_sessions_of_one_user_resume_at_once_without_waiting() {
    const SESSIONS: usize = 500;
    /// Four at a time, ten times a second, would take more than twice as long.
    const MOST: Duration = Duration::from_secs(5);
    /// How often they resume until they take no longer: other tests may disturb one time.
    const TRIES: usize = 3;
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL", "SPY"] });
    let mut first = Socket::connect(gateway, "first", Encoding::Json).await;
    first.subscribe("mine", &wanted).await;
    let position = first.list().await.position;
    let events = feed::patterns(0..200);
    cluster.producer().await.publish_all(&events).await;
    let log = cluster.log().await;
    first.catch_up(&log.end()).await;
    drop(first);
    let frame = json!({ "action": "resume", "position": position, "subscriptions": only("mine", &wanted) });
    let expected = log.matching("floor", &[filter(&wanted)]);
    let mut best = Duration::MAX;
    for number in 0..TRIES {
        // What an earlier user has asked for does not count against this one.
        let (users, other) = (vec![format!("floor-{number}"); SESSIONS], format!("other-{number}"));
        let (all, alone) = resume_at_once(gateway, &users, &other, &frame, &expected).await;
        println!("{SESSIONS} sessions of one user resumed in {all:?}, one of another user meanwhile in {alone:?}");
        best = best.min(all);
        if best < MOST {
            return;
        }
    }
    // A slow machine needs longer, but then also for sessions of which no two share what a user may ask for.
    let users: Vec<String> = (0..SESSIONS).map(|number| format!("trader-{number}")).collect();
    let (of_many, _) = resume_at_once(gateway, &users, "other", &frame, &expected).await;
    assert!(best < 2 * of_many, "{best:?} for sessions of one user, {of_many:?} for those of many");
}

/// The backfill is larger than an outbox, live events continue, and the client reads slowly at first.
#[tokio::test]
async fn backfill_larger_than_an_outbox_is_complete_and_precedes_new_events() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.outbox_bytes", "262144")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &json!({})).await;
    // New events fill at most eight outboxes: half of what is asked for again before any event is dropped.
    let note = "x".repeat(2_000);
    let event = move |n: usize| {
        let body = json!({ "pattern": format!("P{n}"), "note": note, "id": n.to_string() });
        ProducerMessage::json("pattern", feed::SYMBOLS[n % feed::SYMBOLS.len()], &body)
    };
    let mut away = Socket::connect(gateway, "ann", Encoding::Json).await;
    away.subscribe("mine", &json!({})).await;
    drop(socket);
    let producer = cluster.producer().await;
    producer.publish_all(&(0..3_000).map(&event).collect::<Vec<_>>()).await;
    let from = away.position.clone();
    let mut late = Socket::connect(gateway, "ann", Encoding::Json).await;
    let frame = json!({ "action": "resume", "id": 1, "position": from, "subscriptions": only("mine", &json!({})) });
    late.send(&frame).await;
    // The client does not read meanwhile.
    producer.publish_all(&(3_000..4_000).map(&event).collect::<Vec<_>>()).await;
    late.next().await;
    assert!(late.caught_up().await.resumed);
    let log = cluster.log().await;
    late.catch_up(&log.end()).await;
    assert_eq!(late.event_notices().len(), 0, "{:?}", late.notices);
    assert_exact("ann", &late.events, &late.gaps, &log.matching("ann", &[filter(&json!({}))]));
}

/// Joins adjacent gaps of a partition: the gateway itself may have been behind when the stream discarded, and then the
/// later part is a gap of its own.
fn joined(gaps: &[Gap]) -> Vec<Gap> {
    let mut gaps = gaps.to_vec();
    gaps.sort_by_key(|gap| (gap.p, gap.from));
    gaps.dedup_by(|later, gap| {
        let is_next = (later.p, later.from, &later.reason) == (gap.p, gap.to, &gap.reason);
        if is_next {
            gap.to = later.to;
        }
        is_next
    });
    gaps
}

/// Discarded events become gaps, and the resume is not complete.
#[tokio::test]
async fn discarded_events_become_exact_gaps() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({});
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &wanted).await;
    let producer = cluster.producer().await;
    let events = feed::patterns(0..300);
    producer.publish_all(&events[..100]).await;
    socket.catch_up(&cluster.log().await.end()).await;
    let from = socket.position.clone();
    drop(socket);
    producer.publish_all(&events[100..]).await;
    let before = cluster.log().await;
    let discarded = before.entries[before.entries.len() - 80].seq;
    // The gateway could still deliver events from live reading although the stream discarded them.
    Socket::connect(gateway, "bob", Encoding::Json).await.catch_up(&before.end()).await;
    cluster.discard(discarded).await;

    let mut late = Socket::connect(gateway, "ann", Encoding::Json).await;
    let frame = json!({ "action": "resume", "position": from, "subscriptions": only("mine", &wanted) });
    late.request(frame).await;
    assert!(!late.caught_up().await.resumed);
    late.catch_up(&before.end()).await;
    let expected: Vec<_> = before.matching("ann", &[filter(&wanted)]).split_off(100);
    assert_eq!(assert_covered("ann", &late.events, &late.gaps, &expected), 200 - 79);
    // A partition without later events ends before the discarded range does, and so does its gap.
    let goes_on = |p| before.entries.iter().any(|entry| entry.partition == p && entry.seq > discarded);
    let is_exact = |gap: &Gap| gap.to == discarded || !goes_on(gap.p) && gap.to < discarded;
    let gaps = joined(&late.gaps);
    assert!(gaps.iter().all(|gap| gap.reason == "retention" && is_exact(gap)), "{gaps:?}");

    // For a position of another epoch the later events are unknown; all of the present epoch is delivered.
    let mut foreign = Position::from_str(&from).unwrap();
    foreign.epoch_id = EpochId(7);
    let mut lost = Socket::connect(gateway, "bob", Encoding::MsgPack).await;
    let frame = json!({ "action": "resume", "position": foreign.to_string(), "subscriptions": only("mine", &wanted) });
    lost.request(frame).await;
    assert!(!lost.caught_up().await.resumed);
    let (reset, gaps): (Vec<Gap>, Vec<Gap>) = lost.gaps.drain(..).partition(|gap| gap.reason == "reset");
    assert_eq!(reset.len(), PARTITIONS as usize);
    let gaps = joined(&gaps);
    assert!(gaps.iter().all(|gap| gap.reason == "retention" && gap.from == Seq(0)), "{gaps:?}");
    let all = before.matching("bob", &[filter(&wanted)]);
    assert_eq!(assert_covered("bob", &lost.events, &gaps, &all), 300 - 79);
    producer.publish(&feed::pattern("AAPL", 1)).await;
    lost.until(79 + 1).await;
}

/// A second resume is refused until the first one is complete, and is exact then.
#[tokio::test]
async fn second_resume_is_refused_until_the_first_is_complete() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({});
    let mut other = Socket::connect(gateway, "other", Encoding::Json).await;
    other.subscribe("mine", &wanted).await;
    let producer = cluster.producer().await;
    let events = feed::patterns(0..60);
    let oldest = other.list().await.position;
    producer.publish_all(&events[..40]).await;
    other.catch_up(&cluster.log().await.end()).await;
    let newer = other.list().await.position;
    producer.publish_all(&events[40..]).await;
    let log = cluster.log().await;
    other.catch_up(&log.end()).await;

    // While the router is frozen no backfill arrives.
    cluster.routers[0].process.freeze();
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let resume =
        |position: &str| json!({ "action": "resume", "position": position, "subscriptions": only("mine", &wanted) });
    socket.request(resume(&newer)).await;
    socket.unsubscribe("*").await;
    assert_eq!(socket.refused(resume(&oldest)).await.code, ErrorCode::Unavailable.code());
    cluster.routers[0].process.thaw();
    assert!(socket.caught_up().await.resumed);
    assert_eq!((socket.events.len(), socket.gaps.len()), (0, 0), "there was no subscription any more");
    socket.request(resume(&oldest)).await;
    assert!(socket.caught_up().await.resumed);
    socket.catch_up(&log.end()).await;
    assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&wanted)]));
}

#[tokio::test]
async fn refused_resume_changes_nothing() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    let position = socket.list().await.position.to_string();
    let mut beyond = Position::from_str(&position).unwrap();
    beyond.seqs[3].0 += 10_000_000;
    let resume = |position: &str, subscriptions: Value| json!({ "action": "resume", "position": position, "subscriptions": subscriptions });
    let mine = only("mine", &json!({}));
    let bad_filter = only("mine", &json!({ "symbols": [] }));
    let mut many = serde_json::Map::new();
    for number in 0..101 {
        many.insert(format!("s-{number}"), json!({}));
    }
    // The number of subscriptions is checked before their filters.
    let mut worse = many.clone();
    worse.insert("s-7".to_owned(), json!({ "filter": { "symbols": [] } }));
    let mut seen = resume(&position, mine.clone());
    seen["seen"] = json!({ "77": 3 });
    let cases = [
        (resume("nonsense", mine.clone()), 415),
        (resume(&beyond.to_string(), mine.clone()), 415),
        (seen, 415),
        (resume(&position, bad_filter), 410),
        (resume(&position, Value::Object(many)), 414),
        (resume(&position, Value::Object(worse)), 414),
    ];
    for (frame, code) in cases {
        assert_eq!(socket.refused(frame.clone()).await.code, code, "{frame}");
    }
    assert!(socket.list().await.subscriptions.is_empty());
    socket.subscribe("other", &json!({})).await;
    assert_eq!(socket.refused(resume(&position, mine.clone())).await.code, 413);
    socket.unsubscribe("*").await;
    socket.request(resume(&position, mine)).await;
    assert!(socket.caught_up().await.resumed);
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
    socket.until(1).await;
}
