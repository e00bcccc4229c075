//! Rules: an operator's orders for events. A rule matches events by kind, type and conditions; it changes them, and says
//! how they are spread.
//!
//! ## How rules combine
//!
//! * **Every rule looks at the event as it was published**, never at what another rule made of it. So whether a rule
//!   matches does not depend on the others.
//! * **All matching rules count, in order** of `order`, then of their ids.
//! * **Of what an event has once, the last matching rule that says it wins**: `strategy`, `set_priority`, `ttl_ms`. So
//!   general rules stand first, exceptions after them.
//! * **What an event can have several of adds up**: `add_tags`, `rooms`.
//! * **Transforms are made one after the other**, each on the result of the one before. Within a rule the order is
//!   `rename`, `drop`, `set`, `round`, and in each of these alphabetical.
//! * **`drop` ends it**: the event goes nowhere, and later rules are not asked. So does a `sample` that does not keep the
//!   event. Samples choose by a hash of the sequence alone, so of several the smallest share counts.
//! * **Rooms belong to the strategy** in a rule with `broadcast`, `load_balanced` or `round_robin`: if a later rule names
//!   another strategy, they do not count. The rooms of any other rule are added to those of the event. A choice of one
//!   room takes the event out of the other rooms of that rule, so it is in exactly one of them.
//!
//! ## What cannot happen
//!
//! A rule never widens an audience: nothing here can change it, and every strategy spreads within it. A decision is a
//! pure function of the rules, the event and its sequence, so a replay with the same revision agrees with the live path.
//!
//! `parse` reads a rule, `rule` is one that is valid. `field`, `condition` and `type_pattern` are what it matches,
//! `slots` and `transform` what it does. `routed` is the result for one event; `explain` says why. `tested` is what the
//! rules of a kind test, and `cache` remembers which of them match.

pub mod limits;

mod fault;
mod parse;
mod rule;

mod condition;
mod field;
mod type_pattern;

mod slots;
mod transform;

mod buckets;
mod cache;
mod compile;
mod defaults;
mod explain;
mod routed;
mod tested;
mod usage;

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::filter::long_values::LongValues;
use crate::ids::Seq;

pub use cache::RuleCache;
pub use compile::SkippedRule;
pub use defaults::{DEFAULT_RULES, default_rules};
pub use explain::{Explanation, RuleOutcome};
pub use fault::RuleFault;
pub use routed::{Fate, Routed};
pub use rule::Rule;
pub use usage::{RuleUsage, RuleUsages};

use buckets::KindBuckets;

/// The number of a state of the rules. Every change of a rule increments it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRevision(pub u64);

/// The place of a rule in its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIndex(u16);

/// The rules of one revision, compiled, in order. It never changes: a new revision is another set, which replaces this
/// one between two events.
#[derive(Debug, Default)]
pub struct RuleSet {
    revision: RuleRevision,
    rules: Vec<Rule>,
    buckets: KindBuckets,
}

impl RuleSet {
    /// The revision.
    #[must_use]
    pub fn revision(&self) -> RuleRevision {
        self.revision
    }

    /// Every rule in order, also those that are not enabled.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether no rule is enabled, so that every event is routed by content.
    #[must_use]
    pub fn is_inactive(&self) -> bool {
        !self.rules.iter().any(|rule| rule.enabled)
    }

    /// The decision on an event. It allocates only if a rule matches or looks into a long list or text, or when a
    /// regex is first used in a thread. `event` must have all of its data.
    #[must_use]
    pub fn apply(&self, event: &Event, seq: Seq) -> Routed<'_> {
        self.apply_observed(event, seq, |_, _| {})
    }

    /// Like [`Self::apply`]; calls `observe` after each rule that was asked, with whether it matched. A caller with a
    /// clock measures the rules this way.
    pub fn apply_observed(&self, event: &Event, seq: Seq, mut observe: impl FnMut(RuleIndex, bool)) -> Routed<'_> {
        let mut routed = Routed::unchanged(self);
        let mut long = LongValues::default();
        for index in &self.buckets.of(&event.kind).rules {
            let rule = self.rule(*index);
            let is_match = rule.when.admits(event, &mut long);
            if is_match {
                routed.add(*index, &rule.actions, event, seq);
            }
            observe(*index, is_match);
            if routed.has_ended() {
                break;
            }
        }
        routed
    }

    /// Why each rule matches `event` or not, in order.
    #[must_use]
    pub fn explain(&self, event: &Event, seq: Seq) -> Vec<Explanation> {
        explain::explain(&self.rules, event, seq)
    }

    fn rule(&self, index: RuleIndex) -> &Rule {
        &self.rules[usize::from(index.0)]
    }
}

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod explain_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;
