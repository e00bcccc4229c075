//! The reports of nodes on one question, and the nodes that are silent. Pure.

use super::report::NodeReport;
use std::collections::BTreeMap;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::{Member, View};

/// How many bytes of reports one question may gather, and how many one report may have: 20 times what a node reports, so
/// that one node cannot take the place of all others. A node whose report does not fit is silent.
const GATHERED_BYTES: usize = 4 * 1024 * 1024;
const REPORT_BYTES: usize = 64 * 1024;

/// What is known so far.
#[derive(Debug)]
pub(super) struct Gathering {
    /// The version of the view.
    pub(super) view: u64,
    nodes: BTreeMap<NodeRef, (Member, Option<NodeReport>)>,
    bytes: usize,
}

impl Gathering {
    /// Nothing is known yet of the nodes of this view, and of the one that asks, which it may lack.
    pub(super) fn of(view: &View, me: Member) -> Self {
        let members = [me].into_iter().chain(view.members.iter().cloned());
        let nodes = members.map(|member| (member.node.clone(), (member, None))).collect();
        Self { view: view.version, nodes, bytes: 0 }
    }

    /// A node has reported with this many bytes. Only its first report counts, and none of a node that was not asked: a
    /// stranger may invent any number of them.
    pub(super) fn note(&mut self, node: &NodeRef, report: NodeReport, bytes: usize) {
        let fits = bytes <= REPORT_BYTES && self.bytes.saturating_add(bytes) <= GATHERED_BYTES;
        if let Some((_, silent @ None)) = self.nodes.get_mut(node)
            && fits
        {
            *silent = Some(report);
            self.bytes += bytes;
        }
    }

    /// Whether all nodes have reported.
    pub(super) fn is_complete(&self) -> bool {
        self.nodes.values().all(|(_, report)| report.is_some())
    }

    /// The nodes by name, and their reports.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&Member, Option<&NodeReport>)> {
        self.nodes.values().map(|(member, report)| (member, report.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::nodes::report::tests::report;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Role;

    fn member(name: &str, nonce: u64, role: Role) -> Member {
        let node = NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) };
        Member { node, role, weight: 1, draining: false }
    }

    fn gathering() -> Gathering {
        let members = vec![member("gw-1", 1, Role::Gateway), member("r-1", 1, Role::Router)];
        Gathering::of(&View { version: 7, members, ..View::default() }, member("r-2", 1, Role::Router))
    }

    fn silent(gathering: &Gathering) -> Vec<&str> {
        let silent = gathering.nodes().filter(|(_, report)| report.is_none());
        silent.map(|(member, _)| member.node.id.as_str()).collect()
    }

    #[test]
    fn node_outside_the_view_and_each_member_are_silent_until_they_report() {
        let mut gathering = gathering();
        assert_eq!((gathering.view, silent(&gathering)), (7, vec!["gw-1", "r-1", "r-2"]));
        for (name, role) in [("gw-1", Role::Gateway), ("r-1", Role::Router), ("r-2", Role::Router)] {
            assert!(!gathering.is_complete());
            gathering.note(&member(name, 1, role).node, report(), 100);
        }
        assert!(gathering.is_complete() && silent(&gathering).is_empty());
    }

    #[test]
    fn only_the_first_report_of_a_node_that_was_asked_counts() {
        let mut gathering = gathering();
        let node = member("gw-1", 1, Role::Gateway).node;
        gathering.note(&node, report(), 100);
        gathering.note(&node, NodeReport { up_ms: 9, ..report() }, 100);
        gathering.note(&member("r-1", 2, Role::Router).node, report(), 100);
        gathering.note(&member("gw-9", 1, Role::Gateway).node, report(), 100);
        let reports: Vec<_> = gathering.nodes().filter_map(|(_, report)| report).collect();
        assert_eq!(reports, [&report()]);
    }

    #[test]
    fn node_whose_report_does_not_fit_stays_silent() {
        let mut gathering = gathering();
        gathering.note(&member("gw-1", 1, Role::Gateway).node, report(), REPORT_BYTES + 1);
        gathering.note(&member("r-1", 1, Role::Router).node, report(), REPORT_BYTES);
        assert_eq!(silent(&gathering), ["gw-1", "r-2"]);
        gathering.bytes = GATHERED_BYTES;
        gathering.note(&member("r-2", 1, Role::Router).node, report(), 1);
        assert_eq!(silent(&gathering), ["gw-1", "r-2"]);
    }
}
