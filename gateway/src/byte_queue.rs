//! A queue between two owners that counts the bytes that wait in it. It never makes the sender wait: the sender checks
//! the count first, and stops or skips something if it is too high.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// A message with a size in memory.
pub trait Weigh {
    /// Approximate memory, in bytes.
    fn weigh(&self) -> usize;
}

/// The sending end.
#[derive(Debug)]
pub struct ByteSender<T> {
    sender: mpsc::UnboundedSender<T>,
    waiting: Arc<AtomicUsize>,
}

/// The receiving end.
#[derive(Debug)]
pub struct ByteReceiver<T> {
    receiver: mpsc::UnboundedReceiver<T>,
    waiting: Arc<AtomicUsize>,
    /// The size of the messages that were taken last. They count until the next ones are taken.
    taken: usize,
}

/// A new, empty queue.
#[must_use]
pub fn channel<T: Weigh>() -> (ByteSender<T>, ByteReceiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (ByteSender { sender, waiting: Arc::clone(&waiting) }, ByteReceiver { receiver, waiting, taken: 0 })
}

impl<T: Weigh> ByteSender<T> {
    /// Sends a message; `false` if the receiver is gone.
    pub fn send(&self, message: T) -> bool {
        // Relaxed: nothing else depends on the order of this count.
        self.waiting.fetch_add(message.weigh(), Ordering::Relaxed);
        self.sender.send(message).is_ok()
    }

    /// Whether the receiver is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the receiver is gone.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl<T> Clone for ByteSender<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waiting: Arc::clone(&self.waiting) }
    }
}

impl<T: Weigh> ByteReceiver<T> {
    /// How many bytes wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a message, and takes up to `limit`; 0 if all senders are gone. The messages taken before count as
    /// processed now, so `messages` must be empty.
    pub async fn take(&mut self, messages: &mut Vec<T>, limit: usize) -> usize {
        self.waiting.fetch_sub(std::mem::take(&mut self.taken), Ordering::Relaxed);
        let taken = self.receiver.recv_many(messages, limit).await;
        self.taken = messages.iter().map(Weigh::weigh).sum();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn weigh(&self) -> usize {
            *self
        }
    }

    #[tokio::test]
    async fn taken_messages_count_until_the_next_are_taken() {
        let (sender, mut receiver) = channel::<usize>();
        assert!([5, 7, 100].into_iter().all(|message| sender.send(message)));
        let mut messages = Vec::new();
        assert_eq!((receiver.take(&mut messages, 2).await, &messages[..]), (2, &[5, 7][..]));
        assert_eq!(sender.waiting(), 112);
        messages.clear();
        assert_eq!((receiver.take(&mut messages, 2).await, sender.waiting()), (1, 100));
        messages.clear();
        let other = sender.clone();
        assert!(other.send(3));
        drop((sender, other));
        assert_eq!(receiver.take(&mut messages, 2).await, 1);
        messages.clear();
        assert_eq!(receiver.take(&mut messages, 2).await, 0);
    }
}
