//! Running averages of the volumes of one partition.
//!
//! An average is of the events of one kind, symbol and tier, because bars of different lengths have different volumes.
//! Only events whose key is their symbol count: all events of a kind and key are in one partition, in order.
//!
//! With the volumes `v(1), v(2), …` the average after `v(n)` is
//!
//! ```text
//! a(1) = v(1)        a(n) = a(n-1) + (v(n) - a(n-1)) / min(n, 20)
//! ```
//!
//! Of the first [`AVERAGED`] volumes this is the arithmetic mean (the recurrence of B. P. Welford, Technometrics 4, 1962,
//! p. 419). From then on it is the exponentially weighted moving average with the weight 1/20 (NIST/SEMATECH e-Handbook
//! of Statistical Methods, 6.3.2.4). It needs no list of the last volumes.
//!
//! From then on a volume counts with at most [`MAX_STEP`] times the average before it: one odd volume may not decide the
//! average of many events. A volume above [`MAX_VOLUME`] counts as absent.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::event::{Event, Kind, Tier};
use crate::ids::{EpochId, Seq, Symbol};
use crate::wire::{self, WireError};

/// The number of volumes of which an average is the arithmetic mean, and the inverse of the weight of each later one.
pub const AVERAGED: u8 = 20;

/// The most that a volume counts, in averages before it, once there are [`AVERAGED`] volumes. So it raises the average
/// to at most `1 + 99 / 20` times what it was, and half of that is gone after 14 usual volumes: `0.95^14 < 1/2`. Ten times
/// the usual volume is a rare day, so true volumes are hardly ever cut.
const MAX_STEP: f64 = 100.0;

/// The largest volume. It is far above those of the most traded securities, which are below 10^12 a day.
const MAX_VOLUME: f64 = 1e15;

/// The most averages of one partition. The one that has waited longest for a volume is removed first.
pub const MAX_AVERAGES: usize = 8_192;

/// The events that have an average in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct VolumeKey {
    kind: Kind,
    symbol: Symbol,
    tier: Option<Tier>,
}

/// An average, not rounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Average {
    mean: f64,
    /// How many volumes it is of, at most [`AVERAGED`].
    count: u8,
    /// The event with the last volume.
    last: Seq,
}

impl Average {
    fn first(volume: f64, seq: Seq) -> Self {
        Self { mean: volume, count: 1, last: seq }
    }

    fn with(self, volume: f64, seq: Seq) -> Self {
        let count = (self.count + 1).min(AVERAGED);
        // An average of 0 would stay 0.
        let is_bounded = self.count >= AVERAGED && self.mean > 0.0;
        let counted = if is_bounded { volume.min(self.mean * MAX_STEP) } else { volume };
        Self { mean: self.mean + (counted - self.mean) / f64::from(count), count, last: seq }
    }

    /// A volume in relation to the average, rounded to two decimals, halves away from zero. `None` if the average is 0,
    /// or so small that the ratio is no number.
    fn relative(self, volume: f64) -> Option<f64> {
        let hundredths = volume / self.mean * 100.0;
        hundredths.is_finite().then(|| hundredths.round() / 100.0)
    }

    fn is_valid(self) -> bool {
        (0.0..=MAX_VOLUME).contains(&self.mean) && (1..=AVERAGED).contains(&self.count)
    }
}

/// The averages of one partition, as of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeAverages {
    epoch_id: EpochId,
    /// The last event that was observed.
    through: Seq,
    averages: HashMap<VolumeKey, Average>,
    /// The keys in the order of their last volumes.
    by_age: BTreeMap<Seq, VolumeKey>,
}

/// The form in which averages are stored: in the order of their last volumes.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    epoch_id: EpochId,
    through: Seq,
    averages: Vec<(VolumeKey, Average)>,
}

impl VolumeAverages {
    /// No averages yet.
    #[must_use]
    pub fn new(epoch_id: EpochId) -> Self {
        Self { epoch_id, through: Seq(0), averages: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// The epoch of the sequences. Averages of another epoch are of no use in this one.
    #[must_use]
    pub fn epoch_id(&self) -> EpochId {
        self.epoch_id
    }

    /// The sequence up to which events were observed.
    #[must_use]
    pub fn through(&self) -> Seq {
        self.through
    }

    /// Takes the next event of the partition, and returns its volume in relation to the average before it. `None` if it
    /// has no volume, if there is no average yet, or if it was observed already: the averages are those of a later point.
    pub fn observe(&mut self, seq: Seq, event: &Event) -> Option<f64> {
        if seq <= self.through {
            return None;
        }
        self.through = seq;
        let (key, volume) = measured(event)?;
        let before = self.averages.get(&key).copied();
        let after = before.map_or_else(|| Average::first(volume, seq), |before| before.with(volume, seq));
        self.put(key, after);
        before?.relative(volume)
    }

    fn put(&mut self, key: VolumeKey, average: Average) {
        self.by_age.insert(average.last, key.clone());
        if let Some(before) = self.averages.insert(key, average) {
            self.by_age.remove(&before.last);
        }
        while self.by_age.len() > MAX_AVERAGES {
            if let Some((_, oldest)) = self.by_age.pop_first() {
                self.averages.remove(&oldest);
            }
        }
    }

    /// The averages as the value of a KV entry: a version byte and MessagePack, below 1 MiB.
    ///
    /// # Errors
    /// As [`wire::encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        let by_age = self.by_age.values();
        let averages = by_age.filter_map(|key| Some((key.clone(), *self.averages.get(key)?))).collect();
        wire::encode(&Stored { epoch_id: self.epoch_id, through: self.through, averages })
    }

    /// Reads the value of a KV entry. Averages that cannot be are left out.
    ///
    /// # Errors
    /// As [`wire::decode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let stored: Stored = wire::decode(bytes)?;
        let mut averages = Self::new(stored.epoch_id);
        averages.through = stored.through;
        for (key, average) in stored.averages {
            let is_next = averages.by_age.last_key_value().is_none_or(|(last, _)| *last < average.last);
            let is_known = averages.averages.contains_key(&key);
            if average.is_valid() && is_next && !is_known && average.last <= stored.through {
                averages.put(key, average);
            }
        }
        Ok(averages)
    }
}

/// The average that an event belongs to, and its volume; `None` if it has none that can be.
fn measured(event: &Event) -> Option<(VolumeKey, f64)> {
    let symbol = event.symbol.as_ref().filter(|symbol| symbol.as_str() == event.key.as_str())?;
    let volume = event.data.get("volume")?.as_f64().filter(|volume| (0.0..=MAX_VOLUME).contains(volume))?;
    Some((VolumeKey { kind: event.kind.clone(), symbol: symbol.clone(), tier: event.tier }, volume))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::blank_event;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tickwire_testkit::assert_vectors;

    fn with_volume(symbol: &str, tier: Option<Tier>, volume: &Value) -> Event {
        let data = json!({ "volume": volume }).as_object().unwrap().clone();
        Event { key: symbol.into(), symbol: Symbol::new(symbol).ok(), tier, data, ..blank_event() }
    }

    fn observed(averages: &mut VolumeAverages, volumes: &[Value]) -> Vec<Option<f64>> {
        let each = volumes.iter();
        each.map(|volume| averages.observe(Seq(averages.through().0 + 1), &with_volume("AAPL", None, volume))).collect()
    }

    #[test]
    fn volume_is_relative_to_the_mean_of_those_before_it() {
        let mut averages = VolumeAverages::new(EpochId(1));
        let found = observed(&mut averages, &[json!(100), json!(200), json!(300), json!(50.0), json!(1)]);
        // The means before each volume: none, 100, 150, 200, 162.5.
        assert_eq!(found, [None, Some(2.0), Some(2.0), Some(0.25), Some(0.01)]);
    }

    #[test]
    fn later_volumes_have_a_weight_of_a_twentieth() {
        let mut averages = VolumeAverages::new(EpochId(1));
        observed(&mut averages, &vec![json!(100); 500]);
        // 100, then 100 + (2100 - 100) / 20.
        assert_eq!(observed(&mut averages, &[json!(2_100), json!(300)]), [Some(21.0), Some(1.5)]);
    }

    #[test]
    fn event_without_a_usable_volume_has_no_relative_volume() {
        let mut averages = VolumeAverages::new(EpochId(1));
        observed(&mut averages, &[json!(100)]);
        let found = observed(&mut averages, &[json!("100"), json!(-1), Value::Null, json!([1]), json!(100)]);
        assert_eq!(found, [None, None, None, None, Some(1.0)]);
        let alert = Event { key: "bob".into(), ..with_volume("AAPL", None, &json!(100)) };
        assert_eq!(averages.observe(Seq(50), &alert), None);
        let other_tier = with_volume("AAPL", Some(Tier::Daily), &json!(100));
        assert_eq!(averages.observe(Seq(51), &other_tier), None);
        assert_eq!(averages.observe(Seq(52), &other_tier), Some(1.0));
    }

    #[test]
    fn average_of_zero_gives_no_ratio() {
        let mut averages = VolumeAverages::new(EpochId(1));
        let volumes = [json!(0), json!(0), json!(10), json!(f64::MAX), json!(f64::MAX), json!(f64::MAX)];
        let found = observed(&mut averages, &volumes);
        assert_eq!(found[..4], [None, None, None, None]);
        assert!(found.iter().flatten().all(|ratio| ratio.is_finite()), "{found:?}");
    }

    #[test]
    fn one_odd_volume_does_not_decide_the_average_of_many_events() {
        let mut averages = VolumeAverages::new(EpochId(1));
        observed(&mut averages, &vec![json!(100); usize::from(AVERAGED)]);
        // Too large to be one.
        assert_eq!(observed(&mut averages, &[json!(1e308), json!(2e15), json!(100)]), [None, None, Some(1.0)]);
        // It is reported as it is, but counts as 10,000: 100 + (10,000 - 100) / 20 = 595.
        assert_eq!(observed(&mut averages, &[json!(1e12), json!(595)]), [Some(1e10), Some(1.0)]);
        let after = observed(&mut averages, &vec![json!(100); 60]);
        assert!(after[59].is_some_and(|ratio| (0.8..=1.0).contains(&ratio)), "{after:?}");
    }

    #[test]
    fn average_of_many_zeros_follows_the_volumes_after_them() {
        let mut averages = VolumeAverages::new(EpochId(1));
        observed(&mut averages, &vec![json!(0); 30]);
        // 100 / 20.
        assert_eq!(observed(&mut averages, &[json!(100), json!(5)]), [None, Some(1.0)]);
    }

    #[test]
    fn event_that_was_observed_already_changes_nothing() {
        let mut averages = VolumeAverages::new(EpochId(1));
        observed(&mut averages, &[json!(100), json!(200)]);
        let before = averages.clone();
        assert_eq!(averages.observe(Seq(2), &with_volume("AAPL", None, &json!(900))), None);
        assert_eq!(averages, before);
    }

    #[test]
    fn average_that_has_waited_longest_is_removed() {
        let mut averages = VolumeAverages::new(EpochId(1));
        let named = |number: usize| with_volume(&format!("S{number}"), None, &json!(100));
        for number in 0..MAX_AVERAGES {
            averages.observe(Seq(number as u64 + 1), &named(number));
        }
        let next = Seq(MAX_AVERAGES as u64 + 1);
        assert_eq!(averages.observe(next, &named(0)), Some(1.0));
        assert_eq!(averages.observe(Seq(next.0 + 1), &named(MAX_AVERAGES)), None);
        assert_eq!(averages.observe(Seq(next.0 + 2), &named(0)), Some(1.0));
        assert_eq!(averages.observe(Seq(next.0 + 3), &named(1)), None);
        assert_eq!((averages.averages.len(), averages.by_age.len()), (MAX_AVERAGES, MAX_AVERAGES));
    }

    #[test]
    fn stored_averages_fit_in_a_kv_entry() {
        let mut averages = VolumeAverages::new(EpochId(u64::MAX / 2));
        for number in 0..MAX_AVERAGES {
            let event = with_volume(&format!("{number:032}"), Some(Tier::Intraday), &json!(0.1));
            averages.observe(Seq(u64::MAX / 2 + number as u64), &event);
        }
        let bytes = averages.to_bytes().unwrap();
        assert!(bytes.len() < 900_000, "{}", bytes.len());
        assert_eq!(VolumeAverages::from_bytes(&bytes).unwrap(), averages);
    }

    #[test]
    fn stored_averages_that_cannot_be_are_left_out() {
        let key = |symbol| VolumeKey { kind: Kind::Pattern, symbol: Symbol::new(symbol).unwrap(), tier: None };
        let average = |mean, count, last| Average { mean, count, last: Seq(last) };
        let stored = Stored {
            epoch_id: EpochId(1),
            through: Seq(9),
            averages: vec![
                (key("NAN"), average(f64::NAN, 1, 1)),
                (key("NEGATIVE"), average(-1.0, 1, 2)),
                (key("NONE"), average(1.0, 0, 3)),
                (key("MANY"), average(1.0, AVERAGED + 1, 4)),
                (key("HUGE"), average(1e16, 1, 4)),
                (key("GOOD"), average(1.0, 1, 5)),
                (key("GOOD"), average(2.0, 1, 6)),
                (key("SAME"), average(1.0, 1, 5)),
                (key("LATER"), average(1.0, 1, 10)),
            ],
        };
        let read = VolumeAverages::from_bytes(&wire::encode(&stored).unwrap()).unwrap();
        assert_eq!(read.averages, HashMap::from([(key("GOOD"), average(1.0, 1, 5))]));
        assert_eq!((read.through(), read.by_age.len()), (Seq(9), 1));
    }

    /// The averages of all volumes so far, from a list of them.
    fn mean_of(volumes: &[f64]) -> f64 {
        let (first, later) = volumes.split_at(volumes.len().min(AVERAGED.into()));
        let mean = first.iter().sum::<f64>() / first.len() as f64;
        later.iter().fold(mean, |mean, &volume| mean * 0.95 + volume.min(mean * MAX_STEP) * 0.05)
    }

    proptest! {
        #[test]
        fn relative_volume_is_that_of_a_list_of_all_volumes(volumes in prop::collection::vec(0.001..1e9_f64, 1..60)) {
            let mut averages = VolumeAverages::new(EpochId(1));
            for (index, volume) in volumes.iter().enumerate() {
                let found = averages.observe(Seq(index as u64 + 1), &with_volume("AAPL", None, &json!(volume)));
                prop_assert_eq!(found.is_some(), index > 0);
                if let Some(found) = found {
                    let expected = volume / mean_of(&volumes[..index]);
                    prop_assert!((found - expected).abs() <= 0.005 + expected * 1e-9, "{} {}", found, expected);
                }
            }
        }

        #[test]
        fn restart_at_any_event_changes_no_value(
            volumes in prop::collection::vec((0..3_usize, 0..1_000_u32), 1..60),
            restart in 0..60_usize,
            again in 0..5_usize,
        ) {
            let events: Vec<_> = (volumes.iter())
                .map(|(symbol, volume)| with_volume(["A", "B", "C"][*symbol], None, &json!(volume)))
                .collect();
            let seq = |index: usize| Seq(index as u64 * 3 + 1);
            let mut steady = VolumeAverages::new(EpochId(1));
            let expected: Vec<_> = events.iter().enumerate().map(|(i, event)| steady.observe(seq(i), event)).collect();

            let restart = restart.min(events.len());
            let mut before = VolumeAverages::new(EpochId(1));
            for (index, event) in events[..restart].iter().enumerate() {
                before.observe(seq(index), event);
            }
            let mut after = VolumeAverages::from_bytes(&before.to_bytes().unwrap()).unwrap();
            // The next owner reads some events again.
            for (index, event) in events.iter().enumerate().skip(restart.saturating_sub(again)) {
                let found = after.observe(seq(index), event);
                prop_assert_eq!(found, expected[index].filter(|_| index >= restart));
            }
            prop_assert_eq!(after, steady);
        }
    }

    #[test]
    fn stored_averages_have_the_documented_form() {
        assert_vectors::<Stored>("volume_averages");
    }
}
