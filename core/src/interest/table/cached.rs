//! The match by way of the route cache, which knows the gateways that want the events of a class.
//!
//! Only what follows from wants is remembered. An event for one user is found by its user at once, and a broadcast goes
//! to every gateway.

use super::InterestTable;
use crate::event::{Audience, Event};
use crate::ids::{Millis, NodeRef};
use crate::route_cache::RouteCache;

/// The gateways that want the events of each class.
pub type GatewayCache = RouteCache<Box<[NodeRef]>>;

impl InterestTable {
    /// Calls `found` as [`Self::matching`] does, for the same gateways in the same order. A cache serves one table.
    pub fn matching_cached(
        &mut self,
        cache: &mut GatewayCache,
        now: Millis,
        event: &Event,
        mut found: impl FnMut(&NodeRef),
    ) {
        if cache.is_off() || event.audience != Audience::Public || event.is_for_every_gateway() {
            return self.matching(event, found);
        }
        let basis = self.topics.state();
        self.topics.wanted().write_class(event, cache.begin_key());
        if let Some(gateways) = cache.find(now, basis) {
            return gateways.iter().for_each(found);
        }
        let mut gateways = Vec::new();
        self.topics.matching(event, |gateway| {
            found(gateway);
            gateways.push(gateway.clone());
        });
        let bytes = gateways.iter().map(|gateway| size_of::<NodeRef>() + gateway.id.as_str().len()).sum();
        cache.remember(now, basis, gateways.into_boxed_slice(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::TableLimits;
    use super::*;
    use crate::event::{Handling, Kind, Priority, Strategy as Spread, Tier, blank_event};
    use crate::filter::Filter;
    use crate::ids::{Confidence, NodeId, Nonce, Pattern, Room, Symbol, UserId};
    use crate::interest::log::{Bounds, InterestLog};
    use crate::placement::{Member, Role, View};
    use crate::route_cache::{CacheCounts, TTL_MS};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    const GATEWAYS: usize = 3;

    fn node(number: usize) -> NodeRef {
        NodeRef { id: NodeId::new(&format!("g{number}")).unwrap(), nonce: Nonce(1) }
    }

    fn view(gateways: usize) -> View {
        let member = |number| Member { node: node(number), role: Role::Gateway, weight: 1, draining: false };
        View { version: gateways as u64, members: (0..gateways).map(member).collect(), ..View::default() }
    }

    /// The gateways of an event, in order.
    fn found(matching: impl FnOnce(&mut dyn FnMut(&NodeRef))) -> Vec<NodeRef> {
        let mut found = Vec::new();
        matching(&mut |gateway: &NodeRef| found.push(gateway.clone()));
        found
    }

    /// A table with the interest of some gateways, and its cache.
    struct Cached {
        table: InterestTable,
        cache: GatewayCache,
        logs: Vec<InterestLog>,
        now: u64,
    }

    impl Cached {
        fn new(most_bytes: usize) -> Self {
            let log = |number| InterestLog::new(node(number), view(GATEWAYS), 0, Bounds::default());
            let mut table = InterestTable::new(TableLimits::default());
            table.set_view(Arc::new(view(GATEWAYS)));
            Self { table, cache: GatewayCache::new(most_bytes), logs: (0..GATEWAYS).map(log).collect(), now: 0 }
        }

        /// Sends what has changed in the interest of a gateway, as a snapshot at first.
        fn send(&mut self, number: usize) {
            let (log, now) = (&mut self.logs[number], Millis(self.now));
            let Some(delta) = log.cut(now) else { return };
            if self.table.interest(&node(number)).is_some() {
                self.table.delta(now, delta);
            } else {
                self.table.snapshot(now, log.sent().parts(&node(number), log.revision(), 1_000));
            }
        }

        fn want(&mut self, number: usize, filter: Filter) {
            self.logs[number].add(&Arc::new(filter));
            self.send(number);
        }

        /// The gateways of an event, with the cache and without.
        fn gateways(&mut self, event: &Event) -> [Vec<NodeRef>; 2] {
            let Self { table, cache, now, .. } = self;
            let cached = found(|found| table.matching_cached(cache, Millis(*now), event, found));
            [cached, found(|found| table.matching(event, found))]
        }

        /// Whether the gateways of an event were known.
        fn hits(&mut self, event: &Event) -> bool {
            let [cached, plain] = self.gateways(event);
            assert_eq!(cached, plain);
            self.cache.take_counts().hits > 0
        }
    }

    fn confident(symbol: &str, confidence: f64) -> Event {
        let symbol = Some(Symbol::new(symbol).unwrap());
        Event { symbol, confidence: Confidence::new(confidence), ..blank_event() }
    }

    fn from(least: f64) -> Filter {
        Filter { min_confidence: Confidence::new(least), ..Filter::default() }
    }

    #[test]
    fn gateways_of_a_class_are_known_until_any_interest_changes() {
        let mut cached = Cached::new(100_000);
        cached.want(0, from(0.6));
        assert!(!cached.hits(&confident("A", 0.7)));
        assert!(cached.hits(&confident("A", 0.8)), "no threshold is between them");
        assert!(!cached.hits(&confident("A", 0.5)) && !cached.hits(&confident("B", 0.7)));
        // The same want again is no change.
        cached.want(0, from(0.6));
        assert!(cached.hits(&confident("B", 0.8)));
        cached.want(1, from(0.75));
        assert!(!cached.hits(&confident("A", 0.7)) && !cached.hits(&confident("A", 0.8)));
        cached.logs[1].remove(Millis(0), Arc::new(from(0.75)));
        cached.send(1);
        assert!(!cached.hits(&confident("A", 0.7)) && cached.hits(&confident("A", 0.8)));
        cached.now = TTL_MS + 1;
        assert!(!cached.hits(&confident("A", 0.8)) && cached.hits(&confident("A", 0.8)));
        assert_eq!(cached.table.expire(Millis(cached.now), 10).len(), 2);
        assert!(!cached.hits(&confident("A", 0.8)));
        assert_eq!(cached.gateways(&confident("A", 0.8)), [vec![], vec![]]);
    }

    #[test]
    fn field_that_no_gateway_wants_makes_no_classes() {
        let mut cached = Cached::new(100_000);
        cached.want(0, Filter::default());
        let event = |pattern: &str, tier, priority| {
            let rooms = vec![Room::new(pattern).unwrap()];
            Event { pattern: Some(Pattern::new(pattern).unwrap()), tier: Some(tier), priority, rooms, ..blank_event() }
        };
        assert!(!cached.hits(&event("Doji", Tier::Daily, Priority::Low)));
        assert!(cached.hits(&event("Hammer", Tier::Combo, Priority::High)));
        cached.want(1, Filter { tiers: Some([Tier::Daily].into()), ..Filter::default() });
        assert!(!cached.hits(&event("Doji", Tier::Daily, Priority::Low)));
        assert!(cached.hits(&event("Hammer", Tier::Daily, Priority::High)));
        assert!(!cached.hits(&event("Hammer", Tier::Combo, Priority::High)));
    }

    #[test]
    fn events_for_one_user_and_broadcasts_are_not_looked_up() {
        let mut cached = Cached::new(100_000);
        cached.want(0, Filter::default());
        let broadcast = Handling { strategy: Spread::Broadcast, ..Handling::default() };
        let ann = Audience::User(UserId::new("ann").unwrap());
        for event in
            [Event { audience: ann, ..blank_event() }, Event { handling: Some(Box::new(broadcast)), ..blank_event() }]
        {
            let [cached, plain] = cached.gateways(&event);
            assert_eq!(cached, plain);
        }
        assert_eq!((cached.cache.take_counts(), cached.cache.len()), (CacheCounts::default(), 0));
    }

    /// What happens in a run: an event, or a change of interest.
    #[derive(Clone, Debug)]
    enum Step {
        Route(Box<Event>),
        Want(usize, Box<Filter>),
        Unwant(usize, usize),
        View(usize),
        Expire(usize),
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let names = (prop::option::of("[AB]"), prop::option::of("[xy]"), prop::collection::btree_set("[rst]", 0..3));
        let numbers = (prop::option::of(0..=10_u32), 0..4_usize, prop::option::of(0..3_usize), 0..12_u8);
        (names, numbers).prop_map(|((symbol, pattern, rooms), (confidence, priority, tier, form))| Event {
            kind: if form % 2 == 0 { Kind::Pattern } else { Kind::Market },
            audience: match form {
                10 => Audience::User(UserId::new("ann").unwrap()),
                _ => Audience::Public,
            },
            handling: (form == 8).then(|| Box::new(Handling { strategy: Spread::Broadcast, ..Handling::default() })),
            symbol: symbol.map(|text| Symbol::new(&text).unwrap()),
            pattern: pattern.map(|text| Pattern::new(&text).unwrap()),
            rooms: rooms.iter().map(|text| Room::new(text).unwrap()).collect(),
            confidence: confidence.and_then(|tenths| Confidence::new(f64::from(tenths) / 10.0)),
            priority: Priority::ALL[priority],
            tier: tier.map(|tier| Tier::ALL[tier]),
            ..blank_event()
        })
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let some = |names: &'static str| prop::option::of(prop::collection::btree_set(names, 1..3));
        let names = (some("[AB]"), some("[xy]"), some("[rst]"));
        let numbers = (prop::option::of(0..=10_u32), prop::option::of(0..4_usize), prop::option::of(0..3_usize));
        (names, numbers, any::<bool>()).prop_map(|((symbols, patterns, rooms), (confidence, priority, tier), both)| {
            let kinds = if both { BTreeSet::from([Kind::Pattern, Kind::Market]) } else { [Kind::Pattern].into() };
            Filter {
                kinds,
                symbols: symbols.map(|set| set.iter().map(|text| Symbol::new(text).unwrap()).collect()),
                patterns: patterns.map(|set| set.iter().map(|text| Pattern::new(text).unwrap()).collect()),
                rooms: rooms.map(|set| set.iter().map(|text| Room::new(text).unwrap()).collect()),
                min_confidence: confidence.and_then(|tenths| Confidence::new(f64::from(tenths) / 10.0)),
                min_priority: priority.map(|at| Priority::ALL[at]),
                tiers: tier.map(|at| [Tier::ALL[at]].into()),
                ..Filter::default()
            }
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            24 => event().prop_map(|event| Step::Route(Box::new(event))),
            3 => (0..GATEWAYS, filter()).prop_map(|(number, filter)| Step::Want(number, Box::new(filter))),
            2 => (0..GATEWAYS, any::<usize>()).prop_map(|(number, at)| Step::Unwant(number, at)),
            1 => (1..=GATEWAYS).prop_map(Step::View),
            1 => (0..GATEWAYS).prop_map(Step::Expire),
            1 => (0..2 * TTL_MS).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// With the cache, the same gateways are found in the same order as without, while interest and view change.
        #[test]
        fn cached_match_finds_what_others_find(
            steps in prop::collection::vec(step(), 1..150),
            most_bytes in prop_oneof![Just(0_usize), 300..2_000_usize, Just(1_000_000)],
        ) {
            let mut cached = Cached::new(most_bytes);
            let mut filters: Vec<Vec<Filter>> = vec![Vec::new(); GATEWAYS];
            for step in steps {
                match step {
                    Step::Route(event) => {
                        let [cached, plain] = cached.gateways(&event);
                        prop_assert_eq!(cached, plain, "{:?}", event);
                    }
                    Step::Want(number, filter) => {
                        filters[number].push(Filter::clone(&filter));
                        cached.want(number, *filter);
                    }
                    Step::Unwant(number, at) => {
                        if let Some(at) = at.checked_rem(filters[number].len()) {
                            let filter = Arc::new(filters[number].swap_remove(at));
                            let now = Millis(cached.now);
                            cached.logs[number].remove(now, filter);
                            cached.send(number);
                        }
                    }
                    Step::View(gateways) => cached.table.set_view(Arc::new(view(gateways))),
                    // All gateways but this one are silent. Those that want something else then are known again.
                    Step::Expire(number) => {
                        cached.now += 1_000;
                        let beat = crate::interest::InterestBeat {
                            gateway: node(number),
                            revision: cached.logs[number].revision(),
                            reached: None,
                        };
                        cached.table.beat(Millis(cached.now), &beat);
                        cached.table.expire(Millis(cached.now), 500);
                    }
                    Step::Wait(passed) => cached.now += passed,
                }
            }
        }
    }
}
