//! The part of the New York trading day in which a moment falls.
//!
//! On half days (the day after Thanksgiving, Christmas Eve, 3 July) the exchange closes at 13:00, and after-hours
//! trading ends at 17:00.

mod holidays;

#[cfg(test)]
mod known_days_tests;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use crate::event::time;
use crate::event::{Timestamp, TradingSession};

static NEW_YORK: TimeZone = jiff::tz::get!("America/New_York");

const MINUTES_PRE_MARKET: i16 = 4 * 60;
const MINUTES_OPEN: i16 = 9 * 60 + 30;
const MINUTES_CLOSE: i16 = 16 * 60;
const MINUTES_END: i16 = 20 * 60;
const MINUTES_EARLY_CLOSE: i16 = 13 * 60;
const MINUTES_EARLY_END: i16 = 17 * 60;

/// The part of the New York trading day in which `ts` falls; closed on weekends and on the exchange's holidays.
#[must_use]
pub fn session_of(ts: Timestamp) -> TradingSession {
    // The library has no instants for the last hours of the year 9999, so they use the offset of its last instant.
    let instant = jiff::Timestamp::from_millisecond(ts.0).unwrap_or(jiff::Timestamp::MAX);
    let offset = i64::from(NEW_YORK.to_offset(instant).seconds()) * 1_000;
    let Some(there) = (0..=time::LAST).contains(&ts.0).then(|| time::civil(ts.0 + offset)).flatten() else {
        return TradingSession::Closed;
    };
    let date = there.date();
    if matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) || holidays::is_holiday(date) {
        return TradingSession::Closed;
    }
    let minutes = i16::from(there.hour()) * 60 + i16::from(there.minute());
    let (close, end) = match minutes {
        MINUTES_EARLY_CLOSE.. if holidays::is_half_day(date) => (MINUTES_EARLY_CLOSE, MINUTES_EARLY_END),
        _ => (MINUTES_CLOSE, MINUTES_END),
    };
    match minutes {
        ..MINUTES_PRE_MARKET => TradingSession::Closed,
        MINUTES_PRE_MARKET..MINUTES_OPEN => TradingSession::PreMarket,
        _ if minutes < close => TradingSession::Regular,
        _ if minutes < end => TradingSession::AfterHours,
        _ => TradingSession::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TradingSession {
        session_of(text.parse().unwrap())
    }

    #[test]
    fn each_part_of_a_summer_day_has_its_session() {
        for (time, part) in [
            ("07:59:59.999", TradingSession::Closed),
            ("08:00:00", TradingSession::PreMarket),
            ("13:29:59.999", TradingSession::PreMarket),
            ("13:30:00", TradingSession::Regular),
            ("19:59:59.999", TradingSession::Regular),
            ("20:00:00", TradingSession::AfterHours),
            ("23:59:59.999", TradingSession::AfterHours),
        ] {
            assert_eq!(at(&format!("2025-09-10T{time}Z")), part, "{time}");
        }
        assert_eq!(at("2025-09-11T00:00:00Z"), TradingSession::Closed);
    }

    #[test]
    fn the_day_follows_daylight_saving_time() {
        // 13:45 UTC is 08:45 in New York on the Friday before the clocks go forward and 09:45 on the Monday after.
        assert_eq!(at("2025-03-07T13:45:00Z"), TradingSession::PreMarket);
        assert_eq!(at("2025-03-10T13:45:00Z"), TradingSession::Regular);
        // 20:30 UTC is 16:30 on the Friday before they go back and 15:30 on the Monday after.
        assert_eq!(at("2025-10-31T20:30:00Z"), TradingSession::AfterHours);
        assert_eq!(at("2025-11-03T20:30:00Z"), TradingSession::Regular);
        // Before 2007 the clocks went forward in April.
        assert_eq!(at("2006-03-20T14:00:00Z"), TradingSession::PreMarket);
    }

    #[test]
    fn half_day_closes_at_13_and_after_hours_end_at_17() {
        for (time, part) in [
            ("08:59:59.999", TradingSession::Closed),
            ("09:00:00", TradingSession::PreMarket),
            ("14:30:00", TradingSession::Regular),
            ("17:59:59.999", TradingSession::Regular),
            ("18:00:00", TradingSession::AfterHours),
            ("20:59:59.999", TradingSession::AfterHours),
            ("21:59:59.999", TradingSession::AfterHours),
            ("22:00:00", TradingSession::Closed),
        ] {
            assert_eq!(at(&format!("2025-11-28T{time}Z")), part, "{time}");
        }
        // In summer New York is an hour nearer to UTC.
        assert_eq!(at("2025-07-03T16:59:59.999Z"), TradingSession::Regular);
        assert_eq!(at("2025-07-03T17:00:00Z"), TradingSession::AfterHours);
        // The days before and after are full trading days.
        assert_eq!(at("2025-07-02T19:59:59.999Z"), TradingSession::Regular);
        assert_eq!(at("2025-12-01T20:59:59.999Z"), TradingSession::Regular);
    }

    #[test]
    fn weekends_holidays_and_out_of_range_times_are_closed() {
        for closed in ["2025-09-13T15:00:00Z", "2025-09-14T15:00:00Z", "2025-12-25T15:00:00Z"] {
            assert_eq!(at(closed), TradingSession::Closed, "{closed}");
        }
        // The evening of a Friday in New York is already Saturday in UTC.
        assert_eq!(at("2025-01-11T00:30:00Z"), TradingSession::AfterHours);
        assert_eq!(session_of(Timestamp(i64::MAX)), TradingSession::Closed);
        assert_eq!(session_of(Timestamp(i64::MIN)), TradingSession::Closed);
        assert_eq!(at("9999-12-30T15:00:00Z"), TradingSession::Regular);
        assert_eq!(session_of(Timestamp(253_402_300_799_999)), TradingSession::AfterHours);
    }
}
