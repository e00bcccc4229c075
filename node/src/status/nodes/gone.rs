//! The nodes that have left the member view without a goodbye, and have not come back. Pure.
//!
//! Only the coordinator knows why a member is absent, and it names those that said goodbye in the view. Any other one
//! has died, hangs, or was cut off. Every node of both roles has the view, so every node remembers this.

use crate::clock::millis;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeId};
use tickwire_core::placement::{Member, View};

/// How many such nodes are remembered, and for how long. The earliest are forgotten first.
const REMEMBERED: usize = 16;
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// A node that has left the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoneNode {
    /// The member that it was.
    pub(super) member: Member,
    /// When this node saw the first view without it.
    at: Millis,
}

impl GoneNode {
    /// How long it has been gone, in milliseconds.
    pub(super) fn gone_for(&self, now: Millis) -> u64 {
        now.since(self.at)
    }
}

/// Those that are remembered, and the view that tells when another one leaves.
#[derive(Debug, Default)]
pub(super) struct GoneNodes {
    view: Arc<View>,
    gone: Vec<GoneNode>,
}

impl GoneNodes {
    /// Takes the newest view. The same view again changes nothing but what is too old.
    pub(super) fn note(&mut self, now: Millis, view: &Arc<View>) {
        let present: BTreeSet<&NodeId> = view.members.iter().map(|member| &member.node.id).collect();
        let is_absent = |member: &Member| !present.contains(&member.node.id);
        self.gone.retain(|gone| is_absent(&gone.member) && gone.gone_for(now) <= millis(REMEMBERED_FOR));
        // By name: the node of a later start that this node did not see may have been the one that said goodbye.
        let departed: BTreeSet<&NodeId> = view.departed.iter().map(|node| &node.id).collect();
        let is_lost = |member: &&Member| is_absent(member) && !departed.contains(&member.node.id);
        let lost = self.view.members.iter().filter(is_lost);
        self.gone.extend(lost.map(|member| GoneNode { member: member.clone(), at: now }));
        self.gone.drain(..self.gone.len().saturating_sub(REMEMBERED));
        self.view = Arc::clone(view);
    }

    /// The nodes, the earliest first.
    pub(super) fn listed(&self) -> &[GoneNode] {
        &self.gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeRef, Nonce};
    use tickwire_core::placement::Role;

    fn node(name: &str, nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) }
    }

    /// A view of these nodes.
    fn view(names: &[&str], nonce: u64) -> View {
        let member = |name: &&str| Member { node: node(name, nonce), role: Role::Gateway, weight: 1, draining: false };
        View { version: 1, members: names.iter().map(member).collect(), ..View::default() }
    }

    /// The same, in which these nodes have left by their goodbye.
    fn view_after(names: &[&str], nonce: u64, departed: &[(&str, u64)]) -> Arc<View> {
        let departed = departed.iter().map(|(name, nonce)| node(name, *nonce)).collect();
        Arc::new(View { departed, ..view(names, nonce) })
    }

    fn listed(nodes: &GoneNodes) -> Vec<(&str, u64)> {
        nodes.listed().iter().map(|gone| (gone.member.node.id.as_str(), gone.at.0)).collect()
    }

    #[test]
    fn only_a_node_that_left_without_a_goodbye_is_gone_until_its_name_comes_back() {
        let mut nodes = GoneNodes::default();
        nodes.note(Millis(0), &Arc::new(view(&["died", "left", "restarted", "stays"], 1)));
        assert!(nodes.listed().is_empty());
        let later = view_after(&["restarted", "stays"], 2, &[("left", 1)]);
        nodes.note(Millis(10), &later);
        assert_eq!(listed(&nodes), [("died", 10)]);
        nodes.note(Millis(20), &later);
        assert_eq!((listed(&nodes), nodes.listed()[0].gone_for(Millis(25))), (vec![("died", 10)], 15));
        nodes.note(Millis(30), &Arc::new(view(&["died", "restarted", "stays"], 2)));
        assert!(nodes.listed().is_empty());
        nodes.note(Millis(40), &Arc::new(view(&["restarted", "stays"], 2)));
        assert_eq!(listed(&nodes), [("died", 40)]);
    }

    #[test]
    fn only_the_goodbye_counts_not_the_drain() {
        let mut nodes = GoneNodes::default();
        let mut draining = view(&["killed", "left", "stays"], 1);
        draining.members[..2].iter_mut().for_each(|member| member.draining = true);
        nodes.note(Millis(0), &Arc::new(draining));
        nodes.note(Millis(10), &view_after(&["stays"], 1, &[("left", 1)]));
        assert_eq!(listed(&nodes), [("killed", 10)]);
    }

    /// Several views were written between two that this node has read.
    #[test]
    fn node_whose_later_start_said_goodbye_unseen_is_not_gone() {
        let mut nodes = GoneNodes::default();
        nodes.note(Millis(0), &Arc::new(view(&["twice"], 1)));
        nodes.note(Millis(10), &view_after(&[], 1, &[("twice", 2)]));
        assert!(nodes.listed().is_empty());
    }

    #[test]
    fn old_and_too_many_nodes_are_forgotten() {
        let mut nodes = GoneNodes::default();
        nodes.note(Millis(0), &Arc::new(view(&["first"], 1)));
        nodes.note(Millis(1), &Arc::new(view(&["second"], 1)));
        nodes.note(Millis(2), &Arc::new(view(&[], 1)));
        nodes.note(Millis(1 + millis(REMEMBERED_FOR)), &Arc::new(view(&[], 1)));
        assert_eq!(listed(&nodes), [("first", 1), ("second", 2)]);
        nodes.note(Millis(2 + millis(REMEMBERED_FOR)), &Arc::new(view(&[], 1)));
        assert_eq!(listed(&nodes), [("second", 2)]);

        let names: Vec<String> = (0..40).map(|number| format!("gw-{number:02}")).collect();
        for (at, name) in (1_000_000..).zip(&names) {
            nodes.note(Millis(at), &Arc::new(view(&[name.as_str()], 1)));
        }
        nodes.note(Millis(1_000_100), &Arc::new(view(&[], 1)));
        assert_eq!((nodes.listed().len(), listed(&nodes)[REMEMBERED - 1]), (REMEMBERED, ("gw-39", 1_000_100)));
    }
}
