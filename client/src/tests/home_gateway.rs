//! Tests of the request for the home gateway before a connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use super::{config, connect, disconnected, next};
use crate::scripted::{ScriptedServer, stage};
use crate::{ClientConfig, Credentials, Message};

/// The client's next request for the home gateway: the gateway asked, the request, and the connection for the answer.
async fn home_request(stage: &mut ScriptedServer) -> (String, String, DuplexStream) {
    let (authority, mut io) = stage.arrival().await;
    let mut home_request = Vec::new();
    while !home_request.ends_with(b"\r\n\r\n") {
        home_request.push(io.read_u8().await.unwrap());
    }
    (authority, String::from_utf8(home_request).unwrap(), io)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn home(url: &str) -> String {
    http("200 OK", &format!(r#"{{"gateway":"gw-2","url":"{url}"}}"#))
}

/// Sends an answer. A client that has read enough may close before the rest.
async fn answer(mut io: DuplexStream, text: &str) -> DuplexStream {
    io.write_all(text.as_bytes()).await.ok();
    io
}

#[tokio::test(start_paused = true)]
async fn each_connection_asks_for_the_home_gateway_first() {
    let cases = [
        (Credentials::Token("t0k".into()), "/v1/connect", Some("Bearer t0k"), "/g/2"),
        (Credentials::DevUser("a b".into()), "/v1/connect?user=a%20b", None, "/g/2?user=a%20b"),
    ];
    for (credentials, path, authorization, uri) in cases {
        let (dialler, mut stage) = stage();
        let config = ClientConfig { ask_home: true, credentials, ..config() };
        let script = async {
            let (authority, request, io) = home_request(&mut stage).await;
            let io = answer(io, &home("ws://home:9/g/2")).await;
            let peer = stage.welcome().await;
            drop(io);
            (authority, request, peer, stage)
        };
        let (client, (authority, request, peer, mut stage)) = tokio::join!(connect(dialler, config), script);
        let (_client, mut messages) = client.unwrap();
        assert_eq!(authority, "one:1");
        assert!(request.starts_with(&format!("GET {path} HTTP/1.1\r\nhost: one:1\r\n")), "{request}");
        let header = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        assert_eq!(header, authorization);
        assert_eq!((peer.authority.as_str(), peer.uri.as_str()), ("home:9", uri));

        drop(peer);
        assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
        disconnected(&mut messages).await;
        let (authority, _, io) = home_request(&mut stage).await;
        assert_eq!(authority, "two:2");
        answer(io, &home("ws://other:9")).await;
        assert_eq!(stage.welcome().await.authority, "other:9");
    }
}

#[tokio::test(start_paused = true)]
async fn client_stays_at_the_asked_gateway_without_a_valid_answer() {
    let long = format!(r#"{{"gateway":"{}","url":"ws://home:9"}}"#, "x".repeat(64 * 1024));
    let answers = [
        http("404 Not Found", "this cluster names no homes\n"),
        http("200 OK", "no JSON"),
        http("200 OK", "[1]"),
        http("200 OK", &long),
        home("https://home:9"),
        // The gateway itself is the home gateway.
        home("ws://one:1/v1/stream"),
        "no HTTP\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(),
    ];
    for text in &answers {
        let (dialler, mut stage) = stage();
        let config = ClientConfig { ask_home: true, ..config() };
        let began = Instant::now();
        let script = async {
            let (_, _, io) = home_request(&mut stage).await;
            drop(answer(io, text).await);
            stage.welcome().await
        };
        let (client, peer) = tokio::join!(connect(dialler, config), script);
        client.unwrap();
        assert_eq!((peer.authority.as_str(), began.elapsed()), ("one:1", Duration::ZERO), "{text:.80}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_stays_at_the_asked_gateway_without_a_timely_answer_or_a_reachable_home() {
    let config = || ClientConfig { ask_home: true, ..config() };
    let (dialler, mut stage) = stage();
    let began = Instant::now();
    let script = async { (home_request(&mut stage).await, stage.welcome().await) };
    let (client, (_silent, peer)) = tokio::join!(connect(dialler, config()), script);
    client.unwrap();
    assert_eq!((peer.authority.as_str(), began.elapsed()), ("one:1", Duration::from_secs(2)));

    let (dialler, mut stage) = self::stage();
    let script = async {
        let (_, _, io) = home_request(&mut stage).await;
        stage.refuse(1);
        let _io = answer(io, &home("ws://home:9")).await;
        stage.welcome().await
    };
    let (client, peer) = tokio::join!(connect(dialler, config()), script);
    client.unwrap();
    assert_eq!(peer.authority, "one:1");
}
