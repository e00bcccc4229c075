//! Writes to the bucket of the context without holding up events: the newest value of each key waits, and one write is
//! under way at a time. A value that is lost is followed by another within seconds, so nothing is written twice.

use crate::metrics;
use std::collections::{BTreeMap, VecDeque};
use tickwire_node::bucket::Bucket;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many values may wait while a write is under way.
const WAITING: usize = 256;

/// A key and its value.
type Write = (String, Vec<u8>);

/// The values that wait, in the order of their keys' arrival. Pure.
#[derive(Debug, Default)]
struct Outbox {
    values: BTreeMap<String, Vec<u8>>,
    order: VecDeque<String>,
}

impl Outbox {
    /// Takes a value in place of an older one of its key.
    fn put(&mut self, (key, value): Write) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
    }

    /// The next value to write.
    fn next(&mut self) -> Option<Write> {
        let key = self.order.pop_front()?;
        let value = self.values.remove(&key)?;
        Some((key, value))
    }
}

/// The handle.
#[derive(Debug, Clone)]
pub(crate) struct ContextWrites(mpsc::Sender<Write>);

/// The task.
#[derive(Debug)]
pub(crate) struct ContextWriter {
    bucket: Bucket,
    waiting: mpsc::Receiver<Write>,
    outbox: Outbox,
}

/// Opens a writer to this bucket.
pub(crate) fn open(bucket: Bucket) -> (ContextWrites, ContextWriter) {
    let (sender, waiting) = mpsc::channel(WAITING);
    (ContextWrites(sender), ContextWriter { bucket, waiting, outbox: Outbox::default() })
}

impl ContextWrites {
    /// Has a value written. Never waits.
    pub(crate) fn put(&self, key: String, value: Vec<u8>) {
        match self.0.try_send((key, value)) {
            Ok(()) => {}
            Err(TrySendError::Full((key, _))) => lost("full", &key, &"too many values wait"),
            Err(TrySendError::Closed((key, _))) => lost("failed", &key, &"the router stops"),
        }
    }
}

impl ContextWriter {
    /// Writes until all handles are gone and everything is written, or until the force.
    pub(crate) async fn run(mut self, force: CancellationToken) {
        force.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        loop {
            while let Ok(write) = self.waiting.try_recv() {
                self.outbox.put(write);
            }
            match self.outbox.next() {
                Some((key, value)) => {
                    if let Err(error) = self.bucket.put(&key, value).await {
                        lost("failed", &key, &error);
                    }
                }
                None => match self.waiting.recv().await {
                    Some(write) => self.outbox.put(write),
                    None => return,
                },
            }
        }
    }
}

/// Why a value is not written: the labels of the metric.
pub(crate) fn losses() -> Vec<&'static str> {
    vec!["full", "failed"]
}

fn lost(reason: &'static str, key: &str, error: &dyn std::fmt::Display) {
    metrics::CONTEXT_WRITES_LOST.with(reason).increment(1);
    debug!(key, %error, "context not written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_value_of_a_key_keeps_the_place_of_the_first() {
        let mut outbox = Outbox::default();
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            outbox.put((key.to_owned(), vec![value]));
        }
        let written: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
        assert_eq!(written, [("a", 3), ("b", 2), ("c", 4)].map(|(key, value)| (key.to_owned(), vec![value])));
        outbox.put(("a".to_owned(), vec![5]));
        assert_eq!(outbox.next(), Some(("a".to_owned(), vec![5])));
        assert_eq!(outbox.next(), None);
    }
}
