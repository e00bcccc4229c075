//! No bytes of a producer stop a reader: an unreadable message becomes a dead letter with all its bytes, and every way
//! of reading skips it. Messages of strangers on the subjects between nodes stop no node either.

use async_nats::jetstream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use tickwire_core::event::Timestamp;
use tickwire_core::protocol::Encoding;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::time::timeout;

use crate::cluster::{Cluster, PARTITIONS};
use crate::feed;
use crate::node::DEADLINE;
use crate::oracle::{assert_exact, filter, stored};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// A raw connection to NATS, which can send any bytes.
struct RawPublisher(TcpStream);

impl RawPublisher {
    fn to(cluster: &Cluster) -> Self {
        let mut raw = Self(TcpStream::connect(cluster.nats_url().strip_prefix("nats://").unwrap()).unwrap());
        raw.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n");
        raw
    }

    /// Sends the bytes, and waits until the server has read them.
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(&[bytes, b"PING\r\n"].concat()).unwrap();
        let (mut answer, mut some) = (Vec::new(), [0; 4096]);
        while !answer.windows(6).any(|line| line == b"PONG\r\n") {
            let count = self.0.read(&mut some).unwrap();
            assert!(count > 0, "the server closed the connection: {}", answer.escape_ascii());
            answer.extend_from_slice(&some[..count]);
        }
    }

    fn publish(&mut self, message: &Strange) {
        let Strange { subject, headers, payload, .. } = message;
        match headers {
            None => self.send(
                &[b"PUB ".as_slice(), subject, format!(" {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat(),
            ),
            Some(headers) => {
                let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len());
                self.send(&[b"HPUB ".as_slice(), subject, sizes.as_bytes(), headers, payload, b"\r\n"].concat());
            }
        }
    }
}

struct Strange {
    /// The expected reason of the dead letter, or `None` if it is an event.
    reason: Option<&'static str>,
    subject: Vec<u8>,
    headers: Option<Vec<u8>>,
    payload: Vec<u8>,
}

const AAPL: &[u8] = b"events.pattern.AAPL";

/// All strange messages. Each has its own payload, which identifies its dead letter.
fn strange() -> Vec<Strange> {
    let huge = [b"NATS/1.0\r\nX: \r", &vec![b'y'; 60_000][..], b"\r\n\r\n"].concat();
    let blocks: [&[u8]; 27] = [
        b"NATS/1.0\r\nX: a\rb\r\n\r\n",
        b"NATS/1.0\r\nTrace Id: 1\r\n\r\n",
        b"NATS/1.0\r\nX : 1\r\n\r\n",
        b"NATS/1.0\r\nX: caf\xe9\r\n\r\n",
        b"NATS/1.0\r\nX\xc3\xa9: 1\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: nameless\r\n\r\n",
        b"NATS/1.0\r\n folded from nothing\r\n\r\n",
        b"NATS/1.0\r\n\r\nX: behind an empty line\r\n\r\n",
        b"NATS/1.0\r\nX: a\nY: b\r\n\r\n",
        b"NATS/1.0\r\nX: a\0b\r\n\r\n",
        b"NATS/1.0 what\r\n\r\n",
        b"NATS/1.0 100\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 99999\r\n\r\n",
        b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 1\r\n\r\n",
        b"NATS/1.0 404 Message Not Found\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 256\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0 423\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"HTTP/1.1\r\nX: 1\r\n\r\n",
        b"\x00\x01\x02\x03",
        b"NATS/1.0\r\nX: without an end",
        b"NATS/1.0\nX: 1\n\n",
        b"\r\n\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Subject: ev.0.x\r\nX:\r\r\n\r\n",
        &huge,
    ];
    let subjects: [(&str, &[u8]); 7] = [
        ("bad_key", b"events.pattern.A\xc2\xa0B"),
        ("bad_subject", b"events.pattern.\xff"),
        ("bad_subject", b"events.pat\xfftern.AAPL"),
        ("bad_subject", b"events.a.b.\xff"),
        ("bad_subject", b"events.a.b.c"),
        ("bad_key", b"events.pattern.A\x01B"),
        ("bad_key", b"events.pattern.A\rB"),
    ];
    // The server removes the status before it stores a block, and the rest of these blocks is valid.
    let reason = |block: &[u8]| (!block.starts_with(b"NATS/1.0 ")).then_some("bad_headers");
    let block = |headers: &[u8]| (reason(headers), AAPL.to_vec(), Some(headers.to_vec()));
    let subject = |headers: Option<&[u8]>| {
        let headers = headers.map(<[u8]>::to_vec);
        move |(reason, subject): (&'static str, &[u8])| (Some(reason), subject.to_vec(), headers.clone())
    };
    let all = blocks.into_iter().map(block);
    let all = all.chain(subjects.into_iter().map(subject(None)));
    let all = all.chain(subjects.into_iter().map(subject(Some(b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n"))));
    let numbered = |(number, (reason, subject, headers)): (usize, (_, _, Option<Vec<u8>>))| {
        // Each needs its own id, or the stream takes it for a duplicate.
        let headers = headers.map(|headers| match headers.ends_with(b"Nats-Msg-Id: x\r\n\r\n") {
            true => format!("NATS/1.0\r\nNats-Msg-Id: x{number}\r\n\r\n").into_bytes(),
            false => headers,
        });
        let payload = format!(r#"{{"pattern":"Doji","id":"strange {number}"}}"#).into_bytes();
        Strange { reason, subject, headers, payload }
    };
    all.enumerate().map(numbered).collect()
}

fn good(key: &str, id: &str) -> ProducerMessage {
    ProducerMessage::json("pattern", key, &json!({ "pattern": "Doji", "id": id }))
}

fn ids(socket: &Socket) -> Vec<String> {
    socket.events.iter().map(|event| event.id.to_string()).collect()
}

fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(now.as_millis()).unwrap())
}

#[tokio::test]
async fn strange_message_stops_no_reader() {
    let mut cluster = Cluster::start(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "symbols": ["AAPL", "MSFT"] });
    let subscriptions = json!({ "mine": { "filter": wanted } });
    let mut live = Socket::connect(gateway, "ann", Encoding::Json).await;
    live.subscribe("mine", &wanted).await;
    let mut back = Socket::connect(gateway, "bob", Encoding::Json).await;
    back.subscribe("mine", &wanted).await;

    let (producer, mut raw, strange) = (cluster.producer().await, RawPublisher::to(&cluster), strange());
    let mut expected = Vec::new();
    // The time of every strange message, for `since`.
    let mut times = Vec::new();
    for (number, message) in strange.iter().enumerate() {
        times.push((now(), expected.len()));
        raw.publish(message);
        if message.reason.is_none() {
            expected.push(format!("strange {number}"));
        }
        for key in ["AAPL", "MSFT"] {
            let id = format!("{key} {number}");
            producer.publish(&good(key, &id)).await;
            expected.push(id);
        }
    }

    live.until(expected.len()).await;
    assert_eq!(by_key(&ids(&live)), by_key(&expected), "live");
    assert_eq!(live.gaps, []);
    back.resume(gateway, "bob", &subscriptions).await;
    assert!(back.caught_up().await.resumed);
    assert_eq!(by_key(&ids(&back)), by_key(&expected), "resumed");
    assert_eq!(back.gaps, []);

    // Each strange message is once the first one of a backfill.
    for (number, (at, first)) in times.iter().enumerate() {
        let mut socket = Socket::connect(gateway, "carl", Encoding::Json).await;
        let frame = json!({ "action": "subscribe", "name": "mine", "filter": wanted, "since": at.to_string() });
        socket.request(frame).await;
        assert!(socket.caught_up().await.resumed, "{number}: {:?}", socket.gaps);
        let arrived: BTreeSet<String> = ids(&socket).into_iter().collect();
        let missing: Vec<_> = expected[*first..].iter().filter(|id| !arrived.contains(*id)).collect();
        assert_eq!(missing, [""; 0], "since {number}");
    }

    let dead = strange.iter().filter(|message| message.reason.is_some()).count();
    let dead_letters = eventually("every dead letter is stored", DEADLINE, async || {
        let dead_letters = stored(&cluster.client, names::DEAD_LETTERS).await;
        (dead_letters.len() >= dead).then_some(dead_letters)
    })
    .await;
    assert_eq!(dead_letters.len(), dead);
    // A block that is too large for a header is in front of the payload.
    let parts = |dead_letter: async_nats::jetstream::Message| {
        let bytes = dead_letter.headers.as_ref().unwrap().get("Tickwire-Headers-Bytes").map(|count| count.as_str());
        let block = bytes.map_or(0, |count| count.parse().unwrap());
        (dead_letter.payload[block..].to_vec(), dead_letter)
    };
    let mut dead_letters: BTreeMap<Vec<u8>, _> = dead_letters.into_iter().map(parts).collect();
    for Strange { reason, subject, headers, payload } in strange.iter().filter(|message| message.reason.is_some()) {
        let dead_letter =
            dead_letters.remove(payload).unwrap_or_else(|| panic!("no dead letter for {}", payload.escape_ascii()));
        let fields = dead_letter.headers.as_ref().unwrap();
        let header = |name: &str| fields.get(name).map(|value| value.as_str());
        let bytes = |name: &str| header(name).map(|text| STANDARD.decode(text).unwrap());
        assert_eq!(header("Tickwire-Reason"), *reason, "{}", payload.escape_ascii());
        let before = dead_letter.payload.len() - payload.len();
        let block = bytes("Tickwire-Headers-Base64").or((before > 0).then(|| dead_letter.payload[..before].to_vec()));
        assert_eq!(block.as_ref(), headers.as_ref());
        let kept = bytes("Tickwire-Subject-Base64").unwrap_or_else(|| header("Tickwire-Subject").unwrap().into());
        let tail = subject.rsplit(|byte| *byte == b'.').next().unwrap();
        assert!(kept.ends_with(tail), "{} of {}", kept.escape_ascii(), subject.escape_ascii());
    }

    for router in &mut cluster.routers {
        eventually("the router is ready", DEADLINE, async || (router.readyz().await.0 == 200).then_some(())).await;
        let metrics = router.metrics().await;
        assert_eq!(metrics.get("tickwire_router_leader_reads_total"), 0.0);
        assert_eq!(metrics.get_labelled("tickwire_nats_events_total", r#"event="disconnected""#), 0.0);
    }
}

/// The ids of each key, in order.
fn by_key(ids: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let mut keys = BTreeMap::<&str, Vec<&str>>::new();
    for id in ids {
        keys.entry(id.split(' ').next().unwrap()).or_default().push(id);
    }
    keys
}

#[tokio::test]
async fn strange_message_between_nodes_stops_no_node() {
    let mut cluster = Cluster::start(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &json!({})).await;
    // The names and nonces of nodes are not secret: any subscriber receives them.
    let mut gateways = BTreeSet::new();
    let mut gateway_messages = cluster.client.subscribe("gw.>").await.unwrap();
    while gateways.is_empty() {
        let message = tokio::time::timeout(DEADLINE, futures_util::StreamExt::next(&mut gateway_messages))
            .await
            .unwrap()
            .unwrap();
        gateways.extend(names::parse_gateway(&message.subject).map(|(id, nonce)| (id.to_owned(), nonce.to_owned())));
    }
    // The test's own connection would not survive the following messages.
    drop(gateway_messages);
    cluster.client.flush().await.unwrap();
    let mut subjects = vec![
        names::interest("g"),
        names::interest_beat("g"),
        names::VIEW.to_owned(),
        names::REPLAY.to_owned(),
        names::USERS.to_owned(),
        names::NODES.to_owned(),
        names::beat("router", "r"),
        names::beat("gateway", "g"),
    ];
    for (id, nonce) in &gateways {
        subjects.extend([names::gateway(id, nonce), names::snapshot(id, nonce), names::replayed(id, nonce, 7)]);
    }
    let mut raw = RawPublisher::to(&cluster);
    for subject in &subjects {
        for headers in [
            &b"NATS/1.0\r\nX: a\rb\r\n\r\n"[..],
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"\xff\xff\xff",
        ] {
            for payload in [&b""[..], b"\xc1\xff", b"{}"] {
                let subject = [subject.as_bytes(), b" reply.a\rb"].concat();
                raw.publish(&Strange {
                    reason: None,
                    subject,
                    headers: Some(headers.to_vec()),
                    payload: payload.to_vec(),
                });
            }
        }
    }
    let producer = cluster.producer().await;
    for number in 0..20 {
        producer.publish(&good("AAPL", &format!("AAPL {number}"))).await;
    }
    socket.until(20).await;
    assert_eq!(ids(&socket), (0..20).map(|number| format!("AAPL {number}")).collect::<Vec<_>>());
    assert_eq!(socket.gaps, []);
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        eventually("the node is ready", DEADLINE, async || (node.readyz().await.0 == 200).then_some(())).await;
        let metrics = node.metrics().await;
        for event in ["disconnected", "link_closed", "link_error", "link_unreadable_line", "link_panic"] {
            let count = metrics.get_labelled("tickwire_nats_events_total", &format!("event=\"{event}\""));
            assert_eq!(count, 0.0, "{event}");
        }
    }
}

/// A producer names the subject of the acknowledgement, and the server publishes it there without checking the
/// producer's permissions, even to the leases of routers. No owner loses a lease by that.
#[tokio::test]
async fn acknowledgements_sent_to_leases_take_no_lease() {
    const ROUNDS: usize = 3;
    // Long enough that no owner is late on a busy machine: a lost lease then proves that the overwriting took it.
    let mut cluster = Cluster::start_with(2, 1, &[("membership.lease_ttl", "10s")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    cluster.settled().await;
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &json!({})).await;
    let producer = cluster.producer().await;
    let leases = (0..PARTITIONS).map(names::lease_key).chain([names::CATCH_ALL_KEY.to_owned()]);
    let keys = leases.map(|key| (names::LEASES_BUCKET, key));
    let keys: Vec<_> = keys.chain([(names::VIEW_BUCKET, names::COORDINATOR_KEY.to_owned())]).collect();
    let jetstream = jetstream::new(cluster.client.clone());
    let mut written = cluster.client.subscribe("$KV.>").await.unwrap();
    let is_acknowledgement = |payload: &[u8]| payload.starts_with(b"{");
    for round in 1..=ROUNDS {
        for (bucket, key) in &keys {
            let (subject, payload) = (format!("$KV.{bucket}.{key}"), feed::pattern("AAPL", round).payload().clone());
            cluster.client.publish_with_reply("events.pattern.AAPL", subject, payload).await.unwrap();
        }
        producer.publish(&feed::pattern("SPY", round)).await;
        let mut overwritten = 0;
        while overwritten < keys.len() {
            let message = timeout(DEADLINE, written.next()).await.expect("leases are overwritten").unwrap();
            overwritten += usize::from(is_acknowledgement(&message.payload));
        }
        // Each owner detects it when it renews its lease, and writes the lease again.
        for (bucket, key) in &keys {
            let stream = jetstream.get_stream(format!("KV_{bucket}")).await.unwrap();
            let subject = format!("$KV.{bucket}.{key}");
            let is_node = async || {
                let last = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
                (!is_acknowledgement(&last.payload)).then_some(())
            };
            eventually("the owner has written its lease again", DEADLINE, is_node).await;
        }
    }
    let mut found = 0.0;
    for router in &mut cluster.routers {
        found += router.metrics().await.get("tickwire_overwritten_leases_total");
    }
    assert!(found >= keys.len() as f64, "{found}");
    let published = ROUNDS * (keys.len() + 1);
    let log = eventually("the stream holds all events", DEADLINE, async || {
        Some(cluster.log().await).filter(|log| log.entries.len() == published)
    });
    let log = log.await;
    socket.catch_up(&log.end()).await;
    assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
    for router in &mut cluster.routers {
        assert_eq!(router.metrics().await.get("tickwire_router_leases_lost_total"), 0.0);
    }
    cluster.settled().await;
}
