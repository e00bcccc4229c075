//! Who is a member: what a coordinator makes of the beats it hears. Pure; beats and the time come in, views go out.
//!
//! * Who beats is in. A node that says goodbye is out at once, one that is silent for the timeout a little later.
//! * Under one name, the life that was first heard of later counts.
//! * Silence is measured from [`Roster::restart_silence`] at the earliest: absence means nothing while nobody could
//!   have been heard.
//! * Within a cool-down, silence takes at most half of the members of a role, but always one: if more fall silent at
//!   once, it is more likely that we are deaf.

use std::collections::BTreeMap;
use tickwire_core::ids::{Millis, NodeId, NodeRef};
use tickwire_core::ring::{Member, Role, View};

/// What was heard of one life of one node.
#[derive(Debug, Clone)]
struct Heard {
    member: Member,
    first: Millis,
    last: Millis,
    gone: bool,
}

/// What silence has taken of a role since the cool-down began.
#[derive(Debug, Clone, Copy)]
struct Losses {
    since: Millis,
    allowed: usize,
}

/// All nodes heard of, and since when.
#[derive(Debug)]
pub struct Roster {
    timeout: u64,
    heard: BTreeMap<NodeRef, Heard>,
    listening_since: Millis,
    losses: BTreeMap<Role, Losses>,
}

impl Roster {
    /// Nobody was heard of. `timeout`, in milliseconds, is how long a member may be silent.
    pub fn new(now: Millis, timeout: u64) -> Self {
        Self { timeout, heard: BTreeMap::new(), listening_since: now, losses: BTreeMap::new() }
    }

    /// A node says that it lives. Returns whether that is news.
    pub fn beat(&mut self, now: Millis, member: Member) -> bool {
        let Some(heard) = self.heard.get_mut(&member.node) else {
            let node = member.node.clone();
            let heard = Heard { member, first: now, last: now, gone: false };
            self.heard.insert(node, heard);
            return true;
        };
        heard.last = now;
        let news = !heard.gone && heard.member != member;
        heard.member = member;
        news
    }

    /// A node says that it ends.
    pub fn goodbye(&mut self, now: Millis, member: &Member) {
        self.beat(now, member.clone());
        if let Some(heard) = self.heard.get_mut(&member.node) {
            heard.gone = true;
        }
    }

    /// When `node` was last heard.
    pub fn last_heard(&self, node: &NodeRef) -> Option<Millis> {
        self.heard.get(node).map(|heard| heard.last)
    }

    /// From now on silence counts, whatever was heard or not heard before.
    pub fn restart_silence(&mut self, now: Millis) {
        self.listening_since = now;
    }

    /// The view that follows `current`; `None` if nothing changes.
    pub fn next_view(&mut self, current: &View, now: Millis) -> Option<View> {
        let mut members = self.present(now);
        let mut silent: Vec<&Member> = Vec::new();
        for member in &current.members {
            let replaced = members.contains_key(&member.node.id);
            let gone = self.heard.get(&member.node).is_some_and(|heard| heard.gone);
            if replaced || gone {
                continue;
            }
            if self.is_silent(&member.node, now) {
                silent.push(member);
            } else {
                // A new coordinator has not had the time to hear it.
                members.insert(member.node.id.clone(), member.clone());
            }
        }
        // The longest silent go first.
        silent.sort_by_key(|member| self.last_heard(&member.node));
        for member in silent {
            if !self.lose(current, member.role, now) {
                members.insert(member.node.id.clone(), member.clone());
            }
        }
        self.forget(now);
        let members: Vec<Member> = members.into_values().collect();
        (members != current.members).then(|| View { version: current.version + 1, members })
    }

    /// The life that counts of each name that is heard, unless it said goodbye.
    fn present(&self, now: Millis) -> BTreeMap<NodeId, Member> {
        let mut newest: BTreeMap<&NodeId, &Heard> = BTreeMap::new();
        for (node, heard) in &self.heard {
            if heard.gone || self.is_silent(node, now) {
                continue;
            }
            let best = newest.entry(&node.id).or_insert(heard);
            if (best.first, best.member.node.nonce) < (heard.first, node.nonce) {
                *best = heard;
            }
        }
        let member = |(id, heard): (&NodeId, &Heard)| (id.clone(), heard.member.clone());
        newest.into_iter().map(member).collect()
    }

    fn is_silent(&self, node: &NodeRef, now: Millis) -> bool {
        let heard = self.last_heard(node).unwrap_or_default();
        now.since(heard.max(self.listening_since)) > self.timeout
    }

    /// Whether one more member of `role` may be lost to silence now.
    fn lose(&mut self, current: &View, role: Role, now: Millis) -> bool {
        let cool_down = 2 * self.timeout;
        let fresh = || {
            let members = current.members.iter().filter(|member| member.role == role).count();
            Losses { since: now, allowed: (members / 2).max(1) }
        };
        let losses = self.losses.entry(role).or_insert_with(fresh);
        if now.since(losses.since) > cool_down {
            *losses = fresh();
        }
        let may = losses.allowed > 0;
        losses.allowed = losses.allowed.saturating_sub(1);
        may
    }

    /// Drops lives that were silent for so long that they can be in no view that we go on from.
    fn forget(&mut self, now: Millis) {
        let limit = 10 * self.timeout;
        self.heard.retain(|_, heard| now.since(heard.last) <= limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tickwire_core::ids::Nonce;

    const TIMEOUT: u64 = 3_000;

    fn member(name: &str, nonce: u64) -> Member {
        Member {
            node: NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) },
            role: if name.starts_with('r') { Role::Router } else { Role::Gateway },
            weight: 1,
            draining: false,
        }
    }

    fn names(view: &View) -> Vec<&str> {
        view.members.iter().map(|member| member.node.id.as_str()).collect()
    }

    fn step(roster: &mut Roster, view: &mut View, now: u64) {
        if let Some(next) = roster.next_view(view, Millis(now)) {
            assert_eq!(next.version, view.version + 1);
            *view = next;
        }
    }

    #[test]
    fn who_beats_is_in_and_who_drains_stays() {
        let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
        assert!(roster.beat(Millis(10), member("r2", 1)));
        assert!(roster.beat(Millis(10), member("g1", 1)));
        assert!(!roster.beat(Millis(20), member("g1", 1)));
        step(&mut roster, &mut view, 20);
        assert_eq!((view.version, names(&view)), (1, vec!["g1", "r2"]));
        assert_eq!(roster.next_view(&view, Millis(30)), None);
        let draining = Member { draining: true, ..member("g1", 1) };
        assert!(roster.beat(Millis(30), draining));
        step(&mut roster, &mut view, 30);
        assert_eq!((view.version, view.members[0].draining), (2, true));
        roster.goodbye(Millis(40), &member("g1", 1));
        roster.beat(Millis(41), member("g1", 1));
        step(&mut roster, &mut view, 41);
        assert_eq!(names(&view), ["r2"]);
    }

    #[test]
    fn the_later_life_of_a_name_counts() {
        let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
        roster.beat(Millis(0), member("g1", 9));
        step(&mut roster, &mut view, 0);
        roster.beat(Millis(100), member("g1", 2));
        roster.beat(Millis(110), member("g1", 9));
        step(&mut roster, &mut view, 110);
        assert_eq!(view.members, [member("g1", 2)]);
        roster.goodbye(Millis(120), &member("g1", 9));
        assert_eq!(roster.next_view(&view, Millis(120)), None);
    }

    #[test]
    fn a_new_coordinator_drops_nobody_before_one_timeout() {
        let mut view = View { version: 7, members: vec![member("g1", 1), member("r1", 1)] };
        let mut roster = Roster::new(Millis(0), TIMEOUT);
        roster.restart_silence(Millis(50_000));
        roster.beat(Millis(50_000), member("r1", 1));
        assert_eq!(roster.next_view(&view, Millis(50_000 + TIMEOUT)), None);
        roster.beat(Millis(53_000), member("r1", 1));
        step(&mut roster, &mut view, 50_001 + TIMEOUT);
        assert_eq!((view.version, names(&view)), (8, vec!["r1"]));
    }

    #[test]
    fn silence_takes_half_at_most_before_the_cool_down() {
        let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
        for name in ["g1", "g2", "g3", "g4", "g5", "r1"] {
            roster.beat(Millis(0), member(name, 1));
        }
        step(&mut roster, &mut view, 0);
        roster.beat(Millis(4_000), member("g5", 1));
        for now in [4_000, 4_250, 6_000] {
            roster.beat(Millis(now), member("g5", 1));
            step(&mut roster, &mut view, now);
            assert_eq!(names(&view), ["g3", "g4", "g5"], "at {now}");
        }
        roster.beat(Millis(10_001), member("g5", 1));
        step(&mut roster, &mut view, 10_001);
        assert_eq!(names(&view), ["g4", "g5"]);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Beat(u8, bool),
        Goodbye(u8),
        Restart(u8),
        Pass(u16),
        Deaf,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0..8u8, any::<bool>()).prop_map(|(node, draining)| Act::Beat(node, draining)),
            1 => (0..8u8).prop_map(Act::Goodbye),
            1 => (0..8u8).prop_map(Act::Restart),
            4 => (0..2_000u16).prop_map(Act::Pass),
            1 => Just(Act::Deaf),
        ]
    }

    proptest! {
        /// Whatever happens, views are sorted, hold every node that was just heard, never lose more than half of a
        /// role to silence at once, and end up with exactly those who beat.
        #[test]
        fn views_follow_the_rules(acts in prop::collection::vec(act(), 1..120)) {
            let (mut now, mut nonces) = (0, [1u64; 8]);
            let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
            let name = |node: u8| format!("{}{node}", if node < 4 { "r" } else { "g" });
            let mut gone = std::collections::BTreeSet::new();
            for act in acts {
                let mut beaten = None;
                match act {
                    Act::Beat(node, draining) => {
                        let member = Member { draining, ..member(&name(node), nonces[usize::from(node)]) };
                        roster.beat(Millis(now), member.clone());
                        beaten = Some(member);
                    }
                    Act::Goodbye(node) => {
                        let member = member(&name(node), nonces[usize::from(node)]);
                        gone.insert(member.node.clone());
                        roster.goodbye(Millis(now), &member);
                    }
                    Act::Restart(node) => nonces[usize::from(node)] += 1,
                    Act::Pass(time) => now += u64::from(time),
                    Act::Deaf => roster.restart_silence(Millis(now)),
                }
                let before = view.clone();
                step(&mut roster, &mut view, now);
                prop_assert!(view.members.is_sorted_by(|a, b| a.node.id < b.node.id));
                if let Some(member) = beaten && !gone.contains(&member.node) {
                    prop_assert!(view.members.contains(&member));
                }
                for role in [Role::Router, Role::Gateway] {
                    let size = before.members.iter().filter(|member| member.role == role).count();
                    let silent = before.members.iter().filter(|member| {
                        member.role == role
                            && !gone.contains(&member.node)
                            && view.members.iter().all(|other| other.node.id != member.node.id)
                    });
                    let count = silent.count();
                    prop_assert!(count <= (size / 2).max(1));
                }
            }
            for _ in 0..40 {
                now += TIMEOUT / 2;
                roster.beat(Millis(now), member("g9", 1));
                step(&mut roster, &mut view, now);
            }
            prop_assert_eq!(view.members, vec![member("g9", 1)]);
        }
    }
}
