//! The simulated cluster: the stream, the nodes, the network and the clients, and the order of their turns.

mod again;
mod clients;
mod end;
mod publish;
mod receive;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tickwire_core::event::Event;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::interest::InterestBeat;
use tickwire_core::interest::table::TableLimits;
use tickwire_core::placement::{Member, Role, View};
use tickwire_node::clock::millis;
use tickwire_node::config::Config;
use tickwire_router_node::decisions::Source;

use super::alerts::{AGAIN_MAX, SimAlerts};
use super::client::SimClient;
use super::clocks;
use super::fixtures::{SAVED_NAMES, user};
use super::gateway::{SimGateway, config};
use super::kv::Kv;
use super::network::{MAX_DELAY, Network, SimMessage};
use super::plan::{Action, Plan};
use super::router::SimRouter;
use super::rules::SimRules;
use super::saved::SimSaved;
use super::stranger::Stranger;
use super::stream::{Lost, Stream};
use super::trace;
use super::waits::MOST_WAITS;

pub(super) const PARTITIONS: u16 = 3;
pub(super) const NODES: usize = 3;

/// The interval of beats, in milliseconds. It is the default, as all values are that no plan chooses.
pub(super) const BEAT: u64 = 1_000;

/// The shortest time between two turns of the cluster, in milliseconds.
const STEP: u64 = 5;

/// How often the cluster is checked for recovery, in milliseconds.
const PAUSE: u64 = 250;

/// For how many messages, one after the other, an event waits at most: a delta of the interest, a section, an ask, and
/// its answer.
const DELAYS: u64 = 4;

/// The next turn of a node that has something to do now.
pub(super) const AT_ONCE: Millis = Millis(0);

/// How often each partition gets a heartbeat, in milliseconds.
pub(super) const HEARTBEAT: u64 = 5_000;

/// How many messages a flood has.
pub(super) const FLOOD: usize = MOST_WAITS as usize + 20;

/// The percentage of searches for a time to which the server gives no sequence, where nodes fail.
const UNANSWERED_SEARCHES: u64 = 15;

/// A message of the stream.
#[derive(Clone, Debug)]
pub(super) struct StoredEvent {
    pub(super) partition: Partition,
    pub(super) seq: Seq,
    pub(super) event: Arc<Event>,
    /// The event as sections carry it.
    pub(super) wire: Bytes,
    /// Whether it is a partition heartbeat, or a message that cannot be read.
    pub(super) is_heartbeat: bool,
    /// Whether it cannot be read as an event, so that an intake makes it a dead letter.
    pub(super) is_unreadable: bool,
}

/// When every run begins.
const START: Millis = Millis(1_000);

/// The epoch of the stream in which every run begins.
const FIRST: Epoch = Epoch { epoch_id: EpochId(1), before: Seq(0) };

pub(super) struct SimCluster {
    pub(super) config: Config,
    /// How much interest routers keep.
    pub(super) interest_limits: TableLimits,
    /// Whether nodes fail: for example, routers read from replicas that lag, and match against outdated interest.
    pub(super) failing: bool,
    /// How long a pass of a router waits before it reads, in milliseconds.
    pub(super) reading: u64,
    /// How long tokens are valid; `None` if clients have none.
    pub(super) token_life: Option<Duration>,
    /// For each epoch, the last sequence that retention removed.
    pub(super) discarded: BTreeMap<EpochId, Seq>,
    /// For each epoch, the sequences of damaged messages.
    pub(super) damaged: BTreeMap<EpochId, BTreeSet<Seq>>,
    pub(super) now: Millis,
    pub(super) network: Network,
    pub(super) nonces: u64,
    pub(super) epoch: Epoch,
    pub(super) last: Seq,
    pub(super) first: Seq,
    pub(super) history: BTreeMap<EpochId, Vec<StoredEvent>>,
    /// For each epoch, the messages that the stream has lost. Clients need not get them.
    pub(super) lost: Lost,
    /// What the servers keep of the current epoch.
    pub(super) stream: Stream,
    /// The dead letters that are stored.
    pub(super) dead_letters: BTreeSet<(EpochId, Seq)>,
    pub(super) epochs: BTreeMap<EpochId, Epoch>,
    pub(super) view: View,
    pub(super) kv: Kv,
    pub(super) rules: SimRules,
    pub(super) saved: SimSaved,
    /// `None` if nobody acknowledges alerts. Then none come again.
    pub(super) alerts: Option<SimAlerts>,
    pub(super) routers: Vec<SimRouter>,
    pub(super) gateways: Vec<SimGateway>,
    pub(super) clients: Vec<SimClient>,
    pub(super) strangers: Vec<Stranger>,
    /// Whether the plan has no faults.
    pub(super) is_quiet: bool,
    /// Whether more events were stored at once than the rate limit of a user lets through.
    pub(super) has_burst: bool,
}

impl SimCluster {
    pub(super) fn new(plan: &Plan) -> Self {
        // Another run of this thread may have left its time.
        clocks::set(START);
        clocks::set_host_ahead(0);
        let mut cluster = Self {
            config: config(|config| {
                config.gateway.hold_bytes = plan.hold_bytes;
                config.gateway.outbox_bytes = plan.outbox_bytes;
                config.gateway.give_up_after = Duration::from_millis(plan.give_up_after);
                config.gateway.replay_range = plan.replay_range;
                config.gateway.again_max = AGAIN_MAX;
            }),
            interest_limits: plan.interest_limits(),
            failing: false,
            reading: 0,
            token_life: plan.token_ms.map(Duration::from_millis),
            discarded: BTreeMap::new(),
            damaged: BTreeMap::new(),
            now: START,
            network: Network::new(plan.seed, 0, false),
            nonces: 0,
            epoch: FIRST,
            epochs: BTreeMap::from([(FIRST.epoch_id, FIRST)]),
            last: Seq(0),
            first: Seq(1),
            history: BTreeMap::from([(FIRST.epoch_id, Vec::new())]),
            lost: Lost::new(),
            stream: Stream::new(plan.copies.into()),
            dead_letters: BTreeSet::new(),
            view: View::default(),
            kv: Kv::default(),
            rules: SimRules::new(plan.has_rules()),
            saved: SimSaved::default(),
            alerts: plan.has_acks().then(SimAlerts::default),
            routers: Vec::new(),
            gateways: Vec::new(),
            clients: Vec::new(),
            strangers: Vec::new(),
            is_quiet: plan.quiet,
            has_burst: false,
        };
        for number in 0..NODES {
            let node = cluster.new_node("gw", number);
            cluster.view.members.push(Member { node, role: Role::Gateway, weight: 1, draining: false });
        }
        for number in 0..NODES {
            let node = cluster.new_node("router", number);
            cluster.view.members.push(Member { node, role: Role::Router, weight: 1, draining: false });
        }
        for number in 0..NODES {
            let router = cluster.new_router(number);
            cluster.routers.push(router);
            let node = cluster.view.members[number].node.clone();
            let gateway = SimGateway::new(node, number, &cluster.config, &cluster);
            cluster.gateways.push(gateway);
        }
        for number in 0..NODES {
            cluster.routers[number].is_down = plan.late & 1 << number != 0;
            cluster.gateways[number].is_down = plan.late & 1 << (number + NODES) != 0;
        }
        if plan.late == 0 {
            cluster.settle();
        }
        cluster.network = Network::new(plan.seed, plan.loss, plan.delays);
        cluster.failing = plan.failing;
        cluster.reading = plan.reading;
        cluster
    }

    /// Runs until partitions have owners, and gateways have coverage.
    fn settle(&mut self) {
        for _ in 0..3 * BEAT / PAUSE {
            self.run_for(PAUSE);
            if self.are_gateways_ready() {
                return;
            }
        }
    }

    /// The name of a node that starts. Its nonce is new.
    pub(super) fn new_node(&mut self, name: &str, number: usize) -> NodeRef {
        self.nonces += 1;
        NodeRef { id: NodeId::new(&format!("{name}-{number}")).unwrap(), nonce: Nonce(self.nonces) }
    }

    pub(super) fn act(&mut self, action: &Action) {
        trace::line(|| format!("== {action:?}"));
        match *action {
            Action::Pass(time) => self.run_for(time),
            Action::Publish { symbol, confidence } => self.publish(symbol, confidence),
            Action::PublishHandled { symbol, confidence, way } => self.publish_handled(symbol, confidence, way),
            Action::Burst { symbol, confidence, tens } => {
                self.has_burst = true;
                (0..u32::from(tens) * 10).for_each(|_| self.publish(symbol, confidence));
            }
            Action::Address { user } => self.address(user),
            Action::Stranger { stranger, gateway, kind, times } => {
                self.act_as_stranger(stranger, usize::from(gateway), kind, times);
            }
            Action::Connect { gateway, user: number, filter } => {
                self.connect_new(SimClient::new(user(number.into())), gateway, Some(filter));
            }
            Action::ConnectSaved { gateway, user: number, filter, asks } => {
                let mut client = SimClient::new(user(number.into()));
                client.take_saved(asks);
                self.connect_new(client, gateway, filter);
            }
            Action::Save { user, name, filter } => self.save_subscription(user, name, filter),
            Action::ReadSaved { gateway } => self.read_saved(usize::from(gateway), false),
            Action::LoseSaved => self.lose_saved(),
            Action::EndSaved { session, name } => {
                self.with_client(session, |client| client.end_one(SAVED_NAMES[usize::from(name)]));
            }
            Action::Acknowledge { session, back } => {
                self.with_client(session, |client| client.acknowledge(back));
            }
            Action::LoseAckAnswer { gateway } => self.lose_ack_answer(usize::from(gateway)),
            Action::Replace { session, filter } => self.with_client(session, |client| client.subscribe(filter.into())),
            Action::LookBack { session, filter, ago, in_seconds } => {
                self.look_back((session, filter), ago, in_seconds);
            }
            Action::ResumeHere { session, filter } => {
                self.with_client(session, |client| client.resume_here(filter.into()));
            }
            Action::Unsubscribe { session } => self.with_client(session, SimClient::unsubscribe),
            Action::Room { session, tens } => {
                self.with_client(session, |client| client.set_room(tens.map(|tens| usize::from(tens) * 10)));
            }
            Action::Disconnect { session } => self.with_client(session, |client| {
                client.is_wanted = false;
                client.disconnect();
            }),
            Action::Resume { session, gateway } => self.resume(session, gateway, None),
            Action::ResumeSlowly { session, gateway, tens } => self.resume(session, gateway, Some(tens)),
            Action::Usurp { partition, to } => {
                let owner = self.routers[usize::from(to)].node.clone();
                self.kv.usurp(Source::Partition(Partition(partition.into())), owner);
            }
            Action::WriteRules { number } => self.rules.write(number),
            Action::TakeRules { router } => self.take_rules(usize::from(router)),
            Action::CrashRouter { router } => self.crash_router(usize::from(router)),
            Action::Freeze { node } => self.freeze(usize::from(node)),
            Action::Drain { node } => self.drain(usize::from(node)),
            Action::Cut { gateway } => self.cut(usize::from(gateway)),
            Action::StopStoring { gateway } => self.stop_storing(usize::from(gateway)),
            Action::CutRouter { router } => self.cut_router(usize::from(router)),
            Action::Flood { node, queue } => self.flood(usize::from(node), queue),
            Action::SetClock { gateway, seconds } => {
                let gateway = &mut self.gateways[usize::from(gateway)];
                (gateway.ahead, gateway.was_ahead) = (i64::from(seconds) * 1_000, true);
            }
            Action::RestartGateway { gateway } => self.restart_gateway(usize::from(gateway)),
            Action::ToggleMember { node } => {
                let member = &mut self.view.members[usize::from(node)];
                member.draining = !member.draining;
                self.view.version += 1;
            }
            Action::LearnView { node } => self.learn_view(usize::from(node)),
            Action::Discard { keep } => self.discard(keep.into()),
            Action::Recreate { from } => self.recreate(Seq(from.into())),
            Action::LoseTail { events } => self.lose_tail(events.into()),
            Action::DiscardCopy { server, keep } => self.discard_copy(server.into(), keep.into()),
            Action::Lead { server } => self.set_leader(server.into()),
            Action::Disturb { router, fault } => self.disturb(router.into(), fault),
            Action::Garble { symbol } => self.publish_unreadable(symbol),
            Action::Toggle { node } => self.toggle(usize::from(node)),
            Action::Damage { back } => self.damage(back.into()),
            Action::DropDelivery { router } => self.routers[usize::from(router)].drops_next = true,
            Action::Forge { router, gateway, ahead } => {
                let gateway = self.gateways[usize::from(gateway)].node.clone();
                let known = self.routers[usize::from(router)].known_revision(&gateway).unwrap_or_default();
                let revision = Revision(known.0 + 1 + u64::from(ahead));
                let beat = InterestBeat { gateway, revision, reached: None };
                self.network.send(self.now, &SimMessage::Beat(usize::from(router), beat));
            }
        }
        // Any node may notice the action at once.
        self.wake_all();
        self.run_for(STEP);
    }

    /// How long an event may take to reach a client without faults, in milliseconds. If a partition changes its owner,
    /// the new owner starts at a checkpoint. The gateway may then ask for a gap. The windows of router and session come
    /// after that.
    pub(super) fn delay(&self) -> Option<u64> {
        let (router, gateway) = (&self.config.router, &self.config.gateway);
        let handover = router.checkpoint_interval + router.flush_window;
        let all = handover + gateway.gap_grace + gateway.confirm_timeout + gateway.window;
        (self.is_quiet && !self.has_burst).then(|| millis(all) + DELAYS * MAX_DELAY)
    }

    /// Gives a node the newest view.
    fn learn_view(&mut self, node: usize) {
        if node < NODES {
            self.routers[node].set_view(Arc::new(self.view.clone()));
        } else {
            let (node, view) = (self.gateways[node - NODES].node.clone(), self.view.clone());
            self.deliver(&node, |inputs| inputs.view = Some(view));
        }
    }

    /// Runs the cluster for a time in milliseconds.
    fn run_for(&mut self, time: u64) {
        let end = self.now.plus(time);
        while self.now < end {
            let before = self.now;
            self.now = self.next_turn().max(before.plus(STEP)).min(end);
            clocks::set(self.now);
            while let Some(message) = self.network.take_arrived(self.now) {
                self.receive(message);
            }
            for number in 0..NODES {
                self.turn_gateway(number);
                self.turn_router(number);
            }
            self.end_drains();
            self.receive_at_clients();
            self.receive_at_strangers();
            if before.0 / BEAT != self.now.0 / BEAT {
                self.beat();
            }
        }
    }

    /// Gives all nodes a turn now.
    fn wake_all(&mut self) {
        self.gateways.iter_mut().for_each(|gateway| gateway.due = AT_ONCE);
        self.wake_routers();
    }

    fn wake_routers(&mut self) {
        self.routers.iter_mut().for_each(|router| router.due = AT_ONCE);
    }

    /// When a node is due, a message arrives, or a beat begins.
    fn next_turn(&self) -> Millis {
        let beat = Millis((self.now.0 / BEAT + 1) * BEAT);
        let due = self.gateways.iter().filter(|gateway| gateway.runs()).map(|gateway| gateway.due);
        let due = due.chain(self.routers.iter().filter(|router| router.runs()).map(|router| router.due));
        due.chain(self.network.next()).fold(beat, Millis::min)
    }

    /// Does what happens at each beat.
    fn beat(&mut self) {
        self.note_whether_loss_shows();
        if (self.now.0 / BEAT).is_multiple_of(HEARTBEAT / BEAT) {
            self.store_heartbeats();
            self.wake_routers();
        }
    }
}
