//! A queue between two owners that knows how many bytes wait in it. It never makes the sender wait: who fills it looks at
//! the weight first, and stops, or leaves something out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// What has a weight.
pub(crate) trait Weigh {
    /// About how many bytes of memory it holds.
    fn weigh(&self) -> usize;
}

/// The end that messages go into.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    sender: mpsc::UnboundedSender<T>,
    waiting: Arc<AtomicUsize>,
}

/// The end that they come out of.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    receiver: mpsc::UnboundedReceiver<T>,
    waiting: Arc<AtomicUsize>,
    /// The weight of those that were taken out last, which count until the next are.
    taken: usize,
}

/// An empty queue.
pub(crate) fn channel<T: Weigh>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Sender { sender, waiting: Arc::clone(&waiting) }, Receiver { receiver, waiting, taken: 0 })
}

impl<T: Weigh> Sender<T> {
    /// Puts a message in; `false` if nobody takes it out any more.
    pub(crate) fn send(&self, message: T) -> bool {
        // One number that is only counted up and down: nothing else hangs on its order.
        self.waiting.fetch_add(message.weigh(), Ordering::Relaxed);
        self.sender.send(message).is_ok()
    }

    /// Whether nobody takes messages out any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until nobody takes messages out any more.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waiting: Arc::clone(&self.waiting) }
    }
}

impl<T: Weigh> Receiver<T> {
    /// Takes up to `limit` messages, when there is one; 0 when no more come. What was taken before is done by then. Not
    /// to be called before all that was taken is out of `messages`.
    pub(crate) async fn take(&mut self, messages: &mut Vec<T>, limit: usize) -> usize {
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
    async fn what_was_taken_counts_until_the_next_is() {
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
