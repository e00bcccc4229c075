//! The end of a run: all faults end, all clients must be served in time, and everything that they got is checked.

use std::time::Duration;

use tickwire_core::ids::{EpochId, NodeRef, Partition, Seq};
use tickwire_core::interest::table::TableLimits;
use tickwire_core::protocol::Gap;
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_router_node::decisions::Source;

use super::super::client::SimClient;
use super::super::fixtures::user;
use super::super::plan::{GIVE_UP_AFTER, OUTBOX_BYTES, Plan, REPLAY_RANGE};
use super::super::router::SimRouter;
use super::super::stranger::Stranger;
use super::{BEAT, NODES, PARTITIONS, PAUSE, SimCluster};
use crate::handling::expiry;

/// The number of the first user that connects at the end of a run to show that its gateway serves.
const FIRST_WITNESS: u32 = 1_000;

/// The number of the first user, and of the first filter, of the clients that connect while faults end.
const FIRST_NEWCOMER: u32 = 10_000;

/// The interval at which a newcomer connects to each gateway, in milliseconds. Newcomers connect until no gap is open:
/// at least the first number for each gateway, and fewer than the second.
const NEWCOMER_INTERVAL: u64 = 15;
const MIN_NEWCOMERS: u32 = 20;
const MAX_NEWCOMERS: u32 = 1_000;

/// How long the cluster may take to recover after the faults, in milliseconds.
const RECOVERY_LIMIT: u64 = 34 * BEAT;

/// How long clients rely on heartbeats for their position before they ask for it, in plans with `lasts`, in
/// milliseconds.
const HEARTBEAT_WAIT: u64 = 16 * BEAT;

impl SimCluster {
    /// Ends all faults, and runs until all clients are served or the time for that is over.
    pub(in super::super) fn heal(&mut self, plan: &Plan) {
        self.network.heal();
        (self.failing, self.reading) = (false, 0);
        for number in 0..NODES {
            if self.routers[number].is_frozen {
                self.freeze(number);
            }
            if self.gateways[number].is_frozen {
                self.freeze(number + NODES);
            }
            if self.routers[number].is_down || self.routers[number].drains_until.is_some() {
                self.crash_router(number);
            }
            if self.gateways[number].is_down || self.gateways[number].drains_until.is_some() {
                self.restart_gateway(number);
            }
            if self.gateways[number].is_cut {
                self.cut(number);
            }
            if self.routers[number].is_cut {
                self.cut_router(number);
            }
            self.gateways[number].ahead = 0;
            if self.gateways[number].stopped.is_some() {
                self.stop_storing(number);
            }
            self.routers[number].drops_next = false;
            self.routers[number].refused = 0;
            self.learn_view(number);
            self.learn_view(number + NODES);
            self.take_rules(number);
            self.read_saved(number, true);
        }
        if let Some(absent) = plan.absent {
            self.stop_router(absent.into());
        }
        for client in &mut self.clients {
            client.set_room(None);
        }
        // Where routers keep little interest, that of a gateway could stay too large.
        if self.interest_limits.gateway_bytes < TableLimits::default().gateway_bytes {
            self.clients.iter_mut().for_each(SimClient::replace_large_filter);
        }
        self.wake_all();
        if plan.newcomers {
            self.connect_newcomers();
        }
        // A new client at each gateway shows that the gateway serves.
        let witnesses = self.clients.len();
        for gateway in 0..NODES {
            self.clients.push(SimClient::new(user(FIRST_WITNESS + gateway as u32)));
            self.clients[witnesses + gateway].subscribe(0);
        }
        let begun = self.now;
        while self.now.since(begun) < RECOVERY_LIMIT {
            self.reconnect_clients();
            for gateway in 0..NODES {
                self.connect(witnesses + gateway, gateway);
            }
            self.run_for(PAUSE);
            let lasted = self.now.since(begun);
            // Nodes need some seconds to detect that the stream has lost its tail.
            if lasted < HEARTBEAT_WAIT && (plan.lasts || self.stream.unchanged_through.is_some()) {
                continue;
            }
            if self.is_all_served() && self.are_gateways_ready() && self.are_routers_settled() {
                break;
            }
            self.ask_unserved();
        }
        self.read_alerts_again();
    }

    /// Connects all clients that want to be connected, and are not.
    pub(super) fn reconnect_clients(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].is_wanted && !self.clients[at].is_connected() {
                let gateway = self.network.random(NODES as u64) as usize;
                self.connect(at, gateway);
            }
        }
    }

    /// Has all clients ask for their positions that lack something.
    pub(super) fn ask_unserved(&mut self) {
        for at in 0..self.clients.len() {
            if !self.is_served(at) {
                self.clients[at].list();
            }
        }
        self.wake_all();
    }

    /// Whether all gateways are ready for new clients, and lack nothing.
    pub(super) fn are_gateways_ready(&self) -> bool {
        self.gateways.iter().all(|gateway| gateway.is_ready().is_ok() && gateway.edge.open_gaps() == 0)
    }

    /// Connects new clients all the time, each with a filter of its own, so that the interest keeps changing. Gaps must
    /// be closed nevertheless.
    fn connect_newcomers(&mut self) {
        for came in 0.. {
            // A loss may show only with the next newcomers, so there is a least number of them.
            if came > MIN_NEWCOMERS && self.gateways.iter().all(|gateway| gateway.edge.open_gaps() == 0) {
                return;
            }
            assert!(came < MAX_NEWCOMERS, "a gap stays open while clients connect");
            for gateway in 0..NODES {
                let number = self.clients.len() as u32;
                self.clients.push(SimClient::new(user(FIRST_NEWCOMER + number)));
                self.clients[number as usize].subscribe(FIRST_NEWCOMER + number);
                self.connect(number as usize, gateway);
            }
            self.run_for(NEWCOMER_INTERVAL);
        }
    }

    /// Whether a client may have been notified of lost events with this code.
    fn may_lose(&self, client: &SimClient, code: NoticeCode) -> bool {
        // With a small outbox, a burst is more than may wait for a session.
        let has_flood = self.has_burst && self.config.gateway.outbox_bytes < OUTBOX_BYTES;
        match code {
            NoticeCode::SlowConsumer => client.was_slow || has_flood,
            NoticeCode::Throttled => self.has_burst,
            NoticeCode::Quota => client.quota().is_some(),
            NoticeCode::Expired => {
                let mut stored = self.history.values().chain(self.lost.values()).flatten();
                stored.any(|stored| expiry(&stored.event).is_some())
            }
            _ => false,
        }
    }

    pub(in super::super) fn is_all_served(&self) -> bool {
        (0..self.clients.len()).all(|at| self.is_served(at)) && self.strangers.iter().all(Stranger::is_answered)
    }

    /// Whether a client has everything, or does not want to be connected.
    fn is_served(&self, at: usize) -> bool {
        let mut ends = vec![Seq(0); usize::from(PARTITIONS)];
        for stored in self.history[&self.epoch.epoch_id].iter().filter(|stored| !stored.is_heartbeat) {
            ends[usize::from(stored.partition.0)] = stored.seq;
        }
        let client = &self.clients[at];
        client.has_reached(self.epoch.epoch_id, &ends) && client.has_newest_saved(&self.saved)
    }

    /// Whether a client may have been notified of a gap: no router could replay it.
    fn is_gap_allowed(&self, epoch: EpochId, gap: &Gap) -> bool {
        match gap.reason.as_str() {
            "retention" => self.discarded.get(&epoch).is_some_and(|discarded| gap.to <= *discarded),
            "damaged" => {
                self.damaged.get(&epoch).is_some_and(|lost| lost.range(Seq(gap.from.0 + 1)..=gap.to).next().is_some())
            }
            "lost" => self.config.gateway.give_up_after < Duration::from_millis(GIVE_UP_AFTER),
            "too_long" => self.config.gateway.replay_range < REPLAY_RANGE,
            "reset" => self.epochs.len() > 1,
            other => panic!("{other}"),
        }
    }

    /// Whether every router has the announced revision of every gateway's interest, and every source has one owner.
    pub(super) fn are_routers_settled(&self) -> bool {
        let lacks =
            |router: &SimRouter| router.gateways_without_interest().iter().any(|node| self.is_current_gateway(node));
        self.running_routers().all(|router| !lacks(router) && router.reads_what_it_holds())
            && self.owners().iter().all(|owners| owners.len() == 1)
    }

    fn running_routers(&self) -> impl Iterator<Item = &SimRouter> {
        self.routers.iter().filter(|router| router.runs())
    }

    /// For each source, the routers that hold its lease, or believe so.
    fn owners(&self) -> Vec<Vec<&NodeRef>> {
        let holders = |source| self.running_routers().filter(move |router| router.holds(source));
        let sources = (0..PARTITIONS).map(|number| Source::Partition(Partition(number))).chain([Source::CatchAll]);
        sources.map(|source| holders(source).map(|router| &router.node).collect()).collect()
    }

    /// Whether this is the present start of a gateway.
    fn is_current_gateway(&self, node: &NodeRef) -> bool {
        self.gateways.iter().any(|gateway| gateway.node == *node)
    }

    /// Checks what all clients received, and the state of all nodes.
    pub(in super::super) fn check(&self, quiet: bool) {
        for (at, client) in self.clients.iter().enumerate() {
            let has_newest = client.has_newest_saved(&self.saved);
            assert!(has_newest, "a client does not have what its user has saved: {:#?}: {client:#?}", self.saved);
            assert!(self.is_served(at), "a client is not served up to {} of {:?}: {client:#?}", self.last, self.epoch);
            client.check(
                (&self.history, &self.epochs, &self.lost, &self.rules),
                self.stream.has_diverged,
                |client, code| self.may_lose(client, code),
                |epoch, gap| self.is_gap_allowed(epoch, gap),
                |epoch, seq| self.may_lack(epoch, seq),
            );
            assert!(!quiet || !client.has_gaps(), "a gap without a fault: {client:#?}");
        }
        for stranger in &self.strangers {
            assert!(stranger.is_answered(), "a frame is not answered: {stranger:#?}");
        }
        for gateway in &self.gateways {
            assert_eq!((gateway.is_ready(), gateway.edge.open_gaps()), (Ok(()), 0), "{}", gateway.node);
        }
        for router in self.running_routers() {
            let gateways_without_interest: Vec<&NodeRef> =
                router.gateways_without_interest().iter().filter(|node| self.is_current_gateway(node)).collect();
            assert!(
                gateways_without_interest.is_empty(),
                "{} lacks the interest of {gateways_without_interest:?}",
                router.node
            );
        }
        for router in self.running_routers() {
            assert!(router.reads_what_it_holds(), "{} does not read exactly what it holds", router.node);
        }
        let owners = self.owners();
        assert!(owners.iter().all(|owners| owners.len() == 1), "not every source has one owner: {owners:?}");
        self.check_alerts();
    }
}
