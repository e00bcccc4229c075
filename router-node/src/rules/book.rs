//! What is known of the bucket of rules, and the set of rules that follows from it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::event::Kinds;
use tickwire_core::rules::{RuleRevision, RuleSet, SkippedRule};
use tickwire_node::bucket::{BucketCursor, BucketEntry, BucketState};
use tickwire_node::rule_bucket::{StoredRule, compile};

/// After how many looks at an unchanged bucket it is read again from its beginning. Messages that were removed without
/// a mark show only then.
const REVIEW: u32 = 120;

/// The entries of the bucket, as far as they were read.
#[derive(Debug)]
pub(crate) struct RuleBook {
    kinds: Kinds,
    /// The entries by key, without deleted ones.
    entries: BTreeMap<String, BucketEntry>,
    cursor: BucketCursor,
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
        Self { kinds, entries: BTreeMap::new(), cursor: BucketCursor::new(REVIEW) }
    }

    /// Takes the state of the bucket. Returns the sequence after which its entries are to be read; `None` if nothing is
    /// new.
    pub(crate) fn look(&mut self, state: BucketState) -> Option<u64> {
        self.cursor.look(state)
    }

    /// Takes all entries after a sequence that [`look`](Self::look) has named for this state. Returns the rules, if they
    /// are not the same as before.
    pub(crate) fn take(&mut self, state: BucketState, after: u64, entries: Vec<BucketEntry>) -> Option<KnownRules> {
        let (read, is_other) = self.cursor.note(state, &entries);
        let former = (after == 0).then(|| std::mem::take(&mut self.entries));
        for entry in entries {
            if entry.value.is_empty() {
                self.entries.remove(&entry.key);
            } else {
                self.entries.insert(entry.key.clone(), entry);
            }
        }
        let is_new = is_other || former.is_some_and(|former| former != self.entries);
        is_new.then(|| self.compiled(RuleRevision(read.last)))
    }

    fn compiled(&self, revision: RuleRevision) -> KnownRules {
        let values = self.entries.iter().map(|(key, entry)| (key.as_str(), entry.value.as_slice()));
        let (set, skipped) = compile(revision, values, &self.kinds);
        let origins = self.entries.iter().map(|(key, entry)| (key.clone(), RuleOrigin::of(entry)));
        KnownRules { set: Arc::new(set), skipped, origins: origins.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tickwire_core::event::Timestamp;

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

    fn state(created: i128, last: u64) -> BucketState {
        BucketState { created, last }
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
        let mut book = book();
        assert_eq!(book.look(state(1, 0)), Some(0));
        assert_eq!(shown(book.take(state(1, 0), 0, vec![])), expected(0, &[], &[]));
        assert_eq!(book.look(state(1, 0)), None);
    }

    #[test]
    fn updates_and_deletes_are_applied_in_order() {
        let mut book = book();
        book.look(state(1, 3));
        let first = vec![put("b", 2, 5), put("a", 3, 5)];
        assert_eq!(shown(book.take(state(1, 3), 0, first)), expected(3, &["a", "b"], &[]));
        assert_eq!(book.look(state(1, 5)), Some(3));
        let next = vec![put("c", 4, 5), deleted("a", 5), put("b", 6, 7)];
        assert_eq!(shown(book.take(state(1, 5), 3, next)), expected(6, &["b", "c"], &[]));
        assert_eq!(book.look(state(1, 6)), None);
    }

    #[test]
    fn bad_rule_is_skipped_until_it_is_mended() {
        let mut book = book();
        let junk = entry("junk", 2, b"{".to_vec());
        let entries = vec![put("good", 1, 5), junk, put("bad", 3, -5)];
        assert_eq!(shown(book.take(state(1, 3), 0, entries)), expected(3, &["good"], &["junk", "bad"]));
        let mended = vec![put("bad", 4, 5), deleted("junk", 5)];
        assert_eq!(shown(book.take(state(1, 5), 3, mended)), expected(5, &["bad", "good"], &[]));
    }

    #[test]
    fn origin_of_each_rule_is_known() {
        let junk = entry("junk", 3, b"{".to_vec());
        let origins = book().take(state(1, 3), 0, vec![put("a", 2, 5), junk]).unwrap().origins;
        let of = |key: &str| (origins[key].revision, origins[key].updated_by.as_str());
        assert_eq!((origins.len(), of("a"), of("junk")), (2, (2, "ann"), (3, "")));
    }

    #[test]
    fn routers_agree_in_whatever_steps_they_have_read() {
        let entries = vec![put("b", 2, 5), put("c", 4, 5), deleted("a", 5), put("d", 7, -1)];
        let mut at_once = book();
        let at_once = shown(at_once.take(state(1, 7), 0, entries.clone()));
        let mut in_steps = book();
        in_steps.take(state(1, 3), 0, vec![put("a", 1, 5), put("b", 2, 5), put("d", 3, 5)]);
        assert_eq!(in_steps.look(state(1, 7)), Some(3));
        let in_steps = shown(in_steps.take(state(1, 7), 3, entries.into_iter().skip(1).collect()));
        assert_eq!(at_once, in_steps);
    }

    #[test]
    fn bucket_that_was_created_again_or_has_lost_its_end_is_read_from_its_beginning() {
        for other in [state(2, 9), state(1, 8)] {
            let mut book = book();
            book.take(state(1, 9), 0, vec![put("a", 8, 5), put("b", 9, 5)]);
            assert_eq!(book.look(other), Some(0));
            assert_eq!(shown(book.take(other, 0, vec![put("c", 1, 5)])), expected(other.last, &["c"], &[]));
        }
    }

    #[test]
    fn rule_that_was_removed_without_a_mark_is_missed_at_the_review() {
        let mut book = book();
        let entries = || vec![put("a", 8, 5), put("b", 9, 5)];
        book.take(state(1, 9), 0, entries());
        let mut looks = (1..REVIEW).map(|_| book.look(state(1, 9)));
        assert!(looks.all(|after| after.is_none()));
        assert_eq!(book.look(state(1, 9)), Some(0));
        assert!(book.take(state(1, 9), 0, entries()).is_none(), "nothing has changed");
        book.look(state(1, 9));
        assert_eq!(shown(book.take(state(1, 9), 0, entries().split_off(1))), expected(9, &["b"], &[]));
    }
}
