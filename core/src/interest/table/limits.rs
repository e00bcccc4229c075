//! How much interest a router holds.

/// How much interest is held.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// The most gateways of the view.
    pub members: usize,
    /// The most gateways outside the view, or not yet in it.
    pub outsiders: usize,
    /// The most bytes of one gateway's interest in messages; also the most bytes of its deltas that await a snapshot.
    pub gateway_bytes: usize,
    /// The same for a gateway outside the view, if that is less. Even if all of them are invented, they must leave room
    /// to the members.
    pub outsider_bytes: usize,
    /// The most bytes of all gateways together.
    pub in_all: usize,
    /// An interest is measured again when its deltas have doubled its size, and it has at least this many bytes.
    pub measured_bytes: usize,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            members: 4096,
            outsiders: 64,
            gateway_bytes: 4 * 1024 * 1024,
            outsider_bytes: 1024 * 1024,
            in_all: 256 * 1024 * 1024,
            measured_bytes: 64 * 1024,
        }
    }
}

impl TableLimits {
    /// The most bytes of a gateway's interest.
    pub(super) fn bytes_of(&self, is_member: bool) -> usize {
        if is_member { self.gateway_bytes } else { self.gateway_bytes.min(self.outsider_bytes) }
    }
}
