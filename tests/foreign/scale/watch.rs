//! How many WebSockets the gateways open in each second. While all clients are connected, each is a reconnect.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::site::{GatewayState, Site};

/// The time between two looks.
const PACE: Duration = Duration::from_secs(1);

/// What has been seen since the last [`Watch::begin`].
#[derive(Debug)]
pub(super) struct Watch {
    /// How many each gateway had opened at the last look.
    opened: BTreeMap<String, f64>,
    looked_at: Instant,
    began_at: Instant,
    /// When the last one was opened.
    opened_at: Instant,
    pub(super) total: f64,
    /// The most in a second.
    pub(super) most: f64,
}

impl Watch {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { opened: BTreeMap::new(), looked_at: now, began_at: now, opened_at: now, total: 0.0, most: 0.0 }
    }

    /// Begins to count anew.
    pub(super) fn begin(&mut self) {
        self.began_at = Instant::now();
        self.opened_at = self.began_at;
        (self.total, self.most) = (0.0, 0.0);
    }

    /// Looks at the gateways, a second after the last time.
    pub(super) async fn look(&mut self, site: &Site) -> Vec<GatewayState> {
        sleep_until(self.looked_at + PACE).await;
        let states = site.gateway_states().await;
        let now = Instant::now();
        let mut new = 0.0;
        for state in &states {
            let before = self.opened.insert(state.name.clone(), state.opened).unwrap_or_default();
            // A gateway that was started again has begun at zero.
            new += if state.opened < before { state.opened } else { state.opened - before };
        }
        self.total += new;
        self.most = self.most.max(new / (now - self.looked_at).as_secs_f64());
        if new > 0.0 {
            self.opened_at = now;
        }
        self.looked_at = now;
        states
    }

    /// For how long none has been opened.
    pub(super) fn quiet_for(&self) -> Duration {
        self.looked_at.saturating_duration_since(self.opened_at)
    }

    /// How long ago [`Self::begin`] was called.
    pub(super) fn elapsed(&self) -> Duration {
        self.began_at.elapsed()
    }
}
