//! Vectors of the frames of clients.

use serde::Deserialize;
use serde_json::{Value, json};
use tickwire_core::protocol::{ClientFrame, Encoding};

use crate::read::{from_hex, vectors};

#[derive(Deserialize)]
pub(crate) struct ClientFrames {
    pub(crate) accepted: Vec<AcceptedFrame>,
    refused: Vec<RefusedFrame>,
}

#[derive(Deserialize)]
pub(crate) struct AcceptedFrame {
    name: String,
    pub(crate) json: String,
    msgpack: String,
    normal: Value,
}

#[derive(Deserialize)]
struct RefusedFrame {
    name: String,
    json: String,
    code: u16,
    id: Value,
}

#[test]
fn client_frames_are_read_or_refused_as_documented() {
    let frames: ClientFrames = vectors("client_frames.json");
    for case in frames.accepted {
        let parsed = ClientFrame::parse(case.json.as_bytes(), Encoding::Json);
        let (id, frame) = parsed.clone().unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(ClientFrame::parse(&from_hex(&case.msgpack), Encoding::MsgPack), parsed, "{}", case.name);

        let json = frame.encode(id.as_ref(), Encoding::Json);
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), case.normal, "{}", case.name);
        let msgpack = frame.encode(id.as_ref(), Encoding::MsgPack);
        assert_eq!(ClientFrame::parse(&msgpack, Encoding::MsgPack), parsed, "{}", case.name);
    }
    for case in frames.refused {
        let error = ClientFrame::parse(case.json.as_bytes(), Encoding::Json).expect_err(&case.name);
        assert_eq!((error.code.code(), json!(error.id)), (case.code, case.id), "{}", case.name);
    }
}

#[test]
fn hostile_msgpack_frames_are_bad_frames() {
    for bytes in [&[][..], &[0x80, 0x80], &[0x91; 100], &[0xdf, 0xff, 0xff, 0xff, 0xff], &[0xc1]] {
        let error = ClientFrame::parse(bytes, Encoding::MsgPack).unwrap_err();
        assert_eq!((error.code.code(), error.id), (400, None), "{bytes:x?}");
    }
}

#[test]
fn tokens_stay_out_of_logs() {
    let (_, frame) = ClientFrame::parse(br#"{"action":"auth","token":"secret"}"#, Encoding::Json).unwrap();
    assert!(!format!("{frame:?}").contains("secret"));
}

#[test]
fn bare_action_name_is_answered_with_its_frame() {
    let message_of = |bytes: &[u8], encoding| ClientFrame::parse(bytes, encoding).unwrap_err().message;
    for bare in ["ping", "PING\r\n", "\"ping\"", " 'ping' "] {
        let message = message_of(bare.as_bytes(), Encoding::Json);
        assert!(message.ends_with("; write it as {\"action\":\"ping\"}"), "{bare:?}: {message}");
    }
    let message = message_of(b"\xa4ping", Encoding::MsgPack);
    assert!(message.ends_with("; write it as {\"action\":\"ping\"}"), "{message}");
    for other in ["pong", "", "[\"ping\"]", &"ping".repeat(10_000)] {
        assert!(!message_of(other.as_bytes(), Encoding::Json).contains("write it as"), "{other:.20}");
    }
}
