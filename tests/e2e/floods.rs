//! Nobody's flood is another's delay: while three connections do the worst that they can, another client's events come
//! in time and a new client is served.

use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tickwire_core::frames::Encoding;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::get;
use crate::socket::Socket;
use crate::wire::{frame, upgrade};

/// How many events are timed during a flood.
const EVENTS: usize = 100;

/// How long the slowest of a hundred may take at most. The bar is 50 ms, on a machine that is not busy with other tests.
const MOST: Duration = Duration::from_secs(1);

/// What one connection of a flood does until it breaks, or time is up.
type Attack = fn(SocketAddr, &Told) -> std::io::Result<()>;

/// What floods and the test tell each other.
#[derive(Debug, Default)]
struct Told {
    over: AtomicBool,
    /// Connections that were opened.
    opened: AtomicU64,
}

impl Told {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A connection, and what is asked of it first.
    fn open(&self, address: SocketAddr, request: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        // Nobody waits for ever, not even to be heard.
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(request.as_bytes())?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    /// Writes the same over and over, whether or not it is read.
    fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        while !self.is_over() {
            match stream.write(bytes) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn fragments(address: SocketAddr, query: &str, told: &Told) -> std::io::Result<()> {
    let mut stream = told.open(address, &upgrade(query, ""))?;
    stream.write_all(&frame(0x01, b""))?;
    told.write(&mut stream, &frame(0x00, b"").repeat(20_000))
}

fn pings(address: SocketAddr, query: &str, told: &Told) -> std::io::Result<()> {
    let mut stream = told.open(address, &upgrade(query, ""))?;
    let mut reading = stream.try_clone()?;
    std::thread::spawn(move || while reading.read(&mut [0; 65_536]).is_ok_and(|read| read > 0) {});
    told.write(&mut stream, &frame(0x89, b"are you there?").repeat(5_000))
}

fn asked_and_read(address: SocketAddr, request: &str, told: &Told) -> std::io::Result<()> {
    let mut stream = told.open(address, "")?;
    let mut reading = stream.try_clone()?;
    std::thread::spawn(move || while reading.read(&mut [0; 65_536]).is_ok_and(|read| read > 0) {});
    told.write(&mut stream, &format!("GET {request} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes().repeat(1_000))
}

const ATTACKS: [(&str, Attack); 10] = [
    ("empty fragments of a session", |address, told| fragments(address, "?user=eve", told)),
    ("empty fragments before authentication", |address, told| fragments(address, "", told)),
    ("pings of a session", |address, told| pings(address, "?user=eve", told)),
    ("pings before authentication", |address, told| pings(address, "", told)),
    ("frames that are no WebSocket's", |address, told| {
        let mut stream = told.open(address, &upgrade("?user=eve", ""))?;
        told.write(&mut stream, &[0xff; 65_536])
    }),
    ("a page asked for and never read", |address, told| {
        let mut stream = told.open(address, "")?;
        told.write(&mut stream, &b"GET /app.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000))
    }),
    ("a page asked for and read", |address, told| asked_and_read(address, "/app.js", told)),
    ("a home asked for with a wrong token", |address, told| {
        asked_and_read(address, "/v1/connect?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln", told)
    }),
    ("upgrades that say nothing more", |address, told| {
        let mut held = std::collections::VecDeque::new();
        while !told.is_over() {
            held.push_back(told.open(address, &upgrade("", ""))?);
            if held.len() > 100 {
                held.pop_front();
            }
        }
        Ok(())
    }),
    ("connections that say nothing", |address, told| {
        let mut held = std::collections::VecDeque::new();
        while !told.is_over() {
            held.push_back(told.open(address, "GET /")?);
            if held.len() > 200 {
                held.pop_front();
            }
        }
        Ok(())
    }),
];

/// Three connections, or three that hold many, which come again when they are ended.
fn start(attack: Attack, address: SocketAddr, told: &Arc<Told>) -> Vec<JoinHandle<()>> {
    let flood = |_| {
        let told = Arc::clone(told);
        std::thread::spawn(move || {
            while !told.is_over() {
                if attack(address, &told).is_err() {
                    std::thread::yield_now();
                }
            }
        })
    };
    (0..3).map(flood).collect()
}

#[tokio::test]
async fn while_others_flood_events_come_in_time_and_new_clients_are_served() {
    // Fewer places than the floods take, so that they have to be given up to others.
    let settings = [("gateway.max_connections", "64"), ("gateway.max_unnamed", "64"), ("gateway.window", "0s")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let admin = cluster.gateways[0].address("admin").await;
    let mut good = Socket::connect(gateway, "good", Encoding::Json).await;
    good.subscribe("all", &json!({})).await;
    let producer = cluster.producer().await;
    let doors = ATTACKS.iter().map(|(name, attack)| (*name, *attack, gateway));
    let silent = ATTACKS[ATTACKS.len() - 1].1;
    for (name, attack, address) in doors.chain([("connections to the admin port", silent, admin)]) {
        let told = Arc::new(Told::default());
        let threads = start(attack, address, &told);
        let mut latencies = Vec::new();
        for number in 0..EVENTS {
            let (start, known) = (Instant::now(), good.events.len());
            producer.publish(&feed::pattern("AAPL", number)).await;
            good.until(known + 1).await;
            latencies.push(start.elapsed());
        }
        // One who comes now is let in, and so is one who looks after the node.
        let mut new = Socket::connect(gateway, "new", Encoding::Json).await;
        new.subscribe("all", &json!({})).await;
        assert_eq!(get(admin, "/livez").await.0, 200, "{name}");
        told.over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        latencies.sort_unstable();
        let (p50, p99) = (latencies[EVENTS / 2], latencies[EVENTS * 99 / 100 - 1]);
        println!("{name}: p50 {p50:.1?}, p99 {p99:.1?}, {} connections", told.opened.load(Ordering::Relaxed));
        assert!(p99 <= MOST, "{name}: {p99:?}");
        assert_eq!((good.gaps.len(), good.notices.len()), (0, 0), "{name}: nothing is lost");
    }
}
