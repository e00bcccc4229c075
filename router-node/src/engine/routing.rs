//! Routing within the engine: which gateways get an event, and when their sections are sent. `Engine` adds tenures,
//! checkpoints and outputs. Pure: reports of intakes, interest messages and the time are passed in.
//!
//! `events ──▶ match ──▶ batch`: rules have changed the events before, where they were decoded. The route cache knows who
//! wants the events of a class.

mod reports;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::SourceProgress;
use crate::decode::Readable;
use crate::dispatch::RoutedEvent;
use crate::engine::flush::Flush;
use crate::engine::sources::Sources;
use crate::engine::{EngineReport, SourceCheckpoints};
use crate::intake::{IntakeEvent, IntakeReport};
use crate::interest::{InterestMessage, note_refused};
use crate::source::{Source, Tenure};
use crate::traced::EventTrace;
use reports::CoverageReports;
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::coverage::builder::SectionBuilder;
use tickwire_core::coverage::section::Section;
use tickwire_core::event::{Priority, Strategy};
use tickwire_core::ids::{Millis, NodeRef, Partition, Revision, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::interest::table;
use tickwire_core::interest::table::{GatewayCache, InterestTable, SharedInterest, TableLimits};
use tickwire_core::placement::{Role, View};
use tickwire_core::route_cache::CacheCounts;

/// The state.
#[derive(Debug)]
pub(crate) struct Routing {
    builder: SectionBuilder<RoutedEvent>,
    table: InterestTable,
    cache: GatewayCache,
    view: Arc<View>,
    flush: Flush,
    retention: u64,
    sources: Sources,
    matches: u64,
    /// The coverage that the gateways of the view report.
    coverage_reports: CoverageReports,
    /// Whether the report may have changed.
    is_news: bool,
}

impl Routing {
    /// Nothing is owned and no interest is known; it is held within `limits`. `retention` is in milliseconds.
    pub(crate) fn new(flush: Flush, retention: u64, limits: TableLimits, cache: GatewayCache) -> Self {
        Self {
            builder: SectionBuilder::default(),
            table: InterestTable::new(limits),
            cache,
            view: Arc::default(),
            flush,
            retention,
            sources: Sources::default(),
            matches: 0,
            coverage_reports: CoverageReports::default(),
            is_news: true,
        }
    }

    /// Begins a tenure.
    pub(crate) fn own(&mut self, tenure: Tenure, checkpoint: Seq) {
        if let Source::Partition(partition) = tenure.source {
            self.builder.own(partition, checkpoint);
        }
        self.sources.own(tenure, checkpoint);
        self.is_news = true;
    }

    /// Ends a tenure. Returns whether it was the current one.
    pub(crate) fn disown(&mut self, tenure: Tenure) -> bool {
        if !self.sources.disown(tenure) {
            return false;
        }
        self.is_news = true;
        if let Source::Partition(partition) = tenure.source {
            self.builder.disown(partition);
        }
        true
    }

    /// A new epoch has begun: every tenure ends, and all sections are dropped.
    pub(crate) fn renew(&mut self) {
        self.sources.clear();
        self.is_news = true;
        self.builder = SectionBuilder::default();
        for (gateway, revision) in self.table.known() {
            self.builder.revise(gateway, revision);
        }
    }

    /// Takes another view of the members.
    pub(crate) fn set_view(&mut self, view: Arc<View>) {
        self.table.set_view(Arc::clone(&view));
        self.coverage_reports.retain(|gateway| self.table.is_member(gateway));
        self.view = view;
        self.is_news = true;
    }

    /// Takes an interest message of a gateway. Returns the gateway if its snapshot is needed.
    pub(crate) fn handle_interest_message(&mut self, now: Millis, message: InterestMessage) -> Option<NodeRef> {
        match message {
            InterestMessage::Delta(delta) => {
                let gateway = delta.gateway.clone();
                self.builder.cut(&gateway);
                self.revise(gateway, |table| table.delta(now, delta))
            }
            InterestMessage::Beat(beat) => {
                let gateway = beat.gateway.clone();
                // Only members are trusted, because this report could begin a new epoch of the stream.
                if let Some(reached) = beat.reached.filter(|_| self.table.is_member(&gateway)) {
                    self.coverage_reports.note(now, &gateway, Checkpoint::of(reached));
                }
                self.revise(gateway, |table| table.beat(now, &beat))
            }
            InterestMessage::Nothing => None,
        }
    }

    /// The coverage that each gateway reports, if any has moved since the last call.
    pub(crate) fn take_gateway_coverage(&mut self) -> Option<BTreeMap<NodeRef, Checkpoint>> {
        self.coverage_reports.take()
    }

    /// Takes the whole interest of a gateway. Returns the gateway if another snapshot is needed.
    pub(crate) fn handle_snapshot(
        &mut self,
        now: Millis,
        gateway: NodeRef,
        parts: Vec<SnapshotPart>,
    ) -> Option<NodeRef> {
        // Parts of another gateway could change that gateway's interest under open sections.
        if parts.iter().any(|part| part.gateway != gateway) {
            return Some(gateway);
        }
        self.builder.cut(&gateway);
        self.revise(gateway, |table| table.snapshot(now, parts))
    }

    /// Updates the interest of a gateway. The cost does not depend on the number of gateways.
    fn revise(
        &mut self,
        gateway: NodeRef,
        update: impl FnOnce(&mut InterestTable) -> table::InterestUpdate,
    ) -> Option<NodeRef> {
        let known = |table: &InterestTable| (table.lags(&gateway), table.knows(&gateway));
        let before = known(&self.table);
        let update = update(&mut self.table);
        self.is_news |= known(&self.table) != before;
        if let Some(refused) = update.refused {
            note_refused(&gateway, refused);
            // No section may be made for it as long as its interest is not known.
            if self.table.interest(&gateway).is_none() {
                self.builder.forget(&gateway);
                self.flush.forget(&gateway);
            }
        }
        if let Some(revision) = update.advanced {
            self.builder.revise(&gateway, revision);
        }
        update.needs_snapshot.then_some(gateway)
    }

    /// The interest of `gateway`, if it is known at revision `least` or later.
    pub(crate) fn interest(&self, gateway: &NodeRef, least: Revision) -> Option<(Revision, SharedInterest)> {
        self.table.interest(gateway).filter(|(revision, _)| *revision >= least).cloned()
    }

    /// Whether this gateway may exist: it is a member, or has sent messages of its own.
    pub(crate) fn is_known(&self, gateway: &NodeRef) -> bool {
        self.table.is_member(gateway) || self.table.knows(gateway)
    }

    /// Whether the known interest of the gateway is older than announced.
    pub(crate) fn lags(&self, gateway: &NodeRef) -> bool {
        self.table.lags(gateway)
    }

    /// Forgets gateways that have been silent for too long.
    pub(crate) fn expire(&mut self, now: Millis) -> Vec<NodeRef> {
        let silent = self.table.expire(now, self.retention);
        self.is_news |= !silent.is_empty();
        for gateway in &silent {
            self.builder.forget(gateway);
            self.flush.forget(gateway);
        }
        silent
    }

    /// Takes a report of an intake. A report of a former tenure changes nothing.
    pub(crate) fn read(&mut self, now: Millis, report: IntakeReport) {
        let Some(reader) = self.sources.get_mut(report.tenure) else { return };
        match report.what {
            IntakeEvent::Flowing => {
                (reader.stuck, reader.missing) = (None, None);
                self.is_news = true;
            }
            IntakeEvent::Stuck(reason) => {
                reader.stuck = Some(reason);
                self.is_news = true;
            }
            IntakeEvent::Missing(missing) => {
                reader.missing = Some(missing);
                self.is_news = true;
            }
            IntakeEvent::Skip(to) => {
                reader.reached.checkpoint = to;
                if let Source::Partition(partition) = report.tenure.source {
                    self.builder.skip(partition, to);
                }
            }
            IntakeEvent::Events { through, mark, events } => {
                reader.reached = SourceProgress { checkpoint: through, mark: mark.or(reader.reached.mark) };
                if let Source::Partition(partition) = report.tenure.source {
                    for event in events {
                        self.route(now, partition, event);
                    }
                    self.builder.advance(partition, through);
                }
            }
        }
    }

    /// The way of an event: match, batch.
    fn route(&mut self, now: Millis, partition: Partition, readable: Readable) {
        let Self { builder, table, cache, flush, matches, .. } = self;
        let Readable { seq, event, wire, trace } = readable;
        let begun = trace.as_ref().map(|_| (EventTrace::now(), *matches));
        // Routers do not know which subscriptions ask for alerts.
        let urgent = event.alert_priority() == Priority::Critical || event.strategy() == Strategy::PriorityFirst;
        table.matching_cached(cache, now, &event, |gateway| {
            let routed = RoutedEvent { wire: wire.clone(), stored: event.stored, trace: trace.clone() };
            flush.added(gateway, wire.len(), urgent);
            builder.push(gateway, partition, seq, routed);
            *matches += 1;
        });
        if let (Some(trace), Some((begun, before))) = (trace, begun) {
            trace.matched(begun, *matches - before);
        }
    }

    /// The gateways whose batches are due now, and when the next one is due.
    pub(crate) fn due(&self, now: Millis) -> (Vec<NodeRef>, Option<Millis>) {
        let (mut ready, mut next) = (Vec::new(), None::<Millis>);
        for gateway in self.builder.due() {
            let due = self.flush.due(gateway, now);
            if due <= now {
                ready.push(gateway.clone());
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        (ready, next)
    }

    /// Every gateway that gets sections.
    pub(crate) fn gateways(&self) -> Vec<NodeRef> {
        self.builder.gateways().cloned().collect()
    }

    /// Takes the sections for `gateway`; with `include_empty`, also how far partitions without events were read.
    pub(crate) fn take(&mut self, now: Millis, gateway: &NodeRef, include_empty: bool) -> Vec<Section<RoutedEvent>> {
        self.flush.sent(gateway, now);
        self.builder.take(gateway, include_empty)
    }

    /// How far everything was read. Once that is published and flushed, these are the checkpoints.
    pub(crate) fn checkpoints(&self) -> SourceCheckpoints {
        self.sources.checkpoints()
    }

    /// The report, if it may have changed since the last call.
    pub(crate) fn news(&mut self) -> Option<EngineReport> {
        std::mem::take(&mut self.is_news).then(|| self.report())
    }

    fn report(&self) -> EngineReport {
        let of_view = self.view.members.iter().filter(|member| member.role == Role::Gateway).map(|member| &member.node);
        let unknown = of_view.filter(|gateway| !self.table.knows(gateway) && !self.table.lags(gateway));
        EngineReport {
            gateways_without_interest: self.table.lagging().chain(unknown).cloned().collect(),
            unread: self.sources.unread(),
            missing: self.sources.missing(),
        }
    }

    /// How many times an event has matched a gateway since the last call.
    pub(crate) fn take_matches(&mut self) -> u64 {
        std::mem::take(&mut self.matches)
    }

    /// What the route cache has done since the last call, and the number of its classes.
    pub(crate) fn take_cache_counts(&mut self) -> (CacheCounts, usize) {
        (self.cache.take_counts(), self.cache.len())
    }
}

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod tests;
