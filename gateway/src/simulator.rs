//! A simulation of a whole cluster in one thread: routers, gateways, the stream, the network and clients. It injects
//! random faults. At the end of a run, the events that a client got and the gaps of which it was notified must be
//! exactly what it was promised.
//!
//! It runs the production code with the default configuration, in the order in which the drivers call it:
//! [`Edge`](crate::edge::Edge) and [`Shard`](crate::shard::Shard) in `gateway`, engine and ownership in `router`,
//! intakes in `intake`, and the queue and passes of replays in `replay`. `cluster` holds the state and performs the
//! actions of a `plan`. `client` checks what clients receive that keep to the protocol, and `stranger` sends what the
//! protocol does not allow. `crowd` resumes many sessions at once, and counts their cohorts.
//!
//! It simulates:
//!
//! * the stream on one or three servers: copies with different retention, damaged messages, a lost end, a new epoch
//! * consumers and readers that are late, silent, ended, refused, or read a server that lags behind
//! * the leases in a KV bucket, with lost requests and answers, and owners that do not know of their leases
//! * a network that loses, delays, reorders and duplicates messages
//! * nodes that start late, end, crash, freeze and drain, and views that nodes learn one by one
//! * routers and gateways without NATS
//! * rules that change, and reach routers one by one: `rules` keeps the forms that they give events
//! * saved subscriptions that change, and that gateways read one by one: clients follow them, and move between gateways
//! * alerts that clients acknowledge at several gateways at once, and that come again: `alerts` has their records
//! * clocks of gateways' hosts that are set, and tokens that expire
//! * the order in which a node serves its inputs: the production code decides which one is next
//! * sockets that are not writable at first, take only a part of a frame, or nothing
//!
//! It does not simulate:
//!
//! * the I/O of the drivers
//! * the search for the sequence of a time by bisection: the simulated NATS knows the answer
//! * how saved subscriptions are written over HTTP, and removed if nobody uses them
//! * the task that reads alerts, and the router's service for it: `alerts/readings` repeats their steps
//! * the production readers for replays and for walks of the stream: the simulator has readers of its own
//! * a stream on several servers that loses its end and fills it up again
//! * membership, which has a simulator of its own in `node/src/membership/simulator.rs`: here the plan changes the
//!   view, and decides when nodes learn it
//!
//! A run that fails prints its seed and its shortest plan, and stores the plan in `target/simulator`. `make sim-trace`
//! shows what happens in it. `make sim` sets the number of runs and the seed.

mod alerts;
mod client;
mod clocks;
mod cluster;
mod crowd;
mod fixtures;
mod gateway;
mod intake;
mod kv;
mod lifecycle;
mod network;
mod plan;
mod replay;
mod router;
mod rules;
mod saved;
mod socket;
mod stranger;
mod stream;
mod trace;
mod waits;

use tickwire_node::clock::millis;
use tickwire_testkit::simulation::{self, SimPlan};

use cluster::SimCluster;
use intake::Fault;
use plan::{Action, Plan, plan};

/// The seed of the runs of `make test`. `make sim` uses a new one each time, unless `SEED` sets it.
const SEED: u64 = 26;

/// How many runs `make test` makes of each test with faults.
const RUNS: u32 = 6_000;

fn run(plan: &Plan) {
    let mut cluster = SimCluster::new(plan);
    for action in &plan.actions {
        cluster.act(action);
    }
    cluster.heal(plan);
    cluster.check(plan.quiet);
}

/// Runs random plans on all processors. Each processor draws its plans from a seed of its own.
fn simulate(chaos: plan::Chaos, runs: u32) {
    let seed = simulation::seed(SEED);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let runs = (runs + thread) / threads;
            scope.spawn(move || simulation::run_plans(seed + u64::from(thread), runs, &plan(chaos), run));
        }
    });
}

/// Not a test: this prints a trace of a plan that has failed.
#[test]
#[ignore = "`make sim-trace PLAN=FILE` runs it"]
fn trace_of_a_plan() {
    simulation::trace_plan(run);
}

/// The simulator has these intervals as constants, so they must be those of the default configuration.
#[test]
fn intervals_are_the_defaults() {
    let membership = gateway::config(|_| {}).membership;
    assert_eq!(millis(membership.beat_interval), cluster::BEAT);
    assert_eq!(millis(membership.tick_interval), cluster::HEARTBEAT);
}

#[test]
fn stored_plan_is_read_back_unchanged() {
    let actions = vec![
        Action::Pass(7),
        Action::LookBack { session: 255, filter: 7, ago: 7_999, in_seconds: true },
        Action::Room { session: 1, tens: None },
    ];
    let plan = failing(0xffff_ffff_ffff_fff0, 3, plan::GIVE_UP_AFTER, actions);
    let path = plan.store();
    assert_eq!(format!("{:?}", Plan::read(&path).unwrap()), format!("{plan:?}"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_quiet_network_loses_nothing() {
    // Without faults, plans differ less, so fewer runs are enough.
    simulate(plan::Chaos::None, simulation::runs(RUNS) / 3);
}

#[test]
fn everything_adds_up_when_messages_are_lost_delayed_and_duplicated() {
    simulate(plan::Chaos::Network, simulation::runs(RUNS));
}

#[test]
fn everything_adds_up_when_nodes_crash_freeze_and_return() {
    simulate(plan::Chaos::Nodes, simulation::runs(RUNS));
}

#[test]
fn everything_adds_up_when_all_faults_happen_at_once() {
    simulate(plan::Chaos::All, simulation::runs(RUNS));
}

/// A plan in which nodes fail.
fn failing(seed: u64, loss: u32, give_up_after: u64, actions: Vec<Action>) -> Plan {
    Plan {
        quiet: false,
        failing: true,
        late: 0,
        give_up_after,
        hold_bytes: 64 << 20,
        outbox_bytes: plan::OUTBOX_BYTES,
        replay_range: plan::REPLAY_RANGE,
        interest_bytes: plan::INTEREST_BYTES,
        seed,
        loss,
        delays: false,
        reading: 0,
        newcomers: false,
        copies: 1,
        token_ms: None,
        lasts: true,
        absent: None,
        actions,
    }
}

/// A session resumes at a gateway that lags behind its position, and a new epoch begins.
#[test]
fn position_does_not_move_back_when_a_lagging_gateway_begins_a_new_epoch() {
    for seed in [3, 8, 10, 16] {
        let actions = vec![
            Action::Connect { gateway: 1, user: 2, filter: 0 },
            Action::Pass(2_000),
            Action::Publish { symbol: 0, confidence: 5 },
            Action::Publish { symbol: 1, confidence: 5 },
            Action::Publish { symbol: 2, confidence: 5 },
            Action::Pass(100),
            Action::Resume { session: 0, gateway: 0 },
            Action::Pass(150),
            Action::Recreate { from: 0 },
            Action::Pass(1_000),
        ];
        run(&failing(seed, 25, plan::GIVE_UP_AFTER, actions));
    }
}

/// Two events wait for a client whose socket takes `tens * 10` bytes.
fn events_wait(tens: u8) -> Vec<Action> {
    vec![
        Action::Connect { gateway: 1, user: 2, filter: 0 },
        Action::Pass(300),
        Action::Room { session: 0, tens: Some(tens) },
        Action::Publish { symbol: 0, confidence: 5 },
        Action::Pass(50),
        Action::Publish { symbol: 0, confidence: 5 },
        Action::Pass(50),
    ]
}

/// An event waits for a client that reads nothing. A new epoch begins, in which its sequence may mean another event.
#[test]
fn events_queued_for_a_slow_client_are_not_delivered_in_the_next_epoch() {
    for tens in [0, 4, 12] {
        let mut actions = events_wait(tens);
        actions.extend([Action::Recreate { from: 0 }, Action::Pass(1_000)]);
        run(&failing(1, 0, plan::GIVE_UP_AFTER, actions));
    }
}

/// Events wait for a client that unsubscribes. It subscribes again in the new epoch.
#[test]
fn events_of_an_ended_subscription_are_not_delivered_in_the_next_epoch() {
    for tens in [0, 4, 12] {
        let mut actions = events_wait(tens);
        actions.extend([
            Action::Unsubscribe { session: 0 },
            Action::Recreate { from: 0 },
            Action::Pass(2_000),
            Action::Replace { session: 0, filter: 0 },
            Action::Pass(1_000),
        ]);
        run(&failing(1, 0, plan::GIVE_UP_AFTER, actions));
    }
}

/// A new event waits behind the backfill of a session. Then an epoch begins that still has the event.
#[test]
fn events_behind_a_backfill_are_delivered_once_when_a_new_epoch_begins() {
    let mut actions =
        vec![Action::Pass(1_000), Action::Connect { gateway: 1, user: 2, filter: 4 }, Action::Pass(6_071)];
    actions.extend([1, 1, 1].map(Action::Pass));
    actions.extend([
        Action::Resume { session: 0, gateway: 1 },
        Action::ToggleMember { node: 0 },
        Action::Publish { symbol: 2, confidence: 2 },
        Action::LoseTail { events: 0 },
        Action::Pass(1),
    ]);
    run(&failing(76_005_033_887_514_388, 0, plan::GIVE_UP_AFTER, actions));
}

/// A session removes its subscriptions during its backfill, and a new epoch begins.
#[test]
fn session_without_subscriptions_finishes_its_backfill_in_the_next_epoch() {
    let look_back = Action::LookBack { session: 0, filter: 1, ago: 0, in_seconds: false };
    let past = [look_back, Action::Resume { session: 0, gateway: 0 }];
    for past in past {
        let actions = vec![
            Action::Connect { gateway: 0, user: 0, filter: 0 },
            Action::Pass(1_000),
            past,
            Action::Cut { gateway: 0 },
            Action::Recreate { from: 0 },
            Action::Unsubscribe { session: 0 },
        ];
        run(&failing(0, 0, plan::GIVE_UP_AFTER, actions));
    }
}

/// The stream loses its end. A session resumes from an earlier position, and its connection breaks during the backfill.
#[test]
fn kept_events_arrive_after_a_disconnect_at_the_start_of_an_epoch() {
    for time in [0, 20, 30, 40, 50] {
        let actions = vec![
            Action::Connect { gateway: 0, user: 0, filter: 7 },
            Action::Pass(1_000),
            Action::Cut { gateway: 0 },
            Action::Publish { symbol: 3, confidence: 0 },
            Action::Pass(5_898),
            Action::LoseTail { events: 0 },
            Action::RestartGateway { gateway: 0 },
            Action::Pass(10_000),
            Action::Resume { session: 0, gateway: 1 },
            Action::Pass(time),
            Action::Resume { session: 0, gateway: 2 },
            Action::Pass(100),
        ];
        run(&failing(0, 0, plan::GIVE_UP_AFTER, actions));
    }
}

/// A session asks for the last second while its gateway is away from NATS, and is confirmed much later.
#[test]
fn relative_since_counts_from_the_request() {
    let actions = vec![
        Action::Connect { gateway: 0, user: 0, filter: 0 },
        Action::Pass(3_000),
        Action::Publish { symbol: 0, confidence: 5 },
        Action::Pass(900),
        Action::Cut { gateway: 0 },
        Action::LookBack { session: 0, filter: 1, ago: 1_000, in_seconds: true },
        Action::Pass(3_000),
        Action::Cut { gateway: 0 },
    ];
    run(&failing(0, 0, plan::GIVE_UP_AFTER, actions));
}

/// Consumers are late, and retention removes messages that they have not delivered.
#[test]
fn gap_is_notified_when_retention_passes_a_late_consumer() {
    let late = (0..3).map(|router| Action::Disturb { router, fault: Fault::Late(2_100) });
    let mut actions = vec![Action::Connect { gateway: 0, user: 0, filter: 0 }, Action::Pass(300)];
    actions.extend(late);
    actions.extend([
        Action::Publish { symbol: 0, confidence: 5 },
        Action::Pass(1_300),
        Action::Discard { keep: 0 },
        Action::Publish { symbol: 0, confidence: 5 },
        Action::Pass(1_000),
    ]);
    for seed in 0..20 {
        run(&failing(seed, 0, plan::GIVE_UP_AFTER, actions.clone()));
    }
}

/// A consumer delivers several messages at once, and one of them is lost.
#[test]
fn events_before_a_missed_delivery_are_delivered() {
    let mut actions = vec![Action::Connect { gateway: 0, user: 0, filter: 0 }, Action::Pass(300)];
    for router in 0..3 {
        actions.push(Action::Disturb { router, fault: Fault::Late(500) });
        actions.push(Action::DropDelivery { router });
    }
    actions.extend([5, 5, 5].map(|confidence| Action::Publish { symbol: 0, confidence }));
    actions.push(Action::Pass(1_000));
    for seed in 0..20 {
        run(&failing(seed, 0, plan::GIVE_UP_AFTER, actions.clone()));
    }
}

/// Events on all symbols, and one for each handling.
fn events() -> Vec<Action> {
    let ruled = (0..4).map(|symbol| Action::Publish { symbol, confidence: 5 });
    let handled = (0..fixtures::HANDLINGS).map(|way| Action::PublishHandled { symbol: way % 4, confidence: 2, way });
    ruled.chain(handled).chain([Action::Pass(200)]).collect()
}

/// Clients with different filters get events live, and after a router has ended, by a replay. All routers have the same
/// rules.
#[test]
fn replays_give_events_the_same_form_as_the_live_path() {
    for number in 0..fixtures::RULE_SETS {
        let filters = [0, 5, 8, 9, 10].map(|filter| Action::Connect { gateway: filter % 3, user: 10 + filter, filter });
        let mut actions = [&filters[..], &[Action::Pass(1_500), Action::WriteRules { number }]].concat();
        actions.extend((0..3).map(|router| Action::TakeRules { router }));
        actions.extend([events(), vec![Action::Disconnect { session: 0 }], events()].concat());
        actions.extend([
            Action::CrashRouter { router: 0 },
            Action::Resume { session: 0, gateway: 1 },
            Action::LookBack { session: 2, filter: 8, ago: 2_000, in_seconds: false },
        ]);
        actions.extend(events());
        run(&failing(7 + u64::from(number), 0, plan::GIVE_UP_AFTER, actions));
    }
}

/// Each router takes new rules at another time. Partitions get other owners, and clients resume.
#[test]
fn event_comes_once_in_the_form_of_a_revision_while_routers_have_different_rules() {
    for number in 0..fixtures::RULE_SETS {
        let filters = [0, 5, 8, 9].map(|filter| Action::Connect { gateway: filter % 3, user: 10 + filter, filter });
        let mut actions = [&filters[..], &[Action::Pass(1_500)]].concat();
        for router in 0..3 {
            let number = (number + router) % fixtures::RULE_SETS;
            actions.extend([Action::WriteRules { number }, Action::TakeRules { router }]);
            actions.extend(events());
            actions.extend([
                Action::Usurp { partition: router, to: (router + 1) % 3 },
                Action::Resume { session: router, gateway: router },
                Action::Pass(1_000),
            ]);
            actions.extend(events());
        }
        run(&failing(70 + u64::from(number), 5, plan::GIVE_UP_AFTER, actions));
    }
}

/// What a user has saved changes while the user's session moves. The gateways read the change at different times.
#[test]
fn saved_subscription_that_changes_while_its_user_moves_takes_effect_on_the_next_gateway() {
    let save = |name, filter| Action::Save { user: 2, name, filter };
    let moves = |gateway| [vec![Action::Resume { session: 0, gateway }, Action::Pass(500)], events()].concat();
    for (seed, filter) in (0..8).zip([None, Some(0)].into_iter().cycle()) {
        let mut actions = vec![save(1, Some(1)), save(0, Some(2)), Action::ReadSaved { gateway: 0 }];
        actions.extend([Action::ConnectSaved { gateway: 0, user: 2, filter, asks: false }, Action::Pass(2_500)]);
        actions.extend([save(1, Some(3)), save(2, Some(8)), save(0, None), Action::ReadSaved { gateway: 1 }]);
        actions.extend((0..3).flat_map(moves));
        run(&failing(seed, 0, plan::GIVE_UP_AFTER, actions));
    }
}
