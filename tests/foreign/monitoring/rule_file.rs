//! The rules of the alerts, and the form of them that tests load: with short times, and otherwise as they are.

use super::text;

/// Where they are.
const RULES: &str = "deploy/prometheus/alerts.yml";

/// How long a condition holds in the short form.
const HOLD: &str = "for: 2s";

/// The windows, and what they are in the short form: several scrapes, and enough for some restarts.
const WINDOWS: [(&str, &str); 5] = [
    ("[2m]", "[10s]"),
    ("[5m]", "[10s]"),
    ("[15m]", "[40s]"),
    ("offset 5m", "offset 10s"),
    ("offset 30s", "offset 2s"),
];

/// The names of the alerts, in the order of the file.
pub(super) fn names_of_alerts() -> Vec<String> {
    let rules = text(RULES);
    let names: Vec<String> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect();
    assert!(names.len() > 40, "{names:?}");
    names
}

/// The rules with short windows, and with a short time for which a condition has to hold.
pub(super) fn short_rules() -> String {
    let mut rules = text(RULES);
    for (window, short) in WINDOWS {
        assert!(rules.contains(window), "no rule has the window {window}");
        rules = rules.replace(window, short);
    }
    let lines = rules.lines().map(|line| match line.trim().strip_prefix("for: ") {
        Some(_) => format!("        {HOLD}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}
