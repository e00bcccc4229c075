//! The context of events. `tickwire_core::context` decides what it is; here is where its parts come from.
//!
//! ```text
//! market event ──▶ PartitionContext ──▶ writer ──▶ bucket ──▶ driver ──▶ Surroundings ──▶ event
//!                    of the owner                              of every router
//! ```
//!
//! [`PartitionContext`] is what the owner of a partition keeps for one tenure. [`tenure`] loads it before the first
//! message is read, and stores it: [`writer`] writes without holding up events. [`book`] turns what was read of the
//! buckets into changes of the [`Surroundings`], which [`driver`] keeps up to date in every router.

mod book;
pub(crate) mod driver;
pub(crate) mod tenure;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tickwire_core::context::{MAX_MARKETS, MarketRecord, Surroundings, VolumeAverages};
use tickwire_core::event::{Event, EventContext, Kind, Timestamp};
use tickwire_core::ids::{EpochId, MarketKey, Seq};

/// What a router knows about the surroundings of all events. Copies share it.
///
/// It is changed in place: the reference data may have 65,536 entries, too many to copy for every change. The lock is
/// held for one event, or for a few changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedSurroundings(Arc<RwLock<Surroundings>>);

impl SharedSurroundings {
    /// Reads it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Surroundings) -> T) -> T {
        // A panic leaves whole records behind.
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes it.
    fn change<T>(&self, change: impl FnOnce(&mut Surroundings) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The context of an event that is replayed.
    pub(crate) fn replayed(&self, seq: Seq, event: &Event) -> Option<Box<EventContext>> {
        known(self.read(|surroundings| surroundings.replayed(seq, event)))
    }
}

/// A context, unless nothing is known.
fn known(context: EventContext) -> Option<Box<EventContext>> {
    (!context.is_empty()).then(|| Box::new(context))
}

/// The most markets of one partition that are recorded. A further one takes the place of the one with the lowest rank.
/// They are more than routers use: a new market gets its second event here, and none of those that are used leaves.
const MAX_RECORDS: usize = 2 * MAX_MARKETS;

/// The records of the markets of one partition.
type Records = BTreeMap<MarketKey, MarketRecord>;

/// What the owner of a partition keeps for the context of events, for one tenure. Pure.
///
/// Messages are read before it is proved that none was missed. So the records that other routers get are those of the
/// last report to the engine, and a reading that is repeated begins with these.
#[derive(Debug)]
pub(crate) struct PartitionContext {
    epoch_id: EpochId,
    volumes: VolumeAverages,
    /// As of the last message that was read.
    records: Records,
    /// As of the last report.
    reported: Records,
    /// The last event or heartbeat that was read.
    last: Seq,
    /// Whether there is something to report: a change, or a heartbeat.
    is_changed: bool,
    /// The first event since the last report that has changed a record.
    unreported: Option<Seq>,
}

impl PartitionContext {
    /// Nothing is known yet.
    pub(crate) fn new(epoch_id: EpochId) -> Self {
        Self::with(VolumeAverages::new(epoch_id), Records::new())
    }

    /// Continues with what the last owner has stored.
    fn with(volumes: VolumeAverages, mut records: Records) -> Self {
        while records.len() > MAX_RECORDS {
            evict(&mut records);
        }
        let (epoch_id, reported) = (volumes.epoch_id(), records.clone());
        Self { epoch_id, volumes, records, reported, last: Seq(0), is_changed: false, unreported: None }
    }

    /// Takes the next event of the partition as it was published, and returns its context.
    pub(crate) fn enrich(&mut self, surroundings: &Surroundings, seq: Seq, event: &Event) -> Option<Box<EventContext>> {
        self.last = self.last.max(seq);
        if event.kind == Kind::Market {
            self.observe(seq, event);
            return known(surroundings.live(seq, event, None));
        }
        let relative_volume = self.volumes.observe(seq, event);
        known(surroundings.live(seq, event, relative_volume))
    }

    fn observe(&mut self, seq: Seq, event: &Event) {
        let Ok(market) = MarketKey::new(&event.key) else { return };
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(&market) {
            evict(&mut self.records);
        }
        let epoch_id = self.epoch_id;
        let record = self.records.entry(market).or_insert_with(|| MarketRecord::new(epoch_id));
        if record.observe(seq, event) {
            self.is_changed = true;
            self.unreported.get_or_insert(seq);
        }
    }

    /// Takes a partition heartbeat: it shows that the records are complete up to it.
    pub(crate) fn read_heartbeat(&mut self, seq: Seq, stored: Timestamp) {
        self.last = self.last.max(seq);
        self.records.values_mut().for_each(|record| record.read_through(seq, stored));
        self.is_changed = true;
    }

    /// Whether there is something to [`report`](Self::report) when everything up to `through` was reported to the engine.
    fn must_report(&self, through: Seq) -> bool {
        // If a part of what was read is reported, the rest follows.
        self.is_changed && through >= self.last
    }

    /// Adopts the records that have new events, and those of the markets that routers use. Returns what other routers
    /// must get: of these the records that differ from those of the last report. A record that no router uses is not
    /// written, so what is written at each heartbeat is bounded for the whole cluster.
    fn report(&mut self, surroundings: &mut Surroundings) -> Vec<(MarketKey, MarketRecord)> {
        let mut changed = Vec::new();
        for (market, record) in &self.records {
            let reported = self.reported.get(market);
            let has_event = reported.is_none_or(|reported| reported.rank() != record.rank());
            let is_later = reported.is_none_or(|reported| reported.through() != record.through());
            if has_event || (is_later && surroundings.markets.has(market)) {
                surroundings.markets.adopt(market.clone(), record.clone());
                changed.push((market.clone(), record.clone()));
            }
        }
        changed.retain(|(market, _)| surroundings.markets.has(market));
        (self.is_changed, self.unreported) = (false, None);
        self.reported.clone_from(&self.records);
        changed
    }

    /// Whether other routers must have the record of a market.
    fn keeps(&self, surroundings: &Surroundings, market: &MarketKey) -> bool {
        self.reported.contains_key(market) && surroundings.markets.has(market)
    }

    /// What comes after `after` is read again. The averages stay: they take no event twice.
    pub(crate) fn read_again(&mut self, after: Seq) {
        if self.unreported.is_some_and(|first| first <= after) {
            // A part of what the records have will not be read again, and which one is not known.
            self.forget();
        }
        self.records.clone_from(&self.reported);
        (self.is_changed, self.unreported, self.last) = (false, None, Seq(0));
    }

    /// Messages are missing. They may have stated anything.
    pub(crate) fn forget(&mut self) {
        self.records.clear();
        self.reported.clear();
        (self.is_changed, self.unreported) = (false, None);
    }
}

/// Removes the record of the lowest rank.
fn evict(records: &mut Records) {
    let lowest = records.iter().min_by_key(|(_, record)| record.rank()).map(|(market, _)| market.clone());
    if let Some(market) = lowest {
        records.remove(&market);
    }
}

#[cfg(test)]
mod tests;
