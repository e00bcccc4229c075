//! Who sends a request, as far as requests take turns: a gateway of the view, or any other. Pure.
//!
//! Everybody who can reach NATS can invent gateways. If each of them had turns of its own, they would have nearly all.

use tickwire_core::ids::NodeRef;
use tickwire_core::placement::{Role, View};

/// Who takes turns with others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A gateway of the view.
    Member(NodeRef),
    /// All outsiders together: gateways that the view does not have yet, and whoever else asks.
    Outsider,
}

impl Asker {
    /// Who asks in the name of this gateway, by this view.
    #[must_use]
    pub fn of(gateway: &NodeRef, view: &View) -> Self {
        let is_member = view.members.iter().any(|member| member.role == Role::Gateway && member.node == *gateway);
        if is_member { Self::Member(gateway.clone()) } else { Self::Outsider }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Member;

    #[test]
    fn only_gateways_of_the_view_have_turns_of_their_own() {
        let node = |id, nonce| NodeRef { id: NodeId::new(id).unwrap(), nonce: Nonce(nonce) };
        let member = |node, role| Member { node, role, weight: 1, draining: true };
        let members = vec![member(node("g1", 1), Role::Gateway), member(node("r1", 1), Role::Router)];
        let view = View { members, ..View::default() };
        assert_eq!(Asker::of(&node("g1", 1), &view), Asker::Member(node("g1", 1)), "although it drains");
        for other in [node("g1", 2), node("g2", 1), node("r1", 1)] {
            assert_eq!(Asker::of(&other, &view), Asker::Outsider, "{other}");
        }
    }
}
