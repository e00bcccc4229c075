//! Where events for one user go: to the user's home, to where they stray, and to every gateway that places users by
//! another view. Asking for one user costs what there is to be found, not what there are of gateways.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ids::{NodeRef, UserId};
use crate::placement::{Homes, View, ViewId};

/// What is known of users.
#[derive(Debug, Default)]
pub(crate) struct Addressed {
    homes: Homes,
    /// By which view each gateway places users.
    views: HashMap<NodeRef, ViewId>,
    /// The gateways whose view is another.
    others: BTreeSet<NodeRef>,
    strays: HashMap<UserId, BTreeSet<NodeRef>>,
}

impl Addressed {
    /// Places users by this view from now on.
    pub(crate) fn set_view(&mut self, view: Arc<View>) {
        let homes = Homes::new(view);
        let id = homes.id();
        if id != self.homes.id() {
            self.homes = homes;
            let others = self.views.iter().filter(|(_, theirs)| **theirs != id);
            self.others = others.map(|(gateway, _)| gateway.clone()).collect();
        }
    }

    /// `gateway` places users by this view.
    pub(crate) fn see(&mut self, gateway: &NodeRef, view: ViewId) {
        if self.views.get(gateway) == Some(&view) {
            return;
        }
        self.views.insert(gateway.clone(), view);
        if view == self.homes.id() {
            self.others.remove(gateway);
        } else {
            self.others.insert(gateway.clone());
        }
    }

    /// By which view `gateway` places users.
    pub(crate) fn view_of(&self, gateway: &NodeRef) -> Option<ViewId> {
        self.views.get(gateway).copied()
    }

    /// A user who is at home elsewhere sits at `gateway`.
    pub(crate) fn stray(&mut self, gateway: &NodeRef, user: &UserId) {
        if let Some(gateways) = self.strays.get_mut(user) {
            gateways.insert(gateway.clone());
        } else {
            self.strays.insert(user.clone(), BTreeSet::from([gateway.clone()]));
        }
    }

    /// A user does not stray to `gateway` any more.
    pub(crate) fn settle(&mut self, gateway: &NodeRef, user: &UserId) {
        if let Some(gateways) = self.strays.get_mut(user) {
            gateways.remove(gateway);
            if gateways.is_empty() {
                self.strays.remove(user);
            }
        }
    }

    /// `gateway` is not known any more.
    pub(crate) fn forget<'u>(&mut self, gateway: &NodeRef, strays: impl IntoIterator<Item = &'u UserId>) {
        strays.into_iter().for_each(|user| self.settle(gateway, user));
        self.views.remove(gateway);
        self.others.remove(gateway);
    }

    /// Calls `found` with every gateway that is to get what is addressed to `user`, each once.
    pub(crate) fn matching(&mut self, user: &UserId, mut found: impl FnMut(&NodeRef)) {
        let Self { homes, views, others, strays } = self;
        let home = homes.of(user).filter(|home| views.contains_key(*home) && !others.contains(*home));
        others.iter().chain(home).for_each(&mut found);
        for gateway in strays.get(user).into_iter().flatten() {
            if Some(gateway) != home && !others.contains(gateway) {
                found(gateway);
            }
        }
    }
}
