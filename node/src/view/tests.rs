//! The rules of a roster, case by case and as a property test.

use super::*;
use proptest::prelude::*;

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

fn departed(view: &View) -> Vec<(&str, u64)> {
    view.departed.iter().map(|node| (node.id.as_str(), node.nonce.0)).collect()
}

fn step(roster: &mut Roster, view: &mut View, now: u64) {
    if let Some(next) = roster.next_view(view, 0, Millis(now)) {
        assert_eq!(next.version, view.version + 1);
        *view = next;
    }
}

#[test]
fn node_that_beats_is_a_member_even_while_it_drains() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    assert!(roster.beat(Millis(10), member("r2", 1)).unwrap());
    assert!(roster.beat(Millis(10), member("g1", 1)).unwrap());
    assert!(!roster.beat(Millis(20), member("g1", 1)).unwrap());
    step(&mut roster, &mut view, 20);
    assert_eq!((view.version, names(&view)), (1, vec!["g1", "r2"]));
    assert_eq!(roster.next_view(&view, 0, Millis(30)), None);
    let draining = Member { draining: true, ..member("g1", 1) };
    assert!(roster.beat(Millis(30), draining).unwrap());
    step(&mut roster, &mut view, 30);
    assert_eq!((view.version, view.members[0].draining), (2, true));
    roster.goodbye(Millis(40), &member("g1", 1)).unwrap();
    roster.beat(Millis(41), member("g1", 1)).unwrap();
    step(&mut roster, &mut view, 41);
    assert_eq!(names(&view), ["r2"]);
}

#[test]
fn later_start_of_a_name_counts() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    roster.beat(Millis(0), member("g1", 9)).unwrap();
    step(&mut roster, &mut view, 0);
    roster.beat(Millis(100), member("g1", 2)).unwrap();
    roster.beat(Millis(110), member("g1", 9)).unwrap();
    step(&mut roster, &mut view, 110);
    assert_eq!(view.members, [member("g1", 2)]);
    roster.goodbye(Millis(120), &member("g1", 9)).unwrap();
    assert_eq!(roster.next_view(&view, 0, Millis(120)), None);
}

/// The drain and the goodbye may arrive together, so that no view shows the drain.
#[test]
fn view_names_who_left_by_a_goodbye_until_the_name_comes_back() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    for name in ["dies", "left", "r1", "replaced"] {
        roster.beat(Millis(0), member(name, 1)).unwrap();
    }
    step(&mut roster, &mut view, 0);
    for name in ["left", "replaced"] {
        roster.goodbye(Millis(10), &Member { draining: true, ..member(name, 1) }).unwrap();
    }
    roster.beat(Millis(10), member("replaced", 2)).unwrap();
    step(&mut roster, &mut view, 10);
    assert_eq!((names(&view), departed(&view)), (vec!["dies", "r1", "replaced"], vec![("left", 1)]));

    // Who falls silent is not named, and the others stay named.
    for name in [("r1", 1), ("replaced", 2)] {
        roster.beat(Millis(TIMEOUT + 1), member(name.0, name.1)).unwrap();
    }
    step(&mut roster, &mut view, TIMEOUT + 1);
    assert_eq!((names(&view), departed(&view)), (vec!["r1", "replaced"], vec![("left", 1)]));

    // It comes back, and falls silent.
    roster.beat(Millis(TIMEOUT + 2), member("left", 2)).unwrap();
    step(&mut roster, &mut view, TIMEOUT + 2);
    assert_eq!((names(&view), departed(&view)), (vec!["left", "r1", "replaced"], vec![]));
    for now in [2 * TIMEOUT, 3 * TIMEOUT + 3] {
        for name in [("r1", 1), ("replaced", 2)] {
            roster.beat(Millis(now), member(name.0, name.1)).unwrap();
        }
    }
    step(&mut roster, &mut view, 3 * TIMEOUT + 3);
    assert_eq!((names(&view), departed(&view)), (vec!["r1", "replaced"], vec![]));
}

#[test]
fn view_names_the_last_of_many_that_left() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    for at in 0..40 {
        let gateway = member(&format!("g{at}"), at);
        roster.beat(Millis(at), gateway.clone()).unwrap();
        step(&mut roster, &mut view, at);
        roster.goodbye(Millis(at), &gateway).unwrap();
        step(&mut roster, &mut view, at);
    }
    let last: Vec<String> = (24..40).map(|at| format!("g{at}")).collect();
    let expected: Vec<(&str, u64)> = last.iter().map(String::as_str).zip(24..40).collect();
    assert_eq!((view.members.len(), departed(&view)), (0, expected));
}

/// After a pause, this process takes the beats of two starts at once.
#[test]
fn later_start_counts_even_if_both_are_first_seen_in_one_millisecond() {
    for (earlier, later) in [(1, 9), (9, 1)] {
        let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
        roster.beat(Millis(0), member("g1", earlier)).unwrap();
        roster.beat(Millis(0), member("g1", later)).unwrap();
        step(&mut roster, &mut view, 0);
        assert_eq!(view.members, [member("g1", later)]);
    }
}

#[test]
fn goodbye_does_not_bring_back_a_dead_node_of_the_same_name() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    roster.beat(Millis(0), member("g1", 9)).unwrap();
    roster.beat(Millis(100), member("g1", 2)).unwrap();
    step(&mut roster, &mut view, 100);
    roster.goodbye(Millis(200), &member("g1", 2)).unwrap();
    step(&mut roster, &mut view, 200);
    assert_eq!(view.members, []);
    // It lives after all.
    assert_eq!(roster.beat(Millis(300), member("g1", 9)), Ok(true));
    step(&mut roster, &mut view, 300);
    assert_eq!(view.members, [member("g1", 9)]);
}

/// An old process of the name comes back only to end, or the name is held by two.
#[test]
fn goodbye_removes_no_live_node_of_the_same_name() {
    for is_known in [false, true] {
        let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
        roster.beat(Millis(0), member("g1", 9)).unwrap();
        if is_known {
            roster.beat(Millis(10), member("g1", 2)).unwrap();
            roster.beat(Millis(100), member("g1", 9)).unwrap();
        }
        roster.goodbye(Millis(200), &member("g1", 2)).unwrap();
        step(&mut roster, &mut view, 200);
        assert_eq!(view.members, [member("g1", 9)], "{is_known}");
    }
}

/// NATS may have been away when this node started, and others may still wait to reconnect.
#[test]
fn member_that_was_never_heard_has_the_time_to_reconnect() {
    let mut view = View { version: 7, members: vec![member("g1", 1), member("g2", 1)], ..View::default() };
    let mut roster = Roster::new(Millis(1_000), TIMEOUT);
    roster.beat(Millis(1_000), member("g2", 1)).unwrap();
    for now in [1_000 + TIMEOUT, 1_000 + BACKOFF.most + TIMEOUT] {
        roster.beat(Millis(now), member("g2", 1)).unwrap();
        assert_eq!(roster.next_view(&view, 0, Millis(now)), None);
    }
    step(&mut roster, &mut view, 1_001 + BACKOFF.most + TIMEOUT);
    assert_eq!(names(&view), ["g2"]);
}

#[test]
fn new_coordinator_removes_no_member_before_one_timeout() {
    let mut view = View { version: 7, members: vec![member("g1", 1), member("r1", 1)], ..View::default() };
    let mut roster = Roster::new(Millis(0), TIMEOUT);
    roster.restart_silence(Millis(50_000));
    roster.beat(Millis(50_000), member("r1", 1)).unwrap();
    assert_eq!(roster.next_view(&view, 0, Millis(50_000 + TIMEOUT)), None);
    roster.beat(Millis(53_000), member("r1", 1)).unwrap();
    step(&mut roster, &mut view, 50_001 + TIMEOUT);
    assert_eq!((view.version, names(&view)), (8, vec!["r1"]));
}

#[test]
fn silence_removes_at_most_half_within_the_cool_down() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    for name in ["g1", "g2", "g3", "g4", "g5", "r1"] {
        roster.beat(Millis(0), member(name, 1)).unwrap();
    }
    step(&mut roster, &mut view, 0);
    roster.beat(Millis(4_000), member("g5", 1)).unwrap();
    for now in [4_000, 4_250, 6_000] {
        roster.beat(Millis(now), member("g5", 1)).unwrap();
        step(&mut roster, &mut view, now);
        assert_eq!(names(&view), ["g3", "g4", "g5"], "at {now}");
    }
    roster.beat(Millis(10_001), member("g5", 1)).unwrap();
    step(&mut roster, &mut view, 10_001);
    assert_eq!(names(&view), ["g4", "g5"]);
}

#[test]
fn dead_node_does_not_return_when_silence_restarts() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    roster.beat(Millis(0), member("r1", 1)).unwrap();
    roster.beat(Millis(0), member("r2", 1)).unwrap();
    step(&mut roster, &mut view, 0);
    assert_eq!(names(&view), ["r1", "r2"]);
    roster.beat(Millis(TIMEOUT + 1), member("r1", 1)).unwrap();
    step(&mut roster, &mut view, TIMEOUT + 1);
    assert_eq!(names(&view), ["r1"]);
    // No beats arrive for a while: r1 stays, and r2 stays away.
    for now in [5_000, 6_000, 7_000, 8_000] {
        roster.restart_silence(Millis(now));
        step(&mut roster, &mut view, now);
        assert_eq!(names(&view), ["r1"], "at {now}");
    }
    roster.beat(Millis(8_500), member("r2", 1)).unwrap();
    step(&mut roster, &mut view, 8_500);
    assert_eq!(names(&view), ["r1", "r2"]);
}

#[test]
fn invalid_beat_is_refused_and_changes_nothing() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    roster.beat(Millis(0), member("r1", 1)).unwrap();
    step(&mut roster, &mut view, 0);
    for weight in [0, 101, 255] {
        let odd = roster.beat(Millis(1), Member { weight, ..member("r1", 1) });
        assert_eq!(odd, Err(BeatError::Weight(weight)));
    }
    let odd = Member { role: Role::Gateway, ..member("r1", 1) };
    assert_eq!(roster.beat(Millis(1), odd.clone()), Err(BeatError::Role { beat: "gateway", known: "router" }));
    assert_eq!(roster.goodbye(Millis(1), &odd), Err(BeatError::Role { beat: "gateway", known: "router" }));
    assert_eq!(roster.next_view(&view, 0, Millis(1)), None);
    for number in 1..MAX_NODES {
        roster.beat(Millis(2), member(&format!("g{number}"), 1)).unwrap();
    }
    assert_eq!(roster.beat(Millis(2), member("g0", 1)), Err(BeatError::TooMany));
    assert_eq!(roster.beat(Millis(3), member("r1", 1)), Ok(false));
}

#[test]
fn starts_that_somebody_invents_for_one_name_leave_room_to_other_names() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    for nonce in 1..=2 * MAX_NODES as u64 {
        assert_eq!(roster.beat(Millis(nonce), member("g1", nonce)), Ok(true));
        roster.beat(Millis(nonce), member("r1", 1)).unwrap();
    }
    assert_eq!(roster.nodes.len(), MAX_STARTS + 1);
    let now = 2 * MAX_NODES as u64;
    assert_eq!(roster.beat(Millis(now), member("g2", 1)), Ok(true));
    step(&mut roster, &mut view, now);
    assert_eq!(names(&view), ["g1", "g2", "r1"]);
    assert_eq!(view.members[0].node.nonce.0, now, "the last start counts");
}

#[test]
fn node_that_beats_long_after_a_goodbye_returns() {
    let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
    roster.beat(Millis(0), member("r1", 1)).unwrap();
    roster.goodbye(Millis(0), &member("r1", 1)).unwrap();
    for now in [1_000, 2_000, TIMEOUT] {
        assert_eq!(roster.beat(Millis(now), member("r1", 1)), Ok(false));
        step(&mut roster, &mut view, now);
        assert_eq!(names(&view), [""; 0]);
    }
    assert_eq!(roster.beat(Millis(TIMEOUT + 1), member("r1", 1)), Ok(true));
    step(&mut roster, &mut view, TIMEOUT + 1);
    assert_eq!(names(&view), ["r1"]);
}

#[test]
fn version_never_stands_for_two_views_even_after_kv_lost_writes() {
    let mut roster = Roster::new(Millis(0), TIMEOUT);
    roster.beat(Millis(0), member("r1", 1)).unwrap();
    let members = vec![member("r1", 1)];
    let next = |roster: &mut Roster, version: u64, known: u64| {
        let view = View { version, members: members.clone(), ..View::default() };
        roster.next_view(&view, known, Millis(0)).map(|next| next.version)
    };
    assert_eq!(next(&mut roster, 7, 7), None);
    assert_eq!(next(&mut roster, 7, 9), Some(10));
    assert_eq!(next(&mut roster, u64::MAX, 9), Some(10));
    assert_eq!(next(&mut roster, u64::MAX, u64::MAX), Some(1));
    assert_eq!(next(&mut roster, 7, u64::MAX), None);
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
    /// In any order of events, views are sorted, hold every node that has just sent a beat, never lose more than half
    /// of a role to silence at once, name those that a goodbye removed and no others, and in the end hold exactly the
    /// nodes that still beat.
    #[test]
    fn views_hold_live_nodes_and_lose_at_most_half_of_a_role_to_silence(acts in prop::collection::vec(act(), 1..120)) {
        let (mut now, mut nonces) = (0, [1u64; 8]);
        let (mut roster, mut view) = (Roster::new(Millis(0), TIMEOUT), View::default());
        let name = |node: u8| format!("{}{node}", if node < 4 { "r" } else { "g" });
        let mut gone = std::collections::BTreeSet::new();
        for act in acts {
            let mut beaten = None;
            match act {
                Act::Beat(node, draining) => {
                    let member = Member { draining, ..member(&name(node), nonces[usize::from(node)]) };
                    roster.beat(Millis(now), member.clone()).unwrap();
                    beaten = Some(member);
                }
                Act::Goodbye(node) => {
                    let member = member(&name(node), nonces[usize::from(node)]);
                    gone.insert(member.node.clone());
                    roster.goodbye(Millis(now), &member).unwrap();
                }
                Act::Restart(node) => nonces[usize::from(node)] += 1,
                Act::Pass(time) => now += u64::from(time),
                Act::Deaf => roster.restart_silence(Millis(now)),
            }
            let before = view.clone();
            step(&mut roster, &mut view, now);
            for member in &view.members {
                let was_there = before.members.iter().any(|other| other.node == member.node);
                let has_beaten = roster.last_beat(&member.node).is_some_and(|last| now - last.0 <= TIMEOUT);
                prop_assert!(was_there || has_beaten, "{} came back from the dead", member.node);
            }
            prop_assert!(view.members.is_sorted_by(|a, b| a.node.id < b.node.id));
            if let Some(member) = beaten && !gone.contains(&member.node) {
                prop_assert!(view.members.contains(&member));
            }
            prop_assert!(view.departed.iter().all(|node| gone.contains(node)));
            let is_absent = |member: &&Member| view.members.iter().all(|other| other.node.id != member.node.id);
            for member in before.members.iter().filter(is_absent) {
                prop_assert_eq!(view.departed.contains(&member.node), roster.said_goodbye(&member.node));
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
            roster.beat(Millis(now), member("g9", 1)).unwrap();
            step(&mut roster, &mut view, now);
        }
        prop_assert_eq!(view.members, vec![member("g9", 1)]);
    }
}
