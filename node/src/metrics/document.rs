//! The rows of the tables in `docs/metrics.md`: one for each declared metric. Tests compare them with the document.

use super::{Metric, Named};
use std::fmt::Write as _;

/// The names of alerts begin with this.
const ALERT: &str = "Tickwire";

/// These metrics as rows of the document: name, kind, unit, label with its values, meaning, and what to do.
#[must_use]
pub fn rows(metrics: &[&dyn Metric]) -> String {
    let mut rows = String::new();
    for metric in metrics {
        let Named { name, help, advice, .. } = metric.named();
        let (kind, unit, label, advice) = (metric.kind().as_str(), unit(name), label(*metric), linked(advice));
        // Writing to a String cannot fail.
        writeln!(rows, "| `{name}` | {kind} | {unit} | {label} | {help} | {advice} |").unwrap_or_default();
    }
    rows
}

/// The unit of a metric, which ends its name.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)).unwrap_or("")
}

/// The label with its values.
fn label(metric: &dyn Metric) -> String {
    let Some(label) = metric.label() else { return String::new() };
    let known: Vec<String> = (label.known)().iter().map(|value| format!("`{value}`")).collect();
    let values = if known.is_empty() { label.bound.to_owned() } else { known.join(", ") };
    format!("`{}`: {values}", label.name)
}

/// A text in which the names of alerts are links to their sections.
fn linked(text: &str) -> String {
    let link = |word: &str| {
        let name = word.trim_end_matches(|letter: char| !letter.is_alphanumeric());
        let rest = word.strip_prefix(name).unwrap_or_default();
        match name.starts_with(ALERT) {
            true => format!("[{name}](operations.md#{}){rest}", name.to_lowercase()),
            false => word.to_owned(),
        }
    };
    text.split(' ').map(link).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_has_the_values_of_the_label_and_links_to_alerts() {
        fn reasons() -> Vec<&'static str> {
            vec!["lost", "late"]
        }
        crate::metrics! {
            DOCUMENTED:
            counter DROPPED by "reason" of reasons = "tickwire_test_dropped_bytes_total", "Drops", "TickwireDrops.";
            gauge USERS by "user" within "three at most" = "tickwire_test_users", "Users", "Nothing.";
        }
        let expected = "| `tickwire_test_dropped_bytes_total` | counter | bytes | `reason`: `lost`, `late` | Drops | \
                        [TickwireDrops](operations.md#tickwiredrops). |\n| `tickwire_test_users` | gauge |  | `user`: three at \
                        most | Users | Nothing. |\n";
        assert_eq!(rows(DOCUMENTED), expected);
        DROPPED.with("lost").increment(0);
        USERS.with("ann").set(0.0);
    }
}
