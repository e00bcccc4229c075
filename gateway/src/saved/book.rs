//! What is known of the bucket of saved subscriptions, and what has changed in it. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use tickwire_core::event::{Timestamp, key};
use tickwire_core::ids::UserId;
use tickwire_node::bucket::{BucketCursor, BucketEntry, BucketState};

use super::SavedSet;
use super::record::SavedRecord;

/// After how many looks at an unchanged bucket it is read again from its beginning. Messages that were removed without
/// a mark show only then.
const REVIEW: u32 = 3_600;

/// The bucket, as far as it was read.
#[derive(Debug)]
pub(super) struct SavedBook {
    users: HashMap<UserId, UserEntry>,
    cursor: BucketCursor,
}

#[derive(Debug)]
struct UserEntry {
    set: Arc<SavedSet>,
    /// When the subscription was last used that was unused for longest.
    least_used: Timestamp,
}

/// A user whose saved subscriptions have changed, and all that the user has now.
pub(super) type SavedChange = (UserId, Arc<SavedSet>);

impl SavedBook {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self { users: HashMap::new(), cursor: BucketCursor::new(REVIEW) }
    }

    /// Takes the state of the bucket. Returns the sequence after which its entries are to be read; `None` if nothing is
    /// new.
    pub(super) fn look(&mut self, state: BucketState) -> Option<u64> {
        self.cursor.look(state)
    }

    /// Takes all entries after a sequence that [`look`](Self::look) has named for this state. Returns the users whose
    /// saved subscriptions are others than before. An entry that cannot be read counts as none.
    pub(super) fn take(&mut self, state: BucketState, after: u64, entries: Vec<BucketEntry>) -> Vec<SavedChange> {
        self.cursor.note(state, &entries);
        let mut former = if after == 0 { std::mem::take(&mut self.users) } else { HashMap::new() };
        let mut changes = HashMap::new();
        for BucketEntry { key, value, .. } in entries {
            let user = key::decode(&key).ok().and_then(|user| UserId::new(&user).ok());
            let Some(user) = user else { continue };
            let known = self.users.remove(&user).or_else(|| former.remove(&user));
            let known = known.map(|entry| entry.set).unwrap_or_default();
            let record: SavedRecord = serde_json::from_slice(&value).unwrap_or_default();
            let least_used = record.least_used();
            let set = Arc::new(record.into_set());
            if set != known {
                changes.insert(user.clone(), Arc::clone(&set));
            }
            if let Some(least_used) = least_used {
                self.users.insert(user, UserEntry { set, least_used });
            }
        }
        changes.extend(former.into_keys().map(|user| (user, Arc::default())));
        changes.into_iter().collect()
    }

    /// The users who have a subscription that was not used since a time, among those that `is_wanted` accepts.
    pub(super) fn unused_since(&self, since: Timestamp, is_wanted: impl Fn(&UserId) -> bool) -> Vec<UserId> {
        let unused = self.users.iter().filter(|(user, entry)| entry.least_used < since && is_wanted(user));
        unused.map(|(user, _)| user.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn entry(user: &str, revision: u64, value: Vec<u8>) -> BucketEntry {
        BucketEntry { key: key::encode(user).to_string(), revision, stored: Timestamp(0), value }
    }

    fn put(user: &str, revision: u64, names: &[&str], used: &str) -> BucketEntry {
        let one = |name: &&str| {
            let one = json!({ "request": { "filter": {} }, "created": used, "last_used": used, "updated_by": user });
            ((*name).to_owned(), one)
        };
        let subscriptions: serde_json::Map<_, _> = names.iter().map(one).collect();
        entry(user, revision, json!({ "subscriptions": subscriptions }).to_string().into_bytes())
    }

    fn state(last: u64) -> BucketState {
        BucketState { created: 1, last }
    }

    /// The users and the names of their subscriptions, sorted.
    fn shown(changes: &[SavedChange]) -> Vec<(String, Vec<String>)> {
        let names = |set: &SavedSet| set.keys().map(|name| name.as_str().to_owned()).collect();
        let mut shown: Vec<_> = changes.iter().map(|(user, set)| (user.to_string(), names(set))).collect();
        shown.sort();
        shown
    }

    fn change(user: &str, names: &[&str]) -> (String, Vec<String>) {
        (user.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn only_users_whose_subscriptions_are_others_are_reported() {
        let mut book = SavedBook::new();
        assert_eq!(book.look(state(3)), Some(0));
        let first = vec![put("ann", 1, &["a"], "2026-01-01"), put("b@x.y", 2, &["b"], "2026-01-01")];
        let junk = entry("eve", 3, br#"{"stream":"EVENTS","seq":7}"#.to_vec());
        let changes = book.take(state(3), 0, [first, vec![junk]].concat());
        assert_eq!(shown(&changes), [change("ann", &["a"]), change("b@x.y", &["b"])]);
        assert_eq!(book.look(state(6)), Some(3));
        // A use is no change, and of two entries of a user the later one counts.
        let next = vec![
            put("ann", 4, &["a"], "2026-01-05"),
            put("b@x.y", 5, &["b", "c"], "2026-01-05"),
            entry("b@x.y", 6, Vec::new()),
        ];
        assert_eq!(shown(&book.take(state(6), 3, next)), [change("b@x.y", &[])]);
    }

    #[test]
    fn user_who_was_removed_without_a_mark_is_missed_at_the_review() {
        let mut book = SavedBook::new();
        let entries = || vec![put("ann", 1, &["a"], "2026-01-01"), put("bob", 2, &["b"], "2026-01-01")];
        book.take(state(2), 0, entries());
        assert!(shown(&book.take(state(2), 0, entries())).is_empty());
        assert_eq!(shown(&book.take(state(2), 0, entries().split_off(1))), [change("ann", &[])]);
    }

    #[test]
    fn unused_subscriptions_are_found_by_the_one_that_was_unused_for_longest() {
        let mut book = SavedBook::new();
        let entries = vec![put("ann", 1, &["a"], "2026-01-01"), put("bob", 2, &["b"], "2026-01-03")];
        book.take(state(2), 0, entries);
        let unused = |since: &str, wanted: &str| {
            book.unused_since(since.parse().unwrap(), |user| wanted.contains(user.as_str()))
        };
        assert_eq!(unused("2026-01-02", "ann bob"), [user("ann")]);
        assert!(unused("2026-01-02", "bob").is_empty() && unused("2026-01-01", "ann bob").is_empty());
    }
}
