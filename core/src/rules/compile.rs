//! Compiles a set of rules. A bad rule is skipped and reported; it never stops the others.

use std::collections::BTreeSet;

use compact_str::CompactString;
use serde::Serialize;
use serde_json::Value;

use super::buckets::KindBuckets;
use super::fault::{Located, RuleFault};
use super::limits::{MAX_READ_RULES, MAX_RULES, MAX_SET_BYTES};
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
    /// order if there are too many. Of far too many the last ones in order are not even read.
    #[must_use]
    pub fn compile(revision: RuleRevision, rules: &[Value], kinds: &Kinds) -> (Self, Vec<SkippedRule>) {
        let (mut valid, mut skipped) = (Vec::new(), Vec::new());
        let (read, unread) = split(rules);
        for value in read {
            match Rule::parse(value, kinds) {
                Ok(rule) => valid.push(rule),
                Err(fault) => skipped.push(SkippedRule { id: shown_id(value), fault }),
            }
        }
        let beyond = |value: &Value| SkippedRule { id: shown_id(value), fault: too_many(&Located::whole(value)) };
        skipped.extend(unread.into_iter().map(beyond));
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

/// The rules to read, as they came, and those that are too many to be read.
fn split(rules: &[Value]) -> (Vec<&Value>, Vec<&Value>) {
    let mut read: Vec<&Value> = rules.iter().collect();
    if read.len() <= MAX_READ_RULES {
        return (read, Vec::new());
    }
    // The same order as that of valid rules, so that nodes agree.
    let order = |rule: &Value| rule.get("order").and_then(Value::as_i64).unwrap_or_default();
    read.sort_by(|a, b| (order(a), id(a)).cmp(&(order(b), id(b))).then_with(|| a.to_string().cmp(&b.to_string())));
    let unread = read.split_off(MAX_READ_RULES);
    (read, unread)
}

fn id(rule: &Value) -> Option<&str> {
    rule.get("id").and_then(Value::as_str)
}

/// The id of a rule that is skipped, as written, or its beginning.
fn shown_id(rule: &Value) -> Option<String> {
    id(rule).map(clipped)
}

fn too_many(whole: &Located<'_>) -> RuleFault {
    whole.fault("too many rules", format_args!("the limit is {MAX_RULES}; remove others"))
}

/// Why a valid rule has no place after `count` others, which have these ids and bytes.
fn excess(rule: &Rule, ids: &BTreeSet<CompactString>, count: usize, bytes: usize) -> Option<RuleFault> {
    let whole = Located::whole(&rule.source);
    if ids.contains(&rule.id) {
        let id = whole.field("id", &rule.source);
        return Some(id.fault(format_args!("another rule has the id {}", rule.id), "give each rule an id of its own"));
    }
    if count >= MAX_RULES {
        return Some(too_many(&whole));
    }
    if bytes + rule.bytes > MAX_SET_BYTES {
        let hint = format!("the limit is {MAX_SET_BYTES} bytes; remove or shorten others");
        return Some(whole.fault("the rules are too large together", hint));
    }
    None
}
