//! Draws plans: the settings of a run and its actions.

use proptest::prelude::*;

use super::random::{Topic, action, connect, connect_for_alerts, connect_or_save};
use super::scenes::scene;
use super::{Action, Chaos, GIVE_UP_AFTER, HOLD_BYTES, INTEREST_BYTES, OUTBOX_BYTES, Plan, REPLAY_RANGE};

/// One in this many places of a plan has a scene instead of an action.
const SCENE_EVERY: u32 = 60;

pub(in super::super) fn plan(chaos: Chaos) -> impl Strategy<Value = Plan> {
    let network = matches!(chaos, Chaos::Network | Chaos::All);
    let loss = if network { (0..30u32).boxed() } else { Just(0).boxed() };
    // The defaults, or bounds that are so tight that runs reach them.
    let tight = chaos == Chaos::All;
    let range = if tight { prop_oneof![Just(REPLAY_RANGE), 3..30u64].boxed() } else { Just(REPLAY_RANGE).boxed() };
    let patience = if tight {
        prop_oneof![3 => Just(GIVE_UP_AFTER), 1 => 1_000..5_000u64].boxed()
    } else {
        Just(GIVE_UP_AFTER).boxed()
    };
    let hold = if chaos == Chaos::None {
        Just(HOLD_BYTES).boxed()
    } else {
        prop_oneof![Just(HOLD_BYTES), 2_000..20_000usize].boxed()
    };
    let outbox = if chaos == Chaos::None {
        Just(OUTBOX_BYTES).boxed()
    } else {
        prop_oneof![3 => Just(OUTBOX_BYTES), 1 => 2_000..20_000usize].boxed()
    };
    let failing = chaos.fails_nodes();
    let late = if failing { prop_oneof![2 => Just(0), 1 => 0..64u8].boxed() } else { Just(0).boxed() };
    // Passes are usually fast, and sometimes so slow that the gateway no longer waits for the answer.
    let reading = prop_oneof![4 => Just(0), 4 => 0..500u64, 1 => 500..6_000u64];
    let reading = if network { reading.boxed() } else { Just(0).boxed() };
    let interest = if failing {
        prop_oneof![5 => Just(INTEREST_BYTES), 1 => 1_500..2_500usize].boxed()
    } else {
        Just(INTEREST_BYTES).boxed()
    };
    let copies = if failing { prop_oneof![Just(1), Just(3)].boxed() } else { Just(1).boxed() };
    let newcomers = if network { prop::bool::weighted(0.02).boxed() } else { Just(false).boxed() };
    let token = if failing {
        prop_oneof![5 => Just(None), 1 => (12_000..30_000u64).prop_map(Some)].boxed()
    } else {
        Just(None).boxed()
    };
    let bounds = (range, patience, (hold, outbox), (late, copies), (interest, token));
    let absent =
        if failing { prop_oneof![15 => Just(None), 1 => (0..3u8).prop_map(Some)].boxed() } else { Just(None).boxed() };
    let ends = (newcomers, prop::bool::weighted(0.05), any::<bool>(), absent);
    (any::<u64>(), loss, reading, ends, bounds, actions(chaos)).prop_map(
        move |(
            seed,
            loss,
            reading,
            (newcomers, lasts, delays, absent),
            (replay_range, give_up_after, (hold_bytes, outbox_bytes), (late, copies), (interest_bytes, token_ms)),
            actions,
        )| {
            // Saved subscriptions add to the interest, which must not exceed a small limit.
            let has_saved = actions.iter().any(|action| matches!(action, Action::Save { .. }));
            let interest_bytes = if has_saved { INTEREST_BYTES } else { interest_bytes };
            // Alerts that come again are sent in frames of their own, which must not exceed a small limit.
            let has_acks = actions.iter().any(|action| matches!(action, Action::Acknowledge { .. }));
            let outbox_bytes = if has_acks { OUTBOX_BYTES } else { outbox_bytes };
            Plan {
                quiet: chaos == Chaos::None,
                failing,
                late,
                give_up_after,
                hold_bytes,
                outbox_bytes,
                replay_range,
                interest_bytes,
                seed,
                loss,
                delays,
                reading,
                // Each newcomer adds to the interest, which must not exceed a small limit.
                newcomers: newcomers && interest_bytes == INTEREST_BYTES,
                lasts,
                absent,
                copies,
                token_ms,
                actions,
            }
        },
    )
}

/// The actions of a run. Few runs have saved subscriptions, and these change them often. In as many others, clients get
/// and acknowledge alerts.
fn actions(chaos: Chaos) -> impl Strategy<Value = Vec<Action>> {
    prop_oneof![
        3 => begin_and_go_on(chaos, Topic::Any),
        1 => begin_and_go_on(chaos, Topic::Saved),
        1 => begin_and_go_on(chaos, Topic::Alerts),
    ]
}

/// Some clients connect first, and any actions follow.
fn begin_and_go_on(chaos: Chaos, topic: Topic) -> impl Strategy<Value = Vec<Action>> {
    let one = || action(chaos, topic).prop_map(|action| vec![action]);
    let place = || match chaos.fails_nodes() {
        true => prop_oneof![SCENE_EVERY - 1 => one(), 1 => scene()].boxed(),
        false => one().boxed(),
    };
    // Scenes take the time of many actions, so there are fewer of these.
    let [few, more, many] = if chaos.fails_nodes() { [18, 38, 100] } else { [20, 42, 120] };
    let list = |most: usize| prop::collection::vec(place(), 1..most).prop_map(|places| places.concat());
    // Most faults show in a few actions, if a client is connected. Some need many actions.
    let lists = prop_oneof![8 => list(few), 3 => list(more), 1 => list(many)];
    let (first, most) = match topic {
        Topic::Any => (connect().boxed(), 4usize),
        Topic::Saved => (connect_or_save().boxed(), 8),
        Topic::Alerts => (connect_for_alerts().boxed(), 6),
    };
    (prop::collection::vec(first, 0..most), lists).prop_map(|(begin, rest)| [begin, rest].concat())
}
