//! The engine's state and every decision on it: what is claimed, who wants what, what leaves when. Pure: what was
//! read, what gateways said, and the time come in.
//!
//! `events ──▶ rules ──▶ enrich ──▶ match ──▶ batch`: rules and enrichment have their place between the reading of an
//! event and [`InterestTable::matching`], in [`Routing::route`].

use crate::decode::Readable;
use crate::dispatch::Routed;
use crate::engine::flush::Flush;
use crate::engine::{Floors, Report};
use crate::intake::{Heard, What};
use crate::interest::{Said, note_refused};
use crate::ownership::Reached;
use crate::source::{Source, Tenure};
use std::collections::BTreeMap;
use std::sync::Arc;
use tickwire_core::claims::Claims;
use tickwire_core::event::Priority;
use tickwire_core::ids::{Millis, NodeRef, Partition, Revision, Seq};
use tickwire_core::interest::SnapshotPart;
use tickwire_core::ring::{Role, View};
use tickwire_core::section::Section;
use tickwire_core::table::{self, InterestTable, Limits, Told};

/// What the engine knows.
#[derive(Debug)]
pub(crate) struct Routing {
    claims: Claims<Routed>,
    table: InterestTable,
    view: Arc<View>,
    flush: Flush,
    retention: u64,
    tenures: BTreeMap<Source, Reader>,
    matches: u64,
    /// Whether the report may say something else than before.
    is_news: bool,
}

/// A source in the present tenure.
#[derive(Debug)]
struct Reader {
    number: u64,
    /// How far it was read; of a partition, claims know.
    reached: Reached,
    /// Why it cannot be read.
    stuck: Option<String>,
}

impl Routing {
    /// Nothing is owned and nobody wants anything. `retention` is in milliseconds.
    pub(crate) fn new(flush: Flush, retention: u64) -> Self {
        Self {
            claims: Claims::default(),
            table: InterestTable::new(Limits::default()),
            view: Arc::default(),
            flush,
            retention,
            tenures: BTreeMap::new(),
            matches: 0,
            is_news: true,
        }
    }

    /// A tenure begins.
    pub(crate) fn own(&mut self, tenure: Tenure, floor: Seq) {
        if let Source::Partition(partition) = tenure.source {
            self.claims.own(partition, floor);
        }
        let reached = Reached { floor, mark: None };
        let reader = Reader { number: tenure.number, reached, stuck: Some("its reading has not begun".to_owned()) };
        self.tenures.insert(tenure.source, reader);
        self.is_news = true;
    }

    /// A tenure ends. Returns whether it was the present one.
    pub(crate) fn disown(&mut self, tenure: Tenure) -> bool {
        if self.reader(tenure).is_none() {
            return false;
        }
        self.tenures.remove(&tenure.source);
        self.is_news = true;
        if let Source::Partition(partition) = tenure.source {
            self.claims.disown(partition);
        }
        true
    }

    /// The stream was made anew: every tenure ends, and nothing is claimed.
    pub(crate) fn renew(&mut self) {
        self.tenures.clear();
        self.is_news = true;
        self.claims = Claims::default();
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
    pub(crate) fn hear(&mut self, now: Millis, said: Said) -> Option<NodeRef> {
        match said {
            Said::Delta(delta) => {
                let gateway = delta.gateway.clone();
                self.claims.cut(&gateway);
                self.revise(gateway, |table| table.delta(now, delta))
            }
            Said::Beat(beat) => {
                let gateway = beat.gateway.clone();
                self.revise(gateway, |table| table.beat(now, &beat))
            }
        }
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
    fn revise(&mut self, gateway: NodeRef, hear: impl FnOnce(&mut InterestTable) -> table::Heard) -> Option<NodeRef> {
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
    pub(crate) fn interest(&self, gateway: &NodeRef, least: Revision) -> Option<(Revision, Told)> {
        self.table.interest(gateway).filter(|(revision, _)| *revision >= least).cloned()
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
    pub(crate) fn read(&mut self, heard: Heard) {
        let Some(reader) = self.reader(heard.tenure) else { return };
        match heard.what {
            What::Flowing => {
                reader.stuck = None;
                self.is_news = true;
            }
            What::Stuck(reason) => {
                reader.stuck = Some(reason);
                self.is_news = true;
            }
            What::Skip(to) => {
                reader.reached.floor = to;
                if let Source::Partition(partition) = heard.tenure.source {
                    self.claims.skip(partition, to);
                }
            }
            What::Events { upto, mark, events } => {
                reader.reached = Reached { floor: upto, mark: mark.or(reader.reached.mark) };
                if let Source::Partition(partition) = heard.tenure.source {
                    for event in events {
                        self.route(partition, event);
                    }
                    self.claims.advance(partition, upto);
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
            let routed = Routed { wire: wire.clone(), stored: event.stored };
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
    pub(crate) fn take(&mut self, now: Millis, gateway: &NodeRef, heartbeat: bool) -> Vec<Section<Routed>> {
        self.flush.sent(gateway, now);
        self.claims.take(gateway, heartbeat)
    }

    /// How far everything was read. Once that is published and flushed, these are floors.
    pub(crate) fn floors(&self) -> Floors {
        let floor = |(source, reader): (&Source, &Reader)| {
            let tenure = Tenure { source: *source, number: reader.number };
            (tenure, reader.reached)
        };
        self.tenures.iter().map(floor).collect()
    }

    /// What the rest of the node is to know, if it may be something else than at the last call.
    pub(crate) fn news(&mut self) -> Option<Report> {
        std::mem::take(&mut self.is_news).then(|| self.report())
    }

    fn report(&self) -> Report {
        let of_view = self.view.members.iter().filter(|member| member.role == Role::Gateway).map(|member| &member.node);
        let unheard = of_view.filter(|gateway| !self.table.knows(gateway));
        let stuck = |(source, reader): (&Source, &Reader)| Some((*source, reader.stuck.clone()?));
        Report {
            lacking: self.table.lagging().chain(unheard).cloned().collect(),
            unread: self.tenures.iter().filter_map(stuck).collect(),
        }
    }

    /// How many times an event matched a gateway since the last call.
    pub(crate) fn take_matches(&mut self) -> u64 {
        std::mem::take(&mut self.matches)
    }

    fn reader(&mut self, tenure: Tenure) -> Option<&mut Reader> {
        self.tenures.get_mut(&tenure.source).filter(|reader| reader.number == tenure.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::tenancy::Mark;
    use tickwire_core::event::Event;
    use tickwire_core::filter::Filter;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::interest_log::{Bounds, InterestLog};
    use tickwire_testkit::blank_event;

    const PARTITION: Partition = Partition(3);

    fn tenure(number: u64) -> Tenure {
        Tenure { source: Source::Partition(PARTITION), number }
    }

    fn event(seq: u64, priority: Priority) -> Readable {
        let event = Event { priority, ..blank_event() };
        Readable { seq: Seq(seq), event, wire: vec![0; 10].into() }
    }

    fn events(number: u64, seqs: std::ops::RangeInclusive<u64>) -> Heard {
        Heard {
            tenure: tenure(number),
            what: What::Events {
                upto: Seq(*seqs.end()),
                mark: Some(Mark { seq: Seq(*seqs.end()), stored: 7 }),
                events: seqs.map(|seq| event(seq, Priority::Low)).collect(),
            },
        }
    }

    /// A routing with one gateway that wants every pattern, at revision 1.
    fn routing() -> (Routing, NodeRef) {
        let gateway = NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) };
        let mut routing = Routing::new(Flush::new(2, 10_000, 1_000), 60_000);
        let mut log = InterestLog::new(gateway.clone(), View::default(), 0, Bounds::default());
        log.add(&Arc::new(Filter::default()));
        let delta = log.cut(Millis(0)).unwrap();
        assert_eq!(routing.hear(Millis(0), Said::Delta(delta)), Some(gateway.clone()));
        assert!(routing.lags(&gateway));
        let parts = log.sent().parts(&gateway, log.revision(), 1_000);
        let other = NodeRef { nonce: Nonce(2), ..gateway.clone() };
        assert_eq!(routing.hear_snapshot(Millis(0), other.clone(), parts.clone()), Some(other));
        assert_eq!(routing.hear_snapshot(Millis(0), gateway.clone(), parts), None);
        (routing, gateway)
    }

    fn taken(routing: &mut Routing, gateway: &NodeRef) -> Vec<(u64, u64, Vec<u64>)> {
        let sections = routing.take(Millis(0), gateway, true).into_iter().map(|section| {
            assert_eq!(section.revision, Revision(1));
            let seqs = section.events.iter().map(|(seq, _)| seq.0).collect();
            (section.prev.0, section.upto.0, seqs)
        });
        sections.collect()
    }

    #[test]
    fn what_a_former_tenure_still_reads_changes_nothing() {
        let (mut routing, gateway) = routing();
        routing.own(tenure(1), Seq(10));
        routing.read(events(1, 11..=12));
        assert!(routing.disown(tenure(1)));
        // The lease was lost while the process stood still: what was read meanwhile is not claimed.
        routing.read(events(1, 13..=14));
        assert_eq!((routing.floors(), taken(&mut routing, &gateway)), (Floors::new(), vec![]));
        routing.own(tenure(2), Seq(20));
        routing.read(events(1, 15..=16));
        assert!(!routing.disown(tenure(1)));
        assert_eq!(routing.floors(), Floors::from([(tenure(2), Reached { floor: Seq(20), mark: None })]));
        routing.read(events(2, 21..=22));
        assert_eq!(taken(&mut routing, &gateway), [(20, 22, vec![21, 22])]);
        let mark = Some(Mark { seq: Seq(22), stored: 7 });
        assert_eq!(routing.floors(), Floors::from([(tenure(2), Reached { floor: Seq(22), mark })]));
    }

    #[test]
    fn a_renewed_stream_is_claimed_from_its_new_tenures_on() {
        let (mut routing, gateway) = routing();
        routing.own(tenure(1), Seq(10));
        routing.read(events(1, 11..=12));
        routing.renew();
        routing.read(events(1, 13..=13));
        routing.own(tenure(2), Seq(0));
        routing.read(events(2, 1..=1));
        assert_eq!(taken(&mut routing, &gateway), [(0, 1, vec![1])]);
    }

    #[test]
    fn what_cannot_be_read_any_more_is_skipped_and_told() {
        let (mut routing, gateway) = routing();
        routing.own(tenure(1), Seq(10));
        routing.read(events(1, 11..=11));
        let skip = |number, what| Heard { tenure: tenure(number), what };
        routing.read(skip(1, What::Skip(Seq(50))));
        routing.read(events(1, 51..=51));
        assert_eq!(taken(&mut routing, &gateway), [(10, 11, vec![11]), (50, 51, vec![51])]);
        routing.read(skip(1, What::Flowing));
        assert_eq!(routing.report(), Report::default());
        routing.read(skip(1, What::Stuck("broken".to_owned())));
        assert_eq!(routing.report().unread[&tenure(1).source], "broken");
    }

    #[test]
    fn an_urgent_event_does_not_wait_for_the_window() {
        let (mut routing, gateway) = routing();
        routing.own(tenure(1), Seq(10));
        routing.take(Millis(100), &gateway, false);
        routing.read(events(1, 11..=11));
        assert_eq!(routing.due(Millis(101)), (vec![], Some(Millis(102))));
        assert_eq!(routing.due(Millis(102)).0, std::slice::from_ref(&gateway));
        routing.read(Heard {
            tenure: tenure(1),
            what: What::Events { upto: Seq(12), mark: None, events: vec![event(12, Priority::Critical)] },
        });
        assert_eq!(routing.due(Millis(101)).0, [gateway]);
    }
}
