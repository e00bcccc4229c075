//! The dependencies are as `deny.toml` allows. `cargo deny check`, where it is installed, also checks advisories.

use std::process::Command;

use serde_json::Value;
use toml::Table;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Every way in which the packages of `cargo metadata` break the rules of `deny.toml`.
fn violations(metadata: &Value, rules: &Table) -> Vec<String> {
    let allowed: Vec<&str> =
        rules["licenses"]["allow"].as_array().unwrap().iter().flat_map(toml::Value::as_str).collect();
    let mut violations = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        // Packages of the workspace have no source, and require each other by path.
        if let Some(source) = package["source"].as_str() {
            let licence = package["license"].as_str().unwrap_or_default();
            if !is_allowed(licence, &allowed) {
                violations.push(format!("{name} has the licence {licence:?}"));
            }
            if source != CRATES_IO {
                violations.push(format!("{name} comes from {source}"));
            }
        } else {
            let required = package["dependencies"].as_array().unwrap().iter();
            let wild = required.filter(|required| required["req"] == "*" && required["path"].is_null());
            violations.extend(wild.map(|required| format!("{name} requires any version of {}", required["name"])));
        }
    }
    violations
}

fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    let Ok(expression) = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX) else { return false };
    expression.evaluate(|required| allowed.contains(&required.to_string().as_str()))
}

fn rules() -> Table {
    include_str!("../../deny.toml").parse().unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dependencies_have_allowed_licences_versions_and_sources() {
    // Those of other platforms are not there where only this one's were compiled.
    let version = cargo(&["--version", "--verbose"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]);
    let metadata = serde_json::from_str(&metadata).unwrap();
    assert_eq!(violations(&metadata, &rules()), Vec::<String>::new());
}

#[test]
fn dependencies_against_the_rules_are_named() {
    let package = |name: &str, licence: &str, source: Option<&str>| {
        let dependencies = [serde_json::json!({"name": "anything", "req": "*"})];
        serde_json::json!({"name": name, "license": licence, "source": source, "dependencies": dependencies})
    };
    let packages = [
        package("free", "GPL-3.0-only OR MIT", Some(CRATES_IO)),
        package("viral", "GPL-3.0-only AND MIT", Some(CRATES_IO)),
        package("unnamed", "", Some(CRATES_IO)),
        package("elsewhere", "MIT", Some("git+https://example.com/elsewhere")),
        package("ours", "Apache-2.0", None),
    ];
    assert_eq!(
        violations(&serde_json::json!({"packages": packages}), &rules()),
        [
            "viral has the licence \"GPL-3.0-only AND MIT\"",
            "unnamed has the licence \"\"",
            "elsewhere comes from git+https://example.com/elsewhere",
            "ours requires any version of \"anything\"",
        ]
    );
}
