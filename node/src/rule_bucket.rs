//! The bucket of the rules. The key of a rule is its id; the value is JSON: the rule, and who wrote it when.
//!
//! The revision of all rules is the last sequence of the bucket, so it is the same wherever it is read. `bucket` reads
//! and writes it.

mod error;

pub use error::RuleBucketError;

use crate::bucket::{ALL_KEYS, Bucket, BucketEntry, BucketReader, BucketState};
use crate::names::RULES_BUCKET;
use crate::nats::Nats;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use tickwire_core::event::Kinds;
use tickwire_core::rules::limits::MAX_RULE_BYTES;
use tickwire_core::rules::{RuleFault, RuleRevision, RuleSet, SkippedRule};

/// How many characters of the error of a decoder are kept.
const MAX_REASON: usize = 200;

/// The most bytes of a value: a rule with spaces, and who wrote it.
pub const MAX_STORED_BYTES: usize = 4 * MAX_RULE_BYTES + 4 * 1024;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRule {
    /// The rule, as it was written.
    pub rule: Value,
    /// Who wrote it; for people.
    #[serde(default)]
    pub updated_by: String,
    /// When it was written, by the clock of the writer; for people.
    #[serde(default)]
    pub updated_at: Option<jiff::Timestamp>,
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct RuleBucket(Bucket);

impl StoredRule {
    /// Reads the value of a key.
    ///
    /// # Errors
    /// The rule to skip: its value is not what tickwire writes, or its id is not the key.
    pub fn read(key: &str, value: &[u8]) -> Result<Self, SkippedRule> {
        let skipped = |path: &str, reason: String, hint: &str| SkippedRule {
            id: Some(key.to_owned()),
            fault: RuleFault { path: path.to_owned(), reason, hint: hint.to_owned() },
        };
        if value.len() > MAX_STORED_BYTES {
            let reason = format!("the value of the key has more than {MAX_STORED_BYTES} bytes");
            return Err(skipped("rule", reason, "write rules with `tickwire rules put`"));
        }
        let stored: Self = serde_json::from_slice(value).map_err(|error| {
            // The error may show a part of the value, which may be long.
            let error: String = error.to_string().chars().take(MAX_REASON).collect();
            let reason = format!("the value of the key is not a stored rule: {error}");
            skipped("rule", reason, "write rules with `tickwire rules put`")
        })?;
        let reason = match stored.rule.get("id").and_then(Value::as_str) {
            Some(id) if id == key => return Ok(stored),
            Some(_) => format!("the rule in the key {key} has another id"),
            None => format!("the rule in the key {key} has no id"),
        };
        Err(skipped("id", reason, "write rules with `tickwire rules put`"))
    }
}

/// Compiles the rules of a revision of the bucket. Entries that cannot be read are among the skipped rules.
pub fn compile<'e>(
    revision: RuleRevision,
    entries: impl IntoIterator<Item = (&'e str, &'e [u8])>,
    kinds: &Kinds,
) -> (RuleSet, Vec<SkippedRule>) {
    let (mut rules, mut skipped) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        match StoredRule::read(key, value) {
            Ok(stored) => rules.push(stored.rule),
            Err(unreadable) => skipped.push(unreadable),
        }
    }
    let (set, refused) = RuleSet::compile(revision, &rules, kinds);
    skipped.extend(refused);
    (set, skipped)
}

impl RuleBucket {
    /// Opens the bucket. It waits a while for a new bucket.
    ///
    /// # Errors
    /// When the bucket does not exist, or cannot be reached.
    pub async fn open(nats: &Nats) -> Result<Self, RuleBucketError> {
        Ok(Self(Bucket::open(nats, RULES_BUCKET).await?))
    }

    /// Reads the rules again and again. After `review` looks at an unchanged bucket it is read again from its beginning.
    #[must_use]
    pub fn reader(&self, review: u32) -> BucketReader {
        BucketReader::new(self.0.clone(), ALL_KEYS, review)
    }

    /// Its state.
    ///
    /// # Errors
    /// When it cannot be reached, or does not exist.
    pub async fn state(&self) -> Result<BucketState, RuleBucketError> {
        Ok(self.0.look().await?.state)
    }

    /// The last message of every key that was written after a sequence, in order.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn entries_after(&self, sequence: u64) -> Result<Vec<BucketEntry>, RuleBucketError> {
        Ok(self.0.entries_after(ALL_KEYS, sequence).await?)
    }

    /// The last message of one key; `None` if there is none, or if the rule was deleted.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn entry_of(&self, id: &str) -> Result<Option<BucketEntry>, RuleBucketError> {
        Ok(self.0.entry_of(id).await?)
    }

    /// The rules of `new`, by their ids, that routers with these kinds would skip if they were written: a rule may have a
    /// fault, or all rules together may be too many or too large.
    ///
    /// # Errors
    /// When the bucket cannot be reached.
    pub async fn would_skip(
        &self,
        new: &BTreeMap<String, StoredRule>,
        kinds: &Kinds,
    ) -> Result<Vec<SkippedRule>, RuleBucketError> {
        let mut values = BTreeMap::new();
        for entry in self.entries_after(0).await? {
            values.insert(entry.key, entry.value);
        }
        for (id, rule) in new {
            values.insert(id.clone(), serde_json::to_vec(rule).map_err(RuleBucketError::unavailable)?);
        }
        let present = values.iter().filter(|(_, value)| !value.is_empty());
        let entries = present.map(|(key, value)| (key.as_str(), value.as_slice()));
        let (_, mut skipped) = compile(RuleRevision(0), entries, kinds);
        skipped.retain(|rule| rule.id.as_ref().is_some_and(|id| new.contains_key(id)));
        Ok(skipped)
    }

    /// Writes a rule under its id; with `expected`, only if its key has this revision (0: none). Returns the new
    /// revision.
    ///
    /// # Errors
    /// [`RuleBucketError::OtherRevision`] if the key has another revision. After any other error the write may take
    /// effect nevertheless.
    pub async fn put(&self, id: &str, rule: &StoredRule, expected: Option<u64>) -> Result<u64, RuleBucketError> {
        let value = serde_json::to_vec(rule).map_err(RuleBucketError::unavailable)?;
        Ok(match expected {
            Some(revision) => self.0.update(id, value, revision).await?,
            None => self.0.put(id, value).await?,
        })
    }

    /// Deletes a rule; with `expected`, only if its key has this revision.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub async fn delete(&self, id: &str, expected: Option<u64>) -> Result<(), RuleBucketError> {
        Ok(self.0.delete(id, expected).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(rule: &Value) -> Vec<u8> {
        json!({ "rule": rule, "updated_by": "ann", "updated_at": "2026-11-27T12:00:00Z" }).to_string().into_bytes()
    }

    #[test]
    fn stored_rule_is_read_as_it_was_written() {
        let rule = json!({ "id": "a", "ttl_ms": 5 });
        let stored = StoredRule::read("a", &value(&rule)).unwrap();
        assert_eq!((&stored.rule, stored.updated_by.as_str()), (&rule, "ann"));
        let again = serde_json::to_vec(&stored).unwrap();
        assert_eq!(StoredRule::read("a", &again).unwrap(), stored);
    }

    #[test]
    fn value_that_is_too_large_is_skipped_unread() {
        let rule = json!({ "id": "a", "ttl_ms": 5, "description": "x".repeat(MAX_STORED_BYTES) });
        let skipped = StoredRule::read("a", &value(&rule)).unwrap_err();
        assert_eq!((skipped.fault.path.as_str(), skipped.fault.reason.contains("more than")), ("rule", true));
    }

    #[test]
    fn foreign_values_are_skipped_and_the_others_count() {
        let good = value(&json!({ "id": "good", "ttl_ms": 5 }));
        let bad = value(&json!({ "id": "bad", "ttl_ms": -5 }));
        let other = value(&json!({ "id": "good", "ttl_ms": 6 }));
        let nameless = value(&json!({ "ttl_ms": 6 }));
        let acknowledgement = br#"{"stream":"EVENTS","seq":7}"#;
        let entries: [(&str, &[u8]); 5] =
            [("ack", acknowledgement), ("bad", &bad), ("good", &good), ("nameless", &nameless), ("renamed", &other)];
        let (set, skipped) = compile(RuleRevision(9), entries, &Kinds::default());
        assert_eq!((set.revision(), set.rules().len()), (RuleRevision(9), 1));
        let mut faults: Vec<_> =
            skipped.iter().map(|rule| (rule.id.as_deref().unwrap_or_default(), rule.fault.path.as_str())).collect();
        faults.sort_unstable();
        assert_eq!(faults, [("ack", "rule"), ("bad", "ttl_ms"), ("nameless", "id"), ("renamed", "id")]);
    }
}
