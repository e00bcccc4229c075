//! What happens in a run: a list of actions that proptest makes and shrinks.

use proptest::prelude::*;

/// A range that no run exceeds.
pub(crate) const AMPLE: u64 = 1 << 20;

/// How much goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Chaos {
    None,
    Network,
    Nodes,
    All,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nothing goes wrong: there must be no gap at all.
    pub(crate) quiet: bool,
    /// Nodes fail as well, and answer wrongly.
    pub(crate) failing: bool,
    /// The longest range that gateways ask for.
    pub(crate) replay_range: u64,
    pub(crate) seed: u64,
    /// Of a hundred messages, how many are lost; as many are doubled.
    pub(crate) loss: u32,
    pub(crate) actions: Vec<Action>,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Time goes on.
    Pass(u64),
    /// A public event on symbol `0..4`, with a confidence in tenths.
    Publish {
        symbol: u8,
        confidence: u8,
    },
    /// An event for one user.
    Address {
        user: u8,
    },
    Connect {
        gateway: u8,
        user: u8,
        filter: u8,
    },
    Replace {
        session: u8,
        filter: u8,
    },
    Disconnect {
        session: u8,
    },
    /// A session that is connected, or was, goes on at a gateway where it was.
    Resume {
        session: u8,
        gateway: u8,
    },
    /// The owner flushes and frees the lease; another takes it.
    HandOver {
        partition: u8,
        to: u8,
    },
    /// Another takes the lease while its owner knows nothing of it.
    Usurp {
        partition: u8,
        to: u8,
    },
    CrashRouter {
        router: u8,
    },
    /// SIGSTOP, or SIGCONT.
    Stall {
        router: u8,
    },
    RestartGateway {
        gateway: u8,
    },
    /// A gateway leaves, or rejoins, the view; nodes learn it one by one.
    ToggleMember {
        gateway: u8,
    },
    /// A node learns the newest view.
    LearnView {
        node: u8,
    },
    /// The stream discards its oldest events, keeping this many.
    Discard {
        keep: u8,
    },
    /// The stream is deleted and made anew.
    Recreate,
    /// A consumer drops a message on its way.
    DropDelivery {
        router: u8,
    },
}

pub(crate) fn plan(chaos: Chaos) -> impl Strategy<Value = Plan> {
    let network = matches!(chaos, Chaos::Network | Chaos::All);
    let loss = if network { (0..30u32).boxed() } else { Just(0).boxed() };
    let range = if chaos == Chaos::All { prop_oneof![Just(AMPLE), 3..30u64].boxed() } else { Just(AMPLE).boxed() };
    let actions = prop::collection::vec(action(chaos), 1..120);
    (any::<u64>(), loss, range, actions).prop_map(move |(seed, loss, replay_range, actions)| Plan {
        quiet: chaos == Chaos::None,
        failing: matches!(chaos, Chaos::Nodes | Chaos::All),
        replay_range,
        seed,
        loss,
        actions,
    })
}

fn action(chaos: Chaos) -> impl Strategy<Value = Action> {
    let ordinary = prop_oneof![
        4 => (1..80u64).prop_map(Action::Pass),
        6 => (0..4u8, 0..10u8).prop_map(|(symbol, confidence)| Action::Publish { symbol, confidence }),
        2 => (0..4u8).prop_map(|user| Action::Address { user }),
        3 => (0..3u8, 0..4u8, 0..8u8).prop_map(|(gateway, user, filter)| Action::Connect { gateway, user, filter }),
        2 => (any::<u8>(), 0..8u8).prop_map(|(session, filter)| Action::Replace { session, filter }),
        1 => any::<u8>().prop_map(|session| Action::Disconnect { session }),
        2 => (any::<u8>(), 0..3u8).prop_map(|(session, gateway)| Action::Resume { session, gateway }),
        1 => (0..3u8, 0..3u8).prop_map(|(partition, to)| Action::HandOver { partition, to }),
    ];
    if !matches!(chaos, Chaos::Nodes | Chaos::All) {
        return ordinary.boxed();
    }
    prop_oneof![
        8 => ordinary,
        1 => (0..3u8, 0..3u8).prop_map(|(partition, to)| Action::Usurp { partition, to }),
        1 => (0..3u8).prop_map(|router| Action::CrashRouter { router }),
        1 => (0..3u8).prop_map(|router| Action::Stall { router }),
        1 => (0..3u8).prop_map(|gateway| Action::RestartGateway { gateway }),
        1 => (0..3u8).prop_map(|gateway| Action::ToggleMember { gateway }),
        2 => (0..6u8).prop_map(|node| Action::LearnView { node }),
        1 => (0..6u8).prop_map(|keep| Action::Discard { keep }),
        1 => Just(Action::Recreate),
        1 => (0..3u8).prop_map(|router| Action::DropDelivery { router }),
    ]
    .boxed()
}
