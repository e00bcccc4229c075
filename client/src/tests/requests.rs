//! Tests of requests, answers and messages within one session.

use std::time::Duration;

use serde_json::json;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::{
    Acked, ClientFrame, Gap, Heartbeat, Notice, ServerError, ServerFrame, SubscriptionName, SubscriptionRequest,
    SubscriptionSelector, encode_alert,
};
use tokio::time::timeout;

use super::{config, connected, disconnected, next, subscribe};
use crate::scripted::{event, pong, subscribed, subscriptions};
use crate::{ClientConfig, ClientError, Encoding, Message, Preset, PresetRequest, SubscribeOptions};

fn name(text: &str) -> SubscriptionName {
    SubscriptionName::new(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_request_is_sent_and_answered_in_both_encodings() {
    for encoding in Encoding::ALL {
        let (client, _messages, _stage, mut peer) = connected(ClientConfig { encoding, ..config() }).await;
        let filter = json!({ "symbols": ["AAPL"], "some_day": { "x": [1.5, null] } });
        let script = async {
            let (id, frame) = peer.receive().await;
            let wanted = SubscriptionRequest {
                filter: filter.clone().into(),
                window_ms: Some(50),
                max_events_per_hour: Some(30),
                alert: true,
            };
            assert_eq!(frame, ClientFrame::Subscribe { name: name("a"), wanted, since: None });
            peer.send(&[subscribed(id, &["a"])]).await;
            let (id, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::List);
            peer.send(&[ServerFrame::Subscriptions(subscriptions(id, &["a"]))]).await;
            let (id, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Ping);
            peer.send(&[pong(id)]).await;
            let (id, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Unsubscribe { chosen: SubscriptionSelector::One(name("a")) });
            peer.send(&[subscribed(id, &[])]).await;
            let (id, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Unsubscribe { chosen: SubscriptionSelector::All });
            peer.send(&[subscribed(id, &[])]).await;
        };
        let calls = async {
            let options =
                SubscribeOptions { window_ms: Some(50), max_events_per_hour: Some(30), alert: true, since: None };
            let list = client.subscribe("a", filter.clone(), options).await.unwrap();
            assert_eq!(list.subscriptions.keys().collect::<Vec<_>>(), [&name("a")]);
            assert_eq!(client.list().await.unwrap().subscriptions, list.subscriptions);
            client.ping().await.unwrap();
            assert!(client.unsubscribe("a").await.unwrap().subscriptions.is_empty());
            client.unsubscribe("*").await.unwrap();
        };
        tokio::join!(script, calls);
    }
}

#[tokio::test(start_paused = true)]
async fn alert_is_delivered_and_its_acknowledgement_is_answered() {
    let (p, seq) = (Partition(3), Seq(7));
    for encoding in Encoding::ALL {
        let (client, mut messages, _stage, mut peer) = connected(ClientConfig { encoding, ..config() }).await;
        peer.send_objects(&[encode_alert(&event(7), p, seq, encoding)]).await;
        let Message::Alert(alert) = next(&mut messages).await else { panic!("no alert") };
        let script = async {
            let (first, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Ack { partition: p, seq });
            peer.send(&[ServerFrame::Acked(Acked { id: Some(first), p, seq })]).await;
            let (second, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Ack { partition: p, seq });
            peer.send(&[ServerFrame::Error(ServerError::new(Some(second), ErrorCode::NotAnAlert, "no"))]).await;
        };
        let calls = async {
            client.acknowledge(&alert).await.unwrap();
            let refused = client.acknowledge(&alert).await.unwrap_err();
            assert_eq!(refused, ClientError::Refused { code: 418, msg: "no".into() });
        };
        tokio::join!(script, calls);
    }
}

#[tokio::test(start_paused = true)]
async fn preset_is_sent_by_its_name_and_again_after_a_reconnect() {
    for encoding in Encoding::ALL {
        let (client, mut messages, mut stage, mut peer) = connected(ClientConfig { encoding, ..config() }).await;
        let request = PresetRequest::new(Preset::SwingTrading, Some(&json!(["AAPL"])), None).unwrap();
        let filter = request.clone().into();
        let wanted = SubscriptionRequest { filter, window_ms: None, max_events_per_hour: None, alert: false };
        let script = async {
            let (id, frame) = peer.receive().await;
            assert_eq!(frame, ClientFrame::Subscribe { name: name("a"), wanted: wanted.clone(), since: None });
            peer.send(&[subscribed(id, &["a"])]).await;
        };
        let ((), answer) = tokio::join!(script, client.subscribe("a", request, SubscribeOptions::default()));
        answer.unwrap();

        drop(peer);
        disconnected(&mut messages).await;
        let mut peer = stage.welcome().await;
        let (_, frame) = peer.receive().await;
        assert_eq!(frame, ClientFrame::Subscribe { name: name("a"), wanted, since: None });
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_reaches_the_caller_of_its_request() {
    let (client, mut messages, _stage, mut peer) = connected(config()).await;
    let script = async {
        let (first, _) = peer.receive().await;
        let (second, _) = peer.receive().await;
        let error = |id, code| ServerFrame::Error(ServerError::new(id, code, "no"));
        peer.send(&[error(Some(second), ErrorCode::SymbolLimit), error(Some(first), ErrorCode::BadFilter)]).await;
        peer.send(&[error(None, ErrorCode::BadFrame)]).await;
    };
    let (_, one, two) = tokio::join!(
        script,
        client.subscribe("a", json!({}), SubscribeOptions::default()),
        client.subscribe("b", json!({}), SubscribeOptions::default())
    );
    assert_eq!(one.unwrap_err(), ClientError::Refused { code: 410, msg: "no".into() });
    assert_eq!(two.unwrap_err(), ClientError::Refused { code: 405, msg: "no".into() });
    let refusal = ServerError::new(None, ErrorCode::BadFrame, "no");
    assert_eq!(next(&mut messages).await, Message::Refused(refusal));
    assert!(matches!(
        client.subscribe("*", json!({}), SubscribeOptions::default()).await,
        Err(ClientError::BadName(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn request_without_an_answer_times_out() {
    let config = ClientConfig { request_timeout: Duration::from_secs(3), ..config() };
    let (client, _messages, _stage, _peer) = connected(config).await;
    let after = Duration::from_secs(3);
    assert_eq!(client.ping().await.unwrap_err(), ClientError::TimedOut { what: "ping", after });
}

#[tokio::test(start_paused = true)]
async fn messages_are_delivered_in_order() {
    for encoding in Encoding::ALL {
        let (_client, mut messages, _stage, mut peer) = connected(ClientConfig { encoding, ..config() }).await;
        let notice = Notice { dropped: 12, ..Notice::new(NoticeCode::SlowConsumer) };
        let gap = Gap { reason: "retention".into(), p: Partition(3), from: Seq(7), to: Seq(9) };
        let heartbeat = Heartbeat { position: Some("p2".into()) };
        peer.send_events([5]).await;
        peer.send(&[
            ServerFrame::Notice(notice.clone()),
            ServerFrame::Gap(gap.clone()),
            ServerFrame::Heartbeat(heartbeat.clone()),
        ])
        .await;
        let Message::Event(event) = next(&mut messages).await else { panic!("the event is not first") };
        assert_eq!((event.p, event.seq, event.id.as_str()), (Partition(3), Seq(5), "e5"));
        assert_eq!(next(&mut messages).await, Message::Notice(notice));
        assert_eq!(next(&mut messages).await, Message::Gap(gap));
        assert_eq!(next(&mut messages).await, Message::Heartbeat(heartbeat));
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_types_are_ignored_and_unreadable_messages_reported() {
    let (_client, mut messages, _stage, mut peer) = connected(config()).await;
    peer.send_objects(&[br#"{"T":"early"}"#.to_vec()]).await;
    peer.send_objects(&[br#"{"T":"event"}"#.to_vec()]).await;
    peer.send_events([1]).await;
    assert!(matches!(next(&mut messages).await, Message::Unreadable { .. }));
    assert!(matches!(next(&mut messages).await, Message::Event(_)));
}

#[tokio::test(start_paused = true)]
async fn slow_reader_blocks_the_server_and_loses_nothing() {
    let count = 2_000;
    let config = ClientConfig { buffer: 4, ..config() };
    let (client, mut messages, _stage, mut peer) = connected(config).await;
    subscribe(&client, &mut peer, "a").await;
    {
        let flood = peer.send_events(1..=count);
        tokio::pin!(flood);
        // Longer than any deadline of the client: a wait for the user must not count as server silence.
        assert!(timeout(Duration::from_secs(600), &mut flood).await.is_err(), "the server is never held back");
        let reading = async {
            for seq in 1..=count {
                match next(&mut messages).await {
                    Message::Event(event) => assert_eq!(event.seq, Seq(seq)),
                    other => panic!("{other:?} instead of event {seq}"),
                }
            }
        };
        tokio::join!(flood, reading);
    }
    let answer = async {
        let (id, _) = peer.receive().await;
        peer.send(&[pong(id)]).await;
    };
    let (pinged, ()) = tokio::join!(client.ping(), answer);
    pinged.unwrap();
}
