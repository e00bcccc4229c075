//! What a plan lets its clients do.

use tickwire_core::ids::Millis;

use super::super::client::SimClient;
use super::super::clocks;
use super::super::plan::NEWEST;
use super::SimCluster;

impl SimCluster {
    /// A new client connects, with a subscription of its own or without.
    pub(super) fn connect_new(&mut self, mut client: SimClient, gateway: u8, filter: Option<u8>) {
        if let Some(filter) = filter {
            client.subscribe(filter.into());
        }
        self.clients.push(client);
        self.connect(self.clients.len() - 1, usize::from(gateway));
    }

    /// A client subscribes with `since`, `ago` milliseconds before now: as a time of day, or as a number of whole
    /// seconds. Seconds count from the time at which the gateway reads the frame, by the clock of its host.
    pub(super) fn look_back(&mut self, (session, filter): (u8, u8), ago: u64, in_seconds: bool) {
        let Some(at) = self.wanted_client(session) else { return };
        let gateway = self.clients[at].gateway().map(|gateway| &self.gateways[gateway]);
        let is_read_soon = gateway.is_some_and(|gateway| !gateway.is_frozen);
        let (ago, ahead, since_text) = match gateway {
            Some(gateway) if in_seconds && is_read_soon => {
                (ago / 1_000 * 1_000, gateway.ahead, Some(format!("{}s", ago / 1_000)))
            }
            _ => (ago, 0, None),
        };
        let since = clocks::time_of_day(Millis(self.now.0.saturating_sub(ago).saturating_add_signed(ahead)));
        self.clients[at].look_back(filter.into(), &since_text.unwrap_or_else(|| since.to_string()), since);
    }

    /// A client resumes at a gateway. Its socket takes `tens * 10` bytes, or all.
    pub(super) fn resume(&mut self, session: u8, gateway: u8, tens: Option<u8>) {
        if !self.clients.is_empty() {
            let at = pick_index(session, self.clients.len());
            self.clients[at].disconnect();
            self.connect(at, usize::from(gateway));
            self.clients[at].set_room(tens.map(|tens| usize::from(tens) * 10));
        }
    }

    /// Calls `act` with one of the clients that want to be connected.
    pub(super) fn with_client(&mut self, pick: u8, act: impl FnOnce(&mut SimClient)) {
        if let Some(at) = self.wanted_client(pick) {
            act(&mut self.clients[at]);
        }
    }

    /// The place of the client that a plan picks among those that want to be connected.
    fn wanted_client(&self, pick: u8) -> Option<usize> {
        let wanted: Vec<usize> = (0..self.clients.len()).filter(|at| self.clients[*at].is_wanted).collect();
        (!wanted.is_empty()).then(|| wanted[pick_index(pick, wanted.len())])
    }
}

/// The place of the client that a plan picks among `count` clients.
fn pick_index(session: u8, count: usize) -> usize {
    if session == NEWEST { count - 1 } else { usize::from(session) % count }
}
