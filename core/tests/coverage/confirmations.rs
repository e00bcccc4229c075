//! Tests of when subscriptions are confirmed.

use tickwire_core::coverage::confirmations::Confirmations;
use tickwire_core::coverage::{RepairLimits, SectionOutcome};
use tickwire_core::ids::{Millis, Partition, Revision, Seq};

use crate::fixtures::{
    EPOCH_ID, GRACE, LIMITS, TIMEOUT, answer, apply, asking, asking_within, asks, coverage, offer, section,
};
use tickwire_core::replay::ReplayPart;

#[test]
fn confirmation_waits_for_every_partition_up_to_a_deadline() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    confirmations.ask(Millis(0), Revision(2), "subscription");
    offer(&mut coverage, 0, section(0, 2, 0, 1, &[]));
    assert!(confirmations.take(Millis(1_000), &mut coverage).is_empty(), "one partition has not started");
    assert_eq!(confirmations.next_deadline(&coverage), None, "no deadline changes that");
    offer(&mut coverage, 0, section(1, 1, 0, 1, &[]));
    assert!(confirmations.take(Millis(249), &mut coverage).is_empty());
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(250)));
    assert_eq!(confirmations.take(Millis(250), &mut coverage), ["subscription"]);
    assert_eq!(offer(&mut coverage, 0, section(1, 1, 1, 2, &[])).0, SectionOutcome::Outdated);
}

#[test]
fn confirmations_come_in_the_order_of_asking() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    for (at, revision, token) in [(0, 5, "late"), (10, 2, "b"), (20, 9, "waits"), (30, 1, "a"), (30, 2, "c")] {
        confirmations.ask(Millis(at), Revision(revision), token);
    }
    offer(&mut coverage, 0, section(0, 2, 0, 1, &[]));
    offer(&mut coverage, 0, section(1, 2, 0, 1, &[]));
    assert_eq!(confirmations.take(Millis(100), &mut coverage), ["b", "a", "c"]);
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(250)));
    assert_eq!(confirmations.take(Millis(260), &mut coverage), ["late"]);
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(270)));
    assert_eq!(confirmations.take(Millis(270), &mut coverage), ["waits"]);
    assert_eq!(confirmations.next_deadline(&coverage), None);
}

/// Otherwise every answer, and every section held behind the gap, would be outdated when it is needed.
#[test]
fn gap_is_repaired_while_subscriptions_change_faster_than_routers_answer() {
    let mut coverage = asking_within(RepairLimits { hold_bytes: 100_000, ..LIMITS });
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    offer(&mut coverage, GRACE, section(1, 1, 0, 1, &[]));
    confirmations.ask(Millis(GRACE), Revision(1), 1);
    assert_eq!(
        confirmations.take(Millis(GRACE), &mut coverage),
        [1],
        "the answer that closes the gap has this revision"
    );
    // A new subscription every 10 ms. Every partition has its revision 10 ms later.
    let mut now = GRACE;
    for revision in 2..40 {
        now += 10;
        confirmations.ask(Millis(now), Revision(revision), revision);
        for (partition, at) in [(0, 7 + revision), (1, 1 + revision)] {
            offer(&mut coverage, now, section(partition, revision - 1, at - 2, at - 1, &[]));
        }
        assert!(confirmations.take(Millis(now), &mut coverage).is_empty());
        assert!(confirmations.next_deadline(&coverage) > Some(Millis(now)));
    }
    let (outcome, coverage_events) =
        answer(&mut coverage, now, 1, ReplayPart::Events(section(0, 1, 0, 5, &[(2, "a")])), true);
    assert_eq!((outcome, &coverage_events[0]), (SectionOutcome::Applied, &apply(0, 0, 5, &[(2, "a")])));
    assert_eq!(coverage.gaps(), 0, "all held sections are given");
    assert_eq!(confirmations.take(Millis(now), &mut coverage), (2..39).collect::<Vec<_>>());
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(now + 250)));
}

#[test]
fn unrepaired_gap_delays_a_confirmation_up_to_the_second_deadline() {
    let mut coverage = asking();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    offer(&mut coverage, GRACE, section(1, 1, 0, 1, &[]));
    confirmations.ask(Millis(GRACE), Revision(2), "subscription");
    let (first, last) = (GRACE + 250, GRACE + 250 + TIMEOUT);
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(first)));
    assert!(confirmations.take(Millis(first), &mut coverage).is_empty());
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(last)));
    assert!(confirmations.take(Millis(last - 1), &mut coverage).is_empty());
    assert_eq!(confirmations.take(Millis(last), &mut coverage), ["subscription"]);
}

#[test]
fn confirmation_waits_for_a_pending_answer() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    for partition in [0, 1] {
        offer(&mut coverage, 0, section(partition, 5, 0, 1, &[]));
    }
    coverage.unreadable(Millis(0), EPOCH_ID, Partition(0), Seq(4));
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 1, 4)]);
    confirmations.ask(Millis(GRACE), Revision(2), "newer than the ask");
    assert!(confirmations.take(Millis(GRACE), &mut coverage).is_empty());
    answer(&mut coverage, GRACE + 5, 1, ReplayPart::Events(section(0, 1, 1, 4, &[])), true);
    assert_eq!(confirmations.take(Millis(GRACE + 5), &mut coverage), ["newer than the ask"]);
}

#[test]
fn confirmation_waits_for_held_sections() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    offer(&mut coverage, 0, section(0, 0, 0, 0, &[]));
    offer(&mut coverage, 0, section(0, 0, 5, 7, &[(6, "b")]));
    offer(&mut coverage, 0, section(1, 2, 0, 1, &[]));
    // The ask is matched against revision 1.
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 0, 5)]);
    confirmations.ask(Millis(GRACE), Revision(1), "newer than the held sections");
    assert!(confirmations.take(Millis(GRACE + 251), &mut coverage).is_empty());
    answer(&mut coverage, GRACE + 251, 1, ReplayPart::Events(section(0, 1, 0, 5, &[])), true);
    assert_eq!(coverage.gaps(), 0, "held sections are given");
    assert_eq!(confirmations.take(Millis(GRACE + 251), &mut coverage), ["newer than the held sections"]);
}

#[test]
fn outdated_sections_do_not_delay_a_confirmation() {
    let mut coverage = asking();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    offer(&mut coverage, GRACE, section(1, 3, 0, 1, &[]));
    coverage.require(Revision(3));
    offer(&mut coverage, GRACE, section(0, 3, 7, 9, &[]));
    confirmations.ask(Millis(GRACE), Revision(3), "same revision as confirmed");
    assert_eq!(confirmations.take(Millis(GRACE), &mut coverage), ["same revision as confirmed"]);
}

/// Otherwise a busy router would have to read again all that it sends.
#[test]
fn lagging_router_delays_a_confirmation_longer_than_a_silent_one() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250, TIMEOUT);
    let mut through = 0;
    let mut lags = |coverage: &mut _, now: u64, revision| {
        for partition in [0, 1] {
            offer(coverage, now, section(partition, revision, through, now, &[]));
        }
        through = now;
    };
    lags(&mut coverage, 100, 1);
    confirmations.ask(Millis(100), Revision(2), "held");
    for now in [200, 350, 500] {
        lags(&mut coverage, now, 1);
        assert!(confirmations.take(Millis(now), &mut coverage).is_empty());
        let next = if now < 350 { 350 } else { now + 250 };
        assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(next)), "if nothing is received");
    }
    lags(&mut coverage, 600, 2);
    assert_eq!(confirmations.take(Millis(600), &mut coverage), ["held"]);
    // The router stops.
    confirmations.ask(Millis(610), Revision(3), "silent router");
    assert!(confirmations.take(Millis(859), &mut coverage).is_empty());
    assert_eq!(confirmations.take(Millis(860), &mut coverage), ["silent router"]);
    // The router never reaches the revision.
    confirmations.ask(Millis(900), Revision(4), "second deadline");
    let last = 900 + 250 + TIMEOUT;
    for now in (1_000..last).step_by(100) {
        lags(&mut coverage, now, 3);
        assert!(confirmations.take(Millis(now), &mut coverage).is_empty());
    }
    assert_eq!(confirmations.take(Millis(last), &mut coverage), ["second deadline"]);
}
