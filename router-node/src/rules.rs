//! The rules on their way to the decoder, which applies them to every event that is read, live or again.
//!
//! [`book`] turns what was read of the bucket into sets of rules, and [`driver`] reads the bucket. [`ActiveRules`] holds
//! the current set, and [`apply`] makes its decisions on events: for live events by way of [`live`], which remembers
//! them. [`endpoints`] is the table of the HTTP endpoints for operators, [`http`] answers them, and [`list`] describes
//! the rules and their use.

mod apply;
pub(crate) mod book;
pub(crate) mod driver;
pub(crate) mod endpoints;
pub(crate) mod http;
mod list;
mod live;

use crate::metrics;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_core::rules::{Fate, RuleIndex, RuleSet, RuleUsages};
use tickwire_node::clock::{millis, wall_clock};
use tokio::sync::watch;

pub use apply::ReadPurpose;
use book::KnownRules;
pub use live::LiveRules;

/// The rules by which events are routed now, and how much they are used.
#[derive(Debug)]
pub struct ActiveRules {
    current: watch::Receiver<Arc<KnownRules>>,
    /// The usages, and the set that they are for. All intakes share them. The lock is held only while the counters of
    /// one event are changed, not while its rules are asked.
    usages: Mutex<(Arc<RuleSet>, RuleUsages)>,
}

/// A rule that was asked about an event: whether it matched, and how long that took.
type Asked = (RuleIndex, bool, Duration);

impl ActiveRules {
    /// Follows the states that are sent.
    pub(crate) fn new(current: watch::Receiver<Arc<KnownRules>>) -> Self {
        Self { current, usages: Mutex::default() }
    }

    /// These rules, for good.
    #[must_use]
    pub fn fixed(set: Arc<RuleSet>) -> Self {
        let known = KnownRules { set, ..KnownRules::default() };
        Self::new(watch::channel(Arc::new(known)).1)
    }

    /// The current set. An event is routed by one set, even if another one comes meanwhile.
    fn current(&self) -> Arc<RuleSet> {
        Arc::clone(&self.current.borrow().set)
    }

    /// What is known of the rules.
    pub(crate) fn known(&self) -> Arc<KnownRules> {
        Arc::clone(&self.current.borrow())
    }

    /// How much the rules of `set` are used.
    pub(crate) fn usages(&self, set: &RuleSet) -> RuleUsages {
        let counted = self.lock().1.clone();
        RuleUsages::of(set, &counted)
    }

    /// Notes the rules of `set` that were asked about an event, and what became of it.
    fn note(&self, set: &Arc<RuleSet>, asked: &[Asked], fate: Fate) {
        if asked.is_empty() {
            return;
        }
        if asked.iter().any(|(_, is_match, _)| *is_match) {
            metrics::RULE_MATCHES.with(label(fate)).increment(1);
        }
        let now = Timestamp(millis(wall_clock()).cast_signed());
        let mut usages = self.lock();
        let (known, counted) = &mut *usages;
        if !Arc::ptr_eq(known, set) {
            *counted = RuleUsages::of(set, counted);
            *known = Arc::clone(set);
        }
        for (index, is_match, spent) in asked {
            let spent_ns = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            counted.note(*index, *is_match, spent_ns, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<RuleSet>, RuleUsages)> {
        // Counters that a panic has left behind are still counters.
        self.usages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events each rule has matched.
    #[cfg(test)]
    pub(crate) fn matched(&self) -> Vec<(String, u64)> {
        self.lock().1.iter().map(|(id, usage)| (id.to_owned(), usage.matched)).collect()
    }
}

/// The label of the metric.
fn label(fate: Fate) -> &'static str {
    match fate {
        Fate::Kept => "kept",
        Fate::SampledOut(_) => "sampled_out",
        Fate::Dropped(_) => "dropped",
    }
}

/// Every label of the metric.
pub(crate) fn fates() -> Vec<&'static str> {
    vec!["kept", "sampled_out", "dropped"]
}
