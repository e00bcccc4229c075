//! The index, compared with a check of every subscription.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tickwire_core::event::{Handling, Kind, Kinds, Priority, Regime, Strategy as SpreadStrategy, Tier, TradingSession};
use tickwire_core::filter::conditions::Conditions;
use tickwire_core::ids::{Confidence, Pattern, Room, Symbol};
use tickwire_testkit::blank_event;

use super::*;

mod broadcasts;
mod costs;
mod strategies;

use strategies::{event, filter};

const SESSIONS: u64 = 6;

#[derive(Clone, Debug)]
enum Change {
    /// A new subscription, or one that gets another filter or another window, or asks for alerts or not.
    Add {
        subscriber: Subscriber,
        filter: Filter,
    },
    /// A subscription that gets a filter that the index already has.
    Share {
        subscriber: Subscriber,
        with: usize,
    },
    Remove {
        session: u64,
        subscription: u32,
    },
    /// A removal that is too late: the subscription has another filter now, or none.
    RemoveOther {
        session: u64,
        subscription: u32,
        filter: Filter,
    },
    Register {
        session: u64,
    },
    /// A session is removed with all its subscriptions.
    Unregister {
        session: u64,
    },
    /// A session ends, and is not removed from the index.
    Leak {
        session: u64,
    },
    Sweep,
    Match(Event),
}

fn user(session: u64) -> UserId {
    UserId::new(&format!("u{}", session % 3)).unwrap()
}

fn change() -> impl Strategy<Value = Change> {
    let subscriber = || {
        (0..SESSIONS, 0..3u32, 0..3u16, any::<bool>()).prop_map(|(session, subscription, window_ms, alert)| {
            Subscriber { session, subscription, window_ms, alert }
        })
    };
    prop_oneof![
        8 => (subscriber(), filter()).prop_map(|(subscriber, filter)| Change::Add { subscriber, filter }),
        4 => (subscriber(), 0..20usize).prop_map(|(subscriber, with)| Change::Share { subscriber, with }),
        2 => (0..SESSIONS, 0..3u32).prop_map(|(session, subscription)| Change::Remove { session, subscription }),
        1 => (0..SESSIONS, 0..3u32, filter())
            .prop_map(|(session, subscription, filter)| Change::RemoveOther { session, subscription, filter }),
        2 => (0..SESSIONS).prop_map(|session| Change::Register { session }),
        1 => (0..SESSIONS).prop_map(|session| Change::Unregister { session }),
        1 => (0..SESSIONS).prop_map(|session| Change::Leak { session }),
        1 => Just(Change::Sweep),
        8 => event().prop_map(Change::Match),
    ]
}

/// The index under test, and what a naive index would know.
#[derive(Default)]
struct Pair {
    index: Index,
    alive: BTreeSet<u64>,
    /// Ended sessions that are still in the index.
    stale: BTreeSet<u64>,
    /// Their filters, windows, and whether they ask for alerts.
    subscriptions: BTreeMap<(u64, u32), (Arc<Filter>, u16, bool)>,
}

impl Pair {
    fn make(&mut self, change: Change) -> Result<(), TestCaseError> {
        match change {
            Change::Add { subscriber, filter } => self.add(subscriber, &Arc::new(filter))?,
            Change::Share { subscriber, with } => {
                if let Some((filter, ..)) = self.subscriptions.values().nth(with).cloned() {
                    self.add(subscriber, &filter)?;
                }
            }
            Change::Remove { session, subscription } => {
                if let Some((filter, ..)) = self.subscriptions.remove(&(session, subscription)) {
                    self.index.remove(session, subscription, &filter);
                }
            }
            Change::RemoveOther { session, subscription, filter } => {
                let key = (session, subscription);
                if self.subscriptions.get(&key).is_none_or(|(held, ..)| **held != filter) {
                    self.index.remove(session, subscription, &Arc::new(filter));
                }
            }
            Change::Register { session } => {
                if !self.stale.contains(&session) {
                    self.alive.insert(session);
                    self.index.register(&user(session), session);
                }
            }
            Change::Unregister { session } => {
                if self.alive.remove(&session) {
                    self.subscriptions.retain(|(of, _), _| *of != session);
                    self.index.unregister(&user(session), session);
                }
            }
            Change::Leak { session } => {
                if self.alive.remove(&session) {
                    self.stale.insert(session);
                }
            }
            Change::Sweep => self.sweep()?,
            Change::Match(event) => self.matches(&event)?,
        }
        Ok(())
    }

    fn add(&mut self, subscriber: Subscriber, filter: &Arc<Filter>) -> Result<(), TestCaseError> {
        let Subscriber { session, subscription, window_ms, alert } = subscriber;
        if self.alive.contains(&session) {
            let kept = self.index.add(subscriber, filter);
            prop_assert_eq!(&kept, filter);
            self.subscriptions.insert((session, subscription), (kept, window_ms, alert));
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<(), TestCaseError> {
        let before = self.stale.len() + self.subscriptions.len();
        self.subscriptions.retain(|(session, _), _| self.alive.contains(session));
        self.stale.clear();
        // A removal may move a session to a place that was already checked. But a sweep that removes none checked all.
        let mut swept = 0;
        while let entries @ 1.. = self.index.sweep(|session| self.alive.contains(&session)) {
            swept += entries;
        }
        prop_assert_eq!(swept, before - self.subscriptions.len());
        Ok(())
    }

    fn matches(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let mut found = Vec::new();
        self.index.matching(event, |subscriber| found.push(*subscriber));
        found.sort_unstable();
        let expected: Vec<Subscriber> = self
            .subscriptions
            .iter()
            .filter(|((session, _), (filter, ..))| event.audience.admits(&user(*session)) && is_for(event, filter))
            .map(|((session, subscription), (_, window_ms, alert))| Subscriber {
                session: *session,
                subscription: *subscription,
                window_ms: *window_ms,
                alert: *alert,
            })
            .collect();
        prop_assert_eq!(found, expected);
        Ok(())
    }

    /// Compares the statistics with the naive index.
    fn count(&self) -> Result<(), TestCaseError> {
        let statistics = self.index.statistics();
        let filters: BTreeSet<String> =
            self.subscriptions.values().map(|(filter, ..)| json!(filter).to_string()).collect();
        prop_assert_eq!(statistics.subscriptions, self.subscriptions.len() as u64);
        prop_assert_eq!(statistics.filters, filters.len() as u64);
        prop_assert_eq!(statistics.of(Dimension::User).entries, (self.alive.len() + self.stale.len()) as u64);
        Ok(())
    }

    fn end(mut self) -> Result<(), TestCaseError> {
        self.count()?;
        self.sweep()?;
        for ((session, subscription), (filter, ..)) in std::mem::take(&mut self.subscriptions) {
            self.index.remove(session, subscription, &filter);
        }
        let Index { filters, slots, lists, rooms, .. } = &self.index;
        prop_assert!(filters.is_empty() && slots.is_empty() && lists.is_empty() && rooms.is_empty());
        for session in std::mem::take(&mut self.alive) {
            self.index.unregister(&user(session), session);
        }
        prop_assert!(self.index.sessions.is_empty());
        let statistics = self.index.statistics();
        prop_assert!(Dimension::ALL.into_iter().all(|dimension| statistics.of(dimension).entries == 0));
        Ok(())
    }
}

/// Whether an event is for a subscription with this filter, if its user is in the audience.
fn is_for(event: &Event, filter: &Filter) -> bool {
    let named: Vec<&Room> = filter.rooms.iter().flatten().collect();
    match event.handling.as_deref() {
        Some(Handling { strategy: SpreadStrategy::Broadcast, rooms, .. }) => {
            rooms.is_empty() || rooms.iter().any(|room| named.contains(&room))
        }
        _ => filter.matches(event),
    }
}

fn check(changes: Vec<Change>) -> Result<(), TestCaseError> {
    let mut pair = Pair::default();
    for session in 0..SESSIONS {
        pair.make(Change::Register { session })?;
    }
    for change in changes {
        pair.make(change)?;
    }
    pair.end()
}

proptest! {
    // Two tests, so that cores share them.
    #![proptest_config(ProptestConfig { cases: 6_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn index_finds_the_same_as_a_check_of_every_subscription(changes in prop::collection::vec(change(), 1..50)) {
        check(changes)?;
    }

    #[test]
    fn many_filters_are_found_as_by_a_check_of_every_subscription(
        filters in prop::collection::vec(filter(), 18),
        events in prop::collection::vec(event(), 6),
        changes in prop::collection::vec(change(), 0..10),
    ) {
        let add = |(number, filter): (u64, Filter)| Change::Add {
            subscriber: subscriber(number % SESSIONS, (number / SESSIONS) as u32),
            filter,
        };
        let events = events.into_iter().map(Change::Match);
        let filters = (0..).zip(filters).map(add);
        check(filters.chain(events.clone()).chain(changes).chain(events).collect())?;
    }
}

/// A subscription of a session.
fn subscriber(session: u64, subscription: u32) -> Subscriber {
    Subscriber { session, subscription, window_ms: 0, alert: false }
}

#[test]
fn sweeps_check_a_bounded_number_of_sessions_and_all_in_turn() {
    let mut index = Index::default();
    let filter = Arc::new(Filter::default());
    let sessions = 3 * SWEEP_SESSIONS as u64;
    for session in 0..sessions {
        index.register(&user(session), session);
        index.add(subscriber(session, 1), &filter);
    }
    let mut checked = 0;
    let mut entries = 0;
    for _ in 0..4 {
        entries += index.sweep(|session| {
            checked += 1;
            session.is_multiple_of(2)
        });
        assert!(checked <= 4 * SWEEP_SESSIONS);
    }
    assert_eq!(entries as u64, sessions, "half of the sessions, each with a subscription");
    assert_eq!(index.statistics().subscriptions, sessions / 2);
    assert_eq!(index.sweep(|session| session.is_multiple_of(2)), 0);
}

#[test]
fn event_for_a_user_checks_only_the_subscriptions_of_that_user() {
    let mut index = Index::default();
    let alerts = Arc::new(Filter { kinds: [Kind::Alert].into(), ..Filter::default() });
    for session in 0..300 {
        index.register(&user(session), session);
        index.add(subscriber(session, 7), &alerts);
    }
    let event = Event { kind: Kind::Alert, key: "u1".into(), audience: Audience::User(user(1)), ..blank_event() };
    let mut found = Vec::new();
    index.matching(&event, |subscriber| found.push(subscriber.session));
    found.sort_unstable();
    assert_eq!(found, (0..300).filter(|session| session % 3 == 1).collect::<Vec<_>>());
    let statistics = index.statistics();
    assert_eq!((statistics.of(Dimension::User).lookups, statistics.of(Dimension::User).matches), (1, 100));
    assert_eq!(statistics.of(Dimension::Any).lookups, 0);
}

#[test]
fn statistics_count_entries_lookups_and_matches_per_dimension() {
    let mut index = Index::default();
    let of = |value: Value| Arc::new(Filter::parse(&value, &Kinds::default()).unwrap());
    let filters = [
        json!({ "kinds": ["pattern", "market"], "symbols": ["AAPL", "MSFT", "TSLA"] }),
        json!({ "rooms": ["vip", "desk"] }),
        json!({ "min_confidence": 0.9 }),
    ];
    for (number, filter) in (1..).zip(filters) {
        index.add(subscriber(1, number), &of(filter));
    }
    let entries = Dimension::ALL.map(|dimension| index.statistics().of(dimension).entries);
    assert_eq!(entries, [3, 2, 0, 0, 0, 0, 1, 0], "one entry for each value, for all kinds together");
    let event = Event {
        symbol: Some(Symbol::new("AAPL").unwrap()),
        rooms: vec![Room::new("desk").unwrap(), Room::new("vip").unwrap()],
        ..blank_event()
    };
    for _ in 0..SAMPLE {
        index.matching(&event, |_| {});
    }
    let statistics = index.statistics();
    let counted = |dimension| {
        let tally = statistics.of(dimension);
        (tally.lookups, tally.hits, tally.matches)
    };
    assert_eq!(counted(Dimension::Symbol), (SAMPLE, SAMPLE, SAMPLE));
    assert_eq!(
        counted(Dimension::Room),
        (2 * SAMPLE, SAMPLE, SAMPLE),
        "found in the list of one room, and not again in the other"
    );
    assert_eq!(counted(Dimension::Any), (SAMPLE, 0, 0));
    assert_eq!(statistics.sampled_events, 1);
}

#[test]
fn filters_are_distinguished_by_kind_with_any_number_of_kinds() {
    let mut index = Index::default();
    let kind = |number: u32| Kind::Other(format!("k{number}").into());
    let filter = |number: u32, symbols: Option<&str>| {
        let symbols = symbols.map(|symbol| [Symbol::new(symbol).unwrap()].into());
        Arc::new(Filter { kinds: [kind(number), kind(number + 1)].into(), symbols, ..Filter::default() })
    };
    for number in 0..40 {
        index.add(subscriber(number.into(), 1), &filter(number, Some("AAPL")));
        index.add(subscriber(number.into(), 2), &filter(number, None));
    }
    for number in 1..40 {
        let event = Event { kind: kind(number), symbol: Some(Symbol::new("AAPL").unwrap()), ..blank_event() };
        let mut found = Vec::new();
        index.matching(&event, |subscriber| found.push((subscriber.session, subscriber.subscription)));
        found.sort_unstable();
        let number = u64::from(number);
        assert_eq!(found, [(number - 1, 1), (number - 1, 2), (number, 1), (number, 2)]);
    }
    for number in 0..40 {
        index.remove(number.into(), 1, &filter(number, Some("AAPL")));
        index.remove(number.into(), 2, &filter(number, None));
    }
    assert!(index.lists.is_empty());
}
