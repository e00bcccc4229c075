//! Vectors of the frames of the server, byte by byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tickwire_core::event::{Event, EventContext, Regime, TradingSession, Volatility};
use tickwire_core::filter::Filter;
use tickwire_core::filter::presets::{Preset, PresetRequest};
use tickwire_core::ids::{NodeId, Partition, Sector, Seq, UserId};
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::{
    Acked, ArrayWriter, Authenticated, CaughtUp, Encoding, Gap, Goaway, Heartbeat, Id, Notice, Pong, SeqRange,
    ServerError, ServerFrame, ServerMessage, Subscription, SubscriptionName, Subscriptions, Welcome, encode,
    encode_alert, encode_event, write_array,
};

use crate::events::decoded;
use crate::read::{from_hex, kinds, vectors};

#[derive(Deserialize)]
pub(crate) struct ServerFrames {
    pub(crate) frames: Vec<ServerVector>,
}

#[derive(Deserialize)]
pub(crate) struct ServerVector {
    name: String,
    pub(crate) json: String,
    msgpack: String,
}

fn array(objects: &[Vec<u8>], encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_array(&mut bytes, objects.iter().map(Vec::as_slice), encoding);
    bytes
}

#[test]
fn server_frames_are_encoded_as_documented() {
    let vectors: ServerFrames = vectors("server_frames.json");
    let names: Vec<_> = vectors.frames.iter().map(|vector| vector.name.clone()).collect();
    let messages = messages();
    assert_eq!(names, messages.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (vector, (name, [json, msgpack])) in vectors.frames.into_iter().zip(messages) {
        assert_eq!(String::from_utf8(array(&json, Encoding::Json)).unwrap(), vector.json, "{name}");
        assert_eq!(array(&msgpack, Encoding::MsgPack), from_hex(&vector.msgpack), "{name}");

        let received = ServerMessage::parse(vector.json.as_bytes(), Encoding::Json).unwrap();
        assert!(!received.contains(&ServerMessage::Unknown), "{name}");
        assert_eq!(received.len(), json.len(), "{name}");
        let from_msgpack = ServerMessage::parse(&from_hex(&vector.msgpack), Encoding::MsgPack).unwrap();
        assert_eq!(from_msgpack, received, "{name}");
    }
}

type Parts = [Vec<Vec<u8>>; 2];

/// An object that is written for one session.
fn written(write: impl Fn(&mut ArrayWriter<'_>, Encoding)) -> Parts {
    Encoding::ALL.map(|encoding| {
        let mut bytes = Vec::new();
        let mut array = ArrayWriter::new(&mut bytes, 1, encoding);
        write(&mut array, encoding);
        array.end();
        // Without the bytes of the array.
        let end = bytes.len() - usize::from(encoding == Encoding::Json);
        vec![bytes[1..end].to_vec()]
    })
}

/// An event as an alert for subscriptions with these names.
fn alert(event: &Event, p: u16, seq: u64, subs: &[&str]) -> Parts {
    written(|array, encoding| array.alert(&encode_alert(event, Partition(p), Seq(seq), encoding), subs))
}

/// The messages of `server_frames.json` in order, each as its objects in JSON and in MessagePack.
fn messages() -> Vec<(&'static str, Parts)> {
    let frame = |frame: ServerFrame| Encoding::ALL.map(|encoding| vec![encode(&frame, encoding)]);
    let event = |event: &Event, p: u16, seq: u64| {
        Encoding::ALL.map(|encoding| vec![encode_event(event, Partition(p), Seq(seq), encoding)])
    };
    let join = |a: Parts, b: Parts| {
        let [(a_json, a_msgpack), (b_json, b_msgpack)] = [a, b].map(|[json, msgpack]| (json, msgpack));
        [[a_json, b_json].concat(), [a_msgpack, b_msgpack].concat()]
    };
    let id = |number: u64| Some(Id::Number(number.into()));
    let one = |name: &str, filter: Value, window_ms| {
        let filter = Arc::new(Filter::parse(&filter, &kinds()).unwrap());
        [(
            SubscriptionName::new(name).unwrap(),
            Subscription { filter, window_ms, max_events_per_hour: None, alert: false },
        )]
        .into()
    };
    let mut few: BTreeMap<SubscriptionName, Subscription> = one("few", json!({ "symbols": ["AAPL"] }), 100);
    few.values_mut().for_each(|subscription| subscription.max_events_per_hour = Some(60));
    let mut alerts: BTreeMap<SubscriptionName, Subscription> =
        one("breakouts", json!({ "patterns": ["BreakoutBO"], "min_confidence": 0.7 }), 100);
    alerts.values_mut().for_each(|subscription| subscription.alert = true);
    let swing = PresetRequest::new(Preset::SwingTrading, Some(&json!(["AAPL", "NVDA"])), None).unwrap();
    let max_events_per_hour = swing.preset().max_events_per_hour();
    let swing = Subscription { filter: Arc::new(swing.filter()), window_ms: 100, max_events_per_hour, alert: false };
    let swing: BTreeMap<_, _> = [(SubscriptionName::new("swing").unwrap(), swing)].into();
    let position = "ARhj8jeTtx4ABNRRAAwDAA";
    let breakouts = json!({
        "symbols": ["AAPL", "TSLA"], "patterns": ["BreakoutBO"], "tiers": ["daily"],
        "min_confidence": 0.7, "min_priority": "medium",
    });
    let desk = json!({
        "rooms": ["desk 1"],
        "data": { "levels.support": { "min": 100.0 }, "source": { "in": ["feed", "TickStockPL"] } },
    });
    let published = |kind: &str, key: &str, payload: Value| {
        decoded(&serde_json::from_value(json!({ "name": kind, "kind": kind, "key": key, "payload": payload })).unwrap())
    };
    let old = event(
        &published(
            "pattern",
            "AAPL",
            json!({
                "pattern": "BreakoutBO", "symbol": "AAPL", "tier": "daily", "confidence": 0.87,
                "timestamp": 1757514600.12, "source": "TickStockPL",
            }),
        ),
        3,
        10452,
    );
    let least = event(&published("note", "bob@x.com", json!({ "id": "n-1", "ts": "2025-09-10" })), 300, 5_000_000_000);
    let market = json!({ "id": "EVENTS:7", "regime": "bear", "confidence": 0.5 });
    let market = event(&published("market", "US", market), 0, 7);
    let rooms = json!({ "pattern": "Doji", "rooms": ["vip", "desk 1"] });
    let in_rooms = event(&published("pattern", "AAPL", rooms), 3, 10453);
    let voluminous = published("pattern", "AAPL", json!({ "pattern": "Doji", "volume": 2500 }));
    let within = |context| event(&Event { context: Some(Box::new(context)), ..voluminous.clone() }, 3, 10454);
    let raised = json!({ "pattern": "BreakoutBO", "confidence": 0.92, "priority": "medium" });
    let raised = alert(&published("pattern", "AAPL", raised), 3, 10456, &["all", "breakouts"]);
    let to_user = json!({ "alert_id": "a-1", "priority": "high", "message": "Margin call" });
    let to_user = published("alert", "u1", to_user);
    let event_again =
        written(|array, encoding| array.again(&encode_event(&to_user, Partition(3), Seq(10_457), encoding)));
    let alert_again = written(|array, encoding| {
        array.alert_again(&encode_alert(&to_user, Partition(3), Seq(10_457), encoding), &["alerts"]);
    });
    let session = EventContext { session: Some(TradingSession::Regular), ..EventContext::default() };
    let all = EventContext {
        regime: Some(Regime::Bull),
        volatility: Some(Volatility::Low),
        relative_volume: Some(2.5),
        sector: Sector::new("Technology").ok(),
        sector_strength: Some(0.9),
        ..session
    };
    let notice = |code: &str, msg: Option<&str>, dropped| {
        let none = Notice::new(NoticeCode::SlowConsumer);
        frame(ServerFrame::Notice(Notice { code: code.into(), msg: msg.map(str::to_owned), dropped, ..none }))
    };
    let range = |p, first, last| SeqRange { p: Partition(p), first: Seq(first), last: Seq(last) };
    let subscription = SubscriptionName::new("breakouts").ok();
    let error = |id, code, msg: &str| frame(ServerFrame::Error(ServerError { id, code, msg: msg.to_owned() }));
    vec![
        (
            "welcome",
            frame(ServerFrame::Welcome(Welcome {
                session: "gw-1-0-17".into(),
                user: UserId::new("u1").unwrap(),
                gateway: NodeId::new("gw-1").unwrap(),
                heartbeat_ms: 15_000,
                max_frame_bytes: None,
                subscriptions: Vec::new(),
            })),
        ),
        (
            "welcome and the largest frame",
            frame(ServerFrame::Welcome(Welcome {
                session: "gw-1-0-17".into(),
                user: UserId::new("u1").unwrap(),
                gateway: NodeId::new("gw-1").unwrap(),
                heartbeat_ms: 15_000,
                max_frame_bytes: Some(262_144),
                subscriptions: Vec::new(),
            })),
        ),
        (
            "welcome and saved subscriptions",
            frame(ServerFrame::Welcome(Welcome {
                session: "gw-1-0-17".into(),
                user: UserId::new("u1").unwrap(),
                gateway: NodeId::new("gw-1").unwrap(),
                heartbeat_ms: 15_000,
                max_frame_bytes: Some(262_144),
                subscriptions: ["breakouts", "portfolio"].map(|name| SubscriptionName::new(name).unwrap()).to_vec(),
            })),
        ),
        (
            "authenticated",
            frame(ServerFrame::Authenticated(Authenticated {
                id: id(9),
                user: UserId::new("u1").unwrap(),
                expires_ms: 3_600_000,
            })),
        ),
        (
            "subscribed",
            frame(ServerFrame::Subscribed(Subscriptions::new(
                id(1),
                one("breakouts", breakouts, 100),
                position.into(),
            ))),
        ),
        (
            "subscribed to a room, with conditions",
            frame(ServerFrame::Subscribed(Subscriptions::new(id(6), one("desk", desk, 100), position.into()))),
        ),
        ("subscribed with a quota", frame(ServerFrame::Subscribed(Subscriptions::new(id(7), few, position.into())))),
        ("subscribed with alerts", frame(ServerFrame::Subscribed(Subscriptions::new(id(12), alerts, position.into())))),
        ("subscribed to a preset", frame(ServerFrame::Subscribed(Subscriptions::new(id(10), swing, position.into())))),
        (
            "subscribed, nothing left",
            frame(ServerFrame::Subscribed(Subscriptions::new(None, [].into(), position.into()))),
        ),
        (
            "subscriptions",
            frame(ServerFrame::Subscriptions(Subscriptions::new(
                id(4),
                one("all", json!({ "market_hours_only": true }), 0),
                position.into(),
            ))),
        ),
        ("event", old.clone()),
        ("event with the least", least.clone()),
        ("event of the market", market),
        ("event sent to rooms", in_rooms),
        ("event with context", within(all)),
        ("event with what a replay knows", within(session)),
        ("alert", raised),
        ("event that comes again", event_again),
        ("alert that comes again", alert_again),
        ("acked", frame(ServerFrame::Acked(Acked { id: id(13), p: Partition(3), seq: Seq(10_452) }))),
        ("batch", join(old, least)),
        ("caught up", frame(ServerFrame::CaughtUp(CaughtUp { id: id(8), resumed: true, position: position.into() }))),
        ("heartbeat", frame(ServerFrame::Heartbeat(Heartbeat { position: Some(position.into()) }))),
        ("heartbeat before the first answer", frame(ServerFrame::Heartbeat(Heartbeat { position: None }))),
        ("early", frame(ServerFrame::Early)),
        ("notice", notice("slow_consumer", None, 12)),
        ("notice in words", notice("lagging", Some("partition 3 is 2 s behind"), 0)),
        (
            "notice of a rate",
            frame(ServerFrame::Notice(Notice {
                msg: Some("100 events a second, shared by 2 sessions".to_owned()),
                subscription: subscription.clone(),
                dropped: 12,
                conflated: 40,
                ranges: vec![range(3, 10_452, 10_460), range(7, 10_455, 10_455)],
                ..Notice::new(NoticeCode::Throttled)
            })),
        ),
        (
            "notice of expired events",
            frame(ServerFrame::Notice(Notice {
                subscription: subscription.clone(),
                dropped: 2,
                ranges: vec![range(3, 10_452, 10_460)],
                ..Notice::new(NoticeCode::Expired)
            })),
        ),
        (
            "notice of a delay",
            frame(ServerFrame::Notice(Notice {
                subscription,
                delayed: 3,
                ranges: vec![range(3, 10_452, 10_460)],
                ..Notice::new(NoticeCode::CriticalBudget)
            })),
        ),
        (
            "notice of a token",
            frame(ServerFrame::Notice(Notice {
                msg: Some(
                    "the token expires in 60 s; send {\"action\":\"auth\",\"token\":…} with a new one".to_owned(),
                ),
                expires_ms: Some(60_000),
                ..Notice::new(NoticeCode::TokenExpiring)
            })),
        ),
        (
            "notice of alerts that do not come again",
            frame(ServerFrame::Notice(Notice {
                msg: Some(
                    "3 unacknowledged alerts do not come again: 3 beyond gateway.again_max or gateway.outbox_bytes, 0 \
                     beyond quotas"
                        .to_owned(),
                ),
                ..Notice::new(NoticeCode::AgainLimit)
            })),
        ),
        (
            "gap",
            frame(ServerFrame::Gap(Gap { reason: "lost".into(), p: Partition(3), from: Seq(10_452), to: Seq(10_460) })),
        ),
        ("goaway", frame(ServerFrame::Goaway(Goaway { reason: "drain".into(), reconnect_ms: 1_840 }))),
        ("error", error(id(1), 405, "symbol limit is 500 per connection")),
        ("error without an id", error(None, 400, "not JSON: expected value at line 1 column 1")),
        ("pong", frame(ServerFrame::Pong(Pong { id: id(5) }))),
        ("pong without an id", frame(ServerFrame::Pong(Pong { id: None }))),
        ("nothing", [vec![], vec![]]),
    ]
}

#[test]
fn unknown_types_and_fields_are_ignored() {
    let json = br#"[{"T":"later","x":[{}]},{"T":"pong","id":"a","new":{"b":1}}]"#;
    let expected = [ServerMessage::Unknown, ServerMessage::Pong(Pong { id: Some(Id::Text("a".into())) })];
    assert_eq!(ServerMessage::parse(json, Encoding::Json).unwrap(), expected);
    let msgpack = rmp_serde::to_vec(&serde_json::from_slice::<Value>(json).unwrap()).unwrap();
    assert_eq!(ServerMessage::parse(&msgpack, Encoding::MsgPack).unwrap(), expected);
    assert!(ServerMessage::parse(br#"{"T":"pong"}"#, Encoding::Json).is_err());
    assert!(ServerMessage::parse(br#"[{"T":"caught_up","resumed":true}]"#, Encoding::Json).is_err());
}

#[test]
fn arrays_of_every_length_have_the_right_header() {
    for len in [0, 15, 16, 65_535, 65_536] {
        let pong = encode(&ServerFrame::Pong(Pong { id: None }), Encoding::MsgPack);
        let bytes = array(&vec![pong; len], Encoding::MsgPack);
        assert_eq!(ServerMessage::parse(&bytes, Encoding::MsgPack).unwrap().len(), len);
    }
}
