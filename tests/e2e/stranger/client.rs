//! Attacks on the interfaces of clients: sockets before and after upgrade and authentication, and plain HTTP.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Tried, bytes};

/// How long one connection is kept, in milliseconds.
const KEPT_MS: u64 = 200;

/// The pause between two connections, in milliseconds.
const PAUSE_MS: u64 = 20;

/// Opens one socket after the other: some never send HTTP, some never authenticate, some authenticate and continue.
pub(super) async fn sockets(mut rng: StdRng, gateways: Arc<Mutex<Vec<SocketAddr>>>, query: String, tried: Arc<Tried>) {
    loop {
        let gateway = gateways.lock().unwrap().choose(&mut rng).copied();
        if let Some(gateway) = gateway {
            tried.sockets.fetch_add(1, Ordering::Relaxed);
            let pieces = socket_pieces(&mut rng, &query);
            send_pieces(&mut rng, gateway, pieces).await;
        }
        sleep(Duration::from_millis(rng.random_range(0..PAUSE_MS))).await;
    }
}

/// Sends one batch of requests after the other, and often reads no answer.
pub(super) async fn requests(mut rng: StdRng, servers: Arc<Mutex<Vec<SocketAddr>>>, tried: Arc<Tried>) {
    const PATHS: [&str; 12] = [
        "/",
        "/app.js",
        "/style.css",
        "/v1/stream",
        "/v1/connect",
        "/v1/connect?user=%ff",
        "/metrics",
        "/readyz",
        "/livez",
        "/../../etc/passwd",
        "/v1/stream?token=x&user=y",
        "*",
    ];
    const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "CONNECT", "get", "\0"];
    loop {
        let server = servers.lock().unwrap().choose(&mut rng).copied();
        if let Some(server) = server {
            tried.requests.fetch_add(1, Ordering::Relaxed);
            let mut pieces = Vec::new();
            for _ in 0..rng.random_range(1..200) {
                let (method, path) = (METHODS.choose(&mut rng).unwrap(), PATHS.choose(&mut rng).unwrap());
                let headers = "Host: x\r\nOrigin: http://x\r\nAuthorization: bearer x\r\nX-Forwarded-For: 1.2.3.4\r\n";
                pieces.extend(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n").into_bytes());
            }
            let pieces = if rng.random_bool(0.4) { bytes::spoiled(&mut rng, pieces) } else { pieces };
            send_pieces(&mut rng, server, vec![pieces]).await;
        }
        sleep(Duration::from_millis(rng.random_range(0..PAUSE_MS))).await;
    }
}

/// The bytes to send on a socket, in pieces.
fn socket_pieces(rng: &mut StdRng, query: &str) -> Vec<Vec<u8>> {
    if rng.random_bool(0.1) {
        return vec![bytes::any(rng)];
    }
    let query = if rng.random_bool(0.6) { query } else { "" };
    let protocol = ["tickwire.v1.json", "tickwire.v1.msgpack"].choose(rng).unwrap();
    let upgrade = format!(
        "GET /v1/stream{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    let upgrade = upgrade.into_bytes();
    let mut pieces = vec![if rng.random_bool(0.1) { bytes::spoiled(rng, upgrade) } else { upgrade }];
    for _ in 0..rng.random_range(0..40) {
        pieces.push(frame(rng));
    }
    pieces
}

/// A WebSocket frame, valid or not.
fn frame(rng: &mut StdRng) -> Vec<u8> {
    let payload = match rng.random_range(0..6) {
        0 => bytes::any(rng),
        1 => Vec::new(),
        2 => rmp_serde::to_vec_named(&bytes::action(rng)).unwrap(),
        3 => {
            let action = bytes::action(rng).to_string().into_bytes();
            bytes::spoiled(rng, action)
        }
        _ => bytes::action(rng).to_string().into_bytes(),
    };
    let opcode = if rng.random_bool(0.7) { [1, 2].choose(rng).copied().unwrap() } else { rng.random_range(0..16) };
    let fin = if rng.random_bool(0.9) { 0x80 } else { 0 };
    let reserved = if rng.random_bool(0.02) { 0x40 } else { 0 };
    let mut frame = vec![fin | reserved | opcode];
    let mask = if rng.random_bool(0.97) { 0x80 } else { 0 };
    let length = if rng.random_bool(0.03) { rng.next_u64() as usize } else { payload.len() };
    match length {
        0..126 => frame.push(mask | length as u8),
        126..65_536 => {
            frame.push(mask | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if mask != 0 {
        // A mask of zeros does not change the payload.
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    frame
}

/// Sends all pieces, reads some of the answers or none, and ends without a close.
async fn send_pieces(rng: &mut StdRng, server: SocketAddr, pieces: Vec<Vec<u8>>) {
    let (reads, kept) = (rng.random_bool(0.5), Duration::from_millis(rng.random_range(0..KEPT_MS)));
    let exchange = async {
        let Ok(mut tcp) = TcpStream::connect(server).await else { return };
        let (mut from, mut to) = tcp.split();
        let speak = async {
            for piece in pieces {
                if to.write_all(&piece).await.is_err() {
                    break;
                }
            }
            sleep(kept).await;
        };
        let listen = async {
            let mut answer = vec![0; 16 * 1024];
            while reads && from.read(&mut answer).await.is_ok_and(|count| count > 0) {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = speak => {}
            () = listen => {}
        }
    };
    // The stranger ignores whether there is an answer.
    timeout(Duration::from_secs(2), exchange).await.ok();
}
