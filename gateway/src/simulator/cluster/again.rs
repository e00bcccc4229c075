//! The end of a run in which alerts come again: new clients must get everything that is not acknowledged.

use tickwire_core::ids::Seq;
use tickwire_node::clock::millis;

use super::super::alerts::{AGAIN_MAX, is_alert_to};
use super::super::client::SimClient;
use super::super::fixtures::user;
use super::{NODES, PAUSE, SimCluster, StoredEvent};
use crate::acks;

/// How many users get alerts.
const ALERTED: u32 = 4;

/// The filter that only alerts match.
const ALERTS: u32 = 6;

/// How long the new clients may wait for their alerts, in milliseconds.
const READ_LIMIT: u64 = 10_000;

impl SimCluster {
    /// Once all acknowledgements are answered, a new client of each user connects to each gateway, and waits for the
    /// alerts that come again.
    pub(super) fn read_alerts_again(&mut self) {
        if self.alerts.is_none() {
            return;
        }
        let begun = self.now;
        while !self.are_acks_answered() {
            assert!(self.now.since(begun) <= 2 * millis(acks::DEADLINE), "an acknowledgement is not answered");
            self.run_for(PAUSE);
        }
        let first = self.clients.len();
        for gateway in 0..NODES {
            for number in 0..ALERTED {
                self.clients.push(SimClient::new(user(number)));
                let at = self.clients.len() - 1;
                self.clients[at].subscribe(ALERTS);
                self.connect(at, gateway);
            }
        }
        let readers: Vec<usize> = (first..self.clients.len()).collect();
        self.alerts.as_mut().expect("alerts come again").readers.clone_from(&readers);
        self.wake_all();
        let begun = self.now;
        while self.now.since(begun) < READ_LIMIT {
            self.run_for(PAUSE);
            let is_settled = self.is_all_served() && self.are_gateways_ready() && self.are_routers_settled();
            if is_settled && readers.iter().all(|at| self.missing_alerts(*at).is_empty()) {
                return;
            }
            self.reconnect_clients();
            self.ask_unserved();
        }
    }

    /// Whether no gateway has an acknowledgement that it must answer.
    fn are_acks_answered(&self) -> bool {
        self.gateways.iter().filter_map(|gateway| gateway.alerts.as_ref()).all(|tasks| tasks.has_recorded())
    }

    /// The alerts that must come to a client that has connected, and have not. A quota may withhold them.
    fn missing_alerts(&self, at: usize) -> Vec<&StoredEvent> {
        let (client, Some(alerts)) = (&self.clients[at], &self.alerts) else { return Vec::new() };
        if client.quota().is_some() {
            return Vec::new();
        }
        let acked = alerts.record(client.user_id()).1.sequences();
        let is_unacked = |stored: &&StoredEvent| {
            is_alert_to(stored, client.user_id()) && acked.binary_search(&(stored.seq, stored.event.stored)).is_err()
        };
        let unacked: Vec<&StoredEvent> = self.readable(Seq(0)).filter(is_unacked).collect();
        let newest = unacked.into_iter().rev().take(AGAIN_MAX);
        // A router may have read a server that has removed more than the leader.
        newest.filter(|stored| self.is_everywhere(stored.seq) && !client.has_alert(stored)).collect()
    }

    /// Checks that every alert that is not acknowledged has come again.
    pub(super) fn check_alerts(&self) {
        for at in self.alerts.iter().flat_map(|alerts| &alerts.readers) {
            let missing = self.missing_alerts(*at);
            assert!(missing.is_empty(), "{missing:#?} does not come again: {:#?}", self.clients[*at]);
        }
    }
}
