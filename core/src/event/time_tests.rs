//! Tests of every spelling of times.

use super::*;
use serde_json::json;

const LAST_DAY: i64 = 253_402_214_400;

fn ms(value: &Value) -> Result<i64, TimeProblem> {
    read(value).map(|moment| moment.ts.0).map_err(|error| error.problem)
}

#[test]
fn all_forms_of_a_moment_give_the_same_milliseconds() {
    for (millis, forms) in [
        (
            1_757_514_600_123_i64,
            vec![
                json!(1757514600.123),
                json!(1757514600.123987),
                json!(1757514600123_i64),
                json!(1757514600123.9),
                json!(1757514600123987_i64),
                json!(1757514600123987.0),
                json!(1757514600123987654_i64),
                json!(1.757514600123988e18),
                json!("2025-09-10T14:30:00.123Z"),
                json!("2025-09-10T14:30:00.123987654Z"),
                json!("2025-09-10t14:30:00.123z"),
                json!("2025-09-10 14:30:00,123Z"),
                json!("2025-09-10T10:30:00.123-04:00"),
                json!("2025-09-10T10:30:00.123-0400"),
                json!("2025-09-10T10:30:00.123-04"),
                json!("20250910T143000.123Z"),
                json!("2025-09-10T14:30:00.123000000000000Z"),
                json!("2025-09-10T10:30:00,1239999999999-04:00"),
                json!("+002025-09-10T14:30:00.123+00"),
                json!("2025-09-10T14:30:00.123-00:00"),
                json!("2025-09-10T10:30:00.123-04:00[America/New_York]"),
            ],
        ),
        (0, vec![json!(0), json!(0.0), json!(-0.0), json!("1970-01-01T00:00:00Z"), json!("1970-01-01")]),
        (
            LAST_DAY * 1_000,
            vec![
                json!(LAST_DAY),
                json!(LAST_DAY as f64),
                json!(LAST_DAY * 1_000),
                json!(LAST_DAY * 1_000_000),
                json!(LAST_DAY as f64 * 1e9),
                json!("9999-12-31"),
                json!("9999-12-31T00:00:00Z"),
            ],
        ),
        (
            LAST,
            vec![
                json!(253402300799.999),
                json!(LAST),
                json!(253402300799999999_i64),
                json!("9999-12-31T23:59:59.999Z"),
                json!("9999-12-31T23:59:60.999Z"),
            ],
        ),
        (1_483_228_799_000, vec![json!("2016-12-31T23:59:60Z"), json!("2016-12-31T18:59:60-05:00")]),
    ] {
        for form in forms {
            assert_eq!(ms(&form), Ok(millis), "{form}");
        }
    }
}

#[test]
fn is_day_only_for_a_date_without_time() {
    for (text, is_day) in [("2025-09-10", true), ("9999-12-31", true), ("2025-09-10T00:00:00Z", false)] {
        assert_eq!(read(&json!(text)).map(|moment| moment.is_day), Ok(is_day), "{text}");
    }
}

#[test]
fn bad_times_are_refused_with_their_problem() {
    use TimeProblem::*;
    for (value, problem) in [
        (json!(-1), Negative("seconds")),
        (json!(-0.5), Negative("seconds")),
        (json!(i64::MIN), Negative("nanoseconds")),
        (json!(-1_757_514_600_000_i64), Negative("milliseconds")),
        (json!(2.6e20), TooLarge),
        (json!(1.7e308), TooLarge),
        (json!("1969-12-31T23:59:59.999Z"), Early),
        (json!("1969-12-31T23:59:59.9999Z"), Early),
        (json!("1969-12-31"), Early),
        (json!("-000001-01-01T00:00:00Z"), Early),
        (json!("0000-01-01T00:00:00Z"), Early),
        (json!("-0001-12-31"), Early),
        (json!("1970-01-01T00:00:00+01:00"), Early),
        (json!("10000-01-01T00:00:00Z"), Late),
        (json!("+010000-01-01T00:00:00Z"), Late),
        (json!("9999-12-31T23:59:59-00:01"), Late),
        (json!("2025-09-10T14:30:00"), NoZone),
        (json!("2025-09-10 14:30:00"), NoZone),
        (json!("2025-02-30"), NotInCalendar),
        (json!("2025-09-10T24:00:00Z"), NotInCalendar),
        (json!("2025-09-10T23:59:61Z"), NotInCalendar),
        (json!("2025-13-01T00:00:00Z"), NotInCalendar),
        (json!("2025-09-10 14:60:00Z"), NotInCalendar),
        // Wrong spellings.
        (json!("2025-09-10T14:30:00 Z"), Unknown),
        (json!("2025-09-10 14:30:00 +0000 UTC"), Unknown),
        (json!("2025-09-10T14:30:00.Z"), Unknown),
        (json!("2025-09-10T14:30:00+2:00"), Unknown),
        (json!("2025-09-10T"), Unknown),
        (json!("2025-09-10Z"), Unknown),
        (json!("2025-09-10T14:30:60Z"), NoLeapSecond),
        (json!("20250910T143060Z"), NoLeapSecond),
        (json!("1757514600"), QuotedNumber),
        (json!("-1.5e3"), QuotedNumber),
        (json!("20250910"), QuotedNumber),
        (json!("2025-W37-3"), Unknown),
        (json!("2025-253"), Unknown),
        (json!("2025-09"), Unknown),
        (json!("10.09.2025"), Unknown),
        (json!("Wed, 10 Sep 2025 14:30:00 GMT"), Unknown),
        (json!(" 2025-09-10"), Unknown),
        (json!("2025年09月10"), Unknown),
        (json!("NaN"), Unknown),
        (json!(""), Unknown),
        (json!("today"), Unknown),
        (json!("2".repeat(70)), Unknown),
        (json!(true), WrongType("a boolean")),
        (json!([]), WrongType("a list")),
        (json!({}), WrongType("an object")),
    ] {
        assert_eq!(ms(&value), Err(problem), "{value}");
    }
}

#[test]
fn timestamp_extension_is_read_in_all_three_forms() {
    let of_32 = 1_757_514_600_u32.to_be_bytes();
    assert_eq!(from_extension(&of_32).unwrap(), "2025-09-10T14:30:00Z");
    let of_64 = (123_987_654_u64 << 34 | 1_757_514_600).to_be_bytes();
    assert_eq!(from_extension(&of_64).unwrap(), "2025-09-10T14:30:00.123987654Z");
    let of_96 = |seconds: i64, nanos: u32| [&nanos.to_be_bytes()[..], &seconds.to_be_bytes()].concat();
    assert_eq!(from_extension(&of_96(END - 1, 999_999_999)).unwrap(), "9999-12-31T23:59:59.999999999Z");
    assert_eq!(from_extension(&of_96(-1, 0)).unwrap(), "1969-12-31T23:59:59Z");
    for (seconds, problem) in [(END, TimeProblem::Late), (i64::MAX, TimeProblem::Late), (i64::MIN, TimeProblem::Early)]
    {
        assert_eq!(ms(&json!(from_extension(&of_96(seconds, 0)).unwrap())), Err(problem), "{seconds}");
    }
    for refused in [&[][..], &[0; 5], &[0; 16], &of_96(0, 1_000_000_000), &[0xff; 8]] {
        assert!(from_extension(refused).is_err(), "{refused:?}");
    }
}
