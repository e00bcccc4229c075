//! The events of the bench: numbered ones at a steady rate, and many others that are replayed.

use rand::Rng;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tickwire_node::nats::Nats;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{DEADLINE, FailoverError};
use crate::measure::now_us;
use tickwire_command::publisher::{NewEvent, PublishError, Publisher};

/// How many symbols the events are about, in turn.
pub(super) const SYMBOLS: u64 = 100;

/// How many events are replayed.
const REPLAYED: u64 = 100_000;

/// How many events wait for the acknowledgement of the stream.
const WINDOW: usize = 1_024;

/// Publishes numbered events at a steady rate.
pub(super) struct NumberedProducer {
    stop: CancellationToken,
    published: Arc<AtomicU64>,
    task: JoinHandle<Result<(), PublishError>>,
}

impl NumberedProducer {
    pub(super) fn start(nats: Nats, rate: f64) -> Self {
        let (stop, published) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&published));
        let task = tokio::spawn(async move {
            let mut publisher = Publisher::new(&nats, WINDOW, Some(DEADLINE));
            let run: u32 = rand::rng().random();
            let mut pace = interval(Duration::from_secs_f64(1.0 / rate));
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while !stopped.is_cancelled() {
                pace.tick().await;
                let number = count.load(Ordering::Relaxed);
                let event = json!({ "pattern": "Live", "confidence": 0.5, "number": number, "sent_us": now_us() });
                let payload = serde_json::to_vec(&event).unwrap_or_default();
                let event = NewEvent::new("pattern", &symbol(number), format!("{run:08x}-{number}"), payload);
                if let Some((_, stored)) = publisher.send((), event).await {
                    stored?;
                }
                count.store(number + 1, Ordering::Relaxed);
            }
            while let Some((_, stored)) = publisher.done().await {
                stored?;
            }
            Ok(())
        });
        Self { stop, published, task }
    }

    /// Stops; returns how many events were published.
    pub(super) async fn stop(self) -> Result<u64, FailoverError> {
        self.stop.cancel();
        self.task.await??;
        Ok(self.published.load(Ordering::Relaxed))
    }
}

/// Publishes the events that are replayed. No client wants them.
pub(super) async fn publish_past(nats: &Nats) -> Result<(), PublishError> {
    let mut past = Publisher::new(nats, WINDOW, Some(DEADLINE));
    for number in 0..REPLAYED {
        let event = json!({ "pattern": "Past", "confidence": 0.5, "number": number });
        let payload = serde_json::to_vec(&event).unwrap_or_default();
        let symbol = format!("PAST{}", number % SYMBOLS);
        let event = NewEvent::new("pattern", &symbol, format!("past-{number}"), payload);
        if let Some((_, stored)) = past.send((), event).await {
            stored?;
        }
    }
    while let Some((_, stored)) = past.done().await {
        stored?;
    }
    Ok(())
}

/// What the event of this number is about.
pub(super) fn symbol(number: u64) -> String {
    format!("S{}", number % SYMBOLS)
}
