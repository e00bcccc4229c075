//! Which of the unacknowledged alerts of its user come again to a session, and what of them waits to be sent. Pure.
//!
//! A subscription gets every alert after a position as a new event, or by its backfill. So only alerts up to that
//! position may come again for it, and none that the session was given before, in any way. What waits here is not in
//! the outbox: the position of the session neither covers it nor waits for it.

use std::collections::VecDeque;
use std::sync::Arc;

use tickwire_core::event::Event;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::Seq;
use tickwire_core::protocol::Encoding;

use crate::delivery::Delivery;
use crate::outbox::{Frame, QueuedEvent};

/// How many of the alerts that a session was given are remembered. Alerts up to the newest forgotten one do not come
/// again.
const GIVEN: usize = 512;

/// The reminders of one session.
#[derive(Debug, Default)]
pub(crate) struct SessionReminders {
    /// The sequences of the alerts that it was given, the oldest first.
    given: VecDeque<Seq>,
    /// Nothing up to here comes again.
    floor: Seq,
    /// The subscriptions whose alerts are due and were not yet asked for.
    due: Vec<DueReminders>,
    /// Those for which a reading is under way.
    reading: Option<Vec<DueReminders>>,
    /// What waits to be sent.
    waiting: VecDeque<QueuedEvent>,
}

/// A subscription that gets alerts again.
#[derive(Debug)]
struct DueReminders {
    subscription: u32,
    /// Per partition, up to where. It gets later ones as new events, or by its backfill.
    through: Arc<[Seq]>,
}

impl SessionReminders {
    /// The session was given this alert. If it waits to come again, it does not any more.
    pub(crate) fn note_given(&mut self, seq: Seq) {
        self.waiting.retain(|waiting| waiting.delivery.seq != seq);
        if seq <= self.floor {
            return;
        }
        if let Err(at) = self.given.binary_search(&seq) {
            self.given.insert(at, seq);
        }
        if self.given.len() > GIVEN
            && let Some(oldest) = self.given.pop_front()
        {
            self.floor = oldest;
        }
    }

    /// Alerts up to these sequences are due for a subscription, which is new or was replaced.
    pub(crate) fn owe(&mut self, subscription: u32, through: &Arc<[Seq]>) {
        self.due.retain(|due| due.subscription != subscription);
        self.due.push(DueReminders { subscription, through: Arc::clone(through) });
    }

    /// Whether the alerts of the user must be read now. Then it counts as asked for.
    pub(crate) fn begin_reading(&mut self) -> bool {
        let begins = self.reading.is_none() && !self.due.is_empty();
        if begins {
            self.reading = Some(std::mem::take(&mut self.due));
        }
        begins
    }

    /// Whether a subscription waits for the reading that is under way.
    pub(crate) fn is_awaited(&self) -> bool {
        self.reading.as_ref().is_some_and(|due| !due.is_empty())
    }

    /// The reading has failed. Returns whether a subscription waited for it.
    pub(crate) fn fail(&mut self) -> bool {
        self.reading.take().is_some_and(|due| !due.is_empty())
    }

    /// The alerts were read, in order. Returns those that come again, each with the subscription that it is for first.
    /// `is_for` says whether an alert is for a subscription; all that it is asked about one alert shares the long values.
    pub(crate) fn choose<'e>(
        &mut self,
        alerts: &'e [Arc<Delivery>],
        is_for: impl Fn(u32, &'e Event, &mut LongValues<'e>) -> bool,
    ) -> Vec<(u32, Arc<Delivery>)> {
        let reading = self.reading.take().unwrap_or_default();
        let mut chosen = Vec::new();
        for alert in alerts {
            let mut long = LongValues::default();
            let is_due = |due: &&DueReminders| {
                let through = due.through.get(usize::from(alert.partition.0));
                through.is_some_and(|through| alert.seq <= *through)
                    && is_for(due.subscription, &alert.event, &mut long)
            };
            let is_new = alert.seq > self.floor && self.given.binary_search(&alert.seq).is_err();
            if is_new && let Some(due) = reading.iter().find(is_due) {
                self.note_given(alert.seq);
                chosen.push((due.subscription, Arc::clone(alert)));
            }
        }
        chosen
    }

    /// How many alerts are remembered that the session was given, and how many at most.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> (usize, usize) {
        (self.given.len(), GIVEN)
    }

    /// Adds an alert to those that wait to be sent.
    pub(crate) fn enqueue(&mut self, alert: QueuedEvent) {
        self.waiting.push_back(alert);
    }

    /// Fills the next frame; `false` if nothing waits.
    pub(crate) fn fill(&mut self, frame: &mut Frame, encoding: Encoding) -> bool {
        let waits = !self.waiting.is_empty();
        if waits {
            frame.fill_again(&mut self.waiting, encoding);
        }
        waits
    }

    /// A new epoch begins after this sequence: sequences now mean other alerts. Nothing of before comes again to this
    /// session. A reading that is under way ends for nobody.
    pub(crate) fn begin_epoch(&mut self, before: Seq) {
        self.floor = before;
        self.given.clear();
        self.due.clear();
        self.waiting.clear();
        if let Some(reading) = &mut self.reading {
            reading.clear();
        }
    }
}

#[cfg(test)]
#[path = "in_session_tests.rs"]
mod tests;
