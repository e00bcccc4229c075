//! Bars of prices, and their times.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

const NEW_YORK: &str = "America/New_York";

/// The time of a bar: a whole trading day, or one minute of it.
///
/// Both kinds can be compared. A day counts as its close, 16:00 in New York, because its bar is not known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BarTime {
    instant: Timestamp,
    offset: Offset,
    whole_day: bool,
}

impl BarTime {
    /// The time of the bar of the trading day `date`.
    pub fn day(date: Date) -> Result<Self, jiff::Error> {
        Self::in_new_york(date.at(16, 0, 0, 0), true)
    }

    /// The time of the bar of the minute that begins at `local`, New York time.
    pub fn minute(local: DateTime) -> Result<Self, jiff::Error> {
        Self::in_new_york(local, false)
    }

    fn in_new_york(local: DateTime, whole_day: bool) -> Result<Self, jiff::Error> {
        let zoned = local.in_tz(NEW_YORK)?;
        Ok(Self { instant: zoned.timestamp(), offset: zoned.offset(), whole_day })
    }

    /// The trading day.
    pub fn date(&self) -> Date {
        self.offset.to_datetime(self.instant).date()
    }
}

/// `2010-02-03` for a day, `2019-11-05T09:31:00-05:00` for a minute.
impl fmt::Display for BarTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whole_day { self.date().fmt(f) } else { self.instant.display_with_offset(self.offset).fmt(f) }
    }
}

/// The prices of one symbol in one period of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Shares traded; 0 where the source has none.
    pub volume: u64,
}

impl Bar {
    /// High minus low.
    pub fn range(&self) -> f64 {
        self.high - self.low
    }

    /// Distance between open and close.
    pub fn body(&self) -> f64 {
        (self.close - self.open).abs()
    }

    /// Distance from the body up to the high.
    pub fn upper_shadow(&self) -> f64 {
        self.high - self.open.max(self.close)
    }

    /// Distance from the low up to the body.
    pub fn lower_shadow(&self) -> f64 {
        self.open.min(self.close) - self.low
    }
}

/// One line of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The time of the bar.
    pub time: BarTime,
    /// The symbol.
    pub symbol: String,
    /// The prices.
    pub bar: Bar,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daylight_saving_time_changes_the_offset() {
        let minute = BarTime::minute("2019-07-05T09:31:00".parse().unwrap()).unwrap();
        assert_eq!(minute.to_string(), "2019-07-05T09:31:00-04:00");
        assert_eq!(minute.date().to_string(), "2019-07-05");
    }

    #[test]
    fn a_day_compares_as_its_close() {
        let day = BarTime::day("2019-11-05".parse().unwrap()).unwrap();
        let minute = |text: &str| BarTime::minute(text.parse().unwrap()).unwrap();
        assert!(minute("2019-11-05T15:59:00") < day && day < minute("2019-11-05T16:01:00"));
    }
}
