//! What operators see: the alerts and the dashboards of `deploy`, with a real Prometheus that scrapes a cluster.
//!
//! * here the files are compared with the code, the documents and each other, by text and by promtool;
//! * `prometheus_server` is the Prometheus, and `rule_file` the rules of the alerts;
//! * `firing` causes the condition of each alert but one, and `dashboards` runs every query of every dashboard.

mod dashboards;
mod firing;
mod prometheus_server;
mod rule_file;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::rule_file::names_of_alerts;
use super::tools::debian;

/// What begins the names of metrics.
const METRIC: &str = "tickwire_";

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    let path = repository(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words of a text that begin like this, as far as they consist of letters, digits and `_`.
fn words(text: &str, beginning: &str) -> BTreeSet<String> {
    let parts = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    parts.filter(|word| word.starts_with(beginning) && word.len() > beginning.len()).map(str::to_owned).collect()
}

/// The metrics that the code declares: those of `docs/metrics.md`, which tests of the crates compare with the code.
fn declared() -> BTreeSet<String> {
    let document = text("docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.filter(|name| name.starts_with(METRIC)).map(str::to_owned).collect()
}

/// The dashboards, as JSON texts by name.
fn dashboard_texts() -> Vec<(String, String)> {
    let files = fs::read_dir(repository("deploy/grafana/dashboards")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let read =
        |path: PathBuf| (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap());
    files.map(read).collect()
}

fn run(program: &Path, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(repository(".")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_accepts_the_rules_and_each_alert_fires_on_its_condition_only() {
    let promtool = debian("/usr/bin/promtool");
    run(&promtool, &["check", "rules", "deploy/prometheus/alerts.yml"]);
    run(&promtool, &["check", "config", "deploy/prometheus/prometheus.yml"]);
    run(&promtool, &["test", "rules", "deploy/prometheus/tests/alerts_test.yml"]);
    let tests = text("deploy/prometheus/tests/alerts_test.yml");
    for alert in names_of_alerts() {
        for case in ["fires", "does not fire"] {
            assert!(tests.contains(&format!("  - name: {alert} {case}\n")), "no test that {alert} {case}");
        }
    }
}

#[test]
fn dashboards_are_those_of_their_generator() {
    run(Path::new("python3"), &["deploy/grafana/generate.py", "--check"]);
}

#[test]
fn metrics_of_alerts_and_dashboards_are_declared() {
    let declared = declared();
    assert!(declared.len() > 100, "{declared:?}");
    let dashboards = dashboard_texts();
    assert_eq!(dashboards.len(), 4);
    let mut named = words(&text("deploy/prometheus/alerts.yml"), METRIC);
    for (_, dashboard) in &dashboards {
        named.extend(words(dashboard, METRIC));
    }
    let unknown: Vec<_> = named
        .iter()
        .filter(|name| {
            let parts = ["_bucket", "_sum", "_count"];
            let of_histogram = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            !declared.contains(*name) && !declared.contains(of_histogram)
        })
        .collect();
    assert!(unknown.is_empty(), "no metric has the name {unknown:?}");
}

#[test]
fn each_alert_has_a_section_and_each_name_is_that_of_an_alert() {
    let alerts: Vec<String> = names_of_alerts();
    let operations = text("docs/operations.md");
    let section = operations.split("\n## ").find(|section| section.starts_with("Alerts\n")).unwrap();
    let headings: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### Tickwire")).collect();
    let expected: Vec<&str> = alerts.iter().map(|alert| alert.strip_prefix("Tickwire").unwrap()).collect();
    assert_eq!(headings, expected, "the sections are those of the alerts, in the same order");
    let rules = text("deploy/prometheus/alerts.yml");
    let known: BTreeSet<String> = alerts.iter().cloned().collect();
    for alert in &alerts {
        let link = format!("runbook_url: 'docs/operations.md#{}'", alert.to_lowercase());
        assert!(rules.contains(&link), "{alert} has no link to its section");
    }
    let mut named = words(&text("docs/metrics.md"), "Tickwire");
    for (_, dashboard) in dashboard_texts() {
        named.extend(words(&dashboard, "Tickwire"));
    }
    let unknown: Vec<_> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "no alert has the name {unknown:?}");
}
