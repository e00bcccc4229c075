//! Tests of offered sections: applied, held, trimmed, or asked for again because they are invalid.

use tickwire_core::coverage::SectionOutcome;
use tickwire_core::ids::{EpochId, Millis, Partition, Revision, Seq};
use tickwire_core::replay::ReplayPart;

use crate::fixtures::{EPOCH_ID, GRACE, answer, apply, asking, asks, coverage, offer, section};

#[test]
fn coverage_applies_new_ranges_and_trims_known_ones() {
    let mut coverage = coverage();
    let first = offer(&mut coverage, 0, section(0, 1, 10, 12, &[(12, "a")]));
    assert_eq!(first, (SectionOutcome::Applied, vec![apply(0, 10, 12, &[(12, "a")])]));
    let overlapping = offer(&mut coverage, 0, section(0, 1, 8, 15, &[(9, "old"), (12, "a"), (14, "b")]));
    assert_eq!(overlapping, (SectionOutcome::Applied, vec![apply(0, 12, 15, &[(14, "b")])]));
    let known = offer(&mut coverage, 0, section(0, 1, 10, 15, &[(12, "a"), (14, "b")]));
    assert_eq!(known, (SectionOutcome::Duplicate, vec![]));
}

#[test]
fn coverage_reorders_sections_within_the_grace() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 0, &[]));
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 5, 7, &[(6, "b")])), (SectionOutcome::Held, vec![]));
    let filled = offer(&mut coverage, GRACE - 1, section(0, 1, 0, 5, &[(3, "a")]));
    assert_eq!(filled.1, [apply(0, 0, 5, &[(3, "a")]), apply(0, 5, 7, &[(6, "b")])]);
    assert_eq!(coverage.next_expiry(), None);
}

#[test]
fn held_sections_are_bounded_and_dropped_ones_are_asked_for() {
    let mut coverage = asking();
    offer(&mut coverage, 20, section(0, 1, 7, 9, &[(8, "c"), (9, "d")]));
    let full = coverage.held_bytes();
    assert_eq!(offer(&mut coverage, 20, section(0, 1, 9, 10, &[(10, "e")])), (SectionOutcome::Held, vec![]));
    assert_eq!((full, coverage.held_bytes()), (187, 187), "two sections of 56 bytes, three events of 25");
    // A partition that holds little is not affected by others that hold much.
    offer(&mut coverage, 20, section(1, 1, 0, 0, &[]));
    offer(&mut coverage, 20, section(1, 1, 1, 2, &[(2, "f")]));
    assert_eq!(coverage.held_bytes(), 187 + 81);
    offer(&mut coverage, 20, section(1, 1, 0, 1, &[]));
    let filled = answer(&mut coverage, 30, 1, ReplayPart::Events(section(0, 1, 0, 5, &[])), true);
    let held = [apply(0, 5, 7, &[(6, "b")]), apply(0, 7, 9, &[(8, "c"), (9, "d")])];
    assert_eq!(filled.1, [&[apply(0, 0, 5, &[])], &held[..]].concat());
    assert_eq!(asks(&mut coverage, 30).0, [(2, 0, 9, 10)]);
}

#[test]
fn sections_older_than_a_confirmed_revision_are_outdated() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 3, 0, 4, &[]));
    coverage.require(Revision(4));
    // The range of an outdated section is asked for without another section.
    assert_eq!(offer(&mut coverage, 0, section(0, 3, 4, 6, &[(5, "a")])), (SectionOutcome::Outdated, vec![]));
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 4, 6)]);
    offer(&mut coverage, GRACE, section(0, 4, 6, 7, &[]));
    let old = answer(&mut coverage, 30, 1, ReplayPart::Events(section(0, 3, 4, 6, &[])), true);
    assert_eq!(old, (SectionOutcome::Outdated, vec![]));
    assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 4, 6)]);
    // Held sections become outdated too.
    coverage.require(Revision(5));
    let new = answer(&mut coverage, 90, 2, ReplayPart::Events(section(0, 5, 4, 6, &[(5, "a")])), true);
    assert_eq!(new.1, [apply(0, 4, 6, &[(5, "a")])]);
    assert_eq!(asks(&mut coverage, 90).0, [(3, 0, 6, 7)]);
}

#[test]
fn range_of_an_undecodable_section_is_asked_for() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 4, &[]));
    coverage.unreadable(Millis(0), EpochId(6), Partition(0), Seq(9));
    coverage.unreadable(Millis(0), EPOCH_ID, Partition(0), Seq(3));
    assert_eq!(coverage.next_expiry(), None);
    coverage.unreadable(Millis(0), EPOCH_ID, Partition(0), Seq(6));
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 4, 6)]);
}

#[test]
fn unsound_section_is_refused_and_its_range_asked_for() {
    let out_of_order = section(0, 1, 4, 9, &[(6, "a"), (5, "b")]);
    let twice = section(0, 1, 4, 9, &[(6, "a"), (6, "a")]);
    let before = section(0, 1, 4, 9, &[(4, "a")]);
    let behind = section(0, 1, 4, 9, &[(10, "a")]);
    for unsound in [out_of_order, twice, before, behind] {
        let mut coverage = coverage();
        offer(&mut coverage, 0, section(0, 1, 0, 4, &[]));
        assert_eq!(offer(&mut coverage, 0, unsound.clone()), (SectionOutcome::Unsound, vec![]));
        assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 4, 9)]);
        assert_eq!(answer(&mut coverage, 30, 1, ReplayPart::Events(unsound), true), (SectionOutcome::Unsound, vec![]));
        assert_eq!(asks(&mut coverage, 80).0, [(2, 0, 4, 9)]);
    }
}

#[test]
fn section_with_reversed_range_leaves_no_deadline() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 3, &[]));
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 10, 5, &[])), (SectionOutcome::Unsound, vec![]));
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 3, 7, &[])).1, [apply(0, 3, 7, &[])]);
    coverage.require(Revision(2));
    assert_eq!((asks(&mut coverage, GRACE), coverage.next_expiry()), ((vec![], vec![]), None));
}
