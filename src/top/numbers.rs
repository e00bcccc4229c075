//! Numbers as short texts for cells. Pure.

/// The highest number and time that are shown. What a node reports may be anything, and a long cell would push the cells
/// of all other nodes off the screen.
const MOST: f64 = 999.9e12;
const MOST_SECONDS: f64 = 9_999_999.0;

/// What is not known.
pub(super) const UNKNOWN: &str = "-";

/// A number of things.
pub(super) fn count(value: Option<u64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| scaled(value as f64, 1_000_000.0, ""))
}

/// A number of things per second.
pub(super) fn rate(value: Option<f64>) -> String {
    match value {
        None => UNKNOWN.to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => scaled(rate, 100_000.0, ""),
    }
}

/// Bytes, also per second.
pub(super) fn bytes(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |bytes| scaled(bytes, 1_000.0, "B"))
}

/// Seconds.
pub(super) fn time(value: Option<f64>) -> String {
    match value.map(|seconds| seconds.clamp(0.0, MOST_SECONDS)) {
        None => UNKNOWN.to_owned(),
        Some(seconds) if seconds < 0.01 => format!("{:.1}ms", seconds * 1_000.0),
        Some(seconds) if seconds < 1.0 => format!("{:.0}ms", seconds * 1_000.0),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}

/// A part of 1, as percent.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |part| format!("{:.0}%", part * 100.0))
}

/// From `from` on in thousands, millions and so on.
fn scaled(value: f64, from: f64, unit: &str) -> String {
    let value = value.clamp(0.0, MOST);
    if value < from {
        return format!("{value:.0}{unit}");
    }
    let (mut value, mut prefix) = (value / 1_000.0, "k");
    for next in ["M", "G", "T"] {
        if value < 1_000.0 {
            break;
        }
        (value, prefix) = (value / 1_000.0, next);
    }
    format!("{value:.1}{prefix}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_zero_is_not_unknown() {
        let rates = [None, Some(0.0), Some(0.26), Some(12.4), Some(99_999.0), Some(1_260_000.0)].map(rate);
        assert_eq!(rates, ["-", "0", "0.3", "12", "99999", "1.3M"]);
        assert_eq!([None, Some(0), Some(999_999), Some(2_500_000)].map(count), ["-", "0", "999999", "2.5M"]);
        assert_eq!([Some(0.0), Some(999.0), Some(1_500.0), Some(2.5e9)].map(bytes), ["0B", "999B", "1.5kB", "2.5GB"]);
        assert_eq!([None, Some(0.0025), Some(0.25), Some(2.5)].map(time), ["-", "2.5ms", "250ms", "2.5s"]);
        assert_eq!([None, Some(0.996)].map(percent), ["-", "100%"]);
    }

    #[test]
    fn numbers_that_no_node_can_have_are_short_too() {
        for value in [f64::MAX, 1e300, -1e300, 1e18, 0.0, f64::MIN_POSITIVE] {
            for shown in [rate(Some(value)), bytes(Some(value)), time(Some(value)), count(Some(value as u64))] {
                assert!(shown.len() <= 10, "{value}: {shown}");
            }
        }
        assert_eq!([bytes(Some(f64::MAX)), time(Some(f64::MAX))], ["999.9TB", "9999999.0s"]);
    }
}
