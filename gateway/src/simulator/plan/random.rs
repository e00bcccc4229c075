//! Random actions of a plan: one at a time, each as often as it is useful.

use std::ops::Range;

use proptest::prelude::*;

use super::super::fixtures::{ALL_FILTERS, FILTERS, HANDLINGS, RULE_SETS, SAVED_NAMES};
use super::super::intake::Fault;
use super::super::stranger::KINDS;
use super::{Action, Chaos};

/// What the actions of a run are about, beside all else.
#[derive(Clone, Copy, Debug)]
pub(super) enum Topic {
    Any,
    /// Saved subscriptions.
    Saved,
    /// Alerts that are acknowledged, or come again.
    Alerts,
}

/// A filter, seldom one that names many symbols.
fn filter() -> impl Strategy<Value = u8> {
    prop_oneof![15 => 0..FILTERS, 1 => FILTERS..ALL_FILTERS]
}

pub(super) fn connect() -> impl Strategy<Value = Action> {
    (0..3u8, 0..4u8, filter()).prop_map(|(gateway, user, filter)| Action::Connect { gateway, user, filter })
}

/// The users who have saved subscriptions. The own subscriptions of one of them have a quota.
const SAVERS: Range<u8> = 2..4;

/// A client with the saved subscriptions of its user.
fn connect_saved() -> impl Strategy<Value = Action> {
    (0..3u8, SAVERS, prop::option::of(filter()), any::<bool>())
        .prop_map(|(gateway, user, filter, asks)| Action::ConnectSaved { gateway, user, filter, asks })
}

/// Few filters, so that a client often has the same as its own subscription.
fn save() -> impl Strategy<Value = Action> {
    let filter = prop::option::weighted(0.7, prop_oneof![2 => 0..3u8, 1 => 0..FILTERS]);
    (SAVERS, 0..SAVED_NAMES.len() as u8, filter).prop_map(|(user, name, filter)| Action::Save { user, name, filter })
}

/// A client connects, or a subscription is saved.
pub(super) fn connect_or_save() -> impl Strategy<Value = Action> {
    prop_oneof![1 => connect(), 3 => connect_saved(), 4 => save()]
}

/// What concerns saved subscriptions. Few clients have them: all sessions of a user at a gateway share a rate.
fn saved_action(chaos: Chaos) -> impl Strategy<Value = Action> {
    let usual = prop_oneof![
        1 => connect_saved(),
        7 => save(),
        8 => (0..3u8).prop_map(|gateway| Action::ReadSaved { gateway }),
        2 => (any::<u8>(), 0..SAVED_NAMES.len() as u8)
            .prop_map(|(session, name)| Action::EndSaved { session, name }),
    ];
    if chaos.fails_nodes() { prop_oneof![30 => usual, 1 => Just(Action::LoseSaved)].boxed() } else { usual.boxed() }
}

/// A client that gets alerts. Several of one user are at different gateways.
pub(super) fn connect_for_alerts() -> impl Strategy<Value = Action> {
    (0..3u8, 0..2u8, prop_oneof![4 => Just(6u8), 1 => filter()]).prop_map(|(gateway, user, filter)| Action::Connect {
        gateway,
        user,
        filter,
    })
}

/// What concerns alerts that are acknowledged, or come again.
fn alert_action(chaos: Chaos) -> impl Strategy<Value = Action> {
    let usual = prop_oneof![
        2 => connect_for_alerts(),
        6 => (0..2u8).prop_map(|user| Action::Address { user }),
        8 => (any::<u8>(), 0..4u8).prop_map(|(session, back)| Action::Acknowledge { session, back }),
        2 => any::<u8>().prop_map(|session| Action::Replace { session, filter: 6 }),
        2 => (any::<u8>(), 0..3u8).prop_map(|(session, gateway)| Action::Resume { session, gateway }),
    ];
    let loses = (0..3u8).prop_map(|gateway| Action::LoseAckAnswer { gateway });
    if chaos == Chaos::None { usual.boxed() } else { prop_oneof![16 => usual, 1 => loses].boxed() }
}

/// One event, or seldom more of them than the rate limit of a user lets through.
fn publish() -> impl Strategy<Value = Action> {
    prop_oneof![
        50 => (0..4u8, 0..10u8).prop_map(|(symbol, confidence)| Action::Publish { symbol, confidence }),
        10 => (0..4u8, 0..10u8, 0..HANDLINGS)
            .prop_map(|(symbol, confidence, way)| Action::PublishHandled { symbol, confidence, way }),
        1 => (0..4u8, 0..10u8, 11..25u8)
            .prop_map(|(symbol, confidence, tens)| Action::Burst { symbol, confidence, tens }),
    ]
}

fn stranger() -> impl Strategy<Value = Action> {
    (0..3u8, 0..3u8, 0..KINDS, 1..14u8).prop_map(|(stranger, gateway, kind, times)| Action::Stranger {
        stranger,
        gateway,
        kind,
        times,
    })
}

pub(super) fn action(chaos: Chaos, topic: Topic) -> impl Strategy<Value = Action> {
    let ordinary = prop_oneof![
        4 => (1..80u64).prop_map(Action::Pass),
        6 => publish(),
        2 => stranger(),
        2 => (0..4u8).prop_map(|user| Action::Address { user }),
        3 => connect(),
        2 => (any::<u8>(), filter()).prop_map(|(session, filter)| Action::Replace { session, filter }),
        3 => (any::<u8>(), filter(), 0..8_000u64, any::<bool>())
            .prop_map(|(session, filter, ago, in_seconds)| Action::LookBack { session, filter, ago, in_seconds }),
        1 => any::<u8>().prop_map(|session| Action::Disconnect { session }),
        1 => any::<u8>().prop_map(|session| Action::Unsubscribe { session }),
        1 => (any::<u8>(), prop::option::of(0..60u8)).prop_map(|(session, tens)| Action::Room { session, tens }),
        2 => (any::<u8>(), 0..3u8).prop_map(|(session, gateway)| Action::Resume { session, gateway }),
        1 => (any::<u8>(), 0..3u8, 20..120u8)
            .prop_map(|(session, gateway, tens)| Action::ResumeSlowly { session, gateway, tens }),
        1 => (any::<u8>(), filter()).prop_map(|(session, filter)| Action::ResumeHere { session, filter }),
        1 => (3..6u8).prop_map(|node| Action::ToggleMember { node }),
        1 => (0..6u8).prop_map(|node| Action::LearnView { node }),
        1 => (0..RULE_SETS).prop_map(|number| Action::WriteRules { number }),
        2 => (0..3u8).prop_map(|router| Action::TakeRules { router }),
    ];
    let ordinary = match topic {
        Topic::Any => ordinary.boxed(),
        Topic::Saved => prop_oneof![2 => ordinary, 1 => saved_action(chaos)].boxed(),
        Topic::Alerts => prop_oneof![2 => ordinary, 1 => alert_action(chaos)].boxed(),
    };
    if !chaos.fails_nodes() {
        return ordinary;
    }
    prop_oneof![
        8 => ordinary,
        1 => (0..3u8, 0..3u8).prop_map(|(partition, to)| Action::Usurp { partition, to }),
        // Longer than the pauses between other actions; seldom longer than all timeouts.
        1 => prop_oneof![4 => 1_000..4_000u64, 1 => 4_000..20_000u64].prop_map(Action::Pass),
        1 => (0..3u8).prop_map(|router| Action::CrashRouter { router }),
        1 => (0..6u8).prop_map(|node| Action::Freeze { node }),
        1 => (0..6u8).prop_map(|node| Action::Drain { node }),
        1 => (0..3u8).prop_map(|gateway| Action::RestartGateway { gateway }),
        1 => (0..3u8).prop_map(|gateway| Action::Cut { gateway }),
        1 => (0..3u8).prop_map(|router| Action::CutRouter { router }),
        1 => (0..3u8).prop_map(|gateway| Action::StopStoring { gateway }),
        1 => (0..6u8, 0..3u8).prop_map(|(node, queue)| Action::Flood { node, queue }),
        1 => (0..3u8, -40..40i8).prop_map(|(gateway, seconds)| Action::SetClock { gateway, seconds }),
        1 => (0..3u8).prop_map(|node| Action::ToggleMember { node }),
        2 => (0..6u8).prop_map(|node| Action::LearnView { node }),
        1 => (0..6u8).prop_map(|keep| Action::Discard { keep }),
        1 => (0..3u8, 0..3u8).prop_map(|(node, role)| Action::Toggle { node: node + 3 * u8::from(role == 0) }),
        1 => prop_oneof![Just(0), 0..20u8].prop_map(|from| Action::Recreate { from }),
        1 => (0..6u8).prop_map(|events| Action::LoseTail { events }),
        1 => (0..12u8).prop_map(|back| Action::Damage { back }),
        1 => (0..3u8).prop_map(|router| Action::DropDelivery { router }),
        1 => (0..3u8, 0..6u8).prop_map(|(server, keep)| Action::DiscardCopy { server, keep }),
        1 => (0..3u8).prop_map(|server| Action::Lead { server }),
        2 => (0..3u8, fault()).prop_map(|(router, fault)| Action::Disturb { router, fault }),
        1 => (0..4u8).prop_map(|symbol| Action::Garble { symbol }),
        1 => (0..3u8, 0..3u8, any::<u8>())
            .prop_map(|(router, gateway, ahead)| Action::Forge { router, gateway, ahead }),
    ]
    .boxed()
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        1 => Just(Fault::Silent),
        1 => Just(Fault::Ended),
        2 => (0..2_190u64).prop_map(Fault::Late),
        1 => (1..6u8).prop_map(Fault::Refused),
        1 => Just(Fault::Cut),
    ]
}
