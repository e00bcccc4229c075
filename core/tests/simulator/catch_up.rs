//! Sessions that come back: each goes on where it was, at any gateway, and is given what it lacks by replays.

use std::sync::Arc;

use tickwire_core::coverage::{Coverage, Limits, Step};
use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Millis, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::position::Position;
use tickwire_core::replay::ReplayAnswer;

use crate::cluster::{Cluster, PARTITIONS};
use crate::gateway::Gateway;
use crate::session::{Promise, Session};

/// The number of an ask of a catch-up begins with its own; those of the gateway's coverage do not come up to here.
pub(crate) const ASK_BITS: u32 = 32;

/// What one session lacks.
pub(crate) struct CatchUp {
    pub(crate) session: usize,
    pub(crate) coverage: Coverage<Arc<Event>>,
    pub(crate) sought: Interest,
}

/// Begins to give a session that came back what it lacks, up to where its gateway is: in another life of the stream than
/// that of its position, what this one keeps of that, and all of this one. Returns where its new promise starts: there, or where it was, if that is further.
pub(crate) fn begin(
    now: Millis,
    limits: &Limits,
    edge: &mut Gateway,
    at: usize,
    session: &mut Session,
    filter: &Filter,
    applied: &Position,
) -> Vec<Seq> {
    let Some(mut from) = session.from.take() else { return applied.seqs.clone() };
    if from.incarnation != applied.incarnation {
        let life = edge.coverage.life().expect("what was applied is of some life");
        let kept = life.keeps_of(from.incarnation);
        let begin = |seq: &Seq| kept.map_or(life.before, |kept| kept.min(*seq));
        from = Position { incarnation: applied.incarnation, seqs: from.seqs.iter().map(begin).collect() };
    }
    edge.gatherings += 1;
    let number = edge.gatherings;
    let limits = Limits { grace: 0, replays: usize::from(PARTITIONS), ..*limits };
    let ranges = from.seqs.iter().copied().zip(applied.seqs.iter().copied());
    let mut coverage = Coverage::of_ranges(now, applied.incarnation, ranges, number << ASK_BITS, limits);
    coverage.require(edge.log.revision());
    let mut sought = Interest { view: edge.log.sent().view, ..Interest::default() };
    sought.add(filter);
    sought.strays.insert(session.user.clone());
    edge.catch_ups.insert(number, CatchUp { session: at, coverage, sought });
    session.catching = Some((number, session.past.len()));
    session.past.push(Promise::new(filter.clone(), applied.incarnation, from.seqs.clone()));
    from.seqs.iter().zip(&applied.seqs).map(|(from, applied)| *from.max(applied)).collect()
}

impl Cluster {
    /// A session goes on, elsewhere or where it was.
    pub(crate) fn resume(&mut self, pick: u8, gateway: usize) {
        let resumable = |session: &Session| session.open || session.left.is_some();
        let known: Vec<usize> = (0..self.sessions.len()).filter(|at| resumable(&self.sessions[*at])).collect();
        if known.is_empty() {
            return;
        }
        let at = known[usize::from(pick) % known.len()];
        if self.sessions[at].open {
            self.end_session(at);
        }
        if let Some((from, filter)) = self.sessions[at].left.take() {
            self.connect(gateway, self.sessions[at].user.clone(), filter, Some(from));
        }
    }

    /// Asks for what sessions lack, and gives them what came.
    pub(crate) fn catch_up(&mut self, number: usize) {
        let (mut asks, mut came) = (Vec::new(), Vec::new());
        for (gathering, CatchUp { coverage, sought, .. }) in &mut self.gateways[number].catch_ups {
            let mut steps = Vec::new();
            coverage.expire(self.now, &mut steps);
            asks.extend(coverage.asks(self.now, Revision(0), &mut steps).into_iter().map(|ask| (ask, sought.clone())));
            came.push((*gathering, steps));
        }
        for (ask, sought) in asks {
            self.send_ask(number, ask, &sought);
        }
        for (gathering, steps) in came {
            self.give_past(number, gathering, steps);
        }
    }

    /// A message of an answer to a catch-up's ask has come.
    pub(crate) fn answered_past(&mut self, number: usize, ask: u64, answer: ReplayAnswer<Arc<Event>>) {
        let gathering = ask >> ASK_BITS;
        if let Some(CatchUp { coverage, .. }) = self.gateways[number].catch_ups.get_mut(&gathering) {
            let mut steps = Vec::new();
            coverage.answer(self.now, ask, answer, &mut steps);
            self.give_past(number, gathering, steps);
        }
    }

    fn give_past(&mut self, number: usize, gathering: u64, steps: Vec<Step<Arc<Event>>>) {
        let catch_ups = &mut self.gateways[number].catch_ups;
        let Some(CatchUp { session, coverage, .. }) = catch_ups.get(&gathering) else { return };
        let session = &mut self.sessions[*session];
        let (_, past) = session.catching.expect("who is not there any more is given nothing");
        let promise = &mut session.past[past];
        for step in steps {
            match step {
                Step::Apply { partition, from, upto, events } => {
                    promise.give(&session.user, partition, from, upto, &events);
                }
                Step::Gap { partition, from, upto, reason } => promise.miss(partition, from, upto, reason),
                Step::Adopt { .. } | Step::Reset { .. } => panic!("where the past begins is known: {step:?}"),
            }
        }
        if coverage.gaps() == 0 {
            let reached = &session.promise.as_ref().expect("what is new waits for the past").start;
            assert_eq!(&promise.end, reached, "the past ends where what is new begins");
            session.catching = None;
            catch_ups.remove(&gathering);
        }
    }
}
