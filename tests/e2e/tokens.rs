//! Tokens: authentication, expiry and renewal, and the errors of refused tokens.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};
use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::{Encoding, ServerMessage};
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::feed;
use crate::node::{DEADLINE, get};
use crate::oracle::{assert_exact, filter};
use crate::socket::{Incoming, Socket};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn signed(header: &jsonwebtoken::Header, claims: &Value) -> String {
    jsonwebtoken::encode(header, claims, &jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A token that expires in `seconds`.
fn token(user: &str, seconds: f64) -> String {
    signed(&jsonwebtoken::Header::default(), &json!({ "sub": user, "exp": now() + seconds }))
}

fn auth(token: &str) -> Value {
    json!({ "action": "auth", "token": token })
}

#[tokio::test]
async fn session_is_notified_before_expiry_and_renews_or_ends_without_loss() {
    // A gateway is added, but no session is to be sent there.
    let still = ("gateway.rebalance_rate", "0");
    let jwt = [("auth.mode", "jwt"), ("auth.jwt_secret", SECRET), ("auth.leeway", "2s"), still];
    let mut cluster = Cluster::start_with(1, 1, &jwt).await;
    let gateway = cluster.gateway_addresses().await[0];
    // Here a client has time to renew its token on a busy machine.
    let mut lenient = cluster.node_with("gateway", &[("auth.leeway", "60s")]);
    let short = |user| format!("?token={}", token(user, 8.0));
    let mut renewed = Socket::open(lenient.gateway().await, &short("ann"), Encoding::Json).await;
    let mut ending = Socket::open(gateway, &short("ann"), Encoding::MsgPack).await;
    for socket in [&mut renewed, &mut ending] {
        socket.welcome().await;
        socket.subscribe("mine", &json!({})).await;
    }
    let producer = cluster.producer().await;
    producer.publish_all(&(0..20).map(|n| feed::pattern("AAPL", n)).collect::<Vec<_>>()).await;

    // An invalid token, or one of another user, changes nothing.
    for (bad, code) in [
        (token("ann", -600.0), ErrorCode::AuthFailed),
        (token("bob", 60.0), ErrorCode::AlreadyAuthenticated),
        ("x".to_owned(), ErrorCode::AuthFailed),
    ] {
        assert_eq!(renewed.refused(auth(&bad)).await.code, code.code());
    }
    for socket in [&mut renewed, &mut ending] {
        socket.until_that(|socket| !socket.event_notices().is_empty()).await;
        let notices = socket.event_notices();
        assert_eq!((notices[0].code.as_str(), notices.len()), ("token_expiring", 1));
        assert!(notices[0].expires_ms.is_some_and(|left| left <= 2_000), "{notices:?}");
    }
    let ServerMessage::Authenticated(renewal) = renewed.request(auth(&token("ann", 600.0))).await else {
        panic!("not renewed")
    };
    assert!(renewal.user.as_str() == "ann" && (590_000..=600_000).contains(&renewal.expires_ms), "{renewal:?}");

    // The other session gets the waiting events and its position, and is closed; with a new token it resumes there.
    let (code, _) = ending.closed().await;
    assert_eq!(code, CloseCode::TokenExpired.code());
    producer.publish_all(&(20..40).map(|n| feed::pattern("AAPL", n)).collect::<Vec<_>>()).await;
    let mut frame = ending.resume_frame(&json!({ "mine": { "filter": {} } }));
    frame["id"] = json!("resume");
    let mut again = Socket::open(gateway, &format!("?token={}", token("ann", 600.0)), Encoding::Json).await;
    again.welcome().await;
    again.send(&frame).await;
    assert!(matches!(again.next().await, Incoming::Message(ServerMessage::Subscribed(_))));
    assert!(again.caught_up().await.resumed);
    let log = cluster.log().await;
    again.catch_up(&log.end()).await;
    ending.events.append(&mut again.events);

    renewed.catch_up(&log.end()).await;
    let expected = log.matching("ann", &[filter(&json!({}))]);
    assert_eq!(expected.len(), 40);
    assert_exact("the renewed", &renewed.events, &renewed.gaps, &expected);
    assert_exact("the ended", &ending.events, &ending.gaps, &expected);
    let metrics = lenient.metrics().await;
    assert_eq!(metrics.get("tickwire_gateway_token_renewals_total"), 1.0);
}

/// The error for a token, and the close that follows. The close repeats the text of the error, as far as it fits.
async fn refusal(mut socket: Socket) -> (u16, String, u16) {
    let error = socket.error().await;
    let (close, reason) = socket.closed().await;
    assert_eq!(reason, error.msg[..error.msg.floor_char_boundary(123)]);
    (error.code, error.msg, close)
}

async fn in_the_first_frame(gateway: SocketAddr, token: &str) -> Socket {
    let mut socket = Socket::open(gateway, "", Encoding::Json).await;
    socket.send(&auth(token)).await;
    socket
}

#[tokio::test]
async fn token_errors_are_the_same_in_header_query_and_frame() {
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt_secret", SECRET),
        ("auth.audience", "tickwire,other"),
        ("auth.issuer", "https://id.example"),
        ("gateway.connect_url", "ws://{gateway}/v1/stream"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let claims = |more: Value| {
        let exp = now() + 600.0;
        let mut claims = json!({ "sub": "ann", "exp": exp, "aud": ["tickwire"], "iss": "https://id.example" });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        signed(&jsonwebtoken::Header::default(), &claims)
    };
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.";
    let valid = claims(json!({}));
    let mut socket = Socket::open(gateway, &format!("?token={valid}"), Encoding::Json).await;
    assert_eq!(socket.welcome().await.user.as_str(), "ann");
    assert_eq!(get(gateway, &format!("/v1/connect?token={valid}")).await.0, 200);

    for (token, reason, close) in [
        (claims(json!({ "exp": now() - 3_600.0 })), "expired 3", CloseCode::TokenExpired),
        (claims(json!({ "nbf": now() + 3_600.0 })), "not valid for another 3", CloseCode::TokenNotYetValid),
        (claims(json!({ "exp": "tomorrow" })), "`exp`", CloseCode::AuthFailed),
        (claims(json!({ "exp": null })), "`exp` is missing", CloseCode::AuthFailed),
        (claims(json!({ "aud": "elsewhere" })), "auth.audience", CloseCode::AuthFailed),
        (claims(json!({ "iss": "https://evil.example" })), "auth.issuer", CloseCode::AuthFailed),
        (claims(json!({ "sub": null })), "`sub` is missing", CloseCode::AuthFailed),
        (format!("{valid}x"), "signature", CloseCode::AuthFailed),
        (unsigned.to_owned(), "none", CloseCode::AuthFailed),
    ] {
        let ways = [
            Socket::open(gateway, &format!("?token={token}"), Encoding::Json).await,
            Socket::open_with_bearer(gateway, &token).await,
            in_the_first_frame(gateway, &token).await,
        ];
        for socket in ways {
            let (code, msg, closed) = refusal(socket).await;
            assert_eq!((code, closed), (ErrorCode::AuthFailed.code(), close.code()), "{reason}: {msg}");
            assert!(msg.contains(reason) && !msg.contains(SECRET), "{reason}: {msg}");
        }
        let (status, msg) = get(gateway, &format!("/v1/connect?token={token}")).await;
        assert!(status == 401 && msg.contains(reason), "{reason}: {msg}");
    }
}

/// A client that authenticates too late may connect again, and a bare `ping` costs it nothing.
#[tokio::test]
async fn temporary_faults_are_not_final_closes() {
    let jwt = [("auth.mode", "jwt"), ("auth.jwt_secret", SECRET), ("gateway.auth_timeout", "200ms")];
    let mut cluster = Cluster::start_with(1, 1, &jwt).await;
    let gateway = cluster.gateway_addresses().await[0];
    let late = Socket::open(gateway, "", Encoding::Json).await;
    assert_eq!(refusal(late).await.2, CloseCode::AuthTimeout.code());
    let mut socket = Socket::open(gateway, &format!("?token={}", token("ann", 600.0)), Encoding::Json).await;
    socket.welcome().await;
    socket.send_message(tokio_tungstenite::tungstenite::Message::text("ping")).await;
    let error = socket.error().await;
    assert!(error.code == 400 && error.msg.contains("{\"action\":\"ping\"}"), "{error:?}");
    let pinged = timeout(DEADLINE, socket.request(json!({ "action": "ping" }))).await.unwrap();
    assert!(matches!(pinged, ServerMessage::Pong(_)));
}
