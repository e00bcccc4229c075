//! Windows, frames and positions of an outbox.

use tickwire_core::event::{Audience, Event, Kind, Priority, Timestamp};
use tickwire_core::ids::{Incarnation, Partition};

use super::*;

const WINDOW: Duration = Duration::from_millis(100);

fn delivery(seq: u64, priority: Priority, size: usize) -> Arc<Delivery> {
    let mut data = serde_json::Map::new();
    data.insert("note".into(), "x".repeat(size).into());
    let event = Event {
        kind: Kind::Pattern,
        key: "AAPL".into(),
        audience: Audience::Public,
        id: "e".into(),
        ts: Timestamp(0),
        stored: Timestamp(0),
        session: None,
        symbol: None,
        pattern: None,
        tier: None,
        confidence: None,
        priority,
        regime: None,
        tags: Vec::new(),
        data,
        rooms: Vec::new(),
    };
    Arc::new(Delivery::new(event, Partition(1), Seq(seq)))
}

/// Sends the next frame, and tells what was in it.
fn send(outbox: &mut Outbox, now: Instant, encoding: Encoding) -> Vec<u64> {
    let count = outbox.next_frame(encoding);
    let seqs = outbox.first(count).map(|delivery| delivery.seq.0).collect();
    outbox.sent(now, count, encoding);
    seqs
}

#[test]
fn a_quiet_session_is_sent_at_once_and_a_busy_one_at_the_end_of_its_window() {
    let start = Instant::now();
    let mut outbox = Outbox::new(1 << 20);
    outbox.push(start, &delivery(1, Priority::Low, 1), WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.due(), Some(start));
    assert_eq!(send(&mut outbox, start, Encoding::Json), [1]);
    assert_eq!(outbox.due(), None);

    let soon = start + WINDOW / 4;
    outbox.push(soon, &delivery(2, Priority::Low, 1), WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.due(), Some(start + WINDOW));
    outbox.push(soon, &delivery(3, Priority::Low, 1), WINDOW / 2, Encoding::Json).unwrap();
    assert_eq!(outbox.due(), Some(start + WINDOW / 2), "the smallest window holds");
    outbox.push(soon, &delivery(4, Priority::Critical, 1), WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.due(), Some(soon), "a critical event takes the others along");
    assert_eq!(send(&mut outbox, soon, Encoding::Json), [2, 3, 4]);

    let late = soon + WINDOW * 2;
    outbox.push(late, &delivery(5, Priority::Low, 1), WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.due(), Some(late));
}

#[test]
fn an_event_that_several_subscriptions_want_waits_once() {
    let (start, one) = (Instant::now(), delivery(1, Priority::Low, 1));
    let mut outbox = Outbox::new(1 << 20);
    outbox.push(start, &one, WINDOW, Encoding::Json).unwrap();
    outbox.push(start, &one, WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.len(), 1);
}

#[test]
fn frames_end_at_fifty_events_or_sixty_four_kilobytes() {
    let start = Instant::now();
    let mut outbox = Outbox::new(1 << 20);
    for seq in 1..=120 {
        outbox.push(start, &delivery(seq, Priority::Low, 1), WINDOW, Encoding::MsgPack).unwrap();
    }
    assert_eq!([50, 50, 20], [(); 3].map(|()| send(&mut outbox, start, Encoding::MsgPack).len()));
    assert_eq!(outbox.next_frame(Encoding::MsgPack), 0);
    for seq in 1..=3 {
        outbox.push(start, &delivery(seq, Priority::Low, 30_000), WINDOW, Encoding::Json).unwrap();
    }
    outbox.push(start, &delivery(4, Priority::Low, 100_000), WINDOW, Encoding::Json).unwrap();
    let frames = [(); 3].map(|()| send(&mut outbox, start, Encoding::Json));
    assert_eq!(frames, [vec![1, 2], vec![3], vec![4]]);
}

#[test]
fn a_position_stays_before_what_waits() {
    let start = Instant::now();
    let applied = Position { incarnation: Incarnation(7), seqs: vec![Seq(5), Seq(20)] };
    let mut outbox = Outbox::new(1 << 20);
    assert_eq!(outbox.hold_back(&applied), applied);
    outbox.push(start, &delivery(12, Priority::Low, 1), WINDOW, Encoding::Json).unwrap();
    outbox.push(start, &delivery(15, Priority::Low, 1), WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.hold_back(&applied).seqs, [Seq(5), Seq(11)]);
}

#[test]
fn a_full_outbox_refuses_and_takes_a_single_event_of_any_size() {
    let start = Instant::now();
    let mut outbox = Outbox::new(1_000);
    outbox.push(start, &delivery(1, Priority::Low, 5_000), WINDOW, Encoding::Json).unwrap();
    assert_eq!(outbox.push(start, &delivery(2, Priority::Low, 1), WINDOW, Encoding::Json), Err(Full));
}
