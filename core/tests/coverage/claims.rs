//! What routers claim: of what they read, and of what they read again.

use tickwire_core::coverage::builder::{Contiguity, Delivered, SectionBuilder};
use tickwire_core::coverage::completeness::MissingRange;
use tickwire_core::coverage::replay::{
    Purpose, ReplayBuilder, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest,
};
use tickwire_core::ids::{Partition, Revision, Seq};

use crate::made::{LIFE, node, section};

/// All of the stream was walked.
const ALL: Seq = Seq(u64::MAX);

/// For what comes after 10, up to 20.
fn request() -> ReplayRequest {
    ReplayRequest {
        gateway: node("gw"),
        partition: Partition(0),
        from: Seq(10),
        to: Seq(20),
        epoch_id: LIFE,
        interest: ReplayInterest::Told(Revision(1)),
        purpose: Purpose::Repair,
    }
}

#[test]
fn a_reply_claims_what_was_read_and_no_more() {
    let request = request();
    let reply = |read: &[(u64, Option<&'static str>)]| {
        let mut reply = ReplayBuilder::new(&request, Revision(1));
        read.iter().for_each(|(seq, wanted)| reply.read(Seq(*seq), *wanted));
        reply
    };
    let whole = reply(&[(12, Some("a")), (15, None), (20, Some("b"))]);
    assert!(whole.is_complete());
    assert_eq!(whole.finish(Seq(10), ALL, &[]), [ReplayPart::Events(section(0, 1, 10, 20, &[(12, "a"), (20, "b")]))]);
    // One that lies behind the range completes it as well, and is not part of it.
    let behind = reply(&[(12, Some("a")), (23, Some("c"))]);
    assert_eq!(behind.finish(Seq(0), ALL, &[]), [ReplayPart::Events(section(0, 1, 10, 20, &[(12, "a")]))]);
    // A replica that lags shows less.
    let lagging = reply(&[(12, Some("a")), (15, None)]);
    assert!(!lagging.is_complete());
    assert_eq!(lagging.finish(Seq(0), ALL, &[]), [ReplayPart::Events(section(0, 1, 10, 15, &[(12, "a")]))]);
    assert_eq!(reply(&[]).finish(Seq(0), ALL, &[]), [ReplayPart::Refused(ReplayRefusal::NotThere)]);
    // What retention has passed is not claimed, though some of it was read.
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
fn a_reply_tells_what_is_missing_between_what_it_gives() {
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
    let gone = |from, through, damaged| ReplayPart::Removed {
        partition: Partition(0),
        from: Seq(from),
        through: Seq(through),
        damaged,
    };
    let damaged = |from, through| gone(from, through, Some(Revision(1)));
    assert_eq!(
        finish(0, 20, &[(13, 14)]),
        [events(10, 13, &[(12, "a")]), damaged(13, 14), events(14, 20, &[(18, "b")])]
    );
    // At either end, and beyond it.
    assert_eq!(
        finish(0, 20, &[(8, 11), (19, 25)]),
        [damaged(10, 11), events(11, 19, &[(12, "a"), (18, "b")]), damaged(19, 20)]
    );
    // Where nothing that is wanted lies between, two are told as one.
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
    // What retention has taken is not damaged, and what was not walked is not claimed.
    assert_eq!(finish(13, 16, &[(11, 14)]), [gone(10, 13, None), damaged(13, 14), events(14, 16, &[])]);
    assert_eq!(finish(0, 10, &[]), [ReplayPart::Refused(ReplayRefusal::NotThere)]);
}

#[test]
fn a_claim_has_one_revision_and_shows_what_cannot_be_read() {
    let (gateway, partition) = (node("gw"), Partition(0));
    let mut claims = SectionBuilder::default();
    claims.own(partition, Seq(10));
    claims.revise(&gateway, Revision(1));
    assert_eq!(
        claims.take(&gateway, false),
        [section(0, 1, 10, 10, &[])],
        "a new gateway hears where its claims start"
    );
    claims.push(&gateway, partition, Seq(12), "a");
    claims.advance(partition, Seq(12));
    claims.cut(&gateway);
    claims.revise(&gateway, Revision(2));
    claims.push(&gateway, partition, Seq(14), "b");
    claims.advance(partition, Seq(14));
    claims.skip(partition, Seq(20));
    claims.advance(partition, Seq(21));
    let taken = claims.take(&gateway, true);
    assert_eq!(
        taken,
        [section(0, 1, 10, 12, &[(12, "a")]), section(0, 2, 12, 14, &[(14, "b")]), section(0, 2, 20, 21, &[])]
    );
    assert!(claims.take(&gateway, true).is_empty());
}

#[test]
fn a_reading_is_contiguous_in_the_consumers_own_count() {
    let mut reading = Contiguity::after(Seq(10));
    assert_eq!(reading.accept(Seq(15), 1), Delivered::Next);
    assert_eq!(reading.accept(Seq(15), 1), Delivered::Known);
    assert_eq!(reading.accept(Seq(40), 3), Delivered::Missed);
    assert_eq!(reading.last, Seq(15));
    // A consumer that starts again from the beginning of the stream is harmless.
    let mut reading = Contiguity::after(Seq(10));
    assert_eq!(reading.accept(Seq(1), 1), Delivered::Known);
    assert_eq!(reading.accept(Seq(11), 2), Delivered::Next);
}
