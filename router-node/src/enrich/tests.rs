//! What one owner after the other keeps of a partition, and what all routers get of it.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use tickwire_core::context::{ReferenceEntry, SETTLE_MS};
use tickwire_core::event::Regime;
use tickwire_core::ids::{Sector, Symbol};
use tickwire_testkit::blank_event;

const EPOCH: EpochId = EpochId(1);

fn market_event(stored: i64, regime: Regime) -> Event {
    Event { kind: Kind::Market, key: "US".into(), stored: Timestamp(stored), regime: Some(regime), ..blank_event() }
}

fn pattern_event(stored: i64, volume: u32) -> Event {
    let data = json!({ "volume": volume }).as_object().unwrap().clone();
    let symbol = Symbol::new("AAPL").ok();
    Event { key: "AAPL".into(), stored: Timestamp(stored), symbol, data, ..blank_event() }
}

/// Surroundings in which AAPL has a sector, and all entries are known.
fn surroundings() -> Surroundings {
    let mut surroundings = Surroundings::default();
    let entry =
        ReferenceEntry { sector: Sector::new("Tech").unwrap(), name: None, sector_strength: None, market: None };
    surroundings.reference.set(Symbol::new("AAPL").unwrap(), Some(entry), Timestamp(0));
    surroundings.reference.mark_current(Timestamp(i64::MAX));
    surroundings
}

/// Reports everything up to `through`, as the driver does, and returns how many records other routers get.
fn report(partition: &mut PartitionContext, surroundings: &mut Surroundings, through: u64) -> usize {
    if !partition.must_report(Seq(through)) {
        return 0;
    }
    partition.report(surroundings).len()
}

/// The partition as the next owner loads it.
fn restarted(partition: &PartitionContext) -> PartitionContext {
    let volumes = VolumeAverages::from_bytes(&partition.volumes.to_bytes().unwrap()).unwrap();
    let read = |(market, record): (&MarketKey, &MarketRecord)| {
        (market.clone(), MarketRecord::from_bytes(&record.to_bytes().unwrap()).unwrap())
    };
    PartitionContext::with(volumes, partition.reported.iter().map(read).collect())
}

fn regime(context: Option<Box<EventContext>>) -> Option<Regime> {
    context.and_then(|context| context.regime)
}

#[test]
fn market_and_symbol_of_one_partition_meet_after_a_report() {
    let (mut partition, mut known) = (PartitionContext::new(EPOCH), surroundings());
    assert!(partition.enrich(&known, Seq(1), &market_event(1_000, Regime::Bull)).is_none());
    assert_eq!(report(&mut partition, &mut known, 1), 1);
    partition.enrich(&known, Seq(2), &pattern_event(1_001, 100));
    let context = partition.enrich(&known, Seq(3), &pattern_event(1_002, 250)).unwrap();
    let sector = context.sector.map(|sector| sector.to_string());
    assert_eq!((context.regime, context.relative_volume), (Some(Regime::Bull), Some(2.5)));
    assert_eq!(sector.as_deref(), Some("Tech"));
    // Nothing has changed since, until a heartbeat shows that the record is complete.
    assert_eq!(report(&mut partition, &mut known, 3), 0);
    partition.read_heartbeat(Seq(4), Timestamp(2_000));
    assert_eq!(report(&mut partition, &mut known, 4), 1);
}

#[test]
fn event_that_is_read_again_is_recorded_once() {
    let (mut partition, mut known) = (PartitionContext::new(EPOCH), surroundings());
    partition.enrich(&known, Seq(1), &market_event(1_000, Regime::Bull));
    report(&mut partition, &mut known, 1);
    partition.enrich(&known, Seq(5), &market_event(2_000, Regime::Bear));
    partition.read_again(Seq(1));
    assert_eq!(report(&mut partition, &mut known, 1), 0);
    // The second reading finds an event that the first has missed.
    partition.enrich(&known, Seq(4), &market_event(1_500, Regime::Neutral));
    assert_eq!(report(&mut partition, &mut known, 4), 1);
    assert_eq!(regime(partition.enrich(&known, Seq(6), &pattern_event(2_001, 1))), Some(Regime::Neutral));
}

#[test]
fn records_are_forgotten_if_they_may_lack_an_event() {
    let begin = || {
        let (mut partition, mut known) = (PartitionContext::new(EPOCH), surroundings());
        partition.enrich(&known, Seq(1), &market_event(1_000, Regime::Bull));
        report(&mut partition, &mut known, 1);
        (partition, known)
    };
    // A part of what was read was reported, and the rest is read again.
    let (mut partition, mut known) = begin();
    partition.enrich(&known, Seq(5), &market_event(2_000, Regime::Bear));
    partition.read_heartbeat(Seq(9), Timestamp(2_001));
    assert_eq!(report(&mut partition, &mut known, 5), 0);
    partition.read_again(Seq(5));
    partition.read_heartbeat(Seq(9), Timestamp(2_001));
    assert_eq!(report(&mut partition, &mut known, 9), 0);
    // The stream lacks messages.
    let (mut partition, mut known) = begin();
    partition.forget();
    partition.read_heartbeat(Seq(9), Timestamp(2_001));
    assert_eq!(report(&mut partition, &mut known, 9), 0);
    // The next market event begins a new record, which says nothing of the time before.
    partition.enrich(&known, Seq(10), &market_event(3_000, Regime::Bear));
    assert_eq!(report(&mut partition, &mut known, 10), 1);
    assert_eq!(regime(partition.enrich(&known, Seq(8), &pattern_event(2_002, 1))), None);
    assert_eq!(regime(partition.enrich(&known, Seq(11), &pattern_event(3_001, 1))), Some(Regime::Bear));
}

fn event_of(market: &str, stored: i64) -> Event {
    Event { key: market.into(), ..market_event(stored, Regime::Bull) }
}

#[test]
fn flood_of_markets_leaves_a_bounded_number_of_writes_and_no_market_with_traffic_out() {
    let (mut partition, mut known) = (PartitionContext::new(EPOCH), surroundings());
    partition.enrich(&known, Seq(1), &event_of("US", 1));
    partition.enrich(&known, Seq(2), &event_of("US", 2));
    report(&mut partition, &mut known, 2);
    for number in 0..1_000_u64 {
        let seq = 10 + number;
        partition.enrich(&known, Seq(seq), &event_of(&format!("M{number}"), seq as i64));
        report(&mut partition, &mut known, seq);
    }
    partition.enrich(&known, Seq(2_000), &event_of("JP", 2_000));
    assert_eq!(report(&mut partition, &mut known, 2_000), 1, "only what has changed");
    assert_eq!(partition.records.len(), MAX_RECORDS);
    let market = |name: &str| MarketKey::new(name).unwrap();
    for (name, is_kept) in [("US", true), ("JP", true), ("M0", false), ("M900", false), ("M999", true)] {
        assert_eq!(partition.keeps(&known, &market(name)), is_kept, "{name}");
    }
    partition.read_heartbeat(Seq(2_001), Timestamp(2_001));
    assert_eq!(report(&mut partition, &mut known, 2_001), MAX_MARKETS);
    assert_eq!(report(&mut partition, &mut known, 2_001), 0);
}

#[test]
fn more_stored_records_than_there_is_room_for_are_cut_to_those_of_the_highest_rank() {
    let record = |seq: u64| {
        let mut record = MarketRecord::new(EPOCH);
        record.observe(Seq(seq), &event_of("US", 0));
        record
    };
    let stored = (1..=3_000_u64).map(|seq| (MarketKey::new(&format!("M{seq}")).unwrap(), record(seq))).collect();
    let partition = PartitionContext::with(VolumeAverages::new(EPOCH), stored);
    assert_eq!((partition.records.len(), partition.reported.len()), (MAX_RECORDS, MAX_RECORDS));
    assert!(partition.records.values().all(|record| record.through() > Seq(3_000 - MAX_RECORDS as u64)));
}

#[derive(Clone, Debug)]
enum Step {
    Market(Regime),
    Pattern(u32),
    Heartbeat,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::sample::select(vec![Regime::Bull, Regime::Bear]).prop_map(Step::Market),
        (0..1_000_u32).prop_map(Step::Pattern),
        Just(Step::Heartbeat),
        Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn restarts_change_no_context_and_replays_never_contradict_it(
        steps in prop::collection::vec((step(), 0..SETTLE_MS), 1..60),
    ) {
        let (mut steady, mut other) = (PartitionContext::new(EPOCH), PartitionContext::new(EPOCH));
        let (mut known, mut known_other) = (surroundings(), surroundings());
        let (mut stored, mut read) = (0, Vec::new());
        for (index, (step, pause)) in steps.into_iter().enumerate() {
            let seq = Seq(index as u64 + 1);
            stored += pause;
            let event = match step {
                Step::Market(regime) => market_event(stored, regime),
                Step::Pattern(volume) => pattern_event(stored, volume),
                Step::Heartbeat => {
                    steady.read_heartbeat(seq, Timestamp(stored));
                    other.read_heartbeat(seq, Timestamp(stored));
                    report(&mut steady, &mut known, seq.0);
                    report(&mut other, &mut known_other, seq.0);
                    continue;
                }
                Step::Restart => {
                    other = restarted(&other);
                    continue;
                }
            };
            let live = steady.enrich(&known, seq, &event);
            prop_assert_eq!(&live, &other.enrich(&known_other, seq, &event));
            report(&mut steady, &mut known, seq.0);
            report(&mut other, &mut known_other, seq.0);
            read.push((seq, event, live.map(|live| *live).unwrap_or_default()));
        }
        for (seq, event, live) in read {
            let replayed = known.replayed(seq, &event);
            let differ = replayed.regime.zip(live.regime).is_some_and(|(again, live)| again != live);
            prop_assert!(!differ, "{:?} {:?}", replayed, live);
            prop_assert!(replayed.sector.is_none() || replayed.sector == live.sector, "{:?} {:?}", replayed, live);
            prop_assert_eq!(replayed.relative_volume, None);
        }
    }
}
