//! Damaged disks: files of the stream are changed while the NATS server is stopped.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use tickwire_core::ids::Seq;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Gap};
use tickwire_testkit::eventually;

use super::tools::{is_full, report};
use crate::cluster::{Cluster, PARTITIONS};
use crate::feed::SYMBOLS;
use crate::node::DEADLINE;
use crate::oracle::{Log, assert_covered, assert_exact, filter};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// The file with the stream's first messages.
const BLOCK: &str = "1.blk";

/// The number of events.
const EVENTS: usize = 4_600;

/// Overwrites bytes of the payload of this event, in its file. (If the length of a message is damaged, NATS drops all
/// that follows: the stream has lost its end.)
fn overwrite(block: &Path, number: usize, bytes: usize, rng: &mut StdRng) {
    let mut content = fs::read(block).unwrap();
    let mark = mark(number);
    let at = content.windows(mark.len()).position(|window| window == mark.as_bytes()).unwrap();
    rng.fill_bytes(&mut content[at..at + bytes]);
    fs::write(block, content).unwrap();
}

fn mark(number: usize) -> String {
    format!("event {number}.")
}

fn events(count: usize) -> Vec<ProducerMessage> {
    let event = |number: usize| {
        let note = format!("{}{}", mark(number), " ".repeat(200));
        let symbol = SYMBOLS[number % SYMBOLS.len()];
        ProducerMessage::json("pattern", symbol, &json!({ "pattern": "BreakoutBO", "confidence": 0.5, "note": note }))
    };
    (0..count).map(event).collect()
}

/// A cluster with the default configuration, the events of its stream, and a position before all of them.
async fn cluster_with_events() -> (Cluster, Log, String) {
    // With one gateway no session is sent elsewhere.
    let mut cluster = Cluster::start_with_defaults(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::open(gateway, &cluster.query("ann"), Encoding::Json).await;
    socket.welcome().await;
    let position = socket.subscribe("mine", &json!({})).await.position;
    cluster.producer().await.publish_all(&events(EVENTS)).await;
    let log = cluster.log().await;
    assert_eq!(log.entries.len(), EVENTS);
    (cluster, log, position.to_string())
}

/// Stops the NATS server, changes the stream's files, restarts it, and waits until the cluster is ready.
async fn with_nats_stopped(cluster: &mut Cluster, change: impl FnOnce(&Path)) {
    cluster.nats[0].terminate();
    change(&cluster.nats[0].messages_of("EVENTS"));
    cluster.nats[0].restart();
    cluster.settled().await;
}

/// Opens a session that resumes or uses `since`, and waits for its `caught_up`.
async fn reconnect(gateway: SocketAddr, query: &str, frame: &Value) -> Socket {
    let mut socket = Socket::open(gateway, query, Encoding::MsgPack).await;
    socket.welcome().await;
    socket.request(frame.clone()).await;
    socket.caught_up().await;
    socket
}

fn resume(position: &str) -> Value {
    json!({ "action": "resume", "position": position, "subscriptions": { "mine": { "filter": {} } } })
}

/// The number of missing messages that all routers have counted.
async fn missing(cluster: &mut Cluster) -> f64 {
    let mut missing = 0.0;
    for router in &mut cluster.routers {
        missing += router.metrics().await.get("tickwire_router_missing_messages_total");
    }
    missing
}

#[tokio::test]
async fn damaged_events_become_gaps_and_all_others_are_delivered() {
    // The event and the number of damaged bytes: in the middle, the first, the last, two in a row.
    let all = [(2_300, 64), (0, 1), (EVENTS - 1, 64), (1_000, 4), (1_001, 4)];
    let parts = if is_full() { &all[..] } else { &all[..1] };
    let (mut cluster, log, position) = cluster_with_events().await;
    let mut rng = StdRng::seed_from_u64(17);
    let (mut lost, mut gap_count) = (BTreeSet::new(), 0);
    for (number, bytes) in parts {
        with_nats_stopped(&mut cluster, |files| overwrite(&files.join(BLOCK), *number, *bytes, &mut rng)).await;
        let there: BTreeSet<Seq> = cluster.log().await.entries.iter().map(|entry| entry.seq).collect();
        lost.extend(log.entries.iter().map(|entry| entry.seq).filter(|seq| !there.contains(seq)));
        assert!(!lost.is_empty(), "NATS reads around what is damaged");

        let gateways = cluster.gateway_addresses().await;
        let narrow = json!({ "symbols": [SYMBOLS[0]] });
        let since = json!({ "action": "subscribe", "name": "mine", "filter": {}, "since": "30m" });
        let one = json!({ "action": "subscribe", "name": "mine", "filter": narrow, "since": "30m" });
        let cases = [("ann", resume(&position), json!({})), ("bob", since, json!({})), ("carl", one, narrow)];
        for (user, frame, wanted) in cases {
            for gateway in &gateways {
                let socket = reconnect(*gateway, &cluster.query(user), &frame).await;
                let expected = log.matching(user, &[filter(&wanted)]);
                let hit = expected.iter().filter(|entry| lost.contains(&entry.seq)).count();
                assert_eq!(assert_covered(user, &socket.events, &socket.gaps, &expected), hit, "{user}");
                // The gap has the right reason and range.
                let is_exact = |gap: &Gap| gap.reason == "damaged" && lost.contains(&gap.to);
                assert!(socket.gaps.iter().all(is_exact), "{user}: {:?}", socket.gaps);
                gap_count += socket.gaps.len();
            }
        }
        let all = lost.len() as f64;
        eventually("routers say what is missing, each once", DEADLINE, async || {
            let missing = missing(&mut cluster).await;
            assert!(missing <= 2.0 * all, "{missing} of {all}");
            (missing >= all).then_some(())
        })
        .await;
    }
    let lines = |text: &str| text.matches("messages missing from the stream").count();
    let log_lines: usize = cluster.routers.iter().map(|one| lines(&one.process.stderr())).sum();
    assert!((1..=2 * parts.len()).contains(&log_lines), "logged {log_lines} times");
    // Live events continue without a gap.
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::open(gateway, &cluster.query("dora"), Encoding::Json).await;
    socket.welcome().await;
    socket.subscribe("mine", &json!({})).await;
    cluster.producer().await.publish_all(&events(60)).await;
    socket.until(60).await;
    assert_eq!(socket.gaps, []);
    report(
        "damaged storage",
        &format!("{} of {EVENTS} events lost by {} damages, {gap_count} gaps, no silent loss", lost.len(), parts.len()),
    );
}

#[tokio::test]
async fn stream_that_lost_its_end_delivers_all_remaining_events() {
    let (mut cluster, log, position) = cluster_with_events().await;
    with_nats_stopped(&mut cluster, |files| {
        let block = fs::OpenOptions::new().write(true).open(files.join(BLOCK)).unwrap();
        block.set_len(block.metadata().unwrap().len() * 4 / 5).unwrap();
        fs::remove_file(files.join("index.db")).unwrap();
    })
    .await;
    let left = cluster.log().await;
    assert!(left.entries.len() < EVENTS && left.entries.len() > EVENTS / 2, "{}", left.entries.len());
    let producer = cluster.producer().await;
    producer.publish_all(&events(200)).await;
    let now = cluster.log().await;
    let gateways = cluster.gateway_addresses().await;
    for gateway in &gateways {
        // What arrives after a client has resumed counts for its rate, and may be conflated.
        eventually("the gateway knows that the stream has lost its end, and all events", DEADLINE, async || {
            let mut socket = Socket::open(*gateway, &cluster.query("eve"), Encoding::Json).await;
            socket.welcome().await;
            let here = socket.subscribe("mine", &json!({})).await.position;
            let epoch_id = |position: &str| Position::from_str(position).unwrap().epoch_id;
            (epoch_id(&here) > epoch_id(&position) && now.end().is_reached(&here)).then_some(())
        })
        .await;
    }
    // A position from the beginning, and one within the lost range.
    let amid = {
        let mut amid = Position::from_str(&position).unwrap();
        amid.seqs.fill(log.entries[EVENTS - 100].seq);
        amid.to_string()
    };
    for (user, position, begin) in [("ann", &position, Seq(0)), ("bob", &amid, left.entries.last().unwrap().seq)] {
        for gateway in &gateways {
            let mut socket = reconnect(*gateway, &cluster.query(user), &resume(position)).await;
            socket.catch_up(&now.end()).await;
            let resets: Vec<_> = socket.gaps.iter().filter(|gap| gap.reason == "reset").collect();
            assert_eq!((resets.len(), socket.gaps.len()), (PARTITIONS as usize, PARTITIONS as usize), "{user}");
            let expected = now.matching(user, &[filter(&json!({}))]);
            let expected: Vec<_> = expected.into_iter().filter(|entry| entry.seq > begin).collect();
            assert_exact(user, &socket.events, &[], &expected);
            if user == "ann" {
                assert_eq!(expected.len(), left.entries.len() + 200);
            }
        }
    }
    report("lost end", &format!("{} of {EVENTS} events left, all given", left.entries.len()));
}
