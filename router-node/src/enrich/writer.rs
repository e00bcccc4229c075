//! Writes to the bucket of the context without holding up events: the newest value of each key waits, and one write is
//! under way at a time. A value that is lost is followed by another within seconds, so nothing is written twice. A key
//! whose value nobody needs is removed.

use crate::metrics;
use std::collections::{BTreeMap, VecDeque};
use tickwire_node::bucket::Bucket;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many values may wait while a write is under way.
const WAITING: usize = 256;

/// For how many keys values wait. Further values wait in the channel.
const MAX_KEYS: usize = 512;

/// A key and its value; `None` if the key is removed.
type Write = (String, Option<Vec<u8>>);

/// The values that wait, in the order of their keys' arrival. Pure.
#[derive(Debug, Default)]
struct Outbox {
    values: BTreeMap<String, Option<Vec<u8>>>,
    order: VecDeque<String>,
}

impl Outbox {
    fn has_room(&self) -> bool {
        self.order.len() < MAX_KEYS
    }

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
    /// Has a value written. Never waits. Returns whether it will be tried.
    pub(crate) fn put(&self, key: String, value: Vec<u8>) -> bool {
        match self.0.try_send((key, Some(value))) {
            Ok(()) => return true,
            Err(TrySendError::Full((key, _))) => lost("full", &key, &"too many values wait"),
            Err(TrySendError::Closed((key, _))) => lost("failed", &key, &"the router stops"),
        }
        false
    }

    /// Has a key removed. Never waits. Returns whether it will be tried; else it can be asked for again.
    pub(crate) fn remove(&self, key: String) -> bool {
        self.0.try_send((key, None)).is_ok()
    }
}

impl ContextWriter {
    /// Writes until all handles are gone and everything is written, or until the force.
    pub(crate) async fn run(mut self, force: CancellationToken) {
        force.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        loop {
            while self.outbox.has_room()
                && let Ok(write) = self.waiting.try_recv()
            {
                self.outbox.put(write);
            }
            match self.outbox.next() {
                Some((key, value)) => {
                    let written = match value {
                        Some(value) => self.bucket.put(&key, value).await.map(|_| ()),
                        None => self.bucket.remove(&key).await,
                    };
                    if let Err(error) = written {
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

pub(super) fn lost(reason: &'static str, key: &str, error: &dyn std::fmt::Display) {
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
            outbox.put((key.to_owned(), Some(vec![value])));
        }
        let written: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
        assert_eq!(written, [("a", 3), ("b", 2), ("c", 4)].map(|(key, value)| (key.to_owned(), Some(vec![value]))));
        outbox.put(("a".to_owned(), Some(vec![5])));
        outbox.put(("a".to_owned(), None));
        assert_eq!(outbox.next(), Some(("a".to_owned(), None)), "removed at last");
        assert_eq!(outbox.next(), None);
    }

    #[test]
    fn values_of_a_bounded_number_of_keys_wait() {
        let mut outbox = Outbox::default();
        for number in 0..MAX_KEYS {
            assert!(outbox.has_room(), "{number}");
            outbox.put((number.to_string(), Some(vec![1])));
        }
        assert!(!outbox.has_room());
        outbox.next();
        assert!(outbox.has_room());
    }
}
