//! One gateway's interest, stored so that replays can hold a revision while the interest advances, without a copy for
//! each delta.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::Event;
use crate::ids::{NodeRef, UserId};
use crate::interest::{Delta, Interest, InterestLookup, Topic, Want};
use crate::placement::{Homes, ViewId};

/// The most deltas that are collected. Every holder of the interest holds them too.
const MAX_DELTAS: usize = 64;

/// An interest with several holders: one revision of it, and the deltas since.
#[derive(Clone, Debug, Default)]
pub struct SharedInterest {
    base: Arc<Interest>,
    deltas: Vec<Arc<Delta>>,
    /// The number of entries in the deltas.
    entries: usize,
}

/// An interest at its last revision, for lookups. The changes are stored beside the base, which is not copied.
#[derive(Clone, Debug)]
pub struct LatestInterest {
    base: Arc<Interest>,
    /// The changed topics; `None` if a topic is not wanted any more.
    wants: BTreeMap<Topic, Option<Arc<Want>>>,
    /// The users who became strays (`true`), or are no longer strays.
    strays: BTreeMap<UserId, bool>,
    /// Whether the strays of the base still count.
    has_strays: bool,
    view: ViewId,
}

impl LatestInterest {
    /// The same as [`Interest::admits`].
    #[must_use]
    pub fn admits(&self, event: &Event, gateway: &NodeRef, homes: &mut Homes) -> bool {
        let is_known = |user: &UserId| self.has_strays && self.base.strays.contains(user);
        InterestLookup {
            view: self.view,
            is_stray: |user: &UserId| self.strays.get(user).copied().unwrap_or_else(|| is_known(user)),
            want: |topic: &Topic| match self.wants.get(topic) {
                Some(changed) => changed.as_ref(),
                None => self.base.wants.get(topic),
            },
        }
        .admits(event, gateway, homes)
    }

    /// Applies a delta as [`Interest::apply`] does.
    fn apply(&mut self, delta: &Delta) {
        self.view = delta.view;
        self.wants.extend(delta.unset.iter().map(|topic| (topic.clone(), None)));
        self.wants.extend(delta.wanted().map(|(topic, want)| (topic.clone(), Some(Arc::clone(want)))));
        if delta.view == ViewId::ANY {
            self.has_strays = false;
            return self.strays.clear();
        }
        self.strays.extend(delta.settled.iter().map(|user| (user.clone(), false)));
        self.strays.extend(delta.strays.iter().map(|user| (user.clone(), true)));
    }
}

impl SharedInterest {
    /// An interest without deltas.
    #[must_use]
    pub fn new(interest: Interest) -> Self {
        Self { base: Arc::new(interest), deltas: Vec::new(), entries: 0 }
    }

    /// The interest at its last revision. It is copied if others hold an earlier one.
    #[must_use]
    pub fn latest(mut self) -> Arc<Interest> {
        self.apply_deltas();
        self.base
    }

    /// The same for lookups, without a copy.
    #[must_use]
    pub fn held(self) -> LatestInterest {
        let Self { base, deltas, .. } = self;
        let (wants, strays, view) = (BTreeMap::new(), BTreeMap::new(), base.view);
        let mut latest = LatestInterest { base, wants, strays, has_strays: true, view };
        deltas.iter().for_each(|delta| latest.apply(delta));
        latest
    }

    #[cfg(test)]
    pub(crate) fn base(&self) -> Arc<Interest> {
        Arc::clone(&self.base)
    }

    /// The strays at the last revision.
    pub(crate) fn strays(&mut self) -> Vec<UserId> {
        self.apply_deltas();
        self.base.strays.iter().cloned().collect()
    }

    /// Adds a delta. While others hold the interest, deltas are collected until they are as large as a copy, or too
    /// many.
    pub(crate) fn step(&mut self, delta: Arc<Delta>) {
        self.entries += delta.entries();
        self.deltas.push(delta);
        let is_worth_a_copy = self.entries > self.base.wants.len() + self.base.strays.len();
        if is_worth_a_copy || self.deltas.len() >= MAX_DELTAS || Arc::get_mut(&mut self.base).is_some() {
            self.apply_deltas();
        }
    }

    fn apply_deltas(&mut self) {
        if !self.deltas.is_empty() {
            let base = Arc::make_mut(&mut self.base);
            self.deltas.drain(..).for_each(|delta| base.apply(&delta));
            self.entries = 0;
        }
    }
}
