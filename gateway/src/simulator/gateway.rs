//! The gateways: the production edge and shards.

mod turns;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tickwire_core::event::{Kinds, Timestamp};
use tickwire_core::ids::{Millis, NodeRef, Seq, UserId};
use tickwire_core::interest::{Delta, InterestBeat, SnapshotPart};
use tickwire_core::replay::ReplayRequest;
use tickwire_core::wire;
use tickwire_node::admin::{Check, Readiness};
use tickwire_node::clock::Turns;
use tickwire_node::config::{Config, LoadOptions, Secret};
use tickwire_node::names;
use tickwire_node::storage::Stopped;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::alerts::AlertTasks;
use super::clocks;
use super::cluster::{AT_ONCE, FLOOD, NODES, PARTITIONS, SimCluster};
use super::network::{MAX_PAYLOAD, SimMessage};
use super::saved::SavedReader;
use super::socket::{ClientSocket, GatewaySocket};
use crate::acks;
use crate::auth::USUAL_WEIGHT;
use crate::auth::{Authenticator, Identity};
use crate::backfill::cohorts::{ASK_BITS, Cohorts};
use crate::byte_queue;
use crate::byte_queue::{ByteReceiver, ByteSender};
use crate::edge::{Edge, EdgeSetup, NatsConnection, Outgoing, TURN_REQUESTS};
use crate::messages::{SessionId, ToEdge, ToShard};
use crate::new_session::shard_of;
use crate::registry::SessionRegistry;
use crate::shard::{Clocks, Shard, ShardConfig};
use turns::EdgeInputs;

const SHARDS: u16 = 2;

pub(super) struct SimGateway {
    pub(super) node: NodeRef,
    /// Whether its process does not run. Messages to it are lost.
    pub(super) is_down: bool,
    /// The simulated time of its next turn.
    pub(super) due: Millis,
    /// How far its monotonic clock is ahead of the simulated time, in milliseconds.
    offset: u64,
    /// How far its time of day is ahead of the true one, in milliseconds.
    pub(super) ahead: i64,
    /// Whether its time of day was ever wrong.
    pub(super) was_ahead: bool,
    /// Whether it has no connection to NATS.
    pub(super) is_cut: bool,
    /// Why NATS does not store events, as routers have reported it to this gateway.
    pub(super) stopped: Stopped,
    /// Whether its process is stopped: it does nothing, and messages to it wait.
    pub(super) is_frozen: bool,
    /// When its process last continued after that.
    pub(super) thawed_at: Millis,
    /// The deadline of its drain, if it drains.
    pub(super) drains_until: Option<Millis>,
    pub(super) edge: Edge,
    /// The searches for a time that are under way, and their deadlines.
    searches: BTreeMap<Timestamp, Millis>,
    /// The searches that are not sent yet.
    new_searches: Vec<Timestamp>,
    /// The snapshots that are not sent yet.
    snapshots: Vec<Snapshot>,
    shards: Vec<SimShard>,
    requests: ByteReceiver<ToEdge>,
    to_edge: ByteSender<ToEdge>,
    pub(super) inputs: EdgeInputs,
    readiness: Readiness,
    bounds: MemoryBounds,
    /// What it knows of saved subscriptions.
    pub(super) saved: SavedReader,
    /// Its tasks that record acknowledgements, and read alerts that come again.
    pub(super) alerts: Option<Box<AlertTasks>>,
    /// The requests for replays that its cohorts have sent, each with the number of its cohort.
    pub(super) cohort_asks: Vec<(u64, ReplayRequest)>,
}

/// The bounds of memory, in bytes.
#[derive(Clone, Copy, Debug)]
struct MemoryBounds {
    hold_bytes: usize,
    shard_bytes: usize,
}

/// A snapshot of a gateway's interest for a router.
struct Snapshot {
    router: usize,
    parts: Vec<SnapshotPart>,
}

/// A shard, and the state that its driver keeps.
struct SimShard {
    shard: Shard<GatewaySocket>,
    /// Whether new clients came before the messages of the edge when it last took both.
    arrives_first: bool,
    inbox: ByteReceiver<ToShard>,
    turns: Turns,
    /// The sessions whose sockets are watched.
    watched: Vec<u64>,
    /// The sockets that the runtime has not polled yet.
    new_sockets: Vec<ClientSocket>,
    /// The clients whose handshakes are done, and that the shard does not have yet, and whether they get saved
    /// subscriptions.
    arriving: Vec<(Identity, ClientSocket, bool)>,
}

impl SimGateway {
    pub(super) fn new(node: NodeRef, number: usize, config: &Config, cluster: &SimCluster) -> Self {
        let (to_edge, requests) = byte_queue::channel();
        let (acks, ack_requests) = mpsc::channel(acks::QUEUE);
        let (reminders, reminder_requests) = mpsc::channel(config.gateway.max_sessions);
        let settings = ShardConfig {
            gateway: node.id.clone(),
            config: config.gateway.clone(),
            kinds: Arc::new(Kinds::default()),
            partitions: PARTITIONS,
            authenticator: Arc::new(Authenticator::new(&config.auth)),
            registry: Arc::new(SessionRegistry::new(SHARDS)),
            saved: Arc::default(),
            acks,
            reminders,
            clocks: Clocks { wall: clocks::wall, monotonic: clocks::work },
            is_traced: false,
            seed: number as u64,
        };
        let (mut senders, mut shards) = (Vec::new(), Vec::new());
        for number in 0..SHARDS {
            let (sender, inbox) = byte_queue::channel();
            senders.push(sender);
            let shard = Shard::new(number, settings.clone(), to_edge.clone());
            let (turns, watched, new_sockets, arriving) = (Turns::default(), Vec::new(), Vec::new(), Vec::new());
            shards.push(SimShard { shard, arrives_first: false, inbox, turns, watched, new_sockets, arriving });
        }
        // In other runs nobody takes requests, as in a gateway that stops.
        let alerts = cluster.alerts.as_ref();
        let alerts = alerts.map(|_| AlertTasks::new(ack_requests, reminder_requests, senders.clone()));
        let saved = SavedReader::new(&settings, senders.clone(), &cluster.saved);
        let readiness = Readiness::default();
        let ready: Check = readiness.register("coverage");
        let connection = NatsConnection { is_up: true, max_payload: MAX_PAYLOAD };
        let (view, gateway) = (cluster.view.clone(), node.clone());
        let edge =
            Edge::new(EdgeSetup { gateway, config, partitions: PARTITIONS, view, connection, shards: senders, ready });
        let (is_down, is_cut, offset, searches) = (false, false, number as u64 * 7_777, BTreeMap::new());
        let new_searches = Vec::new();
        let bounds = MemoryBounds { hold_bytes: config.gateway.hold_bytes, shard_bytes: config.gateway.shard_bytes };
        Self {
            bounds,
            saved,
            alerts,
            node,
            is_down,
            due: AT_ONCE,
            is_cut,
            stopped: None,
            is_frozen: false,
            thawed_at: AT_ONCE,
            drains_until: None,
            offset,
            ahead: 0,
            was_ahead: false,
            edge,
            searches,
            new_searches,
            snapshots: Vec::new(),
            shards,
            requests,
            to_edge,
            inputs: EdgeInputs::default(),
            readiness,
            cohort_asks: Vec::new(),
        }
    }

    /// Whether messages to `node` reach this gateway.
    pub(super) fn is_reachable_as(&self, node: &NodeRef) -> bool {
        self.node == *node && !self.is_down && !self.is_cut
    }

    pub(super) fn runs(&self) -> bool {
        !self.is_down && !self.is_frozen
    }

    /// Begins to drain: it asks its sessions to connect elsewhere.
    pub(super) fn drain(&mut self, now: Millis) {
        let now = now.plus(self.offset);
        self.due = AT_ONCE;
        self.shards.iter_mut().for_each(|input| input.shard.drain(now));
    }

    /// A shard floods the edge with requests that mean nothing.
    pub(super) fn flood_requests(&mut self) {
        self.due = AT_ONCE;
        let session = SessionId { shard: 0, number: u64::MAX };
        for _ in 0..FLOOD * TURN_REQUESTS {
            self.to_edge.send(ToEdge::LeaveCohorts(session));
        }
    }

    /// Whether it has no sessions left.
    pub(super) fn is_drained(&self) -> bool {
        self.shards.iter().all(|input| input.shard.is_empty() && input.arriving.is_empty())
    }

    /// Whether its readiness check passes; if not, its report.
    pub(super) fn is_ready(&self) -> Result<(), String> {
        let report = self.readiness.report(false);
        if report.ready { Ok(()) } else { Err(format!("{report:?}")) }
    }

    /// Takes a new connection of a client, which gets the saved subscriptions of its user or not.
    pub(super) fn accept(&mut self, identity: Identity, socket: &ClientSocket, takes_saved: bool) {
        let shard = shard_of(&identity.user, self.shards.len());
        self.due = AT_ONCE;
        self.shards[shard].arriving.push((identity, ClientSocket::clone(socket), takes_saved));
    }
}

/// The default configuration, with the values that a plan chooses.
pub(super) fn config(choose: impl FnOnce(&mut Config)) -> Config {
    static SHIPPED: LazyLock<Config> = LazyLock::new(|| Config::load(&LoadOptions::default()).unwrap());
    let mut config = SHIPPED.clone();
    config.auth.jwt_secret = Secret::new("0123456789abcdef0123456789abcdef");
    choose(&mut config);
    config
}

/// The permit of a session, which gateways limit in number.
fn connection_permit() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
}

/// The identity of a client whose token expires at `expires`.
pub(super) fn identity(user: &UserId, expires: Option<Duration>) -> Identity {
    Identity { user: user.clone(), plan: None, weight: USUAL_WEIGHT, expires }
}

impl SimCluster {
    pub(super) fn turn_gateway(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if !gateway.runs() || gateway.due > self.now {
            return;
        }
        clocks::set_host_ahead(gateway.ahead);
        let outgoing = gateway.turn(self.now);
        clocks::set_host_ahead(0);
        let (searches, snapshots) = (std::mem::take(&mut gateway.new_searches), std::mem::take(&mut gateway.snapshots));
        for Snapshot { router, parts } in snapshots.into_iter().filter(|_| !self.gateways[number].is_cut) {
            self.network.send(self.now, &SimMessage::Snapshot(router, parts));
        }
        for message in outgoing {
            self.send_outgoing(number, message);
        }
        let node = self.gateways[number].node.clone();
        for time in searches {
            self.network.send_once(self.now, SimMessage::Find(node.clone(), time));
        }
        let alerts_due = self.turn_alerts(number);
        let gateway = &mut self.gateways[number];
        gateway.due = gateway.next_turn().min(alerts_due);
    }

    /// Sends a message of a gateway's edge.
    fn send_outgoing(&mut self, from: usize, Outgoing { subject, payload, ask }: Outgoing) {
        let gateway = &mut self.gateways[from];
        if gateway.is_cut {
            if let Some(ask) = ask {
                gateway.edge.unsent(self.now.plus(gateway.offset), ask);
            }
            return;
        }
        if let Some(ask) = ask {
            let to = (0..NODES).find(|router| {
                let node = &self.routers[*router].node;
                *subject == names::replay_of(node.id.as_str(), &node.nonce.to_string())
            });
            // The ask names a router, or NATS chooses one that is connected.
            let connected: Vec<usize> = (0..NODES).filter(|router| self.routers[*router].serves_replays()).collect();
            let is_any = subject == names::REPLAY && !connected.is_empty();
            let to = to.filter(|router| connected.contains(router));
            let to = to.or_else(|| is_any.then(|| connected[self.network.random(connected.len() as u64) as usize]));
            let request: ReplayRequest = wire::decode(&payload).expect("a request can be decoded");
            if Cohorts::is_cohort_ask(ask) {
                gateway.cohort_asks.push((ask >> ASK_BITS, request.clone()));
            }
            let message = match to {
                Some(to) => SimMessage::Ask(to, ask, request),
                None => SimMessage::NoResponders(self.gateways[from].node.clone(), ask),
            };
            self.network.send(self.now, &message);
            return;
        }
        let mut message = match &*subject {
            delta if names::is_interest(delta) => SimMessage::Delta(0, wire::decode::<Delta>(&payload).unwrap()),
            beat if names::is_interest_beat(beat) => {
                SimMessage::Beat(0, wire::decode::<InterestBeat>(&payload).unwrap())
            }
            other => panic!("{other}"),
        };
        for router in 0..NODES {
            if let SimMessage::Delta(to, _) | SimMessage::Beat(to, _) = &mut message {
                *to = router;
            }
            self.network.send(self.now, &message);
        }
    }

    /// Delivers an input to a gateway, if messages reach it.
    pub(super) fn deliver(&mut self, node: &NodeRef, deliver: impl FnOnce(&mut EdgeInputs)) {
        if let Some(gateway) = self.gateways.iter_mut().find(|gateway| gateway.is_reachable_as(node)) {
            gateway.due = AT_ONCE;
            deliver(&mut gateway.inputs);
        }
    }

    /// A gateway receives the answer to its search for a time.
    pub(super) fn receive_found(&mut self, node: &NodeRef, time: Timestamp, seq: Option<Seq>) {
        let gateway = self.gateways.iter_mut().find(|gateway| gateway.is_reachable_as(node));
        if gateway.is_some_and(|gateway| gateway.searches.remove(&time).is_some()) {
            self.deliver(node, |inputs| inputs.found.push_back((time, seq)));
        }
    }

    /// Routers report to a gateway that NATS no longer stores events, or stores them again.
    pub(super) fn stop_storing(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        gateway.stopped = if gateway.stopped.is_none() { Some("the disk is full".into()) } else { None };
        (gateway.inputs.is_nats_changed, gateway.due) = (true, AT_ONCE);
    }

    /// Cuts a gateway's connection to NATS, or restores it.
    pub(super) fn cut(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        gateway.is_cut = !gateway.is_cut;
        (gateway.inputs.is_nats_changed, gateway.due) = (true, AT_ONCE);
    }
}
