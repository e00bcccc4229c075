//! Days of the published calendars of the New York Stock Exchange, each with the offset of New York on that day. The
//! offsets are written by hand, so that an error in daylight saving time shows.
//!
//! Source: <https://www.nyse.com/markets/hours-calendars> and its earlier versions.

use super::session_of;
use crate::event::TradingSession::{self, AfterHours, Closed, PreMarket, Regular};

/// How long the exchange is open.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Day {
    Full,
    Half,
    Shut,
}

use Day::{Full, Half, Shut};

const SUMMER: &str = "-04:00";
const WINTER: &str = "-05:00";

#[rustfmt::skip]
const KNOWN_DAYS: [(&str, &str, Day, &str); 99] = [
    ("2019-01-01", WINTER, Shut, "New Year's Day"),
    ("2019-01-02", WINTER, Full, "the day after it"),
    ("2019-01-21", WINTER, Shut, "Martin Luther King Day"),
    ("2019-02-18", WINTER, Shut, "Washington's Birthday"),
    ("2019-04-19", SUMMER, Shut, "Good Friday"),
    ("2019-04-22", SUMMER, Full, "Easter Monday is no holiday"),
    ("2019-05-27", SUMMER, Shut, "Memorial Day"),
    ("2019-06-19", SUMMER, Full, "Juneteenth was no holiday"),
    ("2019-07-03", SUMMER, Half, "the eve of Independence Day, a Wednesday"),
    ("2019-07-04", SUMMER, Shut, "Independence Day"),
    ("2019-07-05", SUMMER, Full, "the Friday after it"),
    ("2019-09-02", SUMMER, Shut, "Labor Day"),
    ("2019-10-14", SUMMER, Full, "Columbus Day is no holiday"),
    ("2019-11-11", WINTER, Full, "Veterans Day is no holiday"),
    ("2019-11-27", WINTER, Full, "the eve of Thanksgiving"),
    ("2019-11-28", WINTER, Shut, "Thanksgiving"),
    ("2019-11-29", WINTER, Half, "the day after Thanksgiving"),
    ("2019-12-24", WINTER, Half, "Christmas Eve"),
    ("2019-12-25", WINTER, Shut, "Christmas"),
    ("2019-12-31", WINTER, Full, "New Year's Eve"),
    ("2020-01-20", WINTER, Shut, "Martin Luther King Day"),
    ("2020-02-29", WINTER, Shut, "a Saturday, 29 February"),
    ("2020-04-10", SUMMER, Shut, "Good Friday"),
    ("2020-07-02", SUMMER, Full, "the eve of an observed holiday"),
    ("2020-07-03", SUMMER, Shut, "Independence Day is a Saturday"),
    ("2020-11-26", WINTER, Shut, "Thanksgiving"),
    ("2020-11-27", WINTER, Half, "the day after Thanksgiving"),
    ("2020-12-24", WINTER, Half, "Christmas Eve"),
    ("2020-12-25", WINTER, Shut, "Christmas"),
    ("2021-01-01", WINTER, Shut, "New Year's Day"),
    ("2021-04-02", SUMMER, Shut, "Good Friday"),
    ("2021-05-31", SUMMER, Shut, "Memorial Day"),
    ("2021-06-18", SUMMER, Full, "Juneteenth was no holiday of the exchange yet"),
    ("2021-07-02", SUMMER, Full, "the Friday before an observed holiday"),
    ("2021-07-05", SUMMER, Shut, "Independence Day is a Sunday"),
    ("2021-11-26", WINTER, Half, "the day after Thanksgiving"),
    ("2021-12-23", WINTER, Full, "the eve of an observed holiday"),
    ("2021-12-24", WINTER, Shut, "Christmas is a Saturday"),
    ("2021-12-27", WINTER, Full, "the Monday after it"),
    ("2021-12-31", WINTER, Full, "New Year's Day is a Saturday, and is not observed"),
    ("2022-01-03", WINTER, Full, "the Monday after it"),
    ("2022-04-15", SUMMER, Shut, "Good Friday"),
    ("2022-06-17", SUMMER, Full, "the Friday before Juneteenth"),
    ("2022-06-20", SUMMER, Shut, "Juneteenth is a Sunday"),
    ("2022-07-01", SUMMER, Full, "the Friday before Independence Day"),
    ("2022-07-04", SUMMER, Shut, "Independence Day"),
    ("2022-11-25", WINTER, Half, "the day after Thanksgiving"),
    ("2022-12-23", WINTER, Full, "the Friday before Christmas"),
    ("2022-12-26", WINTER, Shut, "Christmas is a Sunday"),
    ("2023-01-02", WINTER, Shut, "New Year's Day is a Sunday"),
    ("2023-04-07", SUMMER, Shut, "Good Friday"),
    ("2023-06-19", SUMMER, Shut, "Juneteenth"),
    ("2023-07-03", SUMMER, Half, "the eve of Independence Day, a Monday"),
    ("2023-07-04", SUMMER, Shut, "Independence Day"),
    ("2023-11-23", WINTER, Shut, "Thanksgiving"),
    ("2023-11-24", WINTER, Half, "the day after Thanksgiving"),
    ("2023-12-22", WINTER, Full, "the Friday before Christmas"),
    ("2023-12-24", WINTER, Shut, "Christmas Eve is a Sunday"),
    ("2023-12-25", WINTER, Shut, "Christmas"),
    ("2024-01-15", WINTER, Shut, "Martin Luther King Day"),
    ("2024-02-29", WINTER, Full, "29 February"),
    ("2024-03-08", WINTER, Full, "the Friday before the clocks go forward"),
    ("2024-03-10", SUMMER, Shut, "the Sunday on which they go forward"),
    ("2024-03-11", SUMMER, Full, "the Monday after"),
    ("2024-03-29", SUMMER, Shut, "Good Friday"),
    ("2024-06-19", SUMMER, Shut, "Juneteenth"),
    ("2024-07-03", SUMMER, Half, "the eve of Independence Day, a Wednesday"),
    ("2024-07-05", SUMMER, Full, "the Friday after it"),
    ("2024-11-01", SUMMER, Full, "the Friday before the clocks go back"),
    ("2024-11-03", WINTER, Shut, "the Sunday on which they go back"),
    ("2024-11-04", WINTER, Full, "the Monday after"),
    ("2024-11-05", WINTER, Full, "the day of an election"),
    ("2024-11-29", WINTER, Half, "the day after Thanksgiving"),
    ("2024-12-24", WINTER, Half, "Christmas Eve"),
    ("2025-01-20", WINTER, Shut, "Martin Luther King Day"),
    ("2025-02-17", WINTER, Shut, "Washington's Birthday"),
    ("2025-04-18", SUMMER, Shut, "Good Friday"),
    ("2025-07-03", SUMMER, Half, "the eve of Independence Day, a Thursday"),
    ("2025-07-04", SUMMER, Shut, "Independence Day"),
    ("2025-09-01", SUMMER, Shut, "Labor Day"),
    ("2025-11-28", WINTER, Half, "the day after Thanksgiving"),
    ("2025-12-24", WINTER, Half, "Christmas Eve"),
    ("2025-12-26", WINTER, Full, "the day after Christmas"),
    ("2026-01-02", WINTER, Full, "the day after New Year's Day"),
    ("2026-04-03", SUMMER, Shut, "Good Friday"),
    ("2026-06-19", SUMMER, Shut, "Juneteenth"),
    ("2026-07-02", SUMMER, Full, "the eve of an observed holiday"),
    ("2026-07-03", SUMMER, Shut, "Independence Day is a Saturday"),
    ("2026-11-27", WINTER, Half, "the day after Thanksgiving"),
    ("2026-12-24", WINTER, Half, "Christmas Eve"),
    ("2027-03-26", SUMMER, Shut, "Good Friday"),
    ("2027-06-18", SUMMER, Shut, "Juneteenth is a Saturday"),
    ("2027-06-21", SUMMER, Full, "the Monday after it"),
    ("2027-07-02", SUMMER, Full, "the Friday before an observed holiday"),
    ("2027-07-05", SUMMER, Shut, "Independence Day is a Sunday"),
    ("2027-11-26", WINTER, Half, "the day after Thanksgiving"),
    ("2027-12-23", WINTER, Full, "the eve of an observed holiday"),
    ("2027-12-24", WINTER, Shut, "Christmas is a Saturday"),
    ("2027-12-31", WINTER, Full, "New Year's Day is a Saturday, and is not observed"),
];

/// The bounds of all parts of a day, with the part of a full day and of a half day.
const BOUNDS: [(&str, TradingSession, TradingSession); 14] = [
    ("00:00:00", Closed, Closed),
    ("03:59:59.999", Closed, Closed),
    ("04:00:00", PreMarket, PreMarket),
    ("09:29:59.999", PreMarket, PreMarket),
    ("09:30:00", Regular, Regular),
    ("12:59:59.999", Regular, Regular),
    ("13:00:00", Regular, AfterHours),
    ("15:59:59.999", Regular, AfterHours),
    ("16:00:00", AfterHours, AfterHours),
    ("16:59:59.999", AfterHours, AfterHours),
    ("17:00:00", AfterHours, Closed),
    ("19:59:59.999", AfterHours, Closed),
    ("20:00:00", Closed, Closed),
    ("23:59:59.999", Closed, Closed),
];

#[test]
fn known_days_have_the_hours_that_the_exchange_published() {
    for (date, offset, day, why) in KNOWN_DAYS {
        for (time, on_full_day, on_half_day) in BOUNDS {
            let expected = match day {
                Full => on_full_day,
                Half => on_half_day,
                Shut => Closed,
            };
            // The clocks change at two in the night of a Sunday: the offset before that is another one.
            let text = format!("{date}T{time}{offset}");
            assert_eq!(session_of(text.parse().unwrap()), expected, "{text}: {why}");
        }
    }
}

#[test]
fn known_days_are_in_order_and_named_once() {
    assert!(KNOWN_DAYS.is_sorted_by(|one, other| one.0 < other.0));
}
