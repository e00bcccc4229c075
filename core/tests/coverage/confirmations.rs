//! When subscriptions are confirmed.

use tickwire_core::confirm::Confirmations;
use tickwire_core::coverage::Offered;
use tickwire_core::ids::{Millis, Revision};

use crate::made::{coverage, offer, section};

#[test]
fn a_confirmation_waits_for_every_partition_but_not_for_ever() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250);
    confirmations.ask(Millis(0), Revision(2), "subscription");
    offer(&mut coverage, 0, section(0, 2, 0, 1, &[]));
    assert!(confirmations.take(Millis(1_000), &mut coverage).is_empty(), "a partition was never heard of");
    assert_eq!(confirmations.next_deadline(&coverage), None, "no time changes that");
    offer(&mut coverage, 0, section(1, 1, 0, 1, &[]));
    assert!(confirmations.take(Millis(249), &mut coverage).is_empty());
    assert_eq!(confirmations.next_deadline(&coverage), Some(Millis(250)));
    assert_eq!(confirmations.take(Millis(250), &mut coverage), ["subscription"]);
    assert_eq!(offer(&mut coverage, 0, section(1, 1, 1, 2, &[])).0, Offered::Outdated);
}

#[test]
fn confirmations_come_in_the_order_of_asking_and_those_that_wait_stay() {
    let mut coverage = coverage();
    let mut confirmations = Confirmations::new(250);
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
