//! Prints the rules of a cluster.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use tickwire_core::event::Kinds;
use tickwire_core::rules::{RuleRevision, RuleSet, SkippedRule};
use tickwire_node::bucket::BucketEntry;
use tickwire_node::rule_bucket::{self, RuleBucket, RuleBucketError, StoredRule};

use super::connection::Connection;
use super::{RulesError, source};
use tickwire_command::args::NatsArgs;
use tickwire_command::standard_error;
use tickwire_node::terminal_text::{in_json, in_line, in_lines};

/// The rules of a cluster.
pub(crate) struct ClusterRules {
    pub(crate) set: RuleSet,
    pub(crate) skipped: Vec<SkippedRule>,
    /// The last entry of each key that is not deleted.
    entries: BTreeMap<String, BucketEntry>,
}

impl ClusterRules {
    /// Reads and compiles them as a router with these kinds does.
    pub(crate) async fn read(bucket: &RuleBucket, kinds: &Kinds) -> Result<Self, RuleBucketError> {
        let mut revision = bucket.state().await?.last;
        let mut entries = BTreeMap::new();
        for entry in bucket.entries_after(0).await? {
            revision = revision.max(entry.revision);
            entries.insert(entry.key.clone(), entry);
        }
        entries.retain(|_, entry| !entry.value.is_empty());
        let values = entries.iter().map(|(key, entry)| (key.as_str(), entry.value.as_slice()));
        let (set, skipped) = rule_bucket::compile(RuleRevision(revision), values, kinds);
        Ok(Self { set, skipped, entries })
    }

    /// A table of the rules in order, and below it the skipped ones.
    fn table(&self) -> String {
        let titles = ["order", "id", "enabled", "revision", "updated", "by", "name"].map(str::to_owned);
        let mut rows = vec![titles];
        for rule in self.set.rules() {
            let entry = self.entries.get(rule.id.as_str());
            let stored = entry.and_then(|entry| StoredRule::read(&entry.key, &entry.value).ok());
            let (updated_by, updated_at) =
                stored.map_or((String::new(), None), |stored| (stored.updated_by, stored.updated_at));
            rows.push([
                rule.order.to_string(),
                rule.id.to_string(),
                if rule.enabled { "yes" } else { "no" }.to_owned(),
                entry.map_or(0, |entry| entry.revision).to_string(),
                updated_at.map_or_else(String::new, |at| format!("{at:.0}")),
                in_line(&updated_by).into_owned(),
                in_line(&rule.name).into_owned(),
            ]);
        }
        let mut text = format!("revision {}, {}\n", self.set.revision().0, source::count_of(self.set.rules().len()));
        if rows.len() > 1 {
            text += &format!("\n{}", aligned(&rows));
        }
        if !self.skipped.is_empty() {
            text += &format!("\nskipped by routers:\n{}\n", source::faults(&self.skipped));
        }
        text
    }

    /// All stored rules as one list, in the order of their ids. What holds no rule is left out.
    fn json(&self) -> String {
        let stored = self.entries.values().filter_map(|entry| StoredRule::read(&entry.key, &entry.value).ok());
        let rules = Value::Array(stored.map(|stored| stored.rule).collect());
        in_json(&format!("{rules:#}\n")).into_owned()
    }
}

/// Rows with columns of equal widths.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Writing to a String cannot fail.
        writeln!(text, "{}", cells.join("  ").trim_end()).unwrap_or_default();
    }
    text
}

/// Prints all rules. With `json` those that routers skip go to standard error, so that the output can be written again.
pub(super) async fn list(json: bool, nats: &NatsArgs) -> Result<String, RulesError> {
    let connection = Connection::open(nats).await?;
    let done = connection.unless_denied(ClusterRules::read(&connection.bucket, &connection.kinds)).await;
    let rules = connection.close(done).await?;
    if !json {
        return Ok(rules.table());
    }
    if !rules.skipped.is_empty() {
        let faults = source::faults(&rules.skipped);
        standard_error::line(&format!("skipped by routers, and refused by `put`:\n{}", in_lines(&faults)));
    }
    Ok(rules.json())
}

/// Prints one rule. Who wrote it, and its revision, go to standard error, so that the output can be written again.
pub(super) async fn get(id: &str, nats: &NatsArgs) -> Result<String, RulesError> {
    let connection = Connection::open(nats).await?;
    let done = connection.unless_denied(connection.bucket.entry_of(id)).await;
    let entry = connection.close(done).await?.ok_or_else(|| RulesError::UnknownRule { id: id.to_owned() })?;
    match StoredRule::read(&entry.key, &entry.value) {
        Ok(StoredRule { rule, updated_by, updated_at }) => {
            let at = updated_at.map_or_else(|| "at an unknown time".to_owned(), |at| format!("at {at:.0}"));
            let by = if updated_by.is_empty() { "somebody" } else { &updated_by };
            standard_error::line(&format!("revision {}, written {at} by {}", entry.revision, in_line(by)));
            Ok(in_json(&format!("{rule:#}\n")).into_owned())
        }
        Err(skipped) => Err(RulesError::Invalid { faults: source::faults(&[skipped]) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tickwire_core::event::Timestamp;

    fn entry(key: &str, revision: u64, value: &Value) -> (String, BucketEntry) {
        let (stored, value) = (Timestamp(0), value.to_string().into_bytes());
        (key.to_owned(), BucketEntry { key: key.to_owned(), revision, stored, value })
    }

    fn stored(key: &str, revision: u64, rule: &Value) -> (String, BucketEntry) {
        let value = json!({ "rule": rule, "updated_by": "ann", "updated_at": "2026-11-27T12:00:00Z" });
        entry(key, revision, &value)
    }

    fn rules(entries: BTreeMap<String, BucketEntry>) -> ClusterRules {
        let values = entries.iter().map(|(key, entry)| (key.as_str(), entry.value.as_slice()));
        let (set, skipped) = rule_bucket::compile(RuleRevision(5), values, &Kinds::default());
        ClusterRules { set, skipped, entries }
    }

    #[test]
    fn json_has_all_stored_rules_as_put_takes_them() {
        let [a, b] = [json!({ "id": "a", "order": 7, "ttl_ms": 5 }), json!({ "id": "b", "ttl_ms": 0 })];
        let entries = [stored("b", 1, &b), stored("a", 2, &a), entry("junk", 3, &json!({ "seq": 7 }))];
        let text = rules(BTreeMap::from(entries)).json();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        assert_eq!(source::rules(file.path()).unwrap(), [a, b]);
        assert_eq!(rules(BTreeMap::new()).json(), "[]\n");
    }

    #[test]
    fn table_has_the_rules_in_order_and_the_skipped_ones() {
        let entries = BTreeMap::from([
            stored("late", 3, &json!({ "id": "late", "order": 20, "name": "Later", "ttl_ms": 5 })),
            stored("early", 4, &json!({ "id": "early", "order": -1, "enabled": false, "ttl_ms": 5 })),
            stored("bad", 5, &json!({ "id": "bad", "ttl_ms": 0 })),
        ]);
        let text = rules(entries).table();
        let expected = "\
revision 5, 2 rules

order  id     enabled  revision  updated               by   name
-1     early  no       4         2026-11-27T12:00:00Z  ann  early
20     late   yes      3         2026-11-27T12:00:00Z  ann  Later

skipped by routers:
  bad: ttl_ms: ";
        assert!(text.starts_with(expected), "{text}");
    }
}
