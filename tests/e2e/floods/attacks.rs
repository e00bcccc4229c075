//! The worst that a connection can do at a gateway's door, or at its admin port: before a client says who it is, and
//! after.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::wire::{frame, upgrade};

/// How long a connection of a flood waits for anything.
const PATIENCE: Duration = Duration::from_millis(500);

/// What one connection of a flood does until it breaks, or time is up.
pub(super) type Attack = fn(SocketAddr, &AttackResult) -> Result<()>;

/// What floods and the test tell each other.
#[derive(Debug, Default)]
pub(super) struct AttackResult {
    over: AtomicBool,
    /// Connections that were opened.
    opened: AtomicU64,
}

impl AttackResult {
    /// Floods are to end.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A connection, and what is asked of it first.
    fn open(&self, address: SocketAddr, request: &str) -> Result<TcpStream> {
        // Nobody waits for ever, not even to be heard, or for a place.
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    /// A connection whose answers are read and passed over until it ends.
    fn open_read(&self, address: SocketAddr, request: &str) -> Result<PoorReader> {
        let stream = self.open(address, request)?;
        let mut reading = stream.try_clone()?;
        std::thread::spawn(move || {
            loop {
                match reading.read(&mut [0; 65_536]) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if is_pause(&error) => {}
                    Err(_) => return,
                }
            }
        });
        Ok(PoorReader(stream))
    }

    /// Writes the same over and over, whether or not it is read.
    fn write(&self, stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
        while !self.is_over() {
            match stream.write(bytes) {
                Ok(_) => {}
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens connections that ask for this and say nothing more, and holds so many of them.
    fn hold(&self, address: SocketAddr, request: &str, most: usize) -> Result<()> {
        let mut held = VecDeque::new();
        while !self.is_over() {
            held.push_back(self.open(address, request)?);
            if held.len() > most {
                held.pop_front();
            }
        }
        Ok(())
    }
}

/// A connection that is read by a thread, which ends with it.
struct PoorReader(TcpStream);

impl Drop for PoorReader {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Both).ok();
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Endless fragments of a message that begins with this frame.
fn fragments(address: SocketAddr, query: &str, begin: &[u8], told: &AttackResult) -> Result<()> {
    let mut stream = told.open(address, &upgrade(query, ""))?;
    stream.write_all(begin)?;
    told.write(&mut stream, &frame(0x00, b"").repeat(20_000))
}

/// Frames that are answered, or not, and whose answers are read.
fn frames(address: SocketAddr, query: &str, frame: &[u8], told: &AttackResult) -> Result<()> {
    let mut stream = told.open_read(address, &upgrade(query, ""))?;
    told.write(&mut stream.0, &frame.repeat(65_536 / frame.len() + 1))
}

fn asked_and_read(address: SocketAddr, request: &str, told: &AttackResult) -> Result<()> {
    let mut stream = told.open_read(address, "")?;
    told.write(&mut stream.0, &format!("GET {request} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes().repeat(1_000))
}

/// The beginning of a message that is larger than any that is taken.
fn too_large() -> Vec<u8> {
    [&[0x01, 0x80 | 127][..], &200_000_u64.to_be_bytes(), &[0; 4], &vec![b'x'; 200_000]].concat()
}

/// What is done at the door.
pub(super) const AT_THE_DOOR: &[(&str, Attack)] = &[
    ("empty fragments of a session", |address, told| fragments(address, "?user=eve", &frame(0x01, b""), told)),
    ("empty fragments before authentication", |address, told| fragments(address, "", &frame(0x01, b""), told)),
    ("empty binary fragments of a session", |address, told| fragments(address, "?user=eve", &frame(0x02, b""), told)),
    ("empty fragments of a message that is passed over", |address, told| {
        fragments(address, "?user=eve", &too_large(), told)
    }),
    ("messages that are too large, one after the other", |address, told| {
        let mut last = too_large();
        last[0] |= 0x80;
        frames(address, "?user=eve", &last, told)
    }),
    ("pings of a session", |address, told| frames(address, "?user=eve", &frame(0x89, b"are you there?"), told)),
    ("pings before authentication", |address, told| frames(address, "", &frame(0x89, b"are you there?"), told)),
    ("pongs of a session", |address, told| frames(address, "?user=eve", &frame(0x8a, b""), told)),
    ("pongs before authentication", |address, told| frames(address, "", &frame(0x8a, b""), told)),
    ("frames that are no WebSocket's", |address, told| {
        let mut stream = told.open(address, &upgrade("?user=eve", ""))?;
        told.write(&mut stream, &[0xff; 65_536])
    }),
    ("frames that are no JSON", |address, told| frames(address, "?user=eve", &frame(0x81, b"[[[["), told)),
    ("names and actions of 60,000 characters", |address, told| {
        let long = "x".repeat(60_000);
        let action = frame(0x81, format!("{{\"action\":\"{long}\"}}").as_bytes());
        let field = frame(0x81, format!("{{\"action\":\"list\",\"{long}\":1}}").as_bytes());
        frames(address, "?user=eve", &[action, field].concat(), told)
    }),
    ("bytes one at a time", |address, told| {
        let mut stream = told.open_read(address, &upgrade("?user=eve", ""))?;
        let ping = frame(0x81, b"{\"action\":\"ping\"}");
        while !told.is_over() {
            for byte in &ping {
                stream.0.write_all(&[*byte])?;
            }
        }
        Ok(())
    }),
    ("a page asked for and never read", |address, told| {
        let mut stream = told.open(address, "")?;
        told.write(&mut stream, &b"GET /app.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000))
    }),
    ("a page asked for and read", |address, told| asked_and_read(address, "/app.js", told)),
    ("a home asked for with a wrong token", |address, told| {
        asked_and_read(address, "/v1/connect?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln", told)
    }),
    ("upgrades that say nothing more", |address, told| told.hold(address, &upgrade("", ""), 100)),
    ("upgrades with a wrong token", |address, told| {
        told.hold(address, &upgrade("?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln", ""), 100)
    }),
    ("connections that say nothing", |address, told| told.hold(address, "GET /", 200)),
    ("heads that come a byte at a time", |address, told| {
        let mut held: Vec<TcpStream> = Vec::new();
        let head = upgrade("", "X-Slow: very\r\n");
        for byte in head.as_bytes()[..head.len() - 4].iter().cycle() {
            if told.is_over() {
                return Ok(());
            }
            held.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
            if held.len() < 100 {
                held.push(told.open(address, "GET / HTTP/1.1\r\nX-Slow: ")?);
            }
        }
        Ok(())
    }),
];

/// What is done at the admin port.
pub(super) const AT_THE_ADMIN_PORT: &[(&str, Attack)] = &[
    ("connections to the admin port", |address, told| told.hold(address, "GET /", 200)),
    ("metrics asked for and read", |address, told| asked_and_read(address, "/metrics", told)),
    ("metrics asked for and never read", |address, told| {
        let mut stream = told.open(address, "")?;
        told.write(&mut stream, &b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000))
    }),
    ("readiness asked for and read", |address, told| asked_and_read(address, "/readyz", told)),
];
