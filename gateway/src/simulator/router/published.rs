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
    intakes: BTreeMap<Partition, Taken>,
}

/// What the engine has taken of a partition's intake.
#[derive(Default)]
struct Taken {
    /// How far events were taken.
    through: Seq,
    /// The last range without events that was skipped: gateways ask for it.
    skipped: (Seq, Seq),
}

impl Published {
    /// A tenure begins.
    pub(super) fn begin(&mut self, tenure: Tenure, checkpoint: Seq) {
        let Source::Partition(begun) = tenure.source else { return };
        self.sections.retain(|(_, partition), _| *partition != begun);
        self.intakes.insert(begun, Taken { through: checkpoint, ..Taken::default() });
    }

    /// Sections are sent to a gateway.
    pub(super) fn send(&mut self, gateway: &NodeRef, sections: &[Section<RoutedEvent>]) {
        for section in sections {
            self.sections.insert((gateway.clone(), section.partition), section.through);
        }
    }

    /// The engine takes a report of an intake.
    pub(super) fn read(&mut self, report: &IntakeReport) {
        let Source::Partition(partition) = report.tenure.source else { return };
        let taken = self.intakes.entry(partition).or_default();
        match report.what {
            IntakeEvent::Events { through, .. } => taken.through = through,
            IntakeEvent::Skip(to) => {
                let (from, end) = taken.skipped;
                let from = if end == taken.through && from < end { from } else { taken.through };
                (taken.skipped, taken.through) = ((from, to), to);
            }
            _ => {}
        }
    }

    /// Checks that these checkpoints cover only what was sent to each gateway whose interest is known.
    pub(super) fn check(&self, checkpoints: &SourceCheckpoints, report: &EngineReport, view: &View) {
        let is_member = |gateway: &NodeRef| view.members.iter().any(|member| member.node == *gateway);
        for ((gateway, partition), through) in self.sections.iter().filter(|((gateway, _), _)| is_member(gateway)) {
            let of_partition = checkpoints.iter().filter(|(tenure, _)| tenure.source == Source::Partition(*partition));
            for (_, progress) in of_partition {
                let is_known = !report.gateways_without_interest.contains(gateway);
                let is_skipped = self.intakes.get(partition).is_some_and(|taken| {
                    let (from, to) = taken.skipped;
                    *through >= from && to >= progress.checkpoint
                });
                let is_published = *through >= progress.checkpoint || is_skipped;
                assert!(is_published || !is_known, "{partition} was not published to {gateway}: {progress:?}");
            }
        }
    }
}
