//! Finds the gateways for an event of one user: the home gateway, gateways where the user is a stray, and every gateway
//! with another view. The cost of a lookup is the number of gateways found, not of all gateways.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ids::{NodeRef, UserId};
use crate::placement::{Homes, View, ViewId};

/// The view of each gateway, and the strays.
#[derive(Debug, Default)]
pub(crate) struct Addressed {
    homes: Homes,
    /// The view of each gateway.
    views: HashMap<NodeRef, ViewId>,
    /// The gateways whose view differs from the router's.
    others: BTreeSet<NodeRef>,
    strays: HashMap<UserId, BTreeSet<NodeRef>>,
}

impl Addressed {
    /// Sets the router's view.
    pub(crate) fn set_view(&mut self, view: Arc<View>) {
        let homes = Homes::new(view);
        let id = homes.id();
        if id != self.homes.id() {
            self.homes = homes;
            let others = self.views.iter().filter(|(_, theirs)| **theirs != id);
            self.others = others.map(|(gateway, _)| gateway.clone()).collect();
        }
    }

    /// `gateway` uses this view.
    pub(crate) fn set_view_of(&mut self, gateway: &NodeRef, view: ViewId) {
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

    /// The view of `gateway`.
    pub(crate) fn view_of(&self, gateway: &NodeRef) -> Option<ViewId> {
        self.views.get(gateway).copied()
    }

    /// `user` is a stray at `gateway`.
    pub(crate) fn stray(&mut self, gateway: &NodeRef, user: &UserId) {
        if let Some(gateways) = self.strays.get_mut(user) {
            gateways.insert(gateway.clone());
        } else {
            self.strays.insert(user.clone(), BTreeSet::from([gateway.clone()]));
        }
    }

    /// `user` is no longer a stray at `gateway`.
    pub(crate) fn settle(&mut self, gateway: &NodeRef, user: &UserId) {
        if let Some(gateways) = self.strays.get_mut(user) {
            gateways.remove(gateway);
            if gateways.is_empty() {
                self.strays.remove(user);
            }
        }
    }

    /// Removes `gateway`.
    pub(crate) fn forget<'u>(&mut self, gateway: &NodeRef, strays: impl IntoIterator<Item = &'u UserId>) {
        strays.into_iter().for_each(|user| self.settle(gateway, user));
        self.views.remove(gateway);
        self.others.remove(gateway);
    }

    /// Calls `found` once for every gateway that must get an event addressed to `user`.
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
