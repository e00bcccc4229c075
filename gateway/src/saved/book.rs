//! What is known of the bucket of saved subscriptions, and what has changed in it. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tickwire_core::event::{Timestamp, key};
use tickwire_core::ids::UserId;
use tickwire_node::bucket::{BucketEntry, BucketNews, UnreadableValues};

use super::SavedSet;
use super::record::{SavedRecord, SavedValue};

/// The bucket, as far as it was read.
#[derive(Debug)]
pub(crate) struct SavedBook {
    users: HashMap<UserId, UserEntry>,
    /// The users whose records a newer version has written. They have none here.
    newer: HashSet<UserId>,
    /// How many subscriptions of a user count.
    most: usize,
}

#[derive(Debug)]
struct UserEntry {
    set: Arc<SavedSet>,
    /// When the subscription was last used that was unused for longest.
    least_used: Timestamp,
}

/// A user whose saved subscriptions have changed, and all that the user has now.
pub(crate) type SavedChange = (UserId, Arc<SavedSet>);

/// What has changed, and what could not be read.
#[derive(Debug)]
pub(crate) struct SavedNews {
    pub(crate) changes: Vec<SavedChange>,
    pub(crate) unreadable: UnreadableValues,
    /// The users whose records were read, and are of a newer version.
    pub(crate) newer: Vec<UserId>,
}

impl SavedBook {
    /// Nothing is known yet. A session may have `most` subscriptions.
    pub(crate) fn new(most: usize) -> Self {
        Self { users: HashMap::new(), newer: HashSet::new(), most }
    }

    /// Takes what was read of the bucket. Returns the users whose saved subscriptions are others than before. A value
    /// that cannot be read counts as none, and so does one of a newer version.
    pub(crate) fn take(&mut self, news: BucketNews) -> SavedNews {
        let BucketNews { is_all, entries, .. } = news;
        let mut former = if is_all { std::mem::take(&mut self.users) } else { HashMap::new() };
        if is_all {
            self.newer.clear();
        }
        let (mut changes, mut unreadable, mut newer) = (HashMap::new(), UnreadableValues::default(), Vec::new());
        for BucketEntry { key, value, .. } in entries {
            let Some(user) = key::decode(&key).ok().and_then(|user| UserId::new(&user).ok()) else {
                unreadable.note(&key);
                continue;
            };
            let known = self.users.remove(&user).or_else(|| former.remove(&user));
            let known = known.map(|entry| entry.set).unwrap_or_default();
            self.newer.remove(&user);
            let record = match SavedRecord::read(&value) {
                SavedValue::Record(record) => record,
                SavedValue::Newer => {
                    self.newer.insert(user.clone());
                    newer.push(user.clone());
                    SavedRecord::default()
                }
                SavedValue::Foreign => {
                    unreadable.note(&key);
                    SavedRecord::default()
                }
            };
            let least_used = record.least_used();
            let set = Arc::new(record.into_set(self.most));
            if set != known {
                changes.insert(user.clone(), Arc::clone(&set));
            }
            if let Some(least_used) = least_used {
                self.users.insert(user, UserEntry { set, least_used });
            }
        }
        changes.extend(former.into_keys().map(|user| (user, Arc::default())));
        SavedNews { changes: changes.into_iter().collect(), unreadable, newer }
    }

    /// How many users have a record of a newer version.
    pub(super) fn newer(&self) -> usize {
        self.newer.len()
    }

    /// The users who have a subscription that was not used since a time, among those that `is_wanted` accepts.
    pub(super) fn unused_since(
        &self,
        since: Timestamp,
        is_wanted: impl Fn(&UserId) -> bool,
    ) -> impl Iterator<Item = &UserId> {
        let unused = self.users.iter().filter(move |(user, entry)| entry.least_used < since && is_wanted(user));
        unused.map(|(user, _)| user)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tickwire_node::bucket::BucketState;

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

    /// A reading of the whole bucket, or of what has come after the one before.
    fn read(is_all: bool, entries: Vec<BucketEntry>) -> BucketNews {
        let last = entries.last().map_or(0, |entry| entry.revision);
        BucketNews { state: BucketState { created: 1, last }, is_other: true, is_all, entries }
    }

    fn book() -> SavedBook {
        SavedBook::new(2)
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
        let mut book = book();
        let first = vec![put("ann", 1, &["a"], "2026-01-01"), put("b@x.y", 2, &["b"], "2026-01-01")];
        let changes = book.take(read(true, first)).changes;
        assert_eq!(shown(&changes), [change("ann", &["a"]), change("b@x.y", &["b"])]);
        // A use is no change, and of two entries of a user the later one counts.
        let next = vec![
            put("ann", 4, &["a"], "2026-01-05"),
            put("b@x.y", 5, &["b", "c"], "2026-01-05"),
            entry("b@x.y", 6, Vec::new()),
        ];
        assert_eq!(shown(&book.take(read(false, next)).changes), [change("b@x.y", &[])]);
    }

    #[test]
    fn unreadable_values_are_counted_and_the_others_count() {
        let mut book = book();
        book.take(read(true, vec![put("eve", 1, &["a"], "2026-01-01")]));
        let foreign = entry("eve", 2, br#"{"stream":"EVENTS","seq":7}"#.to_vec());
        let odd = BucketEntry { key: "no.user".to_owned(), ..foreign.clone() };
        let deleted = entry("max", 4, Vec::new());
        let good = put("ann", 5, &["a", "b", "c"], "2026-01-01");
        let SavedNews { changes, unreadable, .. } = book.take(read(false, vec![foreign, odd, deleted, good]));
        assert_eq!((unreadable.count(), shown(&changes)), (2, vec![change("ann", &["a", "b"]), change("eve", &[])]));
    }

    #[test]
    fn records_of_a_newer_version_are_counted_as_long_as_they_are_there() {
        let mut book = book();
        book.take(read(true, vec![put("ann", 1, &["a"], "2026-01-01")]));
        let newer = |user: &str, revision| entry(user, revision, br#"{"version":2,"subscriptions":{}}"#.to_vec());
        let news = book.take(read(false, vec![newer("ann", 2), newer("bob", 3)]));
        assert_eq!((news.newer, shown(&news.changes)), (vec![user("ann"), user("bob")], vec![change("ann", &[])]));
        assert_eq!((news.unreadable.count(), book.newer()), (0, 2));
        assert!(book.take(read(false, vec![entry("bob", 4, Vec::new())])).newer.is_empty());
        assert_eq!(book.newer(), 1);
        book.take(read(true, vec![put("ann", 5, &["a"], "2026-01-01")]));
        assert_eq!(book.newer(), 0);
    }

    #[test]
    fn user_who_was_removed_without_a_mark_is_missed_when_all_is_read_again() {
        let mut book = book();
        let entries = || vec![put("ann", 1, &["a"], "2026-01-01"), put("bob", 2, &["b"], "2026-01-01")];
        book.take(read(true, entries()));
        assert!(shown(&book.take(read(true, entries())).changes).is_empty());
        assert_eq!(shown(&book.take(read(true, entries().split_off(1))).changes), [change("ann", &[])]);
    }

    #[test]
    fn unused_subscriptions_are_found_by_the_one_that_was_unused_for_longest() {
        let mut book = book();
        let entries = vec![put("ann", 1, &["a"], "2026-01-01"), put("bob", 2, &["b"], "2026-01-03")];
        book.take(read(true, entries));
        let unused = |since: &str, wanted: &str| {
            let unused = book.unused_since(since.parse().unwrap(), |user| wanted.contains(user.as_str()));
            unused.cloned().collect::<Vec<_>>()
        };
        assert_eq!(unused("2026-01-02", "ann bob"), [user("ann")]);
        assert!(unused("2026-01-02", "bob").is_empty() && unused("2026-01-01", "ann bob").is_empty());
    }
}
