//! The past, for sessions that go on after a break or want what was stored before they subscribed: they are gathered,
//! what they lack is asked of the routers, and what comes is handed to the shards in pieces.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{counter, describe_counter};
use tickwire_core::coverage::Step;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::Seq;
use tokio::task::JoinSet;

use super::catch_ups::Came;
use super::find::find;
use super::{Edge, hand};
use crate::messages::{Lack, Past, SessionId, ToShard};

/// How many searches for a time may be under way. Each serves all who ask for the same time.
const SEARCHES: usize = 64;

/// Where a time stands, when a search has ended.
pub(super) type Found = (Timestamp, Option<Seq>);

/// Searches under way, and who waits for them. Each ends by its deadline.
#[derive(Debug, Default)]
pub(super) struct Searches {
    waiting: BTreeMap<Timestamp, Vec<SessionId>>,
    pub(super) running: JoinSet<Found>,
}

impl Edge {
    pub(super) fn take_lack(&mut self, session: SessionId, lack: Lack) {
        // The shard learns of another life of the stream in its own turn, and asks for nothing of the former.
        if self.coverage.life().is_some_and(|life| life.incarnation == lack.incarnation) {
            let (now, view) = (self.now(), self.log.sent().view);
            self.catch_ups.add(now, session, lack, view);
        }
    }

    /// Begins to search for where a time stands.
    pub(super) async fn find(&mut self, session: SessionId, time: Timestamp) {
        let Searches { waiting, running } = &mut self.searches;
        if let Some(sessions) = waiting.get_mut(&time) {
            return sessions.push(session);
        }
        if waiting.len() >= SEARCHES {
            return self.tell_found(&[session], None).await;
        }
        waiting.insert(time, vec![session]);
        let (nats, stream) = (self.nats.clone(), self.stream.clone());
        running.spawn(async move { (time, find(&nats, &stream, time).await) });
    }

    pub(super) async fn take_found(&mut self, (time, found): Found) {
        let sessions = self.searches.waiting.remove(&time).unwrap_or_default();
        self.tell_found(&sessions, found).await;
    }

    async fn tell_found(&self, sessions: &[SessionId], found: Option<Seq>) {
        for session in sessions {
            if let Some(shard) = self.shards.get(usize::from(session.shard)) {
                hand(shard, ToShard::Found(session.number, found)).await;
            }
        }
    }

    /// Begins gatherings that are due, and asks for what they lack.
    pub(super) async fn catch_up(&mut self) {
        let now = self.now();
        for (gathering, sessions) in self.catch_ups.begin(now, self.log.revision()) {
            counter!("tickwire_gateway_gatherings_total").increment(1);
            for (number, shard) in (0..).zip(&self.shards) {
                let mine = sessions.iter().filter(|session| session.shard == number).map(|session| session.number);
                hand(shard, ToShard::Gathered(gathering, mine.collect())).await;
            }
        }
        self.catch_ups.give_way(self.coverage.is_crowded());
        let mut asks = Vec::new();
        for (ask, sought) in self.catch_ups.asks(now) {
            let request = super::replay::request(&self.gateway, &ask, self.log.revision(), sought);
            asks.push((ask, request));
        }
        for (ask, request) in asks {
            if self.send_ask(&ask, request).await {
                counter!("tickwire_gateway_catch_up_asks_total").increment(1);
            } else {
                self.catch_ups.unsent(self.now(), ask.number);
            }
        }
    }

    /// Hands the shards what came of the past.
    pub(super) async fn hand_past(&mut self) {
        for Came { gathering, steps, ends } in self.catch_ups.take(self.shards.len()) {
            let events = |step: &Step<_>| if let Step::Apply { events, .. } = step { events.len() } else { 0 };
            let count: usize = steps.iter().map(events).sum();
            counter!("tickwire_gateway_past_events_total").increment(count as u64);
            let past = (!steps.is_empty()).then(|| Arc::new(Past { gathering, steps }));
            for shard in &self.shards {
                if let Some(past) = &past {
                    hand(shard, ToShard::Past(Arc::clone(past))).await;
                }
                if ends {
                    hand(shard, ToShard::PastEnds(gathering)).await;
                }
            }
        }
    }
}

pub(super) fn describe() {
    describe_counter!("tickwire_gateway_gatherings_total", "Groups of sessions that were given the past together");
    describe_counter!("tickwire_gateway_catch_up_asks_total", "Requests for replays that gatherings made");
    describe_counter!("tickwire_gateway_past_events_total", "Events that came for gatherings");
}
