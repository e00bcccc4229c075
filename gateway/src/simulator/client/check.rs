//! Checks that the events that a client got, and the gaps of which it was notified, are exactly what it was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use compact_str::CompactString;
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::{Epoch, EpochId, Millis, Partition, Seq};
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Gap, Notice, ReceivedEvent, SeqRange};
use tickwire_node::clock::millis;

use super::super::clocks;
use super::super::cluster::{PARTITIONS, SimCluster, StoredEvent};
use super::super::fixtures::filter;
use super::super::gateway::SimGateway;
use super::super::rules::SimRules;
use super::super::stream::Lost;
use super::facts::ClusterFacts;
use super::{ClientConnection, Received, ReceivedForm, SimClient};
use crate::handling::{admits, expiry};

/// How long after it was sent a frame may be read, in milliseconds. A relative `since` begins that much later.
const READ_MS: i64 = 20;

/// How long after the expiry of its token a session may be closed, in milliseconds.
const CLOSED_MS: u64 = 2_000;

/// How long after it connected a client may be notified of an outage that already lasts, in milliseconds.
const NOTIFIED_MS: u64 = 200;

/// What a check compares with: the messages of each epoch, the epochs, the lost messages, and the rules.
pub(in super::super) type CheckedAgainst<'a> =
    (&'a BTreeMap<EpochId, Vec<StoredEvent>>, &'a BTreeMap<EpochId, Epoch>, &'a Lost, &'a SimRules);

impl SimClient {
    /// Checks that the events that the client got and the notices together are what it was promised. `may_lose` says
    /// whether a notice of losses may have a code. `is_gap_allowed` says whether no router could replay a gap.
    /// `may_lack` says whether no node could notice that a sequence has another message now. An event that routers have
    /// read by several revisions of the rules is promised if all of its forms are wanted, and allowed if one is.
    pub(in super::super) fn check(
        &self,
        (history, epochs, lost, rules): CheckedAgainst<'_>,
        has_diverged: bool,
        may_lose: impl Fn(&SimClient, NoticeCode) -> bool,
        is_gap_allowed: impl Fn(EpochId, &Gap) -> bool,
        may_lack: impl Fn(EpochId, Seq) -> bool,
    ) {
        let nothing = Received::default();
        let filters: BTreeMap<u32, Filter> = self
            .filters
            .iter()
            .map(|number| (*number, Filter::parse(&filter(*number), &Kinds::default()).unwrap()))
            .collect();
        let wants = |filter: u32, event: &Event| {
            event.audience.admits(&self.user) && admits(&filters[&filter], event, &mut LongValues::default())
        };
        let may_get = |filter: u32, stored: &StoredEvent| rules.any(stored, |event| wants(filter, event));
        let must_get = |filter: u32, stored: &StoredEvent| rules.all(stored, |event| wants(filter, event));
        for past in self.pasts.iter().filter(|past| past.is_wanted) {
            // Events that a later epoch keeps may come in that epoch.
            let epochs = self.received.iter().filter(|(epoch, _)| **epoch >= past.epoch_id);
            let received: Vec<&Received> = epochs.map(|(_, received)| received).collect();
            let is_past = |stored: &&StoredEvent| {
                let StoredEvent { partition, seq, event, is_heartbeat, .. } = stored;
                let is_there = event.stored >= past.since && *seq <= past.end[usize::from(partition.0)];
                is_there && !is_heartbeat && may_get(past.filter, stored)
            };
            let is_promised = |stored: &&StoredEvent| {
                let is_certain = stored.event.stored >= Timestamp(past.since.0 + READ_MS);
                is_certain && is_past(stored) && must_get(past.filter, stored)
            };
            for StoredEvent { partition, seq, .. } in history[&past.epoch_id].iter().filter(is_promised) {
                let is_notified = received.iter().any(|received| received.is_notified(*partition, *seq));
                let is_known = is_notified || past.given.contains(&(*partition, *seq)) || may_lack(past.epoch_id, *seq);
                assert!(is_known, "{partition}:{seq} of {past:#?} was neither delivered nor notified: {self:#?}");
            }
            for place in &past.given {
                let mut log = history[&past.epoch_id].iter().chain(lost.get(&past.epoch_id).into_iter().flatten());
                let was_stored = log.any(|stored| (stored.partition, stored.seq) == *place && is_past(&stored));
                // A server that has removed more than another finds a later first message for the same time.
                let may_be = self.was_slow || past.waits || was_stored || has_diverged;
                assert!(may_be, "{place:?} was not asked for by {past:#?}: {self:#?}");
            }
        }
        for promise in self.all_promises() {
            let received = self.received.get(&promise.epoch_id).unwrap_or(&nothing);
            // Messages before the start of an epoch are the same as in the epoch before.
            let epoch = epochs[&promise.epoch_id];
            let former = self
                .received
                .iter()
                .filter(|(former, _)| epoch.common_through(**former).is_some())
                .map(|(_, received)| received);
            let former: Vec<&Received> = former.collect();
            for stored in history[&promise.epoch_id].iter().filter(|stored| !stored.is_heartbeat) {
                let StoredEvent { partition, seq, event, .. } = stored;
                let at = usize::from(partition.0);
                if *seq <= promise.start[at] || *seq > promise.end[at] || !must_get(promise.filter, stored) {
                    continue;
                }
                let knows = |received: &Received| received.knows(*partition, *seq, &event.id);
                let is_known = knows(received) || *seq <= epoch.before && former.iter().any(|received| knows(received));
                let is_known = is_known || may_lack(promise.epoch_id, *seq);
                assert!(is_known, "{partition}:{seq} of {promise:#?} was neither delivered nor notified: {self:#?}");
            }
        }
        for (epoch_id, received) in &self.received {
            // If the stream has lost messages, several messages have had the same sequence.
            let lost = lost.get(epoch_id).into_iter().flatten();
            let mut log: BTreeMap<_, Vec<&StoredEvent>> = BTreeMap::new();
            for stored in history[epoch_id].iter().chain(lost) {
                log.entry((stored.partition, stored.seq)).or_default().push(stored);
            }
            for place in &received.events {
                let events = log.get(place).unwrap_or_else(|| panic!("{place:?} was never stored: {self:#?}"));
                let is_wanted = |stored: &&StoredEvent| self.filters.iter().any(|filter| may_get(*filter, stored));
                assert!(events.iter().any(is_wanted), "{place:?} matches no filter of the client: {self:#?}");
            }
            for (place, form) in &received.forms {
                let is_given = |stored: &&StoredEvent| rules.any(stored, |event| form.is_of(event));
                assert!(log[place].iter().any(is_given), "no rules give {place:?} the form {form:?}: {self:#?}");
            }
            for (place, list) in &received.lists {
                let filters = self.filters_of(*list);
                let is_wanted = |stored: &&StoredEvent| filters.iter().any(|filter| may_get(*filter, stored));
                let is_allowed = log[place].iter().any(is_wanted);
                assert!(is_allowed, "{place:?} matches none of {filters:?}, which were in force: {self:#?}");
            }
            for gap in &received.gaps {
                assert!(is_gap_allowed(*epoch_id, gap), "a router could have replayed {gap:?}: {self:#?}");
            }
        }
        self.check_losses((history, lost), (may_get, must_get), may_lose, may_lack);
    }

    /// The events up to a position that match a filter of the client, and that it has neither received nor a notice
    /// of.
    pub(in super::super) fn unknown_events(&self, end: &Position, history: &[StoredEvent]) -> Vec<(Partition, Seq)> {
        let received = self.received.get(&end.epoch_id);
        let parse = |number: &u32| Filter::parse(&filter(*number), &Kinds::default()).unwrap();
        let filters: Vec<Filter> = self.filters.iter().map(parse).collect();
        let is_unknown = |StoredEvent { partition, seq, event, is_heartbeat, .. }: &&StoredEvent| {
            let is_wanted = event.audience.admits(&self.user)
                && filters.iter().any(|filter| admits(filter, event, &mut LongValues::default()));
            let is_known = received.is_some_and(|received| received.knows(*partition, *seq, &event.id));
            *seq <= end.seqs[usize::from(partition.0)] && !is_heartbeat && is_wanted && !is_known
        };
        history.iter().filter(is_unknown).map(|stored| (stored.partition, stored.seq)).collect()
    }

    /// Checks that the counts of dropped and conflated events in notices are exactly what the client lacks, and that
    /// each notice has a reason.
    fn check_losses(
        &self,
        (history, lost): (&BTreeMap<EpochId, Vec<StoredEvent>>, &Lost),
        (may_get, must_get): (impl Fn(u32, &StoredEvent) -> bool, impl Fn(u32, &StoredEvent) -> bool),
        may_lose: impl Fn(&SimClient, NoticeCode) -> bool,
        may_lack: impl Fn(EpochId, Seq) -> bool,
    ) {
        let mut losses = 0;
        for notice in self.notices.iter().filter(|notice| notice.dropped + notice.conflated > 0) {
            losses += notice.dropped + notice.conflated;
            let code = NoticeCode::ALL.into_iter().find(|code| notice.code == code.as_str());
            assert!(code.is_some_and(|code| may_lose(self, code)), "nothing explains {notice:?}: {self:#?}");
        }
        // After a resume, an event may be dropped again or be delivered, so the counts cannot be compared.
        let mut promises = self.all_promises();
        let (Some(promise), None) = (promises.next(), promises.next()) else { return };
        if self.connections > 1 || self.connection.is_none() || !self.pasts.is_empty() || history.len() > 1 {
            return;
        }
        let received = self.received.get(&promise.epoch_id);
        let is_open = |stored: &&StoredEvent| {
            let is_already_covered =
                received.is_some_and(|received| received.is_given_or_in_gap(stored.partition, stored.seq));
            let is_new = stored.seq > promise.start[usize::from(stored.partition.0)];
            is_new && !stored.is_heartbeat && !is_already_covered
        };
        let open: Vec<&StoredEvent> = history[&promise.epoch_id].iter().filter(is_open).collect();
        // An event that waited when its subscription ended is not promised, but a notice counts it if it is dropped.
        let most = open.iter().filter(|stored| may_get(promise.filter, stored)).count() as u64;
        // One that was damaged or lost later may have been dropped before.
        let damaged = history[&promise.epoch_id].iter().filter(|stored| stored.is_unreadable).count();
        let gone = (damaged + lost.get(&promise.epoch_id).map_or(0, Vec::len)) as u64;
        let is_promised = |stored: &StoredEvent| {
            stored.seq <= promise.end[usize::from(stored.partition.0)] && must_get(promise.filter, stored)
        };
        let lacking: Vec<Seq> = open.iter().filter(|stored| is_promised(stored)).map(|stored| stored.seq).collect();
        let excused = lacking.iter().filter(|seq| may_lack(promise.epoch_id, **seq)).count() as u64;
        let least = lacking.len() as u64;
        let adds_up = losses <= most + gone && least <= losses + excused;
        assert!(adds_up, "{least} to {most} events are lacking, and notices count {losses}: {self:#?}");
    }

    /// No backfill delays new events from now on.
    pub(super) fn serve_from(&mut self, now: Millis) {
        if let Some(connection) = &mut self.connection {
            connection.served_since = now;
        }
    }

    /// Without faults, an event must arrive within a bound after it was stored.
    pub(super) fn check_delay(&self, event: &ReceivedEvent, facts: &ClusterFacts) {
        let (Some(most), Some(connection), Some(position)) = (facts.delay, &self.connection, &self.position) else {
            return;
        };
        if self.was_slow || self.is_catching_up || self.past.is_some() {
            return;
        }
        let stored = facts.stored(position.epoch_id, event.seq).expect("an event that arrives was stored");
        let took = facts.now.since(stored.max(connection.served_since));
        assert!(took <= most, "{event:?} takes {took} ms: {self:#?}");
    }

    /// The first position of a new epoch must come after a `reset` of each partition.
    pub(super) fn check_resets(&mut self, position: &str) {
        let position = Position::from_str(position).expect("a position can be read");
        let former = self.position.as_ref().map(|former| former.epoch_id);
        let Some(connection) = &mut self.connection else { return };
        let resets = std::mem::take(&mut connection.resets).len();
        let is_concerned = !self.in_force.is_empty() && connection.requests.is_empty();
        if is_concerned && former.is_some_and(|former| former != position.epoch_id) {
            assert_eq!(resets, usize::from(PARTITIONS), "{position} comes without a reset before it: {self:#?}");
        }
    }

    /// No event is dropped as expired before its time: a notice counts at most the events of its ranges that expired.
    pub(super) fn check_expired(&self, notice: &Notice, facts: &ClusterFacts) {
        if notice.code != NoticeCode::Expired.as_str() || !facts.are_clocks_true {
            return;
        }
        let is_expired = |stored: &&StoredEvent| {
            let StoredEvent { partition, seq, event, .. } = stored;
            let is_in = |range: &SeqRange| range.p == *partition && range.first <= *seq && *seq <= range.last;
            let is_late = expiry(event).is_some_and(|last| last < clocks::time_of_day(facts.now));
            is_late && notice.ranges.iter().any(is_in)
        };
        let expired = facts.history.values().chain(facts.lost.values()).flatten().filter(is_expired).count() as u64;
        assert!(notice.dropped <= expired, "only {expired} events have expired for {notice:?}: {self:#?}");
    }

    /// Notices of an outage and of its end must alternate.
    pub(super) fn check_upstream_notice(&mut self, notice: &Notice) {
        let lost = notice.code == NoticeCode::UpstreamLost.as_str();
        if !lost && notice.code != NoticeCode::UpstreamRestored.as_str() {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        let knew = std::mem::replace(&mut connection.outage_notified, lost);
        assert_ne!(knew, lost, "{notice:?} comes twice, or without the other before it: {self:#?}");
    }

    /// Whether a client of this gateway was notified of an outage; `None` if it need not know yet. A new client may be
    /// notified a little later, and at a gateway that drains only after its welcome. A slow client may not have read
    /// the notice yet.
    fn outage_notified_at(&self, gateway: usize, (now, thawed_at, drains): (Millis, Millis, bool)) -> Option<bool> {
        let here = |connection: &&ClientConnection| {
            let waited = now.since(connection.since.max(thawed_at));
            connection.gateway == gateway && (connection.is_welcome || waited > NOTIFIED_MS && !drains)
        };
        let connection = self.connection.as_ref().filter(here).filter(|connection| !connection.was_slow)?;
        Some(connection.outage_notified)
    }

    pub(in super::super) fn has_gaps(&self) -> bool {
        self.received.values().any(|received| !received.gaps.is_empty())
    }
}

impl ReceivedForm {
    fn is_of(&self, event: &Event) -> bool {
        let Self { priority, tags, rooms } = self;
        (priority, tags, rooms) == (&event.priority, &event.tags, &event.rooms)
    }
}

impl Received {
    /// Whether the client got this event, or a notice that it lacks it.
    fn knows(&self, partition: Partition, seq: Seq, id: &CompactString) -> bool {
        self.ids.contains(&(partition, id.clone())) || self.is_notified(partition, seq)
    }

    /// Whether the client got this event, or it is in a gap.
    fn is_given_or_in_gap(&self, partition: Partition, seq: Seq) -> bool {
        let in_gap = |gap: &Gap| gap.p == partition && gap.from < seq && seq <= gap.to;
        self.events.contains(&(partition, seq)) || self.gaps.iter().any(in_gap)
    }

    /// Whether the client was notified that it lacks this event.
    fn is_notified(&self, partition: Partition, seq: Seq) -> bool {
        let in_gap = |gap: &Gap| gap.p == partition && gap.from < seq && seq <= gap.to;
        let is_dropped = |range: &SeqRange| range.p == partition && range.first <= seq && seq <= range.last;
        self.gaps.iter().any(in_gap) || self.dropped.iter().any(is_dropped)
    }
}

impl SimCluster {
    /// No session lasts longer than its token, if its gateway has known the time, and its client could be sent the close.
    pub(super) fn check_tokens(&self) {
        let Some(life) = self.token_life else { return };
        let most = millis(life + self.config.auth.leeway) + CLOSED_MS;
        for client in &self.clients {
            let Some(connection) = client.connection.as_ref().filter(|connection| connection.has_token) else {
                continue;
            };
            let gateway = &self.gateways[connection.gateway];
            let is_checked = !connection.was_slow && !gateway.is_frozen && !gateway.was_ahead;
            let lasted = self.now.since(connection.since.max(gateway.thawed_at));
            assert!(!is_checked || lasted <= most, "a session lasts longer than its token: {client:#?}");
        }
    }

    /// Either all clients of a gateway were notified of an outage or none, no matter when they connected.
    pub(super) fn check_outage(&self, gateway: usize) {
        if self.gateways[gateway].is_frozen {
            return;
        }
        let SimGateway { thawed_at, drains_until, .. } = self.gateways[gateway];
        let times = (self.now, thawed_at, drains_until.is_some());
        let known: BTreeSet<bool> =
            self.clients.iter().filter_map(|client| client.outage_notified_at(gateway, times)).collect();
        assert!(known.len() < 2, "not all clients of gateway {gateway} know of its outage: {:#?}", self.clients);
    }
}
