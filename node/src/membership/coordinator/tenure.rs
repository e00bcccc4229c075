//! What a coordinator keeps while it has the lease.

use crate::lease::HeldLease;
use crate::membership::view_change::ViewChange;
use tickwire_core::placement::View;

/// The lease, and what is known of the view in KV.
#[derive(Debug)]
pub(super) struct CoordinatorTenure {
    pub(super) lease: HeldLease,
    /// The view in KV with its revision; `None` when it has to be read again.
    pub(super) view: Option<(u64, View)>,
    /// The view that is being written, and what it changes.
    pub(super) next: Option<(View, ViewChange)>,
    /// The highest version that was read or written.
    pub(super) version: u64,
    /// The number of rounds since the view was read or written.
    pub(super) age: u32,
}

impl CoordinatorTenure {
    /// Has taken the lease, and has not read the view yet.
    pub(super) fn new(lease: HeldLease) -> Self {
        Self { lease, view: None, next: None, version: 0, age: 0 }
    }
}
