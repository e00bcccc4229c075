//! Routers, their leases and a KV in one thread. KV lags, fails, answers too late, and loses its end; routers are
//! paused, cut off, killed and drained; views arrive late, go back, contain dead nodes, and differ. All of this is
//! random, by a seed. No partition may be without an owner for longer than a lease's time to live plus a second, while
//! a live router can reach KV. At the end, without faults, every partition has exactly one owner: the one of the ring.
//!
//! `TICKWIRE_SIM_RUNS` sets the number of seeds. `kv` is the bucket of the leases.

mod kv;

use super::placement::{Placement, PlacementAction, PlacementTiming, WriteOutcome};
use crate::checkpoint::SourceProgress;
use crate::source::{Source, Tenure};
use crate::stream::StreamFacts;
use kv::{Kv, PlacementAnswer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::ids::{EpochId, Millis, NodeId, NodeRef, Nonce, Partition, Seq};
use tickwire_core::placement::{Member, Role, View};
use tickwire_testkit::simulation;

const PARTITIONS: u16 = 2;
const TTL: u64 = 2_000;
const RENEW: u64 = 1_000;
/// How long a partition may be without an owner.
const BOUND: u64 = TTL + 1_000;
/// How long one operation at KV may take.
const DEADLINE: u64 = 1_000;
/// An answer that takes longer than this is slow.
const SLOW: u64 = 100;
const STEP: u64 = 50;
const STORM: u64 = 15_000;
/// Longer than the last fault lasts (8 s), a router that the ring does not name takes a source after it, and keeps it
/// (16 s).
const CALM: u64 = 30_000;
/// How many routers are alive at the same time, at most.
const MAX_ROUTERS: usize = 5;

/// An operation in progress: when it takes effect, if it does, and when its answer arrives.
#[derive(Debug)]
struct Flight {
    action: PlacementAction,
    applies_at: Option<u64>,
    applied: Option<PlacementAnswer>,
    answer_at: u64,
}

struct PlacedRouter {
    me: NodeRef,
    placement: Placement,
    flights: Vec<Flight>,
    /// When the engine will have published each release.
    releases: Vec<(u64, Vec<Tenure>)>,
    is_alive: bool,
    is_draining: bool,
    frozen_until: u64,
    /// Until when it cannot reach KV.
    cut_until: u64,
    /// Since when it has had no fault.
    well_since: u64,
    /// Until when KV was slow to answer it about a lease, or did not answer.
    slow_until: BTreeMap<Source, u64>,
    view: usize,
}

struct PlacementWorld {
    rng: StdRng,
    now: u64,
    kv: Kv,
    backups: Vec<Kv>,
    routers: Vec<PlacedRouter>,
    views: Vec<Arc<View>>,
    boots: u64,
    unowned_since: BTreeMap<Source, u64>,
    log: Vec<String>,
}

fn facts() -> StreamFacts {
    StreamFacts { epoch_id: EpochId(1), before: Seq(0), first: Seq(1), last: Seq(100), replicas: 1 }
}

fn sources() -> impl Iterator<Item = Source> {
    (0..PARTITIONS).map(|number| Source::Partition(Partition(number))).chain([Source::CatchAll])
}

impl PlacementWorld {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            now: 0,
            kv: Kv::default(),
            backups: vec![Kv::default()],
            routers: Vec::new(),
            views: vec![Arc::default()],
            boots: 0,
            unowned_since: sources().map(|source| (source, 0)).collect(),
            log: Vec::new(),
        };
        for _ in 0..3 {
            world.boot();
        }
        world.publish_view();
        world
    }

    fn boot(&mut self) {
        self.boots += 1;
        let me = NodeRef { id: NodeId::new(&format!("r{}", self.boots)).unwrap(), nonce: Nonce(self.boots) };
        let mut placement = Placement::new(me.clone(), PARTITIONS, PlacementTiming { ttl: TTL, renew: RENEW });
        assert_eq!(placement.set_stream_facts(Millis(self.now), facts()), []);
        self.routers.push(PlacedRouter {
            me,
            placement,
            flights: Vec::new(),
            releases: Vec::new(),
            is_alive: true,
            is_draining: false,
            frozen_until: 0,
            cut_until: 0,
            well_since: self.now,
            slow_until: BTreeMap::new(),
            view: 0,
        });
    }

    /// The coordinator writes a view of the live routers, which may be wrong during the storm.
    fn publish_view(&mut self) {
        let chance = if self.now < STORM { 0.15 } else { 0.0 };
        let member = |router: &PlacedRouter| Member {
            node: router.me.clone(),
            role: Role::Router,
            weight: 1,
            draining: router.is_draining,
        };
        let mut members = Vec::new();
        for router in &self.routers {
            let is_wrong = self.rng.random_bool(chance);
            if router.is_alive != is_wrong {
                members.push(member(router));
            }
        }
        members.sort_by(|a, b| a.node.id.cmp(&b.node.id));
        let version = self.views.len() as u64;
        self.views.push(Arc::new(View { version, members, ..View::default() }));
    }

    fn note(&mut self, what: &str) {
        self.log.push(format!("{:>6} {what}", self.now));
    }

    /// A random fault.
    fn fault(&mut self) {
        let living: Vec<usize> = (0..self.routers.len()).filter(|at| self.routers[*at].is_alive).collect();
        let Some(at) = living.choose(&mut self.rng).copied() else { return self.boot() };
        let long = self.now + self.rng.random_range(100..8_000);
        let name = self.routers[at].me.id.to_string();
        // One that drains ends soon.
        let another_stays = living.iter().any(|other| *other != at && !self.routers[*other].is_draining);
        match self.rng.random_range(0..9) {
            0 if another_stays => {
                self.routers[at].is_alive = false;
                self.note(&format!("{name} dies"));
                if self.rng.random_bool(0.7) {
                    self.boot();
                }
            }
            1 if living.len() > 1 && living.len() < MAX_ROUTERS => {
                self.routers[at].is_draining = true;
                self.note(&format!("{name} drains"));
                self.boot();
            }
            2 => {
                self.routers[at].frozen_until = long;
                self.note(&format!("{name} is paused until {long}"));
            }
            3 => {
                self.routers[at].cut_until = long;
                self.note(&format!("{name} is cut off until {long}"));
            }
            4 => {
                self.kv.away_until = long;
                self.note(&format!("KV is away until {long}"));
            }
            5 => {
                // Lost revisions are used again.
                self.kv = self.backups.choose(&mut self.rng).unwrap().clone();
                self.kv.away_until = self.now + 500;
                self.note("KV loses its end");
            }
            6 => {
                let view = self.rng.random_range(0..self.views.len());
                self.routers[at].view = view;
                self.note(&format!("{name} goes back to view {view}"));
            }
            7 => {
                self.kv.overwrite();
                // Until a lease is written again, a router that takes it may have overlooked another owner.
                self.unowned_since.values_mut().for_each(|since| *since = self.now);
                self.note("a foreign writer overwrites every lease");
            }
            _ if living.len() < MAX_ROUTERS => self.boot(),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        let is_storm = self.now < STORM;
        if is_storm && self.rng.random_bool(0.06) {
            self.fault();
        }
        if self.now.is_multiple_of(3_000) {
            self.publish_view();
            self.backups.push(self.kv.clone());
        }
        for at in 0..self.routers.len() {
            self.step_router(at, is_storm);
        }
        self.check();
    }

    fn step_router(&mut self, at: usize, is_storm: bool) {
        let now = self.now;
        let latest = self.views.len() - 1;
        let reaches_kv = now >= self.kv.away_until && now >= self.routers[at].cut_until;
        if !self.routers[at].is_alive || now < self.routers[at].frozen_until || !reaches_kv {
            self.routers[at].well_since = now;
        }
        // A request that was sent before may take effect whatever has happened to its sender.
        let Self { kv, routers, rng, unowned_since, .. } = self;
        let router = &mut routers[at];
        for flight in &mut router.flights {
            if flight.applies_at.is_some_and(|applies| applies <= now && now >= kv.away_until) {
                flight.applies_at = None;
                let answer = kv.apply(&router.me, &flight.action);
                // The time to live of a lease begins with each write, even if its writer is dead by then.
                if let (
                    PlacementAnswer::Written(WriteOutcome::At(_)),
                    PlacementAction::Write { source, is_ours: true, .. },
                ) = (&answer, &flight.action)
                {
                    unowned_since.insert(*source, now);
                }
                flight.applied = Some(answer);
            }
        }
        if !router.is_alive {
            router.flights.retain(|flight| flight.applies_at.is_some());
            return;
        }
        if now < router.frozen_until {
            return;
        }
        if router.view < latest && rng.random_bool(if is_storm { 0.01 } else { 0.1 }) {
            router.view = latest;
        }
        let placement = &mut router.placement;
        placement.set_view(Arc::clone(&self.views[router.view]));
        placement.set_informed(!is_storm || rng.random_bool(0.7));
        if router.is_draining {
            placement.drain(Millis(now));
            if placement.is_empty() {
                router.is_alive = false;
                return;
            }
        }
        let mut actions = Vec::new();
        let (arrived, flying) =
            std::mem::take(&mut router.flights).into_iter().partition(|flight: &Flight| flight.answer_at <= now);
        router.flights = flying;
        for Flight { action, applied, .. } in arrived {
            actions.extend(match action {
                PlacementAction::Read(source) => {
                    let read = applied.and_then(|answer| match answer {
                        PlacementAnswer::Read(read) => Some(read),
                        PlacementAnswer::Written(_) => None,
                    });
                    placement.lease_read(Millis(now), source, read)
                }
                PlacementAction::Write { source, .. } => {
                    let written = match applied {
                        Some(PlacementAnswer::Written(written)) => written,
                        _ => WriteOutcome::Unanswered,
                    };
                    placement.lease_written(Millis(now), source, written)
                }
                _ => Vec::new(),
            });
        }
        let (ready, waiting) = std::mem::take(&mut router.releases).into_iter().partition(|(at, _)| *at <= now);
        router.releases = waiting;
        for (_, tenures) in ready as Vec<(u64, Vec<Tenure>)> {
            placement.released(&tenures, |_| Some(SourceProgress { checkpoint: Seq(50), mark: None }));
        }
        actions.extend(placement.act(Millis(now), |_| Some(SourceProgress { checkpoint: Seq(50), mark: None })));
        for action in actions {
            match action {
                PlacementAction::Read(source) | PlacementAction::Write { source, .. } => {
                    let lag = if is_storm && rng.random_bool(0.02) {
                        rng.random_range(0..3_000)
                    } else {
                        rng.random_range(1..40)
                    };
                    let is_lost = !reaches_kv || is_storm && rng.random_bool(0.01);
                    // The answer is lost or late: the operation may take effect long after it was given up.
                    let applies_at = (!is_lost || rng.random_bool(0.5)).then_some(now + lag);
                    let answer_at =
                        now + if is_lost { DEADLINE } else { (lag + rng.random_range(1..10)).min(DEADLINE) };
                    if answer_at > now + SLOW {
                        router.slow_until.insert(source, answer_at);
                    }
                    router.flights.push(Flight { action, applies_at, applied: None, answer_at });
                }
                PlacementAction::Release(tenures) => router.releases.push((now + rng.random_range(1..200), tenures)),
                PlacementAction::Own { .. } | PlacementAction::Disown(_) => {}
            }
        }
    }

    /// Checks that each partition has an owner: a live router that reaches NATS and holds it.
    fn check(&mut self) {
        let now = self.now;
        let is_serving = |router: &&PlacedRouter| {
            router.is_alive && now >= router.frozen_until && now >= router.cut_until && now >= self.kv.away_until
        };
        let owned: Vec<Source> = self
            .routers
            .iter()
            .filter(is_serving)
            .flat_map(|router| router.placement.held())
            .map(|(tenure, _)| tenure.source)
            .collect();
        for source in owned {
            self.unowned_since.insert(source, now);
        }
        for (source, since) in &self.unowned_since {
            // Since when some router could have taken it.
            let could = |router: &PlacedRouter| {
                router.well_since.max(router.slow_until.get(source).copied().unwrap_or_default())
            };
            let routers = self.routers.iter().filter(|router| router.is_alive && !router.is_draining);
            let Some(able) = routers.map(could).min() else { continue };
            let since = (*since).max(able);
            let time = now.saturating_sub(since);
            assert!(time <= BOUND, "{source} has had no owner since {since}, now {now}\n{}", self.dump(*source));
        }
    }

    /// The log of the run, and the state of one lease.
    fn dump(&self, source: Source) -> String {
        let mut lines = self.log.clone();
        lines.push(format!("KV: {:?}", self.kv.entries.get(&source)));
        for router in self.routers.iter().filter(|router| router.is_alive) {
            let state = router.placement.describe(source);
            lines.push(format!("{} (draining: {}): {state}", router.me.id, router.is_draining));
        }
        lines.join("\n")
    }

    /// Checks that each source has exactly the owner of the ring.
    fn check_calm(&self) {
        let view = self.views.last().unwrap();
        let ring = view.owners(PARTITIONS);
        for source in sources() {
            let partition = if let Source::Partition(partition) = source { partition } else { Partition(0) };
            let holds = |router: &&PlacedRouter| {
                router.is_alive && router.placement.held().any(|(tenure, _)| tenure.source == source)
            };
            let owners: Vec<&NodeRef> = self.routers.iter().filter(holds).map(|router| &router.me).collect();
            assert_eq!(owners, [&ring[&partition]], "{source}\n{}", self.dump(source));
        }
    }
}

fn simulate(seed: u64) {
    let mut world = PlacementWorld::new(seed);
    while world.now < STORM + CALM {
        world.step();
    }
    world.check_calm();
}

#[test]
fn every_partition_has_an_owner_again_within_a_lease_ttl_and_a_second() {
    let first = simulation::seed(0);
    for seed in first..first + u64::from(simulation::runs(2_000)) {
        let run = std::panic::catch_unwind(|| simulate(seed));
        assert!(run.is_ok(), "the seed is {seed}");
    }
}
