//! The random inputs of a shard, and the frames of its clients.

use proptest::prelude::*;
use serde_json::{Value, json};
use tickwire_core::ids::{EpochId, Seq};
use tickwire_core::protocol::position::Position;

use super::super::fixture::{PARTITIONS, ShardFixture};

#[derive(Clone, Debug)]
pub(super) enum TurnInput {
    Pass(u64),
    Arrive(Option<u64>),
    Confirm(usize),
    Say(usize, SentFrame),
    Leave(usize),
    Events(u16, u64),
    Gap(u16),
    Skipped(u16),
    Reset,
    Upstream(bool),
    Found(usize, Option<u64>),
    CohortFormed(u64),
    Chunk(u64, u64),
    CohortEnded(u64),
    SendAway(usize),
    Drain,
    Settle,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SentFrame {
    Subscribe(u16),
    SubscribeFew,
    Since,
    Resume,
    Unsubscribe,
    List,
    Auth(u64),
    Garbage,
    Ping,
    Flood,
}

/// A random input.
pub(super) fn input() -> impl Strategy<Value = TurnInput> {
    use SentFrame::{Auth, Flood, Garbage, List, Ping, Resume, Since, Subscribe, SubscribeFew, Unsubscribe};
    let frame = prop_oneof![
        (0..1_000u16).prop_map(Subscribe),
        prop::sample::select(vec![SubscribeFew, Since, Resume, Unsubscribe, List, Garbage, Ping, Flood]),
        (0..100u64).prop_map(Auth),
    ];
    let token = prop_oneof![2 => Just(None), 1 => (0..90u64).prop_map(Some)];
    prop_oneof![
        3 => (0..200u64).prop_map(TurnInput::Pass),
        2 => (0..30_000u64).prop_map(TurnInput::Pass),
        3 => token.prop_map(TurnInput::Arrive),
        5 => any::<usize>().prop_map(TurnInput::Confirm),
        8 => (any::<usize>(), frame).prop_map(|(session, frame)| TurnInput::Say(session, frame)),
        1 => any::<usize>().prop_map(TurnInput::Leave),
        4 => (0..PARTITIONS, 1..60u64).prop_map(|(partition, count)| TurnInput::Events(partition, count)),
        1 => (0..PARTITIONS).prop_map(TurnInput::Gap),
        1 => (0..PARTITIONS).prop_map(TurnInput::Skipped),
        1 => Just(TurnInput::Reset),
        1 => any::<bool>().prop_map(TurnInput::Upstream),
        2 => (any::<usize>(), prop::option::of(0..40u64)).prop_map(|(session, seq)| TurnInput::Found(session, seq)),
        2 => (1..4u64).prop_map(TurnInput::CohortFormed),
        2 => (1..4u64, 0..40u64).prop_map(|(cohort, through)| TurnInput::Chunk(cohort, through)),
        2 => (1..4u64).prop_map(TurnInput::CohortEnded),
        1 => any::<usize>().prop_map(TurnInput::SendAway),
        1 => Just(TurnInput::Drain),
        6 => Just(TurnInput::Settle),
    ]
}

/// The frame that a client sends.
pub(super) fn to_json(frame: SentFrame) -> Value {
    let position = Position { epoch_id: EpochId(1), seqs: vec![Seq(3); PARTITIONS.into()] }.to_string();
    match frame {
        SentFrame::Subscribe(window) => json!({ "action": "subscribe", "name": "some", "window_ms": window }),
        SentFrame::SubscribeFew => json!({ "action": "subscribe", "name": "few", "max_events_per_hour": 3 }),
        SentFrame::Since => json!({ "action": "subscribe", "name": "past", "since": "1h" }),
        SentFrame::Resume => json!({ "action": "resume", "position": position, "subscriptions": { "some": {} } }),
        SentFrame::Unsubscribe => json!({ "action": "unsubscribe", "name": "*" }),
        SentFrame::List => json!({ "action": "list" }),
        SentFrame::Auth(seconds) => ShardFixture::token(seconds),
        SentFrame::Garbage => json!([]),
        SentFrame::Ping | SentFrame::Flood => json!({ "action": "ping" }),
    }
}
