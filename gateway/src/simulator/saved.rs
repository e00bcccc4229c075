//! The saved subscriptions of a run. Operators change them in a bucket, and each gateway reads it at a time of its own.
//! All that a user ever had saved is kept: the lists that clients get must follow from it (`client/saved.rs`).

mod reader;

use std::collections::BTreeMap;

use serde_json::json;
use tickwire_core::event::key;
use tickwire_core::ids::UserId;
use tickwire_core::protocol::{SubscriptionName, SubscriptionRequest};
use tickwire_node::bucket::{BucketCursor, BucketEntry, BucketNews, BucketState};

use super::clocks;
use super::cluster::{AT_ONCE, SimCluster};
use super::fixtures::{SAVED_NAMES, filter, user};
use super::plan::{self, Action};
use super::trace;
use super::{failing, run};
use crate::saved::record::{SavedRecord, SavedValue};

pub(super) use reader::SavedReader;

/// Subscriptions by name: the numbers of their filters.
pub(super) type NamedFilters = BTreeMap<&'static str, u32>;

/// What a user had saved at a time.
#[derive(Debug, Default)]
pub(super) struct SavedVersion {
    /// The number of the write since which it was so.
    pub(super) write: u64,
    pub(super) filters: NamedFilters,
}

#[derive(Debug, Default)]
pub(super) struct SimSaved {
    /// When the bucket was created: a bucket that is created later has a larger number.
    created: i128,
    /// Everything that was written to the bucket. The revision of an entry is its place, from 1 on.
    log: Vec<BucketEntry>,
    /// How many writes there were, to this bucket and to those before it.
    writes: u64,
    /// All versions of each user who ever had something saved, in order. The first is empty.
    users: BTreeMap<UserId, Vec<SavedVersion>>,
    /// The only version of any other user.
    nothing: [SavedVersion; 1],
}

impl SimSaved {
    /// Everything that a user has had saved, in order. The first version is empty, and the last one is in the bucket.
    pub(super) fn versions(&self, user: &UserId) -> &[SavedVersion] {
        self.users.get(user).map_or(&self.nothing[..], Vec::as_slice)
    }

    /// The place of the version that a gateway knows that has read everything up to a write.
    pub(super) fn version_at(&self, user: &UserId, write: u64) -> usize {
        self.versions(user).iter().rposition(|version| version.write <= write).unwrap_or_default()
    }

    /// Saves a subscription of a user, or deletes it, as the production code changes the record of a user.
    fn save(&mut self, user: &UserId, name: &'static str, number: Option<u32>) {
        let key = key::encode(user.as_str()).to_string();
        let known = self.log.iter().rfind(|entry| entry.key == key);
        let known = known.map(|entry| match SavedRecord::read(&entry.value) {
            SavedValue::Record(record) => record,
            other => panic!("a record can be read: {other:?}"),
        });
        let mut record = known.unwrap_or_default();
        let mut filters = self.versions(user).last().map(|version| version.filters.clone()).unwrap_or_default();
        let (named, now) = (SubscriptionName::new(name).unwrap(), clocks::time_of_day(clocks::now()));
        match number {
            Some(number) => {
                let fields = serde_json::from_value(json!({ "filter": filter(number) })).unwrap();
                record.put(named, SubscriptionRequest::read(fields).unwrap(), now, "operator");
                filters.insert(name, number);
            }
            None if record.subscriptions.remove(&named).is_none() => return,
            None => {
                filters.remove(name);
            }
        }
        // The last subscription of a user is deleted together with the key.
        let value = if record.subscriptions.is_empty() { Vec::new() } else { serde_json::to_vec(&record).unwrap() };
        let revision = self.log.len() as u64 + 1;
        self.log.push(BucketEntry { key, revision, stored: now, value });
        self.writes += 1;
        let versions = self.users.entry(user.clone()).or_insert_with(|| vec![SavedVersion::default()]);
        versions.push(SavedVersion { write: self.writes, filters });
    }

    /// The bucket is deleted and created again, without what it had.
    fn lose(&mut self) {
        (self.created, self.writes) = (self.created + 1, self.writes + 1);
        self.log.clear();
        for versions in self.users.values_mut() {
            versions.push(SavedVersion { write: self.writes, filters: NamedFilters::new() });
        }
    }

    /// What a gateway reads that has looked at the bucket when `last` was its last revision; `None` if it lacks
    /// nothing. Entries that have come after the look are read as well, so a key may be there twice.
    fn read(&self, cursor: &mut BucketCursor, last: u64) -> Option<BucketNews> {
        let state = BucketState { created: self.created, last };
        let after = cursor.look(state)?;
        let mut entries = self.entries(after, last);
        entries.extend(self.entries(last, self.log.len() as u64));
        let (state, is_other) = cursor.note(state, &entries);
        Some(BucketNews { state, is_other, is_all: after == 0, entries })
    }

    /// The last entry of each key that was written after a revision, as of a later revision.
    fn entries(&self, after: u64, through: u64) -> Vec<BucketEntry> {
        let part = &self.log[after as usize..through as usize];
        let is_last = |(at, entry): &(usize, &BucketEntry)| part[at + 1..].iter().all(|later| later.key != entry.key);
        part.iter().enumerate().filter(is_last).map(|(_, entry)| entry.clone()).collect()
    }
}

impl SimCluster {
    /// An operator saves a subscription of a user, or deletes it.
    pub(super) fn save_subscription(&mut self, number: u8, name: u8, filter: Option<u8>) {
        self.saved.save(&user(number.into()), SAVED_NAMES[usize::from(name)], filter.map(u32::from));
    }

    /// The bucket of saved subscriptions is deleted and created again.
    pub(super) fn lose_saved(&mut self) {
        self.saved.lose();
    }

    /// A gateway looks at the bucket of saved subscriptions, if it can, and tells its shards what has changed. The
    /// bucket may be written to between the look and the reading, unless the gateway must read everything.
    pub(super) fn read_saved(&mut self, number: usize, is_complete: bool) {
        let gateway = &mut self.gateways[number];
        if !gateway.runs() || gateway.is_cut {
            return;
        }
        let newest = self.saved.log.len() as u64;
        let most = newest - gateway.saved.last(&self.saved);
        let late = if is_complete { 0 } else { self.network.random(most + 1) };
        let changes = gateway.saved.read(&self.saved, newest - late);
        let read = gateway.saved.read_through();
        trace::line(|| format!("{} knows {changes} changes of saved subscriptions, to {read}", gateway.node));
        gateway.due = AT_ONCE;
    }
}

/// A client ends what its user has saved, replaces it, and resumes with another one. Then it connects again.
#[test]
fn saved_subscription_that_a_client_has_ended_returns_in_its_next_connection() {
    let session = 0;
    for (seed, action) in (0..).zip([
        Action::EndSaved { session, name: 0 },
        Action::EndSaved { session, name: 1 },
        Action::Replace { session, filter: 5 },
        Action::ResumeHere { session, filter: 1 },
        Action::Unsubscribe { session },
    ]) {
        let mut actions = vec![Action::Save { user: 3, name: 0, filter: Some(0) }];
        actions.push(Action::Save { user: 3, name: 1, filter: Some(4) });
        actions.extend((0..3).map(|gateway| Action::ReadSaved { gateway }));
        actions.extend([Action::ConnectSaved { gateway: 1, user: 3, filter: None, asks: true }, Action::Pass(500)]);
        let events = (0..4).map(|symbol| Action::Publish { symbol, confidence: 9 });
        actions.extend([action].into_iter().chain(events.clone()));
        for name in 0..2 {
            actions.extend([Action::Save { user: 3, name, filter: Some(2) }, Action::ReadSaved { gateway: 1 }]);
            actions.extend([Action::Pass(300), Action::Publish { symbol: 1, confidence: 9 }]);
        }
        actions.extend([Action::Resume { session, gateway: 2 }, Action::Pass(1_000)].into_iter().chain(events));
        run(&failing(seed, 0, plan::GIVE_UP_AFTER, actions));
    }
}
