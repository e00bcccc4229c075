//! The engine's state and every decision on it: what is claimed, who wants what, what leaves when. Pure: what was
//! read, what gateways said, and the time come in.
//!
//! `events ──▶ rules ──▶ enrich ──▶ match ──▶ batch`: rules and enrichment have their place between the reading of an
//! event and [`InterestTable::matching`], in [`Routing::route`].

use crate::decode::Readable;
use crate::dispatch::RoutedEvent;
use crate::engine::flush::Flush;
use crate::engine::sources::Sources;
use crate::engine::{EngineReport, SourceCheckpoints};
use crate::intake::{IntakeEvent, IntakeReport};
use crate::interest::{InterestMessage, note_refused};
use crate::ownership::SourceProgress;
use crate::ownership::tenancy::Checkpoint;
use crate::source::{Source, Tenure};
use std::sync::Arc;
use tickwire_core::coverage::builder::SectionBuilder;
use tickwire_core::coverage::section::Section;
use tickwire_core::event::Priority;
use tickwire_core::ids::{Millis, NodeRef, Partition, Revision, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::interest::table;
use tickwire_core::interest::table::{InterestTable, SharedInterest, TableLimits};
use tickwire_core::placement::{Role, View};

/// What the engine knows.
#[derive(Debug)]
pub(crate) struct Routing {
    claims: SectionBuilder<RoutedEvent>,
    table: InterestTable,
    view: Arc<View>,
    flush: Flush,
    retention: u64,
    sources: Sources,
    matches: u64,
    /// The furthest that a gateway has come, until it is told.
    witnessed: Option<Checkpoint>,
    /// Whether the report may say something else than before.
    is_news: bool,
}

impl Routing {
    /// Nothing is owned and nobody wants anything. `retention` is in milliseconds.
    pub(crate) fn new(flush: Flush, retention: u64) -> Self {
        Self {
            claims: SectionBuilder::default(),
            table: InterestTable::new(TableLimits::default()),
            view: Arc::default(),
            flush,
            retention,
            sources: Sources::default(),
            matches: 0,
            witnessed: None,
            is_news: true,
        }
    }

    /// A tenure begins.
    pub(crate) fn own(&mut self, tenure: Tenure, checkpoint: Seq) {
        if let Source::Partition(partition) = tenure.source {
            self.claims.own(partition, checkpoint);
        }
        self.sources.own(tenure, checkpoint);
        self.is_news = true;
    }

    /// A tenure ends. Returns whether it was the present one.
    pub(crate) fn disown(&mut self, tenure: Tenure) -> bool {
        if !self.sources.disown(tenure) {
            return false;
        }
        self.is_news = true;
        if let Source::Partition(partition) = tenure.source {
            self.claims.disown(partition);
        }
        true
    }

    /// The stream was made anew: every tenure ends, and nothing is claimed.
    pub(crate) fn renew(&mut self) {
        self.sources.clear();
        self.is_news = true;
        self.claims = SectionBuilder::default();
        for (gateway, revision) in self.table.known() {
            self.claims.revise(gateway, revision);
        }
    }

    /// Another view of the members.
    pub(crate) fn set_view(&mut self, view: Arc<View>) {
        self.table.set_view(Arc::clone(&view));
        self.view = view;
        self.is_news = true;
    }

    /// A gateway said something of its interest. Returns the gateway if its snapshot is needed.
    pub(crate) fn hear(&mut self, now: Millis, said: InterestMessage) -> Option<NodeRef> {
        match said {
            InterestMessage::Delta(delta) => {
                let gateway = delta.gateway.clone();
                self.claims.cut(&gateway);
                self.revise(gateway, |table| table.delta(now, delta))
            }
            InterestMessage::Beat(beat) => {
                let gateway = beat.gateway.clone();
                // Whoever is no member is not believed: what it says could begin another life of the stream.
                if let Some(reached) = beat.reached.filter(|_| self.table.is_member(&gateway)) {
                    self.witness(Checkpoint::of(reached));
                }
                self.revise(gateway, |table| table.beat(now, &beat))
            }
            InterestMessage::Nothing => None,
        }
    }

    fn witness(&mut self, reached: Checkpoint) {
        let order = |reached: &Checkpoint| (reached.epoch_id, reached.checkpoint);
        if reached.makes_sense() && self.witnessed.as_ref().map(order) < Some(order(&reached)) {
            self.witnessed = Some(reached);
        }
    }

    /// The furthest that a gateway was heard to have come since the last call.
    pub(crate) fn take_witnessed(&mut self) -> Option<Checkpoint> {
        self.witnessed.take()
    }

    /// A gateway told its whole interest. Returns the gateway if another snapshot is needed.
    pub(crate) fn hear_snapshot(&mut self, now: Millis, gateway: NodeRef, parts: Vec<SnapshotPart>) -> Option<NodeRef> {
        // What does not speak of the gateway that was asked could change another's interest under open sections.
        if parts.iter().any(|part| part.gateway != gateway) {
            return Some(gateway);
        }
        self.claims.cut(&gateway);
        self.revise(gateway, |table| table.snapshot(now, parts))
    }

    /// Something was heard of a gateway. Costs the same however many gateways there are.
    fn revise(
        &mut self,
        gateway: NodeRef,
        hear: impl FnOnce(&mut InterestTable) -> table::InterestUpdate,
    ) -> Option<NodeRef> {
        let known = |table: &InterestTable| (table.lags(&gateway), table.knows(&gateway));
        let before = known(&self.table);
        let heard = hear(&mut self.table);
        self.is_news |= known(&self.table) != before;
        if let Some(refused) = heard.refused {
            note_refused(&gateway, refused);
            // Nothing may be claimed to it as long as it is not known what it wants.
            if self.table.interest(&gateway).is_none() {
                self.claims.forget(&gateway);
                self.flush.forget(&gateway);
            }
        }
        if let Some(revision) = heard.advanced {
            self.claims.revise(&gateway, revision);
        }
        heard.needs_snapshot.then_some(gateway)
    }

    /// What `gateway` wants, if it is known as of `least` or later.
    pub(crate) fn interest(&self, gateway: &NodeRef, least: Revision) -> Option<(Revision, SharedInterest)> {
        self.table.interest(gateway).filter(|(revision, _)| *revision >= least).cloned()
    }

    /// Whether anything is to be heard of this gateway: it is a member, or has spoken for itself.
    pub(crate) fn is_known(&self, gateway: &NodeRef) -> bool {
        self.table.is_member(gateway) || self.table.knows(gateway)
    }

    /// Whether the gateway's interest is still not known as new as was announced.
    pub(crate) fn lags(&self, gateway: &NodeRef) -> bool {
        self.table.lags(gateway)
    }

    /// Forgets gateways that have been silent for too long.
    pub(crate) fn expire(&mut self, now: Millis) -> Vec<NodeRef> {
        let silent = self.table.expire(now, self.retention);
        self.is_news |= !silent.is_empty();
        for gateway in &silent {
            self.claims.forget(gateway);
            self.flush.forget(gateway);
        }
        silent
    }

    /// Something was read. What belongs to a former tenure changes nothing.
    pub(crate) fn read(&mut self, heard: IntakeReport) {
        let Some(reader) = self.sources.get_mut(heard.tenure) else { return };
        match heard.what {
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
                if let Source::Partition(partition) = heard.tenure.source {
                    self.claims.skip(partition, to);
                }
            }
            IntakeEvent::Events { through, mark, events } => {
                reader.reached = SourceProgress { checkpoint: through, mark: mark.or(reader.reached.mark) };
                if let Source::Partition(partition) = heard.tenure.source {
                    for event in events {
                        self.route(partition, event);
                    }
                    self.claims.advance(partition, through);
                }
            }
        }
    }

    /// An event's way: (rules, enrichment,) match, batch.
    fn route(&mut self, partition: Partition, readable: Readable) {
        let Self { claims, table, flush, matches, .. } = self;
        let Readable { seq, event, wire } = readable;
        let urgent = event.priority == Priority::Critical;
        table.matching(&event, |gateway| {
            let routed = RoutedEvent { wire: wire.clone(), stored: event.stored };
            flush.added(gateway, wire.len(), urgent);
            claims.push(gateway, partition, seq, routed);
            *matches += 1;
        });
    }

    /// The gateways whose batches leave now, and when the next one does.
    pub(crate) fn due(&self, now: Millis) -> (Vec<NodeRef>, Option<Millis>) {
        let (mut ready, mut next) = (Vec::new(), None::<Millis>);
        for gateway in self.claims.due() {
            let due = self.flush.due(gateway, now);
            if due <= now {
                ready.push(gateway.clone());
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        (ready, next)
    }

    /// Every gateway that is claimed to.
    pub(crate) fn gateways(&self) -> Vec<NodeRef> {
        self.claims.gateways().cloned().collect()
    }

    /// Takes what is to be sent to `gateway`; with `heartbeat`, also how far everything without events was read.
    pub(crate) fn take(&mut self, now: Millis, gateway: &NodeRef, heartbeat: bool) -> Vec<Section<RoutedEvent>> {
        self.flush.sent(gateway, now);
        self.claims.take(gateway, heartbeat)
    }

    /// How far everything was read. Once that is published and flushed, these are floors.
    pub(crate) fn checkpoints(&self) -> SourceCheckpoints {
        self.sources.checkpoints()
    }

    /// What the rest of the node is to know, if it may be something else than at the last call.
    pub(crate) fn news(&mut self) -> Option<EngineReport> {
        std::mem::take(&mut self.is_news).then(|| self.report())
    }

    fn report(&self) -> EngineReport {
        let of_view = self.view.members.iter().filter(|member| member.role == Role::Gateway).map(|member| &member.node);
        let unheard = of_view.filter(|gateway| !self.table.knows(gateway));
        EngineReport {
            lacking: self.table.lagging().chain(unheard).cloned().collect(),
            unread: self.sources.unread(),
            missing: self.sources.missing(),
        }
    }

    /// How many times an event matched a gateway since the last call.
    pub(crate) fn take_matches(&mut self) -> u64 {
        std::mem::take(&mut self.matches)
    }
}

#[cfg(test)]
mod tests;
