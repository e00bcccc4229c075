//! The router's side of interest: what every gateway wants, arranged so that an event finds its gateways by looking
//! up its topic, or its user, not by asking each gateway; and a beat of a gateway concerns that gateway alone.
//!
//! What gateways tell is held within [`TableLimits`], and what they announce is believed only until they say otherwise: anyone
//! who can reach NATS can say that it is a gateway.

mod addressed;
mod known;
pub(crate) mod shared;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::{Audience, Event};
use crate::ids::{Millis, NodeRef, Revision};
use crate::interest::{Delta, Interest, InterestBeat, SnapshotPart};
use crate::placement::{Role, View, ViewId};
use addressed::Addressed;
use known::GatewayInterest;
use topics::TopicTable;

pub use crate::interest::table::shared::{LatestInterest, SharedInterest};

/// How many deltas are kept for a gateway while its snapshot is awaited; beyond it a newer snapshot is asked for.
const AWAITING_LIMIT: usize = 4096;

/// An interest is measured anew when deltas have said as much as it took before, and at least this many bytes.
const MEASURED_BYTES: usize = 64 * 1024;

/// How much is held of what gateways tell.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// Gateways that are in the view.
    pub members: usize,
    /// Gateways that are not, or not yet.
    pub strangers: usize,
    /// Bytes of one gateway's interest, as it takes in messages, and as many of deltas that await a snapshot.
    pub of_gateway: usize,
    /// Bytes of all together.
    pub in_all: usize,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self { members: 4096, strangers: 64, of_gateway: 4 * 1024 * 1024, in_all: 256 * 1024 * 1024 }
    }
}

/// What every gateway wants.
#[derive(Debug, Default)]
pub struct InterestTable {
    limits: TableLimits,
    gateways: BTreeMap<NodeRef, GatewayInterest>,
    /// Those of them whose interest is not known as new as was announced.
    lagging: BTreeSet<NodeRef>,
    /// How many of them are not in the view.
    strangers: usize,
    /// The gateways of the view.
    members: BTreeSet<NodeRef>,
    topics: TopicTable,
    addressed: Addressed,
    /// Bytes of all interests and deltas that are held.
    bytes: usize,
}

/// What follows from something heard of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterestUpdate {
    /// The gateway's interest has moved on to this revision.
    pub advanced: Option<Revision>,
    /// A delta was missed, or there is nothing to begin with: ask the gateway for a snapshot.
    pub needs_snapshot: bool,
    /// It is more than is held, and was not taken.
    pub refused: Option<InterestRefused>,
}

/// Why something that a gateway told was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterestRefused {
    /// There are as many gateways as are taken on.
    TooManyGateways,
    /// The interest is larger than any may be, or all together are.
    TooLarge,
}

impl InterestRefused {
    /// For metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooManyGateways => "too_many_gateways",
            Self::TooLarge => "too_large",
        }
    }
}

impl InterestTable {
    /// A table that knows nobody, and holds so much at most.
    #[must_use]
    pub fn new(limits: TableLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether `gateway`'s interest is known, as new as was announced.
    #[must_use]
    pub fn knows(&self, gateway: &NodeRef) -> bool {
        self.gateways.get(gateway).is_some_and(GatewayInterest::is_current)
    }

    /// Whether `gateway` was heard of, but its interest is not known as new as was announced.
    #[must_use]
    pub fn lags(&self, gateway: &NodeRef) -> bool {
        self.lagging.contains(gateway)
    }

    /// The gateways whose interest is known, each with its revision.
    pub fn known(&self) -> impl Iterator<Item = (&NodeRef, Revision)> {
        self.gateways.iter().filter_map(|(gateway, known)| Some((gateway, known.interest.as_ref()?.0)))
    }

    /// The interest of `gateway`, at the revision that is known.
    #[must_use]
    pub fn interest(&self, gateway: &NodeRef) -> Option<&(Revision, SharedInterest)> {
        self.gateways.get(gateway)?.interest.as_ref()
    }

    /// The gateways that were heard of, but whose interest is not known as new as was announced.
    pub fn lagging(&self) -> impl Iterator<Item = &NodeRef> {
        self.lagging.iter()
    }

    /// Whether this boot of a gateway is in the view.
    #[must_use]
    pub fn is_member(&self, gateway: &NodeRef) -> bool {
        self.members.contains(gateway)
    }

    /// Another view of the members, by which users are placed from now on.
    pub fn set_view(&mut self, view: Arc<View>) {
        let gateways = view.members.iter().filter(|member| member.role == Role::Gateway);
        self.members = gateways.map(|member| member.node.clone()).collect();
        self.strangers = self.gateways.keys().filter(|gateway| !self.members.contains(gateway)).count();
        self.addressed.set_view(view);
    }

    /// A gateway told its revision.
    pub fn beat(&mut self, now: Millis, beat: &InterestBeat) -> InterestUpdate {
        let Some(known) = self.hear(now, &beat.gateway) else {
            return InterestUpdate::refused(InterestRefused::TooManyGateways);
        };
        known.announce(beat.revision);
        let needs_snapshot = self.note_lag(&beat.gateway);
        InterestUpdate { needs_snapshot, ..InterestUpdate::default() }
    }

    /// A gateway told a step of its interest. The caller has cut the gateway's open sections before.
    pub fn delta(&mut self, now: Millis, delta: Delta) -> InterestUpdate {
        let (gateway, size, limits) = (delta.gateway.clone(), delta.encoded(), self.limits);
        let Some(known) = self.hear(now, &gateway) else {
            return InterestUpdate::refused(InterestRefused::TooManyGateways);
        };
        known.announce(delta.revision);
        if known.interest.as_ref().is_some_and(|(revision, _)| delta.revision <= *revision) {
            return InterestUpdate::default();
        }
        let mut freed = 0;
        if known.ahead.len() >= AWAITING_LIMIT || known.ahead_bytes + size > limits.of_gateway {
            freed = known.clear_ahead();
        }
        let fits = size <= limits.of_gateway;
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
        self.catch_up(&gateway)
    }

    /// A gateway's whole interest came. An older one than is known changes nothing. The caller has cut the gateway's
    /// open sections before.
    pub fn snapshot(&mut self, now: Millis, parts: Vec<SnapshotPart>) -> InterestUpdate {
        let Some(gateway) = parts.first().map(|part| part.gateway.clone()) else {
            return InterestUpdate::default();
        };
        let Some((revision, interest)) = Interest::assemble(parts) else {
            return InterestUpdate { needs_snapshot: true, ..InterestUpdate::default() };
        };
        let limits = self.limits;
        let Some(known) = self.hear(now, &gateway) else {
            return InterestUpdate::refused(InterestRefused::TooManyGateways);
        };
        known.announce(revision);
        let have = known.interest.as_ref().map(|(have, _)| *have);
        if have.is_some_and(|have| revision <= have) {
            // One that is older than what is known tells nothing of what was announced since.
            let needs_snapshot = have == Some(revision) && self.doubt(&gateway);
            self.note_lag(&gateway);
            return InterestUpdate { needs_snapshot, ..InterestUpdate::default() };
        }
        let (bytes, former) = (interest.encoded(), known.bytes);
        if bytes > limits.of_gateway || self.bytes - former + bytes > limits.in_all {
            self.note_lag(&gateway);
            return InterestUpdate::refused(InterestRefused::TooLarge);
        }
        self.forget_interest(&gateway);
        for (topic, want) in &interest.wants {
            self.topics.set(&gateway, topic, want);
        }
        self.addressed.see(&gateway, interest.view);
        interest.strays.iter().for_each(|user| self.addressed.stray(&gateway, user));
        if let Some(known) = self.gateways.get_mut(&gateway) {
            known.interest = Some((revision, SharedInterest::new(interest)));
            (known.bytes, known.measured) = (bytes, bytes);
            self.bytes += bytes;
        }
        let InterestUpdate { advanced, refused, .. } = self.take_steps(&gateway);
        let needs_snapshot = self.doubt(&gateway);
        self.note_lag(&gateway);
        match refused {
            Some(refused) => InterestUpdate::refused(refused),
            None => InterestUpdate { advanced: advanced.or(Some(revision)), needs_snapshot, refused: None },
        }
    }

    /// Forgets gateways not heard of for `retention` milliseconds, and names them.
    pub fn expire(&mut self, now: Millis, retention: u64) -> Vec<NodeRef> {
        let silent: Vec<NodeRef> = self
            .gateways
            .iter()
            .filter(|(_, known)| now.since(known.heard) > retention)
            .map(|(gateway, _)| gateway.clone())
            .collect();
        for gateway in &silent {
            self.forget_interest(gateway);
            self.lagging.remove(gateway);
            if let Some(mut known) = self.gateways.remove(gateway) {
                self.bytes -= known.clear_ahead();
                self.strangers -= usize::from(!self.members.contains(gateway));
            }
        }
        silent
    }

    /// Calls `found` with every gateway that is to get `event`, each once.
    ///
    /// An event for one user goes to the user's home and to where they stray; a gateway that places users by another
    /// view gets every such event until both agree.
    pub fn matching(&mut self, event: &Event, found: impl FnMut(&NodeRef)) {
        match &event.audience {
            Audience::User(user) => self.addressed.matching(user, found),
            Audience::Public => self.topics.matching(event, found),
        }
    }

    /// What is known of a gateway that is heard; nothing if it is one too many.
    fn hear(&mut self, now: Millis, gateway: &NodeRef) -> Option<&mut GatewayInterest> {
        if !self.gateways.contains_key(gateway) {
            let is_member = self.members.contains(gateway);
            let has_room = match is_member {
                true => self.gateways.len() - self.strangers < self.limits.members,
                false => self.strangers < self.limits.strangers,
            };
            if !has_room {
                return None;
            }
            self.strangers += usize::from(!is_member);
            self.gateways.insert(gateway.clone(), GatewayInterest::new(now));
        }
        let known = self.gateways.get_mut(gateway)?;
        known.heard = now;
        Some(known)
    }

    /// Applies the deltas that follow the known revision, each on the one before.
    fn catch_up(&mut self, gateway: &NodeRef) -> InterestUpdate {
        let heard = self.take_steps(gateway);
        self.note_lag(gateway);
        heard
    }

    fn take_steps(&mut self, gateway: &NodeRef) -> InterestUpdate {
        let Self { gateways, topics, addressed, bytes, limits, .. } = self;
        let Some(known) = gateways.get_mut(gateway) else {
            return InterestUpdate::default();
        };
        let Some((revision, told)) = &mut known.interest else {
            return InterestUpdate { needs_snapshot: true, ..InterestUpdate::default() };
        };
        let mut advanced = None;
        let former: usize = known.ahead.range(..=*revision).map(|(_, delta)| delta.encoded()).sum();
        known.ahead_bytes -= former;
        *bytes -= former;
        known.ahead.retain(|leads_to, _| leads_to > revision);
        while let Some(delta) = known.ahead.remove(&revision.next()) {
            // What was held apart becomes part of the interest, which is at most as much more.
            known.ahead_bytes -= delta.encoded();
            known.bytes += delta.encoded();
            for topic in &delta.unset {
                topics.unset(gateway, topic);
            }
            for (topic, want) in delta.wanted() {
                topics.set(gateway, topic, want);
            }
            // A gateway that places users by no view has no strays.
            let clears = delta.view == ViewId::ANY && addressed.view_of(gateway) != Some(ViewId::ANY);
            let cleared = if clears { told.strays() } else { Vec::new() };
            cleared.iter().chain(&delta.settled).for_each(|user| addressed.settle(gateway, user));
            delta.strays.iter().for_each(|user| addressed.stray(gateway, user));
            addressed.see(gateway, delta.view);
            *revision = delta.revision;
            told.step(Arc::new(delta));
            advanced = Some(*revision);
        }
        let needs_snapshot = !known.ahead.is_empty();
        // Deltas say again what was known, so what the interest takes is less by now.
        if known.bytes > MEASURED_BYTES.max(2 * known.measured) {
            let measured = told.clone().latest().encoded();
            *bytes = *bytes - known.bytes + measured;
            (known.bytes, known.measured) = (measured, measured);
            if measured > limits.of_gateway {
                self.forget_interest(gateway);
                return InterestUpdate::refused(InterestRefused::TooLarge);
            }
        }
        InterestUpdate { advanced, needs_snapshot, refused: None }
    }

    /// A snapshot told what the gateway's revision is. Returns whether it is to be asked once more: if more was announced,
    /// the snapshot may have been on its way meanwhile. A second one that tells no more was asked for later than that, so
    /// the gateway never announced it: someone else did.
    fn doubt(&mut self, gateway: &NodeRef) -> bool {
        let Some(known) = self.gateways.get_mut(gateway) else { return false };
        let Some((revision, _)) = &known.interest else { return false };
        let is_current = *revision >= known.announced;
        if !is_current && known.doubted {
            known.announced = *revision;
            self.bytes -= known.clear_ahead();
        }
        known.doubted = !is_current && !known.doubted;
        known.doubted
    }

    /// Notes whether the gateway's interest is known as new as was announced; returns whether it is not.
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
        let Some((_, told)) = known.interest.take() else { return };
        self.bytes -= std::mem::take(&mut known.bytes);
        self.topics.forget(gateway);
        self.addressed.forget(gateway, &told.latest().strays);
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
