//! Live readings and replays against a naive oracle: a list of everything that was stated.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::{Regime, TradingSession, Volatility, blank_event};
use crate::ids::{EpochId, MarketKey, Sector, Symbol};

/// What a market event states, and how long after the message before it it was stored.
#[derive(Clone, Debug)]
struct Statement {
    pause: i64,
    regime: Option<Regime>,
    volatility: Option<Volatility>,
    strength: Option<u8>,
}

fn statement() -> impl Strategy<Value = Statement> {
    let pause = prop_oneof![0..2_000_i64, SETTLE_MS - 5..SETTLE_MS + 5, 0..3 * SETTLE_MS];
    let regime = prop::option::of(prop::sample::select(vec![Regime::Bull, Regime::Bear]));
    let volatility = prop::option::of(prop::sample::select(vec![Volatility::Low, Volatility::High]));
    (pause, regime, volatility, prop::option::of(0..2_u8)).prop_map(|(pause, regime, volatility, strength)| Statement {
        pause,
        regime,
        volatility,
        strength,
    })
}

/// The market events: the one at index `i` has the sequence `10 * (i + 1)`.
fn market_events(statements: &[Statement]) -> Vec<(Seq, Event)> {
    let mut stored = 1_000_000;
    let mut events = Vec::new();
    for (index, stated) in statements.iter().enumerate() {
        stored += stated.pause;
        let data = json!({
            "volatility_regime": stated.volatility,
            "sector_strength": stated.strength.map(|strength| json!({ "TECH": strength })),
        });
        let event = Event {
            kind: Kind::Market,
            key: "US".into(),
            stored: Timestamp(stored),
            regime: stated.regime,
            data: data.as_object().unwrap().clone(),
            ..blank_event()
        };
        events.push((Seq(10 * (index as u64 + 1)), event));
    }
    events
}

/// What a router knows that has read the first `number` market events, and knows that there are none up to `then`.
fn knowing(events: &[(Seq, Event)], number: usize, then: (Seq, Timestamp)) -> Surroundings {
    let mut record = MarketRecord::new(EpochId(1));
    for (seq, event) in &events[..number] {
        record.observe(*seq, event);
    }
    record.read_through(then.0, then.1);
    let mut surroundings = Surroundings::default();
    surroundings.markets.adopt(MarketKey::new("US").unwrap(), record);
    let entry =
        ReferenceEntry { sector: Sector::new("Tech").unwrap(), name: None, sector_strength: None, market: None };
    surroundings.reference.set(Symbol::new("AAPL").unwrap(), Some(entry), Timestamp(0));
    surroundings.reference.mark_current(Timestamp(i64::MAX));
    surroundings
}

fn pattern_event(stored: i64) -> Event {
    Event {
        symbol: Symbol::new("AAPL").ok(),
        stored: Timestamp(stored),
        session: Some(TradingSession::Regular),
        ..blank_event()
    }
}

/// What the first `number` events have stated last.
fn stated_by(statements: &[Statement], number: usize) -> EventContext {
    let before = || statements[..number].iter().rev();
    EventContext {
        session: Some(TradingSession::Regular),
        regime: before().find_map(|stated| stated.regime),
        volatility: before().find_map(|stated| stated.volatility),
        relative_volume: None,
        sector: Sector::new("Tech").ok(),
        sector_strength: before().find_map(|stated| stated.strength).map(f64::from),
    }
}

proptest! {
    #[test]
    fn replay_gives_what_every_live_reading_gives_or_less(
        statements in prop::collection::vec(statement(), 1..12),
        place in 0..12_usize,
        pause in prop_oneof![0..2_000_i64, SETTLE_MS - 5..SETTLE_MS + 5],
    ) {
        let events = market_events(&statements);
        // The event is stored after the first `place` market events.
        let place = 1 + place % events.len();
        let (last, stored) = (events[place - 1].0, events[place - 1].1.stored.0 + pause);
        let (seq, event) = (Seq(last.0 + 5), pattern_event(stored));

        let end = (Seq(10_000), Timestamp(i64::MAX));
        let replayed = knowing(&events, events.len(), end).replayed(seq, &event);
        let settled = stored - SETTLE_MS;
        // A router may lack those of the events before it that were stored since `settled`.
        let known_to_all = events[..place].iter().filter(|(_, event)| event.stored.0 <= settled).count();
        let mut is_always = [true; 3];
        let exact = stated_by(&statements, place);
        for known in known_to_all..=place {
            let behind = events[..known].last().map_or(Seq(1), |(seq, _)| Seq(seq.0 + 1));
            let live = knowing(&events, known, (behind, Timestamp(settled))).live(seq, &event, None);
            let naive = stated_by(&statements, known);
            prop_assert_eq!(&live, &naive);
            is_always[0] &= naive.regime == exact.regime;
            is_always[1] &= naive.volatility == exact.volatility;
            is_always[2] &= naive.sector_strength == exact.sector_strength;
            for (in_replay, in_live) in [
                (replayed.regime.map(Regime::as_str), live.regime.map(Regime::as_str)),
                (replayed.volatility.map(Volatility::as_str), live.volatility.map(Volatility::as_str)),
            ] {
                prop_assert!(in_replay.is_none() || in_replay == in_live, "{:?} {:?}", replayed, live);
            }
            prop_assert!(replayed.sector_strength.is_none() || replayed.sector_strength == live.sector_strength);
        }
        // It gives no less than it could.
        prop_assert_eq!(replayed.regime, exact.regime.filter(|_| is_always[0]));
        prop_assert_eq!(replayed.volatility, exact.volatility.filter(|_| is_always[1]));
        prop_assert_eq!(replayed.sector_strength, exact.sector_strength.filter(|_| is_always[2]));
        prop_assert_eq!((replayed.session, replayed.sector), (exact.session, exact.sector));
    }

    #[test]
    fn record_that_lags_too_far_gives_nothing(statements in prop::collection::vec(statement(), 1..6), late in 1..9_i64) {
        let events = market_events(&statements);
        let (seq, last) = events.last().unwrap();
        let event = pattern_event(last.stored.0 + SETTLE_MS + late);
        let live = knowing(&events, events.len(), (*seq, last.stored)).live(Seq(seq.0 + 1), &event, Some(1.5));
        let nothing = EventContext { relative_volume: Some(1.5), ..stated_by(&[], 0) };
        prop_assert_eq!(live, nothing);
    }
}

#[test]
fn replay_before_the_record_is_complete_gives_no_state() {
    let bull = Statement { pause: 0, regime: Some(Regime::Bull), volatility: None, strength: None };
    let events = market_events(&[bull]);
    let stored = events[0].1.stored.0 + 2 * SETTLE_MS;
    let event = pattern_event(stored);
    let replayed = |through| knowing(&events, 1, (Seq(through), Timestamp(stored))).replayed(Seq(20), &event);
    assert_eq!(replayed(19).regime, None);
    assert_eq!(replayed(20).regime, Some(Regime::Bull));
}

#[test]
fn market_event_has_only_its_session() {
    let bull = Statement { pause: 0, regime: Some(Regime::Bull), volatility: None, strength: None };
    let events = market_events(&[bull]);
    let event = Event { session: Some(TradingSession::Closed), ..events[0].1.clone() };
    let context = knowing(&events, 1, (Seq(99), event.stored)).live(Seq(50), &event, None);
    assert_eq!(context, EventContext { session: Some(TradingSession::Closed), ..EventContext::default() });
}

#[test]
fn unknown_symbol_has_no_sector_and_the_only_market() {
    let bull = Statement { pause: 0, regime: Some(Regime::Bull), volatility: None, strength: Some(1) };
    let events = market_events(&[bull]);
    let event = Event { symbol: Symbol::new("MSFT").ok(), ..pattern_event(events[0].1.stored.0) };
    let surroundings = knowing(&events, 1, (Seq(99), event.stored));
    let live = surroundings.live(Seq(50), &event, None);
    assert_eq!((live.regime, live.sector, live.sector_strength), (Some(Regime::Bull), None, None));
    let mut two = surroundings;
    two.markets.adopt(MarketKey::new("EU").unwrap(), MarketRecord::new(EpochId(1)));
    assert_eq!(two.live(Seq(50), &event, None).regime, None);
}

#[test]
fn strength_in_the_reference_data_comes_before_that_of_the_market() {
    let strong = Statement { pause: 0, regime: None, volatility: None, strength: Some(1) };
    let events = market_events(&[strong]);
    let event = pattern_event(events[0].1.stored.0);
    let mut surroundings = knowing(&events, 1, (Seq(99), event.stored));
    assert_eq!(surroundings.live(Seq(50), &event, None).sector_strength, Some(1.0));
    let entry =
        ReferenceEntry { sector: Sector::new("Tech").unwrap(), name: None, sector_strength: Some(0.25), market: None };
    surroundings.reference.set(Symbol::new("AAPL").unwrap(), Some(entry), event.stored);
    assert_eq!(surroundings.live(Seq(50), &event, None).sector_strength, Some(0.25));
}
