//! Reads rules from a file, and checks them.

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use tickwire_core::event::{Kinds, object};
use tickwire_core::rules::{RuleRevision, RuleSet, SkippedRule, default_rules};

use super::RulesError;
use crate::input;

/// The content of a file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, RulesError> {
    input::read(path).map_err(|source| RulesError::Read { path: path.to_owned(), source })
}

/// The rules in a file: one, or a list. A list may be empty: so is the copy of a cluster without rules.
pub(super) fn rules(path: &Path) -> Result<Vec<Value>, RulesError> {
    let refused = |reason: String| RulesError::NotRules { path: path.to_owned(), reason };
    // Of a name that stands twice in a rule, one value would be lost without a word: perhaps a condition.
    match object::value_from_json(&read(path)?) {
        Ok(Value::Array(rules)) => Ok(rules),
        Ok(rule @ Value::Object(_)) => Ok(vec![rule]),
        Ok(_) => Err(refused("it holds no rule".to_owned())),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// The rules that tickwire comes with.
pub(super) fn defaults() -> Result<Vec<Value>, RulesError> {
    let invalid = |error: serde_json::Error| RulesError::Invalid { faults: error.to_string() };
    default_rules().map_err(invalid)
}

/// Checks the rules of a file. Returns the text to print.
pub(super) fn validate(path: &Path, kinds: &Kinds) -> Result<String, RulesError> {
    let set = compiled(&rules(path)?, kinds).map_err(|faults| RulesError::Invalid { faults })?;
    Ok(format!("{}, all valid\n", count_of(set.rules().len())))
}

/// The set of these rules, if all are valid; else every fault.
pub(super) fn compiled(rules: &[Value], kinds: &Kinds) -> Result<RuleSet, String> {
    let (set, skipped) = RuleSet::compile(RuleRevision(0), rules, kinds);
    if skipped.is_empty() { Ok(set) } else { Err(faults(&skipped)) }
}

/// One line for each rule that is not valid.
pub(super) fn faults(skipped: &[SkippedRule]) -> String {
    let mut lines = String::new();
    for SkippedRule { id, fault } in skipped {
        // Writing to a String cannot fail.
        writeln!(lines, "  {}: {fault}", id.as_deref().unwrap_or("(without an id)")).unwrap_or_default();
    }
    lines.truncate(lines.trim_end().len());
    lines
}

/// A number of rules, for people.
pub(super) fn count_of(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}
