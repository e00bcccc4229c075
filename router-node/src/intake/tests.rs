use super::proof::{PLACES, WALK_PAUSE, WALKS};
use super::*;
use crate::dead_letters::DeadLetter;
use crate::decode::Decoded;
use crate::reader::{MessageHeaders, StreamMessage};
use crate::stream::{StreamFacts, StreamState};
use crate::walk::Walked;
use bytes::Bytes;
use tickwire_core::event::decode::{Reason as Refused, Undecodable};
use tickwire_core::ids::Partition;

const TENURE: Tenure = Tenure { source: Source::Partition(Partition(0)), number: 1 };

/// A stream that begins with `first` and ends with 99, and that many servers keep, of which `a` leads.
fn state(first: u64, replicas: usize) -> Result<StreamState, String> {
    let facts = StreamFacts { epoch_id: EpochId(1), before: Seq(0), first: Seq(first), last: Seq(99), replicas };
    Ok(StreamState { facts, leader: Some("a".to_owned()) })
}

fn opened(pending: u64, server: &str) -> Result<Opened, IntakeTrouble> {
    Ok(Opened { pending, server: Some(server.to_owned()) })
}

/// Messages of the stream, each with the number that its consumer gives it, and all with this many after them.
fn heartbeats(pending: u64, messages: &[(u64, u64)]) -> impl Iterator<Item = (ConsumerDelivery, fn() -> Content)> {
    let delivery =
        move |(seq, number)| ConsumerDelivery { seq: Seq(seq), number, stored: Timestamp(seq as i64), pending };
    messages.iter().copied().map(move |message| (delivery(message), (|| Ok(Decoded::Heartbeat)) as fn() -> Content))
}

/// What a walk finds missing, when the stream has removed everything up to `removed`.
fn walked(missing: &[(u64, u64)], removed: u64) -> Result<Walked, String> {
    let range = |(after, through): &(u64, u64)| MissingRange { after: Seq(*after), through: Seq(*through) };
    Ok(Walked { through: Seq(99), missing: missing.iter().map(range).collect(), removed: Seq(removed) })
}

/// What it wants done, up to what has an answer.
fn wanted(intake: &mut Intake) -> Vec<String> {
    std::iter::from_fn(|| intake.next_output()).map(|output| format!("{output:?}")).collect()
}

fn through(seq: u64) -> String {
    let mark = Some(Mark { seq: Seq(seq), stored: seq as i64 });
    format!("{:?}", IntakeOutput::Report(IntakeEvent::Events { through: Seq(seq), mark, events: Vec::new() }))
}

/// One that waits for messages after 10 from server `b`.
fn reading(replicas: usize) -> Intake {
    let mut intake = Intake::new(TENURE, EpochId(1), Seq(10));
    assert_eq!(wanted(&mut intake), ["Open { after: Seq(10), number: 1 }"]);
    intake.opened(opened(0, "b"));
    assert_eq!(wanted(&mut intake), ["Look"]);
    intake.looked(state(1, replicas));
    assert_eq!(wanted(&mut intake), ["Report(Flowing)", "Read"]);
    intake
}

/// One that has read a message, 12, and is not late.
fn current() -> Intake {
    let mut intake = reading(1);
    for (seq, number) in [(11, 1), (12, 2)] {
        intake.take(Millis(0), None, heartbeats(0, &[(seq, number)]));
        assert_eq!(wanted(&mut intake), ["Look"]);
        intake.looked(state(1, 1));
        assert_eq!(wanted(&mut intake), [format!("Walk {{ after: Seq({}), through: Seq({seq}) }}", seq - 1)]);
        intake.walked(walked(&[], 0));
        assert_eq!(wanted(&mut intake), [through(seq), "Read".to_owned()]);
    }
    intake
}

#[test]
fn current_events_are_reported_at_once_and_missed_ones_read_again() {
    let mut intake = current();
    intake.take(Millis(10), None, heartbeats(0, &[(13, 3), (15, 4)]));
    assert_eq!(wanted(&mut intake), [through(15), "Read".to_owned()]);
    intake.take(Millis(20), None, heartbeats(0, &[(16, 5), (18, 7)]));
    let wanted = wanted(&mut intake);
    assert_eq!(wanted[..2], [through(16), "Close".to_owned()]);
    assert!(wanted[2].starts_with("Report(Stuck(") && wanted[3] == "Pause(0ns)", "{wanted:?}");
    intake.paused();
    assert!(matches!(intake.next_output(), Some(IntakeOutput::Open { after: Seq(16), number: 2 })));
}

#[test]
fn dropped_event_advances_the_range_without_an_event() {
    let mut intake = current();
    let delivery = ConsumerDelivery { seq: Seq(13), number: 3, stored: Timestamp(13), pending: 0 };
    intake.take(Millis(10), None, [(delivery, || Ok(Decoded::Dropped))]);
    assert_eq!(wanted(&mut intake), [through(13), "Read".to_owned()]);
}

#[test]
fn late_events_are_reported_after_removed_and_missing_ranges() {
    let mut intake = current();
    intake.take(Millis(2_000), None, heartbeats(0, &[(20, 3), (30, 4)]));
    assert_eq!(wanted(&mut intake), ["Look"]);
    intake.looked(state(18, 1));
    assert_eq!(wanted(&mut intake), ["Report(Skip(Seq(17)))", "Walk { after: Seq(17), through: Seq(30) }"]);
    intake.walked(walked(&[(22, 24)], 17));
    let before = "Report(Events { through: Seq(22), mark: None, events: [] })".to_owned();
    assert_eq!(wanted(&mut intake), [before, "Report(Skip(Seq(24)))".to_owned(), through(30), "Read".to_owned()]);
}

#[test]
fn message_that_is_damaged_and_then_removed_is_not_claimed() {
    let mut intake = current();
    // The consumer has skipped 20, which is damaged, and the stream still begins before that.
    intake.take(Millis(2_000), None, heartbeats(0, &[(30, 3)]));
    intake.looked(state(1, 1));
    assert_eq!(wanted(&mut intake), ["Look", "Walk { after: Seq(12), through: Seq(30) }"]);
    // When it is walked, 20 is not missing any more but removed.
    intake.walked(walked(&[], 20));
    assert_eq!(wanted(&mut intake), ["Report(Skip(Seq(20)))".to_owned(), through(30), "Read".to_owned()]);
}

#[test]
fn late_events_are_compared_with_the_leader() {
    for (next, is_whole) in [(12, true), (11, false)] {
        let mut intake = reading(3);
        intake.take(Millis(0), None, heartbeats(0, &[(12, 1)]));
        assert_eq!(wanted(&mut intake), ["Look"]);
        intake.looked(state(1, 3));
        assert_eq!(wanted(&mut intake), ["Compare(Seq(10))"]);
        intake.compared(Ok(Some(Seq(next))));
        let first = wanted(&mut intake).swap_remove(0);
        assert_eq!(first, if is_whole { "Walk { after: Seq(10), through: Seq(12) }" } else { "Close" });
    }
    let mut intake = Intake::new(TENURE, EpochId(1), Seq(10));
    for number in 1..=PLACES {
        assert_eq!(wanted(&mut intake), [format!("Open {{ after: Seq(10), number: {number} }}")]);
        intake.opened(opened(50, "b"));
        assert_eq!(wanted(&mut intake), ["Look"]);
        intake.looked(state(1, 3));
        if number < PLACES {
            assert!(matches!(intake.next_output(), Some(IntakeOutput::Close)));
        }
    }
    assert_eq!(wanted(&mut intake), ["Report(Flowing)", "Read"], "there is another way to read");
}

#[test]
fn last_message_is_verified_before_reading_continues() {
    let mut intake = current();
    intake.reconnected();
    assert_eq!(wanted(&mut intake).len(), 3);
    intake.paused();
    wanted(&mut intake);
    intake.opened(opened(0, "a"));
    wanted(&mut intake);
    intake.looked(state(1, 1));
    assert!(matches!(intake.next_output(), Some(IntakeOutput::FindLast(_, Mark { seq: Seq(12), stored: 12 }))));
    intake.found_last(Ok(Some(false)));
    let wanted = wanted(&mut intake);
    assert!(wanted[0].starts_with("Report(Missing(Checkpoint { checkpoint: Seq(12)"), "{wanted:?}");
    assert_eq!((&*wanted[1], &*wanted[3]), ("Close", "Pause(50ms)"));
}

#[test]
fn dead_letters_are_stored_before_later_events_are_reported() {
    let mut intake = current();
    let delivery = ConsumerDelivery { seq: Seq(13), number: 3, stored: Timestamp(13), pending: 0 };
    let dead_letter = || {
        let message = StreamMessage {
            seq: Seq(13),
            stored: Timestamp(13),
            subject: Bytes::new(),
            headers: MessageHeaders::None,
            payload: Bytes::new(),
        };
        Err(Box::new(DeadLetter { refusal: Undecodable::new(Refused::Unreadable, String::new()), message }))
    };
    intake.take(Millis(10), None, [(delivery, dead_letter)]);
    assert!(matches!(intake.next_output(), Some(IntakeOutput::Post(dead_letters)) if dead_letters.len() == 1));
    assert!(intake.next_output().is_none());
    intake.posted();
    assert_eq!(wanted(&mut intake), [through(13), "Read".to_owned()]);
}

#[test]
fn message_that_consumers_fail_at_is_read_from_the_leader() {
    let mut intake = current();
    for attempt in 1..FAILURES {
        intake.ended(&IntakeTrouble::Failed("full".to_owned()));
        intake.opened(Err(IntakeTrouble::Failed("full".to_owned())));
        assert!(wanted(&mut intake).last().is_some_and(|last| last.starts_with("Pause")), "{attempt}");
        intake.paused();
    }
    wanted(&mut intake);
    intake.opened(Err(IntakeTrouble::Failed("full".to_owned())));
    assert_eq!(wanted(&mut intake).last().map(String::as_str), Some("Look"));
    intake.looked(state(1, 1));
    assert_eq!(wanted(&mut intake).len(), 1, "the last message");
    intake.found_last(Ok(Some(true)));
    assert_eq!(wanted(&mut intake), ["Rescue(Seq(12))"]);
    intake.rescued(Ok(Some((Seq(14), Timestamp(14), Ok(Decoded::Heartbeat)))));
    assert_eq!(wanted(&mut intake), ["Look"]);
    intake.looked(state(1, 1));
    assert_eq!(wanted(&mut intake), ["Walk { after: Seq(12), through: Seq(14) }"]);
    intake.walked(walked(&[], 0));
    assert_eq!(wanted(&mut intake), ["Report(Flowing)".to_owned(), through(14), "Pause(0ns)".to_owned()]);
}

/// An intake that has read 14 late, and must know what the stream lacks up to there.
fn walking() -> Intake {
    let mut intake = current();
    intake.reconnected();
    wanted(&mut intake);
    intake.paused();
    wanted(&mut intake);
    intake.opened(opened(1, "a"));
    wanted(&mut intake);
    intake.looked(state(1, 1));
    wanted(&mut intake);
    intake.found_last(Ok(Some(true)));
    wanted(&mut intake);
    intake.take(Millis(10), None, heartbeats(0, &[(14, 1)]));
    wanted(&mut intake);
    intake.looked(state(1, 1));
    assert_eq!(wanted(&mut intake), ["Walk { after: Seq(12), through: Seq(14) }"]);
    intake
}

#[test]
fn failed_walk_is_repeated_and_live_events_do_not_wait_for_it_for_ever() {
    let mut intake = walking();
    for _ in 1..WALKS {
        intake.walked(Err("late".to_owned()));
        assert_eq!(wanted(&mut intake), [format!("Pause({WALK_PAUSE:?})")]);
        intake.paused();
        assert_eq!(wanted(&mut intake), ["Walk { after: Seq(12), through: Seq(14) }"]);
    }
    intake.walked(Err("late".to_owned()));
    assert_eq!(wanted(&mut intake)[0], through(14));
}

#[test]
fn range_whose_walk_fails_without_a_connection_is_read_again() {
    let mut intake = walking();
    intake.set_connected(false);
    intake.walked(Err("no connection".to_owned()));
    let outputs = wanted(&mut intake);
    assert!(outputs.last().is_some_and(|last| last.starts_with("Pause")), "{outputs:?}");
    assert!(!outputs.contains(&through(14)), "{outputs:?}");
}

#[test]
fn first_message_of_a_new_consumer_is_checked_although_nothing_was_pending() {
    let mut intake = current();
    intake.reconnected();
    wanted(&mut intake);
    intake.paused();
    wanted(&mut intake);
    intake.opened(opened(0, "a"));
    wanted(&mut intake);
    intake.looked(state(1, 1));
    wanted(&mut intake);
    intake.found_last(Ok(Some(true)));
    wanted(&mut intake);
    // The server says that nothing is pending; a message may have been damaged before the consumer was there.
    intake.take(Millis(10), Some(Millis(9)), heartbeats(0, &[(14, 1)]));
    assert_eq!(wanted(&mut intake), ["Look"]);
}

/// Lets the intake, which has read up to `after`, open its consumer and look at the stream. Returns what it wants then.
fn reopen(
    intake: &mut Intake,
    (after, number): (u64, u64),
    (pending, server): (u64, &str),
    state: Result<StreamState, String>,
) -> Vec<String> {
    let outputs = wanted(intake);
    assert_eq!(outputs.last(), Some(&format!("Open {{ after: Seq({after}), number: {number} }}")));
    intake.opened(opened(pending, server));
    assert_eq!(wanted(intake), ["Look"]);
    intake.looked(state);
    let outputs = wanted(intake);
    intake.ended(&IntakeTrouble::Silent);
    outputs
}

#[test]
fn catch_all_without_messages_goes_on_with_the_stream() {
    let tenure = Tenure { source: Source::CatchAll, number: 1 };
    let mut intake = Intake::new(tenure, EpochId(1), Seq(10));
    let nothing = ["Report(Flowing)", "Read"];
    let first = reopen(&mut intake, (10, 1), (0, "a"), state(1, 3));
    assert_eq!(first, nothing, "a message may have come since the consumer was created");
    assert_eq!(reopen(&mut intake, (10, 2), (0, "b"), state(1, 3)), nothing, "the copy may lack a message");
    assert_eq!(reopen(&mut intake, (10, 3), (1, "a"), state(1, 3)), nothing, "it has a message to deliver");
    let passed = "Report(Events { through: Seq(99), mark: None, events: [] })";
    assert_eq!(reopen(&mut intake, (10, 4), (0, "a"), state(1, 3)), [passed, nothing[0], nothing[1]]);
    // What was removed meanwhile is not taken for unread.
    assert_eq!(reopen(&mut intake, (99, 5), (0, "a"), state(95, 3)), nothing);
}

#[test]
fn catch_all_does_not_go_beyond_the_end_of_a_stream_that_has_lost_it() {
    let tenure = Tenure { source: Source::CatchAll, number: 1 };
    let mut intake = Intake::new(tenure, EpochId(1), Seq(10));
    let ending =
        |last| state(1, 3).map(|state| StreamState { facts: StreamFacts { last: Seq(last), ..state.facts }, ..state });
    let nothing = ["Report(Flowing)", "Read"];
    for (number, last) in [(1, 99), (2, 50)] {
        assert_eq!(reopen(&mut intake, (10, number), (0, "a"), ending(last)), nothing);
    }
    let passed = "Report(Events { through: Seq(50), mark: None, events: [] })";
    assert_eq!(reopen(&mut intake, (10, 3), (0, "a"), ending(60)), [passed, nothing[0], nothing[1]]);
}
