//! Routing with the route caches equals routing without them, byte for byte, while rules and interest change.

use super::*;
use crate::decode::to_wire;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::Strategy;
use serde_json::{Map, Value, json};
use tickwire_core::event::{Event, Kinds};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, NodeId, Nonce, Pattern, Room, Symbol};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::rules::{Fate, RuleCache, RuleRevision, RuleSet};
use tickwire_testkit::blank_event;

const PARTITION: Partition = Partition(3);
const TENURE: Tenure = Tenure { source: Source::Partition(PARTITION), number: 1 };
const GATEWAYS: usize = 3;
const NOW: Millis = Millis(0);

fn gateway(number: usize) -> NodeRef {
    NodeRef { id: NodeId::new(&format!("g{number}")).unwrap(), nonce: Nonce(1) }
}

/// Rules with every action, which test few fields.
fn pool() -> Vec<Value> {
    let when = |conditions: Value| json!({ "conditions": conditions });
    let from = |least: f64| json!({ "field": "confidence", "min": least });
    json!([
        { "id": "a", "order": 1, "when": when(json!([from(0.3)])), "add_tags": ["a"] },
        { "id": "b", "order": 2, "when": when(json!([from(0.5), { "field": "symbol", "eq": "A" }])), "rooms": ["r1"] },
        { "id": "c", "order": 3, "when": when(json!([{ "not": from(0.5) }])), "set_priority": "low" },
        { "id": "d", "order": 4, "when": when(json!([from(0.9)])), "strategy": "priority_first", "ttl_ms": 5 },
        { "id": "e", "order": 5, "when": when(json!([{ "field": "data.x", "min": 3 }])), "strategy": "round_robin",
          "rooms": ["r1", "r2", "r3"] },
        { "id": "f", "order": 6, "when": when(json!([{ "field": "data.x", "max": 1 }])), "strategy": "load_balanced",
          "rooms": ["r1", "r2"] },
        { "id": "g", "order": 7, "when": when(json!([{ "field": "symbol", "eq": "B" }, from(0.7)])), "sample": 0.5 },
        { "id": "h", "order": 8, "when": { "type": "Do*" }, "transform": { "rename": { "data.x": "data.y" } } },
        { "id": "i", "order": 9, "when": when(json!([{ "field": "data.x", "eq": 5 }])), "drop": true },
        { "id": "j", "order": 10, "when": when(json!([{ "field": "data.x", "in": [2, 4] }, from(0.6)])),
          "strategy": "broadcast" },
        { "id": "k", "order": 11, "set_priority": "high", "when": when(json!([{ "field": "symbol", "exists": false }])) },
        { "id": "l", "order": 12, "transform": { "round": { "data.x": 0 } } },
    ])
    .as_array()
    .cloned()
    .unwrap()
}

/// The filters that gateways want.
fn filters() -> Vec<Filter> {
    let symbol = |symbol: &str| Some([Symbol::new(symbol).unwrap()].into());
    let room = |room: &str| Some([Room::new(room).unwrap()].into());
    let from = |least: f64| Confidence::new(least);
    vec![
        Filter { symbols: symbol("A"), min_confidence: from(0.4), ..Filter::default() },
        Filter { symbols: symbol("B"), min_confidence: from(0.8), ..Filter::default() },
        Filter { rooms: room("r1"), ..Filter::default() },
        Filter { rooms: room("r2"), min_priority: Some(Priority::Medium), ..Filter::default() },
        Filter { patterns: Some([Pattern::new("Doji").unwrap()].into()), ..Filter::default() },
        Filter { min_confidence: from(0.65), ..Filter::default() },
    ]
}

/// The way of events through one router.
struct Way {
    rules: RuleCache,
    routing: Routing,
}

impl Way {
    fn new(most_bytes: usize) -> Self {
        let (flush, limits) = (Flush::new(2, 10_000, 1_000), TableLimits::default());
        let mut routing = Routing::new(flush, 60_000, limits, GatewayCache::new(most_bytes));
        routing.own(TENURE, Seq(0));
        Self { rules: RuleCache::new(most_bytes), routing }
    }

    fn read(&mut self, set: &Arc<RuleSet>, published: &Event, seq: Seq) {
        let routed = self.rules.apply(NOW, set, published, seq, |_, _| {});
        let mut events = Vec::new();
        if routed.fate == Fate::Kept {
            let mut event = Event { handling: routed.handling().map(Box::new), ..published.clone() };
            routed.change(&mut event);
            let wire = to_wire(&event).unwrap();
            events.push(Readable { seq, event, wire, trace: None });
        }
        let what = IntakeEvent::Events { through: seq, mark: None, events };
        self.routing.read(NOW, IntakeReport { tenure: TENURE, what });
    }

    /// Takes what a gateway has announced: a delta, and a snapshot if that is needed.
    fn learn(&mut self, log: &InterestLog, delta: tickwire_core::interest::Delta) {
        if let Some(gateway) = self.routing.handle_interest_message(NOW, InterestMessage::Delta(delta)) {
            let parts = log.sent().parts(&gateway, log.revision(), 1_000);
            assert_eq!(self.routing.handle_snapshot(NOW, gateway, parts), None);
        }
    }

    /// What each gateway is sent: the ranges, and the events with their bytes.
    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for number in 0..GATEWAYS {
            for Section { revision, prev, through, events, .. } in self.routing.take(NOW, &gateway(number), true) {
                let events = events.into_iter().map(|(seq, event)| (seq, event.wire)).collect();
                sent.push((number, revision.0, prev.0, through.0, events));
            }
        }
        sent
    }
}

/// The number of a gateway, the revision of its interest, a range, and the events in it with their bytes.
type Sent = (usize, u64, u64, u64, Vec<(Seq, Bytes)>);

#[derive(Clone, Debug)]
enum Step {
    Route(Box<Event>),
    /// The rules with the bits of this number.
    Rules(u16),
    /// A gateway wants a filter from now on, or no longer.
    Want(usize, usize),
    Send,
}

fn event() -> impl Strategy<Value = Event> {
    let names = (prop::option::of("[AB]"), prop_oneof![Just("Doji"), Just("Hammer")]);
    (names, prop::option::of(0..=10_u32), 0..6_i64, 0..4_usize).prop_map(|((symbol, pattern), tenths, x, priority)| {
        Event {
            key: symbol.as_deref().unwrap_or("none").into(),
            symbol: symbol.map(|symbol| Symbol::new(&symbol).unwrap()),
            pattern: Some(Pattern::new(pattern).unwrap()),
            confidence: tenths.and_then(|tenths| Confidence::new(f64::from(tenths) / 10.0)),
            priority: Priority::ALL[priority],
            data: Map::from_iter([("x".to_owned(), json!(x))]),
            ..blank_event()
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => event().prop_map(|event| Step::Route(Box::new(event))),
        1 => any::<u16>().prop_map(Step::Rules),
        2 => (0..GATEWAYS, 0..filters().len()).prop_map(|(number, at)| Step::Want(number, at)),
        2 => Just(Step::Send),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routing_with_the_caches_equals_routing_without_them(
        steps in prop::collection::vec(step(), 1..300),
        most_bytes in prop_oneof![500..5_000_usize, Just(1_000_000)],
    ) {
        let (pool, filters) = (pool(), filters());
        let compiled = |bits: u16| {
            let rules = pool.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, rule)| rule.clone());
            let rules: Vec<Value> = rules.collect();
            let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
            assert_eq!(skipped, []);
            Arc::new(set)
        };
        let (mut with, mut without) = (Way::new(most_bytes), Way::new(0));
        let log = |number| InterestLog::new(gateway(number), View::default(), 0, Bounds::default());
        let mut logs: Vec<InterestLog> = (0..GATEWAYS).map(log).collect();
        let mut wanted = [[false; 6]; GATEWAYS];
        let (mut set, mut seq) = (compiled(u16::MAX), Seq(0));
        for step in steps.into_iter().chain([Step::Send]) {
            match step {
                Step::Route(event) => {
                    seq = Seq(seq.0 + 1);
                    with.read(&set, &event, seq);
                    without.read(&set, &event, seq);
                }
                Step::Rules(bits) => set = compiled(bits),
                Step::Want(number, at) => {
                    let (log, is_wanted, filter) = (&mut logs[number], &mut wanted[number][at], filters[at].clone());
                    *is_wanted = !*is_wanted;
                    if *is_wanted {
                        log.add(&Arc::new(filter));
                    } else {
                        log.remove(NOW, Arc::new(filter));
                    }
                    if let Some(delta) = log.cut(NOW) {
                        with.learn(log, delta.clone());
                        without.learn(log, delta);
                    }
                }
                Step::Send => {
                    prop_assert_eq!(with.sent(), without.sent());
                }
            }
        }
        prop_assert_eq!(without.routing.take_cache_counts(), (CacheCounts::default(), 0));
    }
}

#[test]
fn events_of_one_class_are_decided_once() {
    let mut way = Way::new(1_000_000);
    let mut log = InterestLog::new(gateway(0), View::default(), 0, Bounds::default());
    log.add(&Arc::new(Filter { min_confidence: Confidence::new(0.5), ..Filter::default() }));
    let delta = log.cut(NOW).unwrap();
    way.learn(&log, delta);
    let (set, skipped) = RuleSet::compile(RuleRevision(1), &pool(), &Kinds::default());
    assert_eq!(skipped, []);
    let set = Arc::new(set);
    for (seq, hundredths) in (1..).zip([91, 93, 95, 97, 99]) {
        let event = Event { confidence: Confidence::new(f64::from(hundredths) / 100.0), ..blank_event() };
        way.read(&set, &event, Seq(seq));
    }
    let once = CacheCounts { hits: 4, misses: 1, evictions: 0 };
    assert_eq!((way.rules.take_counts(), way.rules.len()), (once, 1));
    assert_eq!(way.routing.take_cache_counts(), (once, 1));
    let seqs: Vec<u64> = way.sent().iter().flat_map(|(.., events)| events).map(|(seq, _)| seq.0).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}
