//! The outbox of one session: what waits to be sent, when it is due, and what may be sent now. Pure: the clock is
//! passed in.
//!
//! Windows have a leading edge: a session that was sent nothing for its window gets an event at once, and a busy one
//! gets its events together at the end of the window. An urgent event, which is critical or goes before all others,
//! waits for no window, and its frame takes other waiting events along, as far as they fit. An event whose time to live
//! is over is dropped when its turn to be sent comes. `lanes` is the order of sending. `notices` are the pending
//! notices: no event is dropped without a notice, and no position covers an event that still waits, or whose notice is
//! pending.

mod frame;
mod lanes;
mod notices;

use std::sync::Arc;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, Partition, Seq};
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, Notice};

use crate::delivery::Delivery;
use crate::limits::account::Account;
use crate::limits::sliding::PerSecond;
use crate::outbox::lanes::{Lanes, lane_of};
use crate::outbox::notices::PendingNotices;

pub use crate::outbox::notices::EventOutcome;
pub use frame::{FRAME_BYTES, FRAME_EVENTS, Frame, OF_SESSION};
pub use lanes::{PATIENCE_MS, QueuedEvent};

/// The limits of an outbox. They are the same for all outboxes of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// How many bytes of events may wait.
    pub bytes: usize,
    /// How many urgent events a second wait neither for a window nor for the rate.
    pub critical: u32,
    /// Whether urgent events overtake others.
    pub lanes: bool,
    /// How long more than `bytes` may arrive before the client is closed, in milliseconds.
    pub patience: u64,
}

/// The subscription that an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number within the session.
    pub subscription: u32,
    /// How long events may wait for it, in milliseconds.
    pub window_ms: u16,
    /// Whether its events are alerts.
    pub alert: bool,
}

/// The load of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxLoad {
    /// Not more than allowed waits.
    Fine,
    /// More than allowed waits: the caller must send what it can at once, and then call [`Outbox::shed_load`].
    Heavy,
}

/// The result of [`Outbox::shed_load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedResult {
    /// The outbox is within its limits again.
    WithinLimit,
    /// It stays over its limits, or the client has been slow for too long: the client must be closed.
    OverLimit,
}

/// What waits for one session.
#[derive(Debug)]
pub struct Outbox {
    lanes: Lanes,
    notices: PendingNotices,
    last_sent: Option<Millis>,
    due: Option<Millis>,
    /// Until when the user's rate delays all events that are not exempt.
    held_until: Millis,
    /// Urgent events of the last second that were sent by their budget; `None` until the first.
    urgent: Option<Box<PerSecond>>,
    /// Since when more arrives than the client reads.
    slow_since: Option<Millis>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lanes: Lanes::default(),
            notices: PendingNotices::default(),
            last_sent: None,
            due: None,
            held_until: Millis(0),
            urgent: None,
            slow_since: None,
        }
    }

    /// Adds an event for a subscription, which may wait for its window. An event that was just added for another
    /// subscription is not added again; the smaller window counts. It becomes an alert, in the lane of its raised
    /// priority, if one of the subscriptions asks for alerts.
    pub fn push(
        &mut self,
        now: Millis,
        delivery: &Arc<Delivery>,
        target: Target,
        encoding: Encoding,
        limits: &OutboxLimits,
    ) -> OutboxLoad {
        let Target { subscription, window_ms, alert } = target;
        let lane = |as_alert| if limits.lanes { lane_of(delivery, as_alert) } else { 0 };
        let is_alert = self.lanes.last(lane(true), delivery).is_some_and(|last| last.alert);
        if !is_alert && (alert || self.lanes.last(lane(false), delivery).is_none()) {
            // As an alert it has another place, and other bytes.
            self.lanes.remove_last(lane(false), delivery, encoding);
            let delivery = Arc::clone(delivery);
            let waiting = QueuedEvent { delivery, since: now, subscription, conflated: 0, alert, exempt: false };
            self.lanes.push(lane(alert), waiting, encoding);
        }
        let exempt = delivery.is_urgent(alert) && self.lanes.urgent() <= self.budget(now, limits);
        let due = match self.last_sent {
            _ if exempt => now,
            Some(last) => now.max(last.plus(window_ms.into())).max(self.held_until),
            None => now.max(self.held_until),
        };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        if self.lanes.bytes() > limits.bytes { OutboxLoad::Heavy } else { OutboxLoad::Fine }
    }

    /// When the waiting events must be sent; `None` if nothing waits.
    #[must_use]
    pub fn due(&self) -> Option<Millis> {
        self.due
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether no event waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.len() == 0
    }

    /// How many bytes of events wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lanes.bytes()
    }

    /// Whether events or notices wait.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.lanes.len() > 0 || !self.notices.is_empty()
    }

    /// Makes room although the client does not read: first conflates, then drops events of the lowest lane. Adds these
    /// events to `dropped`.
    ///
    /// It frees an eighth more than needed, so that the very next event does not need it again.
    pub fn shed_load(
        &mut self,
        now: Millis,
        encoding: Encoding,
        limits: &OutboxLimits,
        dropped: &mut Vec<(NoticeCode, EventOutcome)>,
    ) -> ShedResult {
        let since = *self.slow_since.get_or_insert(now);
        if now.since(since) >= limits.patience {
            return ShedResult::OverLimit;
        }
        let target = limits.bytes - limits.bytes / 8;
        self.conflate(NoticeCode::SlowConsumer, encoding, dropped);
        while self.lanes.bytes() > target
            && let Some(waiting) = self.lanes.pop_lowest(encoding)
        {
            self.dropped(NoticeCode::SlowConsumer, EventOutcome::Dropped, &waiting, dropped);
        }
        if self.lanes.bytes() > limits.bytes { ShedResult::OverLimit } else { ShedResult::WithinLimit }
    }

    /// Composes the next frame: the pending notices, and the events that may be sent at `now`. The caller sends it or,
    /// if it is empty, waits until [`Self::due`].
    ///
    /// `time_of_day` is read for events with a time to live. `quota` takes an event from its subscription's quota;
    /// `false` means that the quota is used up. Urgent events are sent anyway.
    pub fn compose(
        &mut self,
        (now, time_of_day): (Millis, impl Fn() -> Timestamp),
        (account, mut quota): (&mut Account, impl FnMut(&mut Account, &QueuedEvent) -> bool),
        encoding: Encoding,
        limits: &OutboxLimits,
        frame: &mut Frame,
    ) {
        frame.clear();
        // Most sessions have no urgent event waiting, and reading the budget touches other memory.
        let mut budget = if self.lanes.urgent() > 0 { self.budget(now, limits) } else { 0 };
        let mut allowance = account.allowance(now);
        // A frame that the socket does not take is unsent, and a session with more unsent than its bound is closed.
        let most = FRAME_BYTES.min(limits.bytes);
        let (mut size, mut counted, mut exempt) = (0, 0, 0);
        while frame.events.len() < FRAME_EVENTS
            && let Some((lane, promoted)) = if allowance > 0 { self.lanes.next(now) } else { self.lanes.next_urgent() }
            && (allowance > 0 || budget > 0)
            && let Some(first) = self.lanes.front(lane)
        {
            let grown = size + first.object(encoding).len();
            if grown > most && size > 0 {
                break;
            }
            let Some(mut waiting) = self.lanes.pop(lane, encoding) else { break };
            if waiting.delivery.is_expired(&time_of_day) {
                self.dropped(NoticeCode::Expired, EventOutcome::Dropped, &waiting, &mut frame.dropped);
                continue;
            }
            let urgent = waiting.is_urgent();
            if !quota(account, &waiting) && !urgent {
                self.dropped(NoticeCode::Quota, EventOutcome::Dropped, &waiting, &mut frame.dropped);
                continue;
            }
            size = grown;
            waiting.exempt = budget > 0 && urgent;
            if urgent && !waiting.exempt && waiting.since < now {
                self.dropped(NoticeCode::CriticalBudget, EventOutcome::Delayed, &waiting, &mut frame.dropped);
            }
            if waiting.exempt {
                (budget, exempt) = (budget - 1, exempt + 1);
            } else {
                (allowance, counted) = (allowance - 1, counted + 1);
            }
            frame.promoted += u64::from(promoted);
            frame.events.push(waiting);
        }
        account.sent(now, counted);
        if exempt > 0 {
            self.urgent.get_or_insert_with(|| Box::new(PerSecond::second())).add(now, exempt);
        }
        if allowance == 0 {
            // The client reads what is sent: the rest waits for the rate.
            self.mark_recovered(frame);
            self.throttle(now, account, encoding, limits, &mut frame.dropped);
        }
        self.settle(now, limits, budget, frame);
        frame.early = self.overtakes(&frame.events);
    }

    /// The session's position: that of its shard, limited to before the first event that still waits, or whose notice
    /// is pending.
    #[must_use]
    pub fn hold_back(&self, applied: &Position) -> Position {
        let mut position = applied.clone();
        for waiting in self.lanes.iter() {
            position.lower_before(waiting.delivery.partition, waiting.delivery.seq);
        }
        self.notices.hold_back(&mut position);
        position
    }

    /// Drops all events, for a client that is closed. Their notices are among [`Self::take_notices`].
    pub fn drop_all(&mut self, code: NoticeCode) {
        for waiting in std::mem::take(&mut self.lanes).iter() {
            self.notices.count(code, EventOutcome::Dropped, waiting.subscription, &waiting.delivery);
        }
    }

    /// Removes the waiting events without a notice: the caller requests them again, or notifies of them itself.
    pub(crate) fn clear_events(&mut self) {
        self.lanes = Lanes::default();
        self.due = None;
    }

    /// Takes the pending notices, which must be sent before the connection is closed.
    pub fn take_notices(&mut self) -> Vec<(u32, Notice)> {
        self.notices.take().collect()
    }

    /// How many urgent events may be sent at `now` without waiting for a window or the rate.
    fn budget(&mut self, now: Millis, limits: &OutboxLimits) -> u32 {
        limits.critical.saturating_sub(self.urgent.as_mut().map_or(0, |sent| sent.count(now)))
    }

    /// The user's rate is used up: conflates what waits, and drops what is more than a second's worth or has waited for
    /// too long.
    fn throttle(
        &mut self,
        now: Millis,
        account: &Account,
        encoding: Encoding,
        limits: &OutboxLimits,
        dropped: &mut Vec<(NoticeCode, EventOutcome)>,
    ) {
        self.held_until = account.next_allowance(now);
        if self.lanes.len() == 0 {
            return;
        }
        self.conflate(NoticeCode::Throttled, encoding, dropped);
        let mut removed = Vec::new();
        self.lanes.remove_late(now, encoding, |waiting| removed.push(waiting));
        while (self.lanes.len() > account.rate as usize || self.lanes.bytes() > limits.bytes)
            && let Some(waiting) = self.lanes.pop_lowest(encoding)
        {
            removed.push(waiting);
        }
        for waiting in removed {
            self.dropped(NoticeCode::Throttled, EventOutcome::Dropped, &waiting, dropped);
        }
    }

    fn conflate(&mut self, code: NoticeCode, encoding: Encoding, dropped: &mut Vec<(NoticeCode, EventOutcome)>) {
        let notices = &mut self.notices;
        self.lanes.conflate(encoding, |waiting| {
            notices.count(code, EventOutcome::Conflated, waiting.subscription, &waiting.delivery);
            dropped.push((code, EventOutcome::Conflated));
        });
    }

    fn dropped(
        &mut self,
        code: NoticeCode,
        fate: EventOutcome,
        waiting: &QueuedEvent,
        dropped: &mut Vec<(NoticeCode, EventOutcome)>,
    ) {
        self.notices.count(code, fate, waiting.subscription, &waiting.delivery);
        dropped.push((code, fate));
    }

    /// Adds the pending notices to a frame that is sent now, and computes when the next one is due.
    fn settle(&mut self, now: Millis, limits: &OutboxLimits, budget: u32, frame: &mut Frame) {
        if !self.notices.is_empty() {
            frame.notices.extend(self.notices.take());
        }
        if self.lanes.bytes() <= limits.bytes / 2 {
            self.mark_recovered(frame);
        }
        if !frame.events.is_empty() {
            self.last_sent = Some(now);
        }
        self.due = match self.lanes.len() {
            0 => None,
            _ if self.lanes.urgent() > 0 && budget == 0 => {
                let budget_grows = self.urgent.as_ref().and_then(|sent| sent.next_fall()).unwrap_or(self.held_until);
                Some(now.max(self.held_until.min(budget_grows)))
            }
            _ => Some(now.max(self.held_until)),
        };
    }

    /// The client reads fast enough. If it was slow, it gets a notice.
    fn mark_recovered(&mut self, frame: &mut Frame) {
        if self.slow_since.take().is_some() {
            frame.notices.push((OF_SESSION, Notice::new(NoticeCode::Recovered)));
        }
    }

    /// Whether an event that still waits is older than one of `events` of its partition.
    fn overtakes(&self, events: &[QueuedEvent]) -> bool {
        if self.lanes.len() == 0 || events.is_empty() {
            return false;
        }
        let mut newest: Vec<(Partition, Seq)> = Vec::new();
        for QueuedEvent { delivery, .. } in events {
            match newest.iter_mut().find(|(partition, _)| *partition == delivery.partition) {
                Some((_, seq)) => *seq = (*seq).max(delivery.seq),
                None => newest.push((delivery.partition, delivery.seq)),
            }
        }
        self.lanes.iter().any(|QueuedEvent { delivery: waits, .. }| {
            newest.iter().any(|(partition, seq)| *partition == waits.partition && waits.seq < *seq)
        })
    }
}

#[cfg(test)]
mod tests;
