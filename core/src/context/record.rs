//! What the events of one market have stated. The owner of the partition of the market records it with
//! [`MarketRecord::observe`].

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::claims::{ClaimFault, StreamEnd};
use super::timeline::Timeline;
use super::{Point, Reading};
use crate::event::{Event, Kind, Regime, Timestamp, Volatility};
use crate::ids::{EpochId, Sector, Seq};
use crate::wire::{self, WireError};

/// The most changes of the regime, and of the volatility, of one market.
const MAX_CHANGES: usize = 64;

/// The most sectors of one market. The strength of further ones is not known.
const MAX_SECTORS: usize = 64;

/// The most changes of the strength of one sector. It changes more often than a regime, and there are many sectors.
const MAX_STRENGTHS: usize = 16;

/// Which markets remain when there is no room for all: those with several events before those with one, which may have
/// come by mistake, and then those whose last event is later. It follows from the events alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarketRank {
    is_repeated: bool,
    last: Seq,
}

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
    /// The last event of the market.
    #[serde(default)]
    last: Seq,
    /// Whether it was not the first.
    #[serde(default)]
    is_repeated: bool,
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
            last: Seq(0),
            is_repeated: false,
        }
    }

    /// What decides whether it remains when there is no room for all.
    #[must_use]
    pub fn rank(&self) -> MarketRank {
        MarketRank { is_repeated: self.is_repeated, last: self.last }
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

    /// When the message was stored up to which the record is complete.
    pub(super) fn stored(&self) -> Timestamp {
        self.stored
    }

    /// Takes an event of the market. Events come in order; one that the record has already is ignored. Returns whether
    /// what the record states has changed, so that it must be published at once.
    pub fn observe(&mut self, seq: Seq, event: &Event) -> bool {
        if event.kind != Kind::Market || seq <= self.through {
            return false;
        }
        self.read_through(seq, event.stored);
        (self.is_repeated, self.last) = (self.last > Seq(0), seq);
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
        // A record without its last event has at least its last change, and none has an event that it does not claim.
        record.last = record.last.max(record.last_change()).min(record.through);
        Ok(record)
    }

    fn last_change(&self) -> Seq {
        let strengths = self.sector_strength.values().filter_map(Timeline::last_change);
        let others = [self.regime.last_change(), self.volatility.last_change()];
        strengths.chain(others.into_iter().flatten()).max().unwrap_or(Seq(0))
    }
}

/// Sectors are compared without case, like other names in the data of producers.
fn strength_key(sector: &Sector) -> CompactString {
    CompactString::from(sector.as_str().to_ascii_lowercase())
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
    fn stored_record_claims_no_event_beyond_what_it_is_complete_up_to() {
        let mut record = MarketRecord::new(EpochId(1));
        for seq in [3, 5] {
            record.observe(Seq(seq), &stating(0, Some(Regime::Bull), &json!({})));
        }
        record.last = Seq(u64::MAX);
        let rank = |record: &MarketRecord| MarketRecord::from_bytes(&record.to_bytes().unwrap()).unwrap().rank();
        assert_eq!(rank(&record), MarketRank { is_repeated: true, last: Seq(5) });
        (record.last, record.is_repeated) = (Seq(0), false);
        assert_eq!(rank(&record), MarketRank { is_repeated: false, last: Seq(3) }, "the last change");
    }
}
