//! What is known of the bucket of rules, and the set of rules that follows from it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::event::Kinds;
use tickwire_core::rules::{RuleRevision, RuleSet, SkippedRule};
use tickwire_node::bucket::{BucketEntry, BucketNews};
use tickwire_node::rule_bucket::{MAX_STORED_BYTES, StoredRule, compile};

/// The entries of the bucket, as far as they were read.
#[derive(Debug)]
pub(crate) struct RuleBook {
    kinds: Kinds,
    /// When the bucket was created; `None` before the first reading.
    created: Option<i128>,
    /// The entries by key, without deleted ones.
    entries: BTreeMap<String, BucketEntry>,
}

/// A state of the rules.
#[derive(Debug, Default)]
pub(crate) struct KnownRules {
    /// The set.
    pub(crate) set: Arc<RuleSet>,
    /// The rules that are not in it.
    pub(crate) skipped: Vec<SkippedRule>,
    /// The origin of each rule, by its key.
    pub(crate) origins: BTreeMap<String, RuleOrigin>,
    /// How many rules are gone because the bucket was deleted and created again, and has none now.
    pub(crate) lost: usize,
}

/// Where a rule comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RuleOrigin {
    /// The revision of its key.
    pub(crate) revision: u64,
    /// Who wrote it; empty if that is not known.
    pub(crate) updated_by: String,
    /// When it was written, by the clock of the writer.
    pub(crate) updated_at: Option<jiff::Timestamp>,
}

impl RuleOrigin {
    /// The origin of the rule in an entry.
    pub(crate) fn of(entry: &BucketEntry) -> Self {
        let BucketEntry { key, revision, value, .. } = entry;
        let stored = StoredRule::read(key, value).ok();
        let (updated_by, updated_at) = stored.map(|stored| (stored.updated_by, stored.updated_at)).unwrap_or_default();
        Self { revision: *revision, updated_by, updated_at }
    }
}

impl RuleBook {
    /// Nothing is known yet. `kinds` are those of this cluster.
    pub(crate) fn new(kinds: Kinds) -> Self {
        Self { kinds, created: None, entries: BTreeMap::new() }
    }

    /// Takes what was read of the bucket. Returns the rules, if they are not the same as before.
    pub(crate) fn take(&mut self, news: BucketNews) -> Option<KnownRules> {
        let BucketNews { state, is_other, is_all, entries } = news;
        let is_other_bucket = self.created.replace(state.created).is_some_and(|created| created != state.created);
        let former = is_all.then(|| std::mem::take(&mut self.entries));
        for mut entry in entries {
            if entry.value.is_empty() {
                self.entries.remove(&entry.key);
            } else {
                // A rule that is too large is skipped, so its value is of no use.
                entry.value.truncate(MAX_STORED_BYTES + 1);
                self.entries.insert(entry.key.clone(), entry);
            }
        }
        let former = former.as_ref();
        let is_new = is_other || former.is_some_and(|former| *former != self.entries);
        let lost = former.filter(|_| is_other_bucket && self.entries.is_empty()).map_or(0, BTreeMap::len);
        is_new.then(|| KnownRules { lost, ..self.compiled(RuleRevision(state.last)) })
    }

    fn compiled(&self, revision: RuleRevision) -> KnownRules {
        let values = self.entries.iter().map(|(key, entry)| (key.as_str(), entry.value.as_slice()));
        let (set, skipped) = compile(revision, values, &self.kinds);
        let origins = self.entries.iter().map(|(key, entry)| (key.clone(), RuleOrigin::of(entry)));
        KnownRules { set: Arc::new(set), skipped, origins: origins.collect(), lost: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tickwire_core::event::Timestamp;
    use tickwire_node::bucket::BucketState;

    fn entry(key: &str, revision: u64, value: Vec<u8>) -> BucketEntry {
        BucketEntry { key: key.to_owned(), revision, stored: Timestamp(0), value }
    }

    fn put(key: &str, revision: u64, ttl_ms: i64) -> BucketEntry {
        let value = json!({ "rule": { "id": key, "ttl_ms": ttl_ms }, "updated_by": "ann" });
        entry(key, revision, value.to_string().into_bytes())
    }

    fn deleted(key: &str, revision: u64) -> BucketEntry {
        entry(key, revision, Vec::new())
    }

    /// A reading of the whole bucket, or of what has come after the one before.
    fn read(is_all: bool, last: u64, entries: Vec<BucketEntry>) -> BucketNews {
        BucketNews { state: BucketState { created: 1, last }, is_other: true, is_all, entries }
    }

    fn book() -> RuleBook {
        RuleBook::new(Kinds::default())
    }

    /// The revision, the ids of the rules, and those of the skipped ones.
    fn shown(news: Option<KnownRules>) -> (u64, Vec<String>, Vec<String>) {
        let KnownRules { set, skipped, .. } = news.unwrap();
        let ids = set.rules().iter().map(|rule| rule.id.to_string()).collect();
        (set.revision().0, ids, skipped.into_iter().filter_map(|rule| rule.id).collect())
    }

    fn expected(revision: u64, rules: &[&str], skipped: &[&str]) -> (u64, Vec<String>, Vec<String>) {
        let texts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        (revision, texts(rules), texts(skipped))
    }

    #[test]
    fn empty_bucket_is_a_set_without_rules() {
        assert_eq!(shown(book().take(read(true, 0, vec![]))), expected(0, &[], &[]));
    }

    #[test]
    fn updates_and_deletes_are_applied_in_order() {
        let mut book = book();
        let first = vec![put("b", 2, 5), put("a", 3, 5)];
        assert_eq!(shown(book.take(read(true, 3, first))), expected(3, &["a", "b"], &[]));
        let next = vec![put("c", 4, 5), deleted("a", 5), put("b", 6, 7)];
        assert_eq!(shown(book.take(read(false, 6, next))), expected(6, &["b", "c"], &[]));
    }

    #[test]
    fn bad_rule_is_skipped_until_it_is_mended() {
        let mut book = book();
        let junk = entry("junk", 2, b"{".to_vec());
        let entries = vec![put("good", 1, 5), junk, put("bad", 3, -5)];
        assert_eq!(shown(book.take(read(true, 3, entries))), expected(3, &["good"], &["junk", "bad"]));
        let mended = vec![put("bad", 4, 5), deleted("junk", 5)];
        assert_eq!(shown(book.take(read(false, 5, mended))), expected(5, &["bad", "good"], &[]));
    }

    #[test]
    fn value_of_any_size_is_skipped_and_not_kept() {
        let mut book = book();
        let huge = entry("huge", 1, vec![b' '; 1_000_000]);
        assert_eq!(shown(book.take(read(true, 2, vec![huge, put("a", 2, 5)]))), expected(2, &["a"], &["huge"]));
        assert_eq!(book.entries["huge"].value.len(), MAX_STORED_BYTES + 1);
    }

    #[test]
    fn rules_are_lost_when_their_bucket_is_new_and_empty_but_not_when_they_are_deleted() {
        let lost = |news: Option<KnownRules>| news.unwrap().lost;
        let new = |created, entries| BucketNews { state: BucketState { created, last: 0 }, ..read(true, 0, entries) };
        let mut book = book();
        assert_eq!(lost(book.take(new(1, vec![]))), 0, "a new cluster has no rules");
        assert_eq!(lost(book.take(read(false, 2, vec![put("a", 1, 5), put("b", 2, 5)]))), 0);
        assert_eq!(lost(book.take(new(2, vec![]))), 2);
        assert_eq!(lost(book.take(new(3, vec![]))), 0, "they are lost only once");
        assert_eq!(lost(book.take(new(4, vec![put("a", 1, 5)]))), 0);
        assert_eq!(lost(book.take(new(5, vec![put("a", 1, 5)]))), 0, "a copy was restored");
        let state = BucketState { created: 5, last: 2 };
        let all_deleted = BucketNews { state, ..read(false, 2, vec![deleted("a", 2)]) };
        assert_eq!(lost(book.take(all_deleted)), 0, "somebody has deleted the rule");
    }

    #[test]
    fn origin_of_each_rule_is_known() {
        let junk = entry("junk", 3, b"{".to_vec());
        let origins = book().take(read(true, 3, vec![put("a", 2, 5), junk])).unwrap().origins;
        let of = |key: &str| (origins[key].revision, origins[key].updated_by.as_str());
        assert_eq!((origins.len(), of("a"), of("junk")), (2, (2, "ann"), (3, "")));
    }

    #[test]
    fn routers_agree_in_whatever_steps_they_have_read() {
        let entries = vec![put("b", 2, 5), put("c", 4, 5), deleted("a", 5), put("d", 7, -1)];
        let mut at_once = book();
        let at_once = shown(at_once.take(read(true, 7, entries.clone())));
        let mut in_steps = book();
        in_steps.take(read(true, 3, vec![put("a", 1, 5), put("b", 2, 5), put("d", 3, 5)]));
        let in_steps = shown(in_steps.take(read(false, 7, entries.into_iter().skip(1).collect())));
        assert_eq!(at_once, in_steps);
    }

    #[test]
    fn rules_that_a_whole_reading_lacks_are_gone() {
        let mut book = book();
        let entries = || vec![put("a", 8, 5), put("b", 9, 5)];
        book.take(read(true, 9, entries()));
        let again = |entries| BucketNews { is_other: false, ..read(true, 9, entries) };
        assert!(book.take(again(entries())).is_none(), "nothing has changed");
        assert_eq!(shown(book.take(again(entries().split_off(1)))), expected(9, &["b"], &[]));
        // A bucket that was created again has lower sequences.
        assert_eq!(shown(book.take(read(true, 1, vec![put("c", 1, 5)]))), expected(1, &["c"], &[]));
    }
}
