//! The worst that a connection can do to a gateway's port or to its admin port, before and after authentication.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::wire::{frame, upgrade};

/// How long a connection of a flood waits for any operation.
const PATIENCE: Duration = Duration::from_millis(500);

/// What one connection of a flood does until it breaks, or the flood ends.
pub(super) type Attack = fn(SocketAddr, &AttackResult) -> Result<()>;

/// The state that floods and the test share.
#[derive(Debug, Default)]
pub(super) struct AttackResult {
    over: AtomicBool,
    /// Connections that were opened.
    opened: AtomicU64,
}

impl AttackResult {
    /// Ends all floods.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Opens a connection and sends the first request.
    fn open(&self, address: SocketAddr, request: &str) -> Result<TcpStream> {
        // Every operation has a timeout, even connecting and writing.
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    /// Opens a connection whose answers are read and ignored until it ends.
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

    /// Writes the same bytes over and over, even if the peer does not read them.
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

    /// Opens connections that send this request and nothing more, and keeps up to `most` of them open.
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

/// A connection whose answers a thread reads. The thread ends with it.
struct PoorReader(TcpStream);

impl Drop for PoorReader {
    fn drop(&mut self) {
        self.0.shutdown(Shutdown::Both).ok();
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Sends endless fragments of a message that begins with this frame.
fn fragments(address: SocketAddr, query: &str, begin: &[u8], result: &AttackResult) -> Result<()> {
    let mut stream = result.open(address, &upgrade(query, ""))?;
    stream.write_all(begin)?;
    result.write(&mut stream, &frame(0x00, b"").repeat(20_000))
}

/// Sends the same frame over and over, and reads any answers.
fn frames(address: SocketAddr, query: &str, frame: &[u8], result: &AttackResult) -> Result<()> {
    let mut stream = result.open_read(address, &upgrade(query, ""))?;
    result.write(&mut stream.0, &frame.repeat(65_536 / frame.len() + 1))
}

fn request_and_read(address: SocketAddr, request: &str, result: &AttackResult) -> Result<()> {
    let mut stream = result.open_read(address, "")?;
    result.write(&mut stream.0, &format!("GET {request} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes().repeat(1_000))
}

/// The first fragment of a message that is larger than the limit.
fn too_large() -> Vec<u8> {
    [&[0x01, 0x80 | 127][..], &200_000_u64.to_be_bytes(), &[0; 4], &vec![b'x'; 200_000]].concat()
}

/// Attacks on the gateway's port.
pub(super) const GATEWAY_ATTACKS: &[(&str, Attack)] = &[
    ("empty fragments of a session", |address, result| fragments(address, "?user=eve", &frame(0x01, b""), result)),
    ("empty fragments before authentication", |address, result| fragments(address, "", &frame(0x01, b""), result)),
    ("empty binary fragments of a session", |address, result| {
        fragments(address, "?user=eve", &frame(0x02, b""), result)
    }),
    ("empty fragments of a message that is skipped", |address, result| {
        fragments(address, "?user=eve", &too_large(), result)
    }),
    ("too large messages, one after the other", |address, result| {
        let mut last = too_large();
        last[0] |= 0x80;
        frames(address, "?user=eve", &last, result)
    }),
    ("pings of a session", |address, result| frames(address, "?user=eve", &frame(0x89, b"are you there?"), result)),
    ("pings before authentication", |address, result| frames(address, "", &frame(0x89, b"are you there?"), result)),
    ("pongs of a session", |address, result| frames(address, "?user=eve", &frame(0x8a, b""), result)),
    ("pongs before authentication", |address, result| frames(address, "", &frame(0x8a, b""), result)),
    ("invalid WebSocket frames", |address, result| {
        let mut stream = result.open(address, &upgrade("?user=eve", ""))?;
        result.write(&mut stream, &[0xff; 65_536])
    }),
    ("frames without JSON", |address, result| frames(address, "?user=eve", &frame(0x81, b"[[[["), result)),
    ("names and actions of 60,000 characters", |address, result| {
        let long = "x".repeat(60_000);
        let action = frame(0x81, format!("{{\"action\":\"{long}\"}}").as_bytes());
        let field = frame(0x81, format!("{{\"action\":\"list\",\"{long}\":1}}").as_bytes());
        frames(address, "?user=eve", &[action, field].concat(), result)
    }),
    ("bytes one at a time", |address, result| {
        let mut stream = result.open_read(address, &upgrade("?user=eve", ""))?;
        let ping = frame(0x81, b"{\"action\":\"ping\"}");
        while !result.is_over() {
            for byte in &ping {
                stream.0.write_all(&[*byte])?;
            }
        }
        Ok(())
    }),
    ("page requests whose answers are not read", |address, result| {
        let mut stream = result.open(address, "")?;
        result.write(&mut stream, &b"GET /app.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000))
    }),
    ("page requests whose answers are read", |address, result| request_and_read(address, "/app.js", result)),
    ("requests for a home with a wrong token", |address, result| {
        request_and_read(address, "/v1/connect?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln", result)
    }),
    ("upgrades without further frames", |address, result| result.hold(address, &upgrade("", ""), 100)),
    ("upgrades with a wrong token", |address, result| {
        result.hold(address, &upgrade("?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln", ""), 100)
    }),
    ("silent connections", |address, result| result.hold(address, "GET /", 200)),
    ("request heads sent a byte at a time", |address, result| {
        let mut held: Vec<TcpStream> = Vec::new();
        let head = upgrade("", "X-Slow: very\r\n");
        for byte in head.as_bytes()[..head.len() - 4].iter().cycle() {
            if result.is_over() {
                return Ok(());
            }
            held.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
            if held.len() < 100 {
                held.push(result.open(address, "GET / HTTP/1.1\r\nX-Slow: ")?);
            }
        }
        Ok(())
    }),
];

/// Attacks on the admin port.
pub(super) const ADMIN_ATTACKS: &[(&str, Attack)] = &[
    ("connections to the admin port", |address, result| result.hold(address, "GET /", 200)),
    ("metrics requests whose answers are read", |address, result| request_and_read(address, "/metrics", result)),
    ("metrics requests whose answers are not read", |address, result| {
        let mut stream = result.open(address, "")?;
        result.write(&mut stream, &b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000))
    }),
    ("readiness requests whose answers are read", |address, result| request_and_read(address, "/readyz", result)),
];
