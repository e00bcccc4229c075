//! What happens in a run: a list of actions that proptest makes and shrinks.

mod random;
mod scenes;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tickwire_core::interest::table::TableLimits;

use super::intake::Fault;
use random::{action, connect};
use scenes::scene;

/// The defaults. No run lasts long enough, or misses enough, to reach them.
pub(super) const GIVE_UP_AFTER: u64 = 600_000;
pub(super) const REPLAY_RANGE: u64 = 1_000_000;
pub(super) const INTEREST_BYTES: usize = 4 << 20;
const HOLD_BYTES: usize = 64 << 20;
pub(super) const OUTBOX_BYTES: usize = 1 << 20;

/// As a session, the client that came last.
pub(super) const NEWEST: u8 = u8::MAX;

/// One of so many places of a plan is a scene.
const SCENE_EVERY: u32 = 60;

/// How much goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Chaos {
    None,
    Network,
    Nodes,
    All,
}

impl Chaos {
    fn fails_nodes(self) -> bool {
        matches!(self, Self::Nodes | Self::All)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Nothing goes wrong: there must be no gap at all.
    pub(super) quiet: bool,
    /// Nodes fail as well, and answer wrongly.
    pub(super) failing: bool,
    /// A bit for each node that is not there at the start: routers, then gateways.
    pub(super) late: u8,
    /// How long gateways ask for something in vain, in milliseconds.
    pub(super) give_up_after: u64,
    /// What gateways hold behind gaps, in bytes.
    pub(super) hold_bytes: usize,
    /// What may wait for a session, in bytes.
    pub(super) outbox_bytes: usize,
    /// The longest range that gateways ask for.
    pub(super) replay_range: u64,
    /// The most that routers hold of what a gateway wants, in bytes.
    pub(super) interest_bytes: usize,
    pub(super) seed: u64,
    /// Of a hundred messages, how many are lost; as many are doubled.
    pub(super) loss: u32,
    /// Whether messages overtake each other though none is lost.
    pub(super) delays: bool,
    /// How long a router takes to read a range again, in milliseconds.
    pub(super) reading: u64,
    /// Whether new clients come all the time while faults end, so that interest never rests.
    pub(super) newcomers: bool,
    /// How many servers keep the stream.
    pub(super) copies: u8,
    /// How long tokens are valid, in milliseconds; `None` if clients have none.
    #[serde(default)]
    pub(super) token_ms: Option<u64>,
    /// Whether clients rely on heartbeats for their position after the faults, and do not ask for it for some time.
    pub(super) lasts: bool,
    pub(super) actions: Vec<Action>,
}

impl Plan {
    /// How much interest routers hold. Where that is little, they measure it whenever it has changed.
    pub(super) fn interest_limits(&self) -> TableLimits {
        let shipped = TableLimits::default();
        let measured_bytes = shipped.measured_bytes.min(self.interest_bytes);
        TableLimits { gateway_bytes: self.interest_bytes, measured_bytes, ..shipped }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Action {
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
    /// So many public events on a symbol at once, in tens: more than a user's rate.
    Burst {
        symbol: u8,
        confidence: u8,
        tens: u8,
    },
    /// A client that does what it should not says something so many times.
    Stranger {
        stranger: u8,
        gateway: u8,
        kind: u8,
        times: u8,
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
    /// A session subscribes, and wants what was stored in the last so many milliseconds: as a time, or in whole
    /// seconds.
    LookBack {
        session: u8,
        filter: u8,
        ago: u64,
        in_seconds: bool,
    },
    Disconnect {
        session: u8,
    },
    Unsubscribe {
        session: u8,
    },
    /// A client's kernel takes so many bytes more, in tens, or all that comes.
    Room {
        session: u8,
        tens: Option<u8>,
    },
    /// A session that is connected, or was, goes on at a gateway where it was.
    Resume {
        session: u8,
        gateway: u8,
    },
    /// The same, and the client's kernel takes so many bytes, in tens.
    ResumeSlowly {
        session: u8,
        gateway: u8,
        tens: u8,
    },
    /// A session unsubscribes, and resumes in the same connection with another filter.
    ResumeHere {
        session: u8,
        filter: u8,
    },
    /// Another router takes the lease, and neither it nor the owner knows.
    Usurp {
        partition: u8,
        to: u8,
    },
    CrashRouter {
        router: u8,
    },
    /// SIGSTOP, or SIGCONT: routers `0..3`, gateways `3..6`.
    Freeze {
        node: u8,
    },
    /// SIGTERM: routers `0..3`, gateways `3..6`.
    Drain {
        node: u8,
    },
    RestartGateway {
        gateway: u8,
    },
    /// A gateway loses its connection to NATS, or has it again.
    Cut {
        gateway: u8,
    },
    /// A router loses its connection to NATS, or has it again.
    CutRouter {
        router: u8,
    },
    /// The clock of a gateway's host is set so many seconds ahead of the time of day, or behind it.
    SetClock {
        gateway: u8,
        seconds: i8,
    },
    /// A node ends, or one that is not there starts: routers `0..3`, gateways `3..6`.
    Toggle {
        node: u8,
    },
    /// A node leaves, or rejoins, the view; nodes learn it one by one. Gateways `0..3`, routers `3..6`.
    ToggleMember {
        node: u8,
    },
    /// A node learns the newest view.
    LearnView {
        node: u8,
    },
    /// The stream discards its oldest events, keeping this many.
    Discard {
        keep: u8,
    },
    /// The stream is deleted and created again. Its sequences continue after this one.
    Recreate {
        from: u8,
    },
    /// The stream has lost so many of its last events, and gives their sequences again.
    LoseTail {
        events: u8,
    },
    /// The message that has this many after it is damaged.
    Damage {
        back: u8,
    },
    /// A consumer drops a message on its way.
    DropDelivery {
        router: u8,
    },
    /// A server removes more than the others, keeping this many.
    DiscardCopy {
        server: u8,
        keep: u8,
    },
    /// Another server leads the stream.
    Lead {
        server: u8,
    },
    /// Something happens to the consumers of a router.
    Disturb {
        router: u8,
        fault: Fault,
    },
    /// A message that is no event is stored in the partition of this symbol.
    Garble {
        symbol: u8,
    },
    /// Someone tells a router that a gateway is further than it is.
    Forge {
        router: u8,
        gateway: u8,
        ahead: u8,
    },
}

pub(super) fn plan(chaos: Chaos) -> impl Strategy<Value = Plan> {
    let network = matches!(chaos, Chaos::Network | Chaos::All);
    let loss = if network { (0..30u32).boxed() } else { Just(0).boxed() };
    // All as shipped, or so tight that it matters.
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
    // Usually fast. Sometimes so slow that the gateway has given up the request.
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
    let ends = (newcomers, prop::bool::weighted(0.05), any::<bool>());
    (any::<u64>(), loss, reading, ends, bounds, actions(chaos)).prop_map(
        move |(
            seed,
            loss,
            reading,
            (newcomers, lasts, delays),
            (replay_range, give_up_after, (hold_bytes, outbox_bytes), (late, copies), (interest_bytes, token_ms)),
            actions,
        )| {
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
                // Each of them wants more.
                newcomers: newcomers && interest_bytes == INTEREST_BYTES,
                lasts,
                copies,
                token_ms,
                actions,
            }
        },
    )
}

/// What is done in a run: clients connect, and anything follows.
fn actions(chaos: Chaos) -> impl Strategy<Value = Vec<Action>> {
    let one = || action(chaos).prop_map(|action| vec![action]);
    let place = || match chaos.fails_nodes() {
        true => prop_oneof![SCENE_EVERY - 1 => one(), 1 => scene()].boxed(),
        false => one().boxed(),
    };
    // Scenes take the time of many actions, so there are fewer of these.
    let [few, more, many] = if chaos.fails_nodes() { [20, 42, 110] } else { [20, 42, 120] };
    let list = |most: usize| prop::collection::vec(place(), 1..most).prop_map(|places| places.concat());
    // Most faults show in a few actions, if a client is connected. Some need many actions.
    let lists = prop_oneof![8 => list(few), 3 => list(more), 1 => list(many)];
    (prop::collection::vec(connect(), 0..4), lists).prop_map(|(begin, rest)| [begin, rest].concat())
}
