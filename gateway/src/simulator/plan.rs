//! The plan of a run: settings, and a list of actions. Proptest draws plans at random and shrinks those that fail.

mod draw;
mod random;
mod scenes;

use serde::{Deserialize, Serialize};
use tickwire_core::interest::table::TableLimits;
use tickwire_testkit::simulation::SimPlan;

use super::intake::Fault;

pub(super) use draw::plan;

/// Default values. No run lasts long enough, or misses enough, to reach them.
pub(super) const GIVE_UP_AFTER: u64 = 600_000;
pub(super) const REPLAY_RANGE: u64 = 1_000_000;
pub(super) const INTEREST_BYTES: usize = 4 << 20;
const HOLD_BYTES: usize = 64 << 20;
pub(super) const OUTBOX_BYTES: usize = 1 << 20;

/// The number of a session that stands for the newest client.
pub(super) const NEWEST: u8 = u8::MAX;

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

    /// Whether clients acknowledge alerts. Then the others come again.
    pub(super) fn has_acks(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Acknowledge { .. }))
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
    /// A client connects that gets the saved subscriptions of its user, with a subscription of its own or without.
    /// `asks`: it sends `list` after the welcome if it has nothing else to send. Otherwise it waits.
    ConnectSaved {
        gateway: u8,
        user: u8,
        filter: Option<u8>,
        asks: bool,
    },
    /// An operator saves a subscription of a user under the name of this number, or deletes it. Gateways do not know of
    /// it yet.
    Save {
        user: u8,
        name: u8,
        filter: Option<u8>,
    },
    /// A gateway looks at the bucket of saved subscriptions, and reads what is new.
    ReadSaved {
        gateway: u8,
    },
    /// The bucket of saved subscriptions is deleted and created again.
    LoseSaved,
    /// A client with saved subscriptions unsubscribes from the one with the name of this number, if it has it.
    EndSaved {
        session: u8,
        name: u8,
    },
    /// A client acknowledges the alert that is this far before the last one that it received. If it has not received as
    /// many, it names a place where its user may have no alert.
    Acknowledge {
        session: u8,
        back: u8,
    },
    /// The next record of acknowledgements that a gateway writes is stored, and the answer is lost.
    LoseAckAnswer {
        gateway: u8,
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
