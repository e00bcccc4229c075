//! The records of all markets. A market is the key of its events.
//!
//! The owner of the partition of a market publishes its record. Other routers take records with
//! [`Markets::adopt_of_other`]. A record says up to where it is complete, so that a router notices when it gets no more of
//! them.

use std::collections::{HashMap, HashSet};

use super::claims::{ClaimFault, StreamEnd};
use super::record::MarketRecord;
use crate::event::Timestamp;
use crate::ids::{EpochId, MarketKey};

/// The most markets. A further one takes the place of the one with the lowest [`MarketRank`](super::MarketRank).
pub const MAX_MARKETS: usize = 64;

/// The records of all markets, as far as a router has them. They are of one epoch.
#[derive(Clone, Debug, Default)]
pub struct Markets {
    epoch_id: EpochId,
    records: HashMap<MarketKey, MarketRecord>,
    /// How many times a record found no room, or made room for another.
    left_out: u64,
}

impl Markets {
    /// Takes a record of another router, as [`adopt`](Self::adopt) does. `end` was seen after the record was read. Only
    /// the stream begins an epoch, not a record.
    ///
    /// # Errors
    /// When the record is not to be believed, or there are too many markets.
    pub fn adopt_of_other(
        &mut self,
        market: MarketKey,
        record: MarketRecord,
        end: StreamEnd,
    ) -> Result<bool, ClaimFault> {
        record.check(end)?;
        self.begin_epoch(end.epoch_id);
        let is_new = record.epoch_id() == self.epoch_id && !self.records.contains_key(&market);
        let is_taken = self.adopt(market, record);
        if is_new && !is_taken { Err(ClaimFault::NoRoom) } else { Ok(is_taken) }
    }

    /// Takes a record if it is newer than the one that is here, or if there is room for its market: at the most the
    /// [`MAX_MARKETS`] of the highest rank have records. The first one of a later epoch begins that epoch. Returns whether
    /// it was taken.
    pub fn adopt(&mut self, market: MarketKey, record: MarketRecord) -> bool {
        if record.epoch_id() < self.epoch_id {
            return false;
        }
        self.begin_epoch(record.epoch_id());
        let is_taken = match self.records.get(&market) {
            Some(here) => record.through() > here.through(),
            None => self.has_room(&market, &record),
        };
        if is_taken {
            self.records.insert(market, record);
        }
        is_taken
    }

    /// Whether there is room for the record of a new market, after that of another may have made room for it.
    fn has_room(&mut self, market: &MarketKey, record: &MarketRecord) -> bool {
        if self.records.len() < MAX_MARKETS {
            return true;
        }
        self.left_out += 1;
        let lowest = self.records.iter().map(|(key, record)| (record.rank(), key)).min();
        let Some((_, evicted)) = lowest.filter(|lowest| *lowest < (record.rank(), market)) else { return false };
        let evicted = evicted.clone();
        self.records.remove(&evicted);
        true
    }

    /// Whether the record of a market is here.
    #[must_use]
    pub fn has(&self, market: &MarketKey) -> bool {
        self.records.contains_key(market)
    }

    /// How many times a record found no room, or made room for another.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Forgets the records that no router stores any more, and that are complete only up to a time before `before`: their
    /// owner has left them out. `stored` are the markets that have a record in the bucket.
    pub fn forget_left_out(&mut self, stored: &HashSet<MarketKey>, before: Timestamp) {
        self.records.retain(|market, record| record.stored() >= before || stored.contains(market));
    }

    /// Forgets the records of earlier epochs: their sequences mean other messages.
    pub fn begin_epoch(&mut self, epoch_id: EpochId) {
        if epoch_id > self.epoch_id {
            self.epoch_id = epoch_id;
            self.records.clear();
        }
    }

    /// The time up to which all records are complete; `None` if there are none.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.records.values().map(|record| record.stored()).min()
    }

    /// The record of the named market, or, without a name, of the only one. With several markets it is not known which
    /// one an event belongs to.
    pub(super) fn of(&self, market: Option<&MarketKey>) -> Option<&MarketRecord> {
        match market {
            Some(market) => self.records.get(market),
            None if self.records.len() == 1 => self.records.values().next(),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Kind, Regime, blank_event};
    use crate::ids::Seq;

    #[test]
    fn only_newer_records_are_adopted() {
        let (us, eu) = (MarketKey::new("US").unwrap(), MarketKey::new("EU").unwrap());
        let record = |epoch_id, through| {
            let mut record = MarketRecord::new(EpochId(epoch_id));
            record.read_through(Seq(through), Timestamp(0));
            record
        };
        let mut markets = Markets::default();
        assert!(markets.adopt(us.clone(), record(1, 5)));
        assert!(!markets.adopt(us.clone(), record(1, 5)));
        assert!(!markets.adopt(us.clone(), record(1, 4)));
        assert!(markets.adopt(us.clone(), record(1, 6)));
        assert!(markets.adopt(us.clone(), record(2, 1)));
        assert!(!markets.adopt(us.clone(), record(1, 9)));
        assert_eq!(markets.of(None), Some(&record(2, 1)));
        assert_eq!(markets.of(Some(&eu)), None);

        assert!(!markets.adopt(eu.clone(), record(1, 9)));
        assert!(markets.adopt(eu.clone(), record(2, 9)));
        assert_eq!(markets.of(None), None);
        markets.begin_epoch(EpochId(2));
        assert_eq!([markets.of(Some(&eu)), markets.of(Some(&us))], [Some(&record(2, 9)), Some(&record(2, 1))]);
        markets.begin_epoch(EpochId(3));
        assert_eq!([markets.of(Some(&eu)), markets.of(Some(&us))], [None, None]);
    }

    #[test]
    fn forged_record_shuts_out_no_real_one() {
        let market = MarketKey::new("US").unwrap();
        let record = |epoch_id, through, stored| {
            let mut record = MarketRecord::new(EpochId(epoch_id));
            record.read_through(Seq(through), Timestamp(stored));
            record
        };
        let end = |last| StreamEnd { epoch_id: EpochId(1), last: Seq(last), stored: Timestamp(last as i64) };
        let mut markets = Markets::default();
        let mut adopt = |record, last| markets.adopt_of_other(market.clone(), record, end(last));
        assert_eq!(adopt(record(1, 5, 5), 5), Ok(true));
        assert_eq!(adopt(record(EpochId::LAST.0, 6, 6), 6), Err(ClaimFault::LaterEpoch));
        assert_eq!(adopt(record(1, u64::MAX, 6), 6), Err(ClaimFault::AfterEnd));
        assert_eq!(adopt(record(1, 6, i64::MAX), 6), Err(ClaimFault::AfterEnd));
        // The most that a forged record can claim is the end of the stream, and the next real one is later.
        assert_eq!(adopt(record(1, 6, 6), 6), Ok(true));
        assert_eq!(adopt(record(1, 7, 7), 7), Ok(true));
        assert_eq!(adopt(record(0, 9, 9), 7), Ok(false));
    }

    #[test]
    fn number_of_markets_is_bounded() {
        let end = StreamEnd { epoch_id: EpochId(1), last: Seq(0), stored: Timestamp(0) };
        let mut markets = Markets::default();
        for number in 0..=MAX_MARKETS {
            let market = MarketKey::new(&format!("M{number:02}")).unwrap();
            let adopted = markets.adopt_of_other(market, MarketRecord::new(EpochId(1)), end);
            assert_eq!(adopted, Ok(true));
        }
        // Of the same rank, the first by name is left out.
        assert_eq!((markets.records.len(), markets.left_out()), (MAX_MARKETS, 1));
        let adopted = markets.adopt_of_other(MarketKey::new("M00").unwrap(), MarketRecord::new(EpochId(1)), end);
        assert_eq!((adopted, markets.left_out()), (Err(ClaimFault::NoRoom), 2));
    }

    /// A record of events of these sequences.
    fn of_events(seqs: &[u64]) -> MarketRecord {
        let mut record = MarketRecord::new(EpochId(1));
        for seq in seqs {
            let regime = Some(Regime::Bull);
            let event = Event { kind: Kind::Market, stored: Timestamp(*seq as i64), regime, ..blank_event() };
            record.observe(Seq(*seq), &event);
        }
        record
    }

    #[test]
    fn market_with_traffic_wins_over_those_that_came_once_in_any_order() {
        let named = |name: &str| MarketKey::new(name).unwrap();
        let mut records: Vec<_> =
            (0..80_u64).map(|number| (named(&format!("M{number}")), of_events(&[3 + number]))).collect();
        // It has two events, all before those of the others.
        records.push((named("US"), of_events(&[1, 2])));
        // It has one, after them.
        records.push((named("JP"), of_events(&[100])));
        for is_reversed in [false, true] {
            let mut markets = Markets::default();
            if is_reversed {
                records.reverse();
            }
            for (market, record) in &records {
                markets.adopt(market.clone(), record.clone());
            }
            assert_eq!(markets.records.len(), MAX_MARKETS);
            for (name, is_here) in [("US", true), ("JP", true), ("M17", false), ("M18", true), ("M79", true)] {
                assert_eq!(markets.has(&named(name)), is_here, "{name}");
            }
            assert_eq!(markets.left_out(), 18);
        }
    }

    #[test]
    fn record_that_nobody_stores_is_forgotten_when_it_lags() {
        let named = |name: &str| MarketKey::new(name).unwrap();
        let mut markets = Markets::default();
        markets.adopt(named("US"), of_events(&[10]));
        markets.adopt(named("EU"), of_events(&[10]));
        markets.adopt(named("JP"), of_events(&[11]));
        markets.forget_left_out(&HashSet::from([named("US")]), Timestamp(11));
        assert_eq!(["US", "EU", "JP"].map(|name| markets.has(&named(name))), [true, false, true]);
    }
}
