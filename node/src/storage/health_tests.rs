//! Examples of the problems of a stream, and when they are reported.

use super::*;
use crate::config::{Storage, StreamConfig};
use crate::writes::JetStreamRefusal;
use std::time::Duration;

fn health(of: usize) -> StreamHealth {
    let config = StreamConfig {
        name: "EVENTS".to_owned(),
        partitions: 4,
        replicas: 3,
        max_age: Duration::from_secs(60),
        max_bytes: 1 << 30,
        max_message: 524_288,
        duplicate_window: Duration::from_secs(60),
        storage: Storage::File,
    };
    StreamHealth::new(super::super::expected::kept(&config)[of].clone())
}

const EVENTS: usize = 0;
const LEASES: usize = 3;

fn there() -> StreamSettings {
    StreamSettings::There { is_sealed: false, full: None, edits: vec![], replicas: None, last: 7 }
}

fn failing(since: u64, last: u64, tries: u32, failure: Failure) -> Failing {
    // The last write began half a second before it ended, or is the only one.
    let began = Millis(last.saturating_sub(500).max(since));
    Failing { since: Millis(since), began, last: Millis(last), tries, subject: "ev.3.tick".to_owned(), failure }
}

fn late(since: u64, last: u64, tries: u32) -> Failing {
    failing(since, last, tries, Failure::Unanswered("timed out".to_owned()))
}

fn refused(code: ErrorCode, text: &str) -> Failing {
    failing(1_000, 1_000, 1, Failure::Refused(JetStreamRefusal { code, text: text.to_owned() }))
}

fn reported(health: &StreamHealth, now: u64, failing: Option<&Failing>) -> Option<(StorageFault, bool, String)> {
    health.trouble(Millis(now), failing).map(|trouble| (trouble.fault, trouble.stops_events, trouble.text))
}

#[test]
fn server_that_answers_but_does_not_store_is_reported_within_seconds() {
    let mut health = health(EVENTS);
    health.record(Millis(500), Some(there()));
    for look in [1_500, 2_499] {
        health.record(Millis(look), Some(there()));
        assert_eq!(reported(&health, 3_500, Some(&late(1_000, 2_500, 3))), None, "{look}");
    }
    health.record(Millis(2_500), Some(there()));
    assert_eq!(reported(&health, 3_000, Some(&late(1_000, 2_000, 1))), None);
    let (fault, stops, text) = reported(&health, 8_200, Some(&late(1_000, 8_000, 9))).unwrap();
    assert_eq!((fault, stops), (StorageFault::NotStoring, true));
    for part in ["NATS does not store events, for 7 s", "9 writes", "ev.3.tick", "timed out", "disk", "restarted"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // No further write was tried.
    assert_eq!(reported(&health, 23_000, Some(&late(1_000, 8_000, 9))), None);
}

#[test]
fn stream_without_a_leader_is_not_reported_as_not_storing() {
    let mut health = health(EVENTS);
    health.record(Millis(500), Some(there()));
    health.record(Millis(1_500), None);
    assert_eq!(reported(&health, 9_000, Some(&late(1_000, 8_500, 9))), None);
    for look in [9_000, 10_499] {
        health.record(Millis(look), Some(there()));
        assert_eq!(reported(&health, 10_999, Some(&late(1_000, 10_900, 20))), None);
    }
    health.record(Millis(10_500), Some(there()));
    assert_eq!(
        reported(&health, 11_000, Some(&late(1_000, 10_900, 20))).map(|reported| reported.0),
        Some(StorageFault::NotStoring)
    );
}

#[test]
fn stream_that_was_deleted_and_created_again_is_not_reported_as_not_storing() {
    let mut health = health(EVENTS);
    health.record(Millis(500), Some(there()));
    health.record(Millis(4_000), Some(StreamSettings::Missing));
    health.record(Millis(4_500), Some(there()));
    health.record(Millis(6_500), Some(there()));
    // The last writes found no stream, or waited while there was none.
    let nobody = Failure::Unanswered(format!("{}: no responders", PublishErrorKind::StreamNotFound));
    assert_eq!(reported(&health, 7_000, Some(&failing(1_000, 6_900, 9, nobody))), None);
    assert_eq!(reported(&health, 7_000, Some(&late(1_000, 4_400, 9))), None);
    // Writes that fail after that count.
    let (fault, ..) = reported(&health, 7_000, Some(&late(1_000, 6_900, 12))).unwrap();
    assert_eq!(fault, StorageFault::NotStoring);
}

#[test]
fn writes_that_failed_during_an_outage_do_not_count_after_it() {
    let mut health = health(EVENTS);
    health.record(Millis(500), Some(there()));
    health.record(Millis(4_000), None);
    health.record(Millis(5_000), Some(there()));
    // All of them began while NATS was away, and ended when it was back.
    let away = Failing { began: Millis(4_900), ..late(1_000, 8_900, 17) };
    for now in [7_000, 8_000, 18_000] {
        health.record(Millis(now), Some(there()));
        assert_eq!(reported(&health, now, Some(&away)), None);
    }
    let since = Failing { began: Millis(5_000), tries: 18, ..away };
    assert_eq!(reported(&health, 9_000, Some(&since)).map(|reported| reported.0), Some(StorageFault::NotStoring));
}

#[test]
fn paused_server_is_not_reported_as_not_storing() {
    let mut health = health(EVENTS);
    health.record(Millis(500), Some(there()));
    // The server is paused from 1 s on; the next read is still unanswered.
    for now in [3_000, 3_300, 3_600] {
        assert_eq!(reported(&health, now, Some(&late(1_000, now, 9))), None);
    }
    health.record(Millis(3_700), None);
    health.record(Millis(4_900), Some(there()));
    assert_eq!(reported(&health, 5_000, Some(&late(1_000, 3_600, 9))), None);
}

#[test]
fn refusal_by_jetstream_is_reported_at_once_with_its_text() {
    let mut health = health(EVENTS);
    health.record(Millis(500), Some(there()));
    let cases = [
        (ErrorCode::STREAM_SEALED, "invalid operation on sealed stream", StorageFault::Sealed),
        (ErrorCode::STREAM_STORE_FAILED, "maximum bytes exceeded", StorageFault::Full),
        (ErrorCode::STREAM_STORE_FAILED, "no space left on device", StorageFault::NotStoring),
        (ErrorCode::ACCOUNT_RESOURCES_EXCEEDED, "resource limits exceeded for account", StorageFault::OverLimit),
        (ErrorCode::INSUFFICIENT_RESOURCES, "insufficient resources", StorageFault::OverLimit),
    ];
    for (code, words, wanted) in cases {
        let (fault, stops, text) = reported(&health, 1_001, Some(&refused(code, words))).unwrap();
        assert_eq!((fault, stops), (wanted, true), "{words}");
        assert!(text.starts_with("NATS does not store events: ") && text.contains(words), "{text}");
    }
    // A cluster without a leader refuses with a text, too.
    assert_eq!(reported(&health, 1_001, Some(&refused(ErrorCode::CLUSTER_NOT_AVAILABLE, "unavailable"))), None);
}

#[test]
fn fault_in_a_read_is_reported_until_the_next_read() {
    let mut health = health(EVENTS);
    let mut record = |at, state| {
        health.record(Millis(at), Some(state));
        reported(&health, at, None).map(|(fault, stops, _)| (fault, stops))
    };
    let StreamSettings::There { last, .. } = there() else { panic!() };
    let clean = || (false, None, vec![], None);
    let of = |(is_sealed, full, edits, replicas)| StreamSettings::There { is_sealed, full, edits, replicas, last };
    assert_eq!(record(0, of(clean())), None);
    assert_eq!(record(1_000, of((true, None, vec!["subjects"], None))), Some((StorageFault::Sealed, true)));
    assert_eq!(record(2_000, of((false, Some("max_msgs"), vec![], None))), Some((StorageFault::Full, true)));
    assert_eq!(record(3_000, of((false, None, vec!["subjects"], Some(1)))), Some((StorageFault::Edited, true)));
    assert_eq!(record(4_000, StreamSettings::Missing), Some((StorageFault::Missing, true)));
    assert_eq!(record(5_000, of(clean())), None);
    assert_eq!(record(5_100, of((false, None, vec!["subjects"], None))), Some((StorageFault::Edited, true)));
    // It was restored before any node could learn of it.
    assert_eq!(record(5_101, of(clean())), Some((StorageFault::Edited, true)));
    assert_eq!(record(5_200, StreamSettings::Missing), Some((StorageFault::Missing, true)));
    assert_eq!(record(7_100, of(clean())), None);
    // Fewer copies stop nothing, and may be in progress.
    assert_eq!(record(8_000, of((false, None, vec![], Some(1)))), None);
    assert_eq!(record(12_999, of((false, None, vec![], Some(1)))), None);
    assert_eq!(record(13_000, of((false, None, vec![], Some(1)))), Some((StorageFault::Replicas, false)));
}

#[test]
fn missing_events_stream_is_created_after_three_seconds_and_a_bucket_after_two_reads() {
    for (of, enough) in [(EVENTS, 3_000), (LEASES, 1_000)] {
        let mut health = health(of);
        health.record(Millis(0), Some(there()));
        health.record(Millis(1_000), Some(StreamSettings::Missing));
        assert_eq!(health.remedy(Millis(1_000 + enough - 1)), None);
        health.record(Millis(1_500), None);
        assert_eq!(health.remedy(Millis(1_000 + enough)), None, "all reads must have been answered");
        health.record(Millis(2_000), Some(StreamSettings::Missing));
        assert_eq!(health.remedy(Millis(2_000 + enough)), Some(Remedy::Create));
        health.record(Millis(9_000), Some(there()));
        assert_eq!(health.remedy(Millis(20_000)), None);
    }
}

#[test]
fn edited_settings_are_restored_at_once_but_a_seal_is_not() {
    let mut health = health(EVENTS);
    let of = |is_sealed, edits| StreamSettings::There { is_sealed, full: None, edits, replicas: None, last: 7 };
    health.record(Millis(0), Some(of(false, vec!["subject_transform"])));
    assert_eq!(health.remedy(Millis(0)), Some(Remedy::Restore));
    health.record(Millis(1_000), Some(of(true, vec!["subject_transform"])));
    assert_eq!(health.remedy(Millis(1_000)), None);
    let seal = refused(ErrorCode::STREAM_SEALED, "invalid operation on sealed stream");
    for (is_sealed, failing) in [(true, None), (false, Some(&seal))] {
        health.record(Millis(1_000), Some(of(is_sealed, vec![])));
        let (fault, _, text) = reported(&health, 1_000, failing).unwrap();
        assert_eq!((fault, text.contains("save its content")), (StorageFault::Sealed, true), "{text}");
    }
}

#[test]
fn bucket_that_is_restored_soon_is_not_reported() {
    let mut health = health(LEASES);
    health.record(Millis(0), Some(there()));
    health.record(Millis(1_000), Some(StreamSettings::Missing));
    assert_eq!(reported(&health, 5_999, None), None);
    let (fault, stops, text) = reported(&health, 6_000, None).unwrap();
    assert_eq!((fault, stops), (StorageFault::Missing, false));
    assert!(text.starts_with("NATS does not store leases, for 5 s: the stream KV_TICKWIRE_LEASES"), "{text}");
    health.record(Millis(6_500), Some(there()));
    assert_eq!(reported(&health, 7_000, Some(&late(2_500, 6_900, 5))), None);
    assert_eq!(
        reported(&health, 8_500, Some(&late(2_500, 8_400, 7))).map(|reported| reported.0),
        Some(StorageFault::NotStoring)
    );
}
