//! Rules by way of the route cache, which knows the rules that match the events of a class.
//!
//! The cache decides only what follows from the class: which rules match. What these do with an event is decided for
//! each event, so samples and rooms that follow from the key or the sequence are not in the cache.

use std::sync::Arc;

use super::{Routed, RuleIndex, RuleSet};
use crate::event::Event;
use crate::filter::long_values::LongValues;
use crate::ids::{Millis, Seq};
use crate::route_cache::{CacheCounts, RouteCache};

/// The rules that match a class, in order, up to the first that drops its events.
pub(super) type MatchingRules = Box<[RuleIndex]>;

/// The rules that match each class, for one reader of events.
#[derive(Debug)]
pub struct RuleCache {
    routes: RouteCache<MatchingRules>,
    /// The set that was applied last. While it is held here, no other set has its address.
    set: Arc<RuleSet>,
    /// The number of that set.
    basis: u64,
}

impl RuleCache {
    /// Nothing is remembered yet. It takes at most this many bytes; with 0 it decides without a cache.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        Self { routes: RouteCache::new(most_bytes), set: Arc::default(), basis: 0 }
    }

    /// The decision of `set` on an event, the same as that of [`RuleSet::apply`]. Calls `observe` after each rule that
    /// was asked, and with `true` for each that matched.
    pub fn apply<'s>(
        &mut self,
        now: Millis,
        set: &'s Arc<RuleSet>,
        event: &Event,
        seq: Seq,
        mut observe: impl FnMut(RuleIndex, bool),
    ) -> Routed<'s> {
        let of_kind = set.buckets.of(&event.kind);
        if self.routes.is_off() || !of_kind.is_worth_a_cache() {
            return set.apply_observed(event, seq, observe);
        }
        if !Arc::ptr_eq(&self.set, set) {
            self.set = Arc::clone(set);
            self.basis += 1;
        }
        of_kind.tested.write_class(event, self.routes.begin_key());
        let routed = match self.routes.find(now, self.basis) {
            Some(matching) => set.apply_matching(matching, event, seq),
            None => {
                let matching = set.matching(event, |index| observe(index, false));
                let routed = set.apply_matching(&matching, event, seq);
                let bytes = size_of_val(&*matching);
                self.routes.remember(now, self.basis, matching, bytes);
                routed
            }
        };
        routed.matched.iter().for_each(|index| observe(*index, true));
        routed
    }

    /// The number of remembered classes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether no class is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// What the cache has done since the last call.
    pub fn take_counts(&mut self) -> CacheCounts {
        self.routes.take_counts()
    }
}

impl RuleSet {
    /// The rules that match an event, whatever its sequence. Calls `observe` after each rule that was asked.
    fn matching(&self, event: &Event, mut observe: impl FnMut(RuleIndex)) -> MatchingRules {
        let mut matching = Vec::new();
        let mut long = LongValues::default();
        for index in &self.buckets.of(&event.kind).rules {
            let rule = self.rule(*index);
            let is_match = rule.when.admits(event, &mut long);
            observe(*index);
            if is_match {
                matching.push(*index);
                if rule.actions.drop {
                    break;
                }
            }
        }
        matching.into_boxed_slice()
    }

    /// The decision on an event that these rules match.
    fn apply_matching(&self, matching: &[RuleIndex], event: &Event, seq: Seq) -> Routed<'_> {
        let mut routed = Routed::unchanged(self);
        for index in matching {
            routed.add(*index, &self.rule(*index).actions, event, seq);
            if routed.has_ended() {
                break;
            }
        }
        routed
    }
}

#[cfg(test)]
mod tests {
    use super::super::oracle_tests::{event, rules};
    use super::super::{Fate, RuleRevision};
    use super::*;
    use crate::event::{Kinds, blank_event};
    use crate::ids::Confidence;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn set(rules: &[Value]) -> Arc<RuleSet> {
        let (set, skipped) = RuleSet::compile(RuleRevision(1), rules, &Kinds::default());
        assert_eq!(skipped, []);
        Arc::new(set)
    }

    /// What becomes of an event: the rules, and the bytes of the event if it is kept.
    fn outcome(routed: &Routed<'_>, event: &Event) -> (Vec<RuleIndex>, Fate, Vec<u8>) {
        let mut changed = Event { handling: routed.handling().map(Box::new), ..event.clone() };
        routed.change(&mut changed);
        (routed.matched.clone(), routed.fate, rmp_serde::to_vec(&changed).unwrap())
    }

    fn apply(cache: &mut RuleCache, set: &Arc<RuleSet>, event: &Event, seq: u64) -> (Vec<RuleIndex>, Fate, Vec<u8>) {
        outcome(&cache.apply(Millis(0), set, event, Seq(seq), |_, _| {}), event)
    }

    /// The same rules four times, so that they are more than the fields that they test.
    fn repeated(rules: &[Value]) -> Arc<RuleSet> {
        let copy = |(number, rule): (usize, &Value)| {
            let mut rule = rule.clone();
            rule["id"] = json!(format!("{}-{number}", rule["id"].as_str().unwrap()));
            rule
        };
        let copies = std::iter::repeat_n(rules, 4).flatten().enumerate().map(copy);
        set(&copies.collect::<Vec<_>>())
    }

    /// Four rules that look at one field, so that a cache is worth it.
    fn four(last: &Value) -> Arc<RuleSet> {
        let min = |least: f64| json!({ "conditions": [{ "field": "confidence", "min": least }] });
        set(&[
            json!({ "id": "a", "order": 1, "when": min(0.5), "add_tags": ["a"] }),
            json!({ "id": "b", "order": 2, "when": min(0.7), "add_tags": ["b"] }),
            json!({ "id": "c", "order": 3, "when": min(0.9), "add_tags": ["c"] }),
            last.clone(),
        ])
    }

    #[test]
    fn class_is_known_until_the_rules_change() {
        let (first, second) = (four(&json!({ "id": "d", "ttl_ms": 1 })), four(&json!({ "id": "d", "ttl_ms": 2 })));
        let mut cache = RuleCache::new(100_000);
        let confident = |value: f64| Event { confidence: Confidence::new(value), ..blank_event() };
        for (set, value, hits) in [(&first, 0.71, 0), (&first, 0.85, 1), (&first, 0.95, 0), (&second, 0.85, 0)] {
            let event = confident(value);
            let expected = outcome(&set.apply(&event, Seq(7)), &event);
            assert_eq!(apply(&mut cache, set, &event, 7), expected);
            let counts = CacheCounts { hits, misses: 1 - hits, evictions: 0 };
            assert_eq!(cache.take_counts(), counts, "{value}");
        }
    }

    #[test]
    fn sample_and_turn_are_decided_for_each_event_of_a_class() {
        let event = Event { confidence: Confidence::new(0.8), ..blank_event() };
        let mut cache = RuleCache::new(100_000);
        let sampled = four(&json!({ "id": "d", "order": -1, "sample": 0.25 }));
        let kept = (1..=28).filter(|seq| apply(&mut cache, &sampled, &event, *seq).1 == Fate::Kept);
        assert_eq!(kept.collect::<Vec<u64>>(), [5, 6, 7, 19, 21, 24, 27, 28]);
        let turns = four(&json!({ "id": "d", "order": 9, "strategy": "round_robin", "rooms": ["x", "y", "z"] }));
        for seq in 0..9 {
            let expected = outcome(&turns.apply(&event, Seq(seq)), &event);
            assert_eq!(apply(&mut cache, &turns, &event, seq), expected);
        }
        assert_eq!(cache.take_counts(), CacheCounts { hits: 27 + 8, misses: 2, evictions: 0 });
    }

    #[test]
    fn every_match_is_observed_once_also_where_the_class_is_known() {
        let set = four(&json!({ "id": "d", "order": 0, "ttl_ms": 1 }));
        let event = Event { confidence: Confidence::new(0.8), ..blank_event() };
        let mut cache = RuleCache::new(100_000);
        for asked in [4, 0] {
            let (mut rules, mut matched) = (0, Vec::new());
            let observe = |index: RuleIndex, is_match| if is_match { matched.push(index.0) } else { rules += 1 };
            cache.apply(Millis(0), &set, &event, Seq(1), observe);
            assert_eq!((rules, matched), (asked, vec![0, 1, 2]));
        }
    }

    proptest! {
        /// With the cache, events become the same bytes as without, while the rules change.
        #[test]
        fn cached_rules_decide_as_others_do(
            sets in prop::collection::vec(rules(), 1..4),
            steps in prop::collection::vec((0..12_usize, 0..1_000_u64, 0..40_usize), 1..120),
            events in prop::collection::vec(event(), 12),
            most_bytes in prop_oneof![Just(0_usize), 300..3_000_usize, Just(1_000_000)],
        ) {
            let sets: Vec<Arc<RuleSet>> = sets.iter().map(|rules| repeated(rules)).collect();
            let (mut cache, mut present) = (RuleCache::new(most_bytes), 0);
            for (at, seq, change) in steps {
                present = if change < sets.len() { change } else { present };
                let expected = outcome(&sets[present].apply(&events[at], Seq(seq)), &events[at]);
                prop_assert_eq!(apply(&mut cache, &sets[present], &events[at], seq), expected);
            }
        }
    }
}
