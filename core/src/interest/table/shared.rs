//! What one gateway told of its interest, kept so that others may hold it while it moves on: nothing is copied for
//! them where it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::Event;
use crate::ids::{NodeRef, UserId};
use crate::interest::{Delta, Interest, InterestLookup, Topic, Want};
use crate::placement::{Homes, ViewId};

/// The most steps that gather. Everyone who holds the interest holds them too.
const STEPS: usize = 64;

/// An interest that is held by several: one revision of it, and the steps since.
#[derive(Clone, Debug, Default)]
pub struct SharedInterest {
    base: Arc<Interest>,
    steps: Vec<Arc<Delta>>,
    /// How much the steps say.
    gathered: usize,
}

/// An interest at its last step, to be looked up in. What the steps have changed stands beside what they started from:
/// that is not copied, however much it is.
#[derive(Clone, Debug)]
pub struct LatestInterest {
    base: Arc<Interest>,
    /// What topics are wanted now; none if not any more.
    wants: BTreeMap<Topic, Option<Arc<Want>>>,
    /// Who is a stray now, or is not any more.
    strays: BTreeMap<UserId, bool>,
    /// Whether those of the base are strays still.
    has_strays: bool,
    view: ViewId,
}

impl LatestInterest {
    /// As [`Interest::admits`].
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

    /// Takes a step as [`Interest::apply`] does.
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
    /// An interest that others hold as it is here.
    #[must_use]
    pub fn new(interest: Interest) -> Self {
        Self { base: Arc::new(interest), steps: Vec::new(), gathered: 0 }
    }

    /// The interest at its last step. Takes a copy if others hold it at an earlier one.
    #[must_use]
    pub fn latest(mut self) -> Arc<Interest> {
        self.take_steps();
        self.base
    }

    /// The same, to be looked up in and not copied.
    #[must_use]
    pub fn held(self) -> LatestInterest {
        let Self { base, steps, .. } = self;
        let (wants, strays, view) = (BTreeMap::new(), BTreeMap::new(), base.view);
        let mut latest = LatestInterest { base, wants, strays, has_strays: true, view };
        steps.iter().for_each(|delta| latest.apply(delta));
        latest
    }

    #[cfg(test)]
    pub(crate) fn base(&self) -> Arc<Interest> {
        Arc::clone(&self.base)
    }

    /// Those who stray, at the last step.
    pub(crate) fn strays(&mut self) -> Vec<UserId> {
        self.take_steps();
        self.base.strays.iter().cloned().collect()
    }

    /// Takes a step. While others hold the interest, steps gather until they are as much as a copy of it is, or many.
    pub(crate) fn step(&mut self, delta: Arc<Delta>) {
        self.gathered += delta.entries();
        self.steps.push(delta);
        let is_worth_a_copy = self.gathered > self.base.wants.len() + self.base.strays.len();
        if is_worth_a_copy || self.steps.len() >= STEPS || Arc::get_mut(&mut self.base).is_some() {
            self.take_steps();
        }
    }

    fn take_steps(&mut self) {
        if !self.steps.is_empty() {
            let base = Arc::make_mut(&mut self.base);
            self.steps.drain(..).for_each(|delta| base.apply(&delta));
            self.gathered = 0;
        }
    }
}
