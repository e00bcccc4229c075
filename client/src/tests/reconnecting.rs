//! Tests of lost sessions: the pause, the reconnect, and the restored subscriptions.

use std::time::Duration;

use serde_json::json;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, Reconnect};
use tickwire_core::protocol::{ClientFrame, Goaway, Heartbeat, ServerError, ServerFrame, SubscriptionRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::{config, connect, connected, disconnected, next, subscribe};
use crate::scripted::{HEARTBEAT_MS, pong, stage, subscribed};
use crate::{ClientConfig, ClientError, Message, ReconnectDelays, SubscribeOptions};

#[tokio::test(start_paused = true)]
async fn reconnect_without_a_position_subscribes_to_everything_again() {
    let (client, mut messages, mut stage, mut peer) = connected(config()).await;
    for name in ["a", "b", "c"] {
        subscribe(&client, &mut peer, name).await;
    }
    let replace = async {
        let (id, _) = peer.receive().await;
        peer.send(&[subscribed(id, &["a", "b", "c"])]).await;
        let (id, _) = peer.receive().await;
        peer.send(&[subscribed(id, &["a", "b"])]).await;
    };
    let calls = async {
        let options = SubscribeOptions { window_ms: Some(7), max_events_per_hour: Some(9), alert: true, since: None };
        client.subscribe("b", json!({ "symbols": ["NVDA"] }), options).await.unwrap();
        client.unsubscribe("c").await.unwrap();
    };
    tokio::join!(replace, calls);

    peer.close(CloseCode::SlowConsumer.code(), "too slow").await;
    let (code, retry_in) = disconnected(&mut messages).await;
    let (since, pause) = (Instant::now(), retry_in.unwrap());
    assert_eq!(code, Some(4008));
    assert!(pause <= ReconnectDelays::default().base);

    let mut peer = stage.welcome().await;
    assert_eq!((since.elapsed(), peer.authority.as_str()), (pause, "two:2"));
    let (first, frame) = peer.receive().await;
    assert!(matches!(frame, ClientFrame::Subscribe { name, .. } if name.as_str() == "a"));
    let (second, frame) = peer.receive().await;
    let ClientFrame::Subscribe { name, wanted, since: None } = frame else { panic!("{frame:?}") };
    let filter = json!({ "symbols": ["NVDA"] }).into();
    let expected = SubscriptionRequest { filter, window_ms: Some(7), max_events_per_hour: Some(9), alert: true };
    assert_eq!((name.as_str(), wanted), ("b", expected));

    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    peer.send(&[subscribed(first, &["a"])]).await;
    peer.send_events([9]).await;
    peer.send(&[subscribed(second, &["a", "b"])]).await;
    assert!(matches!(next(&mut messages).await, Message::Event(_)));
    assert_eq!(next(&mut messages).await, Message::Restored);
}

#[tokio::test(start_paused = true)]
async fn full_server_is_retried_after_its_retry_after() {
    let (_client, mut messages, mut stage, peer) = connected(config()).await;
    drop(peer);
    disconnected(&mut messages).await;
    let (_, mut io) = stage.arrival().await;
    let mut request = [0; 4096];
    assert!(io.read(&mut request).await.unwrap() > 0);
    io.write_all(b"HTTP/1.1 503 Full\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(disconnected(&mut messages).await.1, Some(Duration::from_secs(3)));
    stage.welcome().await;
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
}

#[tokio::test(start_paused = true)]
async fn reconnect_without_subscriptions_is_not_interrupted() {
    let (_client, mut messages, mut stage, peer) = connected(config()).await;
    drop(peer);
    assert_eq!(disconnected(&mut messages).await.0, None);
    let mut peer = stage.welcome().await;
    peer.send_events([1]).await;
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    assert!(matches!(next(&mut messages).await, Message::Event(_)));
}

#[tokio::test(start_paused = true)]
async fn close_code_decides_whether_and_when_to_reconnect() {
    let longest = ReconnectDelays::default().max;
    let known = CloseCode::ALL.iter().map(|code| (code.code(), code.reconnect()));
    for (code, reconnect) in known.chain([(1001, Reconnect::Yes), (4999, Reconnect::Yes)]) {
        let (client, mut messages, mut stage, peer) = connected(config()).await;
        peer.close(code, "because").await;
        let Message::Disconnected { code: received, reason, retry_in } = next(&mut messages).await else {
            panic!("{code} ends the session")
        };
        assert_eq!((received, reason.as_str()), (Some(code), "because"));
        match reconnect {
            Reconnect::Yes => assert!(retry_in.unwrap() <= ReconnectDelays::default().base, "{code}"),
            Reconnect::After => assert!((longest / 2..=longest).contains(&retry_in.unwrap()), "{code}"),
            // The client has no other token.
            Reconnect::No | Reconnect::NewToken => {
                assert_eq!((retry_in, messages.recv().await), (None, None), "{code}");
                assert_eq!(client.ping().await.unwrap_err(), ClientError::Ended);
                continue;
            }
        }
        stage.welcome().await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_without_reconnects_ends_with_the_connection() {
    let (_client, mut messages, _stage, peer) = connected(ClientConfig { reconnect: None, ..config() }).await;
    drop(peer);
    assert_eq!(disconnected(&mut messages).await, (None, None));
    assert_eq!(messages.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn client_reconnects_at_the_time_of_goaway_and_delivers_events_until_then() {
    let (_client, mut messages, mut stage, mut peer) = connected(config()).await;
    sleep(Duration::from_secs(11)).await;
    let sent = Instant::now();
    let goaway = Goaway { reason: "rebalance".into(), reconnect_ms: 1840 };
    peer.send(&[ServerFrame::Goaway(goaway.clone())]).await;
    assert_eq!(next(&mut messages).await, Message::Goaway(goaway));
    sleep(Duration::from_millis(1_800)).await;
    peer.send_events([1]).await;
    assert!(matches!(next(&mut messages).await, Message::Event(_)));
    assert_eq!(peer.closed().await, Some(1000));
    assert_eq!(sent.elapsed(), Duration::from_millis(1_840));
    let (_, retry_in) = disconnected(&mut messages).await;
    assert!(retry_in.unwrap() <= ReconnectDelays::default().base);
    assert_eq!(stage.welcome().await.authority, "two:2");
}

#[tokio::test(start_paused = true)]
async fn pause_of_goaway_is_kept_when_the_server_closes_early() {
    let (_client, mut messages, mut stage, mut peer) = connected(config()).await;
    let sent = Instant::now();
    let goaway = Goaway { reason: "drain".into(), reconnect_ms: 1_840 };
    peer.send(&[ServerFrame::Goaway(goaway)]).await;
    assert!(matches!(next(&mut messages).await, Message::Goaway(_)));
    sleep(Duration::from_millis(340)).await;
    peer.close(CloseCode::Draining.code(), "bye").await;
    assert_eq!(disconnected(&mut messages).await, (Some(1012), Some(Duration::from_millis(1_500))));
    stage.welcome().await;
    assert_eq!(sent.elapsed(), Duration::from_millis(1_840));
}

#[tokio::test(start_paused = true)]
async fn only_a_long_session_resets_the_backoff() {
    // The range is so wide that a random pause is at most `base` once in 500,000 times.
    let backoff = ReconnectDelays { base: Duration::from_millis(1), max: Duration::from_secs(1_000) };
    let (_client, mut messages, mut stage, peer) =
        connected(ClientConfig { reconnect: Some(backoff), ..config() }).await;
    stage.refuse(20);
    drop(peer);
    let mut most = backoff.base;
    for _ in 0..20 {
        let began = Instant::now();
        let pause = disconnected(&mut messages).await.1.unwrap();
        assert!(pause <= most, "{pause:?} is longer than {most:?}");
        assert_eq!(began.elapsed(), Duration::ZERO);
        sleep(pause).await;
        most = (most * 2).min(backoff.max);
    }
    assert!(disconnected(&mut messages).await.1.unwrap() > backoff.base);
    for (lasted, healthy) in [(9_999, false), (10_000, true)] {
        let peer = stage.welcome().await;
        assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
        sleep(Duration::from_millis(lasted)).await;
        drop(peer);
        let pause = disconnected(&mut messages).await.1.unwrap();
        assert_eq!(pause <= backoff.base, healthy, "{pause:?} after a session of {lasted} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_and_heartbeats_keep_it_open() {
    let (_client, mut messages, mut stage, mut peer) = connected(config()).await;
    let idle = Duration::from_millis(u64::from(HEARTBEAT_MS) * 5 / 2);
    for _ in 0..3 {
        sleep(idle - Duration::from_millis(1)).await;
        peer.send(&[ServerFrame::Heartbeat(Heartbeat { position: None })]).await;
        assert!(matches!(next(&mut messages).await, Message::Heartbeat(_)));
    }
    let received = Instant::now();
    assert_eq!(peer.closed().await, Some(1000));
    assert_eq!(received.elapsed(), idle);
    assert!(disconnected(&mut messages).await.1.is_some());
    stage.welcome().await;
}

#[tokio::test(start_paused = true)]
async fn request_survives_a_reconnect_until_its_caller_gives_up() {
    let (client, mut messages, mut stage, mut peer) = connected(config()).await;
    let script = async {
        let (first, _) = peer.receive().await;
        let (_, given_up) = peer.receive().await;
        assert_eq!(given_up, ClientFrame::List);
        sleep(Duration::from_secs(1)).await;
        drop(peer);
        disconnected(&mut messages).await;
        let mut peer = stage.welcome().await;
        let (again, frame) = peer.receive().await;
        assert!(matches!(frame, ClientFrame::Subscribe { .. }));
        assert_eq!(again, first);
        peer.send(&[subscribed(again, &["a"])]).await;
        let (id, frame) = peer.receive().await;
        assert_eq!(frame, ClientFrame::Ping);
        peer.send(&[pong(id)]).await;
    };
    let calls = async {
        let subscribing = client.subscribe("a", json!({}), SubscribeOptions::default());
        let (answer, given_up) = tokio::join!(subscribing, timeout(Duration::from_millis(500), client.list()));
        assert!(given_up.is_err());
        answer.unwrap();
        client.ping().await.unwrap();
    };
    tokio::join!(script, calls);
}

#[tokio::test(start_paused = true)]
async fn subscription_refused_after_a_reconnect_is_reported_and_removed() {
    let (client, mut messages, mut stage, mut peer) = connected(config()).await;
    subscribe(&client, &mut peer, "a").await;
    subscribe(&client, &mut peer, "b").await;
    for (granted, refused) in [("a", Some("b")), ("a", None)] {
        drop(peer);
        disconnected(&mut messages).await;
        peer = stage.welcome().await;
        assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
        assert_eq!(next(&mut messages).await, Message::Interrupted);
        assert_eq!(peer.grant().await, granted);
        if let Some(refused) = refused {
            let (id, _) = peer.receive().await;
            let error = ServerError::new(Some(id), ErrorCode::SymbolLimit, "no");
            peer.send(&[ServerFrame::Error(error.clone())]).await;
            assert!(matches!(
                next(&mut messages).await,
                Message::SubscriptionLost { name, error: received } if name.as_str() == refused && received == error
            ));
        }
        assert_eq!(next(&mut messages).await, Message::Restored);
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_cannot_restore_subscriptions_is_ended() {
    let (client, mut messages, mut stage, mut peer) = connected(config()).await;
    subscribe(&client, &mut peer, "a").await;
    drop(peer);
    disconnected(&mut messages).await;

    let mut peer = stage.welcome().await;
    let (id, _) = peer.receive().await;
    peer.send(&[ServerFrame::Error(ServerError::new(Some(id), ErrorCode::Unavailable, "not now"))]).await;
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    assert_eq!(peer.closed().await, Some(1000));
    assert!(disconnected(&mut messages).await.1.unwrap() >= ReconnectDelays::default().max / 2);

    let mut peer = stage.welcome().await;
    let welcomed = Instant::now();
    peer.receive().await;
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    assert_eq!(peer.closed().await, Some(1000));
    assert_eq!(welcomed.elapsed(), ClientConfig::default().request_timeout);
    disconnected(&mut messages).await;

    let mut peer = stage.welcome().await;
    assert_eq!(peer.grant().await, "a");
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_slow_reader_does_not_count_as_server_silence() {
    let (client, mut messages, mut stage, mut peer) = connected(ClientConfig { buffer: 1, ..config() }).await;
    subscribe(&client, &mut peer, "a").await;
    drop(peer);
    let mut peer = stage.welcome().await;
    sleep(Duration::from_secs(600)).await;
    disconnected(&mut messages).await;
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(peer.grant().await, "a");
    assert_eq!(next(&mut messages).await, Message::Restored);
}

#[tokio::test(start_paused = true)]
async fn closing_during_a_pause_or_an_attempt_is_immediate() {
    let (dialler, mut stage) = stage();
    let (client, peer) = tokio::join!(connect(dialler, config()), stage.welcome());
    let (client, mut messages) = client.unwrap();
    drop(peer);
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    disconnected(&mut messages).await;
    let _unwelcomed = stage.accept().await;
    let began = Instant::now();
    client.close().await;
    assert_eq!((began.elapsed(), messages.recv().await), (Duration::ZERO, None));
}
