//! Wrong frames and wrong credentials: every refusal has its code, and every close its reason.

use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::{Encoding, Id, ServerError, ServerMessage};
use tickwire_testkit::eventually;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::cluster::Cluster;
use crate::feed;
use crate::node::{DEADLINE, tickwire};
use crate::socket::{Incoming, Socket, refused_upgrade};
use crate::wire::{Wire, frame, upgrade};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Frames that are refused, each with its code.
fn refused_frames() -> Vec<(Value, ErrorCode)> {
    let subscribe = |filter: Value| json!({ "action": "subscribe", "filter": filter });
    vec![
        (json!({}), ErrorCode::UnknownAction),
        (json!({ "action": 7 }), ErrorCode::UnknownAction),
        (json!({ "action": "subscribed" }), ErrorCode::UnknownAction),
        (json!({ "action": "auth", "token": "t" }), ErrorCode::AlreadyAuthenticated),
        (json!({ "action": "ping", "note": 1 }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "name": "*" }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "name": "" }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "window_ms": 1001 }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "filters": {} }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "preset": "weekly" }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "preset": "specific" }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "preset": "daily", "filter": {} }), ErrorCode::BadField),
        (json!({ "action": "subscribe", "symbols": ["AAPL"] }), ErrorCode::BadField),
        (json!({ "action": "unsubscribe", "name": "nothing" }), ErrorCode::UnknownSubscription),
        (subscribe(json!([])), ErrorCode::BadFilter),
        (subscribe(json!({ "symbol": "AAPL" })), ErrorCode::BadFilter),
        (subscribe(json!({ "symbols": [] })), ErrorCode::BadFilter),
        (subscribe(json!({ "symbols": "AAPL" })), ErrorCode::BadFilter),
        (subscribe(json!({ "tiers": ["weekly"] })), ErrorCode::BadFilter),
        (subscribe(json!({ "kinds": ["news"] })), ErrorCode::BadFilter),
        (subscribe(json!({ "min_confidence": 1.5 })), ErrorCode::BadFilter),
        (subscribe(json!({ "min_priority": "urgent" })), ErrorCode::BadFilter),
    ]
}

#[tokio::test]
async fn malformed_frames_get_errors_and_the_session_continues() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.max_malformed", "1000")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    for encoding in Encoding::ALL {
        let mut socket = Socket::connect(gateway, "ann", encoding).await;
        for (frame, code) in refused_frames() {
            let error = socket.refused(frame.clone()).await;
            assert_eq!((error.code, error.msg.is_empty()), (code.code(), false), "{frame}: {error:?}");
        }
        // Any number and any short text is an id; other values cannot be echoed.
        for id in [json!(0), json!(-1.5), json!("a text")] {
            socket.send(&json!({ "action": "fly", "id": id })).await;
            let error = socket.error().await;
            assert_eq!((error.code, json!(error.id)), (ErrorCode::UnknownAction.code(), id));
        }
        for id in [json!([]), json!("x".repeat(Id::MAX_TEXT + 1))] {
            socket.send(&json!({ "action": "ping", "id": id })).await;
            let error = socket.error().await;
            assert_eq!((error.code, error.id), (ErrorCode::BadField.code(), None));
        }
        let (own, other) = match encoding {
            Encoding::Json => (Message::text("{\"action\":"), Message::binary(vec![0x80])),
            Encoding::MsgPack => (Message::binary(vec![0xc1]), Message::text("{\"action\":\"ping\"}")),
        };
        for message in [own, other] {
            socket.send_message(message).await;
            assert_eq!(socket.error().await.code, ErrorCode::BadFrame.code());
        }
        socket.send(&json!([{ "action": "ping" }])).await;
        assert_eq!(socket.error().await.code, ErrorCode::BadFrame.code());

        // The session still works.
        socket.subscribe("all", &json!({})).await;
        cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
        socket.until(1).await;
        assert!(matches!(socket.request(json!({ "action": "ping" })).await, ServerMessage::Pong(_)));
    }
}

#[tokio::test]
async fn closes_after_max_malformed_frames() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.max_malformed", "5")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    for number in 1..=6 {
        socket.send(&json!({ "action": "fly", "id": number })).await;
    }
    for number in 1..=6 {
        assert_eq!(socket.error().await.id, Some(Id::Number(number.into())));
    }
    assert_closed(&mut socket, CloseCode::TooManyBadFrames).await;

    eventually("the frames and the close are counted", DEADLINE, async || {
        let metrics = cluster.gateways[0].metrics().await;
        let counts = ["refused_frames", "closes"].map(|what| metrics.get(&format!("tickwire_gateway_{what}_total")));
        (counts == [6.0, 1.0]).then_some(())
    })
    .await;
}

/// The close reason for reserved opcodes.
const RESERVED: &str = "an opcode that RFC 6455 reserves";

/// Frames that WebSocket forbids end a connection with their code. Unusual frames that it allows are answered.
#[tokio::test]
async fn forbidden_websocket_frames_are_closed_with_their_code() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let broken = |reason| Some((CloseCode::ProtocolError, reason));
    let (garbled, too_large) = [CloseCode::NotUtf8, CloseCode::TooBig].map(|code| Some((code, code.text()))).into();
    let huge = |first: u8, length: u64| [&[first, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    let euro = "{\"action\":\"ping\",\"id\":\"\u{20ac}\"}".as_bytes();
    let within = euro.len() - 4;
    for (what, sent, code) in [
        ("a frame without a mask", b"\x81\x02{}".to_vec(), broken("a frame without a mask")),
        ("a bit for compression", frame(0xc1, b"{}"), broken("reserved bits set")),
        ("a large one with that bit", huge(0xc1, 200_000), too_large),
        ("an opcode without a meaning", frame(0x83, b"{}"), broken(RESERVED)),
        ("a large one of that opcode", huge(0x83, 200_000), broken(RESERVED)),
        ("a control opcode without a meaning", frame(0x8b, b""), broken(RESERVED)),
        ("a ping of 126 bytes", frame(0x89, &[b'p'; 126]), broken("a control frame of more than 125 bytes")),
        ("a ping in fragments", frame(0x09, b""), broken("a control frame in fragments")),
        ("the end of nothing", frame(0x80, b"{}"), broken("a continuation of nothing")),
        (
            "a message within another",
            [frame(0x01, b"{"), frame(0x81, b"}")].concat(),
            broken("a message between the fragments of another"),
        ),
        ("text that is not UTF-8", frame(0x81, b"\xff"), garbled),
        ("the same in two fragments", [frame(0x01, b"\xe2\x82"), frame(0x80, b"x")].concat(), garbled),
        ("the beginning of such a text", [&[0x81, 0xe0, 0, 0, 0, 0][..], b"\xe2\x28"].concat(), garbled),
        ("a goodbye of one byte", frame(0x88, b"\x03"), broken("a close frame that is not well-formed")),
        ("a length beyond all bounds", huge(0x81, u64::MAX), too_large),
        ("a character in two fragments", [frame(0x01, &euro[..within]), frame(0x80, &euro[within..])].concat(), None),
        (
            "a length in more bytes than it takes",
            {
                let mut long = vec![0x81, 0xfe, 0, euro.len() as u8, 0, 0, 0, 0];
                long.extend(euro);
                long
            },
            None,
        ),
        (
            "a ping of 125 bytes between fragments",
            { [frame(0x01, &euro[..5]), frame(0x89, &[b'p'; 125]), frame(0x80, &euro[5..])].concat() },
            None,
        ),
    ] {
        let mut wire = Wire::connect(gateway).await;
        assert_eq!(wire.ask(&upgrade("?user=ann", "")).await.status, 101);
        wire.until(b"welcome", DEADLINE).await.unwrap();
        wire.send(&sent).await;
        match code {
            Some((code, reason)) => {
                let goodbye = [&code.code().to_be_bytes()[..], reason.as_bytes()].concat();
                let closed = wire.until(&goodbye, DEADLINE).await;
                closed.unwrap_or_else(|| panic!("{what} is not closed with {code:?}, {reason}"));
            }
            None => {
                wire.until(b"\"T\":\"pong\"", DEADLINE).await.unwrap_or_else(|| panic!("{what} is not answered"));
            }
        }
    }
}

/// A session whose `resume` is too large subscribes again on the same connection.
#[tokio::test]
async fn too_large_frame_gets_an_error_and_is_skipped() {
    const LIMIT: u64 = 131_072;
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let rooms =
        |begin: u32, count| (begin..begin + count).map(|n| format!("a room with a long name, {n}")).collect::<Vec<_>>();
    let desk = |begin| json!({ "rooms": rooms(begin, 900) });
    for encoding in Encoding::ALL {
        let mut socket = Socket::open(gateway, "?user=ann", encoding).await;
        assert_eq!(socket.welcome().await.max_frame_bytes, Some(LIMIT));
        let position = socket.list().await.position;
        let subscriptions = json!({ "a": { "filter": { "rooms": rooms(0, 6_000) } } });
        socket.send(&json!({ "action": "resume", "position": position, "subscriptions": subscriptions })).await;
        let error = socket.error().await;
        assert_eq!((error.code, error.id), (ErrorCode::FrameTooLarge.code(), None));
        assert!(error.msg.contains(&LIMIT.to_string()), "{}", error.msg);
        assert_eq!(socket.subscribe("a", &desk(0)).await.subscriptions.len(), 1);
        assert_eq!(socket.subscribe("b", &desk(1_000)).await.subscriptions.len(), 2);
        // The largest session fits into one resume.
        let subscriptions = json!({ "a": { "filter": desk(0) }, "b": { "filter": desk(1_000) } });
        assert_eq!(socket.resume(gateway, "ann", &subscriptions).await.subscriptions.len(), 2);
    }
}

#[tokio::test]
async fn limit_errors_contain_the_limit() {
    let limits = [("gateway.max_subscriptions", "3"), ("gateway.max_symbols", "5")];
    let mut cluster = Cluster::start_with(1, 1, &limits).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::MsgPack).await;
    let subscribe = |name: &str, symbols: &[&str]| match symbols {
        [] => json!({ "action": "subscribe", "name": name }),
        _ => json!({ "action": "subscribe", "name": name, "filter": { "symbols": symbols } }),
    };
    let granted = |answer: ServerMessage| matches!(answer, ServerMessage::Subscribed(_));
    assert!(granted(socket.request(subscribe("a", &["1", "2", "3"])).await));
    let error = socket.refused(subscribe("b", &["3", "4", "5"])).await;
    assert_eq!((error.code, error.msg.contains('5')), (ErrorCode::SymbolLimit.code(), true), "{error:?}");
    // A replaced filter makes room for the new one.
    assert!(granted(socket.request(subscribe("a", &["1", "2", "3", "4", "5"])).await));
    assert!(granted(socket.request(subscribe("b", &[])).await));
    assert!(granted(socket.request(subscribe("c", &[])).await));
    let error = socket.refused(subscribe("d", &[])).await;
    assert_eq!((error.code, error.msg.contains('3')), (ErrorCode::SubscriptionLimit.code(), true), "{error:?}");
    // Frames beyond a limit do not count as malformed.
    for _ in 0..20 {
        socket.refused(subscribe("d", &[])).await;
    }
    let names: Vec<_> = socket.list().await.subscriptions.into_keys().collect();
    assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn jwt_mode_accepts_only_tokens() {
    let jwt = [("auth.mode", "jwt"), ("auth.jwt_secret", SECRET), ("gateway.auth_timeout", "60s")];
    let mut cluster = Cluster::start_with(1, 1, &jwt).await;
    let gateway = cluster.gateway_addresses().await[0];
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let valid = token(SECRET, &json!({ "sub": "bob@x.com", "exp": now + 60 }));

    let mut socket = Socket::open(gateway, &format!("?token={valid}"), Encoding::Json).await;
    assert_eq!(socket.welcome().await.user.as_str(), "bob@x.com");
    let mut socket = Socket::open(gateway, "", Encoding::MsgPack).await;
    socket.send(&json!({ "action": "auth", "token": valid, "id": 1 })).await;
    assert_eq!(socket.welcome().await.user.as_str(), "bob@x.com");

    // A token of `tickwire token` is accepted.
    let mut command = tickwire();
    let made = command.args(["token", "--user", "carl", "--secret", SECRET]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let made = String::from_utf8(made.stdout).unwrap();
    let mut socket = Socket::open(gateway, &format!("?token={}", made.trim()), Encoding::Json).await;
    assert_eq!(socket.welcome().await.user.as_str(), "carl");

    for bad in [
        format!("?token={}", token(&SECRET.replace('0', "1"), &json!({ "sub": "ann", "exp": now + 60 }))),
        format!("?token={}", token(SECRET, &json!({ "sub": "ann" }))),
        format!("?token={}", token(SECRET, &json!({ "exp": now + 60 }))),
        format!("?token={}", token(SECRET, &json!({ "sub": "", "exp": now + 60 }))),
        format!("?token={valid}x"),
        "?token=".to_owned(),
        "?user=ann".to_owned(),
    ] {
        let mut socket = Socket::open(gateway, &bad, Encoding::Json).await;
        let error = socket.error().await;
        assert_eq!(error.code, ErrorCode::AuthFailed.code(), "{bad}");
        assert_eq!(socket.closed().await, (CloseCode::AuthFailed.code(), close_reason(&error)), "{bad}");
    }

    let mut socket = Socket::open(gateway, "", Encoding::Json).await;
    socket.send(&json!({ "action": "auth", "token": "wrong", "id": 9 })).await;
    let error = socket.error().await;
    assert_eq!(socket.closed().await, (CloseCode::AuthFailed.code(), close_reason(&error)));
    assert_eq!((error.code, error.id), (ErrorCode::AuthFailed.code(), Some(Id::Number(9.into()))));

    let mut socket = Socket::open(gateway, "", Encoding::Json).await;
    socket.send(&json!({ "action": "list" })).await;
    assert_eq!(socket.error().await.code, ErrorCode::NotAuthenticated.code());
    assert_closed(&mut socket, CloseCode::AuthFailed).await;

    // This gateway gives clients less time than the others of this test may need.
    let mut hasty = cluster.node_with("gateway", &[("gateway.auth_timeout", "500ms")]);
    let gateway = hasty.gateway().await;
    let mut socket = Socket::open(gateway, "", Encoding::Json).await;
    assert_eq!(socket.error().await.code, ErrorCode::AuthTimeout.code());
    assert_closed(&mut socket, CloseCode::AuthTimeout).await;

    // A connection that only pings as fast as it can, and reads nothing, gets no more time.
    let mut socket = Socket::open(gateway, "", Encoding::Json).await;
    let flood = async { while socket.try_send(Message::Ping(vec![7; 100].into())).await {} };
    timeout(DEADLINE, flood).await.expect("the flood is ended");
    eventually("both closes are counted", DEADLINE, async || {
        (hasty.metrics().await.get("tickwire_gateway_closes_total") == 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn invalid_upgrades_get_an_http_status() {
    let settings = [("gateway.max_sessions", "1"), ("gateway.allowed_origins", "https://app.example")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    assert_eq!(refused_upgrade(gateway, &[("origin", "https://evil.example")]).await, 403);
    assert_eq!(refused_upgrade(gateway, &[("sec-websocket-protocol", "mqtt")]).await, 400);
    assert_eq!(refused_upgrade(gateway, &[("authorization", "Basic eDp5")]).await, 400);
    let _only = Socket::connect(gateway, "ann", Encoding::Json).await;
    assert_eq!(refused_upgrade(gateway, &[("origin", "https://app.example")]).await, 503);
    assert_eq!(crate::node::get(gateway, "/v1/stream").await.0, 426);
    assert_eq!(crate::node::get(gateway, "/v2").await.0, 404);
}

#[tokio::test]
async fn sessions_of_one_user_take_no_room_from_others() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.user_sessions", "2")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let first = Socket::connect(gateway, "ann", Encoding::Json).await;
    let mut second = Socket::connect(gateway, "ann", Encoding::MsgPack).await;
    let mut third = Socket::open(gateway, "?user=ann", Encoding::Json).await;
    assert_closed(&mut third, CloseCode::TooManySessions).await;
    Socket::connect(gateway, "bob", Encoding::Json).await;
    second.subscribe("all", &json!({})).await;
    // The room of a session that has ended is free again.
    drop(first);
    eventually("there is room for another session", DEADLINE, async || {
        let mut socket = Socket::open(gateway, "?user=ann", Encoding::Json).await;
        match socket.next().await {
            Incoming::Message(ServerMessage::Welcome(_)) => Some(()),
            Incoming::Closed(code, _) if code == CloseCode::TooManySessions.code() => None,
            other => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn upgrades_beyond_the_admission_rate_get_retry_after() {
    let mut cluster = Cluster::start_with(1, 1, &[("gateway.admission_rate", "2")]).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut crowd = Vec::new();
    let refused = loop {
        assert!(crowd.len() < 500, "the gateway admits too many");
        match connect_async(format!("ws://{gateway}/v1/stream?user=ann")).await {
            Ok((socket, _)) => crowd.push(socket),
            Err(Error::Http(answer)) => break answer,
            Err(error) => panic!("{error}"),
        }
    };
    let retry_after: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!((refused.status().as_u16(), (1..=3).contains(&retry_after)), (503, true));
    eventually("the gateway admits again", DEADLINE, async || {
        connect_async(format!("ws://{gateway}/v1/stream?user=ann")).await.ok()
    })
    .await;
}

async fn assert_closed(socket: &mut Socket, code: CloseCode) {
    assert_eq!(socket.closed().await, (code.code(), code.text().to_owned()));
}

/// The reason of the close that follows the error of a refused token: its text, as far as it fits.
fn close_reason(error: &ServerError) -> String {
    error.msg[..error.msg.floor_char_boundary(123)].to_owned()
}

fn token(secret: &str, claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}
