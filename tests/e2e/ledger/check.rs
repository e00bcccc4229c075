//! What a reader must have got: its filter over everything that was published, exactly once, in order per key and lane,
//! but for what it was told of. Of those that read fast only they may be told of anything whose gateway had not had what
//! the stream has discarded since.

use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{Gap, Notice, Range, ReceivedEvent};

use super::reader::{LedgerRecord, Reader};
use crate::oracle::{Log, OracleEntry, as_received, at, filter};

/// What became of a reader's events.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// How many it got.
    pub(crate) received: usize,
    /// How many it did not get, and was told of.
    pub(crate) missing: usize,
    /// How many came early, and again after a resume.
    pub(crate) repeats: usize,
    /// How many it was told that it would not get as they came; a resume may have given them after all.
    pub(crate) let_go: u64,
}

/// Fails unless a reader's record adds up. `gone` is the last sequence that the stream had discarded before the reader's
/// gateway had it, if it did.
pub(crate) fn assert_adds_up(name: &str, reader: &Reader, log: &Log, gone: Option<Seq>) -> Tally {
    let nature = &reader.nature;
    let wanted = log.matching(&nature.user, &[filter(&nature.filter)]);
    reader.look(|record| {
        let begin = record.begin.as_deref().unwrap_or_else(|| panic!("{name} never subscribed"));
        let due = wanted.into_iter().filter(|entry| entry.seq > at(begin, entry.partition));
        let due: BTreeMap<(Partition, Seq), &OracleEntry> =
            due.map(|entry| ((entry.partition, entry.seq), entry)).collect();
        let is_held = nature.is_slow || nature.may_be_held;
        let repeats = assert_once_and_in_order(name, record, &due, is_held);
        let had: BTreeSet<_> = record.events.iter().map(|got| (got.event.p, got.event.seq)).collect();
        let missing: Vec<_> = due.keys().filter(|place| !had.contains(place)).collect();
        let told = assert_told(name, record, &missing);
        assert_counted(name, record, &due);
        if !nature.is_slow {
            assert_eq!(record.incomplete, 0, "{name} reads fast, and was told {:?}", record.gaps);
            if let Some(gone) = gone {
                assert_gone(name, &record.gaps, record.events.iter().map(|got| &got.event), gone);
            } else {
                assert_eq!(record.gaps, [], "{name} reads fast");
                assert!(is_held || told == 0, "{name} reads fast, and is told that {told} do not come");
                let rate = |notice: &Notice| ["throttled", "critical_budget"].contains(&notice.code.as_str());
                let other: Vec<_> = record.notices().filter(|notice| count(notice) > 0 && !rate(notice)).collect();
                assert!(other.is_empty(), "{name} reads fast, and is told {other:?}");
            }
        }
        let let_go = record.notices().map(count).sum();
        Tally { received: had.len(), missing: told, repeats, let_go }
    })
}

/// Fails unless each gap is of what the stream has discarded up to `gone`, and no event came that lies in one.
pub(crate) fn assert_gone<'a>(
    name: &str,
    gaps: &[Gap],
    received: impl IntoIterator<Item = &'a ReceivedEvent>,
    gone: Seq,
) {
    let is_gone = |gap: &Gap| gap.reason == "retention" && gap.to <= gone;
    assert!(gaps.iter().all(is_gone), "{name} was told more than what is gone up to {gone}: {gaps:?}");
    let is_in = |event: &ReceivedEvent, gap: &Gap| gap.p == event.p && gap.from < event.seq && event.seq <= gap.to;
    for event in received {
        assert!(!gaps.iter().any(|gap| is_in(event, gap)), "{name} was told that it would not get {event:?}: {gaps:?}");
    }
}

/// Every event is one that is due, as it was published, and comes again only if it came early before. Gives how many do.
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
        let entry = due.get(&place).unwrap_or_else(|| panic!("{name} got what is not meant for it: {got:?}"));
        let mut expected = as_received(entry);
        expected.conflated = got.event.conflated;
        assert_eq!(got.event, expected, "{name} received another content");
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
            // Of what such a reader was told it may get some after a resume, behind what came before.
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

/// Each missing event lies in a gap, or is one of those that notices count. Gives how many are missing.
fn assert_told(name: &str, record: &LedgerRecord, missing: &[&(Partition, Seq)]) -> usize {
    let in_gap =
        |(p, seq): &(Partition, Seq)| record.gaps.iter().any(|gap| gap.p == *p && gap.from < *seq && *seq <= gap.to);
    let noticed = |(p, seq): &(Partition, Seq)| {
        let mut ranges = record.notices().flat_map(|notice| &notice.ranges);
        ranges.any(|range| range.p == *p && range.first <= *seq && *seq <= range.last)
    };
    let silent: Vec<_> = missing.iter().filter(|place| !in_gap(place) && !noticed(place)).collect();
    assert!(silent.is_empty(), "{name} misses, without a word, {silent:?} of {} missing", missing.len());
    missing.len()
}

/// In each session, what was due and did not come is what notices counted, exactly. Of a session that broke off, a
/// notice may also count what came in the next one, since no position covered it: so that count is a bound there, and
/// exact again in the last session.
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
        let came = record.events.iter().filter(|got| got.session == number);
        let came: BTreeSet<_> = came.map(|got| (got.event.p, got.event.seq)).collect();
        let missing = due.keys().filter(|place| is_in(place) && !in_gap(place) && !came.contains(place)).count() as u64;
        let ends_within =
            |range: &Range| end.is_none_or(|end| end.get(usize::from(range.p.0)).is_some_and(|end| range.last <= *end));
        let whole = session.notices.iter().filter(|notice| notice.ranges.iter().all(ends_within));
        let (least, most): (u64, u64) = (whole.map(count).sum(), session.notices.iter().map(count).sum());
        let notices = &session.notices;
        assert!(
            (least..=most).contains(&missing),
            "{name} misses {missing} in session {number} and was told of {least} to {most}: {notices:?}"
        );
    }
}

/// How many events a notice says that do not come.
fn count(notice: &Notice) -> u64 {
    notice.dropped + notice.conflated
}
