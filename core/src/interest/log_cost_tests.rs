//! Tests of the cost of interest, in counted steps.

use super::tests::{finish_removals, greedy, log, symbol};
use super::*;
use crate::ids::Confidence;

/// The steps that it takes to remove this many sessions.
fn steps_to_forget(sessions: usize, at_once: bool) -> u64 {
    let (mut log, mut now) = (log(Bounds::default()), Millis(0));
    let filter = |number: usize| {
        // All filters are different, and all want the same few symbols.
        let min_confidence = Confidence::new(number as f64 / 100_000.0);
        let symbols = (0..5).map(|offset| symbol((number + offset) % 20)).collect();
        Arc::new(Filter { symbols: Some(symbols), min_confidence, ..Filter::default() })
    };
    for number in 0..sessions {
        log.add(&filter(number));
    }
    log.cut(now);
    let before = log.topics.steps();
    for number in 0..sessions {
        if !at_once && number % 100 == 0 {
            now = now.plus(5);
            log.cut(now);
        }
        log.remove(now, filter(number));
    }
    finish_removals(&mut log, &mut now);
    assert!(log.sent().wants.is_empty());
    log.topics.steps() - before
}

#[test]
fn removal_cost_is_linear_in_sessions() {
    let [few, many] = [5_000, 10_000].map(|sessions| steps_to_forget(sessions, true));
    assert!(many <= 2 * few + few / 5, "{few} steps for 5,000, {many} for 10,000");
    assert!(many <= 10_000 * 5 * 4, "{many} steps for 50,000 topics");
    // The same if they leave one after the other: useless narrowing is bounded by the turns.
    let [few, many] = [5_000, 10_000].map(|sessions| steps_to_forget(sessions, false));
    assert!(many <= 3 * few, "{few} steps for 5,000, {many} for 10,000");
}

#[test]
fn each_removal_turn_is_bounded() {
    let (mut log, mut now) = (log(Bounds::default()), Millis(0));
    let filters: Vec<_> = (0..40).map(|number| greedy(number % 5, 5, 400 + number, 3)).collect();
    for filter in &filters {
        log.add(filter);
    }
    log.cut(now);
    filters.into_iter().for_each(|filter| log.remove(now, filter));
    let mut turns = 0;
    while let Some(next) = log.next_shrink() {
        assert!(turns == 0 || next > now, "no pause between two turns");
        now = next.max(now);
        let before = log.topics.steps();
        log.cut(now);
        assert!(log.topics.steps() - before <= TURN_STEPS + 16 * 1024);
        turns += 1;
    }
    assert!(turns > 3 && log.sent().wants.is_empty());
}
