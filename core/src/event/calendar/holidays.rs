//! The holidays and half days of the New York Stock Exchange for any year, by rule (NYSE rule 7.2).
//!
//! Unscheduled closings (a storm, a day of mourning) are not included.

use jiff::civil::{Date, Weekday};

/// Whether the exchange is closed on `date`, which must not be a Saturday or Sunday.
pub(crate) fn is_holiday(date: Date) -> bool {
    use Weekday::{Friday, Monday, Thursday};
    let (day, weekday) = (date.day(), date.weekday());
    match date.month() {
        // New Year's Day on a Saturday is not moved to the Friday, because the books close on 31 December. Martin
        // Luther King Day, the third Monday, is a holiday since 1998.
        1 => {
            day == 1
                || (day == 2 && weekday == Monday)
                || (weekday == Monday && (15..=21).contains(&day) && date.year() >= 1998)
        }
        2 => weekday == Monday && (15..=21).contains(&day),
        3 | 4 => weekday == Friday && is_good_friday(date),
        5 => weekday == Monday && day >= 25,
        6 => date.year() >= 2022 && is_observed(date, 19),
        7 => is_observed(date, 4),
        9 => weekday == Monday && day <= 7,
        11 => weekday == Thursday && (22..=28).contains(&day),
        12 => is_observed(date, 25),
        _ => false,
    }
}

/// Whether the exchange closes at 13:00 on `date`, which must be neither a Saturday or Sunday nor a holiday.
///
/// The day before Independence Day or Christmas is a half day if it is a trading day and the holiday is on a weekday. A
/// holiday that is observed on another day has no half day before it.
pub(crate) fn is_half_day(date: Date) -> bool {
    use Weekday::{Friday, Wednesday};
    let (year, day, weekday) = (date.year(), date.day(), date.weekday());
    match date.month() {
        // Until 2012, if Independence Day was a Thursday, the half day was the Friday after it.
        7 if year < 2013 => {
            year >= 1995 && (day == 3 && !matches!(weekday, Wednesday | Friday) || day == 5 && weekday == Friday)
        }
        7 => day == 3 && weekday != Friday,
        11 => year >= 1992 && weekday == Friday && (23..=29).contains(&day),
        12 => year >= 1993 && day == 24 && weekday != Friday,
        _ => false,
    }
}

/// Whether a holiday on the `holiday`th of the month closes `date`. A holiday on a Saturday is observed on the Friday
/// before, one on a Sunday on the Monday after.
fn is_observed(date: Date, holiday: i8) -> bool {
    let day = date.day();
    day == holiday
        || (day + 1 == holiday && date.weekday() == Weekday::Friday)
        || (day - 1 == holiday && date.weekday() == Weekday::Monday)
}

/// Whether Easter is two days after `date`, by the anonymous Gregorian computus (Nature, 20 April 1876).
fn is_good_friday(date: Date) -> bool {
    let year = i32::from(date.year());
    let (golden, century, rest) = (year % 19, year / 100, year % 100);
    let leap_centuries = century / 4;
    let moon = (century - (century + 8) / 25 + 1) / 3;
    let epact = (19 * golden + century - leap_centuries - moon + 15) % 30;
    let to_sunday = (32 + 2 * (century % 4) + 2 * (rest / 4) - epact - rest % 4) % 7;
    let correction = (golden + 11 * epact + 22 * to_sunday) / 451;
    let easter = epact + to_sunday - 7 * correction + 114;
    // `easter / 31` is its month, and the remainder is its day minus one. Days are counted from 1 March across both
    // months.
    let from_march = |month: i32, day: i32| (month - 3) * 31 + day;
    from_march(i32::from(date.month()), i32::from(date.day())) + 2 == from_march(easter / 31, easter % 31 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weekdays of a year for which `is_such` is true, as `MMDD`.
    fn days_of(year: i16, is_such: impl Fn(Date) -> bool) -> Vec<i32> {
        let first = Date::new(year, 1, 1).unwrap();
        first
            .series(jiff::ToSpan::days(1))
            .take_while(|date| date.year() == year)
            .filter(|date| !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday))
            .filter(|date| is_such(*date))
            .map(|date| i32::from(date.month()) * 100 + i32::from(date.day()))
            .collect()
    }

    /// From the published calendars of the exchange; years after 2028 by its rule.
    #[test]
    fn holidays_and_half_days_match_the_published_calendars() {
        for (year, holidays, half_days) in [
            (1998, &[101, 119, 216, 410, 525, 703, 907, 1126, 1225][..], &[1127, 1224][..]),
            (2002, &[101, 121, 218, 329, 527, 704, 902, 1128, 1225], &[705, 1129, 1224]),
            (2012, &[102, 116, 220, 406, 528, 704, 903, 1122, 1225], &[703, 1123, 1224]),
            (2013, &[101, 121, 218, 329, 527, 704, 902, 1128, 1225], &[703, 1129, 1224]),
            (2014, &[101, 120, 217, 418, 526, 704, 901, 1127, 1225], &[703, 1128, 1224]),
            (2015, &[101, 119, 216, 403, 525, 703, 907, 1126, 1225], &[1127, 1224]),
            (2016, &[101, 118, 215, 325, 530, 704, 905, 1124, 1226], &[1125]),
            (2017, &[102, 116, 220, 414, 529, 704, 904, 1123, 1225], &[703, 1124]),
            (2018, &[101, 115, 219, 330, 528, 704, 903, 1122, 1225], &[703, 1123, 1224]),
            (2019, &[101, 121, 218, 419, 527, 704, 902, 1128, 1225], &[703, 1129, 1224]),
            (2020, &[101, 120, 217, 410, 525, 703, 907, 1126, 1225], &[1127, 1224]),
            (2021, &[101, 118, 215, 402, 531, 705, 906, 1125, 1224], &[1126]),
            (2022, &[117, 221, 415, 530, 620, 704, 905, 1124, 1226], &[1125]),
            (2023, &[102, 116, 220, 407, 529, 619, 704, 904, 1123, 1225], &[703, 1124]),
            (2024, &[101, 115, 219, 329, 527, 619, 704, 902, 1128, 1225], &[703, 1129, 1224]),
            (2025, &[101, 120, 217, 418, 526, 619, 704, 901, 1127, 1225], &[703, 1128, 1224]),
            (2026, &[101, 119, 216, 403, 525, 619, 703, 907, 1126, 1225], &[1127, 1224]),
            (2027, &[101, 118, 215, 326, 531, 618, 705, 906, 1125, 1224], &[1126]),
            (2028, &[117, 221, 414, 529, 619, 704, 904, 1123, 1225], &[703, 1124]),
            (2029, &[101, 115, 219, 330, 528, 619, 704, 903, 1122, 1225], &[703, 1123, 1224]),
            (2030, &[101, 121, 218, 419, 527, 619, 704, 902, 1128, 1225], &[703, 1129, 1224]),
        ] {
            assert_eq!(days_of(year, is_holiday), holidays, "{year}");
            assert_eq!(days_of(year, |date| !is_holiday(date) && is_half_day(date)), half_days, "{year}");
        }
    }
}
