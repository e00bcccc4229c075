//! What the operator has stated about symbols. The entries are in a KV bucket: the key is the symbol, encoded as in
//! subjects, and the value is the entry as JSON.

mod rows;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Point, Reading};
use crate::event::Timestamp;
use crate::ids::{MarketKey, Sector, SecurityName, Symbol};

pub use rows::{ReferenceError, ReferenceFile, ReferenceProblem, ReferenceRow, parse_reference};

/// The most symbols with an entry, also of a removed one. Further ones are not taken.
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
}

impl Default for ReferenceTable {
    fn default() -> Self {
        Self { stated: HashMap::new(), checked: Timestamp(i64::MIN) }
    }
}

impl ReferenceTable {
    /// Takes a change of an entry that was stored at `since`; `None` removes it. Returns whether the table has changed.
    pub fn set(&mut self, symbol: Symbol, entry: Option<ReferenceEntry>, since: Timestamp) -> bool {
        let is_change = match self.stated.get(&symbol) {
            // The same entry again keeps its time, so that a replay still finds it.
            Some(here) => here.since <= since && here.entry != entry,
            None => self.stated.len() < MAX_REFERENCES,
        };
        if is_change {
            self.stated.insert(symbol, Stated { entry, since });
        }
        is_change
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
    use crate::context::SETTLE_MS;
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
    fn entry_is_an_object_whose_absent_fields_are_left_out() {
        assert_eq!(serde_json::to_string(&of("Tech")).unwrap(), r#"{"sector":"Tech"}"#);
        let text = r#"{"sector":"Tech","name":"Apple Inc.","sector_strength":0.5,"market":"US"}"#;
        let entry: ReferenceEntry = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        assert!(serde_json::from_str::<ReferenceEntry>(r#"{"sector":""}"#).is_err());
        assert!(serde_json::from_str::<ReferenceEntry>(r#"{"name":"Apple Inc."}"#).is_err());
    }
}
