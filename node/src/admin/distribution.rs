//! What a histogram has recorded: how many values lie at or below each of its bounds. Pure.

use std::collections::BTreeMap;

/// The recorded values of a histogram.
#[derive(Debug, Default)]
pub struct Distribution {
    /// Each bound with the number of values at or below it, in the order of the bounds.
    bounds: Vec<(f64, f64)>,
    /// How many values there are.
    count: f64,
}

impl Distribution {
    /// The distribution of these buckets: the text of a bound, and the number of values at or below it.
    pub(super) fn new<'a>(buckets: impl Iterator<Item = (&'a str, f64)>) -> Self {
        let mut distribution = Self::default();
        for (bound, below) in buckets {
            match bound.parse::<f64>() {
                Ok(bound) if bound.is_finite() => distribution.bounds.push((bound, below)),
                Ok(_) => distribution.count = below,
                Err(_) => {}
            }
        }
        distribution.bounds.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        distribution
    }

    /// The same without the values of an earlier reading.
    pub(super) fn without(mut self, earlier: &Self) -> Self {
        let before: BTreeMap<u64, f64> =
            earlier.bounds.iter().map(|(bound, below)| (bound.to_bits(), *below)).collect();
        for (bound, below) in &mut self.bounds {
            *below -= before.get(&bound.to_bits()).copied().unwrap_or_default();
        }
        self.count -= earlier.count;
        self
    }

    /// How many values there are.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// The bound below which this part of the values lies; `None` if it lies beyond all bounds, or there are no values.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = Some(self.count).filter(|count| *count > 0.0)? * part;
        self.bounds.iter().find(|(_, below)| *below >= wanted).map(|(bound, _)| *bound)
    }

    /// The part of the values that is at most this large, where the next bound decides; all if there are no values.
    pub fn share_within(&self, most: f64) -> f64 {
        let within = self.bounds.iter().find(|(bound, _)| *bound >= most).map_or(self.count, |(_, below)| *below);
        if self.count > 0.0 { within / self.count } else { 1.0 }
    }
}
