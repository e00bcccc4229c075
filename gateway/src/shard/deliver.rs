//! Puts new events into the outboxes of the sessions that they are for, and flushes the outboxes that are due.

use std::cmp::Reverse;
use std::sync::Arc;

use tickwire_core::event::Kind;
use tickwire_core::ids::Millis;

use super::Shard;
use crate::delivery::Delivery;
use crate::index::Subscriber;
use crate::outbox::{OutboxLoad, Target};
use crate::shard::session::SessionStage;
use crate::socket::Socket;
use crate::traced::DeliveryTrace;

impl<S: Socket> Shard<S> {
    /// Puts an event into the outboxes of the sessions that it is for.
    pub(super) fn deliver(&mut self, now: Millis, delivery: &Arc<Delivery>) {
        self.stats.received(delivery.event.priority);
        let may_come_again = self.may_come_again(delivery);
        let Self { index, sessions, touched, heavy, limits, .. } = self;
        let begun = delivery.trace().map(|_| DeliveryTrace::now());
        let mut matched = 0;
        index.matching(&delivery.event, |subscriber| {
            matched += 1;
            let Some(session) =
                sessions.get_mut(subscriber.session).filter(|session| session.stage == SessionStage::Open)
            else {
                return;
            };
            let Subscriber { subscription, window_ms, alert, .. } = *subscriber;
            let target = Target { subscription, window_ms, alert };
            let encoding = session.socket.encoding();
            if session.is_already_covered(delivery) {
                return;
            }
            if may_come_again {
                session.note_alert(delivery.seq);
            }
            if session.outbox.push(now, delivery, target, encoding, limits) == OutboxLoad::Heavy {
                heavy.push(subscriber.session);
            }
            if !std::mem::replace(&mut session.touched, true) {
                touched.push(subscriber.session);
            }
        });
        self.stats.searched(matched > 0, self.index.take_time());
        if let (Some(trace), Some(begun)) = (delivery.trace(), begun) {
            trace.searched(begun, self.number, matched);
        }
        // A session with several matching subscriptions is listed several times.
        let mut heavy = std::mem::take(&mut self.heavy);
        heavy.sort_unstable();
        heavy.dedup();
        self.sort_by_weight(&mut heavy);
        for number in heavy {
            self.shed_load(now, number);
        }
    }

    /// Whether an event is an alert that comes again until it is acknowledged.
    pub(super) fn may_come_again(&self, delivery: &Delivery) -> bool {
        delivery.event.kind == Kind::Alert && !self.settings.config.again_window.is_zero()
    }

    pub(super) fn flush_touched(&mut self, now: Millis) {
        let mut touched = std::mem::take(&mut self.touched);
        self.sort_by_weight(&mut touched);
        for number in touched.drain(..) {
            let Some(session) = self.sessions.get_mut(number) else { continue };
            session.touched = false;
            match session.outbox.due() {
                Some(due) if due <= now => self.flush(now, number),
                Some(due) => self.flush_later(number, due),
                None => {}
            }
        }
        // The buffer is reused.
        self.touched = touched;
    }

    /// Puts sessions with more weight first.
    pub(super) fn sort_by_weight(&self, numbers: &mut [u64]) {
        if self.weighted > 0 {
            let weight = |number: &u64| self.sessions.get(*number).map_or(0, |session| session.weight);
            numbers.sort_by_key(|number| Reverse(weight(number)));
        }
    }
}
