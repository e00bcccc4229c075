//! A simulation of the membership in one thread: three routers and three gateways that beat, with the production
//! coordinators and followers and the default configuration.
//!
//! `process` calls the coordinators and followers in the order of their drivers, each on a clock of its own, and
//! `waiting` holds the answers of KV that a process has not noticed yet. `network` loses, delays and duplicates
//! messages, requests to KV and their answers. `kv` is the bucket of the view. `world` holds all of this, performs the
//! actions of a `plan`, and checks what happens. KV is slow in some runs, from start to end.
//!
//! * Each version stands for one view, unless KV has lost it or a foreign writer has written over it. No node writes a
//!   version that it has followed, in any case.
//! * No follower goes back to an older version, except for the same reasons, or if a server that lags shows a version
//!   that was announced.
//! * No coordinator removes a node that beats, whatever has kept the coordinator from its beats.
//! * No coordinator adds a node that does not beat, or removes more than half of a role at a time for silence.
//! * A view names only nodes that said goodbye as departed, and none whose name is back. If nothing fails, it names
//!   every node that has just said goodbye.
//! * Nothing is due after its turn, and the work of each turn is bounded.
//! * Some time after the last fault, the view names exactly the nodes that live, and every node has it. If nothing
//!   fails, that takes no longer than each change needs.
//!
//! A failing run prints its shortest plan, and stores it in `target/simulator`; `make sim-trace` shows what happens in
//! it. `make sim` sets the number of runs and the seed.

mod departed;
mod kv;
mod network;
mod plan;
mod process;
mod trace;
mod waiting;
mod world;

use plan::{Action, Plan, ROUTERS, calm_plan, stormy_plan};
use proptest::strategy::Strategy;
use tickwire_testkit::simulation;
use world::World;

/// How many runs `make test` makes of each test. They are not optimised there.
const RUNS: u32 = 300;

/// The seed of the runs that `make test` makes; `make sim` takes another one each time.
const SEED: u64 = 13;

fn run(plan: &Plan) {
    if plan.is_quiet { calm(plan) } else { storm(plan) }
}

fn simulate(plans: &impl Strategy<Value = Plan>) {
    simulation::run_plans(simulation::seed(SEED), simulation::runs(RUNS), plans, run);
}

/// Starts the nodes that are there from the beginning.
fn start(plan: &Plan) -> World {
    let mut world = World::new(plan);
    let mut starts: Vec<_> = plan.starts.iter().enumerate().filter_map(|(slot, at)| at.map(|at| (at, slot))).collect();
    starts.sort_unstable();
    for (at, slot) in starts {
        world.run_until(at);
        world.start(slot);
    }
    world
}

fn storm(plan: &Plan) {
    let mut world = start(plan);
    for (pause, action) in &plan.actions {
        world.run_until(world.now() + pause);
        world.act(*action);
    }
    world.heal();
}

/// How long the view may be wrong after a change, in milliseconds.
mod within {
    /// If a coordinator lives: a beat, two requests to KV, an announcement and a reading.
    pub(super) const CHANGE: u64 = 200;
    /// The next round of another router, or the next beat of each node, and requests.
    pub(super) const HANDOVER: u64 = 1_000;
    /// The lease becomes stale, as another router sees it.
    pub(super) const TAKEOVER: u64 = 3_500;
    /// The silence of a dead node, and a round.
    pub(super) const SILENCE: u64 = 4_000;
    /// Silence does not remove several members of a role at a time.
    pub(super) const COOL_DOWN: u64 = 6_700;
    /// How many slow requests to KV may follow one another: of a round, of the news that it was too early for, and of
    /// each follower; and those of another router, if the lease becomes stale between two slow renewals.
    pub(super) const REQUESTS: u64 = 12;
}

/// Nothing fails: the view is right soon after each change, or after some requests if KV is slow.
fn calm(plan: &Plan) {
    let slow = if plan.kv_delay > 0 { within::TAKEOVER + within::REQUESTS * plan.kv_delay } else { 0 };
    let mut world = start(plan);
    if !(0..ROUTERS).any(|slot| world.running(slot).is_some()) {
        world.start(0);
    }
    world.run_until(world.now() + within::HANDOVER + within::CHANGE + slow);
    assert_eq!(world.fault(), None);
    let mut deaths: Vec<(u64, bool)> = Vec::new();
    for (pause, action) in &plan.actions {
        world.run_until(world.now() + pause);
        let (Action::Start(slot) | Action::Kill(slot) | Action::Drain(slot) | Action::Leave(slot)) = *action else {
            unreachable!("{action:?} is a fault")
        };
        let (is_running, is_router) = (world.running(slot).is_some(), slot < ROUTERS);
        let routers = (0..ROUTERS).filter(|router| world.running(*router).is_some()).count();
        if is_running && is_router && routers == 1 && !matches!(action, Action::Drain(_)) {
            continue;
        }
        let mut within = within::CHANGE + slow;
        within += match action {
            _ if !is_running || !world.is_coordinator(slot) => 0,
            Action::Leave(_) => within::HANDOVER,
            Action::Start(_) | Action::Kill(_) => within::TAKEOVER,
            _ => 0,
        };
        if is_running && matches!(action, Action::Kill(_)) {
            let last = world.now().saturating_sub(within::SILENCE + within::COOL_DOWN + slow);
            let others = deaths.iter().filter(|(at, router)| *router == is_router && *at > last).count();
            within += within::SILENCE + within::COOL_DOWN * others as u64;
            deaths.push((world.now(), is_router));
        }
        world.act(*action);
        world.run_until(world.now() + within);
        assert_eq!(world.fault(), None, "{within} ms after {action:?} at {}", world.now() - within);
        if is_running || matches!(action, Action::Start(_)) {
            assert_eq!(world.has_departed(slot), matches!(action, Action::Leave(_)), "after {action:?}");
        }
    }
}

#[test]
fn view_follows_each_change_in_time() {
    simulate(&calm_plan());
}

#[test]
fn view_is_right_after_all_faults_and_never_names_or_removes_the_wrong_node() {
    simulate(&stormy_plan());
}

/// Not a test: it shows what happens in a plan that has failed.
#[test]
#[ignore = "`make sim-trace PLAN=FILE` runs it"]
fn trace_of_a_plan() {
    simulation::trace_plan(run);
}
