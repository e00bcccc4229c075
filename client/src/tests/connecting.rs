//! Tests of the first connection, and of the end of a client.

use std::time::Duration;

use tickwire_core::protocol::codes::{ErrorCode, NoticeCode};
use tickwire_core::protocol::{Notice, ServerError, ServerFrame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{config, connect, connected, next, subscribe};
use crate::scripted::{stage, welcome};
use crate::{ClientConfig, ClientError, Credentials, Encoding, Message, Reconnect};

#[tokio::test(start_paused = true)]
async fn client_sends_its_credentials_and_is_welcomed() {
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
async fn first_connection_tries_each_gateway_once() {
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
async fn final_refusal_stops_the_first_connection() {
    let (dialler, mut stage) = stage();
    let refuse = async {
        let mut peer = stage.accept().await;
        peer.send(&[ServerFrame::Error(ServerError::new(None, ErrorCode::AuthFailed, "forged"))]).await;
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
async fn http_refusal_is_returned_with_its_text() {
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
async fn connect_times_out_without_a_welcome() {
    let (dialler, mut stage) = stage();
    let began = Instant::now();
    let silent = async { (stage.accept().await, stage.accept().await) };
    let (client, _peers) = tokio::join!(connect(dialler, config()), silent);
    let after = Duration::from_secs(10);
    assert_eq!(client.unwrap_err(), ClientError::TimedOut { what: "connect", after });
    assert_eq!(began.elapsed(), after * 2);
}

#[tokio::test(start_paused = true)]
async fn timeout_without_a_welcome_carries_the_last_notice() {
    let (dialler, mut stage) = stage();
    let config = ClientConfig { urls: vec!["ws://one:1".to_owned()], ..config() };
    let notice = Notice { msg: Some("no router".to_owned()), ..Notice::new(NoticeCode::UpstreamLost) };
    let peer = async {
        let mut peer = stage.accept().await;
        peer.send(&[ServerFrame::Notice(notice)]).await;
        peer
    };
    let (client, _peer) = tokio::join!(connect(dialler, config), peer);
    let (url, after) = ("ws://one:1".to_owned(), Duration::from_secs(10));
    let text = "no router".to_owned();
    assert_eq!(client.unwrap_err(), ClientError::NotWelcomed { url, after, notice: text });
}

#[tokio::test]
async fn invalid_configuration_is_refused() {
    for config in [ClientConfig { buffer: 0, ..config() }, ClientConfig { urls: Vec::new(), ..config() }] {
        let error = connect(stage().0, config).await.unwrap_err();
        assert!(matches!(error, ClientError::BadConfig { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_client_and_keeps_received_messages() {
    let (client, mut messages, _stage, mut peer) = connected(config()).await;
    subscribe(&client, &mut peer, "a").await;
    peer.send_events(1..=2).await;
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
async fn dropping_only_the_handle_keeps_the_client() {
    let (client, mut messages, _stage, mut peer) = connected(config()).await;
    drop(client);
    peer.send_events([1]).await;
    assert!(matches!(next(&mut messages).await, Message::Event(_)));
    drop(messages);
    assert_eq!(peer.closed().await, Some(1000));
}
