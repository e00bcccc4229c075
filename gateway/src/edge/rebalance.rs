//! Rebalance: when a gateway joins, sessions whose home it has become are sent away, a few at a time, until this
//! gateway has at most 2 % more than its share. Pure: the clock is passed in.
//!
//! What the old gateways keep above their share, the new one lacks: one that joins three others lacks three times as
//! much, and with a tolerance of 20 % one that joins five would get nothing.
//!
//! The share is computed from the sessions that the gateway had when the new one joined: gateways with equal load have
//! equal load again when each has given the new ones their part. Sessions that arrived later do not count, since a load
//! balancer could already send them to the new gateway. They do count for those that join later still. When the view
//! changes again, the wait starts again, so that a member that joins and leaves at once moves no session.

use std::collections::{BTreeSet, VecDeque};

use tickwire_core::ids::{Millis, NodeRef, UserId};
use tickwire_core::placement::{Role, View};

use crate::messages::SessionId;

/// How often sessions are sent away, in milliseconds.
const TURN_MS: u64 = 1_000;

/// At least this many sessions are sent away in a turn.
const LEAST: usize = 10;

/// How far above its share a gateway may stay, in percent of it.
const TOLERANCE: usize = 2;

/// The state of a rebalance.
#[derive(Debug)]
pub(super) struct Rebalance {
    /// The percentage of the sessions that leave in a turn; 0 switches rebalancing off.
    rate: usize,
    cooldown: u64,
    /// Gateways that have joined since the last rebalance, in this order.
    joined: Vec<Join>,
    /// When the next turn is due.
    at: Option<Millis>,
    /// After the first turn: the sessions that may leave, and the number of sessions at which to stop.
    leaving: Option<(VecDeque<SessionId>, usize)>,
}

/// A gateway that has joined.
#[derive(Debug)]
struct Join {
    node: NodeRef,
    /// How many sessions were here then.
    sessions: usize,
    /// How many gateways there were then, with it.
    gateways: usize,
}

impl Rebalance {
    /// No rebalance runs. `cooldown` is how long the members must stay the same before it begins, in milliseconds.
    pub(super) fn new(rate: u32, cooldown: u64) -> Self {
        Self { rate: rate as usize, cooldown, joined: Vec::new(), at: None, leaving: None }
    }

    /// The view has changed, with `count` sessions here. A gateway that is new in the view itself sends nobody away.
    pub(super) fn take_view(&mut self, now: Millis, me: &NodeRef, before: &View, after: &View, count: usize) {
        let (before, after) = (gateways(before), gateways(after));
        if self.rate == 0 || before == after || !before.contains(me) {
            return;
        }
        self.joined.retain(|join| after.contains(&join.node));
        let stayed = after.intersection(&before).count();
        let joins = after.difference(&before).zip(stayed + 1..);
        self.joined.extend(joins.map(|(node, gateways)| Join { node: node.clone(), sessions: count, gateways }));
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
        count: usize,
        sessions: impl Iterator<Item = (SessionId, &'a UserId)>,
    ) -> Vec<SessionId> {
        if self.at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let Self { joined, leaving, .. } = self;
        let (queue, enough) = leaving.get_or_insert_with(|| {
            let moved =
                |user: &UserId| view.home(user).is_some_and(|home| joined.iter().any(|join| join.node == *home));
            let queue = sessions.filter(|(_, user)| moved(user)).map(|(session, _)| session).collect();
            (queue, enough(joined, count))
        });
        let most = LEAST.max(count * self.rate / 100).min(count.saturating_sub(*enough));
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

/// How many of `count` sessions stay. Each gateway that has joined gets an even part of those that were here when it
/// joined and that those before it do not get.
fn enough(joined: &[Join], count: usize) -> usize {
    let given = joined.iter().fold(0, |given, join| {
        let here = join.sessions.min(count).saturating_sub(given);
        given + here.div_ceil(join.gateways)
    });
    let counted = joined.iter().map(|join| join.sessions).max().unwrap_or(0).min(count);
    count - given + counted.saturating_sub(given) * TOLERANCE / 100
}

fn gateways(view: &View) -> BTreeSet<NodeRef> {
    view.available(Role::Gateway).map(|member| member.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Member;

    fn node(name: &str) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
    }

    fn view(names: &[&str]) -> View {
        let member = |name: &&str| Member { node: node(name), role: Role::Gateway, weight: 1, draining: false };
        View { version: 1, members: names.iter().map(member).collect(), ..View::default() }
    }

    fn registrations(count: u64) -> Vec<(SessionId, UserId)> {
        let registration = |number| (SessionId { shard: 0, number }, UserId::new(&format!("user-{number}")).unwrap());
        (0..count).map(registration).collect()
    }

    /// Runs all turns. Returns how many sessions left in each.
    fn run(rebalance: &mut Rebalance, view: &View, registrations: &mut Vec<(SessionId, UserId)>) -> Vec<usize> {
        let mut turns = Vec::new();
        while let Some(at) = rebalance.next_turn() {
            let away =
                rebalance.turn(at, view, registrations.len(), registrations.iter().map(|(id, user)| (*id, user)));
            assert!(rebalance.next_turn().is_none_or(|next| next > at), "what was due is done");
            assert!(away.iter().all(|id| {
                let (_, user) = registrations.iter().find(|(other, _)| other == id).unwrap();
                view.home(user) == Some(&node("gw-3"))
            }));
            registrations.retain(|(id, _)| !away.contains(id));
            turns.push(away.len());
        }
        turns
    }

    #[test]
    fn sessions_whose_home_moved_leave_at_the_rate_until_the_share_is_near() {
        let (two, three) = (view(&["gw-1", "gw-2"]), view(&["gw-1", "gw-2", "gw-3"]));
        let mut rebalance = Rebalance::new(2, 10_000);
        rebalance.take_view(Millis(5), &node("gw-1"), &two, &three, 3_000);
        assert_eq!(rebalance.next_turn(), Some(Millis(10_005)));
        let mut all = registrations(3_000);
        let turns = run(&mut rebalance, &three, &mut all);
        assert_eq!(all.len(), 2_040, "2 % above two thirds");
        assert!(turns.iter().all(|away| *away <= 60) && turns.len() > 10, "{turns:?}");
        let mut few = registrations(60);
        rebalance.take_view(Millis(0), &node("gw-1"), &two, &three, 60);
        assert_eq!(run(&mut rebalance, &three, &mut few).iter().max(), Some(&10));
    }

    #[test]
    fn sessions_that_arrived_after_the_join_do_not_count_for_the_share() {
        let (two, three) = (view(&["gw-1", "gw-2"]), view(&["gw-1", "gw-2", "gw-3"]));
        for (before, arrived, left) in [(0, 3000, 3000), (3000, 0, 2040), (3000, 1000, 3040), (3000, -1000, 1359)] {
            let mut rebalance = Rebalance::new(2, 10_000);
            rebalance.take_view(Millis(0), &node("gw-1"), &two, &three, before);
            let mut all = registrations((before as i64 + arrived) as u64);
            run(&mut rebalance, &three, &mut all);
            assert_eq!(all.len(), left, "{before} when it joined, and {arrived} since");
        }
    }

    #[test]
    fn gateways_that_join_one_after_the_other_get_their_parts_of_what_was_here_then() {
        let views = [view(&["gw-1"]), view(&["gw-1", "gw-2"]), view(&["gw-1", "gw-2", "gw-3", "gw-4"])];
        let mut rebalance = Rebalance::new(2, 10_000);
        // The clients came when there were two gateways already.
        rebalance.take_view(Millis(0), &node("gw-1"), &views[0], &views[1], 0);
        rebalance.take_view(Millis(4_000), &node("gw-1"), &views[1], &views[2], 1_000);
        assert_eq!(enough(&rebalance.joined, 1_000), 508, "2 % above a half, which the other old gateway also keeps");
        let joins = |counts: [usize; 2]| counts.map(|sessions| Join { node: node("gw-2"), sessions, gateways: 2 });
        assert_eq!((enough(&joins([0, 0]), 10), enough(&joins([9, 9]), 0), enough(&[], 7)), (10, 0, 7));
    }

    #[test]
    fn member_that_joins_and_leaves_moves_nobody_and_a_new_gateway_sends_nobody_away() {
        let (one, two) = (view(&["gw-1"]), view(&["gw-1", "gw-3"]));
        let mut rebalance = Rebalance::new(2, 10_000);
        rebalance.take_view(Millis(0), &node("gw-1"), &one, &two, 60);
        rebalance.take_view(Millis(4_000), &node("gw-1"), &two, &one, 60);
        assert_eq!(rebalance.next_turn(), None);
        rebalance.take_view(Millis(8_000), &node("gw-1"), &one, &two, 60);
        assert_eq!(rebalance.next_turn(), Some(Millis(18_000)));
        let mut newcomer = Rebalance::new(2, 10_000);
        newcomer.take_view(Millis(0), &node("gw-3"), &one, &two, 60);
        let mut off = Rebalance::new(0, 10_000);
        off.take_view(Millis(0), &node("gw-1"), &one, &two, 60);
        assert_eq!((newcomer.next_turn(), off.next_turn()), (None, None));
    }
}
