//! When clients are told, by example.

use proptest::prelude::*;
use tickwire_core::coverage::RepairLimits;
use tickwire_core::coverage::section::Section;
use tickwire_core::ids::{Epoch, EpochId, Revision, Seq};

use super::*;

const TICK: (u64, u64) = (5_000, 1_000);
const LIFE: Epoch = Epoch { epoch_id: EpochId(1), before: Seq(0) };
const LIMITS: RepairLimits = RepairLimits {
    grace: 20,
    hold_bytes: 1_000_000,
    replays: 8,
    replay_timeout: 2_000,
    give_up_after: 600_000,
    replay_range: 1_000_000,
};

#[test]
fn a_short_break_is_not_told_and_a_long_one_is_told_once() {
    let mut upstream = Upstream::default();
    let mut see = |at, connected: bool| upstream.see(Millis(at), (!connected).then_some(Outage::Disconnected));
    assert_eq!([see(0, true), see(100, false), see(1_000, false), see(1_050, true)], [None; 4]);
    assert_eq!([see(2_000, false), see(2_999, false)], [None; 2]);
    assert_eq!(see(3_000, false), Some(NoticeCode::UpstreamLost));
    assert_eq!([see(3_001, false), see(9_000, false)], [None; 2]);
    assert_eq!(see(9_500, true), Some(NoticeCode::UpstreamRestored));
    assert_eq!([see(9_501, true), see(10_000, false)], [None; 2]);
    assert_eq!(upstream.next_look(), Some(Millis(11_000)));
}

#[test]
fn what_routers_say_of_the_storage_is_told_at_once() {
    let mut upstream = Upstream::default();
    let notified =
        [Some(Outage::NotStored), Some(Outage::NotStored), None].map(|outage| upstream.see(Millis(7), outage));
    assert_eq!(notified, [Some(NoticeCode::UpstreamLost), None, Some(NoticeCode::UpstreamRestored)]);
}

#[test]
fn a_look_that_is_due_is_not_due_again() {
    let mut upstream = Upstream::default();
    let mut now = Millis(0);
    let unheard = Outage::Unheard(Partitions { first: Partition(0), others: 1 });
    // The connection is there and gone and there again, and no router ever speaks.
    for outage in [Outage::Disconnected, unheard, Outage::Disconnected, unheard, unheard] {
        upstream.see(now, Some(outage));
        assert!(upstream.next_look().is_none_or(|at| at > now), "{outage:?} at {now:?}");
        now = now.plus(900);
    }
    assert!(upstream.notified);
    assert_eq!(upstream.next_look(), None);
}

/// Tells `coverage` of a partition.
fn hear(coverage: &mut Coverage<&'static str>, now: u64, partition: u16, (prev, through): (u64, u64)) {
    let (partition, revision) = (Partition(partition), Revision(1));
    let section = Section { partition, revision, prev: Seq(prev), through: Seq(through), events: Vec::new() };
    coverage.offer(Millis(now), LIFE, section, &mut Vec::new());
}

#[test]
fn every_way_to_be_without_coverage_is_seen_within_seconds() {
    let mut coverage = Coverage::new(2, LIMITS);
    let outage =
        |coverage: &Coverage<&'static str>, now| Outage::of(Millis(now), (true, true), coverage, TICK, Millis(0));
    let partitions = |first, others| Partitions { first: Partition(first), others };
    assert_eq!(Outage::of(Millis(0), (false, false), &coverage, TICK, Millis(0)), Some(Outage::Disconnected));
    assert_eq!(Outage::of(Millis(0), (true, false), &coverage, TICK, Millis(0)), Some(Outage::NotStored));
    assert_eq!(outage(&coverage, 0), Some(Outage::Unheard(partitions(0, 1))));
    hear(&mut coverage, 10, 0, (0, 1));
    assert_eq!(outage(&coverage, 20), Some(Outage::Unheard(partitions(1, 0))));
    hear(&mut coverage, 30, 1, (0, 2));
    assert_eq!(outage(&coverage, 7_010), None);
    // Whoever tells another revision alone has read nothing.
    hear(&mut coverage, 7_020, 0, (1, 1));
    hear(&mut coverage, 7_020, 1, (2, 2));
    // All routers are gone; later one is back, with one of its partitions.
    assert_eq!(outage(&coverage, 7_031), Some(Outage::Silent(partitions(0, 1), 7_000)));
    hear(&mut coverage, 8_000, 0, (1, 3));
    assert_eq!(outage(&coverage, 12_030), None);
    assert_eq!(outage(&coverage, 12_031), Some(Outage::Silent(partitions(1, 0), 12_000)));
    // Something is missing of the other, and is not given.
    hear(&mut coverage, 12_100, 1, (4, 5));
    hear(&mut coverage, 19_000, 0, (3, 6));
    hear(&mut coverage, 19_000, 1, (5, 7));
    assert_eq!(outage(&coverage, 22_100), None);
    assert_eq!(outage(&coverage, 22_101), Some(Outage::Stuck(partitions(1, 0))));
    hear(&mut coverage, 22_200, 1, (2, 4));
    assert_eq!(outage(&coverage, 22_200), None);
}

#[test]
fn what_did_not_come_while_nats_was_away_is_waited_for_from_its_return_on() {
    let (mut coverage, mut upstream) = (Coverage::new(2, LIMITS), Upstream::default());
    let see = |coverage: &Coverage<&'static str>, upstream: &mut Upstream, now: u64, connected: bool| {
        let standing = (connected, true);
        let since = upstream.waits_since(Millis(now), standing);
        upstream.see(Millis(now), Outage::of(Millis(now), standing, coverage, TICK, since))
    };
    let mut see_all = |coverage: &Coverage<&'static str>, looks: &[(u64, bool)]| -> Vec<Option<NoticeCode>> {
        looks.iter().map(|(now, connected)| see(coverage, &mut upstream, *now, *connected)).collect()
    };
    hear(&mut coverage, 0, 0, (0, 1));
    hear(&mut coverage, 0, 1, (0, 1));
    let (lost, restored) = (Some(NoticeCode::UpstreamLost), Some(NoticeCode::UpstreamRestored));
    // Away for five seconds: the routers have seven more, counted from then.
    assert_eq!(see_all(&coverage, &[(0, true), (1_000, false), (2_000, false)]), [None, None, lost]);
    assert_eq!(see_all(&coverage, &[(6_000, true), (12_999, true), (13_000, true)]), [restored, None, lost]);
    // Away for so long that everything is overdue: it is over when something has come of every partition.
    hear(&mut coverage, 14_000, 0, (1, 2));
    assert_eq!(see_all(&coverage, &[(14_000, true), (14_500, false), (15_000, true)]), [None; 3]);
    hear(&mut coverage, 15_500, 1, (1, 2));
    assert_eq!(see_all(&coverage, &[(15_500, true)]), [restored]);
}

fn outage() -> impl Strategy<Value = Option<Outage>> {
    let partitions = Partitions { first: Partition(3), others: 2 };
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Outage::Disconnected)),
        1 => Just(Some(Outage::NotStored)),
        1 => Just(Some(Outage::Unheard(partitions))),
        1 => Just(Some(Outage::Silent(partitions, 7_000))),
        1 => Just(Some(Outage::Stuck(partitions))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_look_outlives_its_time_and_an_outage_that_lasts_is_told(
        seen in prop::collection::vec((0..4_000u64, outage()), 1..40),
    ) {
        let (mut upstream, mut now, mut since) = (Upstream::default(), Millis(0), None);
        for (ms, outage) in seen {
            now = now.plus(ms);
            let notified = upstream.see(now, outage);
            prop_assert!(upstream.next_look().is_none_or(|at| at > now));
            since = outage.and(since.or(Some(now)));
            // The longest that any may last before it is told.
            prop_assert!(upstream.notified || since.is_none_or(|since| now.since(since) < BEGIN_MS));
            prop_assert!(notified.is_none() || (notified == Some(NoticeCode::UpstreamLost)) == outage.is_some());
        }
    }
}
