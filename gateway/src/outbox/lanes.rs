//! The events that wait for one session: in four lanes by priority, and one lane for events that go before all others.
//! That one is sent first, then critical events, then events that have waited too long, then high, medium and low ones.
//! Within a lane events keep their order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tickwire_core::event::{Kind, Priority, Tier};
use tickwire_core::ids::{Millis, Pattern, Seq};
use tickwire_core::protocol::Encoding;

use crate::delivery::Delivery;

/// An event that has waited for this time is sent before all but urgent events, or dropped, in milliseconds.
pub const PATIENCE_MS: u64 = 5_000;

/// The lane of critical events.
const CRITICAL: usize = Priority::Critical as usize;

/// The lane of events that go before all others.
const FIRST: usize = CRITICAL + 1;

/// An event that waits.
#[derive(Clone, Debug)]
pub struct QueuedEvent {
    /// The event.
    pub delivery: Arc<Delivery>,
    /// Since when it waits.
    pub since: Millis,
    /// The number of the subscription that it matched, within the session.
    pub subscription: u32,
    /// How many older events it replaced.
    pub conflated: u32,
    /// Whether it is sent as an alert.
    pub alert: bool,
    /// Whether it is sent by the budget of urgent events, and does not count for the user's rate.
    pub exempt: bool,
}

impl QueuedEvent {
    /// Whether it is urgent.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.delivery.is_urgent(self.alert)
    }

    /// Its encoded object, as an event or as an alert, without what differs between sessions.
    #[must_use]
    pub fn object(&self, encoding: Encoding) -> &Bytes {
        if self.alert { self.delivery.alert_object(encoding) } else { self.delivery.object(encoding) }
    }
}

/// The lanes, lowest first.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: [VecDeque<QueuedEvent>; FIRST + 1],
    len: usize,
    bytes: usize,
    /// How many of them are urgent.
    urgent: u32,
}

/// Events with the same conflation key are versions of the same thing, so the newest is enough.
#[derive(PartialEq, Eq, Hash)]
struct ConflationKey<'e> {
    kind: &'e Kind,
    key: &'e str,
    pattern: Option<&'e Pattern>,
    tier: Option<Tier>,
}

/// The lane in which an event waits, as an alert or not.
pub(crate) fn lane_of(delivery: &Delivery, as_alert: bool) -> usize {
    if delivery.goes_first { FIRST } else { delivery.priority(as_alert) as usize }
}

impl Lanes {
    /// How many urgent events wait.
    pub(crate) fn urgent(&self) -> u32 {
        self.urgent
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an event at the end of a lane.
    pub(crate) fn push(&mut self, lane: usize, waiting: QueuedEvent, encoding: Encoding) {
        self.len += 1;
        self.urgent += u32::from(waiting.is_urgent());
        self.bytes += waiting.object(encoding).len();
        self.lanes[lane].push_back(waiting);
    }

    /// The last event of a lane, if it is this one.
    pub(crate) fn last(&self, lane: usize, delivery: &Arc<Delivery>) -> Option<&QueuedEvent> {
        self.lanes[lane].back().filter(|last| Arc::ptr_eq(&last.delivery, delivery))
    }

    /// Removes the last event of a lane, if it is this one.
    pub(crate) fn remove_last(&mut self, lane: usize, delivery: &Arc<Delivery>, encoding: Encoding) {
        let removed = self.lanes[lane].pop_back_if(|last| Arc::ptr_eq(&last.delivery, delivery));
        if let Some(waiting) = removed {
            self.count_removed(&waiting, encoding);
        }
    }

    /// The lane whose first event is sent next, and whether that is before its turn.
    pub(crate) fn next(&self, now: Millis) -> Option<(usize, bool)> {
        let [low, medium, high, critical, first] = &self.lanes;
        if !first.is_empty() {
            return Some((FIRST, false));
        }
        if !critical.is_empty() {
            return Some((CRITICAL, false));
        }
        let turn = [high, medium, low].into_iter().zip([2, 1, 0]).find(|(waiting, _)| !waiting.is_empty())?.1;
        let impatient = [low, medium]
            .into_iter()
            .enumerate()
            .filter_map(|(lane, waiting)| Some((waiting.front()?.since, lane)))
            .filter(|(since, _)| now.since(*since) >= PATIENCE_MS)
            .min();
        Some(impatient.map_or((turn, false), |(_, lane)| (lane, lane != turn)))
    }

    /// The lane whose first event is sent next if only urgent ones may be sent.
    pub(crate) fn next_urgent(&self) -> Option<(usize, bool)> {
        let is_next = |lane: &usize| self.lanes[*lane].front().is_some_and(QueuedEvent::is_urgent);
        // With lanes switched off, urgent events are among all others, and keep their place.
        Some(([FIRST, CRITICAL, 0].into_iter().find(is_next)?, false))
    }

    /// The first event of a lane.
    pub(crate) fn front(&self, lane: usize) -> Option<&QueuedEvent> {
        self.lanes[lane].front()
    }

    /// Removes the first event of a lane.
    pub(crate) fn pop(&mut self, lane: usize, encoding: Encoding) -> Option<QueuedEvent> {
        let waiting = self.lanes[lane].pop_front()?;
        self.count_removed(&waiting, encoding);
        Some(waiting)
    }

    /// Removes the oldest event that is not urgent from the lowest lane that has one.
    pub(crate) fn pop_lowest(&mut self, encoding: Encoding) -> Option<QueuedEvent> {
        let droppable = |waiting: &QueuedEvent| !waiting.is_urgent();
        let (lane, at) =
            (0..).zip(&self.lanes).find_map(|(lane, waiting)| Some((lane, waiting.iter().position(droppable)?)))?;
        let waiting = self.lanes[lane as usize].remove(at)?;
        self.count_removed(&waiting, encoding);
        Some(waiting)
    }

    /// Removes events that have waited for [`PATIENCE_MS`] and are not urgent, and passes them to `removed`.
    pub(crate) fn remove_late(&mut self, now: Millis, encoding: Encoding, mut removed: impl FnMut(QueuedEvent)) {
        let is_late = |waiting: &QueuedEvent| !waiting.is_urgent() && now.since(waiting.since) >= PATIENCE_MS;
        for lane in 0..self.lanes.len() {
            while let Some(waiting) = self.lanes[lane].pop_front_if(|first| is_late(first)) {
                self.count_removed(&waiting, encoding);
                removed(waiting);
            }
        }
    }

    /// Replaces low and medium events by newer ones of their key, and passes the older ones to `removed`.
    pub(crate) fn conflate(&mut self, encoding: Encoding, mut removed: impl FnMut(QueuedEvent)) {
        let mut newest: HashMap<ConflationKey<'_>, (Seq, usize)> = HashMap::new();
        for (at, waiting) in self.iter().enumerate() {
            if let Some(key) = conflation_key(waiting) {
                let found = (waiting.delivery.seq, at);
                newest.entry(key).and_modify(|known| *known = (*known).max(found)).or_insert(found);
            }
        }
        // For each event how many others it replaces; `None` if another one replaces it.
        let mut replaces = vec![Some(0); self.len];
        for (at, waiting) in self.iter().enumerate() {
            let replacement = conflation_key(waiting).and_then(|key| newest.get(&key)).map_or(at, |(_, at)| *at);
            if replacement != at {
                replaces[replacement] = replaces[replacement].map(|count| count + 1 + waiting.conflated);
                replaces[at] = None;
            }
        }
        let (mut len, mut bytes, mut replaces) = (self.len, self.bytes, replaces.into_iter());
        for lane in &mut self.lanes {
            lane.retain_mut(|waiting| {
                let Some(Some(count)) = replaces.next() else {
                    len -= 1;
                    bytes -= waiting.object(encoding).len();
                    removed(waiting.clone());
                    return false;
                };
                waiting.conflated += count;
                true
            });
        }
        (self.len, self.bytes) = (len, bytes);
    }

    /// All waiting events.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &QueuedEvent> {
        self.lanes.iter().flatten()
    }

    fn count_removed(&mut self, waiting: &QueuedEvent, encoding: Encoding) {
        self.len -= 1;
        self.urgent -= u32::from(waiting.is_urgent());
        self.bytes -= waiting.object(encoding).len();
        // Frees the memory of lanes that were long.
        if self.len == 0 {
            for lane in self.lanes.iter_mut().filter(|lane| lane.capacity() > 16) {
                lane.shrink_to(4);
            }
        }
    }
}

/// The conflation key of an event; `None` for events that are never conflated: alerts, those of high priority, urgent
/// ones, and those that are not the state of something.
fn conflation_key(waiting: &QueuedEvent) -> Option<ConflationKey<'_>> {
    let event = &waiting.delivery.event;
    let is_state = event.symbol.is_some() || matches!(event.kind, Kind::Market | Kind::Health);
    let replaceable =
        event.priority <= Priority::Medium && is_state && !matches!(event.kind, Kind::Alert | Kind::Backtest);
    (replaceable && !waiting.alert && !waiting.delivery.goes_first).then(|| ConflationKey {
        kind: &event.kind,
        key: &event.key,
        pattern: event.pattern.as_ref(),
        tier: event.tier,
    })
}
