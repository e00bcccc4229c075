//! The gateway's side of interest: it counts what sessions want, cuts revisions, and knows from which revision on
//! a thing has been part of every one.
//!
//! Interest grows with the next revision and shrinks late, so that a reconnect or a replaced filter does not make
//! the routers forget and learn again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::filter::Filter;
use crate::ids::{Millis, NodeRef, Revision, UserId};
use crate::interest::{Delta, Interest, Topic, Want, topics};
use crate::ring::{View, ViewId};

/// The interest of one gateway, and how it came to be.
#[derive(Debug)]
pub struct InterestLog {
    gateway: NodeRef,
    shrink_delay: u64,
    revision: Revision,
    topics: BTreeMap<Topic, Counted>,
    users: HashMap<UserId, Seat>,
    view: View,
    view_id: ViewId,
    view_since: Revision,
    changed_topics: BTreeSet<Topic>,
    changed_users: BTreeSet<UserId>,
    leaving: VecDeque<(Millis, Leaving)>,
    /// What the routers were last told.
    sent: Interest,
}

/// How often each want of a topic is wanted, and their union.
#[derive(Debug, Default)]
struct Counted {
    wants: BTreeMap<Want, usize>,
    union: Want,
    /// The revision that last made the union grow. What is in the union now was in all since then.
    since: Revision,
}

/// A user with sessions here.
#[derive(Debug)]
struct Seat {
    sessions: usize,
    stray: bool,
    /// The revision from which on the routers send this user's events here.
    since: Revision,
}

#[derive(Debug)]
enum Leaving {
    Filter(Box<Filter>),
    User(UserId),
}

impl InterestLog {
    /// An interest in nothing, at revision 0. `shrink_delay` is in milliseconds.
    #[must_use]
    pub fn new(gateway: NodeRef, view: View, shrink_delay: u64) -> Self {
        let view_id = view.id();
        Self {
            gateway,
            shrink_delay,
            revision: Revision(0),
            topics: BTreeMap::new(),
            users: HashMap::new(),
            view,
            view_id,
            // The first revision tells the view.
            view_since: Revision(1),
            changed_topics: BTreeSet::new(),
            changed_users: BTreeSet::new(),
            leaving: VecDeque::new(),
            sent: Interest::default(),
        }
    }

    /// The last revision cut.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The view by which users are placed.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The interest as of [`Self::revision`].
    #[must_use]
    pub fn sent(&self) -> &Interest {
        &self.sent
    }

    /// A session wants `filter`. Returns the revision from which on every one includes it: the last one, an older
    /// one, or the next.
    pub fn add(&mut self, filter: &Filter) -> Revision {
        let next = self.revision.next();
        let want = Want::of(filter);
        let mut included = Revision(0);
        for topic in topics(filter) {
            let counted = self.topics.entry(topic.clone()).or_default();
            if counted.wants.is_empty() {
                (counted.union, counted.since) = (want.clone(), next);
                self.changed_topics.insert(topic);
            } else {
                let union = counted.union.clone().union(&want);
                if union != counted.union {
                    (counted.union, counted.since) = (union, next);
                    self.changed_topics.insert(topic);
                }
            }
            *counted.wants.entry(want.clone()).or_default() += 1;
            included = included.max(counted.since);
        }
        included
    }

    /// A session no longer wants `filter`, which was added before. It is forgotten after the shrink delay.
    pub fn remove(&mut self, now: Millis, filter: Filter) {
        self.leaving.push_back((now.plus(self.shrink_delay), Leaving::Filter(Box::new(filter))));
    }

    /// A session of `user` sits down. Returns the revision from which on the routers send the user's events here.
    pub fn add_user(&mut self, user: &UserId) -> Revision {
        if let Some(seat) = self.users.get_mut(user) {
            seat.sessions += 1;
            return seat.since;
        }
        let stray = self.is_stray(user);
        let since = if stray { self.revision.next() } else { self.view_since };
        if stray {
            self.changed_users.insert(user.clone());
        }
        self.users.insert(user.clone(), Seat { sessions: 1, stray, since });
        since
    }

    /// A session of `user`, added before, is gone.
    pub fn remove_user(&mut self, now: Millis, user: UserId) {
        self.leaving.push_back((now.plus(self.shrink_delay), Leaving::User(user)));
    }

    /// Places users by another view from the next revision on.
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
            if let Some(seat) = self.users.get_mut(&user)
                && seat.stray != stray
            {
                (seat.stray, seat.since) = (stray, next);
                self.changed_users.insert(user);
            }
        }
    }

    /// When something that left is next to be forgotten.
    #[must_use]
    pub fn next_shrink(&self) -> Option<Millis> {
        self.leaving.front().map(|(due, _)| *due)
    }

    /// Forgets what left long enough ago, and cuts a revision if anything changed since the last.
    pub fn cut(&mut self, now: Millis) -> Option<Delta> {
        while let Some((_, leaving)) = self.leaving.pop_front_if(|(due, _)| *due <= now) {
            match leaving {
                Leaving::Filter(filter) => self.forget_filter(&filter),
                Leaving::User(user) => self.forget_user(user),
            }
        }
        let unchanged = self.changed_topics.is_empty() && self.changed_users.is_empty();
        if unchanged && self.view_since <= self.revision {
            return None;
        }
        self.revision = self.revision.next();
        let mut delta = Delta {
            gateway: self.gateway.clone(),
            revision: self.revision,
            view: self.view_id,
            set: Vec::new(),
            unset: Vec::new(),
            strays: Vec::new(),
            settled: Vec::new(),
        };
        for topic in std::mem::take(&mut self.changed_topics) {
            match self.topics.get(&topic) {
                Some(counted) => delta.set.push((topic, counted.union.clone())),
                None => delta.unset.push(topic),
            }
        }
        for user in std::mem::take(&mut self.changed_users) {
            let stray = self.users.get(&user).is_some_and(|seat| seat.stray);
            if stray { delta.strays.push(user) } else { delta.settled.push(user) }
        }
        self.sent.apply(delta.clone());
        Some(delta)
    }

    fn is_stray(&self, user: &UserId) -> bool {
        self.view.home(user) != Some(&self.gateway)
    }

    fn forget_filter(&mut self, filter: &Filter) {
        let want = Want::of(filter);
        for topic in topics(filter) {
            let Some(counted) = self.topics.get_mut(&topic) else {
                continue;
            };
            let Some(count) = counted.wants.get_mut(&want) else {
                continue;
            };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            counted.wants.remove(&want);
            let union = counted.wants.keys().cloned().reduce(|all, one| all.union(&one));
            match union {
                Some(union) if union == counted.union => continue,
                Some(union) => counted.union = union,
                None => {
                    self.topics.remove(&topic);
                }
            }
            self.changed_topics.insert(topic);
        }
    }

    fn forget_user(&mut self, user: UserId) {
        let Some(seat) = self.users.get_mut(&user) else { return };
        seat.sessions -= 1;
        if seat.sessions == 0 {
            let stray = seat.stray;
            self.users.remove(&user);
            if stray {
                self.changed_users.insert(user);
            }
        }
    }
}
