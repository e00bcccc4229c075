//! Who bears a name, as nodes tell it to those that bear the same: two nodes of one name, by a copied configuration, are
//! one to all others, so that one of them does nothing.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::ids::NodeRef;
use crate::placement::Role;

/// A node, so that people find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// Its name, in this life of it.
    pub node: NodeRef,
    /// What it is.
    pub role: Role,
    /// The name of its host.
    pub host: String,
    /// The number of its process there.
    pub process: u32,
    /// Where its admin server listens.
    pub admin: String,
    /// Whether it is about to end.
    pub draining: bool,
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, role, host, process, admin, .. } = self;
        write!(f, "{} on host {host}, process {process}, admin server {admin}, nonce {}", role.as_str(), node.nonce)
    }
}
