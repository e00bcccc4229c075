//! What all nodes reported at one time, and the reading before it. Pure.

use std::collections::BTreeMap;

use super::answer::{ClusterAnswer, GoneAnswer, NodeAnswer, Report};

/// The answers of all admin servers that were asked, as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// The newest version of the member view.
    pub(super) view: u64,
    /// How many partitions the stream has.
    pub(super) partitions: u64,
    /// The nodes by name.
    pub(super) nodes: BTreeMap<String, NodeAnswer>,
    /// The nodes that have gone, by name.
    pub(super) gone: BTreeMap<String, GoneAnswer>,
    /// What is wrong with admin servers.
    pub(super) faults: Vec<String>,
}

impl Reading {
    /// Joins the answers. A node that has reported to any of them is not silent, and one that is in any view not gone.
    ///
    /// # Errors
    /// The faults, if no admin server has answered.
    pub(super) fn of(answers: Vec<Result<ClusterAnswer, String>>) -> Result<Self, Vec<String>> {
        let (mut reading, mut views) = (Self::default(), Vec::new());
        for answer in answers {
            let ClusterAnswer { view, partitions, nodes, gone } = match answer {
                Ok(answer) => answer,
                Err(fault) => {
                    reading.faults.push(fault);
                    continue;
                }
            };
            views.push(view);
            reading.view = reading.view.max(view);
            reading.partitions = reading.partitions.max(partitions);
            for node in nodes {
                let known = reading.nodes.get(&node.node);
                if !known.is_some_and(|known| known.report.is_some() || node.report.is_none()) {
                    reading.nodes.insert(node.node.clone(), node);
                }
            }
            for node in gone {
                let known = reading.gone.get(&node.node);
                if known.is_none_or(|known| known.ago_ms < node.ago_ms) {
                    reading.gone.insert(node.node.clone(), node);
                }
            }
        }
        reading.gone.retain(|name, _| !reading.nodes.contains_key(name));
        if views.is_empty() {
            return Err(reading.faults);
        }
        if views.iter().any(|view| *view != reading.view) {
            let views: Vec<String> = views.iter().map(u64::to_string).collect();
            reading.faults.push(format!("the admin servers have different member views: {}", views.join(", ")));
        }
        Ok(reading)
    }
}

/// Two readings, one after the other.
#[derive(Debug)]
pub(super) struct Trend {
    before: Reading,
    /// The last one.
    pub(super) now: Reading,
    /// Why no admin server answers any more, if that is so. The last reading is then an old one.
    pub(super) lost: Vec<String>,
}

impl Trend {
    /// The first reading. It has no rates yet.
    pub(super) fn new(first: Reading) -> Self {
        Self { before: Reading::default(), now: first, lost: Vec::new() }
    }

    /// Takes the next reading.
    pub(super) fn note(&mut self, reading: Reading) {
        self.before = std::mem::replace(&mut self.now, reading);
        self.lost.clear();
    }

    /// No admin server has answered.
    pub(super) fn lose(&mut self, faults: Vec<String>) {
        self.lost = faults;
    }

    /// What the same start of a node reported in the reading before.
    pub(super) fn before(&self, node: &NodeAnswer) -> Option<&Report> {
        self.before.nodes.get(&node.node).filter(|before| before.nonce == node.nonce)?.report.as_ref()
    }
}
