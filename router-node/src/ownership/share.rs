//! Who should own what, as one view tells it, and who should take over what an owner leaves. Pure.

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
    /// The ring without one of the routers, made when it is asked for.
    without: RefCell<BTreeMap<NodeRef, Arc<Ring>>>,
}

impl Shares {
    pub(super) fn new(view: Arc<View>, partitions: u16) -> Self {
        Self { ring: view.owners(partitions), without: RefCell::default(), view, partitions }
    }

    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Who should own `source`.
    pub(super) fn owner(&self, source: Source) -> Option<&NodeRef> {
        self.ring.get(&key(source))
    }

    /// Whether `me` should take over `source` when `former`, or else its owner by the ring, does not do its part. Where
    /// the ring names nobody, anyone should.
    pub(super) fn is_heir(&self, me: &NodeRef, source: Source, former: Option<&NodeRef>) -> bool {
        let Some(former) = former.or(self.owner(source)) else { return true };
        let mut without = self.without.borrow_mut();
        let ring = without.entry(former.clone()).or_insert_with(|| {
            let members = self.view.members.iter().filter(|member| member.node != *former).cloned().collect();
            Arc::new(View { version: self.view.version, members }.owners(self.partitions))
        });
        ring.get(&key(source)) == Some(me)
    }
}

/// The catch-all goes with partition 0.
fn key(source: Source) -> Partition {
    match source {
        Source::Partition(partition) => partition,
        Source::CatchAll => Partition(0),
    }
}
