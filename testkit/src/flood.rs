//! A flood: a publisher that sends to NATS without end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The pause between two writes, each of many messages.
const PAUSE: Duration = Duration::from_millis(5);

/// A flood of messages. It ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    /// Starts to publish these payloads to `subject` in turn, `per_second` messages a second, over its own connection
    /// to the server at `url`.
    pub fn start(url: &str, subject: &str, payloads: &[Vec<u8>], per_second: usize) -> Self {
        let at_once = per_second / (1_000 / PAUSE.as_millis() as usize);
        let address = url.strip_prefix("nats://").expect("the address of a nats-server");
        let mut socket = TcpStream::connect(address).expect("the server listens");
        let mut answers = socket.try_clone().expect("a socket can be cloned");
        let one =
            |payload: &Vec<u8>| [format!("PUB {subject} {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat();
        let some: Vec<u8> = payloads.iter().cycle().take(at_once).flat_map(one).collect();
        let flood = Self { sent: Arc::default(), stop: Arc::default() };
        let (sent, stop) = (Arc::clone(&flood.sent), Arc::clone(&flood.stop));
        thread::spawn(move || while answers.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        thread::spawn(move || {
            let mut is_open = true;
            let login = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
            is_open &= socket.write_all(login).is_ok();
            while is_open && !stop.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
                is_open = socket.write_all(&some).is_ok();
                sent.fetch_add(at_once as u64, Ordering::Relaxed);
            }
            socket.shutdown(Shutdown::Both).ok();
        });
        flood
    }

    /// The number of messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
