//! The route cache: it remembers what was decided on the events of a class, for the next event of that class.
//!
//! A class is all events that a decision cannot tell apart. Its key has everything that the decision looks at. Keys are
//! compared whole, so two classes never share a decision, whatever their hashes. `rules::cache` decides which rules
//! match, and `interest::table::cached` which gateways want an event.
//!
//! * The cache is bounded in bytes. The class that was not looked up for the longest time is removed first.
//! * A decision counts for one basis, the number of a state of the rules or of the interest, and for [`TTL_MS`]. A new
//!   basis costs nothing: older decisions are not found any more, and are replaced or removed in their turn.
//! * A cache has one owner and no lock. A lookup allocates nothing.

use foldhash::fast::RandomState;
use lru::LruCache;

use crate::ids::Millis;

/// How long a decision counts, in milliseconds.
pub const TTL_MS: u64 = 5 * 60 * 1_000;

/// The longest key, in bytes. A class with a longer one is not remembered.
pub const MAX_KEY: usize = 1_024;

/// About how many bytes an entry takes beside its key and its decision.
const ENTRY: usize = 128;

/// The key of a class. Parts that are written one after the other never look like other parts.
#[derive(Debug, Default)]
pub struct ClassKey {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl ClassKey {
    /// Adds one of a few values.
    pub(crate) fn byte(&mut self, byte: u8) {
        self.add(&[byte]);
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, number: usize) {
        self.add(&(number as u64).to_le_bytes()[..4]);
        // No list is that long. If one were, its class would not be remembered.
        self.is_too_long |= u32::try_from(number).is_err();
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len());
        self.add(text.as_bytes());
    }

    /// Adds a text, or that there is none.
    pub(crate) fn optional_text(&mut self, text: Option<&str>) {
        self.byte(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > MAX_KEY {
            self.is_too_long = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.is_too_long = false;
    }
}

/// What a cache has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Lookups that found a decision.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Decisions that were removed to make room for others.
    pub evictions: u64,
}

/// A decision.
#[derive(Debug)]
struct Remembered<R> {
    basis: u64,
    decided: Millis,
    /// About how many bytes it takes, with its key.
    bytes: usize,
    route: R,
}

/// The decisions on classes. `R` is a decision.
#[derive(Debug)]
pub struct RouteCache<R> {
    decisions: LruCache<Box<[u8]>, Remembered<R>, RandomState>,
    /// The key of the present event. Its memory is used again.
    key: ClassKey,
    /// About how many bytes all decisions take, with their keys.
    bytes: usize,
    most_bytes: usize,
    counts: CacheCounts,
}

impl<R> RouteCache<R> {
    /// Nothing is remembered yet. With 0 bytes, nothing ever is.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        Self {
            decisions: LruCache::unbounded_with_hasher(RandomState::default()),
            key: ClassKey::default(),
            bytes: 0,
            most_bytes,
            counts: CacheCounts::default(),
        }
    }

    /// Whether nothing is ever remembered, so that a lookup is in vain.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.most_bytes == 0
    }

    /// The number of decisions, also of those that do not count any more.
    #[must_use]
    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// Whether there are no decisions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Begins the key of the next event, which is empty.
    pub(crate) fn begin_key(&mut self) -> &mut ClassKey {
        self.key.clear();
        &mut self.key
    }

    /// The decision on the class whose key was written last, if it counts for `basis`.
    pub(crate) fn find(&mut self, now: Millis, basis: u64) -> Option<&R> {
        let known = if self.key.is_too_long { None } else { self.decisions.get(&self.key.bytes[..]) };
        match known {
            Some(known) if known.basis == basis && now.since(known.decided) <= TTL_MS => {
                self.counts.hits += 1;
                Some(&known.route)
            }
            _ => {
                self.counts.misses += 1;
                None
            }
        }
    }

    /// Remembers the decision on the class whose key was written last. It takes about `bytes`.
    pub(crate) fn remember(&mut self, now: Millis, basis: u64, route: R, bytes: usize) {
        let bytes = ENTRY + self.key.bytes.len() + bytes;
        if self.key.is_too_long || bytes > self.most_bytes {
            return;
        }
        let remembered = Remembered { basis, decided: now, bytes, route };
        if let Some(former) = self.decisions.put(self.key.bytes.as_slice().into(), remembered) {
            self.bytes -= former.bytes;
        }
        self.bytes += bytes;
        while self.bytes > self.most_bytes {
            let Some((_, removed)) = self.decisions.pop_lru() else { break };
            self.bytes -= removed.bytes;
            self.counts.evictions += 1;
        }
    }

    /// What it has done since the last call.
    pub fn take_counts(&mut self) -> CacheCounts {
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Looks a class up. Its decision is the name of the class.
    fn find(cache: &mut RouteCache<String>, now: u64, basis: u64, class: &str) -> Option<String> {
        cache.begin_key().text(class);
        cache.find(Millis(now), basis).cloned()
    }

    /// Looks a class up, and decides if its decision is not known.
    fn decide(cache: &mut RouteCache<String>, now: u64, basis: u64, class: &str) -> bool {
        let found = find(cache, now, basis, class);
        if found.is_none() {
            cache.remember(Millis(now), basis, class.to_owned(), class.len());
        }
        assert!(found.as_deref().is_none_or(|found| found == class), "{class}: {found:?}");
        found.is_some()
    }

    #[test]
    fn decision_counts_for_five_minutes_and_for_its_basis() {
        let mut cache = RouteCache::new(10_000);
        assert!(!decide(&mut cache, 10, 1, "a"));
        assert!(decide(&mut cache, 10 + TTL_MS, 1, "a"));
        assert!(!decide(&mut cache, 11 + TTL_MS, 1, "a"), "it is too old");
        assert!(decide(&mut cache, 12 + TTL_MS, 1, "a"));
        assert!(!decide(&mut cache, 13 + TTL_MS, 2, "a"), "the basis has changed");
        assert!(decide(&mut cache, 14 + TTL_MS, 2, "a"));
        assert_eq!(cache.take_counts(), CacheCounts { hits: 3, misses: 3, evictions: 0 });
        assert_eq!((cache.take_counts(), cache.len()), (CacheCounts::default(), 1));
    }

    #[test]
    fn class_that_was_not_looked_up_for_the_longest_time_is_removed_first() {
        let entry = ENTRY + 4 + 2;
        let mut cache = RouteCache::new(3 * entry);
        for class in ["a", "b", "c", "a", "d"] {
            decide(&mut cache, 0, 1, class);
        }
        assert_eq!((cache.len(), cache.bytes, cache.take_counts().evictions), (3, 3 * entry, 1));
        let known = ["a", "b", "c", "d"].map(|class| find(&mut cache, 0, 1, class).is_some());
        assert_eq!(known, [true, false, true, true]);
    }

    #[test]
    fn cache_without_bytes_and_class_with_a_long_key_remember_nothing() {
        let mut off = RouteCache::new(0);
        assert!(off.is_off() && !decide(&mut off, 0, 1, "a") && !decide(&mut off, 0, 1, "a"));
        let mut cache = RouteCache::new(1_000_000);
        let long = "x".repeat(MAX_KEY);
        assert!(!decide(&mut cache, 0, 1, &long) && !decide(&mut cache, 0, 1, &long));
        assert!(off.is_empty() && cache.is_empty());
        assert_eq!(cache.take_counts(), CacheCounts { hits: 0, misses: 2, evictions: 0 });
        let fits = &long[4..];
        assert!(!decide(&mut cache, 0, 1, fits) && decide(&mut cache, 0, 1, fits));
    }

    #[test]
    fn texts_that_are_cut_otherwise_have_another_key() {
        let key = |texts: &[Option<&str>]| {
            let mut key = ClassKey::default();
            texts.iter().for_each(|text| key.optional_text(*text));
            key.bytes
        };
        let keys = [
            key(&[Some("ab"), Some("c")]),
            key(&[Some("a"), Some("bc")]),
            key(&[Some("abc"), Some("")]),
            key(&[Some("abc"), None]),
            key(&[None, Some("abc")]),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
    }

    proptest! {
        /// It finds exactly what a list in the order of use would find, and keeps its bytes.
        #[test]
        fn cache_agrees_with_a_naive_list(
            steps in prop::collection::vec(("[a-d]{1,2}", 0..200_000_u64, 0..20_u8), 0..200),
            places in 1_usize..8,
        ) {
            let mut cache = RouteCache::new(places * (ENTRY + 4 + 4));
            // The last used comes last.
            let mut naive: Vec<(String, u64, u64)> = Vec::new();
            let (mut now, mut basis) = (0, 0);
            for (class, passed, change) in steps {
                now += passed;
                basis += u64::from(change == 0);
                let known = naive.iter().position(|(other, ..)| *other == class).map(|at| naive.remove(at));
                let counts = |(_, decided, of): &(String, u64, u64)| now - decided <= TTL_MS && *of == basis;
                let is_known = known.as_ref().is_some_and(counts);
                let entry = known.filter(|_| is_known).unwrap_or((class.clone(), now, basis));
                naive.push(entry);
                let size = |class: &String| ENTRY + 4 + 2 * class.len();
                while naive.iter().map(|(class, ..)| size(class)).sum::<usize>() > places * (ENTRY + 4 + 4) {
                    naive.remove(0);
                }
                prop_assert_eq!(decide(&mut cache, now, basis, &class), is_known);
                prop_assert_eq!(cache.bytes, naive.iter().map(|(class, ..)| size(class)).sum::<usize>());
                prop_assert_eq!(cache.len(), naive.len());
            }
        }
    }
}
