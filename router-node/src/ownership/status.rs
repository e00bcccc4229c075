//! The status of the router, for the rest of the node, for `/readyz` and for `/v1/cluster`: what it owns, how far that was
//! published, and what is missing.

use crate::checkpoint::SourceProgress;
use crate::engine::EngineReport;
use crate::metrics;
use crate::ownership::awaited::AwaitedGateways;
use crate::source::{Source, Tenure};
use std::collections::BTreeSet;
use std::sync::Arc;
use tickwire_core::ids::{NodeRef, Partition};
use tickwire_core::placement::{Role, View};
use tickwire_node::admin::{Check, Readiness};
use tickwire_node::storage::Stopped;
use tokio::sync::watch;

/// Publishes the status.
#[derive(Debug)]
pub(crate) struct RouterStatus {
    me: NodeRef,
    owned: watch::Sender<Arc<BTreeSet<Partition>>>,
    sources: watch::Sender<Vec<(Tenure, SourceProgress)>>,
    partitions: Check,
    interest: Check,
    /// Why NATS does not store events, while that lasts.
    stopped: watch::Receiver<Stopped>,
}

impl RouterStatus {
    /// Registers the checks. `owned` is updated with the owned partitions.
    pub(crate) fn new(
        me: NodeRef,
        readiness: &Readiness,
        owned: watch::Sender<Arc<BTreeSet<Partition>>>,
        stopped: watch::Receiver<Stopped>,
    ) -> Self {
        let (partitions, interest) = (readiness.register("partitions"), readiness.register("interest"));
        Self { me, owned, sources: watch::Sender::default(), partitions, interest, stopped }
    }

    /// The owned sources, and how far each was published.
    pub(crate) fn sources(&self) -> watch::Receiver<Vec<(Tenure, SourceProgress)>> {
        self.sources.subscribe()
    }

    /// Publishes what is `held`, and what is missing.
    pub(super) fn publish(
        &self,
        view: &View,
        report: &EngineReport,
        interest: &AwaitedGateways,
        wanted: &BTreeSet<Source>,
        held: impl Iterator<Item = (Tenure, SourceProgress)>,
    ) {
        let sources: Vec<_> = held.collect();
        let held: BTreeSet<Partition> = sources
            .iter()
            .filter_map(|(tenure, _)| match tenure.source {
                Source::Partition(partition) => Some(partition),
                Source::CatchAll => None,
            })
            .collect();
        self.sources.send_if_modified(|known| {
            let changed = *known != sources;
            if changed {
                *known = sources;
            }
            changed
        });
        metrics::PARTITIONS.set(held.len() as f64);
        metrics::GATEWAYS_NOT_AWAITED.set(interest.given_up() as f64);
        // While nothing is stored nothing can be read; the `storage` check has the cause.
        let is_stopped = self.stopped.borrow().is_some();
        match missing_partitions(&self.me, view, report, is_stopped, (wanted.len(), held.len())) {
            Some(missing) => self.partitions.missing(missing),
            None => self.partitions.ok(),
        }
        match (interest.missing(), interest.warning()) {
            (Some(missing), _) => self.interest.missing(missing),
            (None, Some(warning)) => self.interest.warning(warning),
            (None, None) => self.interest.ok(),
        }
        self.owned.send_if_modified(|known| {
            let changed = **known != held;
            if changed {
                *known = Arc::new(held);
            }
            changed
        });
    }
}

/// Why this router does not serve partitions that it should; it should own `wanted` and owns `held`.
fn missing_partitions(
    me: &NodeRef,
    view: &View,
    report: &EngineReport,
    is_stopped: bool,
    (wanted, held): (usize, usize),
) -> Option<String> {
    if !view.members.iter().any(|member| member.role == Role::Router && member.node == *me) {
        let version = view.version;
        // The `name` check has the cause.
        return Some(match view.members.iter().find(|member| member.node.id == me.id) {
            Some(other) => format!("the member view (version {version}) has another node of this name, {}", other.node),
            None => format!("this router is not in the member view yet (version {version})"),
        });
    }
    if let Some((source, reason)) = report.unread.first_key_value().filter(|_| !is_stopped) {
        let more = match report.unread.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more sources)"),
        };
        return Some(format!("{source} cannot be read: {reason}{more}"));
    }
    if held == 0 && wanted > 0 {
        return Some(format!("it should own {wanted} partitions and holds the lease of none"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Member;

    fn member(name: &str, role: Role) -> Member {
        Member { node: NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }, role, weight: 1, draining: false }
    }

    #[test]
    fn missing_parts_are_named() {
        let (router, gateway, gone) =
            (member("r1", Role::Router), member("g1", Role::Gateway), member("g2", Role::Gateway));
        let view = View { version: 3, members: vec![gateway, router.clone()], ..View::default() };
        let mut report = EngineReport::default();
        let partitions =
            |report: &EngineReport, held| missing_partitions(&router.node, &view, report, false, (32, held));
        assert_eq!(partitions(&report, 1), None);
        assert!(partitions(&report, 0).unwrap().contains("32 partitions"));
        let other = NodeRef { nonce: Nonce(2), ..router.node.clone() };
        assert!(
            missing_partitions(&other, &view, &report, false, (0, 0)).unwrap().contains("another node of this name")
        );
        assert!(missing_partitions(&gone.node, &view, &report, false, (0, 0)).unwrap().contains("version 3"));
        report.unread.insert(Source::Partition(Partition(7)), "no consumer".to_owned());
        assert!(partitions(&report, 1).unwrap().contains("partition 7 cannot be read: no consumer"));
        assert_eq!(missing_partitions(&router.node, &view, &report, true, (32, 1)), None);
    }
}
