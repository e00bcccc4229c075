//! The decisions of a coordinator, task by task.

use super::*;
use crate::config::{Config, LoadOptions};
use tickwire_core::ids::{NodeId, Nonce};
use tickwire_core::placement::Role;

fn member(name: &str) -> Member {
    let role = if name.starts_with('r') { Role::Router } else { Role::Gateway };
    let node = NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) };
    Member { node, role, weight: 1, draining: false }
}

fn view(version: u64, names: &[&str]) -> View {
    View { version, members: names.iter().map(|name| member(name)).collect(), ..View::default() }
}

/// The same, after these nodes have left by their goodbye.
fn view_after(version: u64, names: &[&str], departed: &[&str]) -> View {
    View { departed: departed.iter().map(|name| member(name).node).collect(), ..view(version, names) }
}

fn ask(request: KvRequest) -> Option<CoordinatorTask> {
    Some(CoordinatorTask::Ask(request))
}

fn write_view(revision: u64, view: View) -> Option<CoordinatorTask> {
    ask(KvRequest::WriteView { revision, view })
}

fn renewal(revision: u64) -> Option<CoordinatorTask> {
    ask(KvRequest::WriteLease { revision, is_ours: true })
}

fn announcement(version: u64) -> Option<CoordinatorTask> {
    Some(CoordinatorTask::Announce(Announcement { version }))
}

fn refused() -> Result<u64, LeaseError> {
    Err(LeaseError::Refused { key: "a key".to_owned() })
}

fn unavailable<T>() -> Result<T, LeaseError> {
    Err(LeaseError::Unavailable { key: "a key".to_owned(), reason: "no answer".to_owned() })
}

/// A coordinator with the default configuration, and the time.
struct Fixture {
    coordinator: Coordinator,
    now: u64,
}

impl Fixture {
    fn new() -> Self {
        let config = Config::load(&LoadOptions::default()).unwrap().membership;
        Self { coordinator: Coordinator::new(member("r1").node, &config, Millis(0)), now: 0 }
    }

    fn beat(&mut self, name: &str) {
        self.hear(self.now, &[name]);
        self.coordinator.write_news(Millis(self.now));
    }

    /// Beats that arrived at this time are passed on.
    fn hear(&mut self, arrived: u64, nodes: &[&str]) {
        for name in nodes {
            let member = member(name);
            let subject = names::beat(member.role.as_str(), member.node.id.as_str());
            let payload = wire::encode(&Beat { member, goodbye: false }).unwrap();
            self.coordinator.beat(Millis(arrived), &subject, &payload);
        }
    }

    /// Somebody says goodbye for this node on the subject of another one.
    fn forge_goodbye(&mut self, name: &str, subject_of: &str) {
        let member = member(name);
        let subject = names::beat(member.role.as_str(), subject_of);
        let payload = wire::encode(&Beat { member, goodbye: true }).unwrap();
        self.coordinator.beat(Millis(self.now), &subject, &payload);
    }

    /// A round in which the lease is renewed nearly as slowly as KV may answer, and beats arrive meanwhile.
    #[track_caller]
    fn renews_slowly(&mut self, revision: u64, arrived: u64, nodes: &[&str]) {
        self.round();
        self.does(&[renewal(revision)]);
        self.now += 900;
        self.hear(arrived, nodes);
        self.answer(KvAnswer::LeaseWritten(Ok(revision + 1)));
    }

    /// The tasks, without an answer in between.
    #[track_caller]
    fn does(&mut self, expected: &[Option<CoordinatorTask>]) {
        for task in expected {
            assert_eq!(self.coordinator.next_task(), *task);
        }
    }

    fn round(&mut self) {
        self.coordinator.round(Millis(self.now));
    }

    fn answer(&mut self, answer: KvAnswer) {
        self.coordinator.take_answer(Millis(self.now), answer);
    }

    /// A round of the coordinator in which nothing has changed.
    #[track_caller]
    fn renews(&mut self, revision: u64, version: u64) {
        self.round();
        self.does(&[renewal(revision)]);
        self.answer(KvAnswer::LeaseWritten(Ok(revision + 1)));
        self.does(&[announcement(version), None]);
    }

    /// It has taken a free lease at revision 1, and has written the view of the nodes that beat at revision 2.
    fn leading(names: &[&str]) -> Self {
        let mut fixture = Self::new();
        names.iter().for_each(|name| fixture.beat(name));
        fixture.round();
        fixture.does(&[ask(KvRequest::ReadLease)]);
        let free = LeaseRead { revision: 0, record: None, is_unreadable: false, is_foreign: false };
        fixture.answer(KvAnswer::LeaseRead(Ok(free)));
        fixture.does(&[renewal(0)]);
        fixture.answer(KvAnswer::LeaseWritten(Ok(1)));
        fixture.does(&[ask(KvRequest::ReadView)]);
        fixture.answer(KvAnswer::ViewRead(Ok((0, None))));
        fixture.does(&[write_view(0, view(1, names))]);
        fixture.answer(KvAnswer::ViewWritten(Ok(2)));
        fixture.does(&[announcement(1), announcement(1), None]);
        fixture
    }
}

#[test]
fn each_beat_that_changes_the_view_writes_it() {
    let mut fixture = Fixture::leading(&["r1"]);
    fixture.beat("r1");
    fixture.does(&[None]);
    fixture.beat("g1");
    fixture.does(&[write_view(2, view(2, &["g1", "r1"]))]);
    fixture.answer(KvAnswer::ViewWritten(Ok(3)));
    fixture.does(&[announcement(2), None]);
}

#[test]
fn goodbye_on_the_subject_of_another_node_is_refused() {
    let mut fixture = Fixture::leading(&["g1", "r1"]);
    for subject_of in ["g2", "r1", "*"] {
        fixture.forge_goodbye("g1", subject_of);
        fixture.coordinator.write_news(Millis(fixture.now));
        fixture.does(&[None]);
    }
    fixture.forge_goodbye("g1", "g1");
    fixture.coordinator.write_news(Millis(fixture.now));
    fixture.does(&[write_view(2, view_after(2, &["r1"], &["g1"]))]);
}

#[test]
fn view_is_read_again_when_it_is_due_or_another_node_wrote_it() {
    let mut fixture = Fixture::leading(&["r1"]);
    for round in 1..u64::from(REVIEW) {
        fixture.now += 500;
        fixture.beat("r1");
        fixture.renews(round, 1);
    }
    fixture.now += 500;
    fixture.round();
    fixture.does(&[renewal(8)]);
    fixture.answer(KvAnswer::LeaseWritten(Ok(9)));
    fixture.does(&[ask(KvRequest::ReadView)]);
    fixture.answer(KvAnswer::ViewRead(Ok((2, Some(view(1, &["r1"]))))));
    fixture.does(&[announcement(1), None]);

    fixture.beat("g1");
    fixture.does(&[write_view(2, view(2, &["g1", "r1"]))]);
    fixture.answer(KvAnswer::ViewWritten(refused()));
    fixture.does(&[None]);
    fixture.beat("g2");
    fixture.does(&[ask(KvRequest::ReadView)]);
    fixture.answer(KvAnswer::ViewRead(Ok((10, Some(view(5, &["r1"]))))));
    fixture.does(&[write_view(10, view(6, &["g1", "g2", "r1"]))]);
}

#[test]
fn unreadable_view_is_overwritten_above_the_followed_version() {
    let mut fixture = Fixture::leading(&["r1"]);
    fixture.beat("g1");
    fixture.does(&[write_view(2, view(2, &["g1", "r1"]))]);
    fixture.answer(KvAnswer::ViewWritten(refused()));
    fixture.does(&[None]);
    fixture.coordinator.set_followed(40);
    fixture.round();
    fixture.does(&[renewal(1)]);
    fixture.answer(KvAnswer::LeaseWritten(Ok(4)));
    fixture.does(&[ask(KvRequest::ReadView)]);
    let source = wire::WireError::Empty;
    fixture.answer(KvAnswer::ViewRead(Err(LeaseError::Unreadable { key: "view".to_owned(), revision: 3, source })));
    fixture.does(&[write_view(3, view(41, &["g1", "r1"]))]);
}

#[test]
fn node_that_has_lost_the_lease_writes_nothing() {
    let mut fixture = Fixture::leading(&["r1"]);
    fixture.round();
    fixture.does(&[renewal(1)]);
    fixture.answer(KvAnswer::LeaseWritten(refused()));
    fixture.does(&[ask(KvRequest::ReadLease)]);
    let other = crate::lease::LeaseRecord { owner: Some(member("r2").node), state: () };
    let read = LeaseRead { revision: 7, record: Some(other), is_unreadable: false, is_foreign: false };
    fixture.answer(KvAnswer::LeaseRead(Ok(read.clone())));
    fixture.does(&[None]);
    fixture.beat("g1");
    fixture.does(&[None]);
    // Until it finds that the lease is stale.
    for now in [500, 1_000, 1_500, 2_000] {
        fixture.now = now;
        fixture.beat("r1");
        fixture.round();
        fixture.does(&[ask(KvRequest::ReadLease)]);
        fixture.answer(KvAnswer::LeaseRead(Ok(read.clone())));
        fixture.does(&[None]);
    }
    fixture.now = 2_500;
    fixture.round();
    fixture.does(&[ask(KvRequest::ReadLease)]);
    fixture.answer(KvAnswer::LeaseRead(Ok(read)));
    fixture.does(&[renewal(7)]);
}

#[test]
fn goodbye_settles_what_was_begun_and_gives_the_lease_back() {
    let mut fixture = Fixture::leading(&["g1", "r1"]);
    fixture.round();
    fixture.does(&[renewal(1)]);
    fixture.coordinator.leave(Millis(0), &member("r1"));
    fixture.does(&[write_view(2, view_after(2, &["g1"], &["r1"]))]);
    fixture.answer(KvAnswer::ViewWritten(Ok(4)));
    fixture.does(&[announcement(2), ask(KvRequest::ReadLease)]);
    let mine = crate::lease::LeaseRecord { owner: Some(member("r1").node), state: () };
    let read = LeaseRead { revision: 3, record: Some(mine), is_unreadable: false, is_foreign: false };
    fixture.answer(KvAnswer::LeaseRead(Ok(read)));
    fixture.does(&[ask(KvRequest::WriteLease { revision: 3, is_ours: false })]);
    fixture.answer(KvAnswer::LeaseWritten(Ok(5)));
    fixture.does(&[None]);
}

/// The beats of all others wait behind the first one, and another node may be the coordinator.
#[test]
fn paused_node_removes_nobody_and_leaves_the_view_to_its_round() {
    let mut fixture = Fixture::leading(&["g1", "r1"]);
    fixture.now = 8_000;
    fixture.beat("g2");
    fixture.does(&[None]);
    fixture.round();
    fixture.does(&[renewal(1)]);
    fixture.answer(KvAnswer::LeaseWritten(Ok(3)));
    fixture.does(&[write_view(2, view(2, &["g1", "g2", "r1"]))]);
}

/// An outage between two rounds, which shows only when this node's own beat comes back.
#[test]
fn own_beat_that_returns_after_a_pause_gives_others_time_to_reconnect() {
    for (pause, lenient_until) in [(1_500, 0), (1_501, 1_501 + BACKOFF.most)] {
        let mut fixture = Fixture::leading(&["g1", "r1"]);
        fixture.now = pause;
        fixture.beat("r1");
        assert_eq!(fixture.coordinator.lenient_until, Millis(lenient_until));
    }
}

#[test]
fn absence_does_not_count_while_the_lease_cannot_be_read() {
    let mut fixture = Fixture::new();
    fixture.now = 500;
    fixture.round();
    fixture.does(&[ask(KvRequest::ReadLease)]);
    fixture.answer(KvAnswer::LeaseRead(unavailable()));
    fixture.does(&[None]);
    assert_eq!(fixture.coordinator.lenient_until, Millis(500 + BACKOFF.most));
}

/// Beats wait for most of each round, and each round takes nearly a beat interval.
#[test]
fn slow_kv_neither_removes_live_nodes_nor_keeps_dead_ones() {
    let mut fixture = Fixture::leading(&["g1", "g2", "r1"]);
    for (round, arrived) in [(1, 500), (2, 1_500), (3, 2_500)] {
        fixture.renews_slowly(round, arrived, &["g1", "g2", "r1"]);
        fixture.does(&[announcement(1), None]);
        assert!(!fixture.coordinator.has_news);
    }
    for (round, arrived) in [(4, 3_500), (5, 4_500)] {
        fixture.renews_slowly(round, arrived, &["g1", "r1"]);
        fixture.does(&[announcement(1), None]);
    }
    // At 5,400 it has been silent for 2,900.
    fixture.renews_slowly(6, 5_400, &["g1", "r1"]);
    assert_eq!(fixture.now, 5_400);
    fixture.does(&[announcement(1), None]);
    fixture.now += 101;
    fixture.round();
    fixture.does(&[renewal(7)]);
    fixture.answer(KvAnswer::LeaseWritten(Ok(8)));
    fixture.does(&[write_view(2, view(2, &["g1", "r1"]))]);
    assert_eq!(fixture.coordinator.lenient_until, Millis(0));
}

#[test]
fn news_that_arrives_while_kv_is_waited_for_is_written_at_once_or_next() {
    let mut fixture = Fixture::leading(&["r1"]);
    fixture.renews_slowly(1, 100, &["g1"]);
    fixture.does(&[write_view(2, view(2, &["g1", "r1"]))]);
    fixture.now += 900;
    fixture.hear(1_000, &["g2", "r1"]);
    fixture.answer(KvAnswer::ViewWritten(Ok(4)));
    fixture.does(&[announcement(2), announcement(2), None]);
    assert!(fixture.coordinator.has_news);
    fixture.coordinator.write_news(Millis(fixture.now));
    fixture.does(&[write_view(4, view(3, &["g1", "g2", "r1"]))]);
    assert!(!fixture.coordinator.has_news);
}

/// News of a failing KV is left to the next round, or this would be asked for again at once.
#[test]
fn news_is_not_tried_again_before_the_next_round() {
    let mut fixture = Fixture::leading(&["r1"]);
    fixture.beat("g1");
    fixture.does(&[write_view(2, view(2, &["g1", "r1"]))]);
    fixture.answer(KvAnswer::ViewWritten(unavailable()));
    fixture.does(&[None]);
    assert!(!fixture.coordinator.has_news);
}

/// Beats are passed on with a time before that of the last turn, if they have waited.
#[test]
fn beat_of_an_earlier_time_takes_nothing_back() {
    let mut fixture = Fixture::new();
    fixture.now = 2_000;
    fixture.round();
    assert_eq!(fixture.coordinator.lenient_until, Millis(2_000 + BACKOFF.most));
    // It comes back after a pause, which ended before that round.
    fixture.hear(1_900, &["r1", "g1", "g2"]);
    assert_eq!(fixture.coordinator.lenient_until, Millis(2_000 + BACKOFF.most));
    fixture.hear(1_800, &["g1"]);
    assert_eq!(fixture.coordinator.roster.last_beat(&member("g1").node), Some(Millis(1_900)));
    // The silence still counts from that round.
    let current = view(1, &["g1", "g2"]);
    fixture.hear(4_900, &["g1"]);
    assert_eq!(fixture.coordinator.roster.next_view(&current, 0, Millis(5_000)), None);
    assert_eq!(fixture.coordinator.roster.next_view(&current, 0, Millis(5_001)), Some(view(2, &["g1"])));
}

/// It may have waited for a connection, and so may the beats of others.
#[test]
fn only_an_answer_that_is_late_by_itself_makes_absence_doubtful() {
    let other = crate::lease::LeaseRecord { owner: Some(member("r2").node), state: () };
    let read = LeaseRead { revision: 7, record: Some(other), is_unreadable: false, is_foreign: false };
    for (last, lenient_until) in [(2_000, 0), (2_501, 2_501 + BACKOFF.most)] {
        let mut fixture = Fixture::new();
        for (asked, answered) in [(0, 1_000), (1_000, last)] {
            fixture.now = asked;
            fixture.round();
            fixture.does(&[ask(KvRequest::ReadLease)]);
            fixture.now = answered;
            fixture.hear(asked + 900, &["r1"]);
            fixture.answer(KvAnswer::LeaseRead(Ok(read.clone())));
            fixture.does(&[None]);
        }
        assert_eq!(fixture.coordinator.lenient_until, Millis(lenient_until));
    }
}
