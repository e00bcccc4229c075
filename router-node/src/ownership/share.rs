//! The owners of sources by the ring of one view, and the heirs of owners that fail. Pure.

use crate::source::Source;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::ids::{NodeRef, Partition};
use tickwire_core::placement::View;

type Ring = BTreeMap<Partition, NodeRef>;

/// The ring of one view.
#[derive(Debug, Default)]
pub(super) struct Shares {
    view: Arc<View>,
    partitions: u16,
    ring: Ring,
    /// The ring without one of the routers, computed on demand.
    without: RefCell<BTreeMap<NodeRef, Arc<Ring>>>,
}

impl Shares {
    pub(super) fn new(view: Arc<View>, partitions: u16) -> Self {
        Self { ring: view.owners(partitions), without: RefCell::default(), view, partitions }
    }

    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The owner of `source` by the ring.
    pub(super) fn owner(&self, source: Source) -> Option<&NodeRef> {
        self.ring.get(&key(source))
    }

    /// Whether `me` should take over `source` when `former`, or otherwise its owner by the ring, does not act. If the
    /// ring names no owner, any router should.
    pub(super) fn is_heir(&self, me: &NodeRef, source: Source, former: Option<&NodeRef>) -> bool {
        let Some(former) = former.or(self.owner(source)) else { return true };
        let mut without = self.without.borrow_mut();
        let ring = without.entry(former.clone()).or_insert_with(|| {
            let members = self.view.members.iter().filter(|member| member.node != *former).cloned().collect();
            Arc::new(View { version: self.view.version, members, ..View::default() }.owners(self.partitions))
        });
        ring.get(&key(source)) == Some(me)
    }
}

/// The owner of partition 0 also owns the catch-all.
fn key(source: Source) -> Partition {
    match source {
        Source::Partition(partition) => partition,
        Source::CatchAll => Partition(0),
    }
}
