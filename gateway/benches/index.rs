//! The cost of the index: matching an event, subscribing and unsubscribing, with 10,000, 100,000 and 1,000,000
//! subscriptions. See `LOADS` for the numbers of symbols and filters; each filter has 5 symbols.
//!
//! `cargo bench -p tickwire-gateway --bench index` prints the distribution of single calls (p50, p99) and criterion's
//! means. Under `cargo test` each bench runs once, on the smallest index.

#![expect(clippy::unwrap_used, reason = "a bench that cannot continue should panic")]

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group};
use hdrhistogram::Histogram;
use tickwire_core::event::{Event, Priority, Tier};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Confidence, Pattern, Symbol, UserId};
use tickwire_gateway::index::{Dimension, Index, Subscriber};
use tickwire_testkit::blank_event;

/// A load: how many symbols there are, and how many subscriptions share how many filters.
#[derive(Clone, Copy)]
struct IndexLoad {
    name: &'static str,
    symbols: u64,
    filters: u64,
    subscriptions: u64,
}

const fn load(name: &'static str, symbols: u64, filters: u64, subscriptions: u64) -> IndexLoad {
    IndexLoad { name, symbols, filters, subscriptions }
}

/// The larger the first three are, the more subscriptions an event matches. `1M, few match` has as many matches as
/// `10k` in an index a hundred times as large: the two show whether the cost depends on matches or on subscriptions.
const LOADS: [IndexLoad; 5] = [
    load("10k", 5_000, 20_000, 10_000),
    load("100k", 5_000, 20_000, 100_000),
    load("1M", 5_000, 20_000, 1_000_000),
    load("1M, few match", 500_000, 1_000_000, 1_000_000),
    load("selective", 500, 5_000, 5_000),
];

/// Spreads numbers evenly over all 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn symbol(number: u64) -> Symbol {
    Symbol::new(&format!("S{number:04}")).unwrap()
}

fn user(session: u64) -> UserId {
    UserId::new(&format!("u{session}")).unwrap()
}

impl IndexLoad {
    fn filter(&self, number: u64) -> Arc<Filter> {
        let symbols = (0..5).map(|draw| symbol(mix(number << 8 | draw) % self.symbols)).collect();
        // The thresholds differ as well, so that all filters are different.
        let least = 0.5 + (number % 4) as f64 / 1_000.0;
        Arc::new(Filter { symbols: Some(symbols), min_confidence: Confidence::new(least), ..Filter::default() })
    }

    fn subscriber(number: u64) -> Subscriber {
        Subscriber { session: number, subscription: 1, window_ms: 100, alert: false }
    }

    fn index(&self) -> (Index, Vec<Arc<Filter>>) {
        let filters: Vec<_> = (0..self.filters).map(|number| self.filter(number)).collect();
        let mut index = Index::default();
        for number in 0..self.subscriptions {
            index.register(&user(number), number);
            index.add(Self::subscriber(number), &filters[(mix(number) % self.filters) as usize]);
        }
        (index, filters)
    }

    /// As in the scenario `selective` of `tickwire bench`: any symbol, confidence uniform over 0.50 to 0.99.
    fn events(&self, count: u64) -> Vec<Event> {
        (0..count).map(|number| self.event(mix(number))).collect()
    }

    fn event(&self, bits: u64) -> Event {
        let symbol = symbol(bits % self.symbols);
        let confidence = Confidence::new(0.5 + ((bits >> 32) % 50) as f64 / 100.0);
        Event {
            key: symbol.as_str().into(),
            symbol: Some(symbol),
            pattern: Some(Pattern::new("BreakoutBO").unwrap()),
            tier: Some(Tier::Daily),
            confidence,
            priority: Priority::from_confidence(confidence),
            tags: vec!["high_confidence".into()],
            ..blank_event()
        }
    }
}

fn count(index: &mut Index, event: &Event) -> u64 {
    let mut found = 0;
    index.matching(event, |subscriber| found += 1 + black_box(subscriber.session) / u64::MAX);
    found
}

/// The loads of this run: all of them to measure, and the smallest one as a test that the bench runs.
fn loads() -> &'static [IndexLoad] {
    if measuring() { &LOADS } else { &LOADS[4..] }
}

fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

/// The distribution of single calls. The limit for a match allows 10 ns more for each subscription found.
fn distributions(load: &IndexLoad, index: &mut Index, filters: &[Arc<Filter>]) {
    let histogram = || Histogram::<u64>::new_with_max(1_000_000_000, 3).unwrap();
    let (mut matching, mut found, mut over) = (histogram(), histogram(), histogram());
    for event in load.events(50_000) {
        let since = Instant::now();
        let matches = count(index, &event);
        let took = nanos(since);
        matching.saturating_record(took);
        found.saturating_record(matches);
        over.saturating_record(took.saturating_sub(10 * matches));
    }
    let statistics = index.statistics();
    let sampled: Duration = Dimension::ALL.into_iter().map(|dimension| statistics.of(dimension).sampled).sum();
    let walked = sampled.as_nanos() as u64 / statistics.sampled_events.max(1);
    let (mut subscribing, mut unsubscribing, mut interning) = (histogram(), histogram(), histogram());
    for number in 0..20_000 {
        // Each subscribes with an existing filter, as most do, and then with a new one.
        let session = load.subscriptions + number;
        index.register(&user(session), session);
        let shared = &filters[(mix(session) % load.filters) as usize];
        let since = Instant::now();
        let kept = index.add(IndexLoad::subscriber(session), shared);
        subscribing.saturating_record(nanos(since));
        let since = Instant::now();
        index.remove(session, 1, &kept);
        unsubscribing.saturating_record(nanos(since));
        let own = load.filter(load.filters + number);
        let since = Instant::now();
        let kept = index.add(IndexLoad::subscriber(session), &own);
        index.remove(session, 1, &kept);
        interning.saturating_record(nanos(since));
        index.unregister(&user(session), session);
    }
    println!("{}: {} subscriptions, {} filters", load.name, load.subscriptions, index.statistics().filters);
    let line = |name: &str, of: &Histogram<u64>| {
        println!("  {name:<44} p50 {:>8} p99 {:>8}", of.value_at_quantile(0.5), of.value_at_quantile(0.99));
    };
    line("match, ns", &matching);
    line("subscriptions found", &found);
    println!("  {:<44} mean {walked:>7}", "of a match, finding the filters (sampled), ns");
    line("match less 10 ns for each found, ns", &over);
    line("subscribe with an existing filter, ns", &subscribing);
    line("unsubscribe from it, ns", &unsubscribing);
    line("subscribe with a new filter and unsubscribe, ns", &interning);
}

fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("index");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    for load in loads() {
        let (mut index, filters) = load.index();
        if measuring() {
            distributions(load, &mut index, &filters);
        }
        let events = load.events(1_000);
        let mut at = (0..events.len()).cycle();
        group.bench_function(BenchmarkId::new("match", load.name), |bencher| {
            bencher.iter(|| count(&mut index, &events[at.next().unwrap_or_default()]));
        });
        let mut number = 0;
        group.bench_function(BenchmarkId::new("subscribe and unsubscribe", load.name), |bencher| {
            bencher.iter(|| {
                number += 1;
                let kept = index.add(IndexLoad::subscriber(number), &filters[(mix(number) % load.filters) as usize]);
                index.remove(number, 1, &kept);
            });
        });
    }
    group.finish();
}

/// The lowest possible cost of a match cache, if every event were a hit: to hash the class of an event, and to find it
/// among the 25,000 classes of `selective`. Compare it with the cost of a match.
fn cache(criterion: &mut Criterion) {
    type Class = (Symbol, Option<Pattern>, Option<Tier>, Option<Confidence>, Priority);
    let load = &LOADS[4];
    let class = |event: &Event| -> Option<Class> {
        Some((event.symbol.clone()?, event.pattern.clone(), event.tier, event.confidence, event.priority))
    };
    let events = load.events(1_000);
    let mut known = std::collections::HashMap::with_hasher(foldhash::fast::RandomState::default());
    for event in load.events(100_000) {
        known.insert(class(&event), vec![0_u32; 50]);
    }
    let hasher = known.hasher().clone();
    let mut at = (0..events.len()).cycle();
    criterion.bench_function("cache/hash the class", |bencher| {
        bencher.iter(|| hasher.hash_one(class(&events[at.next().unwrap_or_default()])));
    });
    criterion.bench_function("cache/find the class", |bencher| {
        bencher.iter(|| known.get(&class(&events[at.next().unwrap_or_default()])).map(Vec::len));
    });
}

criterion_group!(benches, index, cache);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}
