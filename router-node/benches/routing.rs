//! The cost of routing an event: the rules decide, interest finds the gateways, and the event is put into their
//! sections. There are 100 rules and the interest of 100 gateways, and everything is measured with the route cache and
//! without. Reading an event from its payload and writing it for gateways are not part of it.
//!
//! `cargo bench -p tickwire-router-node --bench routing` prints events per second of one core and the distribution of
//! single events (p50, p99), and criterion's means of the steps. Under `cargo test` each bench runs once.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue should panic")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tickwire_core::event::{Event, Kinds, Priority, Tier};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Epoch, Millis, NodeId, NodeRef, Nonce, Partition, Pattern, Seq, Symbol};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::interest::table::{GatewayCache, InterestTable, TableLimits};
use tickwire_core::placement::View;
use tickwire_core::rules::{Fate, RuleCache, RuleRevision, RuleSet};
use tickwire_node::config::{Config, LoadOptions};
use tickwire_router_node::decisions::{Engine, IntakeEvent, IntakeReport, Order, Readable, Source, Tenure};
use tickwire_testkit::blank_event;

const RULES: u64 = 100;
const GATEWAYS: usize = 100;
const SYMBOLS: usize = 500;
const TENURE: Tenure = Tenure { source: Source::Partition(Partition(0)), number: 1 };
const NOW: Millis = Millis(0);

/// How many events are read before sections are sent, about as many as a busy router reads in a window of 2 ms.
const WINDOW: usize = 256;

/// How many events are routed for a distribution.
const MEASURED: usize = 300_000;

/// The bytes of one cache.
const CACHE: usize = 8 * 1024 * 1024;

/// What the gateways want.
struct RoutingLoad {
    name: &'static str,
    /// How many symbols a gateway wants; `None` means any.
    symbols: Option<u64>,
}

/// In the first load about 10 of the 100 gateways want an event, as where clients are placed by what they want. In the
/// second nearly all of them do.
const LOADS: [RoutingLoad; 2] = [
    RoutingLoad { name: "a tenth of the symbols each", symbols: Some(SYMBOLS as u64 / 10) },
    RoutingLoad { name: "every symbol", symbols: None },
];

/// With the route cache and without.
const CACHES: [(&str, usize); 2] = [("cached", CACHE), ("uncached", 0)];

/// Spreads numbers evenly over all 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn symbol(number: u64) -> String {
    format!("S{number:03}")
}

/// One of the symbols.
fn any_symbol(bits: u64) -> String {
    symbol(mix(bits) % SYMBOLS as u64)
}

fn gateway(number: usize) -> NodeRef {
    NodeRef { id: NodeId::new(&format!("gateway-{number}")).unwrap(), nonce: Nonce(number as u64) }
}

/// Rules as operators write them: most of them match few events.
fn rule(number: u64) -> Value {
    let bits = mix(number);
    let symbols: Vec<String> = (0..5).map(|draw| any_symbol(bits ^ draw)).collect();
    let further = match number % 4 {
        0 => json!({ "field": "symbol", "in": symbols }),
        1 => json!({ "field": "tier", "eq": Tier::ALL[(bits >> 8) as usize % Tier::ALL.len()].as_str() }),
        2 => json!({ "field": "data.volume", "min": 100_000 + (bits >> 16) % 8 * 50_000 }),
        _ => json!({ "field": "tags", "contains": format!("tag{}", (bits >> 24) % 8) }),
    };
    let least = 0.5 + (bits % 10) as f64 / 20.0;
    let mut rule = json!({
        "id": format!("r{number}"),
        "order": number,
        "when": {
            "kind": "pattern",
            "type": if number.is_multiple_of(2) { "Breakout*" } else { "*" },
            "conditions": [{ "field": "confidence", "min": least }, further],
        },
    });
    match number % 10 {
        0 => rule["set_priority"] = json!("high"),
        1 => rule["ttl_ms"] = json!(60_000),
        2 => rule["sample"] = json!(0.999),
        3 | 4 => {
            rule["strategy"] = json!(if number % 10 == 3 { "round_robin" } else { "load_balanced" });
            rule["rooms"] = json!(["a", "b", "c"]);
        }
        _ => rule["add_tags"] = json!([format!("rule{number}")]),
    }
    rule
}

fn rules() -> Arc<RuleSet> {
    let rules: Vec<Value> = (0..RULES).map(rule).collect();
    let (set, skipped) = RuleSet::compile(RuleRevision(1), &rules, &Kinds::default());
    assert_eq!((set.rules().len() as u64, skipped), (RULES, vec![]));
    Arc::new(set)
}

/// For each symbol, the share of the events that have it or one before it: Zipf 1.0.
fn zipf() -> Vec<f64> {
    let up_to = |symbols: usize| (1..=symbols).map(|rank| 1.0 / rank as f64).sum::<f64>();
    (1..=SYMBOLS).map(|symbols| up_to(symbols) / up_to(SYMBOLS)).collect()
}

/// Events with a confidence that is uniform over 0.50 to 0.99, and symbols by Zipf 1.0.
fn events(count: usize) -> Vec<Event> {
    let shares = zipf();
    let event = |number: u64| {
        let bits = mix(number);
        let place = f64::from(bits as u32) / f64::from(u32::MAX);
        let rank = shares.partition_point(|share| *share < place).min(SYMBOLS - 1);
        let confidence = Confidence::new(0.5 + ((bits >> 32) % 50) as f64 / 100.0);
        let pattern = ["BreakoutBO", "DoubleBottom", "BullFlag", "Hammer", "Doji"][rank % 5];
        let symbol = symbol(rank as u64);
        Event {
            key: symbol.as_str().into(),
            symbol: Some(Symbol::new(&symbol).unwrap()),
            pattern: Some(Pattern::new(pattern).unwrap()),
            tier: Some(Tier::ALL[rank % Tier::ALL.len()]),
            confidence,
            priority: Priority::from_confidence(confidence),
            tags: vec![format!("tag{}", rank % 8).into()],
            data: Map::from_iter([
                ("price".to_owned(), json!(117.25)),
                ("volume".to_owned(), json!(100_000 + rank * 1_000)),
            ]),
            ..blank_event()
        }
    };
    (0..count as u64).map(event).collect()
}

/// Room for all gateways, which are in no view.
fn limits() -> TableLimits {
    let shipped = TableLimits::default();
    TableLimits { outsiders: GATEWAYS, outsider_bytes: shipped.gateway_bytes, ..shipped }
}

impl RoutingLoad {
    /// What a gateway wants: symbols, from a threshold on that some others share.
    fn filter(&self, number: usize) -> Filter {
        let drawn = |draw: u64| Symbol::new(&any_symbol((number as u64) << 16 | draw)).unwrap();
        let symbols = self.symbols.map(|count| (0..count).map(drawn).collect());
        let least = 0.5 + (number % 5) as f64 / 100.0;
        Filter { symbols, min_confidence: Confidence::new(least), ..Filter::default() }
    }

    /// The interest of each gateway.
    fn interest(&self) -> Vec<InterestLog> {
        let log = |number| {
            let mut log = InterestLog::new(gateway(number), View::default(), 0, Bounds::default());
            log.add(&Arc::new(self.filter(number)));
            log.cut(NOW).unwrap();
            log
        };
        (0..GATEWAYS).map(log).collect()
    }

    /// The interest as a router keeps it.
    fn table(&self) -> InterestTable {
        let mut table = InterestTable::new(limits());
        for (number, log) in self.interest().iter().enumerate() {
            table.snapshot(NOW, log.sent().parts(&gateway(number), log.revision(), 100_000));
        }
        assert_eq!(table.known().count(), GATEWAYS);
        table
    }

    /// An engine that owns a partition and knows the interest.
    fn engine(&self, cache: usize) -> Engine {
        let mut config = Config::load(&LoadOptions::default()).unwrap().router;
        // Half of it is for rules.
        config.route_cache_bytes = 2 * cache;
        let mut engine = Engine::new(&config, limits(), Epoch::default());
        engine.handle_order(NOW, Order::Own { tenure: TENURE, checkpoint: Seq(0) });
        for (number, log) in self.interest().iter().enumerate() {
            let parts = log.sent().parts(&gateway(number), log.revision(), 100_000);
            engine.handle_snapshot(NOW, gateway(number), Some(parts));
        }
        send(&mut engine);
        engine
    }
}

/// Sends what the engine has collected, to nowhere.
fn send(engine: &mut Engine) {
    engine.checkpoint(NOW);
    black_box(engine.take_outputs());
}

/// A router between the reading of an event and the sending of sections.
struct Router {
    set: Arc<RuleSet>,
    rules: RuleCache,
    engine: Engine,
    wire: Bytes,
    last: u64,
}

impl Router {
    fn new(load: &RoutingLoad, cache: usize) -> Self {
        let (set, rules, engine) = (rules(), RuleCache::new(cache), load.engine(cache));
        Self { set, rules, engine, wire: vec![0; 400].into(), last: 0 }
    }

    /// Routes an event.
    fn route(&mut self, published: Event) {
        self.last += 1;
        let seq = Seq(self.last);
        let routed = self.rules.apply(NOW, &self.set, &published, seq, |_, _| {});
        let mut events = Vec::new();
        if routed.fate == Fate::Kept {
            let mut event = Event { handling: routed.handling().map(Box::new), ..published };
            routed.change(&mut event);
            events.push(Readable { seq, event, wire: self.wire.clone(), trace: None });
        }
        let what = IntakeEvent::Events { through: seq, mark: None, events };
        self.engine.read(NOW, IntakeReport { tenure: TENURE, what });
    }
}

fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Routes events one by one, and prints how long they took.
fn distribution(load: &RoutingLoad, (name, cache): (&str, usize), events: &[Event]) {
    let mut router = Router::new(load, cache);
    let mut single = Histogram::<u64>::new_with_max(1_000_000_000, 3).unwrap();
    let mut whole = Duration::ZERO;
    for window in events.chunks(WINDOW) {
        let copies = window.to_vec();
        let begun = Instant::now();
        let mut before = begun;
        for event in copies {
            router.route(event);
            let now = Instant::now();
            single.saturating_record((now - before).as_nanos() as u64);
            before = now;
        }
        send(&mut router.engine);
        whole += begun.elapsed();
    }
    let [p50, p99] = [0.5, 0.99].map(|quantile| single.value_at_quantile(quantile) as f64 / 1e3);
    let gateways = router.engine.take_matches() as f64 / events.len() as f64;
    println!("{}, {name}: {gateways:.1} gateways per event", load.name);
    println!(
        "  {:>9.0} events/s of one core; an event takes p50 {p50:.2} µs, p99 {p99:.2} µs",
        events.len() as f64 / whole.as_secs_f64()
    );
    let (of_rules, (of_interest, _)) = (router.rules.take_counts(), router.engine.take_cache_counts());
    for (stage, counts) in [("rules", of_rules), ("interest", of_interest)] {
        let lookups = counts.hits + counts.misses;
        let share = counts.hits as f64 / lookups.max(1) as f64 * 100.0;
        println!("  {lookups:>9} lookups for {stage}, {share:.1} % hits, {} evictions", counts.evictions);
    }
}

/// All that a router does with an event.
fn routing(criterion: &mut Criterion) {
    let events = events(if measuring() { MEASURED } else { WINDOW });
    for load in &LOADS {
        for cache in CACHES {
            distribution(load, cache, &events);
        }
    }
    let window = &events[..WINDOW];
    let mut group = criterion.benchmark_group("routing");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(WINDOW as u64));
    for load in &LOADS {
        for (name, cache) in CACHES {
            let mut router = Router::new(load, cache);
            group.bench_function(BenchmarkId::new(name, load.name), |bencher| {
                let route = |events: Vec<Event>| {
                    events.into_iter().for_each(|event| router.route(event));
                    send(&mut router.engine);
                };
                bencher.iter_batched(|| window.to_vec(), route, BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

/// The two decisions that the route cache remembers, by themselves.
fn decisions(criterion: &mut Criterion) {
    let events = events(10_000);
    let set = rules();
    let mut group = criterion.benchmark_group("decisions");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    for (name, cache) in CACHES {
        let (mut rules, mut at) = (RuleCache::new(cache), (0..events.len()).cycle());
        group.bench_function(BenchmarkId::new("rules", name), |bencher| {
            bencher.iter(|| {
                let event = &events[at.next().unwrap_or_default()];
                rules.apply(NOW, &set, event, Seq(1), |_, _| {}).matched.len()
            });
        });
    }
    for load in &LOADS {
        let mut table = load.table();
        for (name, cache) in CACHES {
            let (mut cache, mut at) = (GatewayCache::new(cache), (0..events.len()).cycle());
            group.bench_function(BenchmarkId::new(format!("interest, {name}"), load.name), |bencher| {
                bencher.iter(|| {
                    let (event, mut found) = (&events[at.next().unwrap_or_default()], 0);
                    table.matching_cached(&mut cache, NOW, event, |gateway| found += black_box(gateway).nonce.0);
                    found
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, routing, decisions);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
