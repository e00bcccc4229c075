//! Many sessions lose their gateway, resume at another one at once, and share cohorts. The number of requests for
//! replays depends on the ranges that they lack, not on the number of sessions.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tickwire_testkit::simulation;

use super::client::SimClient;
use super::cluster::SimCluster;
use super::fixtures::user;
use super::plan::{self, Action, Plan};
use super::{RUNS, SEED, failing};

/// The gateway that all sessions lose, and the one at which they resume.
const FORMER: usize = 0;
const NEXT: usize = 1;

/// How many groups of sessions leave, one after the other, and how many events of each sort are stored after each of
/// them.
const GROUPS: usize = 3;
const EVENTS: u8 = 20;

/// How long the backfill of a crowd may take, in milliseconds: cohorts gather, ask, and get an answer.
const BACKFILL_MS: u64 = 400;

/// How long the backfill of a crowd with slow readers may take, in milliseconds. It is longer than a cohort waits for
/// slow readers, and longer than a cohort waits if none of its sessions reads.
const SLOW_BACKFILL_MS: u64 = 7_000;

/// How many bytes may wait for a session of such a crowd: fewer than it lacks.
const SLOW_OUTBOX: usize = 2_000;

/// A session of a crowd.
#[derive(Clone, Debug)]
struct CrowdSession {
    filter: u32,
    /// The number of the group with which it leaves.
    group: usize,
    /// How many bytes its socket takes after the resume, in tens; `None` for all.
    room: Option<usize>,
}

fn crowd_session() -> impl Strategy<Value = CrowdSession> {
    let room = prop::option::weighted(0.3, 20..120usize);
    (0..8u32, 0..GROUPS, room).prop_map(|(filter, group, room)| CrowdSession { filter, group, room })
}

/// Connects the sessions of a crowd. They leave in groups, and so each misses a part of the events.
fn connect_and_disconnect(cluster: &mut SimCluster, crowd: &[CrowdSession]) {
    for (number, member) in (0..).zip(crowd) {
        let mut client = SimClient::new(user(number));
        client.subscribe(member.filter);
        cluster.clients.push(client);
        cluster.connect(number as usize, FORMER);
    }
    cluster.act(&Action::Pass(1_000));
    for group in 0..GROUPS {
        for (client, _) in cluster.clients.iter_mut().zip(crowd).filter(|(_, member)| member.group == group) {
            client.disconnect();
        }
        for number in 0..EVENTS {
            cluster.act(&Action::Publish { symbol: number % 4, confidence: number % 10 });
            cluster.act(&Action::Address { user: number % 4 });
        }
    }
}

/// All sessions of a crowd resume at once.
fn resume_all(cluster: &mut SimCluster, crowd: &[CrowdSession]) {
    for (at, member) in crowd.iter().enumerate() {
        cluster.connect(at, NEXT);
        cluster.clients[at].set_room(member.room.map(|tens| tens * 10));
    }
    cluster.act(&Action::Pass(BACKFILL_MS));
}

/// The number of cohorts that a crowd needs without faults and slow readers.
fn cohorts(crowd: &[CrowdSession]) -> usize {
    let plan = Plan { quiet: true, failing: false, lasts: false, ..failing(1, 0, plan::GIVE_UP_AFTER, Vec::new()) };
    let mut cluster = SimCluster::new(&plan);
    connect_and_disconnect(&mut cluster, crowd);
    resume_all(&mut cluster, crowd);
    assert!(cluster.is_all_served(), "a session still waits after {BACKFILL_MS} ms");
    let asks = std::mem::take(&mut cluster.gateways[NEXT].cohort_asks);
    // An answer may end early. Then the cohort asks for the rest, which begins at another sequence.
    let begins: BTreeSet<_> = asks.iter().map(|(cohort, ask)| (*cohort, ask.partition, ask.from)).collect();
    assert_eq!(begins.len(), asks.len(), "a cohort asked twice for the same range: {asks:?}");
    cluster.heal(&plan);
    cluster.check(true);
    asks.iter().map(|(cohort, _)| *cohort).collect::<BTreeSet<u64>>().len()
}

#[test]
fn two_thousand_sessions_that_lack_the_same_share_a_cohort() {
    assert_eq!(cohorts(&vec![CrowdSession { filter: 0, group: 0, room: None }; 2_000]), 1);
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Runs have many sessions, so there are fewer of them.
        cases: simulation::runs(RUNS).div_ceil(60),
        rng_seed: RngSeed::Fixed(simulation::seed(SEED)),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn crowd_asks_for_nothing_twice(crowd in prop::collection::vec(crowd_session(), 2..40)) {
        let crowd: Vec<CrowdSession> = crowd.into_iter().map(|member| CrowdSession { room: None, ..member }).collect();
        prop_assert_eq!(cohorts(&crowd), 1);
    }

    #[test]
    fn crowd_gets_every_event_once_when_some_read_slowly_and_messages_are_lost(
        crowd in prop::collection::vec(crowd_session(), 2..40),
        seed in any::<u64>(),
        loss in prop_oneof![Just(0), 0..30u32],
    ) {
        let plan = failing(seed, loss, plan::GIVE_UP_AFTER, Vec::new());
        let plan = Plan { outbox_bytes: SLOW_OUTBOX, lasts: false, ..plan };
        let mut cluster = SimCluster::new(&plan);
        connect_and_disconnect(&mut cluster, &crowd);
        resume_all(&mut cluster, &crowd);
        cluster.act(&Action::Pass(SLOW_BACKFILL_MS));
        // What the gateway has by then, every session that reads has soon: as new events, or as its backfill.
        let end = cluster.gateways[NEXT].edge.position().expect("the gateway has received sections");
        cluster.act(&Action::Pass(BACKFILL_MS));
        for (at, _) in crowd.iter().enumerate().filter(|(_, member)| loss == 0 && member.room.is_none()) {
            let unknown = cluster.clients[at].unknown_events(&end, &cluster.history[&end.epoch_id]);
            prop_assert_eq!(unknown, [], "session {} waits for slow readers", at);
        }
        cluster.heal(&plan);
        cluster.check(false);
    }
}
