//! The queue between the connection and a subscriber: messages, bounded by their bytes.

use super::message::NatsMessage;
use super::shared::LinkShared;
use crate::metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// What a waiting message costs beside its bytes.
const OVERHEAD: usize = 96;

/// Above this many waiting bytes, messages are copied out of their read buffer, because a subscriber that lags must not
/// keep more memory than is counted. Larger messages have a buffer nearly for themselves.
const LAGGING: usize = 64 * 1024;
const SMALL: usize = 16 * 1024;

/// Both ends of a queue: one for the connection's owner, one for the subscriber.
pub(super) fn queue(
    name: &'static str,
    most: usize,
    shared: &Arc<LinkShared>,
    number: u64,
) -> (SubscriberSender, LinkSubscriber) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let gauge = Arc::new(QueueBytes::default());
    let sender = SubscriberSender { name, most, sender, gauge: Arc::clone(&gauge) };
    (sender, LinkSubscriber { receiver, gauge, number, shared: Arc::clone(shared) })
}

#[derive(Debug, Default)]
struct QueueBytes {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// The end into which the connection's owner puts messages.
#[derive(Debug)]
pub(super) struct SubscriberSender {
    name: &'static str,
    most: usize,
    sender: mpsc::UnboundedSender<NatsMessage>,
    gauge: Arc<QueueBytes>,
}

impl SubscriberSender {
    /// Enqueues a message, or drops it if the queue is full. A message above the bound is accepted when the
    /// queue is empty.
    pub(super) fn offer(&self, mut message: NatsMessage) {
        let waiting = self.gauge.bytes.load(Ordering::Relaxed);
        let size = message.size() + OVERHEAD;
        if waiting > 0 && waiting + size > self.most {
            self.gauge.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::NATS_DROPPED_MESSAGES.with(self.name).increment(1);
            return;
        }
        if waiting > LAGGING && size < SMALL {
            message.detach();
        }
        // Only this side adds, so the bound holds without ordering between the two sides.
        self.gauge.bytes.fetch_add(size, Ordering::Relaxed);
        // It fails when the subscriber was dropped, whose subscription is about to end.
        self.sender.send(message).ok();
    }
}

/// A subscription. It ends when it is dropped.
#[derive(Debug)]
pub struct LinkSubscriber {
    receiver: mpsc::UnboundedReceiver<NatsMessage>,
    gauge: Arc<QueueBytes>,
    number: u64,
    shared: Arc<LinkShared>,
}

impl LinkSubscriber {
    /// The next message; `None` when the connection is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<NatsMessage> {
        let message = self.receiver.recv().await?;
        self.note_taken(&message);
        Some(message)
    }

    /// Waits for a message, and takes further queued ones, up to `most` in all. Returns the number of messages:
    /// 0 when the connection is closed. Cancel safe.
    pub async fn next_many(&mut self, messages: &mut Vec<NatsMessage>, most: usize) -> usize {
        let before = messages.len();
        let count = self.receiver.recv_many(messages, most).await;
        for message in &messages[before..] {
            self.note_taken(message);
        }
        count
    }

    /// The messages that wait now, without waiting for more: at most as many as the queue holds when this begins.
    pub fn take_waiting(&mut self) -> Vec<NatsMessage> {
        let count = self.receiver.len();
        let messages: Vec<_> = std::iter::from_fn(|| self.receiver.try_recv().ok()).take(count).collect();
        for message in &messages {
            self.note_taken(message);
        }
        messages
    }

    /// How many messages were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.gauge.dropped.load(Ordering::Relaxed)
    }

    fn note_taken(&self, message: &NatsMessage) {
        self.gauge.bytes.fetch_sub(message.size() + OVERHEAD, Ordering::Relaxed);
    }
}

impl Drop for LinkSubscriber {
    fn drop(&mut self) {
        self.shared.unsubscribe(self.number);
    }
}
