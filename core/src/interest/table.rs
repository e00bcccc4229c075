//! The router's side of interest: what every gateway wants. An event finds its gateways by a lookup of its topic or its
//! user, not by a test of each gateway. A beat of a gateway costs work for that gateway only.
//!
//! The interest of gateways is held within [`TableLimits`], and an announced revision is dropped if snapshots do not
//! confirm it: everybody who can reach NATS can pretend to be a gateway.
//!
//! `known` is one gateway's interest, `shared` lets others hold it while it changes, `topics` finds gateways by topic,
//! and `addressed` finds them by user. `wanted` is what all wants test, and `cached` remembers who wants what.

mod addressed;
mod cached;
mod known;
mod limits;
pub(crate) mod shared;
mod topics;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::{Audience, Event};
use crate::ids::{Millis, NodeRef, Revision};
use crate::interest::{Delta, Interest, InterestBeat, SnapshotPart};
use crate::placement::{Role, View, ViewId};
use addressed::Addressed;
use known::GatewayInterest;
use topics::TopicTable;

pub use crate::interest::table::cached::GatewayCache;
pub use crate::interest::table::limits::TableLimits;
pub use crate::interest::table::shared::{LatestInterest, SharedInterest};

/// How many deltas are kept for a gateway while a snapshot is awaited. Beyond that they are dropped for a newer
/// snapshot.
const AWAITING_LIMIT: usize = 4096;

/// What every gateway wants.
#[derive(Debug, Default)]
pub struct InterestTable {
    limits: TableLimits,
    gateways: BTreeMap<NodeRef, GatewayInterest>,
    /// The gateways whose known interest is older than the announced revision.
    lagging: BTreeSet<NodeRef>,
    /// The number of gateways that are not in the view.
    outsiders: usize,
    /// The gateways of the view.
    members: BTreeSet<NodeRef>,
    topics: TopicTable,
    addressed: Addressed,
    /// Bytes of all interests and deltas that are held.
    bytes: usize,
}

/// The result of a gateway's message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterestUpdate {
    /// The gateway's interest has advanced to this revision.
    pub advanced: Option<Revision>,
    /// A delta was missed, or no snapshot was received yet: ask the gateway for a snapshot.
    pub needs_snapshot: bool,
    /// The message was refused because it exceeds a limit.
    pub refused: Option<InterestRefused>,
}

/// Why a gateway's message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterestRefused {
    /// The number of gateways is at its limit.
    TooManyGateways,
    /// The interest, or all interests together, would exceed the limit.
    TooLarge,
}

impl InterestRefused {
    /// The name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooManyGateways => "too_many_gateways",
            Self::TooLarge => "too_large",
        }
    }
}

impl InterestTable {
    /// An empty table with these limits.
    #[must_use]
    pub fn new(limits: TableLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether `gateway`'s interest is known at the announced revision.
    #[must_use]
    pub fn knows(&self, gateway: &NodeRef) -> bool {
        self.gateways.get(gateway).is_some_and(GatewayInterest::is_current)
    }

    /// Whether `gateway` has sent messages, but its interest is not known at the announced revision.
    #[must_use]
    pub fn lags(&self, gateway: &NodeRef) -> bool {
        self.lagging.contains(gateway)
    }

    /// The gateways whose interest is known, each with the known revision.
    pub fn known(&self) -> impl Iterator<Item = (&NodeRef, Revision)> {
        self.gateways.iter().filter_map(|(gateway, known)| Some((gateway, known.interest.as_ref()?.0)))
    }

    /// The interest of `gateway` at the known revision.
    #[must_use]
    pub fn interest(&self, gateway: &NodeRef) -> Option<&(Revision, SharedInterest)> {
        self.gateways.get(gateway)?.interest.as_ref()
    }

    /// The gateways that have sent messages, but whose interest is not known at the announced revision.
    pub fn lagging(&self) -> impl Iterator<Item = &NodeRef> {
        self.lagging.iter()
    }

    /// Whether this gateway, with this nonce, is in the view.
    #[must_use]
    pub fn is_member(&self, gateway: &NodeRef) -> bool {
        self.members.contains(gateway)
    }

    /// Uses another view for members and home gateways from now on.
    pub fn set_view(&mut self, view: Arc<View>) {
        let gateways = view.members.iter().filter(|member| member.role == Role::Gateway);
        self.members = gateways.map(|member| member.node.clone()).collect();
        self.outsiders = self.gateways.keys().filter(|gateway| !self.members.contains(gateway)).count();
        self.addressed.set_view(view);
    }

    /// Takes a gateway's beat with its revision.
    pub fn beat(&mut self, now: Millis, beat: &InterestBeat) -> InterestUpdate {
        let Some(known) = self.touch(now, &beat.gateway) else {
            return InterestUpdate::refused(InterestRefused::TooManyGateways);
        };
        known.announce(beat.revision);
        let needs_snapshot = self.note_lag(&beat.gateway);
        InterestUpdate { needs_snapshot, ..InterestUpdate::default() }
    }

    /// Takes a gateway's delta. The caller has closed the gateway's open sections before.
    pub fn delta(&mut self, now: Millis, delta: Delta) -> InterestUpdate {
        let (gateway, size, limits) = (delta.gateway.clone(), delta.encoded(), self.limits);
        let most = limits.bytes_of(self.is_member(&gateway));
        let Some(known) = self.touch(now, &gateway) else {
            return InterestUpdate::refused(InterestRefused::TooManyGateways);
        };
        known.announce(delta.revision);
        if known.interest.as_ref().is_some_and(|(revision, _)| delta.revision <= *revision) {
            return InterestUpdate::default();
        }
        let mut freed = 0;
        if known.ahead.len() >= AWAITING_LIMIT || known.ahead_bytes + size > most {
            freed = known.clear_ahead();
        }
        let fits = size <= most;
        if fits {
            known.ahead_bytes += size;
            if let Some(former) = known.ahead.insert(delta.revision, delta) {
                known.ahead_bytes -= former.encoded();
                freed += former.encoded();
            }
        }
        self.bytes = self.bytes + if fits { size } else { 0 } - freed;
        if self.bytes > limits.in_all {
            self.bytes -= self.gateways.get_mut(&gateway).map_or(0, GatewayInterest::clear_ahead);
            self.note_lag(&gateway);
            return InterestUpdate { needs_snapshot: false, ..InterestUpdate::refused(InterestRefused::TooLarge) };
        }
        self.apply_waiting(&gateway)
    }

    /// Takes a gateway's snapshot. A snapshot older than the known revision changes nothing. The caller has closed the
    /// gateway's open sections before.
    pub fn snapshot(&mut self, now: Millis, parts: Vec<SnapshotPart>) -> InterestUpdate {
        let Some(gateway) = parts.first().map(|part| part.gateway.clone()) else {
            return InterestUpdate::default();
        };
        let Some((revision, interest)) = Interest::assemble(parts) else {
            return InterestUpdate { needs_snapshot: true, ..InterestUpdate::default() };
        };
        let limits = self.limits;
        let most = limits.bytes_of(self.is_member(&gateway));
        let Some(known) = self.touch(now, &gateway) else {
            return InterestUpdate::refused(InterestRefused::TooManyGateways);
        };
        known.announce(revision);
        let current = known.interest.as_ref().map(|(current, _)| *current);
        if current.is_some_and(|current| revision <= current) {
            // An older snapshot does not show whether the announced revision exists.
            let needs_snapshot = current == Some(revision) && self.needs_second_snapshot(&gateway);
            self.note_lag(&gateway);
            return InterestUpdate { needs_snapshot, ..InterestUpdate::default() };
        }
        let (bytes, former) = (interest.encoded(), known.bytes);
        if bytes > most || self.bytes - former + bytes > limits.in_all {
            self.note_lag(&gateway);
            return InterestUpdate::refused(InterestRefused::TooLarge);
        }
        self.forget_interest(&gateway);
        for (topic, want) in &interest.wants {
            self.topics.set(&gateway, topic, want);
        }
        self.addressed.set_view_of(&gateway, interest.view);
        interest.strays.iter().for_each(|user| self.addressed.stray(&gateway, user));
        if let Some(known) = self.gateways.get_mut(&gateway) {
            known.interest = Some((revision, SharedInterest::new(interest)));
            (known.bytes, known.measured) = (bytes, bytes);
            self.bytes += bytes;
        }
        let InterestUpdate { advanced, refused, .. } = self.apply_deltas(&gateway);
        let needs_snapshot = self.needs_second_snapshot(&gateway);
        self.note_lag(&gateway);
        match refused {
            Some(refused) => InterestUpdate::refused(refused),
            None => InterestUpdate { advanced: advanced.or(Some(revision)), needs_snapshot, refused: None },
        }
    }

    /// Removes gateways that have sent nothing for `retention` milliseconds, and returns them.
    pub fn expire(&mut self, now: Millis, retention: u64) -> Vec<NodeRef> {
        let silent: Vec<NodeRef> = self
            .gateways
            .iter()
            .filter(|(_, known)| now.since(known.last_seen) > retention)
            .map(|(gateway, _)| gateway.clone())
            .collect();
        for gateway in &silent {
            self.forget_interest(gateway);
            self.lagging.remove(gateway);
            if let Some(mut known) = self.gateways.remove(gateway) {
                self.bytes -= known.clear_ahead();
                self.outsiders -= usize::from(!self.members.contains(gateway));
            }
        }
        silent
    }

    /// Calls `found` once for every gateway that must get `event`.
    ///
    /// An event for one user goes to the home gateway and to gateways where the user is a stray. A gateway with another
    /// view gets every such event until its view is the same. A broadcast goes to every gateway whose interest is known:
    /// it is for all subscriptions, whatever their filters, and interest does not say which gateway has one. A session
    /// without subscriptions does not get it. The gateway knows who is in its rooms.
    pub fn matching(&mut self, event: &Event, mut found: impl FnMut(&NodeRef)) {
        match &event.audience {
            Audience::User(user) => self.addressed.matching(user, found),
            Audience::Public if event.is_for_every_gateway() => self.known().for_each(|(gateway, _)| found(gateway)),
            Audience::Public => self.topics.matching(event, found),
        }
    }

    /// The entry of a gateway that has sent a message; `None` if there are too many gateways.
    fn touch(&mut self, now: Millis, gateway: &NodeRef) -> Option<&mut GatewayInterest> {
        if !self.gateways.contains_key(gateway) {
            let is_member = self.members.contains(gateway);
            let has_room = match is_member {
                true => self.gateways.len() - self.outsiders < self.limits.members,
                false => self.outsiders < self.limits.outsiders,
            };
            if !has_room {
                return None;
            }
            self.outsiders += usize::from(!is_member);
            self.gateways.insert(gateway.clone(), GatewayInterest::new(now));
        }
        let known = self.gateways.get_mut(gateway)?;
        known.last_seen = now;
        Some(known)
    }

    /// Applies the deltas that follow the known revision, each on the one before.
    fn apply_waiting(&mut self, gateway: &NodeRef) -> InterestUpdate {
        let update = self.apply_deltas(gateway);
        self.note_lag(gateway);
        update
    }

    fn apply_deltas(&mut self, gateway: &NodeRef) -> InterestUpdate {
        let most = self.limits.bytes_of(self.is_member(gateway));
        let Self { gateways, topics, addressed, bytes, limits, .. } = self;
        let Some(known) = gateways.get_mut(gateway) else {
            return InterestUpdate::default();
        };
        let Some((revision, shared)) = &mut known.interest else {
            return InterestUpdate { needs_snapshot: true, ..InterestUpdate::default() };
        };
        let mut advanced = None;
        let former: usize = known.ahead.range(..=*revision).map(|(_, delta)| delta.encoded()).sum();
        known.ahead_bytes -= former;
        *bytes -= former;
        known.ahead.retain(|leads_to, _| leads_to > revision);
        while let Some(delta) = known.ahead.remove(&revision.next()) {
            // The waiting delta becomes part of the interest, which grows by at most its size.
            known.ahead_bytes -= delta.encoded();
            known.bytes += delta.encoded();
            for topic in &delta.unset {
                topics.unset(gateway, topic);
            }
            for (topic, want) in delta.wanted() {
                topics.set(gateway, topic, want);
            }
            // A gateway that wants every addressed event has no strays.
            let clears = delta.view == ViewId::ANY && addressed.view_of(gateway) != Some(ViewId::ANY);
            let cleared = if clears { shared.strays() } else { Vec::new() };
            cleared.iter().chain(&delta.settled).for_each(|user| addressed.settle(gateway, user));
            delta.strays.iter().for_each(|user| addressed.stray(gateway, user));
            addressed.set_view_of(gateway, delta.view);
            *revision = delta.revision;
            shared.step(Arc::new(delta));
            advanced = Some(*revision);
        }
        let needs_snapshot = !known.ahead.is_empty();
        // Deltas may repeat what was known, so the real size may be smaller.
        if known.bytes > limits.measured_bytes.max(2 * known.measured) {
            let measured = shared.clone().latest().encoded();
            *bytes = *bytes - known.bytes + measured;
            (known.bytes, known.measured) = (measured, measured);
            if measured > most {
                self.forget_interest(gateway);
                return InterestUpdate::refused(InterestRefused::TooLarge);
            }
        }
        InterestUpdate { advanced, needs_snapshot, refused: None }
    }

    /// Compares a snapshot with the announced revision. Returns whether to ask for another one: a higher revision may
    /// have been announced while the snapshot was on its way. If a second snapshot, requested after that, has no
    /// higher revision either, the announcement was not from the gateway and is dropped.
    fn needs_second_snapshot(&mut self, gateway: &NodeRef) -> bool {
        let Some(known) = self.gateways.get_mut(gateway) else { return false };
        let Some((revision, _)) = &known.interest else { return false };
        let is_current = *revision >= known.announced;
        if !is_current && known.second_snapshot_asked {
            known.announced = *revision;
            self.bytes -= known.clear_ahead();
        }
        known.second_snapshot_asked = !is_current && !known.second_snapshot_asked;
        known.second_snapshot_asked
    }

    /// Updates `lagging` for the gateway; returns whether it lags.
    fn note_lag(&mut self, gateway: &NodeRef) -> bool {
        let lags = self.gateways.get(gateway).is_some_and(|known| !known.is_current());
        if lags && !self.lagging.contains(gateway) {
            self.lagging.insert(gateway.clone());
        } else if !lags {
            self.lagging.remove(gateway);
        }
        lags
    }

    fn forget_interest(&mut self, gateway: &NodeRef) {
        let Some(known) = self.gateways.get_mut(gateway) else { return };
        let Some((_, shared)) = known.interest.take() else { return };
        self.bytes -= std::mem::take(&mut known.bytes);
        self.topics.forget(gateway);
        self.addressed.forget(gateway, &shared.latest().strays);
    }
}

impl InterestUpdate {
    fn refused(reason: InterestRefused) -> Self {
        Self { refused: Some(reason), ..Self::default() }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
