//! How nodes start, stop, freeze and drain.

use bytes::Bytes;
use tickwire_core::ids::NodeRef;
use tickwire_core::replay::ReplayRefusal;
use tickwire_node::clock::millis;

use super::cluster::{AT_ONCE, FLOOD, NODES, SimCluster};
use super::gateway::SimGateway;
use super::network::BatchEnds;

impl SimCluster {
    /// Stops a node that is up, or starts one that is down. Routers are numbered first, then gateways.
    pub(super) fn toggle(&mut self, node: usize) {
        match node.checked_sub(NODES) {
            None if self.routers[node].is_down => self.start_router(node),
            None => self.stop_router(node),
            Some(gateway) if self.gateways[gateway].is_down => self.start_gateway(gateway),
            Some(gateway) => self.stop_gateway(gateway),
        }
    }

    pub(super) fn crash_router(&mut self, number: usize) {
        self.stop_router(number);
        self.start_router(number);
    }

    pub(super) fn stop_router(&mut self, number: usize) {
        self.routers[number].is_down = true;
    }

    pub(super) fn start_router(&mut self, number: usize) {
        self.routers[number] = {
            self.join(NODES + number, "router", number);
            self.new_router(number)
        };
    }

    pub(super) fn restart_gateway(&mut self, number: usize) {
        self.stop_gateway(number);
        self.start_gateway(number);
    }

    pub(super) fn stop_gateway(&mut self, number: usize) {
        self.gateways[number].is_down = true;
        for client in &mut self.clients {
            client.gateway_stopped(number);
        }
        self.strangers.iter_mut().for_each(|stranger| stranger.gateway_stopped(number));
    }

    pub(super) fn start_gateway(&mut self, number: usize) {
        let node = self.join(number, "gw", number);
        self.gateways[number] = SimGateway::new(node, number, &self.config, self);
    }

    /// Puts a node that starts into the view, in place of its former start.
    fn join(&mut self, member: usize, name: &str, number: usize) -> NodeRef {
        let node = self.new_node(name, number);
        let member = &mut self.view.members[member];
        (member.node, member.draining) = (node.clone(), false);
        self.view.version += 1;
        node
    }

    /// Freezes a node as SIGSTOP does, or continues it as SIGCONT does. Routers are numbered first, then gateways.
    /// Messages to a frozen node wait for it.
    pub(super) fn freeze(&mut self, node: usize) {
        match node.checked_sub(NODES) {
            None => {
                let router = &mut self.routers[node];
                router.is_frozen = !router.is_frozen;
                for message in std::mem::take(&mut router.waiting) {
                    self.receive(message);
                }
            }
            Some(number) => {
                let gateway = &mut self.gateways[number];
                gateway.is_frozen = !gateway.is_frozen;
                gateway.due = AT_ONCE;
                if !gateway.is_frozen {
                    gateway.thawed_at = self.now;
                }
            }
        }
    }

    /// Sends a node many meaningless messages at once. Routers are numbered first, then gateways.
    pub(super) fn flood(&mut self, node: usize, queue: u8) {
        let Some(number) = node.checked_sub(NODES) else {
            let gateway = self.gateways[0].node.clone();
            return self.routers[node].flood(&gateway);
        };
        if queue == 1 {
            return self.gateways[number].flood_requests();
        }
        let (node, epoch_id) = (self.gateways[number].node.clone(), self.epoch.epoch_id);
        let nothing = Bytes::from_static(b"nothing");
        self.deliver(&node, |inputs| match queue {
            0 => {
                let ends = BatchEnds { epoch_id, ends: Vec::new() };
                inputs.batches.extend((0..FLOOD).map(|_| (nothing.clone(), ends.clone())));
            }
            _ => inputs.answers.extend((0..FLOOD).map(|_| (u64::MAX, Some(nothing.clone())))),
        });
    }

    /// Cuts a router's connection to NATS, or restores it.
    pub(super) fn cut_router(&mut self, number: usize) {
        self.routers[number].cut();
    }

    /// Drains a node, as SIGTERM does. Routers are numbered first, then gateways.
    pub(super) fn drain(&mut self, node: usize) {
        let deadline = self.now.plus(millis(self.config.node.shutdown_grace));
        let member = match node.checked_sub(NODES) {
            None if self.routers[node].runs() && self.routers[node].drains_until.is_none() => {
                let router = &mut self.routers[node];
                router.drains_until = Some(deadline);
                (router.due, router.round_at) = (AT_ONCE, AT_ONCE);
                router.snapshots.clear();
                let refused: Vec<_> = router.queue.drain().collect();
                refused.iter().for_each(|waiting| self.refuse(node, waiting, ReplayRefusal::Busy));
                NODES + node
            }
            Some(number) if self.gateways[number].runs() && self.gateways[number].drains_until.is_none() => {
                let now = self.now;
                let gateway = &mut self.gateways[number];
                gateway.drains_until = Some(deadline);
                gateway.drain(now);
                number
            }
            _ => return,
        };
        self.view.members[member].draining = true;
        self.view.version += 1;
    }

    /// Stops the nodes whose drain is complete, and those whose deadline has passed.
    pub(super) fn end_drains(&mut self) {
        let grace = millis(self.config.node.shutdown_grace);
        for number in 0..NODES {
            let router = &self.routers[number];
            if router.runs() && router.drains_until.is_some_and(|until| router.is_drained() || until <= self.now) {
                self.stop_router(number);
            }
            let gateway = &self.gateways[number];
            if gateway.runs() && gateway.drains_until.is_some_and(|until| gateway.is_drained() || until <= self.now) {
                let had_time = gateway.drains_until >= Some(gateway.thawed_at.plus(grace));
                assert!(gateway.is_drained() || !had_time, "{} still has sessions after its drain", gateway.node);
                self.stop_gateway(number);
            }
        }
    }
}
