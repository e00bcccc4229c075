//! Rebalance: when a gateway joins, the sessions whose home it has become are sent away, a few at a time. Pure: the clock
//! is passed in.
//!
//! All of them are sent that were placed without the new gateway, and so it gets an even part of every other one. If each
//! kept a few more than its share, the first of many that are restarted one after the other would keep them at each
//! restart, and the last would stay far below its share.
//!
//! Sessions that arrived later stay where they are, since the load balancer could already send them to the new gateway.
//! When the view changes again, the wait starts again, so that a member that joins and leaves at once moves no session.

use std::collections::{BTreeSet, VecDeque};

use tickwire_core::ids::{Millis, NodeRef, UserId};
use tickwire_core::placement::{Role, View};

use crate::messages::SessionId;

/// How often sessions are sent away, in milliseconds.
const TURN_MS: u64 = 1_000;

/// At least this many sessions are sent away in a turn.
const LEAST: usize = 10;

/// A session that arrives so soon after a join was placed without the new gateway: its client had asked for its home
/// before. It is a few round trips of a slow network.
const SOON_MS: u64 = 2_000;

/// The state of a rebalance.
#[derive(Debug)]
pub(super) struct Rebalance {
    /// The percentage of the sessions that leave in a turn; 0 switches rebalancing off.
    rate: usize,
    cooldown: u64,
    /// Gateways that have joined since the last rebalance.
    joined: Vec<Join>,
    /// When the next turn is due.
    at: Option<Millis>,
    /// After the first turn: the sessions that leave.
    leaving: Option<VecDeque<SessionId>>,
}

/// A gateway that has joined.
#[derive(Debug)]
struct Join {
    node: NodeRef,
    at: Millis,
}

/// A session that could be sent away.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub(super) session: SessionId,
    pub(super) user: &'a UserId,
    /// When it arrived here.
    pub(super) at: Millis,
}

impl Rebalance {
    /// No rebalance runs. `cooldown` is how long the members must stay the same before it begins, in milliseconds.
    pub(super) fn new(rate: u32, cooldown: u64) -> Self {
        Self { rate: rate as usize, cooldown, joined: Vec::new(), at: None, leaving: None }
    }

    /// The view has changed. A gateway that is new in the view itself sends nobody away.
    pub(super) fn take_view(&mut self, now: Millis, me: &NodeRef, before: &View, after: &View) {
        let (before, after) = (gateways(before), gateways(after));
        if self.rate == 0 || before == after || !before.contains(me) {
            return;
        }
        self.joined.retain(|join| after.contains(&join.node));
        self.joined.extend(after.difference(&before).map(|node| Join { node: node.clone(), at: now }));
        self.leaving = None;
        self.at = (!self.joined.is_empty()).then(|| now.plus(self.cooldown));
    }

    /// When [`Self::turn`] must be called next.
    pub(super) fn next_turn(&self) -> Option<Millis> {
        self.at
    }

    /// The sessions that must leave now, out of all `sessions`.
    pub(super) fn turn<'a>(
        &mut self,
        now: Millis,
        view: &View,
        sessions: impl ExactSizeIterator<Item = Placed<'a>>,
    ) -> Vec<SessionId> {
        if self.at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let most = LEAST.max(sessions.len() * self.rate / 100);
        let Self { joined, leaving, .. } = self;
        let queue = leaving.get_or_insert_with(|| {
            let leaves = |placed: &Placed<'_>| {
                let home = view.home(placed.user);
                joined.iter().any(|join| home == Some(&join.node) && placed.at <= join.at.plus(SOON_MS))
            };
            sessions.filter(leaves).map(|placed| placed.session).collect()
        });
        let away: Vec<SessionId> = queue.drain(..most.min(queue.len())).collect();
        if away.is_empty() {
            (self.at, self.leaving) = (None, None);
            self.joined.clear();
        } else {
            self.at = Some(now.plus(TURN_MS));
        }
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
            let here: Vec<_> = sessions.iter().map(|(&number, (user, at))| (number, user.clone(), *at)).collect();
            let id = |number| SessionId { shard: 0, number };
            let placed = here.iter().map(|(number, user, at)| Placed { session: id(*number), user, at: *at });
            let away = rebalance.turn(now, view, placed);
            assert!(rebalance.next_turn().is_none_or(|next| next > now), "what was due is done");
            turns.push(away.iter().map(|id| sessions.remove_entry(&id.number).unwrap()).collect());
        }
        turns
    }

    #[test]
    fn sessions_whose_home_has_joined_leave_at_the_rate() {
        let (two, three) = (view([1, 2]), view([1, 2, 3]));
        for (count, most) in [(3_000, 60), (60, 10)] {
            let mut rebalance = Rebalance::new(2, COOLDOWN);
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
            let mut rebalance = Rebalance::new(2, COOLDOWN);
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
        let mut rebalance = Rebalance::new(2, COOLDOWN);
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
                let mut rebalance = Rebalance::new(2, COOLDOWN);
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
        let mut rebalance = Rebalance::new(2, COOLDOWN);
        rebalance.take_view(Millis(0), &node(1), &one, &two);
        rebalance.take_view(Millis(4_000), &node(1), &two, &one);
        assert_eq!(rebalance.next_turn(), None);
        rebalance.take_view(Millis(8_000), &node(1), &one, &two);
        assert_eq!(rebalance.next_turn(), Some(Millis(8_000 + COOLDOWN)));
        let mut newcomer = Rebalance::new(2, COOLDOWN);
        newcomer.take_view(Millis(0), &node(3), &one, &two);
        let mut off = Rebalance::new(0, COOLDOWN);
        off.take_view(Millis(0), &node(1), &one, &two);
        assert_eq!((newcomer.next_turn(), off.next_turn()), (None, None));
    }
}
