//! Tests of resumes, and of subscriptions with a backfill.

use std::time::Duration;

use serde_json::json;
use tickwire_core::ids::{EpochId, Partition, Seq};
use tickwire_core::protocol::codes::{CloseCode, ErrorCode};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::since::Since;
use tickwire_core::protocol::{
    ArrayWriter, CaughtUp, ClientFrame, Encoding, Gap, Heartbeat, Id, ServerError, ServerFrame, Welcome, encode_event,
};
use tokio::time::{sleep, timeout};

use super::{config, connected, disconnected, next, subscribe};
use crate::scripted::{Peer, ScriptedServer, event, pong, subscribed};
use crate::{Client, ClientError, FilterRequest, Message, Messages, SubscribeOptions};

/// A position at `seq` in partition 3, the partition of the scripted events.
pub(super) fn position(seq: u64) -> Position {
    Position { epoch_id: EpochId(7), seqs: vec![Seq(1), Seq(1), Seq(1), Seq(seq)] }
}

fn heartbeat(seq: u64) -> ServerFrame {
    ServerFrame::Heartbeat(Heartbeat { position: Some(position(seq).to_string().into()) })
}

pub(super) fn caught_up(id: Id, resumed: bool, seq: u64) -> ServerFrame {
    ServerFrame::CaughtUp(CaughtUp { id: Some(id), resumed, position: position(seq).to_string().into() })
}

/// A client with the subscription `a` and a position at `seq`.
pub(super) async fn positioned(seq: u64) -> (Client, Messages, ScriptedServer, Peer) {
    let (client, mut messages, stage, mut peer) = connected(config()).await;
    subscribe(&client, &mut peer, "a").await;
    peer.send(&[heartbeat(seq)]).await;
    assert!(matches!(next(&mut messages).await, Message::Heartbeat(_)));
    (client, messages, stage, peer)
}

/// Cuts the connection. Returns the next one, and the id, the position and the last seen sequence of its resume.
pub(super) async fn resumed(
    messages: &mut Messages,
    stage: &mut ScriptedServer,
    peer: Peer,
) -> (Peer, Id, Position, Option<u64>) {
    drop(peer);
    disconnected(messages).await;
    let mut peer = stage.welcome().await;
    assert!(matches!(next(messages).await, Message::Connected { .. }));
    let (id, frame) = peer.receive().await;
    let ClientFrame::Resume { position, seen, subscriptions } = frame else { panic!("{frame:?}") };
    assert_eq!(subscriptions.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["a"]);
    (peer, id, position, seen.get(&Partition(3)).map(|seq| seq.0))
}

/// Sends events in one message that begins with `early`.
async fn send_early(peer: &mut Peer, seqs: &[u64]) {
    let mut objects = vec![tickwire_core::protocol::encode(&ServerFrame::Early, peer.encoding)];
    objects.extend(seqs.iter().map(|seq| encode_event(&event(*seq), Partition(3), Seq(*seq), peer.encoding)));
    peer.send_objects(&objects).await;
}

async fn seqs(messages: &mut Messages, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    for _ in 0..count {
        match next(messages).await {
            Message::Event(event) => seqs.push(event.seq.0),
            other => panic!("{other:?}"),
        }
    }
    seqs
}

#[tokio::test(start_paused = true)]
async fn session_resumes_from_its_position_and_delivers_no_event_twice() {
    let (_client, mut messages, mut stage, mut peer) = positioned(10).await;
    peer.send_events([11, 12]).await;
    send_early(&mut peer, &[20, 21]).await;
    assert_eq!(seqs(&mut messages, 4).await, [11, 12, 20, 21]);

    let (mut peer, id, from, seen) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!((from, seen), (position(10), Some(12)));
    peer.send(&[subscribed(id.clone(), &["a"])]).await;
    assert_eq!(next(&mut messages).await, Message::Restored);
    peer.send_events([15, 20]).await;
    assert_eq!(seqs(&mut messages, 1).await, [15]);

    // The connection breaks before the backfill ends: the client asks for the rest.
    let (mut peer, id, from, seen) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!((from, seen), (position(10), Some(20)));
    peer.send(&[subscribed(id.clone(), &["a"])]).await;
    peer.send_events([21, 22]).await;
    peer.send(&[caught_up(id, true, 22)]).await;
    assert_eq!(next(&mut messages).await, Message::Restored);
    assert_eq!(seqs(&mut messages, 1).await, [22]);
    assert_eq!(next(&mut messages).await, Message::Resumed { complete: true });

    let (mut peer, id, from, seen) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!((from, seen), (position(22), None));
    peer.send(&[subscribed(id.clone(), &["a"]), caught_up(id, false, 30)]).await;
    assert_eq!(next(&mut messages).await, Message::Restored);
    assert_eq!(next(&mut messages).await, Message::Resumed { complete: false });
}

/// The object of an alert to the user that comes again.
fn again(seq: u64, encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut array = ArrayWriter::new(&mut bytes, 1, encoding);
    array.again(&encode_event(&event(seq), Partition(3), Seq(seq), encoding));
    array.end();
    // Without the bytes of the array.
    let end = bytes.len() - usize::from(encoding == Encoding::Json);
    bytes[1..end].to_vec()
}

#[tokio::test(start_paused = true)]
async fn event_that_comes_again_is_delivered_with_its_mark_and_moves_no_position() {
    let (_client, mut messages, mut stage, mut peer) = positioned(10).await;
    let objects = [again(7, peer.encoding), again(12, peer.encoding)];
    peer.send_objects(&objects).await;
    for seq in [7, 12] {
        let Message::Event(event) = next(&mut messages).await else { panic!("no event") };
        assert_eq!((event.seq.0, event.again), (seq, true));
    }
    let (_, _, from, seen) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!((from, seen), (position(10), None));
}

#[tokio::test(start_paused = true)]
async fn event_of_a_new_epoch_is_delivered_despite_an_early_event_with_its_sequence() {
    let (_client, mut messages, _stage, mut peer) = positioned(10).await;
    send_early(&mut peer, &[12, 13]).await;
    let reset = Gap { reason: "reset".into(), p: Partition(3), from: Seq(10), to: Seq(13) };
    peer.send(&[ServerFrame::Gap(reset.clone())]).await;
    peer.send_events([12]).await;
    assert_eq!(seqs(&mut messages, 2).await, [12, 13]);
    assert_eq!(next(&mut messages).await, Message::Gap(reset));
    assert_eq!(seqs(&mut messages, 1).await, [12]);
}

#[tokio::test(start_paused = true)]
async fn refused_resume_is_reported_and_subscriptions_are_sent_again() {
    let (_client, mut messages, mut stage, peer) = positioned(10).await;
    let (mut peer, id, ..) = resumed(&mut messages, &mut stage, peer).await;
    let error = ServerError::new(Some(id), ErrorCode::BadField, "position: it lies beyond the end of the stream");
    peer.send(&[ServerFrame::Error(error)]).await;
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    assert_eq!(peer.grant().await, "a");
    assert_eq!(next(&mut messages).await, Message::Restored);

    // The former position is forgotten, and no valid new one was received.
    drop(peer);
    disconnected(&mut messages).await;
    let mut peer = stage.welcome().await;
    assert_eq!(peer.grant().await, "a");
}

#[tokio::test(start_paused = true)]
async fn unavailable_resume_ends_the_session() {
    let (_client, mut messages, mut stage, peer) = positioned(10).await;
    let (mut peer, id, ..) = resumed(&mut messages, &mut stage, peer).await;
    peer.send(&[ServerFrame::Error(ServerError::new(Some(id), ErrorCode::Unavailable, "not now"))]).await;
    let (peer, _, from, _) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!(from, position(10));
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn backfill_of_a_subscription_ends_with_a_message() {
    let (client, mut messages, _stage, mut peer) = positioned(10).await;
    let since: Since = "5m".parse().unwrap();
    let options = SubscribeOptions { since: Some(since.clone()), ..SubscribeOptions::default() };
    let script = async {
        let (id, frame) = peer.receive().await;
        assert!(matches!(frame, ClientFrame::Subscribe { since: Some(asked), .. } if asked == since));
        peer.send(&[subscribed(id.clone(), &["a", "b"])]).await;
        peer.send_events([3, 4]).await;
        peer.send(&[caught_up(id, true, 10)]).await;
    };
    let (answer, ()) = tokio::join!(client.subscribe("b", json!({}), options.clone()), script);
    answer.unwrap();
    assert_eq!(seqs(&mut messages, 2).await, [3, 4]);
    assert!(matches!(next(&mut messages).await, Message::Past { name, complete: true } if name.as_str() == "b"));

    // A backfill whose connection breaks does not continue, and is not requested again.
    let script = async {
        let (id, _) = peer.receive().await;
        peer.send(&[subscribed(id, &["a", "b"])]).await;
        drop(peer);
    };
    let (answer, ()) = tokio::join!(client.subscribe("b", json!({}), options), script);
    answer.unwrap();
    assert!(matches!(next(&mut messages).await, Message::Past { name, complete: false } if name.as_str() == "b"));
    disconnected(&mut messages).await;
}

#[tokio::test(start_paused = true)]
async fn requests_stay_in_order_when_a_resume_is_refused() {
    let newer = json!({ "symbols": ["NVDA"] });
    for refused in [false, true] {
        let (client, mut messages, mut stage, mut peer) = positioned(10).await;
        let script = async {
            peer.receive().await;
            let (mut peer, id, ..) = resumed(&mut messages, &mut stage, peer).await;
            assert!(timeout(Duration::from_secs(1), peer.receive()).await.is_err(), "the answer decides what follows");
            if refused {
                let error = ServerError::new(Some(id), ErrorCode::BadField, "position: it means nothing here");
                peer.send(&[ServerFrame::Error(error)]).await;
                assert_eq!(peer.grant().await, "a");
            } else {
                peer.send(&[subscribed(id, &["a"])]).await;
            }
            let (id, frame) = peer.receive().await;
            assert!(
                matches!(frame, ClientFrame::Subscribe { wanted, .. } if wanted.filter == FilterRequest::from(newer.clone()))
            );
            peer.send(&[subscribed(id, &["a"])]).await;
            let (id, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Ping);
            peer.send(&[pong(id)]).await;
        };
        let replacing = client.subscribe("a", newer.clone(), SubscribeOptions::default());
        let ((), replaced, pinged) = tokio::join!(script, replacing, async {
            // While the resume is pending.
            sleep(Duration::from_millis(1_200)).await;
            client.ping().await
        });
        replaced.unwrap();
        pinged.unwrap();
    }
}

/// Cuts the connection. Returns the next one, whose welcome has a limit for frames.
async fn welcomed_with(messages: &mut Messages, stage: &mut ScriptedServer, peer: Peer, most: u64) -> Peer {
    drop(peer);
    disconnected(messages).await;
    let mut peer = stage.accept().await;
    let welcome = Welcome { max_frame_bytes: Some(most), ..crate::scripted::welcome() };
    peer.send(&[ServerFrame::Welcome(welcome)]).await;
    assert!(matches!(next(messages).await, Message::Connected { .. }));
    peer
}

#[tokio::test(start_paused = true)]
async fn too_large_resume_is_reported_and_subscriptions_are_sent_again() {
    let (client, mut messages, mut stage, mut peer) = positioned(10).await;
    subscribe(&client, &mut peer, "b").await;
    let mut peer = welcomed_with(&mut messages, &mut stage, peer, 100).await;
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    assert_eq!((peer.grant().await.as_str(), peer.grant().await.as_str()), ("a", "b"));
    assert_eq!(next(&mut messages).await, Message::Restored);

    // Subscriptions that are too large are reported as lost, and a request that is too large is refused before it is
    // sent.
    let mut peer = welcomed_with(&mut messages, &mut stage, peer, 40).await;
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    for expected in ["a", "b"] {
        let Message::SubscriptionLost { name, error } = next(&mut messages).await else {
            panic!("no SubscriptionLost")
        };
        assert_eq!((name.as_str(), error.code), (expected, ErrorCode::FrameTooLarge.code()));
    }
    assert_eq!(next(&mut messages).await, Message::Restored);
    let refused = client.subscribe("c", json!({}), SubscribeOptions::default()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { code: 417, .. }), "{refused}");
    let answer = async {
        let (id, frame) = peer.receive().await;
        assert_eq!(frame, ClientFrame::Ping);
        peer.send(&[pong(id)]).await;
    };
    tokio::join!(client.ping(), answer).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn resume_skipped_or_closed_for_its_size_is_not_repeated() {
    let (_client, mut messages, mut stage, peer) = positioned(10).await;
    let (mut peer, ..) = resumed(&mut messages, &mut stage, peer).await;
    peer.send(&[ServerFrame::Error(ServerError::new(None, ErrorCode::FrameTooLarge, "too large"))]).await;
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    assert_eq!(peer.grant().await, "a");
    assert_eq!(next(&mut messages).await, Message::Restored);

    peer.send(&[heartbeat(20)]).await;
    assert!(matches!(next(&mut messages).await, Message::Heartbeat(_)));
    let (peer, ..) = resumed(&mut messages, &mut stage, peer).await;
    peer.close(CloseCode::TooBig.code(), "too large").await;
    assert!(disconnected(&mut messages).await.1.is_some());
    let mut peer = stage.welcome().await;
    assert!(matches!(next(&mut messages).await, Message::Connected { .. }));
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    assert_eq!(peer.grant().await, "a");
}
