//! Disks that damage what NATS has stored: files of the stream are changed while the server is stopped.

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
use crate::producer::Outgoing;
use crate::socket::Socket;

/// The file with the stream's first messages.
const BLOCK: &str = "1.blk";

/// So many events there are.
const EVENTS: usize = 4_600;

/// Overwrites bytes of the payload of the event of this number, in the file that holds it. (Where the length of a message
/// is damaged NATS forgets all that follows: the stream has lost its end.)
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

fn events(count: usize) -> Vec<Outgoing> {
    let event = |number: usize| {
        let note = format!("{}{}", mark(number), " ".repeat(200));
        let symbol = SYMBOLS[number % SYMBOLS.len()];
        Outgoing::json("pattern", symbol, &json!({ "pattern": "BreakoutBO", "confidence": 0.5, "note": note }))
    };
    (0..count).map(event).collect()
}

/// A cluster as it ships, the events that its stream holds, and a position before all of them.
async fn cluster_with_a_past() -> (Cluster, Log, String) {
    // With one gateway nobody is sent to another one.
    let mut cluster = Cluster::start_shipped(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::open(gateway, &cluster.query("ann"), Encoding::Json).await;
    socket.welcome().await;
    let position = socket.subscribe("mine", &json!({})).await.position;
    cluster.producer().await.publish_all(&events(EVENTS)).await;
    let log = cluster.log().await;
    assert_eq!(log.entries.len(), EVENTS);
    (cluster, log, position.to_string())
}

/// Stops the server of NATS, lets something happen to the stream's files, and waits until all is as it was.
async fn with_nats_stopped(cluster: &mut Cluster, happen: impl FnOnce(&Path)) {
    cluster.nats[0].terminate();
    happen(&cluster.nats[0].messages_of("EVENTS"));
    cluster.nats[0].restart();
    cluster.settled().await;
}

/// A session that goes on from a position, or looks back, until it has caught up.
async fn come_back(gateway: SocketAddr, query: &str, frame: &Value) -> Socket {
    let mut socket = Socket::open(gateway, query, Encoding::MsgPack).await;
    socket.welcome().await;
    socket.request(frame.clone()).await;
    socket.caught_up().await;
    socket
}

fn resume(position: &str) -> Value {
    json!({ "action": "resume", "position": position, "subscriptions": { "mine": { "filter": {} } } })
}

/// How many sequences all routers miss together.
async fn missing(cluster: &mut Cluster) -> f64 {
    let mut missing = 0.0;
    for router in &mut cluster.routers {
        missing += router.metrics().await.get("tickwire_router_missing_messages_total");
    }
    missing
}

#[tokio::test]
async fn an_event_whose_storage_is_damaged_is_told_and_all_others_are_given() {
    // Which event, and how many bytes of it: in the middle, the first, the last, two in a row.
    let all = [(2_300, 64), (0, 1), (EVENTS - 1, 64), (1_000, 4), (1_001, 4)];
    let parts = if is_full() { &all[..] } else { &all[..1] };
    let (mut cluster, log, position) = cluster_with_a_past().await;
    let mut rng = StdRng::seed_from_u64(17);
    let (mut lost, mut told) = (BTreeSet::new(), 0);
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
                let socket = come_back(*gateway, &cluster.query(user), &frame).await;
                let expected = log.matching(user, &[filter(&wanted)]);
                let hit = expected.iter().filter(|entry| lost.contains(&entry.seq)).count();
                assert_eq!(assert_covered(user, &socket.events, &socket.gaps, &expected), hit, "{user}");
                // It is told just where it is, and for what it is.
                let is_exact = |gap: &Gap| gap.reason == "damaged" && lost.contains(&gap.to);
                assert!(socket.gaps.iter().all(is_exact), "{user}: {:?}", socket.gaps);
                told += socket.gaps.len();
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
    let said: usize =
        cluster.routers.iter().map(|one| one.process.stderr().matches("the stream lacks messages").count()).sum();
    assert!((1..=2 * parts.len()).contains(&said), "said {said} times");
    // What is live goes on without a gap.
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::open(gateway, &cluster.query("dora"), Encoding::Json).await;
    socket.welcome().await;
    socket.subscribe("mine", &json!({})).await;
    cluster.producer().await.publish_all(&events(60)).await;
    socket.until(60).await;
    assert_eq!(socket.gaps, []);
    report(
        "damaged storage",
        &format!("{} of {EVENTS} events lost by {} damages, {told} gaps told, none silent", lost.len(), parts.len()),
    );
}

#[tokio::test]
async fn of_a_stream_that_lost_its_end_all_that_it_still_has_is_given() {
    let (mut cluster, log, position) = cluster_with_a_past().await;
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
        eventually("the gateway knows that the stream has lost its end", DEADLINE, async || {
            let mut socket = Socket::open(*gateway, &cluster.query("eve"), Encoding::Json).await;
            socket.welcome().await;
            let now = socket.subscribe("mine", &json!({})).await.position;
            let epoch_id = |position: &str| Position::from_str(position).unwrap().epoch_id;
            (epoch_id(&now) > epoch_id(&position)).then_some(())
        })
        .await;
    }
    // The position that a session had at the very beginning, and one amid what was lost.
    let amid = {
        let mut amid = Position::from_str(&position).unwrap();
        amid.seqs.fill(log.entries[EVENTS - 100].seq);
        amid.to_string()
    };
    for (user, position, begin) in [("ann", &position, Seq(0)), ("bob", &amid, left.entries.last().unwrap().seq)] {
        for gateway in &gateways {
            let mut socket = come_back(*gateway, &cluster.query(user), &resume(position)).await;
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
