//! What a router has published in its tenures: its checkpoints cover no more.

use std::collections::BTreeMap;

use tickwire_core::coverage::section::Section;
use tickwire_core::ids::{NodeRef, Partition, Seq};
use tickwire_core::placement::View;
use tickwire_router_node::decisions::{
    EngineReport, IntakeEvent, IntakeReport, RoutedEvent, Source, SourceCheckpoints, Tenure,
};

/// How far the partitions of a router were published.
#[derive(Default)]
pub(super) struct Published {
    /// For each gateway and partition, the end of the last section.
    sections: BTreeMap<(NodeRef, Partition), Seq>,
    /// For each partition, the end of the last range that its intake has skipped. Gateways ask for it.
    skipped: BTreeMap<Partition, Seq>,
}

impl Published {
    /// A tenure begins.
    pub(super) fn begin(&mut self, tenure: Tenure) {
        let is_other = |partition: &Partition| Source::Partition(*partition) != tenure.source;
        self.sections.retain(|(_, partition), _| is_other(partition));
        self.skipped.retain(|partition, _| is_other(partition));
    }

    /// Sections are sent to a gateway.
    pub(super) fn send(&mut self, gateway: &NodeRef, sections: &[Section<RoutedEvent>]) {
        for section in sections {
            self.sections.insert((gateway.clone(), section.partition), section.through);
        }
    }

    /// The engine takes a report of an intake.
    pub(super) fn read(&mut self, report: &IntakeReport) {
        if let (IntakeEvent::Skip(to), Source::Partition(partition)) = (&report.what, report.tenure.source) {
            self.skipped.insert(partition, *to);
        }
    }

    /// Checks that these checkpoints cover only what was sent to each gateway whose interest is known.
    pub(super) fn check(&self, checkpoints: &SourceCheckpoints, report: &EngineReport, view: &View) {
        let is_member = |gateway: &NodeRef| view.members.iter().any(|member| member.node == *gateway);
        for ((gateway, partition), through) in self.sections.iter().filter(|((gateway, _), _)| is_member(gateway)) {
            let of_partition = checkpoints.iter().filter(|(tenure, _)| tenure.source == Source::Partition(*partition));
            for (_, progress) in of_partition {
                let is_known = !report.gateways_without_interest.contains(gateway);
                let is_skipped = self.skipped.get(partition).is_some_and(|skipped| *skipped >= progress.checkpoint);
                let is_published = *through >= progress.checkpoint || is_skipped;
                assert!(is_published || !is_known, "{partition} was not published to {gateway}: {progress:?}");
            }
        }
    }
}
