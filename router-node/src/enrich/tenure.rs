//! The context of one partition between tenures: an owner loads what the one before has stored, and stores it again.
//!
//! A stored record may lag behind the checkpoint by some seconds. The market events in between are read again, because
//! a record that claims to be complete must not lack one. If that fails, the owner begins with nothing: an absent value
//! is no contradiction.

use super::writer::{self, ContextWrites};
use super::{MAX_RECORDS, PartitionContext, Records, SharedSurroundings};
use crate::decode::Decoder;
use crate::metrics;
use crate::reader::leader;
use crate::source::Source;
use crate::stream::StreamExtent;
use std::collections::BTreeSet;
use std::time::Duration;
use tickwire_core::context::{ClaimFault, MarketRecord, VolumeAverages};
use tickwire_core::event::{Kind, Timestamp, key};
use tickwire_core::ids::{EpochId, MarketKey, Seq};
use tickwire_node::bucket::Bucket;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

/// How long the first message of a tenure may wait for what the last owner has stored.
const LOAD_DEADLINE: Duration = Duration::from_secs(2);

/// How often averages are stored. They change with every event, and a new owner may lack some volumes.
const VOLUMES_INTERVAL: Duration = Duration::from_secs(30);

/// Loads and stores the context of partitions.
#[derive(Debug)]
pub(crate) struct ContextStore {
    pub(crate) nats: Nats,
    pub(crate) bucket: Bucket,
    pub(crate) writes: ContextWrites,
    pub(crate) surroundings: SharedSurroundings,
}

/// The context of one partition, and when it was last stored.
#[derive(Debug)]
pub(crate) struct TenureContext {
    /// The partition; `None` for the catch-all, which holds no events.
    partition: Option<u32>,
    pub(crate) context: PartitionContext,
    /// When the averages were last stored, and how far they were then.
    stored: (Instant, Seq),
    /// The markets that may have a record in the bucket.
    written: BTreeSet<MarketKey>,
}

impl TenureContext {
    /// Nothing is known yet.
    pub(crate) fn new(source: Source, epoch_id: EpochId) -> Self {
        let partition = match source {
            Source::Partition(partition) => Some(u32::from(partition.0)),
            Source::CatchAll => None,
        };
        let (context, stored) = (PartitionContext::new(epoch_id), (Instant::now(), Seq(0)));
        Self { partition, context, stored, written: BTreeSet::new() }
    }
}

impl ContextStore {
    /// Loads what the last owner has stored, for an owner that reads on after `checkpoint`.
    pub(crate) async fn load(&self, decoder: &Decoder, tenure: &mut TenureContext, checkpoint: Seq) {
        let epoch_id = tenure.context.epoch_id;
        self.surroundings.change(|surroundings| surroundings.markets.begin_epoch(epoch_id));
        let Some(partition) = tenure.partition else { return };
        let end = Instant::now() + LOAD_DEADLINE;
        let volumes = timeout_at(end, self.read_volumes(decoder, partition, epoch_id)).await;
        let volumes = loaded(partition, "averages", volumes).unwrap_or_else(|| VolumeAverages::new(epoch_id));
        let records = timeout_at(end, self.read_records(decoder, partition, epoch_id, checkpoint)).await;
        let (records, written) = loaded(partition, "market records", records).unwrap_or_default();
        (tenure.stored.1, tenure.written) = (volumes.through(), written);
        tenure.context = PartitionContext::with(volumes, records);
        self.adopt(&tenure.context.reported);
    }

    async fn read_volumes(
        &self,
        decoder: &Decoder,
        partition: u32,
        epoch_id: EpochId,
    ) -> Result<VolumeAverages, String> {
        let stored = self.bucket.entry_of(&names::volumes_key(partition)).await.map_err(|error| error.to_string())?;
        let volumes = stored.and_then(|entry| VolumeAverages::from_bytes(&entry.value).ok());
        let Some(volumes) = volumes else { return Ok(VolumeAverages::new(epoch_id)) };
        let end = self.extent(decoder).await?.end;
        let checked = end.check(volumes.epoch_id(), volumes.through(), Timestamp(i64::MIN));
        let is_taken = is_believed(partition, "averages", checked) && volumes.epoch_id() == epoch_id;
        Ok(if is_taken { volumes } else { VolumeAverages::new(epoch_id) })
    }

    /// The stream after something was read: nobody can have known more of it.
    async fn extent(&self, decoder: &Decoder) -> Result<StreamExtent, String> {
        StreamExtent::look(&self.nats, &decoder.stream).await.map_err(|error| error.to_string())
    }

    /// The records, and all markets that have one in the bucket, also one that does not count.
    async fn read_records(
        &self,
        decoder: &Decoder,
        partition: u32,
        epoch_id: EpochId,
        checkpoint: Seq,
    ) -> Result<(Records, BTreeSet<MarketKey>), String> {
        let (mut records, mut written) = (Records::new(), BTreeSet::new());
        let keys = names::markets_of(partition);
        // In several parts at the same time: more than an owner writes may be there, and the first message waits.
        let last = self.bucket.look().await.map_err(|error| error.to_string())?.state.last;
        let entries = self.bucket.many_entries_after(&keys, 0, last).await.map_err(|error| error.to_string())?;
        for entry in entries {
            let record = read_record(&entry.key, &entry.value).filter(|(_, record)| record.epoch_id() == epoch_id);
            records.extend(record);
            written.extend(market_of(&entry.key));
        }
        self.complete(decoder, partition, &mut records, checkpoint).await?;
        Ok((records, written))
    }

    /// Adds the market events up to the checkpoint that the stored records lack.
    async fn complete(
        &self,
        decoder: &Decoder,
        partition: u32,
        records: &mut Records,
        checkpoint: Seq,
    ) -> Result<(), String> {
        if records.is_empty() {
            return Ok(());
        }
        let StreamExtent { facts, end, .. } = self.extent(decoder).await?;
        records.retain(|_, record| is_believed(partition, "market records", record.check(end)));
        // Retention may have removed events that they lack.
        records.retain(|_, record| record.epoch_id() == facts.epoch_id && record.through() >= facts.removed());
        let Some(mut after) = records.values().map(MarketRecord::through).min() else { return Ok(()) };
        let filter = names::stored_kind(partition, Kind::Market.as_str());
        while after < checkpoint {
            let next = leader::first_after(&self.nats, &decoder.stream, after, &filter).await?;
            let Some(message) = next.filter(|message| message.seq <= checkpoint) else { break };
            after = message.seq;
            // A dead letter states nothing.
            let Ok(Some(event)) = decoder.published(&message) else { continue };
            let Ok(market) = MarketKey::new(&event.key) else { continue };
            if let Some(record) = records.get_mut(&market) {
                record.observe(message.seq, &event);
            }
        }
        Ok(())
    }

    /// Stores what has changed with a report to the engine.
    pub(crate) fn report(&self, tenure: &mut TenureContext, through: Seq) {
        let Some(partition) = tenure.partition else { return };
        if tenure.context.must_report(through) {
            let records = self.surroundings.change(|surroundings| tenure.context.report(surroundings));
            self.remove_left_out(partition, tenure);
            self.write(partition, tenure, records);
        }
        if tenure.stored.0.elapsed() >= VOLUMES_INTERVAL {
            self.store_volumes(tenure);
        }
    }

    /// Removes the records that other routers need no more. What cannot be removed now is removed after the next report.
    fn remove_left_out(&self, partition: u32, tenure: &mut TenureContext) {
        let context = &tenure.context;
        let left_out: Vec<MarketKey> = self.surroundings.read(|surroundings| {
            tenure.written.iter().filter(|market| !context.keeps(surroundings, market)).cloned().collect()
        });
        for market in left_out {
            if !self.writes.remove(key_of(partition, &market)) {
                return;
            }
            tenure.written.remove(&market);
        }
    }

    /// Writes records. The number of the keys that a partition has in the bucket is bounded.
    fn write(&self, partition: u32, tenure: &mut TenureContext, records: Vec<(MarketKey, MarketRecord)>) {
        for (market, record) in records {
            let key = key_of(partition, &market);
            let has_place = tenure.written.len() < MAX_RECORDS || tenure.written.contains(&market);
            if !has_place {
                writer::lost("full", &key, &"too many records wait for their removal");
                continue;
            }
            match record.to_bytes() {
                Ok(bytes) => {
                    if self.writes.put(key, bytes) {
                        tenure.written.insert(market);
                    }
                }
                Err(error) => debug!(%error, "market record not encoded"),
            }
        }
    }

    /// Stores the averages, for the next owner.
    pub(crate) fn store_volumes(&self, tenure: &mut TenureContext) {
        let (Some(partition), through) = (tenure.partition, tenure.context.volumes.through()) else { return };
        if through == tenure.stored.1 {
            return;
        }
        tenure.stored = (Instant::now(), through);
        match tenure.context.volumes.to_bytes() {
            Ok(bytes) => {
                // What is lost is followed by others.
                self.writes.put(names::volumes_key(partition), bytes);
            }
            Err(error) => debug!(%error, "averages not encoded"),
        }
    }

    /// The router's own records count at once.
    fn adopt(&self, records: &Records) {
        self.surroundings.change(|surroundings| {
            for (market, record) in records {
                surroundings.markets.adopt(market.clone(), record.clone());
            }
        });
    }
}

/// What was loaded; `None` if it was not.
fn loaded<T>(partition: u32, what: &'static str, loaded: Result<Result<T, String>, Elapsed>) -> Option<T> {
    let reason = match loaded {
        Ok(Ok(loaded)) => return Some(loaded),
        Ok(Err(reason)) => reason,
        Err(late) => late.to_string(),
    };
    metrics::CONTEXT_NOT_LOADED.increment(1);
    warn!(partition, what, reason, "context not loaded, it begins anew");
    None
}

/// Whether stored context claims no more than the stream has. What does is counted, and does not count.
fn is_believed(partition: u32, what: &'static str, checked: Result<(), ClaimFault>) -> bool {
    let Err(fault) = checked else { return true };
    metrics::CONTEXT_REFUSED.with(fault.as_str()).increment(1);
    warn!(partition, what, reason = fault.as_str(), "stored context refused");
    false
}

/// Why stored context is refused: the labels of the metric.
pub(crate) fn refusals() -> Vec<&'static str> {
    ClaimFault::ALL.into_iter().map(ClaimFault::as_str).collect()
}

/// The key of a market record in the bucket.
fn key_of(partition: u32, market: &MarketKey) -> String {
    names::market_key(partition, &key::encode(market.as_str()))
}

/// The market of such a key.
fn market_of(key: &str) -> Option<MarketKey> {
    let market = key::decode(names::parse_market_key(key)?).ok()?;
    MarketKey::new(&market).ok()
}

/// A market record of the bucket; `None` if it cannot be read.
pub(super) fn read_record(key: &str, value: &[u8]) -> Option<(MarketKey, MarketRecord)> {
    Some((market_of(key)?, MarketRecord::from_bytes(value).ok()?))
}
