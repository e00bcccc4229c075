//! The past, for sessions that go on after a break or want what was stored before they subscribed: they are gathered,
//! what they lack is asked of the routers, and what comes is handed to the shards in pieces.

use std::sync::Arc;

use metrics::counter;
use tickwire_core::coverage::Step;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{Millis, Seq};
use tickwire_core::replay::Purpose;
use tickwire_node::declare_counter;

use super::Edge;
use super::catch_ups::Came;
use crate::lack::Lack;
use crate::messages::{FromEdge, Past, SessionId};

impl Edge {
    pub(super) fn take_lack(&mut self, now: Millis, session: SessionId, lack: Lack) {
        // The shard learns of another life of the stream in its own turn, and asks for nothing of the former.
        if self.coverage.life().is_some_and(|life| life.incarnation == lack.incarnation) {
            self.catch_ups.add(now, session, lack, self.log.view_id());
        }
    }

    /// Where that time stands, for those sessions that asked for it; `None` if NATS did not say, which is asked again.
    pub(crate) fn take_found(&mut self, now: Millis, time: Timestamp, seq: Option<Seq>) {
        let sessions = match seq {
            Some(_) => self.searches.found(time),
            None => {
                counter!("tickwire_gateway_unanswered_searches_total").increment(1);
                self.searches.unanswered(now, time, self.connection.is_up)
            }
        };
        for session in sessions {
            if let Some(shard) = self.shards.get_mut(usize::from(session.shard)) {
                shard.say(FromEdge::Found(session.number, time, seq));
            }
        }
    }

    /// Begins gatherings that are due, and asks for what they lack.
    pub(super) fn catch_up(&mut self, now: Millis) {
        for (gathering, sessions) in self.catch_ups.begin(now, self.log.revision()) {
            counter!("tickwire_gateway_gatherings_total").increment(1);
            for (number, shard) in (0..).zip(&mut self.shards) {
                let mine = sessions.iter().filter(|session| session.shard == number).map(|session| session.number);
                shard.say(FromEdge::Gathered(gathering, mine.collect()));
            }
        }
        self.catch_ups.give_way(self.coverage.is_crowded());
        let mut asks = Vec::new();
        for (ask, sought) in self.catch_ups.asks(now) {
            let request = super::replay::request(&self.gateway, &ask, self.log.revision(), sought, Purpose::CatchUp);
            asks.push((ask, request));
        }
        for (ask, request) in asks {
            self.ask(now, &ask, request);
        }
    }

    /// Hands the shards what came of the past. Returns whether anything did.
    pub(super) fn hand_past(&mut self) -> bool {
        let came = self.catch_ups.take(self.shards.len());
        let is_any = !came.is_empty();
        for Came { gathering, steps, ends } in came {
            let events = |step: &Step<_>| if let Step::Apply { events, .. } = step { events.len() } else { 0 };
            let count: usize = steps.steps.iter().map(events).sum();
            counter!("tickwire_gateway_past_events_total").increment(count as u64);
            let past = (!steps.steps.is_empty()).then(|| Arc::new(Past { gathering, steps }));
            for shard in &mut self.shards {
                if let Some(past) = &past {
                    shard.say(FromEdge::Past(Arc::clone(past)));
                }
                if ends {
                    shard.say(FromEdge::PastEnds(gathering));
                }
            }
        }
        is_any
    }
}

pub(super) fn describe() {
    declare_counter!("tickwire_gateway_gatherings_total", "Groups of sessions that were given the past together");
    declare_counter!("tickwire_gateway_catch_up_asks_total", "Requests for replays that gatherings made");
    declare_counter!(
        "tickwire_gateway_unanswered_searches_total",
        "Searches for a time that NATS did not answer, and that are made again"
    );
    declare_counter!("tickwire_gateway_past_events_total", "Events that came for gatherings");
}
