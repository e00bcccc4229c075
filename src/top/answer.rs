//! The answer of `/v1/nodes`. A node of another version may know more or less: what is not known here is left out, and
//! what is missing counts as unknown.

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use tickwire_core::ids::NodeId;
use tickwire_core::placement::Role;

/// The answer of one admin server.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct ClusterAnswer {
    /// The version of the member view that the node has.
    pub(super) view: u64,
    /// How many partitions the stream has.
    pub(super) partitions: u64,
    /// The members of the view, and the node itself.
    pub(super) nodes: Vec<NodeAnswer>,
    /// Those that have left the view without a goodbye; earlier versions do not remember them.
    #[serde(default)]
    pub(super) gone: Vec<GoneAnswer>,
}

/// A node that has gone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct GoneAnswer {
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub(super) node: String,
    /// What it was.
    pub(super) role: Role,
    /// How long it has been gone, in milliseconds.
    pub(super) ago_ms: u64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct NodeAnswer {
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub(super) node: String,
    /// Which start of it this is.
    pub(super) nonce: String,
    /// Its role.
    pub(super) role: Role,
    /// Whether it drains.
    pub(super) draining: bool,
    /// `None` if it is silent.
    pub(super) report: Option<Report>,
}

/// What a node reports of itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    /// How long it had run when its numbers were read, in milliseconds.
    pub(super) up_ms: u64,
    /// Whether `/readyz` has nothing missing.
    pub(super) ready: bool,
    /// The parts of its health that are not healthy.
    pub(super) problems: Vec<ReportedProblem>,
    /// Counts since its start.
    pub(super) counts: BTreeMap<String, Count>,
    /// What goes up and down.
    pub(super) levels: BTreeMap<String, f64>,
    /// The times of the last minute that 99 % did not exceed, in seconds; `None` beyond the last bound.
    pub(super) times: BTreeMap<String, Option<f64>>,
}

/// A part that is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ReportedProblem {
    /// The part.
    pub(super) part: String,
    /// `warning` or `error`.
    pub(super) status: String,
    /// What is wrong, and what to do.
    pub(super) message: String,
}

/// A count in total, and by the values of its label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Count {
    /// In total.
    pub(super) total: u64,
    /// By the values of its label.
    pub(super) by: BTreeMap<String, u64>,
}

/// Reads the name of a node. A name that no node can have would break the tables.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    NodeId::deserialize(deserializer).map(|node| node.as_str().to_owned())
}
