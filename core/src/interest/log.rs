//! The gateway's side of interest: it counts the filters of sessions, creates revisions, and knows the first revision
//! that includes a filter or a user.
//!
//! Interest grows with the next revision and shrinks later, so that a reconnect or a replaced filter does not make the
//! routers forget and learn again. It always stays within [`Bounds`]. The work of a call is bounded by the size of its
//! filter; removals that are left over wait for the next turn.

mod topics;
mod wants;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::filter::Filter;
use crate::ids::{Millis, NodeRef, Revision, UserId};
use crate::interest::{Delta, Interest, NAMES_BYTES};
use crate::placement::{View, ViewId};
use topics::{FiledFilter, FiledTopics};

/// The steps of removal in one turn. Then other work of the task runs.
const TURN_STEPS: u64 = 8 * 1024;

/// The pause between two turns, in milliseconds.
const REST_MS: u64 = 20;

/// The largest size of interest, in bytes of messages. Beyond a bound it is widened: to any name, any symbol, or any
/// user.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// One set of patterns or rooms.
    pub names: usize,
    /// All wants; equal ones count once.
    pub wants: usize,
    /// All topics with a symbol.
    pub topics: usize,
    /// All strays.
    pub strays: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { names: NAMES_BYTES, wants: 512 * 1024, topics: 256 * 1024, strays: 1024 * 1024 }
    }
}

/// The interest of one gateway, with the filters and users that it consists of.
#[derive(Debug)]
pub struct InterestLog {
    gateway: NodeRef,
    shrink_delay: u64,
    revision: Revision,
    filters: HashMap<Arc<Filter>, Counted>,
    /// The number of filters added so far.
    filed: u64,
    topics: FiledTopics,
    wide: Wide,
    users: HashMap<UserId, LoggedUser>,
    strays: Strays,
    view: View,
    view_id: ViewId,
    view_since: Revision,
    changed_users: BTreeSet<UserId>,
    leaving: VecDeque<(Millis, Leaving)>,
    /// Nothing is removed before this time.
    rest_until: Millis,
    /// The interest that was last sent to the routers.
    sent: Interest,
}

/// A filter that sessions want.
#[derive(Debug)]
struct Counted {
    /// The number of these sessions.
    sessions: usize,
    /// Identifies the filter.
    number: u64,
    filed: FiledFilter,
    /// The first revision that includes it; all later ones do too.
    since: Revision,
}

/// The filters whose symbols found no room, by number.
#[derive(Debug, Default)]
struct Wide {
    filters: BTreeMap<u64, Arc<Filter>>,
    /// The next filter to try, while all are tried again.
    trying: Option<u64>,
}

/// A user with sessions here.
#[derive(Debug)]
struct LoggedUser {
    sessions: usize,
    stray: bool,
    /// The first revision at which the routers send this user's events here.
    since: Revision,
}

/// The bytes that all strays take in messages.
#[derive(Debug, Default)]
struct Strays {
    bytes: usize,
    /// Whether they are too many to be listed: then every addressed event is wanted.
    is_any: bool,
}

#[derive(Debug)]
enum Leaving {
    Filter(Arc<Filter>),
    User(UserId),
}

impl InterestLog {
    /// An interest in nothing, at revision 0. `shrink_delay` is in milliseconds.
    #[must_use]
    pub fn new(gateway: NodeRef, view: View, shrink_delay: u64, bounds: Bounds) -> Self {
        let view_id = view.id();
        Self {
            gateway,
            shrink_delay,
            revision: Revision(0),
            filters: HashMap::new(),
            filed: 0,
            topics: FiledTopics::new(bounds),
            wide: Wide::default(),
            users: HashMap::new(),
            strays: Strays::default(),
            view,
            view_id,
            // The first revision includes the view.
            view_since: Revision(1),
            changed_users: BTreeSet::new(),
            leaving: VecDeque::new(),
            rest_until: Millis(0),
            sent: Interest::default(),
        }
    }

    /// The last revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The view that gives home gateways.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The id of that view.
    #[must_use]
    pub fn view_id(&self) -> ViewId {
        self.view_id
    }

    /// The interest as of [`Self::revision`].
    #[must_use]
    pub fn sent(&self) -> &Interest {
        &self.sent
    }

    /// The most bytes that the interest takes in messages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.topics.encoded() + if self.strays.is_any { 0 } else { self.strays.bytes }
    }

    /// A session wants `filter`. Returns the first revision that includes it: an older one, the last one, or the next.
    pub fn add(&mut self, filter: &Arc<Filter>) -> Revision {
        if let Some(counted) = self.filters.get_mut(filter) {
            counted.sessions += 1;
            return counted.since;
        }
        let (filed, since) = self.topics.add(filter, self.revision.next());
        self.filed += 1;
        if filed.is_wide {
            self.wide.filters.insert(self.filed, Arc::clone(filter));
        }
        self.filters.insert(Arc::clone(filter), Counted { sessions: 1, number: self.filed, filed, since });
        since
    }

    /// A session no longer wants `filter`, which was added before. It is removed after the shrink delay.
    pub fn remove(&mut self, now: Millis, filter: Arc<Filter>) {
        self.leaving.push_back((now.plus(self.shrink_delay), Leaving::Filter(filter)));
    }

    /// A session of `user` begins. Returns the first revision at which the routers send the user's events here.
    pub fn add_user(&mut self, user: &UserId) -> Revision {
        if let Some(entry) = self.users.get_mut(user) {
            entry.sessions += 1;
            return entry.since;
        }
        let stray = self.is_stray(user);
        let since = if stray { self.revision.next() } else { self.view_since };
        if stray {
            self.strays.bytes += stray_bytes(user);
            self.changed_users.insert(user.clone());
        }
        self.users.insert(user.clone(), LoggedUser { sessions: 1, stray, since });
        since
    }

    /// A session of `user`, added before, has ended.
    pub fn remove_user(&mut self, now: Millis, user: UserId) {
        self.leaving.push_back((now.plus(self.shrink_delay), Leaving::User(user)));
    }

    /// Uses another view from the next revision on.
    pub fn set_view(&mut self, view: View) {
        let view_id = view.id();
        self.view = view;
        if view_id == self.view_id {
            return;
        }
        self.view_id = view_id;
        let next = self.revision.next();
        self.view_since = next;
        let users: Vec<UserId> = self.users.keys().cloned().collect();
        for user in users {
            let stray = self.is_stray(&user);
            if let Some(entry) = self.users.get_mut(&user)
                && entry.stray != stray
            {
                (entry.stray, entry.since) = (stray, next);
                let bytes = stray_bytes(&user);
                self.strays.bytes = if stray { self.strays.bytes + bytes } else { self.strays.bytes - bytes };
                self.changed_users.insert(user);
            }
        }
    }

    /// When to call [`Self::cut`] next for removals.
    #[must_use]
    pub fn next_shrink(&self) -> Option<Millis> {
        let is_unfinished = self.topics.is_stale() || self.wide.trying.is_some();
        let due = self.leaving.front().map(|(due, _)| *due);
        let next = if is_unfinished { Some(Millis(0)) } else { due };
        next.map(|next| next.max(self.rest_until))
    }

    /// Removes what is due, and creates a revision if anything has changed since the last one.
    pub fn cut(&mut self, now: Millis) -> Option<Delta> {
        if self.rest_until <= now {
            self.shrink(now);
        }
        let is_any = self.strays.is_too_many(self.topics.bounds().strays);
        let unchanged = !self.topics.is_changed() && self.changed_users.is_empty();
        if unchanged && self.view_since <= self.revision && is_any == self.strays.is_any {
            return None;
        }
        self.revision = self.revision.next();
        let mut delta = Delta {
            gateway: self.gateway.clone(),
            revision: self.revision,
            view: if is_any { ViewId::ANY } else { self.view_id },
            set: Vec::new(),
            unset: Vec::new(),
            strays: Vec::new(),
            settled: Vec::new(),
            shared: Vec::new(),
        };
        let mut wanted = Vec::new();
        for (topic, want) in self.topics.take_changed() {
            match want {
                Some(want) => wanted.push((topic, want)),
                None => delta.unset.push(topic),
            }
        }
        delta.want(&wanted);
        let changed_users = std::mem::take(&mut self.changed_users);
        if !is_any {
            // The strays were too many to be listed before, so all of them are listed now.
            let unlisted = self.users.iter().filter(|(_, entry)| self.strays.is_any && entry.stray);
            let unlisted: BTreeSet<UserId> = unlisted.map(|(user, _)| user.clone()).collect();
            for user in changed_users.into_iter().filter(|user| !unlisted.contains(user)) {
                let stray = self.users.get(&user).is_some_and(|entry| entry.stray);
                if stray { delta.strays.push(user) } else { delta.settled.push(user) }
            }
            delta.strays.extend(unlisted);
        }
        self.strays.is_any = is_any;
        self.sent.apply(&delta);
        Some(delta)
    }

    /// Removes what is due and narrows the unions, for one turn.
    fn shrink(&mut self, now: Millis) {
        let until = self.topics.steps() + TURN_STEPS;
        while self.topics.steps() < until
            && let Some((_, leaving)) = self.leaving.pop_front_if(|(due, _)| *due <= now)
        {
            match leaving {
                Leaving::Filter(filter) => self.forget_filter(&filter),
                Leaving::User(user) => self.forget_user(user),
            }
        }
        self.file_again(until);
        self.topics.narrow(until);
        if self.topics.steps() >= until {
            self.rest_until = now.plus(REST_MS);
        }
    }

    /// Files wide filters by their symbols if there is room now.
    fn file_again(&mut self, until: u64) {
        let Self { wide, topics, filters, revision, .. } = self;
        if wide.trying.is_none() && !wide.filters.is_empty() && topics.has_room_again() {
            wide.trying = Some(0);
        }
        while topics.steps() < until
            && let Some(from) = wide.trying
        {
            let next = wide.filters.range(from..).next().map(|(number, filter)| (*number, Arc::clone(filter)));
            wide.trying = next.as_ref().map(|(number, _)| number + 1);
            let Some((number, filter)) = next else { return topics.tried() };
            if let Some(counted) = filters.get_mut(&filter) {
                counted.filed = topics.refile(&filter, counted.filed, revision.next());
                if !counted.filed.is_wide {
                    wide.filters.remove(&number);
                }
            }
        }
    }

    fn is_stray(&self, user: &UserId) -> bool {
        self.view.home(user) != Some(&self.gateway)
    }

    fn forget_filter(&mut self, filter: &Arc<Filter>) {
        let Some(counted) = self.filters.get_mut(filter) else { return };
        counted.sessions -= 1;
        if counted.sessions > 0 {
            return self.topics.step();
        }
        if let Some(Counted { number, filed, .. }) = self.filters.remove(filter) {
            self.wide.filters.remove(&number);
            self.topics.remove(filter, filed);
        }
    }

    fn forget_user(&mut self, user: UserId) {
        self.topics.step();
        let Some(entry) = self.users.get_mut(&user) else { return };
        entry.sessions -= 1;
        if entry.sessions == 0 {
            let stray = entry.stray;
            self.users.remove(&user);
            if stray {
                self.strays.bytes -= stray_bytes(&user);
                self.changed_users.insert(user);
            }
        }
    }
}

impl Strays {
    /// Whether they are too many to be listed. Once they are, this stays so until they are below three quarters of the
    /// bound.
    fn is_too_many(&self, most: usize) -> bool {
        self.bytes > if self.is_any { most / 4 * 3 } else { most }
    }
}

/// The most bytes that a stray takes in messages.
fn stray_bytes(user: &UserId) -> usize {
    user.as_str().len() + 2
}

#[cfg(test)]
#[path = "log_cost_tests.rs"]
mod cost_tests;
#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
