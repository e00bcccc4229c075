//! Checks the record of a reader. It must have all published events that match its filter, exactly once, in order per
//! key and lane, except those of which it was notified. A fast reader may only get gaps if the stream discarded events
//! that its gateway had not received.

use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{Gap, Notice, ReceivedEvent, SeqRange};

use super::reader::{LedgerRecord, Reader};
use crate::oracle::{Log, OracleEntry, as_received, at, filter};

/// Counts of a reader's events.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Events that it got.
    pub(crate) received: usize,
    /// Events that it did not get, with a notice.
    pub(crate) missing: usize,
    /// Events that were sent `early`, and again after a resume.
    pub(crate) repeats: usize,
    /// Drops and conflations in notices. A resume may have delivered those events later.
    pub(crate) announced_drops: u64,
}

/// Fails unless a reader's record adds up. `gone` is the last sequence that the stream had discarded before the
/// reader's gateway had it, if it did.
pub(crate) fn assert_adds_up(name: &str, reader: &Reader, log: &Log, gone: Option<Seq>) -> Tally {
    let nature = &reader.nature;
    let wanted = log.matching(&nature.user, &[filter(&nature.filter)]);
    reader.look(|record| {
        let begin = record.begin.as_deref().unwrap_or_else(|| panic!("{name} never subscribed"));
        let due = wanted.into_iter().filter(|entry| entry.seq > at(begin, entry.partition));
        let due: BTreeMap<(Partition, Seq), &OracleEntry> =
            due.map(|entry| ((entry.partition, entry.seq), entry)).collect();
        let is_held = nature.is_slow || nature.may_be_rate_limited;
        let repeats = assert_once_and_in_order(name, record, &due, is_held);
        let had: BTreeSet<_> = record.events.iter().map(|got| (got.event.p, got.event.seq)).collect();
        let missing: Vec<_> = due.keys().filter(|place| !had.contains(place)).collect();
        let notified = assert_notified(name, record, &missing);
        assert_counted(name, record, &due);
        if !nature.is_slow {
            assert_eq!(record.incomplete, 0, "{name} reads fast, and got gaps {:?}", record.gaps);
            if let Some(gone) = gone {
                assert_gone(name, &record.gaps, record.events.iter().map(|got| &got.event), gone);
            } else {
                assert_eq!(record.gaps, [], "{name} reads fast");
                assert!(is_held || notified == 0, "{name} reads fast, and got notices of {notified} missing events");
                let rate = |notice: &Notice| ["throttled", "critical_budget"].contains(&notice.code.as_str());
                let other: Vec<_> = record.notices().filter(|notice| count(notice) > 0 && !rate(notice)).collect();
                assert!(other.is_empty(), "{name} reads fast, and got notices {other:?}");
            }
        }
        let announced_drops = record.notices().map(count).sum();
        Tally { received: had.len(), missing: notified, repeats, announced_drops }
    })
}

/// Fails unless each gap lies in the discarded range up to `gone`, and no received event lies in a gap.
pub(crate) fn assert_gone<'a>(
    name: &str,
    gaps: &[Gap],
    received: impl IntoIterator<Item = &'a ReceivedEvent>,
    gone: Seq,
) {
    let is_gone = |gap: &Gap| gap.reason == "retention" && gap.to <= gone;
    assert!(gaps.iter().all(is_gone), "{name} got gaps beyond the discarded range up to {gone}: {gaps:?}");
    let is_in = |event: &ReceivedEvent, gap: &Gap| gap.p == event.p && gap.from < event.seq && event.seq <= gap.to;
    for event in received {
        assert!(!gaps.iter().any(|gap| is_in(event, gap)), "{name} got {event:?}, which lies in a gap: {gaps:?}");
    }
}

/// Fails unless every event is expected, has the published content, and is repeated only if it was `early` before.
/// Returns the number of repeats.
fn assert_once_and_in_order(
    name: &str,
    record: &LedgerRecord,
    due: &BTreeMap<(Partition, Seq), &OracleEntry>,
    is_held: bool,
) -> usize {
    let (mut early, mut had, mut repeats) = (BTreeMap::new(), BTreeSet::new(), 0);
    let mut last = BTreeMap::new();
    for got in &record.events {
        let place = (got.event.p, got.event.seq);
        let entry = due.get(&place).unwrap_or_else(|| panic!("{name} got an unexpected event: {got:?}"));
        let mut expected = as_received(entry);
        expected.conflated = got.event.conflated;
        // What a router knew at the time.
        expected.context.clone_from(&got.event.context);
        assert_eq!(got.event, expected, "{name} received different content");
        assert!(is_held || got.event.conflated == 0, "{name} reads fast: {got:?}");
        let is_new = had.insert(place);
        if !is_new {
            let before = early.get(&place);
            assert!(
                before.is_some_and(|session| *session < got.session),
                "{name} received {place:?} again in session {} and not early in one before ({before:?})",
                got.session
            );
            repeats += 1;
        } else {
            // A resume may deliver events to such a reader after newer ones.
            let session = if is_held { got.session } else { 0 };
            let lane = (&entry.event.kind, &entry.event.key, got.event.priority, session);
            let before = last.insert(lane, got.event.seq);
            assert!(before.is_none_or(|before| before < got.event.seq), "{name} received {got:?} after {before:?}");
        }
        if got.is_early {
            early.insert(place, got.session);
        }
    }
    repeats
}

/// Fails unless each missing event lies in a gap or in a range of a notice. Returns the number of missing events.
fn assert_notified(name: &str, record: &LedgerRecord, missing: &[&(Partition, Seq)]) -> usize {
    let in_gap =
        |(p, seq): &(Partition, Seq)| record.gaps.iter().any(|gap| gap.p == *p && gap.from < *seq && *seq <= gap.to);
    let noticed = |(p, seq): &(Partition, Seq)| {
        let mut ranges = record.notices().flat_map(|notice| &notice.ranges);
        ranges.any(|range| range.p == *p && range.first <= *seq && *seq <= range.last)
    };
    let silent: Vec<_> = missing.iter().filter(|place| !in_gap(place) && !noticed(place)).collect();
    assert!(silent.is_empty(), "{name} misses without a notice {silent:?}, of {} missing", missing.len());
    missing.len()
}

/// Fails unless the notices of each session count exactly the missing events. If a session broke off, a notice may also
/// count events that were delivered in the next session, since no position covered them. So the count is a bound there,
/// and exact in the last session.
fn assert_counted(name: &str, record: &LedgerRecord, due: &BTreeMap<(Partition, Seq), &OracleEntry>) {
    for (number, session) in record.sessions.iter().enumerate() {
        let end = record.sessions.get(number + 1).map(|next| &next.begin);
        let is_in = |(p, seq): &(Partition, Seq)| {
            let at = usize::from(p.0);
            session.begin.get(at).is_some_and(|begin| begin < seq)
                && end.is_none_or(|end| end.get(at).is_some_and(|end| seq <= end))
        };
        let in_gap = |(p, seq): &(Partition, Seq)| {
            record.gaps.iter().any(|gap| gap.p == *p && gap.from < *seq && *seq <= gap.to)
        };
        let received = record.events.iter().filter(|got| got.session == number);
        let received: BTreeSet<_> = received.map(|got| (got.event.p, got.event.seq)).collect();
        let missing =
            due.keys().filter(|place| is_in(place) && !in_gap(place) && !received.contains(place)).count() as u64;
        let ends_within = |range: &SeqRange| {
            end.is_none_or(|end| end.get(usize::from(range.p.0)).is_some_and(|end| range.last <= *end))
        };
        let whole = session.notices.iter().filter(|notice| notice.ranges.iter().all(ends_within));
        let (least, most): (u64, u64) = (whole.map(count).sum(), session.notices.iter().map(count).sum());
        let notices = &session.notices;
        assert!(
            (least..=most).contains(&missing),
            "{name} misses {missing} in session {number}, and its notices count {least} to {most}: {notices:?}"
        );
    }
}

/// The number of missing events in a notice.
fn count(notice: &Notice) -> u64 {
    notice.dropped + notice.conflated
}
