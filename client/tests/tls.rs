//! Clients with `wss://`, in front of a small server: what is trusted, what is refused, and how it is reported.
#![expect(clippy::unwrap_used, reason = "helpers of a test may panic")]

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tickwire_client::{CertificateProblem, Client, ClientConfig, ClientError, Message, Messages, Reconnect};
use tickwire_testkit::{Authority, ServerCertificate, TlsTerminator, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

const WELCOME: &str = r#"[{"T":"welcome","session":"s1","user":"ann","gateway":"gw-1","heartbeat_ms":15000}]"#;
const SOON: Duration = Duration::from_secs(60);

#[expect(clippy::result_large_err, reason = "the handshake's callback has this shape")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let protocol = request.headers()["sec-websocket-protocol"].clone();
    response.headers_mut().insert("sec-websocket-protocol", protocol);
    Ok(response)
}

/// Welcomes a client, and reads until it is gone.
async fn welcome(io: TcpStream) {
    let mut socket = accept_hdr_async(io, upgrade).await.unwrap();
    socket.send(WsMessage::text(WELCOME)).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
}

/// A plain server that welcomes every client.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(welcome(io));
        }
    });
    address
}

/// The server, behind an endpoint with this certificate.
async fn secure_server(certificate: ServerCertificate) -> TlsTerminator {
    TlsTerminator::start(certificate, server().await).await
}

fn config(host: &str, address: SocketAddr, authority: &Authority) -> ClientConfig {
    let url = format!("wss://{host}:{}", address.port());
    ClientConfig { tls_ca: Some(authority.file()), ..ClientConfig::new(url) }
}

/// The problem with a certificate. The first connection of a client ends with it.
async fn refused(config: ClientConfig) -> CertificateProblem {
    let error = timeout(SOON, Client::connect(config)).await.unwrap().unwrap_err();
    assert_eq!(error.reconnect(), Reconnect::No, "{error}");
    match error {
        ClientError::Certificate { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

async fn next(messages: &mut Messages) -> Message {
    timeout(SOON, messages.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn client_connects_by_name_and_by_address_and_ends_with_close_notify() {
    let authority = Authority::new();
    let secure = secure_server(authority.certificate(&["localhost", "127.0.0.1"])).await;
    for (count, host) in [(1, "localhost"), (2, "127.0.0.1")] {
        let (client, mut messages) = Client::connect(config(host, secure.address, &authority)).await.unwrap();
        assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
        client.close().await;
        eventually("the end was in order", SOON, async || (secure.ended_in_order() == count).then_some(())).await;
    }
}

#[tokio::test]
async fn client_that_is_dropped_ends_with_close_notify() {
    let authority = Authority::new();
    let secure = secure_server(authority.certificate(&["127.0.0.1"])).await;
    drop(Client::connect(config("127.0.0.1", secure.address, &authority)).await.unwrap());
    eventually("the end was in order", SOON, async || (secure.ended_in_order() == 1).then_some(())).await;
}

#[tokio::test]
async fn certificate_of_an_unknown_authority_is_refused() {
    let (known, unknown) = (Authority::new(), Authority::new());
    let secure = secure_server(unknown.certificate(&["127.0.0.1"])).await;
    assert_eq!(refused(config("127.0.0.1", secure.address, &known)).await, CertificateProblem::Untrusted);
}

#[tokio::test]
async fn certificate_for_another_name_is_refused_with_both_names() {
    let authority = Authority::new();
    let secure = secure_server(authority.certificate(&["gw.example.com"])).await;
    let (host, names) = ("127.0.0.1".to_owned(), "gw.example.com".to_owned());
    let problem = refused(config("127.0.0.1", secure.address, &authority)).await;
    assert_eq!(problem, CertificateProblem::WrongName { host, names });
}

#[tokio::test]
async fn expired_certificate_is_refused_with_its_time() {
    let authority = Authority::new();
    let secure = secure_server(authority.expired_certificate(&["127.0.0.1"])).await;
    let problem = refused(config("127.0.0.1", secure.address, &authority)).await;
    assert!(matches!(problem, CertificateProblem::Expired { at: Some(_) }), "{problem:?}");
    assert!(problem.to_string().contains("expired at 2001-01-01"), "{problem}");
}

#[tokio::test]
async fn connected_client_retries_until_the_certificate_is_valid_again() {
    let authority = Authority::new();
    let valid = authority.certificate(&["127.0.0.1"]);
    let secure = secure_server(valid.clone()).await;
    let (_client, mut messages) = Client::connect(config("127.0.0.1", secure.address, &authority)).await.unwrap();
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    secure.present(authority.expired_certificate(&["127.0.0.1"]));
    secure.cut();
    assert!(matches!(next(&mut messages).await, Message::Disconnected { retry_in: Some(_), .. }));
    match next(&mut messages).await {
        Message::Disconnected { reason, retry_in: Some(_), .. } => assert!(reason.contains("expired"), "{reason}"),
        other => panic!("{other:?}"),
    }
    secure.present(valid);
    let mut last = next(&mut messages).await;
    while let Message::Disconnected { retry_in: Some(_), .. } = last {
        last = next(&mut messages).await;
    }
    assert!(matches!(last, Message::Connected { .. }), "{last:?}");
}

#[tokio::test]
async fn connected_client_reads_the_authorities_again_after_a_refusal() {
    let (old, new) = (Authority::new(), Authority::new());
    let secure = secure_server(old.certificate(&["127.0.0.1"])).await;
    let (_client, mut messages) = Client::connect(config("127.0.0.1", secure.address, &old)).await.unwrap();
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    std::fs::copy(new.file(), old.file()).unwrap();
    secure.present(new.certificate(&["127.0.0.1"]));
    secure.cut();
    // The cut, and one attempt with the authority that was known.
    for _ in 0..2 {
        assert!(matches!(next(&mut messages).await, Message::Disconnected { retry_in: Some(_), .. }));
    }
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
}

#[tokio::test]
async fn file_without_certificates_is_refused_by_its_field() {
    let authority = Authority::new();
    let secure = secure_server(authority.certificate(&["127.0.0.1"])).await;
    let large = "x".repeat(2 << 20);
    for (text, problem) in [
        (None, "No such file"),
        (Some("no certificate"), "the file has no certificate"),
        (Some(large.as_str()), "more than 1048576 bytes"),
    ] {
        match text {
            Some(text) => std::fs::write(authority.file(), text).unwrap(),
            None => std::fs::remove_file(authority.file()).unwrap(),
        }
        let error = Client::connect(config("127.0.0.1", secure.address, &authority)).await.unwrap_err();
        assert!(matches!(error, ClientError::BadConfig { field: "tls_ca", .. }), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("ca.pem") && error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn server_without_tls_is_reported_with_the_right_scheme() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = async {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut hello = [0; 512];
        assert!(io.read(&mut hello).await.unwrap() > 0);
        io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        io
    };
    let authority = Authority::new();
    let (client, _io) = tokio::join!(Client::connect(config("127.0.0.1", address, &authority)), answer);
    let error = client.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { problem, .. } if problem.contains("ws://")), "{error:?}");
}

/// The problem of a client without TLS at this address.
async fn plain_problem(address: SocketAddr) -> String {
    let client = Client::connect(ClientConfig::new(format!("ws://{address}")));
    match timeout(SOON, client).await.unwrap().unwrap_err() {
        ClientError::Unreachable { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn server_with_tls_is_reported_to_a_plain_client_with_the_right_scheme() {
    // One that answers with an alert, and one that closes the connection, as HAProxy does.
    let authority = Authority::new();
    let secure = secure_server(authority.certificate(&["127.0.0.1"])).await;
    let problem = plain_problem(secure.address).await;
    assert!(problem.contains("wss://"), "{problem}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let close = async {
        let (mut io, _) = listener.accept().await.unwrap();
        assert!(io.read(&mut [0; 4096]).await.unwrap() > 0);
    };
    let (problem, ()) = tokio::join!(plain_problem(listener.local_addr().unwrap()), close);
    let expected =
        "the server closed the connection without an answer; if it speaks TLS, the address begins with wss://";
    assert_eq!(problem, expected);
}

#[tokio::test]
async fn handshake_of_tls_is_within_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authority = Authority::new();
    let after = Duration::from_millis(200);
    let config = ClientConfig { connect_timeout: after, ..config("127.0.0.1", address, &authority) };
    let error = timeout(SOON, Client::connect(config)).await.unwrap().unwrap_err();
    assert_eq!(error, ClientError::TimedOut { what: "connect", after });
    drop(listener);
}
