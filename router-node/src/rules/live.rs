//! The rules on the live path of one source: its route cache knows which rules match the events of a class. Pure.

use std::sync::Arc;
use tickwire_core::event::Event;
use tickwire_core::ids::{Millis, Seq};
use tickwire_core::route_cache::CacheCounts;
use tickwire_core::rules::{Routed, RuleCache, RuleIndex, RuleSet};

/// What an intake keeps to apply the rules.
#[derive(Debug)]
pub struct LiveRules {
    cache: RuleCache,
    now: Millis,
}

impl LiveRules {
    /// Nothing is remembered yet; the cache takes at most this many bytes.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        Self { cache: RuleCache::new(most_bytes), now: Millis(0) }
    }

    /// From now on, events are read at this time.
    pub fn set_time(&mut self, now: Millis) {
        self.now = now;
    }

    /// See [`RuleCache::apply`].
    pub(super) fn apply<'s>(
        &mut self,
        set: &'s Arc<RuleSet>,
        event: &Event,
        seq: Seq,
        observe: impl FnMut(RuleIndex, bool),
    ) -> Routed<'s> {
        self.cache.apply(self.now, set, event, seq, observe)
    }

    /// What the cache has done since the last call, and the number of its classes.
    pub(crate) fn take_counts(&mut self) -> (CacheCounts, usize) {
        (self.cache.take_counts(), self.cache.len())
    }
}
