//! What all nodes reported at one time, the reading before it, and the nodes that have gone meanwhile. Pure.

use std::collections::BTreeMap;
use std::time::Duration;
use tickwire_core::placement::Role;

use super::answer::{ClusterAnswer, NodeAnswer, Report};

/// How long a node that has left the view is shown, and how many of them.
const GONE_FOR: Duration = Duration::from_secs(60);
const MOST_GONE: usize = 64;

/// The answers of all admin servers that were asked, as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// The newest version of the member view.
    pub(super) view: u64,
    /// How many partitions the stream has.
    pub(super) partitions: u64,
    /// The nodes by name.
    pub(super) nodes: BTreeMap<String, NodeAnswer>,
    /// What is wrong with admin servers.
    pub(super) faults: Vec<String>,
}

impl Reading {
    /// Joins the answers. A node that has reported to any of them is not silent.
    ///
    /// # Errors
    /// The faults, if no admin server has answered.
    pub(super) fn of(answers: Vec<Result<ClusterAnswer, String>>) -> Result<Self, Vec<String>> {
        let (mut reading, mut views) = (Self::default(), Vec::new());
        for answer in answers {
            let ClusterAnswer { view, partitions, nodes } = match answer {
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
        }
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

/// A node that has left the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    /// What it was.
    pub(super) role: Role,
    /// When it was missed first, on the clock of the caller.
    pub(super) at: Duration,
}

/// Two readings, one after the other.
#[derive(Debug)]
pub(super) struct Trend {
    before: Reading,
    /// The last one.
    pub(super) now: Reading,
    /// The nodes that have left the view lately.
    pub(super) gone: BTreeMap<String, Gone>,
    /// Why no admin server answers any more, if that is so. The last reading is then an old one.
    pub(super) lost: Vec<String>,
}

impl Trend {
    /// The first reading. It has no rates yet.
    pub(super) fn new(first: Reading) -> Self {
        Self { before: Reading::default(), now: first, gone: BTreeMap::new(), lost: Vec::new() }
    }

    /// Takes the next reading, at this time.
    pub(super) fn note(&mut self, reading: Reading, at: Duration) {
        self.before = std::mem::replace(&mut self.now, reading);
        self.lost.clear();
        let left = self.before.nodes.iter().filter(|(name, _)| !self.now.nodes.contains_key(*name));
        self.gone.extend(left.map(|(name, node)| (name.clone(), Gone { role: node.role, at })));
        self.gone.retain(|name, gone| !self.now.nodes.contains_key(name) && at.saturating_sub(gone.at) <= GONE_FOR);
        while self.gone.len() > MOST_GONE {
            self.gone.pop_first();
        }
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
