//! Connects clients to gateways, and has them read the frames that have arrived.

use super::facts::ClusterFacts;
use super::*;

impl SimCluster {
    /// Connects a client to a gateway, unless that is down.
    pub(in super::super) fn connect(&mut self, at: usize, gateway: usize) {
        let expires = self.token_life.map(clocks::time_of_day_in);
        let (now, client) = (self.now, &mut self.clients[at]);
        client.is_wanted = true;
        if client.connection.is_some() || self.gateways[gateway].is_down {
            return;
        }
        let socket = ClientSocket::default();
        let read_through = self.gateways[gateway].saved.read_through();
        client.connect_with_saved(&self.saved, read_through);
        self.gateways[gateway].accept(identity(&client.user, expires), &socket, client.takes_saved());
        client.connections += 1;
        client.connection = Some(ClientConnection {
            gateway,
            socket: Rc::clone(&socket),
            since: now,
            has_token: expires.is_some(),
            is_welcome: false,
            requests: Vec::new(),
            was_slow: false,
            outage_notified: false,
            is_new: true,
            is_position_last: false,
            resets: BTreeSet::new(),
            served_since: now,
            alerts: ConnectionAlerts::default(),
        });
    }

    /// All clients receive the frames that have arrived.
    pub(in super::super) fn receive_at_clients(&mut self) {
        let is_tight = self.config.gateway.replay_range < REPLAY_RANGE;
        let facts = ClusterFacts {
            epochs: &self.epochs,
            history: &self.history,
            lost: &self.lost,
            saved: &self.saved,
            alerts: self.alerts.as_ref(),
            is_quiet: self.is_quiet,
            is_tight,
            has_burst: self.has_burst,
            are_clocks_true: self.gateways.iter().all(|gateway| !gateway.was_ahead),
            has_frozen: self.gateways.iter().any(|gateway| gateway.is_frozen || gateway.thawed_at > AT_ONCE),
            now: self.now,
            delay: self.delay(),
        };
        let mut has_received = [false; NODES];
        for client in &mut self.clients {
            let gateway = client.connection.as_ref().map(|connection| connection.gateway);
            if let Some(gateway) = gateway.filter(|_| client.receive(&facts)) {
                self.gateways[gateway].due = AT_ONCE;
                has_received[gateway] = true;
            }
        }
        self.check_tokens();
        (0..NODES).filter(|gateway| has_received[*gateway]).for_each(|gateway| self.check_outage(gateway));
    }
}
