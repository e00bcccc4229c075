//! When clients are notified of an outage, by example.

use proptest::prelude::*;
use tickwire_core::coverage::RepairLimits;
use tickwire_core::coverage::section::Section;
use tickwire_core::ids::{Epoch, EpochId, Revision, Seq};

use super::*;

const HEARTBEATS: HeartbeatTiming = HeartbeatTiming { interval: 5_000, report_delay: 1_000 };
const WELL: NatsState = NatsState { is_connected: true, is_stored: true };
const EPOCH: Epoch = Epoch { epoch_id: EpochId(1), before: Seq(0) };
const LIMITS: RepairLimits = RepairLimits {
    grace: 20,
    hold_bytes: 1_000_000,
    replays: 8,
    replay_timeout: 2_000,
    give_up_after: 600_000,
    replay_range: 1_000_000,
};

#[test]
fn only_a_long_break_is_notified_and_only_once() {
    let mut upstream = Upstream::default();
    let mut update = |at, connected: bool| upstream.update(Millis(at), (!connected).then_some(Outage::Disconnected));
    assert_eq!([update(0, true), update(100, false), update(1_000, false), update(1_050, true)], [None; 4]);
    assert_eq!([update(2_000, false), update(2_999, false)], [None; 2]);
    assert_eq!(update(3_000, false), Some(NoticeCode::UpstreamLost));
    assert_eq!([update(3_001, false), update(9_000, false)], [None; 2]);
    assert_eq!(update(9_500, true), Some(NoticeCode::UpstreamRestored));
    assert_eq!([update(9_501, true), update(10_000, false)], [None; 2]);
    assert_eq!(upstream.next_check(), Some(Millis(11_000)));
}

#[test]
fn storage_failure_reported_by_routers_is_notified_at_once() {
    let mut upstream = Upstream::default();
    let notified =
        [Some(Outage::NotStored), Some(Outage::NotStored), None].map(|outage| upstream.update(Millis(7), outage));
    assert_eq!(notified, [Some(NoticeCode::UpstreamLost), None, Some(NoticeCode::UpstreamRestored)]);
}

#[test]
fn next_look_is_in_the_future_after_each_look() {
    let mut upstream = Upstream::default();
    let mut now = Millis(0);
    let never_reported = Outage::NeverReported(Partitions { first: Partition(0), others: 1 });
    // The connection comes and goes, and no router ever reports anything.
    for outage in [Outage::Disconnected, never_reported, Outage::Disconnected, never_reported, never_reported] {
        upstream.update(now, Some(outage));
        assert!(upstream.next_check().is_none_or(|at| at > now), "{outage:?} at {now:?}");
        now = now.plus(900);
    }
    assert!(upstream.notified);
    assert_eq!(upstream.next_check(), None);
}

/// Offers `coverage` a section of a partition.
fn cover(coverage: &mut Coverage<&'static str>, now: u64, partition: u16, (prev, through): (u64, u64)) {
    let (partition, revision) = (Partition(partition), Revision(1));
    let section = Section { partition, revision, prev: Seq(prev), through: Seq(through), events: Vec::new() };
    coverage.offer(Millis(now), EPOCH, section, &mut Vec::new());
}

#[test]
fn every_kind_of_outage_is_detected_within_seconds() {
    let mut coverage = Coverage::new(2, LIMITS);
    let outage_of =
        |coverage: &Coverage<&'static str>, now, nats| Outage::of(Millis(now), nats, coverage, HEARTBEATS, Millis(0));
    let outage = |coverage: &Coverage<&'static str>, now| outage_of(coverage, now, WELL);
    let partitions = |first, others| Partitions { first: Partition(first), others };
    let (away, full) = (NatsState { is_connected: false, is_stored: false }, NatsState { is_stored: false, ..WELL });
    assert_eq!(outage_of(&coverage, 0, away), Some(Outage::Disconnected));
    assert_eq!(outage_of(&coverage, 0, full), Some(Outage::NotStored));
    assert_eq!(outage(&coverage, 0), Some(Outage::NeverReported(partitions(0, 1))));
    cover(&mut coverage, 10, 0, (0, 1));
    assert_eq!(outage(&coverage, 20), Some(Outage::NeverReported(partitions(1, 0))));
    cover(&mut coverage, 30, 1, (0, 2));
    assert_eq!(outage(&coverage, 7_010), None);
    // A section that only has another revision shows no progress.
    cover(&mut coverage, 7_020, 0, (1, 1));
    cover(&mut coverage, 7_020, 1, (2, 2));
    // All routers are gone. Later one is back, with one of the partitions.
    assert_eq!(outage(&coverage, 7_031), Some(Outage::AllSilent(2, 7_000)));
    cover(&mut coverage, 8_000, 0, (1, 3));
    assert_eq!(outage(&coverage, 12_030), None);
    assert_eq!(outage(&coverage, 12_031), Some(Outage::Silent(partitions(1, 0), 12_000)));
    // The other partition has a gap that no router closes.
    cover(&mut coverage, 12_100, 1, (4, 5));
    cover(&mut coverage, 19_000, 0, (3, 6));
    cover(&mut coverage, 19_000, 1, (5, 7));
    assert_eq!(outage(&coverage, 22_100), None);
    assert_eq!(outage(&coverage, 22_101), Some(Outage::Stuck(partitions(1, 0))));
    cover(&mut coverage, 22_200, 1, (2, 4));
    assert_eq!(outage(&coverage, 22_200), None);
}

#[test]
fn silence_while_nats_was_disconnected_does_not_count() {
    let (mut coverage, mut upstream) = (Coverage::new(2, LIMITS), Upstream::default());
    let update = |coverage: &Coverage<&'static str>, upstream: &mut Upstream, now: u64, connected: bool| {
        let nats = NatsState { is_connected: connected, ..WELL };
        let since = upstream.silence_since(Millis(now), nats);
        upstream.update(Millis(now), Outage::of(Millis(now), nats, coverage, HEARTBEATS, since))
    };
    let mut see_all = |coverage: &Coverage<&'static str>, looks: &[(u64, bool)]| -> Vec<Option<NoticeCode>> {
        looks.iter().map(|(now, connected)| update(coverage, &mut upstream, *now, *connected)).collect()
    };
    cover(&mut coverage, 0, 0, (0, 1));
    cover(&mut coverage, 0, 1, (0, 1));
    let (lost, restored) = (Some(NoticeCode::UpstreamLost), Some(NoticeCode::UpstreamRestored));
    // NATS was away for five seconds. The routers have seven more, counted from its return.
    assert_eq!(see_all(&coverage, &[(0, true), (1_000, false), (2_000, false)]), [None, None, lost]);
    assert_eq!(see_all(&coverage, &[(6_000, true), (12_999, true), (13_000, true)]), [restored, None, lost]);
    // NATS was away so long that everything is overdue. The outage ends when every partition was reported.
    cover(&mut coverage, 14_000, 0, (1, 2));
    assert_eq!(see_all(&coverage, &[(14_000, true), (14_500, false), (15_000, true)]), [None; 3]);
    cover(&mut coverage, 15_500, 1, (1, 2));
    assert_eq!(see_all(&coverage, &[(15_500, true)]), [restored]);
}

fn outage() -> impl Strategy<Value = Option<Outage>> {
    let partitions = Partitions { first: Partition(3), others: 2 };
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Outage::Disconnected)),
        1 => Just(Some(Outage::NotStored)),
        1 => Just(Some(Outage::NeverReported(partitions))),
        1 => Just(Some(Outage::Silent(partitions, 7_000))),
        1 => Just(Some(Outage::AllSilent(32, 7_000))),
        1 => Just(Some(Outage::Stuck(partitions))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn next_look_is_never_in_the_past_and_a_lasting_outage_is_notified(
        outages in prop::collection::vec((0..4_000u64, outage()), 1..40),
    ) {
        let (mut upstream, mut now, mut since) = (Upstream::default(), Millis(0), None);
        for (ms, outage) in outages {
            now = now.plus(ms);
            let notified = upstream.update(now, outage);
            prop_assert!(upstream.next_check().is_none_or(|at| at > now));
            since = outage.and(since.or(Some(now)));
            // BEGIN_MS is the longest time that any outage may last before clients are notified.
            prop_assert!(upstream.notified || since.is_none_or(|since| now.since(since) < BEGIN_MS));
            prop_assert!(notified.is_none() || (notified == Some(NoticeCode::UpstreamLost)) == outage.is_some());
        }
    }
}
