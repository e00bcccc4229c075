//! Tests of a new epoch of the stream.

use tickwire_core::coverage::{CoverageEvent, SectionOutcome};
use tickwire_core::ids::{EpochId, Millis, Partition, Seq};
use tickwire_core::replay::{ReplayPart, ReplayRefusal};

use crate::fixtures::{EPOCH_ID, GRACE, answer, apply, asking, asks, coverage, epoch, offer, section};

#[test]
fn complete_coverage_starts_a_new_epoch_at_its_beginning() {
    let mut coverage = coverage();
    offer(&mut coverage, 0, section(0, 1, 0, 90, &[]));
    offer(&mut coverage, 0, section(1, 1, 0, 91, &[]));
    let (mut coverage_events, next) = (Vec::new(), epoch(EpochId(8), 60));
    coverage.offer(Millis(0), next, section(0, 1, 62, 65, &[(64, "new")]), &mut coverage_events);
    let adopt = |partition| CoverageEvent::Adopt { partition: Partition(partition), at: Seq(60) };
    let reset = CoverageEvent::Reset { former: Some(EPOCH_ID), epoch: next };
    assert_eq!(coverage_events, [reset, adopt(0), adopt(1)]);
    assert_eq!(coverage.position().unwrap().seqs, [Seq(60), Seq(60)]);
    assert_eq!(asks(&mut coverage, GRACE).0, [(1, 0, 60, 62)]);
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 90, 91, &[])), (SectionOutcome::Foreign, vec![]));
    assert_eq!(
        answer(&mut coverage, 0, 1, ReplayPart::Events(section(0, 1, 0, 91, &[])), true),
        (SectionOutcome::Foreign, vec![])
    );
}

#[test]
fn incomplete_coverage_starts_a_new_epoch_at_the_first_section() {
    let mut coverage = coverage();
    // Partition 1 has not started, so nothing can have been confirmed.
    offer(&mut coverage, 0, section(0, 1, 0, 90, &[]));
    let (mut coverage_events, next) = (Vec::new(), epoch(EpochId(8), 0));
    coverage.offer(Millis(0), next, section(0, 1, 2, 3, &[(3, "new")]), &mut coverage_events);
    let reset = CoverageEvent::Reset { former: Some(EPOCH_ID), epoch: next };
    let adopt = CoverageEvent::Adopt { partition: Partition(0), at: Seq(2) };
    assert_eq!(coverage_events, [reset, adopt, apply(0, 2, 3, &[(3, "new")])]);
    assert!(!coverage.is_complete());
}

#[test]
fn coverage_starts_no_earlier_than_the_epoch() {
    let (mut coverage, mut coverage_events) = (coverage(), Vec::new());
    let offered = section(0, 1, 50, 62, &[(55, "of the former epoch"), (61, "new")]);
    coverage.offer(Millis(0), epoch(EPOCH_ID, 60), offered, &mut coverage_events);
    let reset = CoverageEvent::Reset { former: None, epoch: epoch(EPOCH_ID, 60) };
    let adopt = CoverageEvent::Adopt { partition: Partition(0), at: Seq(60) };
    assert_eq!(coverage_events, [reset, adopt, apply(0, 60, 62, &[(61, "new")])]);
}

#[test]
fn epoch_beyond_the_last_valid_id_is_refused() {
    let (mut coverage, mut coverage_events) = (coverage(), Vec::new());
    offer(&mut coverage, 0, section(0, 1, 0, 4, &[]));
    let offered = section(0, 1, 0, 9, &[]);
    let outcome = coverage.offer(Millis(0), epoch(EpochId(u64::MAX), 0), offered, &mut coverage_events);
    assert_eq!((outcome, coverage_events), (SectionOutcome::Foreign, vec![]));
    assert_eq!(offer(&mut coverage, 0, section(0, 1, 4, 5, &[])).1, [apply(0, 4, 5, &[])]);
}

#[test]
fn new_epoch_ends_every_repair() {
    let mut coverage = asking();
    let mut coverage_events = Vec::new();
    coverage.offer(Millis(30), epoch(EpochId(8), 0), section(0, 1, 0, 2, &[]), &mut coverage_events);
    assert_eq!((coverage.next_expiry(), coverage.gaps()), (None, 0));
    answer(&mut coverage, 40, 1, ReplayPart::Refused(ReplayRefusal::OtherStream), true);
    assert_eq!(asks(&mut coverage, 10_000), (vec![], vec![]));
}
