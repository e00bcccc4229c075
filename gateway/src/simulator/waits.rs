//! Whether each queue of a node gets its turn.

/// How many other inputs a node may serve, one after the other, while something waits in a queue.
pub(super) const MOST_WAITS: u32 = 40;

/// For each of `N` queues, how many other inputs were served while something waited in it, since its last turn.
pub(super) struct Waits<const N: usize> {
    waits: [u32; N],
    served: Option<usize>,
}

impl<const N: usize> Default for Waits<N> {
    fn default() -> Self {
        Self { waits: [0; N], served: None }
    }
}

impl<const N: usize> Waits<N> {
    /// A queue has a turn.
    pub(super) fn serve(&mut self, queue: usize) {
        self.served = Some(queue);
    }

    /// An input was served. Before, something waited in these queues.
    pub(super) fn check(&mut self, waiting: [bool; N]) {
        let served = self.served.take();
        for (queue, (wait, waiting)) in self.waits.iter_mut().zip(waiting).enumerate() {
            *wait = if waiting && served != Some(queue) { *wait + 1 } else { 0 };
        }
        assert!(self.waits.iter().all(|wait| *wait <= MOST_WAITS), "a queue does not get its turn: {:?}", self.waits);
    }
}
