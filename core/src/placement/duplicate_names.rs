//! The message by which a node finds others with its name. Two nodes with the same name, from a copied configuration,
//! look like one node to all others, so one of them gets no work.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::ids::NodeRef;
use crate::placement::Role;

/// A node with its name, described so that people can find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnnouncement {
    /// Its name and nonce.
    pub node: NodeRef,
    /// Its role.
    pub role: Role,
    /// The name of its host.
    pub host: String,
    /// Its process id there.
    pub process: u32,
    /// The address of its admin server.
    pub admin: String,
    /// Whether it drains.
    pub draining: bool,
}

impl fmt::Display for NodeAnnouncement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, role, host, process, admin, .. } = self;
        write!(f, "{} on host {host}, process {process}, admin server {admin}, nonce {}", role.as_str(), node.nonce)
    }
}
