//! What the operator has stated about symbols. The entries are in a KV bucket: the key is the symbol, encoded as in
//! subjects, and the value is the entry as JSON.

mod rows;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Point, Reading, SETTLE_MS};
use crate::event::Timestamp;
use crate::ids::{MarketKey, Sector, SecurityName, Symbol};

pub use rows::{ReferenceError, ReferenceFile, ReferenceProblem, ReferenceRow, parse_reference};

/// The most symbols with an entry, also of a removed one that is not forgotten yet. Further ones are not taken.
pub const MAX_REFERENCES: usize = 65_536;

/// What is stated about one symbol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceEntry {
    /// Its sector.
    pub sector: Sector,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SecurityName>,
    /// The strength of the sector. If it is absent, that of the last market event counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sector_strength: Option<f64>,
    /// The market of the symbol. If it is absent, and `market` events have only one key, that one counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<MarketKey>,
}

/// An entry, or the fact that it was removed.
#[derive(Clone, Debug)]
struct Stated {
    entry: Option<ReferenceEntry>,
    /// When it was stored.
    since: Timestamp,
}

/// All entries, as far as a router has them.
#[derive(Clone, Debug)]
pub struct ReferenceTable {
    stated: HashMap<Symbol, Stated>,
    /// The time up to which every change is in the table.
    checked: Timestamp,
    /// No event of the stream depends on what was removed up to here.
    irrelevant: Timestamp,
    /// No removed entry is older.
    oldest_removal: Timestamp,
    /// How many changes were not taken because of the limit.
    ignored: u64,
}

impl Default for ReferenceTable {
    fn default() -> Self {
        let (first, last) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
        Self { stated: HashMap::new(), checked: first, irrelevant: first, oldest_removal: last, ignored: 0 }
    }
}

impl ReferenceTable {
    /// Takes a change of an entry that was stored at `since`; `None` removes it. Returns whether the table has changed.
    pub fn set(&mut self, symbol: Symbol, entry: Option<ReferenceEntry>, since: Timestamp) -> bool {
        let is_change = match self.stated.get(&symbol) {
            // The same entry again keeps its time, so that a replay still finds it.
            Some(here) => here.since <= since && here.entry != entry,
            None if entry.is_none() && since <= self.irrelevant => false,
            None => {
                let has_room = self.stated.len() < MAX_REFERENCES;
                self.ignored += u64::from(!has_room);
                has_room
            }
        };
        if is_change {
            if entry.is_none() {
                self.oldest_removal = self.oldest_removal.min(since);
            }
            self.stated.insert(symbol, Stated { entry, since });
        }
        is_change
    }

    /// Forgets removed entries on which no event depends any more. `oldest` is when the oldest event of the stream was
    /// stored. An entry that was removed [`SETTLE_MS`] before that is gone for every reading, like one that never was.
    /// Returns how many were forgotten.
    pub fn forget_removed(&mut self, oldest: Timestamp) -> usize {
        let irrelevant = self.irrelevant.max(Timestamp(oldest.0.saturating_sub(SETTLE_MS)));
        self.irrelevant = irrelevant;
        if self.oldest_removal > irrelevant {
            return 0;
        }
        let before = self.stated.len();
        self.stated.retain(|_, stated| stated.entry.is_some() || stated.since > irrelevant);
        let removals = self.stated.values().filter(|stated| stated.entry.is_none()).map(|stated| stated.since);
        self.oldest_removal = removals.min().unwrap_or(Timestamp(i64::MAX));
        before - self.stated.len()
    }

    /// How many changes were not taken, because there were too many symbols.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Notes that the table has every change that was stored before `now`: the bucket has been read once, and is being
    /// watched.
    pub fn mark_current(&mut self, now: Timestamp) {
        self.checked = self.checked.max(now);
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stated.values().filter(|stated| stated.entry.is_some()).count()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at `point`, or that there was none; `None` if it is not known which.
    pub(super) fn entry(
        &self,
        symbol: Option<&Symbol>,
        point: Point,
        reading: Reading,
    ) -> Option<Option<&ReferenceEntry>> {
        let (needed, latest) = match reading {
            Reading::Live => (point.settled(), point.stored),
            Reading::Replay => (point.stored, point.settled()),
        };
        if self.checked < needed {
            return None;
        }
        match symbol.and_then(|symbol| self.stated.get(symbol)) {
            Some(stated) => (stated.since <= latest).then_some(stated.entry.as_ref()),
            None => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Seq;

    fn of(sector: &str) -> ReferenceEntry {
        ReferenceEntry { sector: Sector::new(sector).unwrap(), name: None, sector_strength: None, market: None }
    }

    #[test]
    fn entry_is_read_as_of_its_point_or_not_at_all() {
        let symbol = Symbol::new("AAPL").unwrap();
        let mut table = ReferenceTable::default();
        let read = |table: &ReferenceTable, stored, reading| {
            let point = Point { seq: Seq(1), stored: Timestamp(stored) };
            table.entry(Some(&symbol), point, reading).map(|entry| entry.map(|entry| entry.sector.to_string()))
        };
        assert_eq!(read(&table, 0, Reading::Live), None);
        assert!(table.set(symbol.clone(), Some(of("Tech")), Timestamp(1_000)));
        table.mark_current(Timestamp(2_000));

        let tech = Some(Some("Tech".to_owned()));
        assert_eq!(read(&table, 999, Reading::Live), None);
        assert_eq!(read(&table, 1_000, Reading::Live), tech);
        assert_eq!(read(&table, 2_000 + SETTLE_MS, Reading::Live), tech);
        assert_eq!(read(&table, 2_001 + SETTLE_MS, Reading::Live), None);

        assert_eq!(read(&table, 1_000, Reading::Replay), None);
        assert_eq!(read(&table, 1_000 + SETTLE_MS, Reading::Replay), None);
        table.mark_current(Timestamp(1_000 + SETTLE_MS));
        assert_eq!(read(&table, 1_000 + SETTLE_MS, Reading::Replay), tech);
    }

    #[test]
    fn same_entry_again_keeps_its_time_and_older_ones_are_ignored() {
        let symbol = Symbol::new("AAPL").unwrap();
        let mut table = ReferenceTable::default();
        assert!(table.set(symbol.clone(), Some(of("Tech")), Timestamp(5)));
        assert!(!table.set(symbol.clone(), Some(of("Tech")), Timestamp(9)));
        assert!(!table.set(symbol.clone(), Some(of("Energy")), Timestamp(4)));
        assert_eq!(table.len(), 1);
        assert!(table.set(symbol.clone(), None, Timestamp(10)));
        assert!(!table.set(symbol, None, Timestamp(11)));
        assert!(table.is_empty());
    }

    #[test]
    fn removed_symbols_make_room_once_no_event_depends_on_them() {
        let symbol = |number: usize| Symbol::new(&format!("S{number}")).unwrap();
        let mut table = ReferenceTable::default();
        for number in 0..MAX_REFERENCES {
            assert!(table.set(symbol(number), None, Timestamp(number as i64)));
        }
        let further = symbol(MAX_REFERENCES);
        assert!(!table.set(further.clone(), Some(of("Tech")), Timestamp(70_000)));
        assert_eq!((table.ignored(), table.forget_removed(Timestamp(SETTLE_MS - 1))), (1, 0));
        // Those of the first ten moments are irrelevant for an event that was stored then, and for all after it.
        assert_eq!(table.forget_removed(Timestamp(SETTLE_MS + 9)), 10);
        assert!(table.set(further, Some(of("Tech")), Timestamp(70_000)));
        // Their marks in the bucket are no news, and take no room.
        assert!(!table.set(symbol(9), None, Timestamp(9)));
        assert_eq!((table.len(), table.ignored()), (1, 1));
        assert_eq!(table.forget_removed(Timestamp(i64::MAX)), MAX_REFERENCES - 10);
    }

    #[test]
    fn forgetting_removed_symbols_changes_no_reading_of_the_stream() {
        let (symbol, oldest) = (Symbol::new("AAPL").unwrap(), 100_000);
        for removed in [oldest - SETTLE_MS - 1, oldest - SETTLE_MS, oldest - SETTLE_MS + 1, oldest, oldest + 5] {
            let mut table = ReferenceTable::default();
            table.set(symbol.clone(), Some(of("Tech")), Timestamp(0));
            table.set(symbol.clone(), None, Timestamp(removed));
            table.mark_current(Timestamp(i64::MAX));
            let read = |table: &ReferenceTable| {
                let stored = [oldest, oldest + 1, oldest + 5, oldest + SETTLE_MS, oldest + SETTLE_MS + 5];
                let points = stored.map(|stored| Point { seq: Seq(1), stored: Timestamp(stored) });
                points.map(|point| {
                    [Reading::Live, Reading::Replay]
                        .map(|reading| table.entry(Some(&symbol), point, reading).map(|entry| entry.cloned()))
                })
            };
            let before = read(&table);
            let is_forgotten = table.forget_removed(Timestamp(oldest)) == 1;
            assert_eq!((is_forgotten, read(&table)), (removed <= oldest - SETTLE_MS, before), "{removed}");
        }
    }

    #[test]
    fn entry_is_an_object_whose_absent_fields_are_left_out() {
        assert_eq!(serde_json::to_string(&of("Tech")).unwrap(), r#"{"sector":"Tech"}"#);
        let text = r#"{"sector":"Tech","name":"Apple Inc.","sector_strength":0.5,"market":"US"}"#;
        let entry: ReferenceEntry = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        let later = text.replace('}', r#","isin":"US0378331005"}"#);
        assert_eq!(serde_json::from_str::<ReferenceEntry>(&later).unwrap(), entry, "of a later version");
        assert!(serde_json::from_str::<ReferenceEntry>(r#"{"sector":""}"#).is_err());
        assert!(serde_json::from_str::<ReferenceEntry>(r#"{"name":"Apple Inc."}"#).is_err());
    }
}
