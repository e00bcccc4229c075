//! What was read of the buckets of the context, as changes of the surroundings. Pure.

use super::tenure::read_record;
use std::collections::HashSet;
use tickwire_core::context::{MarketRecord, ReferenceEntry};
use tickwire_core::event::{Timestamp, key};
use tickwire_core::ids::{MarketKey, Symbol};
use tickwire_node::bucket::{BucketEntry, UnreadableValues};

/// The records among entries of the bucket of the context. Those that cannot be read are left out: a router of another
/// version may have written them.
pub(super) fn records(entries: &[BucketEntry], unreadable: &mut UnreadableValues) -> Vec<(MarketKey, MarketRecord)> {
    let mut records = Vec::new();
    for BucketEntry { key, value, .. } in entries.iter().filter(|entry| !entry.value.is_empty()) {
        match read_record(key, value) {
            Some(record) => records.push(record),
            None => unreadable.note(key),
        }
    }
    records
}

/// A change of the reference data: the entry of a symbol, or its removal, and when that was stored.
pub(super) type ReferenceChange = (Symbol, Option<ReferenceEntry>, Timestamp);

/// The symbols with an entry, as far as the bucket was read.
#[derive(Debug, Default)]
pub(super) struct ReferenceBook {
    symbols: HashSet<Symbol>,
}

impl ReferenceBook {
    /// Takes entries of the bucket, which was looked at at `at`. If they are all that it has, other symbols have none
    /// any more. A value that cannot be read counts as none.
    pub(super) fn take(
        &mut self,
        entries: Vec<BucketEntry>,
        is_all: bool,
        at: Timestamp,
        unreadable: &mut UnreadableValues,
    ) -> Vec<ReferenceChange> {
        let former = if is_all { std::mem::take(&mut self.symbols) } else { HashSet::new() };
        let mut changes = Vec::new();
        for BucketEntry { key, stored, value, .. } in entries {
            let Some(symbol) = key::decode(&key).ok().and_then(|symbol| Symbol::new(&symbol).ok()) else {
                unreadable.note(&key);
                continue;
            };
            let entry: Option<ReferenceEntry> = serde_json::from_slice(&value).ok();
            if entry.is_none() && !value.is_empty() {
                unreadable.note(&key);
            }
            match entry {
                Some(_) => self.symbols.insert(symbol.clone()),
                None => self.symbols.remove(&symbol),
            };
            changes.push((symbol, entry, stored));
        }
        let gone = former.into_iter().filter(|symbol| !self.symbols.contains(symbol));
        let gone: Vec<_> = gone.map(|symbol| (symbol, None, at)).collect();
        changes.extend(gone);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{EpochId, Seq};
    use tickwire_node::names;

    fn entry(key: &str, stored: i64, value: &[u8]) -> BucketEntry {
        BucketEntry { key: key.to_owned(), revision: 1, stored: Timestamp(stored), value: value.to_vec() }
    }

    /// The symbol, the sector and the time of each change.
    fn shown(changes: Vec<ReferenceChange>) -> Vec<(String, Option<String>, i64)> {
        let sector = |entry: ReferenceEntry| entry.sector.to_string();
        changes.into_iter().map(|(symbol, entry, since)| (symbol.to_string(), entry.map(sector), since.0)).collect()
    }

    #[test]
    fn entries_are_changes_of_the_reference_data() {
        let mut book = ReferenceBook::default();
        let tech = |key, stored| entry(key, stored, br#"{"sector":"Tech"}"#);
        let sector = |symbol: &str, since| (symbol.to_owned(), Some("Tech".to_owned()), since);
        let none = |symbol: &str, since| (symbol.to_owned(), None, since);
        let first = vec![tech("AAPL", 1), tech("BRK=2EB", 2), tech("bad key", 3), entry("MSFT", 4, b"{")];
        let mut unreadable = UnreadableValues::default();
        let changes = shown(book.take(first, true, Timestamp(9), &mut unreadable));
        assert_eq!(changes, [sector("AAPL", 1), sector("BRK.B", 2), none("MSFT", 4)]);
        assert_eq!(unreadable.count(), 2, "a key and a value");
        let next = vec![entry("AAPL", 10, b""), tech("MSFT", 11)];
        let changes = shown(book.take(next, false, Timestamp(12), &mut unreadable));
        assert_eq!(changes, [none("AAPL", 10), sector("MSFT", 11)]);
        // A review finds that an entry was removed without a mark.
        let changes = shown(book.take(vec![tech("BRK=2EB", 2)], true, Timestamp(20), &mut unreadable));
        assert_eq!(changes, [sector("BRK.B", 2), none("MSFT", 20)]);
        assert_eq!(unreadable.count(), 2, "what was deleted is not unreadable");
    }

    #[test]
    fn only_market_records_are_taken() {
        let mut record = MarketRecord::new(EpochId(1));
        record.read_through(Seq(5), Timestamp(0));
        let bytes = record.to_bytes().unwrap();
        let (good, odd) = (names::market_key(7, "US"), names::volumes_key(7));
        let gone = entry("market.8.EU", 0, b"");
        let entries = [entry(&good, 0, &bytes), entry(&odd, 0, &bytes), entry("market.7.EU", 0, b"?"), gone];
        let mut unreadable = UnreadableValues::default();
        assert_eq!(records(&entries, &mut unreadable), [(MarketKey::new("US").unwrap(), record)]);
        assert_eq!(unreadable.count(), 2);
    }
}
