//! What happens in a run: a list of actions that proptest makes and shrinks.

use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tickwire_testkit::simulation::SimPlan;

/// Routers, then gateways.
pub(super) const ROUTERS: usize = 3;
pub(super) const SLOTS: usize = 6;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Nothing fails: each change must show in time.
    pub(super) is_quiet: bool,
    pub(super) seed: u64,
    /// Of a hundred messages and requests, how many are lost; as many are delayed, and as many duplicated.
    pub(super) loss: u32,
    /// How much longer KV takes for each request in the whole run, in milliseconds.
    #[serde(default)]
    pub(super) kv_delay: u64,
    /// When each node starts, in milliseconds; `None` if an action has to start it.
    pub(super) starts: Vec<Option<u64>>,
    /// How much faster the clock of each host is, in millionths.
    pub(super) drifts: Vec<i64>,
    /// Each with the pause before it, in milliseconds.
    pub(super) actions: Vec<(u64, Action)>,
}

impl SimPlan for Plan {
    const PREFIX: &'static str = "membership";

    fn seed(&self) -> u64 {
        self.seed
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Action {
    /// A node starts. One that runs dies first.
    Start(usize),
    /// A node ends without a goodbye.
    Kill(usize),
    /// A node begins to drain.
    Drain(usize),
    /// A node says goodbye.
    Leave(usize),
    /// A process stands still for a time.
    Freeze(usize, u64),
    /// A node is cut off from NATS for a time.
    Cut(usize, u64),
    /// NATS is away for all nodes for a time, and each waits before it reconnects.
    Outage(u64),
    /// KV has no leader for a time.
    KvAway(u64),
    /// KV is slow for a time.
    KvSlow(u64),
    /// KV answers reads from an older state for a time.
    KvStale(u64),
    /// The bucket loses its last writes.
    LoseWrites(usize),
    /// A foreign writer writes over the lease.
    OverwriteLease,
    /// A foreign writer writes over the view.
    OverwriteView,
    /// An invalid beat arrives.
    Forge(usize, Forgery),
}

/// What is wrong with a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Forgery {
    /// It is on the subject of the other role.
    ForeignSubject,
    /// It claims the other role for a node.
    ForeignRole,
    Unreadable,
    /// The weight is 0.
    Weightless,
}

/// The actions that are no faults.
fn change() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..SLOTS).prop_map(Action::Start),
        2 => (0..SLOTS).prop_map(Action::Kill),
        1 => (0..SLOTS).prop_map(Action::Drain),
        2 => (0..SLOTS).prop_map(Action::Leave),
    ]
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![1..400_u64, 400..2_000_u64, 2_000..8_000_u64]
}

fn fault() -> impl Strategy<Value = Action> {
    let forgery = prop_oneof![
        Just(Forgery::ForeignSubject),
        Just(Forgery::ForeignRole),
        Just(Forgery::Unreadable),
        Just(Forgery::Weightless),
    ];
    prop_oneof![
        4 => (0..SLOTS, time()).prop_map(|(slot, time)| Action::Freeze(slot, time)),
        4 => (0..SLOTS, time()).prop_map(|(slot, time)| Action::Cut(slot, time)),
        2 => time().prop_map(Action::Outage),
        2 => time().prop_map(Action::KvAway),
        2 => time().prop_map(Action::KvSlow),
        1 => time().prop_map(Action::KvStale),
        2 => (1..12_usize).prop_map(Action::LoseWrites),
        1 => Just(Action::OverwriteLease),
        1 => Just(Action::OverwriteView),
        1 => (0..SLOTS, forgery).prop_map(|(slot, forgery)| Action::Forge(slot, forgery)),
    ]
}

fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..50_u64, 3 => 50..1_500_u64, 2 => 1_500..6_000_u64]
}

fn with_actions(
    is_quiet: bool,
    loss: BoxedStrategy<u32>,
    kv_delay: BoxedStrategy<u64>,
    actions: BoxedStrategy<Vec<(u64, Action)>>,
) -> impl Strategy<Value = Plan> {
    let starts = vec(prop::option::weighted(0.8, 0..3_000_u64), SLOTS);
    let drifts = vec(-2_000..2_000_i64, SLOTS);
    (any::<u64>(), loss, kv_delay, starts, drifts, actions).prop_map(
        move |(seed, loss, kv_delay, starts, drifts, actions)| Plan {
            is_quiet,
            seed,
            loss,
            kv_delay,
            starts,
            drifts,
            actions,
        },
    )
}

/// Nodes come and go, and nothing fails. KV may be slow, but answers before its deadline.
pub(super) fn calm_plan() -> impl Strategy<Value = Plan> {
    let kv_delay = prop_oneof![2 => Just(0_u64), 1 => 300..950_u64].boxed();
    with_actions(true, Just(0).boxed(), kv_delay, vec((pause(), change()), 1..12).boxed())
}

/// Everything fails. KV may be so slow that its answers come too late.
pub(super) fn stormy_plan() -> impl Strategy<Value = Plan> {
    let loss = prop_oneof![4 => Just(0_u32), 2 => 1..5_u32, 1 => 5..30_u32].boxed();
    let kv_delay = prop_oneof![3 => Just(0_u64), 1 => 300..1_500_u64].boxed();
    let action = prop_oneof![2 => change(), 3 => fault()];
    with_actions(false, loss, kv_delay, vec((pause(), action), 1..24).boxed())
}
