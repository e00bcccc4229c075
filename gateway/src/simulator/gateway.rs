//! The gateways: shipped edges and shards, and the turns that their drivers give them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tickwire_core::event::{Kinds, Timestamp};
use tickwire_core::ids::{Millis, NodeRef, Seq};
use tickwire_core::interest::{Delta, InterestBeat, SnapshotPart};
use tickwire_core::replay::ReplayRequest;
use tickwire_core::wire;
use tickwire_node::admin::{Check, Readiness};
use tickwire_node::clock::millis;
use tickwire_node::config::{Config, LoadOptions, Secret};
use tickwire_node::names;
use tokio::sync::Semaphore;

use super::clocks;
use super::cluster::{AT_ONCE, NODES, PARTITIONS, SimCluster};
use super::network::{MAX_PAYLOAD, SimMessage};
use super::socket::{Line, Wire};
use crate::auth::USUAL_WEIGHT;
use crate::auth::{Authenticator, Identity};
use crate::backfill::cohorts::{ASK_BITS, Cohorts};
use crate::byte_queue;
use crate::byte_queue::Receiver;
use crate::edge::{Edge, NatsConnection, Outgoing, SEARCH_DEADLINE};
use crate::messages::{ToEdge, ToShard};
use crate::new_session::shard_of;
use crate::shard::{Clocks, Shard, ShardConfig};
use crate::socket::Ready;

/// As the drivers do.
const TURN_MESSAGES: usize = 64;
const TURN_REQUESTS: usize = 16;

/// How many turns a gateway may need until there is nothing left to do at one moment.
const TURNS: usize = 2_000;

const SHARDS: u16 = 2;

/// How long a turn of a shard may work: as long as sockets are read and the past is digested, each with what comes
/// last.
const WORK: Duration = Duration::from_millis(2);

/// How many messages an edge may send in a turn: a request for each replay that may be under way, and what it says to
/// routers.
const SENDS: usize = 256;

pub(super) struct SimGateway {
    pub(super) node: NodeRef,
    pub(super) is_down: bool,
    /// When it next has something to do, on the clock of the world.
    pub(super) due: Millis,
    /// What its clock shows beside that of the world.
    offset: u64,
    /// Whether it has no connection to NATS, and whether that has changed since its edge was told.
    pub(super) is_cut: bool,
    has_news: bool,
    /// Its process is stopped: it does nothing, and what is sent to it waits.
    pub(super) is_frozen: bool,
    pub(super) waiting: Vec<SimMessage>,
    /// When it last went on after that.
    pub(super) thawed_at: Millis,
    /// Until when it drains, if it does.
    pub(super) drains_until: Option<Millis>,
    pub(super) edge: Edge,
    /// The times that are searched for, and until when.
    searches: BTreeMap<Timestamp, Millis>,
    /// Those of them that have yet to be sent.
    begun: Vec<Timestamp>,
    shards: Vec<GatewayInput>,
    requests: Receiver<ToEdge>,
    readiness: Readiness,
    bounds: MemoryBounds,
    /// What its cohorts have asked for, each with its number.
    pub(super) cohort_asks: Vec<(u64, ReplayRequest)>,
}

/// What may be held, in bytes.
#[derive(Clone, Copy, Debug)]
struct MemoryBounds {
    hold_bytes: usize,
    shard_bytes: usize,
}

/// A shard and what its driver keeps.
struct GatewayInput {
    shard: Shard<Wire>,
    inbox: Receiver<ToShard>,
    /// The sessions whose sockets are watched.
    watched: Vec<u64>,
    /// The sockets that the runtime has not polled yet.
    new_sockets: Vec<Line>,
    /// The clients whose handshakes are done, and that the shard has not taken.
    arriving: Vec<(Identity, Line)>,
}

impl SimGateway {
    pub(super) fn new(node: NodeRef, number: usize, config: &Config, cluster: &SimCluster) -> Self {
        let (to_edge, requests) = byte_queue::channel();
        let settings = ShardConfig {
            gateway: node.id.clone(),
            config: config.gateway.clone(),
            kinds: Arc::new(Kinds::default()),
            partitions: PARTITIONS,
            authenticator: Arc::new(Authenticator::new(&config.auth)),
            clocks: Clocks { wall: clocks::wall, monotonic: clocks::work },
        };
        let (mut senders, mut shards) = (Vec::new(), Vec::new());
        for number in 0..SHARDS {
            let (sender, inbox) = byte_queue::channel();
            senders.push(sender);
            let shard = Shard::new(number, settings.clone(), to_edge.clone());
            shards.push(GatewayInput {
                shard,
                inbox,
                watched: Vec::new(),
                new_sockets: Vec::new(),
                arriving: Vec::new(),
            });
        }
        let readiness = Readiness::default();
        let ready: Check = readiness.register("coverage");
        let connection = NatsConnection { is_up: true, max_payload: MAX_PAYLOAD };
        let known = (cluster.view.clone(), connection);
        let edge = Edge::new(node.clone(), config, PARTITIONS, known, senders, ready);
        let (is_down, is_cut, offset, searches) = (false, false, number as u64 * 7_777, BTreeMap::new());
        let begun = Vec::new();
        let bounds = MemoryBounds { hold_bytes: config.gateway.hold_bytes, shard_bytes: config.gateway.shard_bytes };
        Self {
            bounds,
            node,
            is_down,
            due: AT_ONCE,
            is_cut,
            has_news: false,
            is_frozen: false,
            waiting: Vec::new(),
            thawed_at: AT_ONCE,
            drains_until: None,
            offset,
            edge,
            searches,
            begun,
            shards,
            requests,
            readiness,
            cohort_asks: Vec::new(),
        }
    }

    /// Whether messages to `node` reach this gateway.
    pub(super) fn is_reached_as(&self, node: &NodeRef) -> bool {
        self.node == *node && !self.is_down && !self.is_cut
    }

    pub(super) fn runs(&self) -> bool {
        !self.is_down && !self.is_frozen
    }

    /// Sends its clients away, and takes no more.
    pub(super) fn drain(&mut self, now: Millis) {
        let now = now.plus(self.offset);
        self.due = AT_ONCE;
        self.shards.iter_mut().for_each(|input| input.shard.drain(now));
    }

    /// Whether it has no session any more.
    pub(super) fn is_drained(&self) -> bool {
        self.shards.iter().all(|input| input.shard.is_empty() && input.arriving.is_empty())
    }

    /// Whether it would be sent new clients; if not, what it tells an operator.
    pub(super) fn is_ready(&self) -> Result<(), String> {
        let report = self.readiness.report(false);
        if report.ready { Ok(()) } else { Err(format!("{report:?}")) }
    }

    /// A client has connected.
    pub(super) fn arrive(&mut self, identity: Identity, line: &Line) {
        let shard = shard_of(&identity.user, self.shards.len());
        self.due = AT_ONCE;
        self.shards[shard].arriving.push((identity, Line::clone(line)));
    }

    /// When something is due next.
    fn next_turn(&self) -> Millis {
        let shards = self.shards.iter().map(|delivery| delivery.shard.next_turn());
        let next = shards.chain(self.searches.values().copied()).fold(self.edge.next_turn(), Millis::min);
        Millis(next.0.saturating_sub(self.offset))
    }

    /// Gives everyone their turns until nothing is left to do at this moment. Returns what is to be sent.
    fn turn(&mut self, now: Millis) -> Vec<Outgoing> {
        let (mut outgoing, now) = (Vec::new(), now.plus(self.offset));
        for _ in 0..TURNS {
            let mut is_busy = self.turn_edge(now);
            let sends = self.edge.take_outgoing();
            assert!(sends.len() <= SENDS, "{} messages at once: {:#?}", sends.len(), self.edge);
            outgoing.extend(sends);
            for delivery in &mut self.shards {
                is_busy |= delivery.turn(now, self.bounds.shard_bytes);
            }
            let held = self.edge.held_bytes();
            assert!(held <= self.bounds.hold_bytes, "{held} bytes are held: {:#?}", self.edge);
            if !is_busy {
                return outgoing;
            }
        }
        panic!("{} is busy for ever: {:#?}", self.node, self.edge);
    }

    fn turn_edge(&mut self, now: Millis) -> bool {
        let (mut requests, mut is_busy) = (Vec::new(), false);
        if std::mem::take(&mut self.has_news) {
            self.edge.set_nats_state(NatsConnection { is_up: !self.is_cut, max_payload: MAX_PAYLOAD }, None);
            self.edge.check_upstream(now);
            is_busy = true;
        }
        self.requests.take(&mut requests, TURN_REQUESTS).now_or_never();
        for request in requests {
            self.edge.take_request(now, request);
            is_busy = true;
        }
        for (time, _) in self.searches.extract_if(.., |_, until| *until <= now) {
            self.edge.take_found(now, time, None);
            is_busy = true;
        }
        self.edge.settle(now);
        self.search(now);
        if self.edge.next_turn() <= now {
            self.edge.turn(now);
            self.edge.settle(now);
            self.search(now);
            let next = self.edge.next_turn();
            assert!(next > now, "due at {next:?}, and still at {now:?}: {:#?}", self.edge);
            is_busy = true;
        }
        is_busy
    }

    /// Begins the searches that the edge wants.
    fn search(&mut self, now: Millis) {
        while let Some(time) = self.edge.next_search(now) {
            self.searches.insert(time, now.plus(millis(SEARCH_DEADLINE)));
            self.begun.push(time);
        }
    }
}

impl GatewayInput {
    /// Has its turn, and holds and does no more than it may. So many bytes may wait for it.
    fn turn(&mut self, now: Millis, most: usize) -> bool {
        let begun = clocks::worked();
        assert!(self.inbox.waiting() <= most, "{} bytes wait for a shard", self.inbox.waiting());
        let is_busy = self.work(now);
        assert!(clocks::worked() - begun <= WORK, "a turn takes {:?}", clocks::worked() - begun);
        self.shard.check_bounds();
        is_busy
    }

    fn work(&mut self, now: Millis) -> bool {
        let (mut messages, mut is_busy) = (Vec::new(), false);
        self.inbox.take(&mut messages, TURN_MESSAGES).now_or_never();
        for (identity, line) in std::mem::take(&mut self.arriving) {
            is_busy = true;
            self.new_sockets.push(Line::clone(&line));
            let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            self.shard.arrive(now, Wire(line), identity, [127, 0, 0, 1].into(), place);
        }
        for message in messages {
            is_busy = true;
            match message {
                ToShard::Edge(said) => self.shard.take(now, said),
                ToShard::Arrive(_) => panic!("clients arrive by themselves here"),
            }
        }
        if self.shard.next_turn() <= now {
            self.shard.turn(now);
            let next = self.shard.next_turn();
            assert!(next > now, "due at {next:?}, and still at {now:?}: {:#?}", self.shard);
            is_busy = true;
        }
        self.shard.read_sockets(now);
        self.shard.process(now);
        is_busy |= self.shard.has_backfill() || self.shard.has_commands();
        self.watched.extend(self.shard.take_to_watch());
        self.new_sockets.drain(..).for_each(|socket| socket.borrow_mut().attach());
        let mut context = Context::from_waker(Waker::noop());
        let shard = &mut self.shard;
        self.watched.retain(|number| {
            match shard.poll_ready(&mut context, *number) {
                Poll::Ready(None) => return false,
                Poll::Ready(Some(Ready::Readable)) => shard.readable(*number),
                Poll::Ready(Some(Ready::Writable)) => shard.writable(now, *number),
                Poll::Ready(Some(Ready::Broken)) => shard.gone(now, *number),
                Poll::Pending => return true,
            }
            is_busy = true;
            true
        });
        is_busy
    }
}

/// The configuration that ships, with what a plan chooses.
pub(super) fn config(choose: impl FnOnce(&mut Config)) -> Config {
    static SHIPPED: LazyLock<Config> = LazyLock::new(|| Config::load(&LoadOptions::default()).unwrap());
    let mut config = SHIPPED.clone();
    config.auth.jwt_secret = Secret::new("0123456789abcdef0123456789abcdef");
    choose(&mut config);
    config
}

/// Who a client is.
pub(super) fn identity(user: &tickwire_core::ids::UserId) -> Identity {
    Identity { user: user.clone(), plan: None, weight: USUAL_WEIGHT, expires: None }
}

impl SimCluster {
    pub(super) fn turn_gateway(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if !gateway.runs() || gateway.due > self.now {
            return;
        }
        let outgoing = gateway.turn(self.now);
        let searches = std::mem::take(&mut gateway.begun);
        for message in outgoing {
            self.post(number, message);
        }
        let node = self.gateways[number].node.clone();
        for time in searches {
            self.network.send_once(self.now, SimMessage::Find(node.clone(), time));
        }
        let gateway = &mut self.gateways[number];
        gateway.due = gateway.next_turn();
    }

    /// A gateway sends something.
    fn post(&mut self, from: usize, Outgoing { subject, reply, payload, ask }: Outgoing) {
        let gateway = &mut self.gateways[from];
        if gateway.is_cut {
            if let Some(ask) = ask {
                gateway.edge.unsent(self.now.plus(gateway.offset), ask);
            }
            return;
        }
        if let Some(reply) = reply {
            let ask = names::parse_replayed(&reply).expect("answers go to where asks are known");
            let to = (0..NODES).find(|router| {
                let node = &self.routers[*router].node;
                *subject == names::replay_of(node.id.as_str(), &node.nonce.to_string())
            });
            // Any router that is connected, of NATS's choosing, or one by name.
            let connected: Vec<usize> = (0..NODES).filter(|router| self.routers[*router].serves_replays()).collect();
            let is_any = subject == names::REPLAY && !connected.is_empty();
            let to = to.filter(|router| connected.contains(router));
            let to = to.or_else(|| is_any.then(|| connected[self.network.random(connected.len() as u64) as usize]));
            let request: ReplayRequest = wire::decode(&payload).expect("what a gateway asks can be read");
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
            names::INTEREST => SimMessage::Delta(0, wire::decode::<Delta>(&payload).unwrap()),
            names::GATEWAY_BEAT => SimMessage::Beat(0, wire::decode::<InterestBeat>(&payload).unwrap()),
            other => panic!("{other}"),
        };
        for router in 0..NODES {
            if let SimMessage::Delta(to, _) | SimMessage::Beat(to, _) = &mut message {
                *to = router;
            }
            self.network.send(self.now, &message);
        }
    }

    /// A router asks a gateway for its whole interest.
    pub(super) fn snapshot(&mut self, node: &NodeRef, router: usize) {
        let Some(number) = self.gateways.iter().position(|gateway| gateway.is_reached_as(node)) else { return };
        let gateway = &mut self.gateways[number];
        let before = gateway.edge.take_outgoing();
        gateway.edge.send_snapshot(Some(format!("{}.{router}", names::inbox("router")).as_bytes()));
        let parts = gateway.edge.take_outgoing().into_iter();
        let parts: Vec<SnapshotPart> = parts.map(|part| wire::decode(&part.payload).unwrap()).collect();
        self.network.send(self.now, &SimMessage::Snapshot(router, parts));
        before.into_iter().for_each(|message| self.post(number, message));
    }

    /// Something has come for a gateway.
    pub(super) fn deliver(&mut self, node: &NodeRef, deliver: impl FnOnce(&mut Edge, Millis)) {
        if let Some(gateway) = self.gateways.iter_mut().find(|gateway| gateway.is_reached_as(node)) {
            let now = self.now.plus(gateway.offset);
            gateway.due = AT_ONCE;
            deliver(&mut gateway.edge, now);
            gateway.edge.settle(now);
        }
    }

    /// NATS says where a time stands.
    pub(super) fn found(&mut self, node: &NodeRef, time: Timestamp, seq: Option<Seq>) {
        let gateway = self.gateways.iter_mut().find(|gateway| gateway.is_reached_as(node));
        if gateway.is_some_and(|gateway| gateway.searches.remove(&time).is_some()) {
            self.deliver(node, |edge, now| edge.take_found(now, time, seq));
        }
    }

    /// A gateway loses its connection to NATS, or has it again.
    pub(super) fn cut(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        gateway.is_cut = !gateway.is_cut;
        (gateway.has_news, gateway.due) = (true, AT_ONCE);
    }
}
