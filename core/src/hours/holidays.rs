//! The full-day holidays of the New York Stock Exchange, by rule (NYSE rule 7.2).
//!
//! Closings that no rule foretells (a storm, a day of mourning) are not known here.

use jiff::civil::{Date, Weekday};

/// Whether the exchange is closed on `date`, which must not be a Saturday or Sunday.
pub(super) fn is_holiday(date: Date) -> bool {
    use Weekday::{Friday, Monday, Thursday};
    let (day, weekday) = (date.day(), date.weekday());
    match date.month() {
        // New Year's Day on a Saturday is not made up for: 31 December closes the books. Martin Luther King's third
        // Monday is kept since 1998.
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

/// Whether a holiday on the `holiday`th of the month closes `date`: a Saturday's is kept on the Friday before, a
/// Sunday's on the Monday after.
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
    // `easter / 31` is its month and the remainder its day less one; counting on from 1 March joins the two months.
    let from_march = |month: i32, day: i32| (month - 3) * 31 + day;
    from_march(i32::from(date.month()), i32::from(date.day())) + 2 == from_march(easter / 31, easter % 31 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weekdays of a year that are holidays, as `MMDD`.
    fn holidays_of(year: i16) -> Vec<i32> {
        let first = Date::new(year, 1, 1).unwrap();
        first
            .series(jiff::ToSpan::days(1))
            .take_while(|date| date.year() == year)
            .filter(|date| !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday))
            .filter(|date| is_holiday(*date))
            .map(|date| i32::from(date.month()) * 100 + i32::from(date.day()))
            .collect()
    }

    #[test]
    fn whole_years_agree_with_the_calendars_of_the_exchange() {
        assert_eq!(holidays_of(2012), [102, 116, 220, 406, 528, 704, 903, 1122, 1225]);
        assert_eq!(holidays_of(2020), [101, 120, 217, 410, 525, 703, 907, 1126, 1225]);
        assert_eq!(holidays_of(2021), [101, 118, 215, 402, 531, 705, 906, 1125, 1224]);
        assert_eq!(holidays_of(2022), [117, 221, 415, 530, 620, 704, 905, 1124, 1226]);
        assert_eq!(holidays_of(2024), [101, 115, 219, 329, 527, 619, 704, 902, 1128, 1225]);
        assert_eq!(holidays_of(2025), [101, 120, 217, 418, 526, 619, 704, 901, 1127, 1225]);
        assert_eq!(holidays_of(2026), [101, 119, 216, 403, 525, 619, 703, 907, 1126, 1225]);
        assert_eq!(holidays_of(2027), [101, 118, 215, 326, 531, 618, 705, 906, 1125, 1224]);
    }
}
