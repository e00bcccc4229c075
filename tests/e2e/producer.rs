//! Publishes events as producers do: to `events.<kind>.<key>`, acknowledged by the stream.

use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tickwire_core::event::key;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::node::DEADLINE;

/// How many messages wait for their acknowledgement at most.
const WINDOW: usize = 256;

/// A message for a producer to publish.
#[derive(Debug, Clone)]
pub(crate) struct ProducerMessage {
    subject: String,
    content_type: Option<&'static str>,
    msg_id: Option<String>,
    payload: Bytes,
}

impl ProducerMessage {
    /// An event in JSON.
    pub(crate) fn json(kind: &str, key: &str, event: &Value) -> Self {
        Self::raw(names::source(kind, &key::encode(key)), serde_json::to_vec(event).unwrap())
    }

    /// An event in MessagePack.
    pub(crate) fn msgpack(kind: &str, key: &str, event: &Value) -> Self {
        let payload = rmp_serde::to_vec_named(event).unwrap();
        let raw = Self::raw(names::source(kind, &key::encode(key)), payload);
        Self { content_type: Some("application/msgpack"), ..raw }
    }

    /// Any bytes on any subject.
    pub(crate) fn raw(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), content_type: None, msg_id: None, payload: payload.into() }
    }

    /// With this `Nats-Msg-Id`.
    pub(crate) fn id(self, msg_id: impl Into<String>) -> Self {
        Self { msg_id: Some(msg_id.into()), ..self }
    }

    /// With this `Content-Type`.
    pub(crate) fn content_type(self, content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), ..self }
    }

    /// Its payload.
    pub(crate) fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// A connection that publishes. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    jetstream: Context,
}

impl Producer {
    pub(crate) fn new(client: async_nats::Client) -> Self {
        Self { jetstream: jetstream::new(client) }
    }

    /// Publishes one message, and returns its sequence when it is acknowledged.
    pub(crate) async fn publish(&self, message: &ProducerMessage) -> u64 {
        self.send(message).await.await.unwrap().sequence
    }

    /// Publishes one message, and returns whether it was acknowledged.
    pub(crate) async fn try_publish(&self, message: &ProducerMessage) -> bool {
        match self.try_send(message).await {
            Ok(acknowledgement) => acknowledgement.await.is_ok(),
            Err(_) => false,
        }
    }

    /// Publishes messages in order, and returns when all are acknowledged.
    pub(crate) async fn publish_all(&self, messages: &[ProducerMessage]) {
        for some in messages.chunks(WINDOW) {
            let mut acknowledgements = Vec::with_capacity(some.len());
            for message in some {
                acknowledgements.push(self.send(message).await);
            }
            for acknowledgement in acknowledgements {
                assert!(!acknowledgement.await.unwrap().duplicate);
            }
        }
    }

    /// Publishes the messages `make(0)`, `make(1)`, …, one every `pause`, until it is stopped.
    pub(crate) fn flow(&self, pause: Duration, make: impl Fn(usize) -> ProducerMessage + Send + 'static) -> Flow {
        let (producer, stop, count) = (self.clone(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), Arc::clone(&count));
        let task = tokio::spawn(async move {
            let mut pace = interval(pause);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                pace.tick().await;
                producer.publish(&make(counted.load(Ordering::Relaxed))).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Flow { stop, count, task }
    }

    async fn send(&self, message: &ProducerMessage) -> PublishAckFuture {
        self.try_send(message).await.unwrap()
    }

    async fn try_send(&self, message: &ProducerMessage) -> Result<PublishAckFuture, PublishError> {
        let mut publish = PublishMessage::build().payload(message.payload.clone());
        if let Some(content_type) = message.content_type {
            publish = publish.header("Content-Type", content_type);
        }
        if let Some(msg_id) = &message.msg_id {
            publish = publish.message_id(msg_id);
        }
        self.jetstream.send_publish(message.subject.clone(), publish).await
    }
}

/// A running flow of messages.
#[derive(Debug)]
pub(crate) struct Flow {
    stop: CancellationToken,
    count: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Flow {
    /// Waits until `count` more messages are in the stream.
    pub(crate) async fn more(&self, count: usize) {
        let enough = self.count.load(Ordering::Relaxed) + count;
        eventually("further events are published", DEADLINE, async || {
            (self.count.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Stops, and returns how many were published.
    pub(crate) async fn stop(self) -> usize {
        self.stop.cancel();
        self.task.await.unwrap();
        self.count.load(Ordering::Relaxed)
    }
}
