//! What one view changes in the one before, for the log: an operator reads there when a node came, left or died.

use super::names_of;
use std::collections::BTreeSet;
use tickwire_core::ids::{NodeId, NodeRef};
use tickwire_core::placement::{Member, View};
use tracing::{info, warn};

/// The members that came and went. A node that was restarted under its name has done both.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ViewChange {
    came: Vec<Member>,
    gone: Vec<Member>,
    /// Those of `gone` that did not say goodbye, and whose names no other node has.
    lost: Vec<Member>,
}

impl ViewChange {
    /// What `after` changes in `before`. `said_goodbye` tells whether a node was heard to leave.
    pub(super) fn between(before: &View, after: &View, said_goodbye: impl Fn(&NodeRef) -> bool) -> Self {
        let names: BTreeSet<&NodeId> = after.members.iter().map(|member| &member.node.id).collect();
        let gone = members_without(before, after);
        let is_lost = |member: &&Member| !names.contains(&member.node.id) && !said_goodbye(&member.node);
        let lost = gone.iter().filter(is_lost).cloned().collect();
        Self { came: members_without(after, before), gone, lost }
    }

    /// Logs that the coordinator has written `view`.
    pub(super) fn log_written(&self, view: &View) {
        let (version, members) = (view.version, names_of(&view.members));
        info!(version, members, came = listed(&self.came), gone = listed(&self.gone), "wrote the member view");
        if let Some(nodes) = listed(&self.lost) {
            warn!(nodes, "nodes gone without a goodbye");
        }
    }

    /// Logs that this node follows `view` from now on.
    pub(super) fn log_received(&self, view: &View) {
        let (version, members) = (view.version, names_of(&view.members));
        info!(version, members, came = listed(&self.came), gone = listed(&self.gone), "new member view");
    }
}

/// The members of `view` that `other` does not have.
fn members_without(view: &View, other: &View) -> Vec<Member> {
    let others: BTreeSet<&NodeRef> = other.members.iter().map(|member| &member.node).collect();
    view.members.iter().filter(|member| !others.contains(&member.node)).cloned().collect()
}

/// The names of members; `None` without any, so that the line has no such field.
fn listed(members: &[Member]) -> Option<String> {
    (!members.is_empty()).then(|| names_of(members))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::Nonce;
    use tickwire_core::placement::Role;

    fn view(nodes: &[(&str, u64)]) -> View {
        let member = |(id, nonce): &(&str, u64)| Member {
            node: NodeRef { id: NodeId::new(id).unwrap(), nonce: Nonce(*nonce) },
            role: Role::Router,
            weight: 1,
            draining: false,
        };
        View { version: 1, members: nodes.iter().map(member).collect(), ..View::default() }
    }

    #[test]
    fn only_a_node_that_went_silently_and_was_not_replaced_is_lost() {
        let before = view(&[("died", 1), ("left", 1), ("restarted", 1), ("stays", 1)]);
        let after = view(&[("new", 1), ("restarted", 2), ("stays", 1)]);
        let change = ViewChange::between(&before, &after, |node| node.id.as_str() == "left");
        assert_eq!(listed(&change.came).as_deref(), Some("new,restarted"));
        assert_eq!(listed(&change.gone).as_deref(), Some("died,left,restarted"));
        assert_eq!(listed(&change.lost).as_deref(), Some("died"));
        let nothing = ViewChange::between(&after, &after, |_| false);
        assert_eq!([nothing.came, nothing.gone, nothing.lost].map(|members| listed(&members)), [None, None, None]);
    }
}
