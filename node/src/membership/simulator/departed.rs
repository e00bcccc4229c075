//! What views say of the nodes that have left: they name only those that said goodbye, and without faults all of them.

use super::world::World;
use tickwire_core::placement::View;

impl World {
    /// Checks the nodes that have left in a view that a coordinator is about to write.
    pub(super) fn check_departed(&self, next: &View) {
        assert!(next.departed.len() <= View::DEPARTED, "{} nodes are named", next.departed.len());
        for node in &next.departed {
            let has_left = self.processes.iter().any(|process| process.member.node == *node && process.is_leaving());
            assert!(has_left, "{node} is named as one that said goodbye");
            let is_back = next.members.iter().any(|member| member.node.id == node.id);
            assert!(!is_back, "{node} is named as one that has left, and its name is back");
        }
    }

    /// Whether the view in KV names a process of this slot as one that has left by its goodbye.
    pub(super) fn has_departed(&self, slot: usize) -> bool {
        let view = self.kv.view();
        let mut of_slot = self.processes.iter().filter(|process| process.slot == slot);
        of_slot.any(|process| view.is_some_and(|view| view.departed.contains(&process.member.node)))
    }
}
