//! Compiles a set of rules. A bad rule is skipped and reported; it never stops the others.

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde::Serialize;
use serde_json::Value;

use super::buckets::KindBuckets;
use super::fault::{Located, RuleFault};
use super::limits::{MAX_RULES, MAX_SET_BYTES};
use super::{Rule, RuleRevision, RuleSet};
use crate::event::Kinds;
use crate::hint::clipped;

/// A rule that is not in the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedRule {
    /// Its id as written, or its beginning; `None` if it has none.
    pub id: Option<String>,
    /// Why it was skipped.
    pub fault: RuleFault,
}

impl RuleSet {
    /// Compiles the rules of a revision. `rules` may come in any order, and all nodes make the same set of them. Also
    /// returns the rules that were skipped: those with a fault, those whose id another rule has, and the last ones in
    /// order if there are too many.
    #[must_use]
    pub fn compile(revision: RuleRevision, rules: &[Value], kinds: &Kinds) -> (Self, Vec<SkippedRule>) {
        let (mut valid, mut skipped) = (Vec::new(), Vec::new());
        for value in rules {
            match Rule::parse(value, kinds) {
                Ok(rule) => valid.push(rule),
                Err(fault) => {
                    skipped.push(SkippedRule { id: value.get("id").and_then(Value::as_str).map(clipped), fault });
                }
            }
        }
        // The text decides between rules with one id, so that nodes agree on which of them counts.
        valid.sort_by(|a, b| {
            (a.order, &a.id).cmp(&(b.order, &b.id)).then_with(|| a.source.to_string().cmp(&b.source.to_string()))
        });
        let (mut ids, mut bytes) = (BTreeSet::new(), 0);
        let mut kept = Vec::new();
        for rule in valid {
            if let Some(fault) = excess(&rule, &ids, kept.len(), bytes) {
                skipped.push(SkippedRule { id: Some(rule.id.to_string()), fault });
                continue;
            }
            bytes += rule.bytes;
            ids.insert(rule.id.clone());
            kept.push(rule);
        }
        let buckets = KindBuckets::new(&kept);
        (Self { revision, rules: kept, buckets }, skipped)
    }
}

/// Why a valid rule has no place after `count` others, which have these ids and bytes.
fn excess(rule: &Rule, ids: &BTreeSet<CompactString>, count: usize, bytes: usize) -> Option<RuleFault> {
    let whole = Located::whole(&rule.source);
    if ids.contains(&rule.id) {
        let id = whole.field("id", &rule.source);
        return Some(id.fault(format_args!("another rule has the id {}", rule.id), "give each rule an id of its own"));
    }
    if count >= MAX_RULES {
        return Some(whole.fault("too many rules", format_args!("the limit is {MAX_RULES}; remove others")));
    }
    if bytes + rule.bytes > MAX_SET_BYTES {
        let hint = format!("the limit is {MAX_SET_BYTES} bytes; remove or shorten others");
        return Some(whole.fault("the rules are too large together", hint));
    }
    None
}
