//! What waits between the connection and who subscribed: messages, bounded by their bytes.

use super::message::NatsMessage;
use super::shared::LinkShared;
use metrics::counter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// What a message that waits costs beside its bytes.
const OVERHEAD: usize = 96;

/// From so many bytes on, what waits is taken out of the buffer that it came in: who lags must not keep more than is
/// counted. Larger messages have a buffer nearly for themselves.
const LAGGING: usize = 64 * 1024;
const SMALL: usize = 16 * 1024;

/// Both ends of a queue: what the connection's owner holds, and what the subscriber is given.
pub(super) fn queue(
    name: &'static str,
    most: usize,
    shared: &Arc<LinkShared>,
    number: u64,
) -> (SubscriberSender, Subscriber) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let gauge = Arc::new(Gauge::default());
    let feed = SubscriberSender { name, most, sender, gauge: Arc::clone(&gauge) };
    (feed, Subscriber { receiver, gauge, number, shared: Arc::clone(shared) })
}

#[derive(Debug, Default)]
struct Gauge {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// Where the connection's owner puts messages.
#[derive(Debug)]
pub(super) struct SubscriberSender {
    name: &'static str,
    most: usize,
    sender: mpsc::UnboundedSender<NatsMessage>,
    gauge: Arc<Gauge>,
}

impl SubscriberSender {
    /// Enqueues a message, or drops it if too much waits. One that is larger than the bound is taken when it is alone.
    pub(super) fn offer(&self, mut message: NatsMessage) {
        let waiting = self.gauge.bytes.load(Ordering::Relaxed);
        let size = message.size() + OVERHEAD;
        if waiting > 0 && waiting + size > self.most {
            self.gauge.dropped.fetch_add(1, Ordering::Relaxed);
            counter!("tickwire_nats_dropped_messages_total", "queue" => self.name).increment(1);
            return;
        }
        if waiting > LAGGING && size < SMALL {
            message.detach();
        }
        // Only this side adds, so that the bound holds without an order between the two.
        self.gauge.bytes.fetch_add(size, Ordering::Relaxed);
        // It fails when the subscriber has gone, whose subscription is about to end.
        self.sender.send(message).ok();
    }
}

/// A subscription. Dropping it ends it.
#[derive(Debug)]
pub struct Subscriber {
    receiver: mpsc::UnboundedReceiver<NatsMessage>,
    gauge: Arc<Gauge>,
    number: u64,
    shared: Arc<LinkShared>,
}

impl Subscriber {
    /// The next message; `None` when the connection is closed for good. Nothing is lost if this is dropped.
    pub async fn next(&mut self) -> Option<NatsMessage> {
        let message = self.receiver.recv().await?;
        self.taken(&message);
        Some(message)
    }

    /// Waits for a message, and takes with it what else is there, up to `most` in all. Returns how many came: none when
    /// the connection is closed for good. Nothing is lost if this is dropped.
    pub async fn next_many(&mut self, messages: &mut Vec<NatsMessage>, most: usize) -> usize {
        let before = messages.len();
        let count = self.receiver.recv_many(messages, most).await;
        for message in &messages[before..] {
            self.taken(message);
        }
        count
    }

    /// How many messages were dropped because too many waited.
    pub fn dropped(&self) -> u64 {
        self.gauge.dropped.load(Ordering::Relaxed)
    }

    fn taken(&self, message: &NatsMessage) {
        self.gauge.bytes.fetch_sub(message.size() + OVERHEAD, Ordering::Relaxed);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shared.unsubscribe(self.number);
    }
}
