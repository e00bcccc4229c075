//! The bucket of the rules. The key of a rule is its id; the value is JSON: the rule, and who wrote it when.
//!
//! The revision of all rules is the last sequence of the bucket, so it is the same wherever it is read. The bucket keeps
//! the last message of each key, also of a deleted one. So a reader that has everything up to a sequence only needs the
//! messages after it.
//!
//! Messages are read from the server that leads the bucket, one at a time, in a form that holds any bytes: an
//! acknowledgement that a producer has directed here must not end the reading. There is no consumer that could stop
//! without a sign.

mod error;

pub use error::RuleBucketError;

use crate::names::RULES_BUCKET;
use crate::nats::Nats;
use crate::storage;
use crate::stored::{self, MessageSelector, StoredMessage};
use async_nats::jetstream::Context;
use async_nats::jetstream::kv::{Store, UpdateError, UpdateErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use tickwire_core::event::Kinds;
use tickwire_core::ids::Seq;
use tickwire_core::rules::{RuleFault, RuleRevision, RuleSet, SkippedRule};
use tokio::time::{Instant, sleep, timeout};

/// How long a new bucket may be unknown, and the pause between two attempts: the servers of a cluster learn of a bucket
/// one after the other.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_PAUSE: Duration = Duration::from_millis(100);

/// The longest time for one read or write.
const DEADLINE: Duration = Duration::from_secs(2);

/// How many characters of the error of a decoder are kept.
const MAX_REASON: usize = 200;

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

/// The last message of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEntry {
    /// The key: the id of the rule.
    pub key: String,
    /// The revision of the key.
    pub revision: u64,
    /// The value; empty if the rule was deleted.
    pub value: Vec<u8>,
}

/// What tells one state of the bucket from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketState {
    /// When the bucket was created, in nanoseconds since 1970. A bucket that was deleted and created again counts anew.
    pub created: i128,
    /// The last sequence.
    pub last: u64,
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct RuleBucket {
    context: Context,
    store: Store,
}

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
        let stored: Self = serde_json::from_slice(value).map_err(|error| {
            // The error may show a part of the value, which may be long.
            let error: String = error.to_string().chars().take(MAX_REASON).collect();
            let reason = format!("the value of the key is not a stored rule: {error}");
            skipped("rule", reason, "write rules with `tickwire rules put`")
        })?;
        match stored.rule.get("id").and_then(Value::as_str) {
            Some(id) if id != key => {
                let reason = format!("the rule in the key {key} has another id");
                Err(skipped("id", reason, "write rules with `tickwire rules put`"))
            }
            _ => Ok(stored),
        }
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
        let end = Instant::now() + SETTLING;
        loop {
            match in_time(nats.jetstream.get_key_value(RULES_BUCKET)).await {
                Ok(store) => return Ok(Self { context: nats.jetstream.clone(), store }),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => sleep(SETTLING_PAUSE).await,
            }
        }
    }

    /// Its state.
    ///
    /// # Errors
    /// When it cannot be reached, or does not exist.
    pub async fn state(&self) -> Result<BucketState, RuleBucketError> {
        let info = in_time(storage::look(&self.context, &self.store.stream_name)).await?;
        let info = info.ok_or(RuleBucketError::Missing)?;
        Ok(BucketState { created: info.created.unix_timestamp_nanos(), last: info.state.last_sequence })
    }

    /// The last message of every key that was written after a sequence, in order.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn entries_after(&self, sequence: u64) -> Result<Vec<RuleEntry>, RuleBucketError> {
        let (mut entries, mut next) = (Vec::new(), sequence + 1);
        while let Some(message) = self.fetch(MessageSelector::from(Seq(next))).await? {
            next = message.seq.0 + 1;
            entries.extend(self.entry(message));
        }
        Ok(entries)
    }

    /// The last message of one key; `None` if there is none, or if the rule was deleted.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn entry_of(&self, id: &str) -> Result<Option<RuleEntry>, RuleBucketError> {
        let subject = format!("{}{id}", self.store.prefix);
        let found = self.fetch(MessageSelector::LastOf(&subject)).await?;
        Ok(found.and_then(|message| self.entry(message)).filter(|entry| !entry.value.is_empty()))
    }

    /// Writes a rule under its id; with `expected`, only if its key has this revision (0: none). Returns the new
    /// revision.
    ///
    /// # Errors
    /// [`RuleBucketError::OtherRevision`] if the key has another revision. After any other error the write may take
    /// effect nevertheless.
    pub async fn put(&self, id: &str, rule: &StoredRule, expected: Option<u64>) -> Result<u64, RuleBucketError> {
        let value = serde_json::to_vec(rule).map_err(RuleBucketError::unavailable)?;
        let revision = match expected {
            None => return in_time(self.store.put(id, value.into())).await,
            Some(0) => self.revision_without_rule(id).await?,
            Some(revision) => revision,
        };
        checked(id, timeout(DEADLINE, self.store.update(id, value.into(), revision)).await)
    }

    /// Deletes a rule; with `expected`, only if its key has this revision.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub async fn delete(&self, id: &str, expected: Option<u64>) -> Result<(), RuleBucketError> {
        checked(id, timeout(DEADLINE, self.store.delete_expect_revision(id, expected)).await)
    }

    /// The revision of a key without a rule: that of the mark of a deleted one, else 0.
    async fn revision_without_rule(&self, id: &str) -> Result<u64, RuleBucketError> {
        let subject = format!("{}{id}", self.store.prefix);
        let mark = self.fetch(MessageSelector::LastOf(&subject)).await?.filter(|message| message.payload.is_empty());
        Ok(mark.map_or(0, |message| message.seq.0))
    }

    async fn fetch(&self, wanted: MessageSelector<'_>) -> Result<Option<StoredMessage>, RuleBucketError> {
        in_time(stored::get(&self.context, &self.store.stream_name, wanted)).await
    }

    /// A message of the bucket as an entry.
    fn entry(&self, message: StoredMessage) -> Option<RuleEntry> {
        let key = message.subject.strip_prefix(&self.store.prefix)?.to_owned();
        Some(RuleEntry { key, revision: message.seq.0, value: message.payload })
    }
}

/// Waits for an answer, within the deadline.
async fn in_time<T, E: std::fmt::Display>(request: impl Future<Output = Result<T, E>>) -> Result<T, RuleBucketError> {
    match timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(RuleBucketError::unavailable),
        Err(late) => Err(RuleBucketError::unavailable(late)),
    }
}

/// The result of a write that expected a revision.
fn checked<T>(
    id: &str,
    written: Result<Result<T, UpdateError>, tokio::time::error::Elapsed>,
) -> Result<T, RuleBucketError> {
    match written {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => {
            Err(RuleBucketError::OtherRevision { id: id.to_owned() })
        }
        Ok(Err(error)) => Err(RuleBucketError::unavailable(error)),
        Err(late) => Err(RuleBucketError::unavailable(late)),
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
    fn foreign_values_are_skipped_and_the_others_count() {
        let good = value(&json!({ "id": "good", "ttl_ms": 5 }));
        let bad = value(&json!({ "id": "bad", "ttl_ms": -5 }));
        let other = value(&json!({ "id": "good", "ttl_ms": 6 }));
        let acknowledgement = br#"{"stream":"EVENTS","seq":7}"#;
        let entries: [(&str, &[u8]); 4] =
            [("ack", acknowledgement), ("bad", &bad), ("good", &good), ("renamed", &other)];
        let (set, skipped) = compile(RuleRevision(9), entries, &Kinds::default());
        assert_eq!((set.revision(), set.rules().len()), (RuleRevision(9), 1));
        let mut faults: Vec<_> =
            skipped.iter().map(|rule| (rule.id.as_deref().unwrap_or_default(), rule.fault.path.as_str())).collect();
        faults.sort_unstable();
        assert_eq!(faults, [("ack", "rule"), ("bad", "ttl_ms"), ("renamed", "id")]);
    }
}
