//! Somebody who publishes to NATS without end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The pause between two writes of many messages.
const PAUSE: Duration = Duration::from_millis(5);

/// A flood of messages, which ends when this is dropped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    /// Begins to publish these payloads to `subject`, one after the other and so many a second, over a connection of its own
    /// to the server at this address.
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
            let mut goes_on = true;
            let login = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
            goes_on &= socket.write_all(login).is_ok();
            while goes_on && !stop.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
                goes_on = socket.write_all(&some).is_ok();
                sent.fetch_add(at_once as u64, Ordering::Relaxed);
            }
            socket.shutdown(Shutdown::Both).ok();
        });
        flood
    }

    /// How many messages were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
