//! The deadlines of a shard: after a turn nothing is due, and every wait ends.

mod inputs;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;
use tickwire_core::coverage::{CoverageEvent, GapReason};
use tickwire_core::ids::{Epoch, EpochId, Millis, Partition, Seq};
use tickwire_core::protocol::codes::{CloseCode, NoticeCode};
use tickwire_core::protocol::position::Position;
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use super::fixture::{PARTITIONS, ShardFixture};
use crate::auth::TokenTerm;
use crate::messages::{BackfillChunk, FromEdge, SharedCoverageEvents, SkippedRange};
use crate::shard::session::SessionStage;
use crate::socket::frame;
use inputs::{SentFrame, TurnInput, input, to_json};

/// How long a session may last beyond the drain window: the close, and a turn.
const GOODBYE_MS: u64 = 5_100;

const PONG: u8 = 0x8a;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Applies all inputs, and checks after each that nothing is due.
async fn run(inputs: Vec<TurnInput>) -> Result<(), TestCaseError> {
    let mut fixture = ShardFixture::new();
    let mut drained = None;
    for input in inputs {
        let numbers = fixture.shard.sessions.numbers(|_| true);
        let pick = |which: usize| (!numbers.is_empty()).then(|| numbers[which % numbers.len()]);
        match input.clone() {
            TurnInput::Pass(ms) => fixture.now = fixture.now.plus(ms),
            TurnInput::Arrive(token) => {
                if numbers.len() < 6 {
                    fixture.arrive(token);
                }
            }
            TurnInput::Confirm(which) => {
                pick(which).into_iter().for_each(|number| fixture.take(FromEdge::Confirmed(number)))
            }
            TurnInput::Say(which, frame) => {
                let count = if matches!(frame, SentFrame::Flood) { 300 } else { 1 };
                for number in pick(which).into_iter().flat_map(|number| vec![number; count]) {
                    fixture.send_frame(number, &to_json(frame));
                }
            }
            TurnInput::Leave(which) => {
                let number = pick(which);
                fixture.clients.retain(|(of, _)| Some(*of) != number);
            }
            TurnInput::Events(partition, count) => fixture.events(partition, count),
            TurnInput::Gap(partition) => {
                let (partition, reason) = (Partition(partition), GapReason::Lost);
                fixture.coverage_events([CoverageEvent::Gap { partition, from: Seq(1), through: Seq(2), reason }]);
            }
            TurnInput::Skipped(partition) => {
                let (partition, from, through) = (Partition(partition), Seq(1), Seq(2));
                fixture.take(FromEdge::Skipped(vec![SkippedRange { partition, from, through, is_lost: true }]));
            }
            TurnInput::Reset => {
                let epoch_id = EpochId(fixture.shard.applied.epoch_id.0 + 1);
                let former = Some(fixture.shard.applied.epoch_id);
                fixture.coverage_events([CoverageEvent::Reset { former, epoch: Epoch { epoch_id, before: Seq(0) } }]);
            }
            TurnInput::Upstream(lost) => {
                let code = if lost { NoticeCode::UpstreamLost } else { NoticeCode::UpstreamRestored };
                fixture.take(FromEdge::Upstream(code, None));
            }
            TurnInput::Found(which, seq) => {
                pick(which).into_iter().for_each(|number| fixture.found(number, seq.map(Seq)));
            }
            TurnInput::CohortFormed(cohort) => fixture.take(FromEdge::CohortFormed(cohort, numbers)),
            TurnInput::Chunk(cohort, through) => {
                let (partition, from, through) = (Partition(0), Seq(0), Seq(through));
                let events = SharedCoverageEvents::new(vec![CoverageEvent::Apply {
                    partition,
                    from,
                    through,
                    events: Vec::new(),
                }]);
                fixture.take(FromEdge::Chunk(Arc::new(BackfillChunk { cohort, events })));
            }
            TurnInput::CohortEnded(cohort) => fixture.take(FromEdge::CohortEnded(cohort)),
            TurnInput::SendAway(which) => fixture.take(FromEdge::SendAway(pick(which).into_iter().collect())),
            TurnInput::Drain => drain(&mut fixture, &mut drained),
            TurnInput::Settle => fixture.settle().await,
        }
        fixture.turn();
        let (now, next) = (fixture.now, fixture.shard.next_turn());
        prop_assert!(next > now, "{next:?} is due at {now:?} after {input:?}");
    }
    // Every wait ends, whatever clients do: sessions that do not leave are sent away, and new ones are refused.
    drain(&mut fixture, &mut drained);
    let window = u64::try_from(fixture.shard.settings.config.drain_window.as_millis()).unwrap();
    let end = drained.unwrap_or(fixture.now).plus(window).max(fixture.now).plus(GOODBYE_MS);
    fixture.turn();
    while !fixture.shard.is_empty() {
        prop_assert!(fixture.now <= end, "a session is still here at {:?}, after {:?}", fixture.now, end);
        fixture.now = fixture.shard.next_turn();
        fixture.turn();
    }
    Ok(())
}

/// Starts the drain, once.
fn drain(fixture: &mut ShardFixture, drained: &mut Option<Millis>) {
    if drained.is_none() {
        *drained = Some(fixture.now);
        fixture.shard.drain(fixture.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn next_deadline_of_a_shard_is_never_in_the_past_and_a_drained_shard_is_soon_empty(
        inputs in prop::collection::vec(input(), 1..60),
    ) {
        runtime().block_on(run(inputs))?;
    }
}

#[tokio::test]
async fn session_welcomed_during_a_drain_is_sent_away_in_its_turn() {
    let mut fixture = ShardFixture::new();
    let waits = fixture.arrive(None);
    fixture.shard.drain(fixture.now);
    fixture.take(FromEdge::Confirmed(waits));
    assert_eq!(fixture.stage(waits), Some(SessionStage::Open));
    let window = u64::try_from(fixture.shard.settings.config.drain_window.as_millis()).unwrap();
    fixture.now = fixture.now.plus(window);
    fixture.turn();
    assert_eq!(fixture.stage(waits), Some(SessionStage::Closing));
}

/// Its socket is not writable yet.
#[tokio::test]
async fn client_that_has_just_arrived_is_notified_of_an_outage() {
    let mut fixture = ShardFixture::new();
    let number = fixture.arrive(None);
    fixture.take(FromEdge::Upstream(NoticeCode::UpstreamLost, None));
    fixture.settle().await;
    fixture.read_until(number, "\"upstream_lost\"");
    fixture.take(FromEdge::Confirmed(number));
    fixture.send_frame(number, &json!({ "action": "ping" }));
    fixture.settle().await;
    fixture.read_until(number, "\"pong\"");
}

/// The same, and it gets the reason why it is closed.
#[tokio::test]
async fn client_that_arrives_during_a_drain_is_sent_elsewhere() {
    let mut fixture = ShardFixture::new();
    fixture.shard.drain(fixture.now);
    let number = fixture.arrive(None);
    fixture.settle().await;
    fixture.read_until(number, CloseCode::Draining.text());
}

/// After a process was suspended for minutes, the answers of its clients are unread.
#[tokio::test]
async fn client_whose_answer_is_unread_is_not_given_up() {
    let mut fixture = ShardFixture::new();
    let (answers, silent) = (fixture.welcome().await, fixture.welcome().await);
    let beat = fixture.shard.next_turn().max(Millis(15_020));
    fixture.now = beat;
    fixture.turn();
    fixture.settle().await;
    fixture.send(answers, &frame(PONG, b""));
    fixture.now = beat.plus(600_000);
    fixture.turn();
    assert_eq!((fixture.stage(answers), fixture.stage(silent)), (Some(SessionStage::Open), Some(SessionStage::Open)));
    fixture.settle().await;
    for _ in 0..2 {
        fixture.now = fixture.now.plus(1_500);
        fixture.turn();
    }
    let stages = [answers, silent].map(|number| fixture.stage(number));
    assert_eq!(stages, [Some(SessionStage::Open), Some(SessionStage::Closing)]);
}

/// A session resumes at this sequence of every partition, and is confirmed.
async fn resume(fixture: &mut ShardFixture, number: u64, seq: u64) -> Position {
    let position = ask_to_resume(fixture, number, seq).await;
    fixture.take(FromEdge::Confirmed(number));
    position
}

/// A client resumes, and no router has confirmed what it wants yet.
async fn ask_to_resume(fixture: &mut ShardFixture, number: u64, seq: u64) -> Position {
    let position = Position { epoch_id: EpochId(1), seqs: vec![Seq(seq); usize::from(PARTITIONS)] };
    let (from, subscriptions) = (position.to_string(), json!({ "mine": { "filter": {} } }));
    fixture.send_frame(number, &json!({ "action": "resume", "position": from, "subscriptions": subscriptions }));
    fixture.settle().await;
    position
}

/// After a further break it resumes from its own position. From that of the gateway it would not get what it missed.
#[tokio::test]
async fn client_that_waits_to_resume_gets_no_position_of_the_gateway() {
    let mut fixture = ShardFixture::new();
    let [has_not_asked, waits] = [fixture.welcome().await, fixture.welcome().await];
    fixture.events(0, 5);
    ask_to_resume(&mut fixture, waits, 10).await;
    fixture.now = fixture.now.plus(15_020);
    fixture.turn();
    fixture.shard.drain(fixture.now);
    fixture.now = fixture.now.plus(60_000);
    fixture.turn();
    for number in [has_not_asked, waits] {
        let received = fixture.read_until(number, "\"goaway\"");
        assert_eq!(received.matches("[{\"T\":\"heartbeat\"}]").count(), 2, "{received}");
    }
}

/// A connection that breaks again during a backfill resumes from there, and not from the beginning.
#[tokio::test]
async fn session_gets_its_position_every_second_during_a_backfill() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    fixture.events(0, 5);
    let position = resume(&mut fixture, number, 10).await;
    fixture.read_until(number, "\"subscribed\"");
    for _ in 0..3 {
        fixture.now = fixture.now.plus(1_050);
        fixture.turn();
        fixture.read_until(number, &format!("\"heartbeat\",\"position\":\"{position}\""));
    }
}

/// The gateway is behind, and another one may not be.
#[tokio::test]
async fn resume_far_ahead_of_a_gateway_with_an_outage_is_refused_with_retry_later() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    let far = Seq(fixture.shard.settings.config.replay_range + 1_000);
    let position = Position { epoch_id: EpochId(1), seqs: vec![far; usize::from(PARTITIONS)] };
    let subscriptions = json!({ "mine": { "filter": {} } });
    let resume = json!({ "action": "resume", "position": position.to_string(), "subscriptions": subscriptions });
    let later = Position { epoch_id: EpochId(2), seqs: vec![Seq(5); usize::from(PARTITIONS)] };
    let later = json!({ "action": "resume", "position": later.to_string(), "subscriptions": subscriptions });
    for (notice, code) in [(NoticeCode::UpstreamLost, "503"), (NoticeCode::UpstreamRestored, "415")] {
        fixture.take(FromEdge::Upstream(notice, None));
        fixture.send_frame(number, &resume);
        fixture.settle().await;
        fixture.read_until(number, &format!("\"error\",\"code\":{code}"));
        if code == "503" {
            fixture.send_frame(number, &later);
            fixture.settle().await;
            fixture.read_until(number, "\"error\",\"code\":503");
        }
    }
    fixture.send_frame(number, &later);
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    fixture.read_until(number, "\"reason\":\"reset\"");
}

/// Otherwise it reads gaps of the new epoch as gaps of the former one.
#[tokio::test]
async fn session_with_a_backfill_is_notified_of_a_new_epoch_even_without_subscriptions() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    fixture.events(0, 5);
    resume(&mut fixture, number, 10).await;
    fixture.send_frame(number, &json!({ "action": "unsubscribe", "name": "*" }));
    fixture.settle().await;
    fixture.read_until(number, "\"subscriptions\":{}");
    let epoch = Epoch { epoch_id: EpochId(2), before: Seq(0) };
    fixture.coverage_events([CoverageEvent::Reset { former: Some(EpochId(1)), epoch }]);
    let begin = Position { epoch_id: epoch.epoch_id, seqs: vec![Seq(0); usize::from(PARTITIONS)] };
    fixture.read_until(number, &format!("\"heartbeat\",\"position\":\"{begin}\""));
}

#[tokio::test]
async fn client_that_leaves_before_its_welcome_frees_its_place() {
    let mut fixture = ShardFixture::new();
    let [stays, closes] = [fixture.arrive(None), fixture.arrive(None)];
    fixture.send_frame(closes, &json!({ "action": "ping" }));
    fixture.clients.retain(|(number, _)| *number == stays);
    for _ in 0..5 {
        sleep(Duration::from_millis(20)).await;
        fixture.now = fixture.now.plus(1_100);
        fixture.turn();
    }
    assert_eq!((fixture.stage(stays), fixture.stage(closes)), (Some(SessionStage::Joining), None));
}

#[tokio::test]
async fn session_whose_token_ends_before_its_welcome_is_not_welcomed() {
    let mut fixture = ShardFixture::new();
    let [looked_at, confirmed] = [fixture.arrive(Some(60)), fixture.arrive(Some(60))];
    for number in [looked_at, confirmed] {
        let expired = (fixture.shard.settings.clocks.wall)() - Duration::from_secs(60);
        fixture.shard.sessions.get_mut(number).unwrap().term = Some(TokenTerm::new(expired, expired));
    }
    fixture.take(FromEdge::Confirmed(confirmed));
    fixture.now = fixture.now.plus(1_100);
    fixture.turn();
    assert_eq!([fixture.stage(looked_at), fixture.stage(confirmed)], [Some(SessionStage::Closing); 2]);
}

/// The backfill of a new subscription includes what the session got before it resumed, although the gateway lags.
#[tokio::test]
async fn backfill_of_a_new_subscription_reaches_to_the_resume_position_of_its_session() {
    let mut fixture = ShardFixture::new();
    let number = fixture.welcome().await;
    let position = resume(&mut fixture, number, 15).await;
    fixture.read_until(number, "\"caught_up\"");
    let since = Position { seqs: vec![Seq(3); usize::from(PARTITIONS)], ..position }.to_string();
    fixture.send_frame(number, &json!({ "action": "subscribe", "name": "other", "filter": {}, "since": since }));
    fixture.settle().await;
    fixture.take(FromEdge::Confirmed(number));
    let (_, from, to) = fixture.shard.sessions.get(number).unwrap().backfill.as_ref().unwrap().ranges();
    assert_eq!((from[0], to[0]), (Seq(3), Seq(15)));
}
