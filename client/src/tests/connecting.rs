//! The first connection, and the ends of a client.

use std::time::Duration;

use tickwire_core::protocol::codes::{ErrorCode, NoticeCode};
use tickwire_core::protocol::{Notice, ServerError, ServerFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{config, connect, connected, next, subscribe};
use crate::scripted::{stage, welcome};
use crate::{ClientConfig, ClientError, Credentials, Encoding, Message, Reconnect};

#[tokio::test(start_paused = true)]
async fn a_client_says_who_it_is_and_is_welcomed() {
    for (encoding, protocol) in [(Encoding::Json, "tickwire.v1.json"), (Encoding::MsgPack, "tickwire.v1.msgpack")] {
        let (dialler, mut stage) = stage();
        let credentials = Credentials::Token("t0k".into());
        let config = ClientConfig { credentials, encoding, ..config() };
        let (client, peer) = tokio::join!(connect(dialler, config), stage.welcome());
        assert_eq!((peer.authority.as_str(), peer.uri.as_str()), ("one:1", "/v1/stream"));
        assert_eq!(peer.headers["authorization"], "Bearer t0k");
        assert_eq!(peer.headers["sec-websocket-protocol"], protocol);
        let (_client, mut messages) = client.unwrap();
        assert_eq!(next(&mut messages).await, Message::Connected { welcome: welcome() });
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_tries_each_gateway_once() {
    let (dialler, mut stage) = stage();
    stage.refuse(1);
    let (client, peer) = tokio::join!(connect(dialler, config()), stage.welcome());
    assert_eq!(peer.authority, "two:2");
    drop(client.unwrap());

    let (dialler, stage) = self::stage();
    stage.refuse(2);
    let error = connect(dialler, config()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { url, .. } if url == "ws://two:2"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_is_not_taken_to_the_next_gateway() {
    let (dialler, mut stage) = stage();
    let refuse = async {
        let mut peer = stage.accept().await;
        peer.say(&[ServerFrame::Error(ServerError::new(None, ErrorCode::AuthFailed, "forged"))]).await;
        peer
    };
    let (client, _peer) = tokio::join!(connect(dialler, config()), refuse);
    assert_eq!(client.unwrap_err(), ClientError::Refused { code: 402, msg: "forged".into() });

    let (dialler, mut stage) = self::stage();
    let close = async { stage.accept().await.close(4001, "forged").await };
    let (client, ()) = tokio::join!(connect(dialler, config()), close);
    let error = client.unwrap_err();
    assert_eq!((error.close_code(), error.reconnect()), (Some(4001), Reconnect::No));
}

#[tokio::test(start_paused = true)]
async fn an_http_refusal_is_shown() {
    let (dialler, mut stage) = stage();
    let refuse = async {
        let (_, mut io) = stage.arrival().await;
        let mut request = [0; 4096];
        assert!(io.read(&mut request).await.unwrap() > 0);
        io.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 7\r\n\r\nexpired").await.unwrap();
        io
    };
    let (client, _io) = tokio::join!(connect(dialler, config()), refuse);
    let error = client.unwrap_err();
    let text = "expired".to_owned();
    assert_eq!(error, ClientError::Rejected { url: "ws://one:1".into(), status: 401, text, retry_after: None });
    assert_eq!(error.reconnect(), Reconnect::No);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_welcomes_is_given_up() {
    let (dialler, mut stage) = stage();
    let began = Instant::now();
    let silent = async { (stage.accept().await, stage.accept().await) };
    let (client, _peers) = tokio::join!(connect(dialler, config()), silent);
    let after = Duration::from_secs(10);
    assert_eq!(client.unwrap_err(), ClientError::TimedOut { what: "connect", after });
    assert_eq!(began.elapsed(), after * 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_that_does_not_welcome_is_why_it_is_given_up() {
    let (dialler, mut stage) = stage();
    let config = ClientConfig { urls: vec!["ws://one:1".to_owned()], ..config() };
    let notice = Notice { msg: Some("no router".to_owned()), ..Notice::new(NoticeCode::UpstreamLost) };
    let peer = async {
        let mut peer = stage.accept().await;
        peer.say(&[ServerFrame::Notice(notice)]).await;
        peer
    };
    let (client, _peer) = tokio::join!(connect(dialler, config), peer);
    let (url, after) = ("ws://one:1".to_owned(), Duration::from_secs(10));
    let said = "no router".to_owned();
    assert_eq!(client.unwrap_err(), ClientError::NotWelcomed { url, after, said });
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    for config in [ClientConfig { buffer: 0, ..config() }, ClientConfig { urls: Vec::new(), ..config() }] {
        let error = connect(stage().0, config).await.unwrap_err();
        assert!(matches!(error, ClientError::BadConfig { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn closing_ends_everything_and_keeps_what_was_received() {
    let (client, mut messages, _stage, mut peer) = connected(config()).await;
    subscribe(&client, &mut peer, "a").await;
    peer.say_events(1..=2).await;
    assert!(matches!(next(&mut messages).await, Message::Event(event) if event.seq.0 == 1));
    let ((), code) = tokio::join!(client.close(), peer.closed());
    assert_eq!(code, Some(1000));
    assert_eq!(client.ping().await.unwrap_err(), ClientError::Ended);
    assert!(matches!(messages.recv().await, Some(Message::Event(event)) if event.seq.0 == 2));
    assert_eq!(messages.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_messages_ends_the_client() {
    let (client, messages, _stage, peer) = connected(config()).await;
    drop(messages);
    assert_eq!(peer.closed().await, Some(1000));
    assert_eq!(client.ping().await.unwrap_err(), ClientError::Ended);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_alone_ends_nothing() {
    let (client, mut messages, _stage, mut peer) = connected(config()).await;
    drop(client);
    peer.say_events([1]).await;
    assert!(matches!(next(&mut messages).await, Message::Event(_)));
    drop(messages);
    assert_eq!(peer.closed().await, Some(1000));
}
