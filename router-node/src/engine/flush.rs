//! When a gateway's batch is sent: at once after a quiet window, otherwise at the end of the window, when it is large
//! enough, or when something in it is urgent. Pure.
//!
//! Every gateway costs every router a batch in each window, so the number of messages grows with the product of the
//! two. So a router with many gateways makes its window longer, up to [`LONGEST_WINDOW`].

use std::collections::HashMap;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_node::clock::millis;

/// The longest window of a router with many gateways.
pub const LONGEST_WINDOW: Duration = Duration::from_millis(50);

/// The windows of all gateways.
#[derive(Debug)]
pub(crate) struct Flush {
    window: u64,
    rate: u64,
    most: usize,
    gateways: HashMap<NodeRef, GatewayWindow>,
}

#[derive(Debug, Default)]
struct GatewayWindow {
    /// When the last batch was sent; `None` if none was.
    sent: Option<Millis>,
    /// The bytes that wait.
    bytes: usize,
    urgent: bool,
}

impl Flush {
    /// `window` is in milliseconds; it is longer with more gateways than `rate` batches in a second allow. A batch of
    /// `most` bytes does not wait.
    pub(crate) fn new(window: u64, rate: u32, most: usize) -> Self {
        Self { window, rate: u64::from(rate.max(1)), most, gateways: HashMap::new() }
    }

    fn window(&self) -> u64 {
        let fair = (self.gateways.len() as u64 * 1_000).div_ceil(self.rate);
        self.window.max(fair.min(millis(LONGEST_WINDOW)))
    }

    /// Notes that something was added for `gateway`.
    pub(crate) fn added(&mut self, gateway: &NodeRef, bytes: usize, urgent: bool) {
        if let Some(window) = self.gateways.get_mut(gateway) {
            window.bytes += bytes;
            window.urgent |= urgent;
        } else {
            let window = GatewayWindow { sent: None, bytes, urgent };
            self.gateways.insert(gateway.clone(), window);
        }
    }

    /// When the batch for `gateway` is due; not after `now` if at once.
    pub(crate) fn due(&self, gateway: &NodeRef, now: Millis) -> Millis {
        match self.gateways.get(gateway) {
            Some(window) if !window.urgent && window.bytes < self.most => {
                window.sent.map_or(now, |sent| sent.plus(self.window()))
            }
            _ => now,
        }
    }

    /// Notes that a batch was sent.
    pub(crate) fn sent(&mut self, gateway: &NodeRef, now: Millis) {
        let window = GatewayWindow { sent: Some(now), ..GatewayWindow::default() };
        if let Some(known) = self.gateways.get_mut(gateway) {
            *known = window;
        } else {
            self.gateways.insert(gateway.clone(), window);
        }
    }

    /// Forgets a gateway.
    pub(crate) fn forget(&mut self, gateway: &NodeRef) {
        self.gateways.remove(gateway);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};

    #[test]
    fn first_batch_is_sent_at_once_and_the_next_at_the_end_of_the_window() {
        let gateway = NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) };
        let mut flush = Flush::new(2, 10_000, 100);
        flush.added(&gateway, 10, false);
        assert_eq!(flush.due(&gateway, Millis(50)), Millis(50));
        flush.sent(&gateway, Millis(50));
        flush.added(&gateway, 10, false);
        assert_eq!(flush.due(&gateway, Millis(51)), Millis(52));
        flush.added(&gateway, 89, false);
        assert_eq!(flush.due(&gateway, Millis(51)), Millis(52));
        flush.added(&gateway, 1, false);
        assert_eq!(flush.due(&gateway, Millis(51)), Millis(51));
        flush.sent(&gateway, Millis(51));
        flush.added(&gateway, 1, true);
        assert_eq!(flush.due(&gateway, Millis(51)), Millis(51));
        flush.sent(&gateway, Millis(51));
        // After a quiet window the batch is due already.
        assert!(flush.due(&gateway, Millis(60)) <= Millis(60));
        flush.forget(&gateway);
        assert_eq!(flush.due(&gateway, Millis(60)), Millis(60));
    }

    #[test]
    fn many_gateways_get_longer_windows_within_bounds() {
        for (gateways, window) in [(1, 2), (2, 2), (3, 3), (20, 20), (50, 50), (1_000, 50)] {
            let mut flush = Flush::new(2, 1_000, 100);
            let named = |number| NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(number) };
            (0..gateways).for_each(|number| flush.sent(&named(number), Millis(0)));
            flush.added(&named(0), 10, false);
            assert_eq!(flush.due(&named(0), Millis(1)), Millis(window), "{gateways}");
            // A longer configured window is kept.
            flush.window = 100;
            assert_eq!(flush.due(&named(0), Millis(1)), Millis(100));
        }
    }
}
