//! Attacks over NATS: messages of producers, and messages between nodes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tickwire_node::names;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::{Tried, bytes};

/// The pause between two messages, in milliseconds.
const PAUSE_MS: u64 = 20;

/// The pause before the next attempt to connect to NATS.
const AWAY: Duration = Duration::from_millis(300);

/// Stores unreadable messages.
pub(super) async fn events(mut rng: StdRng, nats: String, tried: Arc<Tried>) {
    const SUBJECTS: [&[u8]; 12] = [
        b"events.pattern.AAPL",
        b"events.pattern.ZZZZ",
        b"events.alert.ann",
        b"events.market.US",
        b"events.Pattern.AAPL",
        b"events.pattern.A\xc2\xa0B",
        b"events.pattern.\xff",
        b"events.\xf0\x28\x8c\x28.x",
        b"events.pattern.=zz",
        b"events.a.b.c.d",
        b"events.nothing.AAPL",
        b"events.pattern.\x01\x02",
    ];
    loop {
        if let Some(mut peer) = StrangerPeer::connect(&nats).await {
            loop {
                tried.events.fetch_add(1, Ordering::Relaxed);
                let subject = SUBJECTS.choose(&mut rng).unwrap();
                // Never a valid event: an opening brace alone is not JSON, and no payload here is MessagePack with a
                // pattern.
                let payload = [b"{".to_vec(), bytes::any(&mut rng)].concat();
                if peer.publish(&mut rng, subject, &payload).await.is_none() {
                    break;
                }
                sleep(Duration::from_millis(rng.random_range(0..PAUSE_MS))).await;
            }
        }
        sleep(AWAY).await;
    }
}

/// Sends invalid messages to nodes, on every subject that it has seen them use, and on those that it knows.
pub(super) async fn subjects(mut rng: StdRng, nats: String, tried: Arc<Tried>) {
    let known = [names::REPLAY, names::USERS, names::NODES, names::VIEW];
    let known = known.map(str::to_owned).into_iter().chain([
        names::interest("g"),
        names::interest_beat("g"),
        names::beat("router", "r"),
        names::beat("gateway", "g"),
    ]);
    let seen = Arc::new(Mutex::new(known.collect::<BTreeSet<String>>()));
    loop {
        if let Some(mut peer) = StrangerPeer::connect(&nats).await
            && peer.listen(Arc::clone(&seen)).await.is_some()
        {
            loop {
                tried.peers.fetch_add(1, Ordering::Relaxed);
                let subjects: Vec<String> = seen.lock().unwrap().iter().cloned().collect();
                let subject = subjects.choose(&mut rng).unwrap().clone();
                let payload = bytes::any(&mut rng);
                if peer.publish(&mut rng, subject.as_bytes(), &payload).await.is_none() {
                    break;
                }
                sleep(Duration::from_millis(rng.random_range(0..PAUSE_MS))).await;
            }
        }
        sleep(AWAY).await;
    }
}

/// A connection to NATS with a minimal client.
struct StrangerPeer {
    tcp: TcpStream,
}

impl StrangerPeer {
    async fn connect(nats: &str) -> Option<Self> {
        let mut tcp = TcpStream::connect(nats).await.ok()?;
        let hello =
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n";
        tcp.write_all(hello).await.ok()?;
        Some(Self { tcp })
    }

    /// Records the subjects that nodes use, on a connection of its own, since this one is not read.
    async fn listen(&mut self, seen: Arc<Mutex<BTreeSet<String>>>) -> Option<()> {
        let Self { mut tcp } = Self::connect(&self.tcp.peer_addr().ok()?.to_string()).await?;
        tcp.write_all(b"SUB tw.> 1\r\nSUB gw.> 2\r\n").await.ok()?;
        tokio::spawn(async move {
            let (from, mut to) = tcp.split();
            let (mut from, mut line, mut body) = (BufReader::new(from), Vec::new(), Vec::new());
            loop {
                line.clear();
                if !matches!(from.read_until(b'\n', &mut line).await, Ok(1..)) {
                    return;
                }
                let text = String::from_utf8_lossy(&line);
                let words: Vec<&str> = text.split_whitespace().collect();
                if let ["MSG" | "HMSG", subject, .., length] = &words[..] {
                    seen.lock().unwrap().insert((*subject).to_owned());
                    body.resize(length.parse::<usize>().unwrap_or(0) + 2, 0);
                    if from.read_exact(&mut body).await.is_err() {
                        return;
                    }
                } else if words.first() == Some(&"PING") && to.write_all(b"PONG\r\n").await.is_err() {
                    return;
                }
            }
        });
        Some(())
    }

    /// Publishes with or without headers and reply subject. Returns `None` when the connection has ended.
    async fn publish(&mut self, rng: &mut StdRng, subject: &[u8], payload: &[u8]) -> Option<()> {
        let reply: &[u8] = if rng.random_bool(0.2) { b" nobody.here" } else { b"" };
        let message = if rng.random_bool(0.6) {
            let headers = bytes::headers(rng);
            let sizes = format!(" {} {}\r\n", headers.len(), headers.len() + payload.len()).into_bytes();
            [b"HPUB ", subject, reply, &sizes, &headers, payload, b"\r\nPING\r\n"].concat()
        } else {
            let size = format!(" {}\r\n", payload.len()).into_bytes();
            [b"PUB ", subject, reply, &size, payload, b"\r\nPING\r\n"].concat()
        };
        self.tcp.write_all(&message).await.ok()?;
        // The server's answers are read and ignored. The server closes the connection if it refuses a message.
        let mut answers = vec![0; 4_096];
        match self.tcp.read(&mut answers).await {
            Ok(1..) => Some(()),
            Ok(0) | Err(_) => None,
        }
    }
}
