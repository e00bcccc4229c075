//! A bounded number of slots. When all are taken, a new connection displaces the one that has waited longest, of the
//! client network that has the most slots. So a network that floods displaces itself, and others get a slot.

use super::client_network::{ClientNetwork, Proxies};
use slab::Slab;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tickwire_core::ids::Millis;
use tokio::sync::Notify;

/// How long a connection that is being served cannot be displaced, in milliseconds. After that it counts as waiting,
/// because its peer does not read the answer.
const PROTECTED_MS: u64 = 1_000;

/// The slots. Clones share them.
#[derive(Debug, Clone)]
pub struct ConnectionSlots(Arc<SharedSlots>);

#[derive(Debug)]
struct SharedSlots {
    most: usize,
    proxies: Arc<Proxies>,
    // Locked to count, and to search the slots when all are taken.
    taken: Mutex<TakenSlots>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct TakenSlots {
    places: Slab<(ClientNetwork, Arc<SlotHolder>)>,
    by_network: HashMap<ClientNetwork, usize>,
}

/// The state of the holder of a slot, as seen from the other side.
#[derive(Debug)]
struct SlotHolder {
    /// The time from which it waits or is served, in milliseconds.
    since: AtomicU64,
    served: AtomicBool,
    displaced: Notify,
    gone: AtomicBool,
}

/// A taken slot, free again when it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    at: usize,
    holder: Arc<SlotHolder>,
    shared: Arc<SharedSlots>,
}

impl ConnectionSlots {
    /// Slots, at most `most`.
    pub fn new(most: usize, proxies: Arc<Proxies>) -> Self {
        Self(Arc::new(SharedSlots { most, proxies, taken: Mutex::default(), freed: Notify::new() }))
    }

    /// A slot, unless all are taken.
    pub fn take(&self, network: ClientNetwork, now: Millis) -> Option<ConnectionSlot> {
        let mut taken = self.0.lock();
        (taken.places.len() < self.0.most).then(|| self.insert(&mut taken, network, now))
    }

    /// The slot of a waiting connection. Until that one has ended there is one too many. `None` if nobody waits.
    pub fn take_over(&self, network: ClientNetwork, now: Millis) -> Option<ConnectionSlot> {
        self.displace(now).then(|| self.insert(&mut self.0.lock(), network, now))
    }

    fn insert(&self, taken: &mut TakenSlots, network: ClientNetwork, now: Millis) -> ConnectionSlot {
        let holder = Arc::new(SlotHolder {
            since: AtomicU64::new(now.0),
            served: AtomicBool::new(false),
            displaced: Notify::new(),
            gone: AtomicBool::new(false),
        });
        let at = taken.places.insert((network, Arc::clone(&holder)));
        *taken.by_network.entry(network).or_default() += 1;
        ConnectionSlot { at, holder, shared: Arc::clone(&self.0) }
    }

    /// Notifies a waiting connection that it has to end. `false` if none waits.
    pub fn displace(&self, now: Millis) -> bool {
        let taken = self.0.lock();
        let waits = |holder: &SlotHolder| {
            let since = holder.since.load(Ordering::Relaxed);
            let is_protected = holder.served.load(Ordering::Relaxed) && now.0.saturating_sub(since) < PROTECTED_MS;
            !is_protected && !holder.gone.load(Ordering::Relaxed)
        };
        let weight = |(network, count): &(&ClientNetwork, &usize)| (!self.0.proxies.has(network.address()), **count);
        let heaviest = taken.by_network.iter().max_by_key(weight).map(|(network, _)| *network);
        let longest = |of: Option<ClientNetwork>| {
            let candidates = taken
                .places
                .iter()
                .map(|(_, place)| place)
                .filter(|(network, holder)| of.is_none_or(|of| of == *network) && waits(holder));
            candidates.min_by_key(|(_, holder)| holder.since.load(Ordering::Relaxed))
        };
        let chosen = longest(heaviest).or_else(|| longest(None));
        if let Some((_, holder)) = chosen {
            holder.gone.store(true, Ordering::Relaxed);
            holder.displaced.notify_one();
        }
        chosen.is_some()
    }

    /// Waits until a slot is free. Call it after [`Self::displace`], and only from one task at a time.
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

impl TakenSlots {
    /// One slot of this network less.
    fn uncount(&mut self, network: ClientNetwork) {
        if let Some(count) = self.by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&network);
            }
        }
    }
}

impl SharedSlots {
    fn lock(&self) -> MutexGuard<'_, TakenSlots> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Notes that it is served, or waits, from `now` on.
    pub fn set_served(&self, now: Millis, served: bool) {
        self.holder.since.store(now.0, Ordering::Relaxed);
        self.holder.served.store(served, Ordering::Relaxed);
    }

    /// It counts for this network from now on: that of the client for which a proxy has connected.
    pub fn counts_for(&self, network: ClientNetwork) {
        let mut taken = self.shared.lock();
        let Some((counted, _)) = taken.places.get_mut(self.at) else { return };
        let former = std::mem::replace(counted, network);
        taken.uncount(former);
        *taken.by_network.entry(network).or_default() += 1;
    }

    /// Waits until another connection needs the slot.
    pub async fn displaced(&self) {
        self.holder.displaced.notified().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.shared.lock();
        let (network, _) = taken.places.remove(self.at);
        taken.uncount(network);
        drop(taken);
        self.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn network(last: u8) -> ClientNetwork {
        ClientNetwork::of([192, 0, 2, last].into())
    }

    fn is_displaced(place: &ConnectionSlot) -> bool {
        place.displaced().now_or_never().is_some()
    }

    #[test]
    fn flood_displaces_its_own_longest_waiting_connection() {
        let places = ConnectionSlots::new(4, Arc::default());
        let honest = places.take(network(1), Millis(0)).unwrap();
        let flood: Vec<ConnectionSlot> = (1..4).map(|at| places.take(network(2), Millis(at)).unwrap()).collect();
        assert!(places.take(network(3), Millis(9)).is_none());
        flood[0].set_served(Millis(5), true);
        assert!(places.displace(Millis(9)));
        assert_eq!(flood.iter().map(is_displaced).collect::<Vec<_>>(), [false, true, false]);
        // The same connection is not displaced twice.
        assert!(places.displace(Millis(9)) && is_displaced(&flood[2]) && !is_displaced(&honest));
        drop(flood);
        assert!(places.freed().now_or_never().is_some());
        assert!(places.take(network(3), Millis(9)).is_some());
    }

    #[test]
    fn served_connection_cannot_be_displaced_for_a_while() {
        let places = ConnectionSlots::new(1, Arc::default());
        let place = places.take(network(1), Millis(0)).unwrap();
        place.set_served(Millis(10), true);
        assert!(!places.displace(Millis(10 + PROTECTED_MS - 1)) && !is_displaced(&place));
        assert!(places.displace(Millis(10 + PROTECTED_MS)) && is_displaced(&place));
        assert!(!places.displace(Millis(10 + PROTECTED_MS)));
        drop(place);
        assert!(places.0.lock().by_network.is_empty());
    }

    #[test]
    fn connections_of_a_proxy_are_displaced_last() {
        let proxies = Proxies::new(vec!["192.0.2.1/32".parse().unwrap()]);
        let places = ConnectionSlots::new(3, Arc::new(proxies));
        let proxied: Vec<ConnectionSlot> = (0..2).map(|at| places.take(network(1), Millis(at)).unwrap()).collect();
        let other = places.take(network(2), Millis(2)).unwrap();
        assert!(places.displace(Millis(3)) && is_displaced(&other));
        assert!(places.displace(Millis(3)) && is_displaced(&proxied[0]) && !is_displaced(&proxied[1]));
    }

    #[test]
    fn connection_of_a_proxy_counts_for_its_client_once_that_is_known() {
        let proxies = Proxies::new(vec!["192.0.2.1/32".parse().unwrap()]);
        let places = ConnectionSlots::new(3, Arc::new(proxies));
        let proxied: Vec<ConnectionSlot> = (0..3).map(|at| places.take(network(1), Millis(at)).unwrap()).collect();
        proxied[0].counts_for(network(2));
        proxied[1].counts_for(network(3));
        proxied[2].counts_for(network(3));
        assert!(places.displace(Millis(9)) && is_displaced(&proxied[1]), "the client with the most connections");
        drop(proxied);
        assert!(places.0.lock().by_network.is_empty());
    }
}
