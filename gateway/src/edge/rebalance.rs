//! Rebalance: when a gateway joins, the sessions whose home it has become are sent away, a few at a time. Pure, but for
//! the edge's method that passes on what is decided: the clock is passed in.
//!
//! All of them are sent that were placed without the new gateway, and so it gets an even part of every other one. If each
//! kept a few more than its share, the first of many that are restarted one after the other would keep them at each
//! restart, and the last would stay far below its share.
//!
//! Sessions that arrived later stay where they are, since the load balancer could already send them to the new gateway.
//!
//! A gateway has to be a member for a while before sessions are sent to it, so that one that joins and leaves at once
//! moves no session. Each waits for itself: one that comes and goes again and again does not keep sessions from others.
//!
//! All others send at the same time, and what a new gateway does not admit goes to another one and stays there. So
//! together they send no more than it takes beside the clients that come anyway.

use std::collections::{BTreeSet, VecDeque};

use tickwire_core::ids::{Millis, NodeRef, UserId};
use tickwire_core::placement::{Role, View};

use super::Edge;
use crate::messages::{FromEdge, SessionId};
use crate::metrics;

/// How often sessions are sent away, in milliseconds.
const TURN_MS: u64 = 1_000;

/// At least this many sessions are sent away in a turn, if the gateways that have joined admit them.
const LEAST: usize = 10;

/// All gateways together send one that has joined its admission rate divided by this in a turn.
const ADMISSION_PART: usize = 2;

/// A session that arrives so soon after a join was placed without the new gateway: its client had asked for its home
/// before. It is a few round trips of a slow network.
const SOON_MS: u64 = 2_000;

/// The state of a rebalance.
#[derive(Debug)]
pub(super) struct Rebalance {
    /// The percentage of the sessions that leave in a turn; 0 switches rebalancing off.
    rate: usize,
    cooldown: u64,
    /// How many connections a gateway admits in a second; 0 means no limit. The others are taken to have the same.
    admission_rate: usize,
    /// The gateways of the last view with this one before the present view. Empty before the first.
    known: BTreeSet<NodeRef>,
    /// Gateways that have joined, in this order, and were not sent all their sessions yet.
    joined: Vec<Join>,
    /// No turn comes before this.
    rests_until: Millis,
    /// How many of `joined` are sent sessions now, and the sessions that leave.
    leaving: Option<(usize, VecDeque<SessionId>)>,
}

/// A gateway that has joined.
#[derive(Debug)]
struct Join {
    node: NodeRef,
    at: Millis,
}

/// A session that could be sent away.
#[derive(Debug)]
struct Placed<'a> {
    session: SessionId,
    user: &'a UserId,
    /// When it arrived here.
    at: Millis,
    /// Whether it was sent away before, and its client has not left yet.
    is_sent_away: bool,
}

impl Edge {
    /// Sends sessions to gateways that have joined.
    pub(super) fn send_away(&mut self, now: Millis) {
        let placed = self.registrations.iter().map(|(session, known)| Placed {
            session: *session,
            user: &known.user,
            at: known.at,
            is_sent_away: known.is_sent_away,
        });
        let mut away = self.rebalance.turn(now, self.log.view(), placed);
        // Some have left by themselves since the rebalance began.
        away.retain(|session| {
            let known = self.registrations.get_mut(session);
            known.is_some_and(|known| !std::mem::replace(&mut known.is_sent_away, true))
        });
        if away.is_empty() {
            return;
        }
        metrics::REBALANCED_SESSIONS.increment(away.len() as u64);
        for (number, shard) in (0..).zip(&mut self.shards) {
            let mine: Vec<u64> = away.iter().filter(|id| id.shard == number).map(|id| id.number).collect();
            if !mine.is_empty() {
                shard.send(FromEdge::SendAway(mine));
            }
        }
    }
}

impl Rebalance {
    /// No rebalance runs. `cooldown` is how long a gateway must be a member before sessions are sent to it, in
    /// milliseconds, and `admission_rate` how many connections it admits in a second.
    pub(super) fn new(rate: u32, cooldown: u64, admission_rate: u32) -> Self {
        Self {
            rate: rate as usize,
            cooldown,
            admission_rate: admission_rate as usize,
            known: BTreeSet::new(),
            joined: Vec::new(),
            rests_until: Millis(0),
            leaving: None,
        }
    }

    /// The view has changed. A gateway that is new in the view itself sends nobody away.
    pub(super) fn take_view(&mut self, now: Millis, me: &NodeRef, before: &View, after: &View) {
        let (before, after) = (gateways(before), gateways(after));
        let is_same = before == after;
        if before.contains(me) {
            self.known = before;
        }
        if self.rate == 0 || is_same || self.known.is_empty() {
            return;
        }
        self.joined.retain(|join| after.contains(&join.node));
        // This one may have been cut off from NATS, and be back with its sessions.
        if after.contains(me) {
            let new = after.difference(&self.known);
            self.joined.extend(new.map(|node| Join { node: node.clone(), at: now }));
        }
        self.leaving = None;
    }

    /// When [`Self::turn`] must be called next.
    pub(super) fn next_turn(&self) -> Option<Millis> {
        self.joined.first().map(|join| join.at.plus(self.cooldown).max(self.rests_until))
    }

    /// The sessions that must leave now, out of all `sessions`.
    fn turn<'a>(
        &mut self,
        now: Millis,
        view: &View,
        sessions: impl ExactSizeIterator<Item = Placed<'a>>,
    ) -> Vec<SessionId> {
        if self.next_turn().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let Self { rate, cooldown, admission_rate, joined, leaving, .. } = self;
        let part = LEAST.max(sessions.len() * *rate / 100);
        let (due, queue) = leaving.get_or_insert_with(|| {
            let due = joined.iter().take_while(|join| join.at.plus(*cooldown) <= now).count();
            let leaves = |placed: &Placed<'_>| {
                let home = view.home(placed.user);
                let is_home = |join: &Join| home == Some(&join.node) && placed.at <= join.at.plus(SOON_MS);
                !placed.is_sent_away && joined.iter().take(due).any(is_home)
            };
            (due, sessions.filter(leaves).map(|placed| placed.session).collect())
        });
        let due = *due;
        let senders = view.available(Role::Gateway).count().saturating_sub(due).max(1);
        let room = match *admission_rate {
            0 => usize::MAX,
            rate => (rate * due / (ADMISSION_PART * senders)).max(1),
        };
        let away: Vec<SessionId> = queue.drain(..part.min(room).min(queue.len())).collect();
        if away.is_empty() {
            joined.drain(..due);
            *leaving = None;
        }
        self.rests_until = now.plus(TURN_MS);
        away
    }
}

fn gateways(view: &View) -> BTreeSet<NodeRef> {
    view.available(Role::Gateway).map(|member| member.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::ops::Range;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Member;

    const COOLDOWN: u64 = 10_000;

    fn node(number: usize) -> NodeRef {
        NodeRef { id: NodeId::new(&format!("gw-{number}")).unwrap(), nonce: Nonce(1) }
    }

    fn view(numbers: impl IntoIterator<Item = usize>) -> View {
        let member = |number| Member { node: node(number), role: Role::Gateway, weight: 1, draining: false };
        View { version: 1, members: numbers.into_iter().map(member).collect(), ..View::default() }
    }

    /// The sessions of a gateway: by their numbers, the user, and when it arrived.
    type Sessions = BTreeMap<u64, (UserId, Millis)>;

    fn arrivals(numbers: Range<u64>, at: Millis) -> Sessions {
        numbers.map(|number| (number, (UserId::new(&format!("user-{number}")).unwrap(), at))).collect()
    }

    /// How many of these users have this home.
    fn at_home(sessions: &Sessions, view: &View, number: usize) -> usize {
        sessions.values().filter(|(user, _)| view.home(user) == Some(&node(number))).count()
    }

    /// Runs all turns. Returns the sessions that left in each.
    fn run(rebalance: &mut Rebalance, view: &View, sessions: &mut Sessions) -> Vec<Sessions> {
        let mut turns = Vec::new();
        while let Some(now) = rebalance.next_turn() {
            let away = turn(rebalance, now, view, sessions, &BTreeSet::new());
            turns.push(away.iter().map(|number| sessions.remove_entry(number).unwrap()).collect());
        }
        turns
    }

    /// The sessions that leave in a turn. Those in `sent` were sent away before.
    fn turn(
        rebalance: &mut Rebalance,
        now: Millis,
        view: &View,
        sessions: &Sessions,
        sent: &BTreeSet<u64>,
    ) -> BTreeSet<u64> {
        let placed = sessions.iter().map(|(&number, (user, at))| Placed {
            session: SessionId { shard: 0, number },
            user,
            at: *at,
            is_sent_away: sent.contains(&number),
        });
        let away = rebalance.turn(now, view, placed);
        assert!(rebalance.next_turn().is_none_or(|next| next > now), "what was due is done");
        away.iter().map(|id| id.number).collect()
    }

    #[test]
    fn sessions_whose_home_has_joined_leave_at_the_rate() {
        let (two, three) = (view([1, 2]), view([1, 2, 3]));
        for (count, most) in [(3_000, 60), (60, 10)] {
            let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
            let mut sessions = arrivals(0..count, Millis(0));
            let moved = at_home(&sessions, &three, 3);
            rebalance.take_view(Millis(5), &node(1), &two, &three);
            assert_eq!(rebalance.next_turn(), Some(Millis(5 + COOLDOWN)));
            let turns = run(&mut rebalance, &three, &mut sessions);
            assert!(turns.iter().all(|away| away.len() <= most && at_home(away, &three, 3) == away.len()));
            assert_eq!((turns.iter().map(BTreeMap::len).sum::<usize>(), at_home(&sessions, &three, 3)), (moved, 0));
            assert!(moved > count as usize / 4, "{moved} of {count}");
        }
    }

    #[test]
    fn sessions_that_arrived_later_than_soon_after_the_join_stay() {
        let (two, three) = (view([1, 2]), view([1, 2, 3]));
        for (at, leave) in [(0, true), (5_000, true), (5_000 + SOON_MS, true), (5_001 + SOON_MS, false)] {
            let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
            rebalance.take_view(Millis(5_000), &node(1), &two, &three);
            let mut sessions = arrivals(0..300, Millis(at));
            let moved = at_home(&sessions, &three, 3);
            run(&mut rebalance, &three, &mut sessions);
            assert_eq!(at_home(&sessions, &three, 3), if leave { 0 } else { moved }, "those that arrived at {at}");
        }
    }

    #[test]
    fn gateways_that_join_one_after_the_other_get_what_was_placed_without_them() {
        let views = [view([1]), view([1, 2]), view([1, 2, 3, 4])];
        let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
        rebalance.take_view(Millis(0), &node(1), &views[0], &views[1]);
        // The clients came when a load balancer knew two gateways already.
        let mut sessions = arrivals(0..1_000, Millis(3_500));
        let [here, second] = [1, 2].map(|number| at_home(&sessions, &views[2], number));
        rebalance.take_view(Millis(4_000), &node(1), &views[1], &views[2]);
        run(&mut rebalance, &views[2], &mut sessions);
        assert_eq!((sessions.len(), at_home(&sessions, &views[2], 2)), (here + second, second));
    }

    #[test]
    fn every_session_is_at_home_after_a_rolling_restart_of_many_gateways() {
        const GATEWAYS: usize = 12;
        let all = view(1..=GATEWAYS);
        let mut gateways: Vec<Sessions> = vec![Sessions::new(); GATEWAYS + 1];
        let connect = |gateways: &mut Vec<Sessions>, view: &View, arrived: Sessions, now: Millis| {
            for (number, (user, _)) in arrived {
                let home = (1..=GATEWAYS).find(|at| view.home(&user) == Some(&node(*at))).unwrap();
                gateways[home].insert(number, (user, now));
            }
        };
        connect(&mut gateways, &all, arrivals(0..3_000, Millis(0)), Millis(0));
        let sizes: Vec<usize> = gateways.iter().map(BTreeMap::len).collect();
        for restarted in 1..=GATEWAYS {
            let now = Millis(restarted as u64 * 100_000);
            let others = view((1..=GATEWAYS).filter(|number| *number != restarted));
            let drained = std::mem::take(&mut gateways[restarted]);
            connect(&mut gateways, &others, drained, now);
            for number in (1..=GATEWAYS).filter(|number| *number != restarted) {
                let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
                rebalance.take_view(now, &node(number), &all, &others);
                rebalance.take_view(now, &node(number), &others, &all);
                let turns = run(&mut rebalance, &all, &mut gateways[number]);
                turns.into_iter().for_each(|away| connect(&mut gateways, &all, away, now));
            }
        }
        assert_eq!(gateways.iter().map(BTreeMap::len).collect::<Vec<_>>(), sizes);
    }

    #[test]
    fn member_that_joins_and_leaves_moves_nobody_and_a_new_gateway_sends_nobody_away() {
        let (one, two) = (view([1]), view([1, 3]));
        let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
        rebalance.take_view(Millis(0), &node(1), &one, &two);
        rebalance.take_view(Millis(4_000), &node(1), &two, &one);
        assert_eq!(rebalance.next_turn(), None);
        rebalance.take_view(Millis(8_000), &node(1), &one, &two);
        assert_eq!(rebalance.next_turn(), Some(Millis(8_000 + COOLDOWN)));
        let mut newcomer = Rebalance::new(2, COOLDOWN, 1_000);
        newcomer.take_view(Millis(0), &node(3), &one, &two);
        let mut off = Rebalance::new(0, COOLDOWN, 1_000);
        off.take_view(Millis(0), &node(1), &one, &two);
        assert_eq!((newcomer.next_turn(), off.next_turn()), (None, None));
    }

    #[test]
    fn all_gateways_together_send_no_more_than_half_of_what_those_that_join_admit() {
        let all = view(1..=20);
        for (joining, admission_rate, most) in [(1, 1_000, 26), (2, 1_000, 55), (1, 20, 1), (1, 0, 60)] {
            let mut rebalance = Rebalance::new(2, COOLDOWN, admission_rate);
            let mut sessions = arrivals(0..3_000, Millis(0));
            let moved: usize = (21 - joining..=20).map(|number| at_home(&sessions, &all, number)).sum();
            rebalance.take_view(Millis(0), &node(1), &view(1..=20 - joining), &all);
            let turns = run(&mut rebalance, &all, &mut sessions);
            let sizes: Vec<usize> = turns.iter().map(BTreeMap::len).collect();
            assert_eq!(
                (sizes.iter().max(), sizes.iter().sum::<usize>()),
                (Some(&most), moved),
                "{joining}, {admission_rate}"
            );
        }
    }

    #[test]
    fn member_that_comes_and_goes_does_not_keep_sessions_from_another_one() {
        let (one, two, three) = (view([1]), view([1, 2]), view([1, 2, 3]));
        let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
        let sessions = arrivals(0..1_000, Millis(0));
        rebalance.take_view(Millis(0), &node(1), &one, &two);
        for comes in (2_000..COOLDOWN).step_by(4_000) {
            rebalance.take_view(Millis(comes), &node(1), &two, &three);
            rebalance.take_view(Millis(comes + 2_000), &node(1), &three, &two);
        }
        assert_eq!(rebalance.next_turn(), Some(Millis(COOLDOWN)));
        let first = turn(&mut rebalance, Millis(COOLDOWN), &two, &sessions, &BTreeSet::new());
        assert_eq!(first.len(), 20);
        // A change of the view brings no turn forward, and nobody is sent away twice.
        rebalance.take_view(Millis(COOLDOWN + 1), &node(1), &two, &three);
        assert_eq!(rebalance.next_turn(), Some(Millis(COOLDOWN + TURN_MS)));
        let second = turn(&mut rebalance, Millis(COOLDOWN + TURN_MS), &three, &sessions, &first);
        assert!(second.len() == 20 && second.is_disjoint(&first), "{second:?}");
        let is_second = |number: &u64| three.home(&sessions[number].0) == Some(&node(2));
        assert!(second.iter().all(is_second), "the third is no member for long enough yet");
    }

    #[test]
    fn gateway_that_was_cut_off_sends_sessions_to_those_that_joined_meanwhile() {
        let (before, without, after) = (view([1, 2]), view([2]), view([1, 2, 3]));
        let mut rebalance = Rebalance::new(2, COOLDOWN, 1_000);
        let mut sessions = arrivals(0..1_000, Millis(0));
        rebalance.take_view(Millis(0), &node(1), &before, &without);
        rebalance.take_view(Millis(3_000), &node(1), &without, &view([]));
        rebalance.take_view(Millis(4_000), &node(1), &view([]), &before);
        assert_eq!(rebalance.next_turn(), None, "nobody has joined");
        rebalance.take_view(Millis(4_500), &node(1), &before, &without);
        rebalance.take_view(Millis(5_000), &node(1), &without, &after);
        let [second, third] = [2, 3].map(|number| at_home(&sessions, &after, number));
        run(&mut rebalance, &after, &mut sessions);
        assert_eq!(sessions.len(), 1_000 - third);
        assert_eq!(at_home(&sessions, &after, 2), second);
    }
}
