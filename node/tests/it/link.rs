//! Our own connection against a real nats-server: unusual bytes, reconnects, logins, refusals.

use crate::nats::{SOON, certificates, config};
use crate::{load, write};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream;
use futures_util::StreamExt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_core::wire;
use tickwire_node::lease::{self, HeldLease, LeaseError, Leases};
use tickwire_node::link::{LinkError, LinkSubscriber, NatsMessage};
use tickwire_node::names;
use tickwire_node::nats::{Nats, NatsError};
use tickwire_node::provision::provision;
use tickwire_testkit::{NatsServer, eventually};
use tokio::time::timeout;

/// A producer with a raw connection, which can send any bytes.
struct RawPeer(TcpStream);

impl RawPeer {
    fn to(server: &NatsServer) -> Self {
        let mut raw = Self(TcpStream::connect(server.url().strip_prefix("nats://").unwrap()).unwrap());
        raw.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n");
        raw
    }

    /// Sends, and waits until the server has read all of it.
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.write_all(b"PING\r\n").unwrap();
        let mut answer = Vec::new();
        // The server may send a PING of its own right after the answer.
        while !answer.windows(6).any(|line| line == b"PONG\r\n") {
            let mut some = [0; 4096];
            let count = self.0.read(&mut some).unwrap();
            assert!(count > 0, "the server closed the connection: {}", answer.escape_ascii());
            answer.extend_from_slice(&some[..count]);
        }
    }

    fn publish(&mut self, subject: &[u8], headers: &[u8], payload: &[u8]) {
        let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len());
        self.send(&[b"HPUB ".as_slice(), subject, sizes.as_bytes(), headers, payload, b"\r\n"].concat());
    }
}

async fn next(inlet: &mut LinkSubscriber) -> NatsMessage {
    timeout(SOON, inlet.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn message_has_the_time_at_which_it_was_read_from_the_connection() {
    let server = NatsServer::start();
    let nats = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let mut inlet = nats.link.subscribe("test", "x", None, 1 << 20).unwrap();
    nats.check().await.unwrap();
    for payload in [b"1", b"2"] {
        let before = tokio::time::Instant::now();
        nats.link.publish("x", None, payload).unwrap();
        // The answer follows the message on this connection.
        nats.link.flush(SOON).await.unwrap();
        let after = tokio::time::Instant::now();
        let message = next(&mut inlet).await;
        assert_eq!(message.payload(), payload);
        assert!(before <= message.arrived() && message.arrived() <= after);
    }
}

#[tokio::test]
async fn any_subject_and_headers_that_the_server_accepts_are_read() {
    let server = NatsServer::start();
    let nats = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let mut all = nats.link.subscribe("test", "x.>", None, 1 << 20).unwrap();
    nats.check().await.unwrap();
    let mut raw = RawPeer::to(&server);
    let subjects: [&[u8]; 6] = [b"x.plain", b"x.\xff", b"x.a\xc2\xa0b", b"x.a\rb", b"x.\x00", b"x.\x0b\x7f"];
    let huge = [b"NATS/1.0\r\nX: ", &vec![b'y'; 900_000][..], b"\r\n\r\n"].concat();
    let blocks: [&[u8]; 16] = [
        b"NATS/1.0\r\nX: a\rb\r\n\r\n",
        b"NATS/1.0\r\nTrace Id: 1\r\n\r\n",
        b"NATS/1.0\r\nX: caf\xe9\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: nameless\r\n\r\n",
        b"NATS/1.0\r\nX: 1\r\n folded\r\n\r\n",
        b"NATS/1.0\r\n\r\n\r\nX: 1\r\n\r\n",
        b"NATS/1.0 100\r\n\r\n",
        b"NATS/1.0 503 nobody\r\n\r\n",
        b"NATS/1.0 what\r\n\r\n",
        b"X: 1\r\n\r\n",
        b"\r\n",
        b"\x00\x00\x00",
        b"x",
        b"MSG x.plain 1 3\r\nabc\r\n",
        &huge,
    ];
    for subject in subjects {
        for block in blocks {
            raw.publish(subject, block, b"payload\r\n");
            let message = next(&mut all).await;
            assert_eq!(message.subject(), subject);
            assert_eq!(message.headers(), Some(block), "{}", block[..block.len().min(40)].escape_ascii());
            assert_eq!(message.payload(), b"payload\r\n");
        }
    }
    assert!(nats.is_connected());
    assert_eq!(all.dropped(), 0);
}

#[tokio::test]
async fn subscriptions_outlive_a_server() {
    let mut server = NatsServer::start();
    let nats = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let mut all = nats.link.subscribe("test", "x.>", None, 1 << 20).unwrap();
    let mut inbox = nats.link.subscribe("test", &nats.link.new_inbox(), None, 1 << 20).unwrap();
    nats.link.publish("x.1", None, b"before").unwrap();
    assert_eq!(next(&mut all).await.payload(), b"before");
    let mut connected = nats.connected();
    server.kill();
    timeout(SOON, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    eventually("the loss is seen", SOON, async || (!nats.link.is_up()).then_some(())).await;
    assert_eq!(nats.link.publish("x.1", None, b"in between"), Err(LinkError::Away));
    let mut late = nats.link.subscribe("test", "y", Some("group"), 1 << 20).unwrap();
    server.restart();
    timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    nats.link.publish("x.2", Some("y"), b"after").unwrap();
    let message = next(&mut all).await;
    assert_eq!((message.payload(), message.reply()), (&b"after"[..], Some(&b"y"[..])));
    nats.link.publish("y", None, b"in a group").unwrap();
    assert_eq!(next(&mut late).await.payload(), b"in a group");
    let nobody = nats.link.new_inbox();
    let mut answers = nats.link.subscribe("test", &nobody, None, 1 << 20).unwrap();
    nats.link.publish("nobody.listens", Some(&nobody), b"").unwrap();
    assert_eq!(next(&mut answers).await.status().unwrap().code, 503);
    nats.close().await.unwrap();
    assert!(inbox.next().await.is_none());
    assert_eq!(nats.link.publish("x.1", None, b""), Err(LinkError::Away));
}

#[tokio::test]
async fn publishes_before_close_arrive_and_a_slow_subscriber_does_not_affect_others() {
    let server = NatsServer::start();
    let sender = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let receiver = Nats::connect(&config(&server.url(), &[]), "gateway", "gw-1").await.unwrap();
    let mut slow = receiver.link.subscribe("slow", "x", None, 10_000).unwrap();
    let mut quick = receiver.link.subscribe("quick", "x", None, 10_000_000).unwrap();
    receiver.check().await.unwrap();
    for number in 0..2_000_u32 {
        sender.link.publish("x", None, number.to_string().as_bytes()).unwrap();
    }
    sender.close().await.unwrap();
    for number in 0..2_000_u32 {
        assert_eq!(next(&mut quick).await.payload(), number.to_string().as_bytes());
    }
    // The answer follows the last message.
    receiver.check().await.unwrap();
    let mut kept = Vec::new();
    slow.next_many(&mut kept, 2_000).await;
    assert_eq!(kept.len() as u64 + slow.dropped(), 2_000);
    assert!(kept.len() < 100);
    let numbers: Vec<_> = kept.iter().map(|message| String::from_utf8_lossy(message.payload()).into_owned()).collect();
    assert_eq!(numbers, (0..kept.len()).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn denied_subscription_fails_the_check_but_the_connection_stays_up() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("nats.conf");
    let user = r#"{ user: bob, password: p, permissions: { subscribe: { deny: ["gw.>"] } } }"#;
    std::fs::write(&file, format!("authorization {{ users: [{user}] }}\n")).unwrap();
    let server = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
    let bob = config(&server.url(), &[("nats.user", "bob"), ("nats.password", "p")]);
    let nats = Nats::connect(&bob, "gateway", "gw-1").await.unwrap();
    let _denied = nats.link.subscribe("test", "gw.gw-1.abc", None, 1000).unwrap();
    match nats.check().await {
        Err(NatsError::Denied { denied, .. }) => assert!(denied.contains("gw.gw-1.abc"), "{denied}"),
        other => panic!("{other:?}"),
    }
    assert!(nats.link.is_up());
}

#[tokio::test]
async fn refusal_for_another_reason_than_a_permission_fails_the_check_but_denies_nothing() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("nats.conf");
    std::fs::write(&file, "max_subscriptions: 10\n").unwrap();
    let server = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
    let nats = Nats::connect(&config(&server.url(), &[]), "gateway", "gw-1").await.unwrap();
    let subscribe = |number: usize| nats.link.subscribe("test", &format!("x.{number}"), None, 1000).unwrap();
    let subscriptions: Vec<LinkSubscriber> = (0..20).map(subscribe).collect();
    match nats.check().await {
        Err(NatsError::Refused { refused, .. }) => {
            assert!(refused.contains("maximum subscriptions exceeded"), "{refused}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(nats.unless_denied(std::future::ready(7)).await.unwrap(), 7);
    drop(subscriptions);
}

#[tokio::test]
async fn certificates_are_used_as_by_the_library_connection() {
    let home = tempfile::tempdir().unwrap();
    certificates(home.path());
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (authority, certificate, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let flags = ["--tlsverify", "--tlscert", &certificate, "--tlskey", &key, "--tlscacert", &authority];
    let server = NatsServer::start_with(&flags);
    let sets = [("nats.tls_ca", authority.as_str()), ("nats.tls_cert", &certificate), ("nats.tls_key", &key)];
    let nats = Nats::connect(&config(&server.url(), &sets), "router", "r1").await.unwrap();
    let mut all = nats.link.subscribe("test", "x", None, 16 << 20).unwrap();
    let payload = vec![b'x'; 1_000_000];
    nats.link.publish("x", None, &payload).unwrap();
    assert_eq!(next(&mut all).await.payload(), payload);
    nats.close().await.unwrap();
}

#[tokio::test]
async fn overwritten_lease_is_readable_and_kept_by_its_owner() {
    let server = NatsServer::start();
    let config = load(&[("nats.url", &server.url())]);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let me = NodeRef { id: NodeId::new("r1").unwrap(), nonce: Nonce(1) };
    let leases = Leases::open(&nats, names::LEASES_BUCKET, me.clone(), SOON).await.unwrap();
    assert_eq!(
        leases.read::<u64>("p.3").await.unwrap(),
        lease::LeaseRead { revision: 0, record: None, is_unreadable: false, is_foreign: false }
    );
    let mut held = HeldLease::new("p.3", me.clone(), leases.write("p.3", 0, true, &7_u64).await.unwrap());
    let read = leases.read::<u64>("p.3").await.unwrap();
    assert_eq!(read.record, Some(lease::LeaseRecord { owner: Some(me), state: 7 }));
    let mut raw = RawPeer::to(&server);
    for headers in
        [&b"NATS/1.0\r\nX: a\rb\r\n\r\n"[..], b"NATS/1.0\r\nno colon\r\n\r\n", b"NATS/1.0\r\nX: \xff\r\n\r\n"]
    {
        raw.publish(b"$KV.TICKWIRE_LEASES.p.3", headers, b"\xc1");
        let read = leases.read::<u64>("p.3").await.unwrap();
        assert_eq!((read.record, read.is_foreign), (None, true));
        write(&leases, "p.3", &mut held, (true, 8_u64)).await.unwrap();
        assert_eq!(leases.read::<u64>("p.3").await.unwrap().record.unwrap().state, 8);
    }
    raw.publish(b"$KV.TICKWIRE_LEASES.p.3", b"NATS/1.0\r\n\r\n", &[wire::VERSION + 1, 7]);
    assert!(leases.read::<u64>("p.3").await.unwrap().is_unreadable);
    let written = write(&leases, "p.3", &mut held, (true, 9_u64)).await;
    assert!(matches!(written, Err(LeaseError::Refused { .. })));
    raw.publish(b"$KV.TICKWIRE_LEASES.p.3", b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", b"");
    assert_eq!(leases.read::<u64>("p.3").await.unwrap().record, None);
    assert!(nats.is_connected());
}

/// The cost of reading a message for this process, with the client library and with our own connection, from the same
/// stream. Run it with `--release -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement without assertions"]
async fn measures_the_cost_of_reading() {
    const COUNT: u64 = 200_000;
    let server = NatsServer::start();
    let nats = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let config = stream::Config { name: "S".to_owned(), subjects: vec!["s.>".to_owned()], ..Default::default() };
    let kept = nats.jetstream.create_stream(config).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    let mut sent = Vec::new();
    for number in 0..COUNT {
        headers.insert("Nats-Msg-Id", format!("id-{number}").as_str());
        sent.push(nats.jetstream.publish_with_headers("s.pattern.AAPL", headers.clone(), vec![b'x'; 300].into()).await);
        if sent.len() == 2_000 {
            for acknowledgement in sent.drain(..) {
                acknowledgement.unwrap().await.unwrap();
            }
        }
    }
    for turn in 0..3 {
        let config = || pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = kept.create_consumer(config()).await.unwrap();
        let (start, before) = (Instant::now(), cpu());
        let mut messages = consumer.stream().max_messages_per_batch(256).messages().await.unwrap().ready_chunks(256);
        let (mut read, mut bytes) = (0, 0);
        while read < COUNT {
            for message in messages.next().await.unwrap() {
                let message = message.unwrap();
                bytes += message.payload.len() + message.headers.as_ref().unwrap().len();
                read = message.info().unwrap().consumer_sequence;
            }
        }
        print_cost("library", turn, COUNT, start, before);

        let mut consumer = kept.create_consumer(config()).await.unwrap();
        let name = consumer.info().await.unwrap().name.clone();
        let (start, before) = (Instant::now(), cpu());
        let inbox = nats.link.new_inbox();
        let mut inlet = nats.link.subscribe("test", &inbox, None, 16 << 20).unwrap();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.S.{name}");
        let (mut read, mut asked, mut received) = (0, 0, Vec::new());
        while read < COUNT {
            while asked <= read + 128 {
                nats.link.publish(&subject, Some(&inbox), br#"{"batch":256,"expires":30000000000}"#).unwrap();
                asked += 256;
            }
            inlet.next_many(&mut received, 256).await;
            for message in received.drain(..) {
                bytes += message.payload().len() + message.headers().unwrap().len();
                let reply = String::from_utf8_lossy(message.reply().unwrap()).into_owned();
                read = reply.rsplit('.').nth(2).unwrap().parse().unwrap();
            }
        }
        print_cost("link", turn, COUNT, start, before);
        assert!(bytes > 0);
    }
}

/// The processor time of this process so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> =
        text.rsplit(") ").next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
    // The state field is not a number, so these are the 14th and 15th fields; a tick is 10 ms.
    Duration::from_millis((fields[10] + fields[11]) as u64 * 10)
}

fn print_cost(what: &str, turn: u32, count: u64, start: Instant, before: Duration) {
    let (wall, used) = (start.elapsed(), cpu() - before);
    let (rate, each) = (count as f64 / wall.as_secs_f64(), used.as_secs_f64() * 1e6 / count as f64);
    println!("{what} {turn}: {rate:.0} messages/s, {each:.2} us of processor time each");
}
