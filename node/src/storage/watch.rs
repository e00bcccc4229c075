//! The router's part: it reads each stream once a second, reports problems to all nodes, counts copies that are gone or
//! behind, and restores what it may.
//!
//! Every router does this, because any of them may be the only one. Each reads the stream again before it
//! restores it, so that mostly one of them does so; if two do at once, the second time has no effect.

use crate::config::StreamConfig;
use crate::metrics;
use crate::names;
use crate::nats::Nats;
use crate::storage::copies::{CopiesBehind, copies_of};
use crate::storage::expected;
use crate::storage::expected::{ExpectedStream, RestoreError, RestoredStream, StreamSettings};
use crate::storage::health::StreamHealth;
use async_nats::jetstream::stream::{Info, PeerInfo};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::storage::{StorageFault, StorageProblem, StorageReport};
use tickwire_core::wire;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The pace of this task.
const ROUND: Duration = Duration::from_millis(250);

/// The pause between two reads of a stream, and between two attempts to restore it, in milliseconds.
const PAUSE: u64 = 1_000;

/// How often problems are reported again, in milliseconds.
const REPORT_INTERVAL: u64 = 1_000;

/// One stream.
struct Watched {
    health: StreamHealth,
    copies: CopiesBehind,
    /// The last sequence that was seen without edits.
    sound_until: u64,
    is_reading: bool,
    is_restoring: bool,
    read_at: Millis,
    restore_at: Millis,
}

/// A finished operation on the stream with this number.
enum WatchResult {
    Read(usize, Option<Option<Box<Info>>>),
    Restored(usize, Result<Option<RestoredStream>, RestoreError>),
}

/// Watches until `stop` is cancelled.
pub async fn watch(nats: Nats, me: NodeRef, config: StreamConfig, stop: CancellationToken) {
    let mut watcher = StorageWatcher::new(nats, me, &config);
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = watcher.under_way.next() => watcher.handle(done),
            _ = rounds.tick() => {}
        }
        watcher.act();
    }
}

struct StorageWatcher {
    nats: Nats,
    me: NodeRef,
    streams: Vec<Watched>,
    /// At most one read and one attempt to restore it for each stream.
    under_way: FuturesUnordered<BoxFuture<'static, WatchResult>>,
    /// The last report, and when it was sent.
    reported: Vec<(String, StorageFault)>,
    reported_at: Millis,
}

impl StorageWatcher {
    fn new(nats: Nats, me: NodeRef, config: &StreamConfig) -> Self {
        let now = nats.writes.now();
        let watched = |kept: ExpectedStream| Watched {
            health: StreamHealth::new(kept),
            copies: CopiesBehind::default(),
            sound_until: 0,
            is_reading: false,
            is_restoring: false,
            read_at: now,
            restore_at: now,
        };
        let streams = expected::kept(config).into_iter().map(watched).collect();
        Self { nats, me, streams, under_way: FuturesUnordered::new(), reported: Vec::new(), reported_at: now }
    }

    fn act(&mut self) {
        let now = self.nats.writes.now();
        if !self.nats.is_connected() {
            self.streams.iter_mut().for_each(|watched| watched.health.record(now, None));
            return;
        }
        self.report_problems(now);
        for (number, watched) in self.streams.iter_mut().enumerate() {
            let (context, kept) = (self.nats.jetstream.clone(), watched.health.kept().clone());
            if !watched.is_reading && watched.read_at <= now {
                watched.is_reading = true;
                self.under_way.push(Box::pin(async move {
                    let info = expected::look(&context, kept.name()).await;
                    let info = info.inspect_err(|error| debug!(stream = kept.name(), %error, "stream not read"));
                    WatchResult::Read(number, info.ok().map(|info| info.map(Box::new)))
                }));
                continue;
            }
            let Some(remedy) = watched.health.remedy(now) else { continue };
            if watched.is_restoring || watched.restore_at > now {
                continue;
            }
            watched.is_restoring = true;
            self.under_way
                .push(Box::pin(async move { WatchResult::Restored(number, kept.restore(&context, remedy).await) }));
        }
    }

    fn handle(&mut self, done: WatchResult) {
        let now = self.nats.writes.now();
        match done {
            WatchResult::Read(number, info) => {
                let Some(watched) = self.streams.get_mut(number) else { return };
                (watched.is_reading, watched.read_at) = (false, now.plus(PAUSE));
                let settings = info.as_ref().map(|info| watched.health.kept().compare(info.as_deref()));
                if let Some(StreamSettings::There { edits, last, .. }) = &settings
                    && edits.is_empty()
                {
                    watched.sound_until = *last;
                }
                watched.health.record(now, settings);
                let copies: Option<&[PeerInfo]> = match &info {
                    None => None,
                    Some(None) => Some(&[]),
                    Some(Some(info)) => copies_of(info),
                };
                // Until a leader answers, what was known before holds.
                if let Some(copies) = copies {
                    watched.copies.record(now, copies);
                    self.count_copies();
                }
            }
            WatchResult::Restored(number, done) => {
                let Some(watched) = self.streams.get_mut(number) else { return };
                (watched.is_restoring, watched.restore_at, watched.read_at) = (false, now.plus(PAUSE), now);
                let kept = watched.health.kept();
                let stream = kept.name();
                match done {
                    Err(error) => warn!(stream, %error, "stream not restored"),
                    Ok(None) => {}
                    Ok(Some(RestoredStream::Created)) => {
                        metrics::STREAMS_RESTORED.increment(1);
                        warn!(stream, loss = kept.keeps.loss(), "missing stream created again, empty");
                    }
                    Ok(Some(RestoredStream::Settings { through })) => {
                        metrics::STREAMS_RESTORED.increment(1);
                        let after = watched.sound_until;
                        // Messages in between may be stored under other subjects.
                        warn!(stream, after, through, "edited stream settings restored");
                    }
                }
            }
        }
    }

    /// Shows how near the stream that lacks the most copies is to losing its majority.
    fn count_copies(&self) {
        let most = self.streams.iter().map(|watched| watched.copies.count()).max().unwrap_or_default();
        metrics::COPIES_BEHIND.set(most as f64);
    }

    /// Reports the problems: at once when they change, and again while they last.
    fn report_problems(&mut self, now: Millis) {
        let judged = |watched: &Watched| {
            let health = &watched.health;
            health.trouble(now, self.nats.writes.failing(health.kept().name()).as_ref())
        };
        let troubles: Vec<StorageProblem> = self.streams.iter().filter_map(judged).collect();
        let reported: Vec<(String, StorageFault)> =
            troubles.iter().map(|trouble| (trouble.stream.clone(), trouble.fault)).collect();
        if reported == self.reported && (reported.is_empty() || now.since(self.reported_at) < REPORT_INTERVAL) {
            return;
        }
        let report = StorageReport { router: self.me.clone(), troubles };
        let sent = match wire::encode(&report) {
            Ok(bytes) => self.nats.link.publish(names::STORAGE, None, &bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match sent {
            Ok(()) => (self.reported, self.reported_at) = (reported, now),
            Err(error) => info!(error, "storage report not sent"),
        }
    }
}
