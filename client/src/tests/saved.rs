//! Tests of saved subscriptions, which the server adds to a session, and changes.

use std::collections::BTreeMap;

use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{ClientFrame, Id, ServerError, ServerFrame, Subscriptions};

use super::resuming::{caught_up, position, positioned, resumed};
use super::{config, connected, disconnected, next};
use crate::scripted::{Peer, ScriptedServer, pong, subscribed, subscriptions};
use crate::{Message, Messages};

/// A list that no request asked for.
fn unrequested(names: &[&str], seq: u64) -> Subscriptions {
    let position = position(seq).to_string().into();
    Subscriptions { id: None, position, ..subscriptions(Id::Number(0_u64.into()), names) }
}

/// The names in the next message, which must be `SavedSubscriptions`.
async fn saved(messages: &mut Messages) -> Vec<String> {
    match next(messages).await {
        Message::SavedSubscriptions(saved) => saved.keys().map(|name| name.as_str().to_owned()).collect(),
        other => panic!("{other:?}"),
    }
}

/// Cuts the connection. Returns the next one.
async fn connected_again(messages: &mut Messages, stage: &mut ScriptedServer, peer: Peer) -> Peer {
    drop(peer);
    disconnected(messages).await;
    let peer = stage.welcome().await;
    assert!(matches!(next(messages).await, Message::Connected { .. }));
    peer
}

#[tokio::test(start_paused = true)]
async fn client_without_subscriptions_of_its_own_resumes_the_saved_ones() {
    let (client, mut messages, mut stage, mut peer) = connected(config()).await;
    peer.send(&[ServerFrame::Subscribed(unrequested(&["a"], 10))]).await;
    assert_eq!(saved(&mut messages).await, ["a"]);
    peer.send_events([11]).await;
    assert!(matches!(next(&mut messages).await, Message::Event(_)));

    // Another subscription is saved meanwhile.
    let mut peer = connected_again(&mut messages, &mut stage, peer).await;
    let (id, frame) = peer.receive().await;
    let seen = BTreeMap::from([(Partition(3), Seq(11))]);
    assert_eq!(frame, ClientFrame::Resume { position: position(10), seen, subscriptions: BTreeMap::new() });
    peer.send(&[subscribed(id.clone(), &["b"]), caught_up(id, true, 20)]).await;
    assert_eq!(saved(&mut messages).await, ["b"]);
    assert_eq!(next(&mut messages).await, Message::Restored);
    assert_eq!(next(&mut messages).await, Message::Resumed { complete: true });

    // A resume is refused, and nothing is saved any more.
    let mut peer = connected_again(&mut messages, &mut stage, peer).await;
    let (id, frame) = peer.receive().await;
    assert!(matches!(frame, ClientFrame::Resume { .. }));
    let error = ServerError::new(Some(id), ErrorCode::BadField, "subscriptions: missing");
    peer.send(&[ServerFrame::Error(error)]).await;
    assert_eq!(next(&mut messages).await, Message::Interrupted);
    let (id, frame) = peer.receive().await;
    assert_eq!(frame, ClientFrame::List);
    peer.send(&[ServerFrame::Subscriptions(subscriptions(id, &[]))]).await;
    assert!(saved(&mut messages).await.is_empty());
    assert_eq!(next(&mut messages).await, Message::Restored);

    let mut peer = connected_again(&mut messages, &mut stage, peer).await;
    let answer = async {
        let (id, frame) = peer.receive().await;
        assert_eq!(frame, ClientFrame::Ping, "there is nothing to resume");
        peer.send(&[pong(id)]).await;
    };
    tokio::join!(client.ping(), answer).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn client_follows_changes_and_does_not_name_saved_subscriptions_in_a_resume() {
    let (_client, mut messages, mut stage, mut peer) = positioned(10).await;
    for (names, expected) in
        [(&["a", "b"][..], &["b"][..]), (&["a", "b", "c"][..], &["b", "c"][..]), (&["a", "c"][..], &["c"][..])]
    {
        peer.send(&[ServerFrame::Subscriptions(unrequested(names, 12))]).await;
        assert_eq!(saved(&mut messages).await, expected);
    }
    let (mut peer, id, from, _) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!(from, position(12));
    peer.send(&[subscribed(id, &["a", "c"])]).await;
    assert_eq!(next(&mut messages).await, Message::Restored, "the saved ones are the same as before");
}

#[tokio::test(start_paused = true)]
async fn position_of_a_list_that_overtakes_the_resume_is_not_the_clients() {
    let (_client, mut messages, mut stage, peer) = positioned(10).await;
    let (mut peer, ..) = resumed(&mut messages, &mut stage, peer).await;
    peer.send(&[ServerFrame::Subscribed(unrequested(&["b"], 99))]).await;
    assert_eq!(saved(&mut messages).await, ["b"]);
    let (peer, _, from, _) = resumed(&mut messages, &mut stage, peer).await;
    assert_eq!(from, position(10));
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn saved_subscription_that_is_not_applied_is_reported() {
    let (_client, mut messages, _stage, mut peer) = positioned(10).await;
    let error = ServerError::new(None, ErrorCode::SymbolLimit, "the saved subscription \"b\" is not applied");
    peer.send(&[ServerFrame::Error(error.clone())]).await;
    assert_eq!(next(&mut messages).await, Message::Refused(error));
}
