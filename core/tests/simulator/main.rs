//! Routers, gateways, a log and a network in one thread. Everything that can go wrong does, at random; in the end
//! what each session got, what it was told it missed, and what it was promised must add up exactly.
//!
//! A failing run prints its seed and its shortest plan. `TICKWIRE_SIM_RUNS` sets the number of runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod catch_up;
mod cluster;
mod gateway;
mod made;
mod network;
mod plan;
mod replay;
mod router;
mod session;

use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use crate::cluster::Cluster;
use crate::plan::plan;

/// Runs per test; there are four tests, so that cores share them.
fn runs() -> u32 {
    std::env::var("TICKWIRE_SIM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(6_000)
}

fn simulate(chaos: plan::Chaos) {
    let config = Config {
        cases: runs(),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&plan(chaos), |plan| {
        let mut cluster = Cluster::new(&plan);
        for action in &plan.actions {
            cluster.act(action);
        }
        cluster.heal();
        cluster.check(plan.quiet);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn a_quiet_network_loses_nothing() {
    simulate(plan::Chaos::None);
}

#[test]
fn everything_adds_up_when_messages_are_lost_delayed_and_doubled() {
    simulate(plan::Chaos::Network);
}

#[test]
fn everything_adds_up_when_nodes_die_stall_and_return() {
    simulate(plan::Chaos::Nodes);
}

#[test]
fn everything_adds_up_when_all_goes_wrong_at_once() {
    simulate(plan::Chaos::All);
}
