//! Follows the bucket of saved subscriptions: tells shards whose subscriptions have changed, notes which users have
//! sessions here, and removes what nobody uses.
//!
//! Several gateways may write at the same time: a write expects the revision that was read, and the second one has
//! nothing left to do.

use std::sync::Arc;
use std::time::Duration;

use tickwire_core::event::Timestamp;
use tickwire_core::ids::{NodeRef, UserId};
use tickwire_core::placement::View;
use tickwire_node::bucket::{ALL_KEYS, BucketError, BucketNews, BucketReader};
use tickwire_node::clock::timestamp_now;
use tickwire_node::names::SUBSCRIPTIONS_BUCKET;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::SavedTable;
use super::book::{SavedBook, SavedChange, SavedNews};
use super::store::{SavedError, SavedStore};
use super::turns::Turns;
use crate::byte_queue::ByteSender;
use crate::messages::ToShard;
use crate::metrics;
use crate::new_session::shard_of;
use crate::registry::SessionRegistry;

/// The pause between two looks. Every gateway applies a change within a second.
const PAUSE: Duration = Duration::from_millis(400);

/// After how many looks at an unchanged bucket it is read again from its beginning. Messages that were removed without
/// a mark show only then.
const REVIEW: u32 = 3_600;

/// How long a gateway that starts tries to read the bucket.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The pause between two searches for unused subscriptions.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// How many users are written in one turn at most, for a use and for a sweep.
const WRITES: usize = 16;

/// A day, in milliseconds. A use is noted once in that time.
const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// What the driver works with.
#[derive(Debug)]
pub(crate) struct SavedSetup {
    pub(crate) store: SavedStore,
    pub(crate) table: Arc<SavedTable>,
    pub(crate) registry: Arc<SessionRegistry>,
    pub(crate) shards: Vec<ByteSender<ToShard>>,
    pub(crate) me: NodeRef,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

/// The task.
#[derive(Debug)]
pub(crate) struct SavedDriver {
    setup: SavedSetup,
    reader: BucketReader,
    book: SavedBook,
    /// Whose use is noted next, and whose subscriptions are swept next.
    uses: Turns,
    sweeps: Turns,
    sweep_at: Instant,
    /// Whether the last look has failed.
    is_failing: bool,
}

impl SavedDriver {
    /// Reads the bucket for the first time. No session may begin before that: it would lack its saved subscriptions.
    ///
    /// # Errors
    /// When the bucket cannot be read before the deadline.
    pub(crate) async fn start(setup: SavedSetup) -> Result<Self, BucketError> {
        let reader = BucketReader::new(setup.store.bucket.clone(), ALL_KEYS, REVIEW);
        let book = SavedBook::new(setup.store.config.max_subscriptions);
        let (uses, sweeps) = (Turns::default(), Turns::default());
        let mut driver = Self { setup, reader, book, uses, sweeps, sweep_at: Instant::now(), is_failing: false };
        let news = driver.reader.first(START_DEADLINE).await?;
        driver.take(news);
        Ok(driver)
    }

    /// Follows the bucket until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(PAUSE)).await.is_some() {
            if stop.run_until_cancelled(self.turn()).await.is_none() {
                return;
            }
        }
    }

    async fn turn(&mut self) {
        let looked = self.look().await;
        let was_failing = std::mem::replace(&mut self.is_failing, looked.is_err());
        match looked {
            Ok(()) if was_failing => info!("saved subscriptions read again"),
            Ok(()) => {}
            Err(error) if was_failing => return debug!(%error, "saved subscriptions not read"),
            // What is known stays in effect.
            Err(error) => return warn!(%error, "saved subscriptions not read, those known before stay in effect"),
        }
        let now = timestamp_now();
        self.note_uses(now).await;
        if Instant::now() >= self.sweep_at {
            self.sweep_at = Instant::now() + SWEEP_PAUSE;
            self.sweep(now).await;
        }
    }

    /// Looks at the bucket, and takes what is new.
    async fn look(&mut self) -> Result<(), BucketError> {
        if let Some(news) = self.reader.look().await?.news {
            self.take(news);
        }
        Ok(())
    }

    /// Tells the shards what has changed.
    fn take(&mut self, news: BucketNews) {
        let SavedNews { changes, unreadable, newer } = self.book.take(news);
        unreadable.report(SUBSCRIPTIONS_BUCKET);
        metrics::NEWER_SUBSCRIPTIONS.set(self.book.newer() as f64);
        if let Some(user) = newer.first() {
            warn!(users = newer.len(), %user, "saved subscriptions of a newer version, not applied here");
        }
        let SavedSetup { table, registry, shards, .. } = &self.setup;
        spread(changes, table, registry, shards);
    }

    /// Notes, once a day, the use by users who have sessions here.
    async fn note_uses(&mut self, now: Timestamp) {
        let SavedSetup { store, registry, .. } = &self.setup;
        let since = Timestamp(now.0.saturating_sub(DAY_MS));
        let unused = self.book.unused_since(since, |user| registry.has_sessions_of(user));
        for user in self.uses.next(unused, WRITES) {
            let noted = store.edit(&user, |record, _| {
                record.note_use(since, now);
                Ok(())
            });
            if let Err(error) = noted.await {
                log_unwritten(&user, &error);
            }
        }
    }

    /// Removes the subscriptions that were not used for `gateway.saved_days`, of the users whose home is here.
    async fn sweep(&mut self, now: Timestamp) {
        let SavedSetup { store, me, view, .. } = &self.setup;
        let days = i64::from(store.config.saved_days);
        if days == 0 {
            return;
        }
        let since = Timestamp(now.0.saturating_sub(days * DAY_MS));
        let view = Arc::clone(&view.borrow());
        let unused = self.book.unused_since(since, |user| view.home(user).is_some_and(|home| home.id == me.id));
        for user in self.sweeps.next(unused, WRITES) {
            match store.edit(&user, |record, _| Ok(record.sweep(since))).await {
                Ok((names, _)) => {
                    metrics::SWEPT_SUBSCRIPTIONS.increment(names.len() as u64);
                    for name in names {
                        info!(%user, subscription = name.as_str(), days, "unused saved subscription removed");
                    }
                }
                Err(error) => log_unwritten(&user, &error),
            }
        }
    }
}

/// Puts changes into the table, and tells the shards of those users who have sessions here.
pub(crate) fn spread(
    changes: Vec<SavedChange>,
    table: &SavedTable,
    registry: &SessionRegistry,
    shards: &[ByteSender<ToShard>],
) {
    for (user, set) in changes {
        // A session that arrives after this finds the new ones in the table.
        table.set(&user, &set);
        if registry.has_sessions_of(&user)
            && let Some(shard) = shards.get(shard_of(&user, shards.len()))
            && !shard.send(ToShard::Saved(user))
        {
            debug!("change of saved subscriptions for an ended shard dropped");
        }
    }
}

/// It is tried again in a later turn.
fn log_unwritten(user: &UserId, error: &SavedError) {
    debug!(%user, %error, "use of saved subscriptions not written yet");
}
