//! Scenes: sequences of actions for situations that random actions seldom reach. The other actions of a plan vary
//! them.

use proptest::prelude::*;

use super::super::fixtures::{ALL_FILTERS, FILTERS};
use super::super::intake::Fault;
use super::{Action, NEWEST};
use crate::edge::AWAY_MS;

/// One of the scenes.
pub(super) fn scene() -> impl Strategy<Value = Vec<Action>> {
    prop_oneof![
        slow_past_in_another_epoch(),
        slow_resume_in_another_epoch(),
        late_past_retention(),
        too_much_interest(),
        end_lost_while_no_router_runs(),
        clients_connect_as_an_outage_is_notified()
    ]
}

fn publish(symbol: u8) -> Action {
    Action::Publish { symbol, confidence: 9 }
}

/// A client connects to a gateway with a filter that matches everything, and time passes.
fn client_of_all(gateway: u8, user: u8, time: u64) -> Vec<Action> {
    vec![Action::Connect { gateway, user, filter: 0 }, Action::Pass(time)]
}

/// A new epoch of the stream begins, and enough time passes for nodes to detect it.
fn another_epoch() -> impl Strategy<Value = Vec<Action>> {
    let begins = prop_oneof![
        (1..4u8).prop_map(|events| Action::LoseTail { events }),
        prop_oneof![Just(0), 0..20u8].prop_map(|from| Action::Recreate { from }),
    ];
    (begins, 500..2_000u64).prop_map(|(begins, time)| vec![begins, Action::Pass(time)])
}

/// The backfill of a subscription with `since` waits for a slow client when a new epoch begins.
fn slow_past_in_another_epoch() -> impl Strategy<Value = Vec<Action>> {
    ((0..3u8, 0..4u8), 0..4u8, 0..30u8, [150..250u64, 50..150, 300..800], another_epoch()).prop_map(
        |((gateway, user), symbol, tens, [first, then, last], ends)| {
            let room = Action::Room { session: NEWEST, tens: Some(tens) };
            let past = Action::LookBack { session: NEWEST, filter: 0, ago: 7_000, in_seconds: false };
            let asks = vec![publish(symbol), publish(symbol), Action::Pass(then), room, past, Action::Pass(last)];
            [client_of_all(gateway, user, first), asks, ends].concat()
        },
    )
}

/// The backfill of a resume waits for a slow client when a new epoch begins. Its socket takes the welcome, but not the
/// answer.
fn slow_resume_in_another_epoch() -> impl Strategy<Value = Vec<Action>> {
    ((0..3u8, 0..3u8, 0..4u8), 0..4u8, 12..35u8, [150..250u64, 50..150, 300..800], another_epoch()).prop_map(
        |((from, to, user), symbol, tens, [first, then, last], ends)| {
            let restart = Action::RestartGateway { gateway: from };
            let resume = Action::ResumeSlowly { session: NEWEST, gateway: to, tens };
            let misses =
                vec![restart, publish(symbol), publish(symbol), Action::Pass(then), resume, Action::Pass(last)];
            [client_of_all(from, user, first), misses, ends].concat()
        },
    )
}

/// All routers crash and start again, before or after their checkpoints, and perhaps all gateways. The stream loses its
/// last events, and others take their sequences before any router reads.
fn end_lost_while_no_router_runs() -> impl Strategy<Value = Vec<Action>> {
    let times = (prop_oneof![5..300u64, 1_000..2_500u64], 3_000..6_000u64);
    ((0..3u8, 0..4u8, 0..4u8), 1..4u8, times, any::<bool>(), (1..4u8, 1..6u8)).prop_map(
        |((gateway, user, symbol), before, (dies_after, rest), with_gateways, (lost, after))| {
            let events = |count| (0..count).map(|_| publish(symbol));
            let routers = (0..3).map(|router| Action::CrashRouter { router });
            let gateways = (0..3).filter(|_| with_gateways).map(|gateway| Action::RestartGateway { gateway });
            let dies = [Action::Pass(dies_after)].into_iter().chain(routers).chain(gateways);
            let loses = dies.chain([Action::LoseTail { events: lost }]).chain(events(after));
            let stored = client_of_all(gateway, user, 300).into_iter().chain(events(before));
            stored.chain(loses).chain([Action::Pass(rest)]).collect()
        },
    )
}

/// Consumers are late, and retention removes messages that they have not delivered.
fn late_past_retention() -> impl Strategy<Value = Vec<Action>> {
    ((0..3u8, 0..4u8), 1_600..2_190u64, 1_200..1_500u64, 0..4u8, 0..2u8).prop_map(
        |((gateway, user), late, time, symbol, keep)| {
            let late = (0..3).map(|router| Action::Disturb { router, fault: Fault::Late(late) });
            let rest = [publish(symbol), Action::Pass(time), Action::Discard { keep }, publish(symbol)];
            client_of_all(gateway, user, 150).into_iter().chain(late).chain(rest).collect()
        },
    )
}

/// The interest of a gateway becomes too large for a replay request, and then too large for routers, while events are
/// stored.
fn too_much_interest() -> impl Strategy<Value = Vec<Action>> {
    ((0..3u8, 0..4u8), 0..4u8, [50..300u64, 20..150, 20..100]).prop_map(
        |((gateway, user), symbol, [first, then, last])| {
            let connect = |filter| Action::Connect { gateway, user, filter };
            let [much, more] = [FILTERS, ALL_FILTERS - 1].map(connect);
            let wants = [much, Action::Pass(first), more, Action::Pass(then)];
            let stored = [publish(symbol), Action::Pass(last), publish(symbol), publish((symbol + 1) % 4)];
            [client_of_all(gateway, user, 5), wants.to_vec(), stored.to_vec()].concat()
        },
    )
}

/// A gateway loses its connection to NATS, and clients connect one after the other when it notifies its sessions of
/// that.
fn clients_connect_as_an_outage_is_notified() -> impl Strategy<Value = Vec<Action>> {
    ((0..3u8, 0..4u8), 0..6u64, prop::option::of(0..400u64)).prop_map(|((gateway, user), early, back)| {
        let connect = Action::Connect { gateway, user, filter: 0 };
        let lost = [Action::Cut { gateway }, Action::Pass(AWAY_MS - 5 - 5 * early)];
        let back = back.into_iter().flat_map(|time| [Action::Pass(time), Action::Cut { gateway }]);
        let come = std::iter::repeat_n(connect, 6);
        client_of_all(gateway, user, 150).into_iter().chain(lost).chain(come).chain(back).collect()
    })
}
