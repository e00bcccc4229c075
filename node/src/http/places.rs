//! A bounded number of places, and who goes when they are all taken: of the source that has most of them, the one that
//! has waited for longest. So a source that floods displaces itself, and others find a place.

use super::source::{ClientSource, Proxies};
use slab::Slab;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tickwire_core::ids::Millis;
use tokio::sync::Notify;

/// How long one who is being served is left in peace, in milliseconds; then it counts as one who waits, as it is the
/// peer that does not take its answer.
const PEACE_MS: u64 = 1_000;

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub struct ConnectionSlots(Arc<SharedSlots>);

#[derive(Debug)]
struct SharedSlots {
    most: usize,
    proxies: Arc<Proxies>,
    // Held to count, and to look through the places when all are taken.
    taken: Mutex<TakenSlots>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct TakenSlots {
    places: Slab<(ClientSource, Arc<SlotHolder>)>,
    by_source: HashMap<ClientSource, usize>,
}

/// Who has a place, as far as it is known here.
#[derive(Debug)]
struct SlotHolder {
    /// Since when it waits or is served, in milliseconds.
    since: AtomicU64,
    served: AtomicBool,
    displaced: Notify,
    gone: AtomicBool,
}

/// A taken place, free again when it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    at: usize,
    holder: Arc<SlotHolder>,
    shared: Arc<SharedSlots>,
}

impl ConnectionSlots {
    /// So many places.
    pub fn new(most: usize, proxies: Arc<Proxies>) -> Self {
        Self(Arc::new(SharedSlots { most, proxies, taken: Mutex::default(), freed: Notify::new() }))
    }

    /// A place, unless all are taken.
    pub fn take(&self, source: ClientSource, now: Millis) -> Option<ConnectionSlot> {
        let mut taken = self.0.lock();
        (taken.places.len() < self.0.most).then(|| self.insert(&mut taken, source, now))
    }

    /// The place of one that waits. Until that one has gone there is one more than there should be. `None` if nobody waits.
    pub fn take_over(&self, source: ClientSource, now: Millis) -> Option<ConnectionSlot> {
        self.displace(now).then(|| self.insert(&mut self.0.lock(), source, now))
    }

    fn insert(&self, taken: &mut TakenSlots, source: ClientSource, now: Millis) -> ConnectionSlot {
        let holder = Arc::new(SlotHolder {
            since: AtomicU64::new(now.0),
            served: AtomicBool::new(false),
            displaced: Notify::new(),
            gone: AtomicBool::new(false),
        });
        let at = taken.places.insert((source, Arc::clone(&holder)));
        *taken.by_source.entry(source).or_default() += 1;
        ConnectionSlot { at, holder, shared: Arc::clone(&self.0) }
    }

    /// Tells one that waits to go. `false` if there is none.
    pub fn displace(&self, now: Millis) -> bool {
        let taken = self.0.lock();
        let waits = |holder: &SlotHolder| {
            let since = holder.since.load(Ordering::Relaxed);
            let in_peace = holder.served.load(Ordering::Relaxed) && now.0.saturating_sub(since) < PEACE_MS;
            !in_peace && !holder.gone.load(Ordering::Relaxed)
        };
        let weight = |(source, count): &(&ClientSource, &usize)| (!self.0.proxies.has(source.address()), **count);
        let heaviest = taken.by_source.iter().max_by_key(weight).map(|(source, _)| *source);
        let longest = |of: Option<ClientSource>| {
            let those = taken
                .places
                .iter()
                .map(|(_, place)| place)
                .filter(|(source, holder)| of.is_none_or(|of| of == *source) && waits(holder));
            those.min_by_key(|(_, holder)| holder.since.load(Ordering::Relaxed))
        };
        let chosen = longest(heaviest).or_else(|| longest(None));
        if let Some((_, holder)) = chosen {
            holder.gone.store(true, Ordering::Relaxed);
            holder.displaced.notify_one();
        }
        chosen.is_some()
    }

    /// Waits until a place is left. To be called after [`Self::displace`], by one at a time.
    pub async fn freed(&self) {
        loop {
            let freed = self.0.freed.notified();
            if self.0.lock().places.len() < self.0.most {
                return;
            }
            freed.await;
        }
    }
}

impl SharedSlots {
    fn lock(&self) -> MutexGuard<'_, TakenSlots> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// From now on it waits or is served.
    pub fn is_served(&self, now: Millis, served: bool) {
        self.holder.since.store(now.0, Ordering::Relaxed);
        self.holder.served.store(served, Ordering::Relaxed);
    }

    /// Waits until another one needs the place.
    pub async fn displaced(&self) {
        self.holder.displaced.notified().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.shared.lock();
        let (source, _) = taken.places.remove(self.at);
        if let Some(count) = taken.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                taken.by_source.remove(&source);
            }
        }
        drop(taken);
        self.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn source(last: u8) -> ClientSource {
        ClientSource::of([192, 0, 2, last].into())
    }

    fn is_displaced(place: &ConnectionSlot) -> bool {
        place.displaced().now_or_never().is_some()
    }

    #[test]
    fn a_flood_displaces_itself_the_longest_waiting_first() {
        let places = ConnectionSlots::new(4, Arc::default());
        let honest = places.take(source(1), Millis(0)).unwrap();
        let flood: Vec<ConnectionSlot> = (1..4).map(|at| places.take(source(2), Millis(at)).unwrap()).collect();
        assert!(places.take(source(3), Millis(9)).is_none());
        flood[0].is_served(Millis(5), true);
        assert!(places.displace(Millis(9)));
        assert_eq!(flood.iter().map(is_displaced).collect::<Vec<_>>(), [false, true, false]);
        // The same one is not told twice.
        assert!(places.displace(Millis(9)) && is_displaced(&flood[2]) && !is_displaced(&honest));
        drop(flood);
        assert!(places.freed().now_or_never().is_some());
        assert!(places.take(source(3), Millis(9)).is_some());
    }

    #[test]
    fn one_who_is_served_is_left_in_peace_for_a_while() {
        let places = ConnectionSlots::new(1, Arc::default());
        let place = places.take(source(1), Millis(0)).unwrap();
        place.is_served(Millis(10), true);
        assert!(!places.displace(Millis(10 + PEACE_MS - 1)) && !is_displaced(&place));
        assert!(places.displace(Millis(10 + PEACE_MS)) && is_displaced(&place));
        assert!(!places.displace(Millis(10 + PEACE_MS)));
        drop(place);
        assert!(places.0.lock().by_source.is_empty());
    }

    #[test]
    fn a_proxy_is_displaced_last() {
        let proxies = Proxies::new(vec!["192.0.2.1/32".parse().unwrap()]);
        let places = ConnectionSlots::new(3, Arc::new(proxies));
        let proxied: Vec<ConnectionSlot> = (0..2).map(|at| places.take(source(1), Millis(at)).unwrap()).collect();
        let other = places.take(source(2), Millis(2)).unwrap();
        assert!(places.displace(Millis(3)) && is_displaced(&other));
        assert!(places.displace(Millis(3)) && is_displaced(&proxied[0]) && !is_displaced(&proxied[1]));
    }
}
