//! Reads the buckets of the context again and again, and keeps the surroundings of this router up to date.
//!
//! Routers start and route without waiting for it: what is not known is absent.

use super::SharedSurroundings;
use super::book::{self, ReferenceBook};
use crate::metrics;
use crate::stream::{StreamError, StreamExtent};
use std::collections::HashSet;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::context::{ClaimFault, MAX_MARKETS, MAX_REFERENCES, MarketRecord, SETTLE_MS, StreamEnd};
use tickwire_core::event::Timestamp;
use tickwire_core::ids::MarketKey;
use tickwire_node::bucket::{ALL_KEYS, Bucket, BucketError, BucketNews, BucketReader, LookResult, UnreadableValues};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The pause between two looks. It is a small part of the time for which records may lag.
const PAUSE: Duration = Duration::from_secs(1);

/// After how many looks the records of an unchanged bucket are read again.
const MARKETS_REVIEW: u32 = 60;

/// The same for the reference data. There may be many entries, so it is about an hour.
const REFERENCE_REVIEW: u32 = 3_600;

/// How long an entry may be on its way into the bucket after it got its time, in milliseconds. It is a small part of
/// the time for which records may lag.
const ENTRY_DELAY: i64 = 5_000;

/// The least time between two log lines about too many markets.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// How many changes are made at a time, while events wait.
const TOGETHER: usize = 256;

/// Why a turn has not read everything.
#[derive(Debug, Error)]
enum TurnError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// The task.
#[derive(Debug)]
pub(crate) struct ContextDriver {
    nats: Nats,
    stream: String,
    markets: BucketReader,
    reference: BucketReader,
    entries: ReferenceBook,
    surroundings: SharedSurroundings,
    /// Whether the last reading of all reference data had entries for which there was no room.
    lacks_room: bool,
    /// When both buckets were last read, and how old the oldest record was then, in seconds.
    last: (Instant, f64),
    /// Whether the last look has failed.
    is_failing: bool,
    left_out: LeftOut,
}

/// What was told of the markets for which there was no room.
#[derive(Debug, Default)]
struct LeftOut {
    /// How many times one was left out, as far as it is counted.
    counted: u64,
    /// As far as it is logged, and when it was.
    logged: (u64, Option<Instant>),
}

impl LeftOut {
    /// Takes how many times a market was left out so far. Returns how many are new, and how many to log now.
    fn take(&mut self, total: u64, now: Instant) -> (u64, Option<u64>) {
        let new = total.saturating_sub(std::mem::replace(&mut self.counted, total));
        let (logged, at) = self.logged;
        let is_due = total > logged && at.is_none_or(|at| now.duration_since(at) >= WARNING_INTERVAL);
        if is_due {
            self.logged = (total, Some(now));
        }
        (new, is_due.then(|| total - logged))
    }
}

impl ContextDriver {
    /// Keeps these surroundings of the events of a stream up to date.
    pub(crate) fn new(
        (nats, stream): (Nats, String),
        context: Bucket,
        reference: Bucket,
        surroundings: SharedSurroundings,
    ) -> Self {
        Self {
            nats,
            stream,
            markets: BucketReader::new(context, names::ALL_MARKETS, MARKETS_REVIEW),
            reference: BucketReader::new(reference, ALL_KEYS, REFERENCE_REVIEW),
            entries: ReferenceBook::default(),
            surroundings,
            lacks_room: false,
            last: (Instant::now(), 0.0),
            is_failing: false,
            left_out: LeftOut::default(),
        }
    }

    /// Follows the buckets until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while let Some(done) = stop.run_until_cancelled(self.turn()).await {
            let was_failing = std::mem::replace(&mut self.is_failing, done.is_err());
            match done {
                Ok(()) if was_failing => info!("context read again"),
                Ok(()) => {}
                Err(error) if was_failing => debug!(%error, "context not read"),
                Err(error) => warn!(%error, "context not read, events go without it after 30 s"),
            }
            self.measure();
            if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    /// Looks at both buckets, and reads what is new.
    async fn turn(&mut self) -> Result<(), TurnError> {
        let (looked_at, is_all, records) = self.read_markets().await?;
        let stored: Option<HashSet<MarketKey>> =
            is_all.then(|| records.iter().map(|(market, _)| market.clone()).collect());
        // Afterwards: no record that was read can be later than this. If it fails, the next heartbeat has others written.
        let extent = StreamExtent::look(&self.nats, &self.stream).await?;
        self.adopt(records, extent.end);
        if let Some(stored) = stored {
            // A record of this router that is not written yet does not lag.
            let before = Timestamp(looked_at.0.saturating_sub(SETTLE_MS));
            self.surroundings.change(|surroundings| surroundings.markets.forget_left_out(&stored, before));
        }
        self.forget_removed(extent.oldest);
        // Events get the context of a record only when the reference data is marked as current. So no event gets that
        // of the only known market before all are known.
        self.read_reference().await?;
        let oldest = self.surroundings.read(|surroundings| surroundings.markets.oldest());
        let age = oldest.map_or(0, |oldest| looked_at.0.saturating_sub(oldest.0).max(0));
        self.last = (Instant::now(), age as f64 / 1_000.0);
        Ok(())
    }

    /// The time of the look, and the records that are new since the last one, or all of them.
    async fn read_markets(&mut self) -> Result<(Timestamp, bool, Vec<(MarketKey, MarketRecord)>), BucketError> {
        let LookResult { at, news } = self.markets.look().await?;
        let Some(BucketNews { is_all, entries, .. }) = news else { return Ok((at, false, Vec::new())) };
        let mut unreadable = UnreadableValues::default();
        let records = book::records(&entries, &mut unreadable);
        unreadable.report(names::CONTEXT_BUCKET);
        Ok((at, is_all, records))
    }

    /// Takes the records, as far as the stream goes.
    fn adopt(&self, records: Vec<(MarketKey, MarketRecord)>, end: StreamEnd) {
        let refused: Vec<(MarketKey, ClaimFault)> = self.surroundings.change(|surroundings| {
            let adopt = |(market, record): (MarketKey, MarketRecord)| {
                let adopted = surroundings.markets.adopt_of_other(market.clone(), record, end);
                Some((market, adopted.err()?))
            };
            records.into_iter().filter_map(adopt).collect()
        });
        for (_, fault) in &refused {
            metrics::CONTEXT_REFUSED.with(fault.as_str()).increment(1);
        }
        // What has no room is logged with all that is left out.
        let forged: Vec<_> = refused.iter().filter(|(_, fault)| *fault != ClaimFault::NoRoom).collect();
        if let Some((market, fault)) = forged.first() {
            warn!(records = forged.len(), %market, reason = fault.as_str(), "market records refused");
        }
    }

    /// Forgets removed reference data that no event of the stream depends on. What had no room before is read again.
    fn forget_removed(&mut self, oldest: Option<Timestamp>) {
        let Some(oldest) = oldest else { return };
        let forgotten = self.surroundings.change(|surroundings| surroundings.reference.forget_removed(oldest));
        if forgotten > 0 && self.lacks_room {
            self.reference.start_over();
        }
    }

    async fn read_reference(&mut self) -> Result<(), BucketError> {
        let LookResult { at, news } = self.reference.look().await?;
        if let Some(BucketNews { is_all, entries, .. }) = news {
            let mut unreadable = UnreadableValues::default();
            let changes = self.entries.take(entries, is_all, at, &mut unreadable);
            unreadable.report(names::REFERENCE_BUCKET);
            let (mut changed, ignored) = (0_usize, self.ignored());
            for together in changes.chunks(TOGETHER) {
                changed += self.surroundings.change(|surroundings| {
                    let set = |(symbol, entry, since): &book::ReferenceChange| {
                        surroundings.reference.set(symbol.clone(), entry.clone(), *since)
                    };
                    together.iter().map(set).filter(|is_change| *is_change).count()
                });
            }
            let count = self.surroundings.read(|surroundings| surroundings.reference.len());
            metrics::REFERENCE_ENTRIES.set(count as f64);
            if changed > 0 {
                info!(entries = count, changed, "new reference data");
            }
            let ignored = self.ignored() - ignored;
            self.lacks_room = ignored > 0 || (self.lacks_room && !is_all);
            if ignored > 0 {
                metrics::REFERENCE_IGNORED.increment(ignored);
                warn!(ignored, most = MAX_REFERENCES, "reference data of further symbols ignored");
            }
        }
        let complete = Timestamp(at.0.saturating_sub(ENTRY_DELAY));
        self.surroundings.change(|surroundings| surroundings.reference.mark_current(complete));
        Ok(())
    }

    /// How much reference data was ignored so far.
    fn ignored(&self) -> u64 {
        self.surroundings.read(|surroundings| surroundings.reference.ignored())
    }

    fn measure(&mut self) {
        let total = self.surroundings.read(|surroundings| surroundings.markets.left_out());
        let (new, logged) = self.left_out.take(total, Instant::now());
        metrics::CONTEXT_MARKETS_LEFT_OUT.increment(new);
        if let Some(times) = logged {
            warn!(times, most = MAX_MARKETS, "too many markets, some have no context");
        }
        let (last, age) = self.last;
        let since = last.elapsed().as_secs_f64();
        metrics::CONTEXT_AGE.with("markets").set(age + since);
        metrics::CONTEXT_AGE.with("reference").set(since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markets_left_out_are_counted_at_once_and_logged_once_per_interval() {
        let (mut left_out, start) = (LeftOut::default(), Instant::now());
        assert_eq!(left_out.take(0, start), (0, None));
        assert_eq!(left_out.take(5, start), (5, Some(5)));
        assert_eq!(left_out.take(7, start + WARNING_INTERVAL / 2), (2, None));
        assert_eq!(left_out.take(10, start + WARNING_INTERVAL), (3, Some(5)));
        assert_eq!(left_out.take(10, start + WARNING_INTERVAL * 3), (0, None));
    }
}
