//! The sections and replay answers that routers build.

use tickwire_core::coverage::builder::{Contiguity, Delivered, SectionBuilder};
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::ids::{Partition, Revision, Seq};
use tickwire_core::replay::{Purpose, ReplayBuilder, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};

use crate::fixtures::{EPOCH_ID, node, section};

/// The whole stream was walked.
const ALL: Seq = Seq(u64::MAX);

/// A request for `(10, 20]`.
fn request() -> ReplayRequest {
    ReplayRequest {
        gateway: node("gw"),
        partition: Partition(0),
        from: Seq(10),
        to: Seq(20),
        epoch_id: EPOCH_ID,
        interest: ReplayInterest::ByRevision(Revision(1)),
        purpose: Purpose::Repair,
    }
}

#[test]
fn replay_answer_covers_exactly_what_was_read() {
    let request = request();
    let reply = |read: &[(u64, Option<&'static str>)]| {
        let mut reply = ReplayBuilder::new(&request, Revision(1));
        read.iter().for_each(|(seq, wanted)| reply.read(Seq(*seq), *wanted));
        reply
    };
    let whole = reply(&[(12, Some("a")), (15, None), (20, Some("b"))]);
    assert!(whole.is_complete());
    assert_eq!(whole.finish(Seq(10), ALL, &[]), [ReplayPart::Events(section(0, 1, 10, 20, &[(12, "a"), (20, "b")]))]);
    // A message after the range completes it too, but is not part of the answer.
    let behind = reply(&[(12, Some("a")), (23, Some("c"))]);
    assert_eq!(behind.finish(Seq(0), ALL, &[]), [ReplayPart::Events(section(0, 1, 10, 20, &[(12, "a")]))]);
    // A replica that lags gives less.
    let lagging = reply(&[(12, Some("a")), (15, None)]);
    assert!(!lagging.is_complete());
    assert_eq!(lagging.finish(Seq(0), ALL, &[]), [ReplayPart::Events(section(0, 1, 10, 15, &[(12, "a")]))]);
    assert_eq!(reply(&[]).finish(Seq(0), ALL, &[]), [ReplayPart::Refused(ReplayRefusal::NotThere)]);
    // The part that retention has removed is left out, although some of it was read.
    let removed =
        |through| ReplayPart::Removed { partition: Partition(0), from: Seq(10), through: Seq(through), damaged: None };
    let passed = reply(&[(12, Some("a")), (15, None), (20, Some("b"))]);
    assert_eq!(
        passed.finish(Seq(13), ALL, &[]),
        [removed(13), ReplayPart::Events(section(0, 1, 13, 20, &[(20, "b")]))]
    );
    assert_eq!(reply(&[(30, None)]).finish(Seq(29), ALL, &[]), [removed(20)]);
}

#[test]
fn replay_answer_reports_missing_ranges_between_events() {
    let request = request();
    let finish = |discarded, walked, missing: &[(u64, u64)]| {
        let mut reply = ReplayBuilder::new(&request, Revision(1));
        for (seq, wanted) in [(12, Some("a")), (15, None), (18, Some("b")), (20, None)] {
            reply.read(Seq(seq), wanted);
        }
        let missing: Vec<MissingRange> = missing
            .iter()
            .map(|(after, through)| MissingRange { after: Seq(*after), through: Seq(*through) })
            .collect();
        reply.finish(Seq(discarded), Seq(walked), &missing)
    };
    let events =
        |prev, through, events: &[(u64, &'static str)]| ReplayPart::Events(section(0, 1, prev, through, events));
    let removed = |from, through, damaged| ReplayPart::Removed {
        partition: Partition(0),
        from: Seq(from),
        through: Seq(through),
        damaged,
    };
    let damaged = |from, through| removed(from, through, Some(Revision(1)));
    assert_eq!(
        finish(0, 20, &[(13, 14)]),
        [events(10, 13, &[(12, "a")]), damaged(13, 14), events(14, 20, &[(18, "b")])]
    );
    // At both ends, and beyond them.
    assert_eq!(
        finish(0, 20, &[(8, 11), (19, 25)]),
        [damaged(10, 11), events(11, 19, &[(12, "a"), (18, "b")]), damaged(19, 20)]
    );
    // Two missing ranges with no wanted event between them are reported as one.
    assert_eq!(
        finish(0, 20, &[(12, 13), (16, 17), (18, 19)]),
        [
            events(10, 12, &[(12, "a")]),
            damaged(12, 17),
            events(17, 18, &[(18, "b")]),
            damaged(18, 19),
            events(19, 20, &[])
        ]
    );
    // The part that retention has removed is not damaged, and the part that was not walked is left out.
    assert_eq!(finish(13, 16, &[(11, 14)]), [removed(10, 13, None), damaged(13, 14), events(14, 16, &[])]);
    assert_eq!(finish(0, 10, &[]), [ReplayPart::Refused(ReplayRefusal::NotThere)]);
}

#[test]
fn section_has_one_revision_and_skipped_ranges_are_gaps() {
    let (gateway, partition) = (node("gw"), Partition(0));
    let mut builder = SectionBuilder::default();
    builder.own(partition, Seq(10));
    builder.revise(&gateway, Revision(1));
    assert_eq!(
        builder.take(&gateway, false),
        [section(0, 1, 10, 10, &[])],
        "the first section shows a new gateway where it starts"
    );
    builder.push(&gateway, partition, Seq(12), "a");
    builder.advance(partition, Seq(12));
    builder.cut(&gateway);
    builder.revise(&gateway, Revision(2));
    builder.push(&gateway, partition, Seq(14), "b");
    builder.advance(partition, Seq(14));
    builder.skip(partition, Seq(20));
    builder.advance(partition, Seq(21));
    let taken = builder.take(&gateway, true);
    assert_eq!(
        taken,
        [section(0, 1, 10, 12, &[(12, "a")]), section(0, 2, 12, 14, &[(14, "b")]), section(0, 2, 20, 21, &[])]
    );
    assert!(builder.take(&gateway, true).is_empty());
}

#[test]
fn contiguity_follows_the_delivery_count_of_the_consumer() {
    let mut contiguity = Contiguity::after(Seq(10));
    assert_eq!(contiguity.accept(Seq(15), 1), Delivered::Next);
    assert_eq!(contiguity.accept(Seq(15), 1), Delivered::Known);
    assert_eq!(contiguity.accept(Seq(40), 3), Delivered::Missed);
    assert_eq!(contiguity.last, Seq(15));
    // A consumer that restarts from the beginning of the stream is harmless.
    let mut contiguity = Contiguity::after(Seq(10));
    assert_eq!(contiguity.accept(Seq(1), 1), Delivered::Known);
    assert_eq!(contiguity.accept(Seq(11), 2), Delivered::Next);
}
