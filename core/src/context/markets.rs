//! What `market` events have stated, market by market. A market is the key of its events.
//!
//! The owner of the partition of a market records it with [`MarketRecord::observe`] and publishes the record. Other
//! routers take records with [`Markets::adopt_of_other`]. A record says up to where it is complete, so that a router
//! notices when it gets no more of them.

use std::collections::{BTreeMap, HashMap};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::claims::{ClaimFault, StreamEnd};
use super::timeline::Timeline;
use super::{Point, Reading};
use crate::event::{Event, Kind, Regime, Timestamp, Volatility};
use crate::ids::{EpochId, MarketKey, Sector, Seq};
use crate::wire::{self, WireError};

/// The most markets. Further ones are not taken.
pub const MAX_MARKETS: usize = 64;

/// The most changes of the regime, and of the volatility, of one market.
const MAX_CHANGES: usize = 64;

/// The most sectors of one market. The strength of further ones is not known.
const MAX_SECTORS: usize = 64;

/// The most changes of the strength of one sector. It changes more often than a regime, and there are many sectors.
const MAX_STRENGTHS: usize = 16;

/// What the events of one market have stated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MarketRecord {
    /// The epoch of the sequences.
    epoch_id: EpochId,
    /// The sequence up to which every event of the market is in the record.
    through: Seq,
    /// When the message at `through` was stored.
    stored: Timestamp,
    regime: Timeline<Regime>,
    volatility: Timeline<Volatility>,
    /// By name in lower case.
    sector_strength: BTreeMap<CompactString, Timeline<f64>>,
}

impl MarketRecord {
    /// An empty record.
    #[must_use]
    pub fn new(epoch_id: EpochId) -> Self {
        Self {
            epoch_id,
            through: Seq(0),
            stored: Timestamp(i64::MIN),
            regime: Timeline::default(),
            volatility: Timeline::default(),
            sector_strength: BTreeMap::new(),
        }
    }

    /// The epoch of the sequences. A record of another epoch says nothing about this one.
    #[must_use]
    pub fn epoch_id(&self) -> EpochId {
        self.epoch_id
    }

    /// The sequence up to which the record is complete.
    #[must_use]
    pub fn through(&self) -> Seq {
        self.through
    }

    /// Takes an event of the market. Events come in order; one that the record has already is ignored. Returns whether
    /// the record has changed, so that it must be published.
    pub fn observe(&mut self, seq: Seq, event: &Event) -> bool {
        if event.kind != Kind::Market || seq <= self.through {
            return false;
        }
        self.read_through(seq, event.stored);
        let point = Point { seq, stored: event.stored };
        let mut is_changed = event.regime.is_some_and(|regime| self.regime.state(point, regime, MAX_CHANGES));
        let volatility: Option<Volatility> =
            event.data.get("volatility_regime").and_then(|level| level.as_str()?.parse().ok());
        is_changed |= volatility.is_some_and(|level| self.volatility.state(point, level, MAX_CHANGES));
        let strengths = event.data.get("sector_strength").and_then(|strengths| strengths.as_object());
        for (name, strength) in strengths.into_iter().flatten() {
            if let (Some(strength), Ok(sector)) = (strength.as_f64(), Sector::new(name)) {
                is_changed |= self.state_strength(point, &sector, strength);
            }
        }
        is_changed
    }

    fn state_strength(&mut self, point: Point, sector: &Sector, strength: f64) -> bool {
        let name = strength_key(sector);
        if self.sector_strength.len() >= MAX_SECTORS && !self.sector_strength.contains_key(&name) {
            return false;
        }
        self.sector_strength.entry(name).or_default().state(point, strength, MAX_STRENGTHS)
    }

    /// Notes that the owner has read the partition up to a message, which was stored at `stored`: no event of the market
    /// up to it is missing.
    pub fn read_through(&mut self, seq: Seq, stored: Timestamp) {
        if seq > self.through {
            (self.through, self.stored) = (seq, stored);
        }
    }

    /// Checks that the stream has what the record claims.
    ///
    /// # Errors
    /// As [`StreamEnd::check`].
    pub fn check(&self, end: StreamEnd) -> Result<(), ClaimFault> {
        end.check(self.epoch_id, self.through, self.stored)
    }

    /// Whether the record has what a reading at `point` may depend on.
    pub(super) fn is_complete(&self, point: Point, reading: Reading) -> bool {
        match reading {
            Reading::Live => self.stored >= point.settled(),
            Reading::Replay => self.through >= point.seq,
        }
    }

    pub(super) fn regime(&self, point: Point, reading: Reading) -> Option<Regime> {
        self.regime.value(point, reading)
    }

    pub(super) fn volatility(&self, point: Point, reading: Reading) -> Option<Volatility> {
        self.volatility.value(point, reading)
    }

    pub(super) fn sector_strength(&self, sector: &Sector, point: Point, reading: Reading) -> Option<f64> {
        self.sector_strength.get(&strength_key(sector))?.value(point, reading)
    }

    /// The record as the value of a KV entry: a version byte and MessagePack.
    ///
    /// # Errors
    /// As [`wire::encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(self)
    }

    /// Reads the value of a KV entry. What it has beyond the limits is left out.
    ///
    /// # Errors
    /// As [`wire::decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let mut record: Self = wire::decode(bytes)?;
        record.regime.keep_last(MAX_CHANGES);
        record.volatility.keep_last(MAX_CHANGES);
        while record.sector_strength.len() > MAX_SECTORS {
            record.sector_strength.pop_last();
        }
        record.sector_strength.values_mut().for_each(|strengths| strengths.keep_last(MAX_STRENGTHS));
        Ok(record)
    }
}

/// Sectors are compared without case, like other names in the data of producers.
fn strength_key(sector: &Sector) -> CompactString {
    CompactString::from(sector.as_str().to_ascii_lowercase())
}

/// The records of all markets, as far as a router has them. They are of one epoch.
#[derive(Clone, Debug, Default)]
pub struct Markets {
    epoch_id: EpochId,
    records: HashMap<MarketKey, MarketRecord>,
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
        let is_new = record.epoch_id == self.epoch_id && !self.records.contains_key(&market);
        if is_new && self.records.len() >= MAX_MARKETS {
            return Err(ClaimFault::NoRoom);
        }
        Ok(self.adopt(market, record))
    }

    /// Takes a record if it is newer than the one that is here. The first one of a later epoch begins that epoch. Returns
    /// whether it was taken.
    pub fn adopt(&mut self, market: MarketKey, record: MarketRecord) -> bool {
        if record.epoch_id < self.epoch_id {
            return false;
        }
        self.begin_epoch(record.epoch_id);
        let is_taken = match self.records.get(&market) {
            Some(here) => record.through > here.through,
            None => self.records.len() < MAX_MARKETS,
        };
        if is_taken {
            self.records.insert(market, record);
        }
        is_taken
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
        self.records.values().map(|record| record.stored).min()
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
    use crate::event::blank_event;
    use serde_json::{Value, json};

    fn stating(stored: i64, regime: Option<Regime>, data: &Value) -> Event {
        let data = data.as_object().unwrap().clone();
        Event { kind: Kind::Market, key: "US".into(), stored: Timestamp(stored), regime, data, ..blank_event() }
    }

    fn at(seq: u64, stored: i64) -> Point {
        Point { seq: Seq(seq), stored: Timestamp(stored) }
    }

    #[test]
    fn field_that_an_event_does_not_state_keeps_its_value() {
        let mut record = MarketRecord::new(EpochId(1));
        let data = json!({ "volatility_regime": "high", "sector_strength": { "Tech": 0.5, "Energy": -1 } });
        assert!(record.observe(Seq(5), &stating(0, Some(Regime::Bull), &data)));
        assert!(!record.observe(Seq(6), &stating(0, Some(Regime::Bull), &json!({}))));
        assert!(record.observe(Seq(7), &stating(0, None, &json!({ "sector_strength": { "TECH": 0.75 } }))));
        let now = at(8, 0);
        assert_eq!(record.regime(now, Reading::Live), Some(Regime::Bull));
        assert_eq!(record.volatility(now, Reading::Live), Some(Volatility::High));
        let strength = |name| record.sector_strength(&Sector::new(name).unwrap(), now, Reading::Live);
        assert_eq!([strength("tech"), strength("Energy"), strength("Health")], [Some(0.75), Some(-1.0), None]);
    }

    #[test]
    fn stored_record_beyond_the_limits_keeps_what_came_last() {
        let mut record = MarketRecord::new(EpochId(1));
        for seq in 1..=5_000 {
            let regime = if seq % 2 == 0 { Regime::Bull } else { Regime::Bear };
            record.regime.state(at(seq, 0), regime, usize::MAX);
            let sector = CompactString::from(format!("sector {seq:04}"));
            record.sector_strength.entry(sector).or_default().state(at(seq, 0), 0.5, usize::MAX);
        }
        let stored = record.to_bytes().unwrap();
        let read = MarketRecord::from_bytes(&stored).unwrap();
        assert_eq!((read.sector_strength.len(), read.regime(at(5_001, 0), Reading::Live)), (64, Some(Regime::Bull)));
        assert!(read.to_bytes().unwrap().len() < stored.len() / 20, "the regimes are cut as well");
    }

    #[test]
    fn event_that_the_record_has_is_ignored() {
        let mut record = MarketRecord::new(EpochId(1));
        assert!(record.observe(Seq(5), &stating(0, Some(Regime::Bull), &json!({}))));
        record.read_through(Seq(9), Timestamp(3));
        for seq in [5, 7, 9] {
            assert!(!record.observe(Seq(seq), &stating(0, Some(Regime::Bear), &json!({}))), "{seq}");
        }
        assert!(record.observe(Seq(10), &stating(0, Some(Regime::Bear), &json!({}))));
    }

    #[test]
    fn record_survives_its_encoding_and_stays_small() {
        let mut record = MarketRecord::new(EpochId(7));
        for seq in 1..=2_000 {
            let sectors = (0..100).map(|number| (format!("{number:064}"), json!(seq + number)));
            let regime = Regime::ALL[seq as usize % Regime::ALL.len()];
            let level = Volatility::ALL[seq as usize % Volatility::ALL.len()];
            let data = json!({ "volatility_regime": level, "sector_strength": Value::Object(sectors.collect()) });
            assert!(record.observe(Seq(seq), &stating(seq as i64, Some(regime), &data)));
        }
        let bytes = record.to_bytes().unwrap();
        assert!(bytes.len() < 40_000, "{}", bytes.len());
        assert_eq!(MarketRecord::from_bytes(&bytes).unwrap(), record);
        let Err(other) = MarketRecord::from_bytes(&[&[wire::VERSION + 1][..], &bytes[1..]].concat()) else {
            panic!("another version was read")
        };
        assert!(other.is_other_version());
    }

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
            let market = MarketKey::new(&format!("M{number}")).unwrap();
            let adopted = markets.adopt_of_other(market, MarketRecord::new(EpochId(1)), end);
            assert_eq!(adopted, if number < MAX_MARKETS { Ok(true) } else { Err(ClaimFault::NoRoom) });
        }
        let mut markets = Markets::default();
        let adopted = (0..=MAX_MARKETS)
            .map(|number| markets.adopt(MarketKey::new(&format!("M{number}")).unwrap(), MarketRecord::new(EpochId(1))));
        assert_eq!(adopted.filter(|is_taken| *is_taken).count(), MAX_MARKETS);
    }
}
