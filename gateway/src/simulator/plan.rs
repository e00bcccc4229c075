//! The plan of a run: settings, and a list of actions. Proptest draws plans at random and shrinks those that fail.

mod random;
mod scenes;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tickwire_core::interest::table::TableLimits;
use tickwire_testkit::simulation::SimPlan;

use super::intake::Fault;
use random::{action, connect};
use scenes::scene;

/// Default values. No run lasts long enough, or misses enough, to reach them.
pub(super) const GIVE_UP_AFTER: u64 = 600_000;
pub(super) const REPLAY_RANGE: u64 = 1_000_000;
pub(super) const INTEREST_BYTES: usize = 4 << 20;
const HOLD_BYTES: usize = 64 << 20;
pub(super) const OUTBOX_BYTES: usize = 1 << 20;

/// The number of a session that stands for the newest client.
pub(super) const NEWEST: u8 = u8::MAX;

/// One in this many places of a plan has a scene instead of an action.
const SCENE_EVERY: u32 = 60;

/// Which faults a test has.
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
    /// Whether the plan has no faults, so that no client may be notified of a gap.
    pub(super) quiet: bool,
    /// Whether nodes fail, and answers are late, missing or outdated.
    pub(super) failing: bool,
    /// A bit for each node that is down at the start: routers, then gateways.
    pub(super) late: u8,
    /// How long gateways ask for a gap before they notify clients of it, in milliseconds.
    pub(super) give_up_after: u64,
    /// How much gateways hold after gaps, in bytes.
    pub(super) hold_bytes: usize,
    /// How much may wait for a session, in bytes.
    pub(super) outbox_bytes: usize,
    /// The longest range that gateways ask for.
    pub(super) replay_range: u64,
    /// How much interest of a gateway routers keep, in bytes.
    pub(super) interest_bytes: usize,
    pub(super) seed: u64,
    /// The percentage of messages that are lost. The same percentage is duplicated.
    pub(super) loss: u32,
    /// Whether messages overtake each other even if none is lost.
    pub(super) delays: bool,
    /// How long a pass of a router waits before it reads, in milliseconds.
    pub(super) reading: u64,
    /// Whether new clients connect all the time while faults end, so that the interest keeps changing.
    pub(super) newcomers: bool,
    /// How many servers keep the stream.
    pub(super) copies: u8,
    /// How long tokens are valid, in milliseconds; `None` if clients have none.
    #[serde(default)]
    pub(super) token_ms: Option<u64>,
    /// The router that does not return after the faults, although the view has it; `None` if all return.
    #[serde(default)]
    pub(super) absent: Option<u8>,
    /// Whether clients rely on heartbeats for their position after the faults, and do not ask for it for some time.
    pub(super) lasts: bool,
    pub(super) actions: Vec<Action>,
}

impl SimPlan for Plan {
    const PREFIX: &'static str = "cluster";

    fn seed(&self) -> u64 {
        self.seed
    }
}

impl Plan {
    /// Whether rules are written.
    pub(super) fn has_rules(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::WriteRules { .. }))
    }

    /// How much interest routers keep. With a small limit, they measure the interest whenever it has changed.
    pub(super) fn interest_limits(&self) -> TableLimits {
        let shipped = TableLimits::default();
        let measured_bytes = shipped.measured_bytes.min(self.interest_bytes);
        TableLimits { gateway_bytes: self.interest_bytes, measured_bytes, ..shipped }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Action {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// A public event on symbol `0..4`, with a confidence in tenths.
    Publish {
        symbol: u8,
        confidence: u8,
    },
    /// The same, with the handling of this number.
    PublishHandled {
        symbol: u8,
        confidence: u8,
        way: u8,
    },
    /// An event for one user.
    Address {
        user: u8,
    },
    /// `tens * 10` public events on a symbol at once: more than the rate limit of a user lets through.
    Burst {
        symbol: u8,
        confidence: u8,
        tens: u8,
    },
    /// A stranger sends a kind of frame several times.
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
    /// A session subscribes with `since`, `ago` milliseconds before now: as a time of day, or as a number of whole
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
    /// The socket of a client takes `tens * 10` bytes more, or all.
    Room {
        session: u8,
        tens: Option<u8>,
    },
    /// A client disconnects, if it is connected, and resumes at a gateway.
    Resume {
        session: u8,
        gateway: u8,
    },
    /// A client resumes at a gateway, and its socket takes only `tens * 10` bytes.
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
    /// A lease gets another router as its owner, and neither router knows.
    Usurp {
        partition: u8,
        to: u8,
    },
    /// An operator replaces all rules by those of this number. Routers do not know of them yet.
    WriteRules {
        number: u8,
    },
    /// A router takes the newest rules.
    TakeRules {
        router: u8,
    },
    CrashRouter {
        router: u8,
    },
    /// A node freezes, as with SIGSTOP, or continues. Routers are `0..3`, gateways `3..6`.
    Freeze {
        node: u8,
    },
    /// A node drains, as with SIGTERM. Routers are `0..3`, gateways `3..6`.
    Drain {
        node: u8,
    },
    RestartGateway {
        gateway: u8,
    },
    /// A gateway loses its connection to NATS, or has it restored.
    Cut {
        gateway: u8,
    },
    /// Routers report to a gateway that NATS no longer stores events, or stores them again.
    StopStoring {
        gateway: u8,
    },
    /// A router loses its connection to NATS, or has it restored.
    CutRouter {
        router: u8,
    },
    /// A node gets many meaningless messages at once: interest beats if it is a router, and batches, requests or answers
    /// if it is a gateway. Routers are `0..3`, gateways `3..6`.
    Flood {
        node: u8,
        queue: u8,
    },
    /// The clock of a gateway's host is set ahead of the true time of day, or behind it.
    SetClock {
        gateway: u8,
        seconds: i8,
    },
    /// A node stops, or one that is down starts. Routers are `0..3`, gateways `3..6`.
    Toggle {
        node: u8,
    },
    /// A member of the view drains, or no longer does. Nodes learn it one by one. Gateways are `0..3`, routers `3..6`.
    ToggleMember {
        node: u8,
    },
    /// A node learns the newest view.
    LearnView {
        node: u8,
    },
    /// Retention removes all but the last events of the stream, and those that are too young.
    Discard {
        keep: u8,
    },
    /// The stream is deleted and created again. Its sequences continue after this one.
    Recreate {
        from: u8,
    },
    /// The stream loses its last events, and uses their sequences again.
    LoseTail {
        events: u8,
    },
    /// The message that is this far before the last one is damaged.
    Damage {
        back: u8,
    },
    /// A consumer of a router loses the next message that it delivers.
    DropDelivery {
        router: u8,
    },
    /// Retention removes more messages on one server than on others.
    DiscardCopy {
        server: u8,
        keep: u8,
    },
    /// Another server becomes the leader of the stream.
    Lead {
        server: u8,
    },
    /// The consumers of a router have a fault.
    Disturb {
        router: u8,
        fault: Fault,
    },
    /// A message that is no event is stored in the partition of this symbol.
    Garble {
        symbol: u8,
    },
    /// A forged beat announces a revision to a router that the gateway does not have.
    Forge {
        router: u8,
        gateway: u8,
        ahead: u8,
    },
}

pub(super) fn plan(chaos: Chaos) -> impl Strategy<Value = Plan> {
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

/// The actions of a run: some clients connect first, and any actions follow.
fn actions(chaos: Chaos) -> impl Strategy<Value = Vec<Action>> {
    let one = || action(chaos).prop_map(|action| vec![action]);
    let place = || match chaos.fails_nodes() {
        true => prop_oneof![SCENE_EVERY - 1 => one(), 1 => scene()].boxed(),
        false => one().boxed(),
    };
    // Scenes take the time of many actions, so there are fewer of these.
    let [few, more, many] = if chaos.fails_nodes() { [18, 38, 100] } else { [20, 42, 120] };
    let list = |most: usize| prop::collection::vec(place(), 1..most).prop_map(|places| places.concat());
    // Most faults show in a few actions, if a client is connected. Some need many actions.
    let lists = prop_oneof![8 => list(few), 3 => list(more), 1 => list(many)];
    (prop::collection::vec(connect(), 0..4), lists).prop_map(|(begin, rest)| [begin, rest].concat())
}
