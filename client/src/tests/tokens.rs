//! Tests of tokens that expire: a provider is asked at each connection and for a running session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tickwire_core::ids::UserId;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, NoticeCode};
use tickwire_core::protocol::{Authenticated, ClientFrame, Notice, ServerError, ServerFrame};
use tokio::time::{Instant, timeout};

use super::{config, connect, connected, disconnected, next, subscribe};
use crate::scripted::stage;
use crate::{ClientConfig, ClientError, Credentials, Message, Reconnect, ReconnectDelays, TokenProvider};

/// A configuration with a provider that numbers its tokens. It fails for the numbers for which `fails` is true.
fn counted(fails: impl Fn(usize) -> bool + Send + Sync + 'static) -> ClientConfig {
    let asked = AtomicUsize::new(0);
    let fails = Arc::new(fails);
    let provider = TokenProvider::new(move || {
        let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
        let failed = fails(number);
        async move { if failed { Err("the issuer is away") } else { Ok(format!("t{number}")) } }
    });
    ClientConfig { credentials: Credentials::Provider(provider), ..config() }
}

fn expiring() -> ServerFrame {
    ServerFrame::Notice(Notice { expires_ms: Some(60_000), ..Notice::new(NoticeCode::TokenExpiring) })
}

#[tokio::test(start_paused = true)]
async fn provider_is_asked_at_each_connection() {
    let (client, mut messages, mut stage, mut peer) = connected(counted(|_| false)).await;
    assert_eq!(peer.headers["authorization"], "Bearer t1");
    subscribe(&client, &mut peer, "a").await;
    peer.close(CloseCode::TokenExpired.code(), "the token has expired").await;
    let (code, retry_in) = disconnected(&mut messages).await;
    assert!(code == Some(4009) && retry_in.unwrap() <= ReconnectDelays::default().base);
    // The next token has expired too: the provider is asked again a little later.
    let mut peer = stage.accept().await;
    assert_eq!(peer.headers["authorization"], "Bearer t2");
    peer.send(&[ServerFrame::Error(ServerError::new(None, ErrorCode::AuthFailed, "it expired 8 s ago"))]).await;
    peer.close(CloseCode::TokenExpired.code(), "the token has expired").await;
    assert!(disconnected(&mut messages).await.1.is_some());
    let mut peer = stage.welcome().await;
    assert_eq!(peer.headers["authorization"], "Bearer t3");
    assert_eq!(peer.grant().await, "a");
}

#[tokio::test(start_paused = true)]
async fn session_is_renewed_in_place_when_its_token_expires() {
    let (_client, mut messages, _stage, mut peer) = connected(counted(|number| number == 2)).await;
    peer.send(&[expiring()]).await;
    assert!(matches!(next(&mut messages).await, Message::Notice(_)));
    // The provider fails at first, and is asked again.
    let notified = Instant::now();
    let (id, frame) = peer.receive().await;
    let ClientFrame::Auth { token } = frame else { panic!("{frame:?}") };
    assert_eq!((token.0.as_str(), notified.elapsed()), ("t3", Duration::from_secs(5)));
    let answer = Authenticated { id: Some(id), user: UserId::new("ann").unwrap(), expires_ms: 3_600_000 };
    peer.send(&[ServerFrame::Authenticated(answer.clone())]).await;
    assert_eq!(next(&mut messages).await, Message::Authenticated(answer));
    // No further renewal without another notice.
    assert!(timeout(Duration::from_secs(30), peer.receive()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn client_with_a_fixed_token_ends_when_it_has_expired() {
    let fixed = || ClientConfig { credentials: Credentials::Token("t0k".into()), ..config() };
    let (_client, mut messages, _stage, mut peer) = connected(fixed()).await;
    peer.send(&[expiring()]).await;
    assert!(matches!(next(&mut messages).await, Message::Notice(_)));
    peer.close(CloseCode::TokenExpired.code(), "the token has expired").await;
    assert_eq!(disconnected(&mut messages).await, (Some(4009), None));
    assert_eq!(messages.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn refused_first_token_is_reported_with_its_close_code() {
    for (code, reconnect) in [(4001, Reconnect::No), (4007, Reconnect::After), (4009, Reconnect::NewToken)] {
        let (dialler, mut stage) = stage();
        let refuse = async {
            for _ in 0..if reconnect == Reconnect::After { 2 } else { 1 } {
                let mut peer = stage.accept().await;
                peer.send(&[ServerFrame::Error(ServerError::new(None, ErrorCode::AuthFailed, "why"))]).await;
                peer.close(code, "the reason").await;
            }
        };
        let (client, ()) = tokio::join!(connect(dialler, counted(|_| false)), refuse);
        let error = client.unwrap_err();
        assert!(matches!(&error, ClientError::Closed { reason, .. } if reason == "why"), "{error}");
        assert_eq!((error.close_code(), error.reconnect()), (Some(code), reconnect));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_provider_is_reported_and_asked_again() {
    let (dialler, _stage) = stage();
    let error = connect(dialler, counted(|_| true)).await.unwrap_err();
    assert_eq!(error, ClientError::NoToken { problem: "the issuer is away".to_owned() });

    let (_client, mut messages, mut stage, peer) = connected(counted(|number| number == 2)).await;
    drop(peer);
    disconnected(&mut messages).await;
    let Message::Disconnected { reason, retry_in, .. } = next(&mut messages).await else { panic!("no Disconnected") };
    assert!(reason.contains("the issuer is away") && retry_in.is_some(), "{reason}");
    assert_eq!(stage.welcome().await.headers["authorization"], "Bearer t3");
}
