use super::*;

use axum::Extension;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Notify;

/// The deadline for any step of these tests.
const DEADLINE: Duration = Duration::from_secs(60);

const HEAD: Duration = Duration::from_millis(300);
/// So much longer that a busy machine does not make up for the difference.
const IDLE: Duration = Duration::from_secs(4);
const WRITE: Duration = Duration::from_millis(300);

/// A server, its address, and the tokens that close and stop it.
struct Running {
    address: SocketAddr,
    /// Signals that a request for `/late` has arrived, and lets it be answered.
    late: Arc<[Notify; 2]>,
    closing: CancellationToken,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn start(connections: usize) -> Running {
    start_behind(Proxies::default(), connections, false).await
}

/// The same behind these proxies, which may have to send PROXY headers.
async fn start_behind(proxies: Proxies, connections: usize, proxy_headers: bool) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let late = Arc::new([Notify::new(), Notify::new()]);
    let waiting = Arc::clone(&late);
    let answer_late = async move || {
        waiting[0].notify_one();
        waiting[1].notified().await;
        "late"
    };
    let routes = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/late", get(answer_late))
        .route("/peer", get(async |Extension(HttpPeer(peer)): Extension<HttpPeer>| peer.to_string()))
        .route("/forwarded", get(async |headers: HeaderMap| headers.contains_key(FORWARDED_FOR).to_string()))
        .route("/large", get(|| async { vec![b'x'; 16 * 1024 * 1024] }))
        .route("/pieces", post(count_pieces))
        .route("/panic", get(async || -> &'static str { panic!("at work") }));
    let deadlines = Deadlines { head: HEAD, idle: IDLE, write: WRITE };
    let limits = HttpLimits { connections, deadlines, proxies: Arc::new(proxies), proxy_headers };
    let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
    let server = HttpServer::new("test", listener, routes, limits).closing(closing.clone());
    let served = tokio::spawn(server.run(stop.clone()));
    Running { address, late, closing, stop, served }
}

/// In how many pieces a body arrives, and how many bytes they have together.
async fn count_pieces(mut body: Body) -> String {
    let (mut pieces, mut bytes) = (0, 0);
    while let Some(Ok(frame)) = body.frame().await {
        pieces += 1;
        bytes += frame.into_data().map_or(0, |data| data.len());
    }
    format!("{pieces} with {bytes} bytes")
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Sends a request and reads the answer.
async fn ask(client: &mut TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

/// Reads to the end, and returns how long that took.
async fn end(client: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    // A reset connection has ended, too.
    timeout(DEADLINE, client.read_to_end(&mut rest)).await.expect("the server ends the connection").ok();
    start.elapsed()
}

#[tokio::test]
async fn head_and_idle_time_have_separate_deadlines() {
    let server = start(8).await;
    let begun = Instant::now();
    let mut silent = server.connect().await;
    end(&mut silent).await;
    assert!((HEAD..IDLE).contains(&begun.elapsed()));

    let mut slow = server.connect().await;
    ask(&mut slow).await;
    let begun = Instant::now();
    slow.write_all(b"GET / HT").await.unwrap();
    end(&mut slow).await;
    assert!((HEAD / 2..IDLE).contains(&begun.elapsed()));

    let mut idle = server.connect().await;
    ask(&mut idle).await;
    let begun = Instant::now();
    ask(&mut idle).await;
    end(&mut idle).await;
    assert!(begun.elapsed() >= IDLE - Duration::from_millis(50), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn unread_answer_has_a_deadline() {
    let server = start(8).await;
    let mut client = server.connect().await;
    let flood = async {
        // The server stops reading, then ends the connection, which the client notices when it writes.
        while client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {}
    };
    timeout(DEADLINE, flood).await.expect("the server ends the connection");
    ask(&mut server.connect().await).await;
}

#[tokio::test]
async fn request_without_exactly_one_host_is_refused() {
    let server = start(8).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: x\r\nHost: y\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost:\r\nconnection: close\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
    ] {
        let mut client = server.connect().await;
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, client.read_to_string(&mut answer)).await.expect("the connection ends").unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head:?}: {answer}");
    }
}

#[tokio::test]
async fn body_of_single_bytes_is_one_piece() {
    let server = start(8).await;
    let asked = |framing: &str| format!("POST /pieces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n\r\n");
    let chunked = asked("transfer-encoding: chunked") + &"1\r\nx\r\n".repeat(1_000) + "0\r\n\r\n";
    for (request, expected) in [
        (chunked, "1 with 1000 bytes"),
        (asked("content-length: 3") + "abc", "1 with 3 bytes"),
        (asked("content-length: 0"), "0 with 0 bytes"),
    ] {
        let answer = answer_to(&mut server.connect().await, request.as_bytes()).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{answer}");
    }
}

#[tokio::test]
async fn waiting_connection_makes_room_for_a_new_one() {
    let server = start(2).await;
    let mut waiting = [server.connect().await, server.connect().await];
    ask(&mut waiting[0]).await;
    ask(&mut waiting[1]).await;
    let mut third = server.connect().await;
    ask(&mut third).await;
    assert!(end(&mut waiting[0]).await < IDLE, "the one that has waited longest");
    ask(&mut waiting[1]).await;
    // Hundreds of silent connections do not keep others out.
    let mut flood = Vec::new();
    for round in 0..300 {
        flood.push(server.connect().await);
        if round % 100 == 99 {
            ask(&mut server.connect().await).await;
        }
    }
}

#[tokio::test]
async fn complete_request_is_answered_before_its_connection_makes_room() {
    let server = start(2).await;
    // A machine that is slow may take longer than the time in which a request is protected.
    for _ in 0..20 {
        let begun = Instant::now();
        let mut asking = server.connect().await;
        asking.write_all(b"GET /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        server.late[0].notified().await;
        let _silent = server.connect().await;
        ask(&mut server.connect().await).await;
        server.late[1].notify_one();
        let mut answer = String::new();
        timeout(DEADLINE, asking.read_to_string(&mut answer)).await.expect("the connection ends").ok();
        if answer.ends_with("late") {
            return;
        }
        assert!(begun.elapsed() >= Duration::from_secs(1), "{answer}");
    }
    panic!("never within a second");
}

#[tokio::test]
async fn body_has_the_deadline_of_a_head() {
    let server = start(8).await;
    let begun = Instant::now();
    let mut slow = server.connect().await;
    slow.write_all(b"POST /pieces HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc").await.unwrap();
    end(&mut slow).await;
    assert!((HEAD / 2..IDLE).contains(&begun.elapsed()));
}

#[tokio::test]
async fn panic_ends_only_its_own_connection() {
    let server = start(8).await;
    let mut other = server.connect().await;
    ask(&mut other).await;
    let mut client = server.connect().await;
    client.write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    end(&mut client).await;
    ask(&mut other).await;
}

#[tokio::test]
async fn closing_server_still_answers_and_stopped_server_ends() {
    let server = start(8).await;
    let (mut early, mut idle) = (server.connect().await, server.connect().await);
    assert!(!ask(&mut early).await.contains("connection: close"));
    server.closing.cancel();
    for client in [&mut early, &mut server.connect().await] {
        assert!(ask(client).await.contains("connection: close"));
        assert!(end(client).await < IDLE);
    }
    server.stop.cancel();
    timeout(DEADLINE, server.served).await.expect("the server ends").unwrap();
    end(&mut idle).await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// A server that takes PROXY headers from 127.0.0.1.
async fn start_proxied() -> Running {
    start_behind(Proxies::new(vec!["127.0.0.1/32".parse().unwrap()]), 8, true).await
}

/// What a server answers to these bytes until the connection ends.
async fn answer_to(client: &mut TcpStream, bytes: &[u8]) -> String {
    // A server that refuses a connection does not read all of them.
    client.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    timeout(DEADLINE, client.read_to_end(&mut answer)).await.expect("the server ends the connection").ok();
    String::from_utf8(answer).unwrap()
}

const ASK_PEER: &[u8] = b"GET /peer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n";

/// A client that its proxy does not know.
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A health check of a proxy, in version 2.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[tokio::test]
async fn peer_of_a_request_is_the_client_in_the_proxy_header() {
    let server = start_proxied().await;
    let mut client = server.connect().await;
    let answer = answer_to(&mut client, &[HEADER, ASK_PEER].concat()).await;
    assert!(answer.ends_with("\r\n\r\n192.0.2.1:4711"), "{answer}");
    let mut client = server.connect().await;
    let own = client.local_addr().unwrap();
    let answer = answer_to(&mut client, &[LOCAL, ASK_PEER].concat()).await;
    assert!(answer.ends_with(&format!("\r\n\r\n{own}")), "{answer}");
}

#[tokio::test]
async fn client_that_its_proxy_does_not_know_cannot_state_its_address() {
    let server = start_proxied().await;
    let asked = b"GET /forwarded HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.9\r\nconnection: close\r\n\r\n";
    for (header, is_passed) in [(HEADER, true), (LOCAL, false), (UNKNOWN, false)] {
        let answer = answer_to(&mut server.connect().await, &[header, asked].concat()).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{is_passed}")), "{header:?}: {answer}");
    }
}

#[tokio::test]
async fn connection_without_a_proxy_header_of_a_proxy_is_refused() {
    let server = start_proxied().await;
    for bytes in [ASK_PEER, b"PROXY TCP4 192.0.2.1\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"] {
        let bytes = [bytes, ASK_PEER].concat();
        assert_eq!(answer_to(&mut server.connect().await, &bytes).await, "", "{bytes:?}");
    }
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(server.address).await.unwrap();
    assert_eq!(answer_to(&mut other, &[HEADER, ASK_PEER].concat()).await, "");
}

#[tokio::test]
async fn proxy_header_has_the_deadline_of_a_head() {
    let server = start_proxied().await;
    for sent in [&HEADER[..20], HEADER] {
        let begun = Instant::now();
        let mut slow = server.connect().await;
        slow.write_all(sent).await.unwrap();
        end(&mut slow).await;
        assert!((HEAD / 2..IDLE).contains(&begun.elapsed()));
    }
}
