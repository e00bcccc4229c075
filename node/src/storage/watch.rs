//! The router's part: it looks at each stream once a second, tells all nodes what is wrong, and mends what it may.
//!
//! Every router does so, since any of them may be the only one. Each looks again before it mends, so that mostly one of
//! them does; what two do at once has no effect the second time.

use super::judge::StreamHealth;
use super::kept::{self, ExpectedStream, MendError, Mended, StreamSettings};
use crate::config::StreamConfig;
use crate::declare_counter;
use crate::names;
use crate::nats::Nats;
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use metrics::counter;
use std::time::Duration;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::storage::{StorageFault, StorageProblem, StorageReport};
use tickwire_core::wire;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The pace of this task.
const ROUND: Duration = Duration::from_millis(250);

/// The pause between two looks at a stream, and between two tries to mend it, in milliseconds.
const PAUSE: u64 = 1_000;

/// How often what is wrong is said again, in milliseconds.
const AGAIN: u64 = 1_000;

/// One stream.
struct Watched {
    judge: StreamHealth,
    /// The last sequence that was seen while nothing was edited.
    sound_until: u64,
    is_looked_at: bool,
    is_mended: bool,
    look_at: Millis,
    mend_at: Millis,
}

/// What was waited for, of the stream of this number.
enum WatchResult {
    Looked(usize, Option<Option<Box<Info>>>),
    Mended(usize, Result<Option<Mended>, MendError>),
}

/// Watches until told to stop.
pub async fn watch(nats: Nats, me: NodeRef, config: StreamConfig, stop: CancellationToken) {
    declare_counter!("tickwire_storage_mended_total", "Streams that this router has made anew or put right");
    let mut watcher = StorageWatcher::new(nats, me, &config);
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = watcher.under_way.next() => watcher.hear(done),
            _ = rounds.tick() => {}
        }
        watcher.act();
    }
}

struct StorageWatcher {
    nats: Nats,
    me: NodeRef,
    streams: Vec<Watched>,
    /// At most one look and one mend for each stream.
    under_way: FuturesUnordered<BoxFuture<'static, WatchResult>>,
    /// What was said last, and when.
    said: Vec<(String, StorageFault)>,
    said_at: Millis,
}

impl StorageWatcher {
    fn new(nats: Nats, me: NodeRef, config: &StreamConfig) -> Self {
        let now = nats.writes.now();
        let watched = |kept: ExpectedStream| Watched {
            judge: StreamHealth::new(kept),
            sound_until: 0,
            is_looked_at: false,
            is_mended: false,
            look_at: now,
            mend_at: now,
        };
        let streams = kept::kept(config).into_iter().map(watched).collect();
        Self { nats, me, streams, under_way: FuturesUnordered::new(), said: Vec::new(), said_at: now }
    }

    fn act(&mut self) {
        let now = self.nats.writes.now();
        if !self.nats.is_connected() {
            self.streams.iter_mut().for_each(|watched| watched.judge.see(now, None));
            return;
        }
        self.say(now);
        for (number, watched) in self.streams.iter_mut().enumerate() {
            let (context, kept) = (self.nats.jetstream.clone(), watched.judge.kept().clone());
            if !watched.is_looked_at && watched.look_at <= now {
                watched.is_looked_at = true;
                self.under_way.push(Box::pin(async move {
                    let looked = kept::look(&context, kept.name()).await;
                    let looked =
                        looked.inspect_err(|error| debug!(stream = kept.name(), %error, "no look at a stream"));
                    WatchResult::Looked(number, looked.ok().map(|info| info.map(Box::new)))
                }));
                continue;
            }
            let Some(mend) = watched.judge.mend(now) else { continue };
            if watched.is_mended || watched.mend_at > now {
                continue;
            }
            watched.is_mended = true;
            self.under_way.push(Box::pin(async move { WatchResult::Mended(number, kept.mend(&context, mend).await) }));
        }
    }

    fn hear(&mut self, done: WatchResult) {
        let now = self.nats.writes.now();
        match done {
            WatchResult::Looked(number, looked) => {
                let Some(watched) = self.streams.get_mut(number) else { return };
                (watched.is_looked_at, watched.look_at) = (false, now.plus(PAUSE));
                let sight = looked.as_ref().map(|info| watched.judge.kept().sight(info.as_deref()));
                if let Some(StreamSettings::There { edits, last, .. }) = &sight
                    && edits.is_empty()
                {
                    watched.sound_until = *last;
                }
                watched.judge.see(now, sight);
            }
            WatchResult::Mended(number, done) => {
                let Some(watched) = self.streams.get_mut(number) else { return };
                (watched.is_mended, watched.mend_at, watched.look_at) = (false, now.plus(PAUSE), now);
                let stream = watched.judge.kept().name();
                match done {
                    Err(error) => warn!(stream, %error, "a stream cannot be put right"),
                    Ok(None) => {}
                    Ok(Some(Mended::Made)) => {
                        counter!("tickwire_storage_mended_total").increment(1);
                        warn!(stream, "a stream that was missing is made anew, empty");
                    }
                    Ok(Some(Mended::PutBack { through })) => {
                        counter!("tickwire_storage_mended_total").increment(1);
                        let after = watched.sound_until;
                        warn!(
                            stream,
                            after,
                            through,
                            "what was edited is put back; messages in between may be stored under other subjects"
                        );
                    }
                }
            }
        }
    }

    /// Says what is wrong: at once when it changes, and again while it lasts.
    fn say(&mut self, now: Millis) {
        let judged = |watched: &Watched| {
            let judge = &watched.judge;
            judge.trouble(now, self.nats.writes.failing(judge.kept().name()).as_ref())
        };
        let troubles: Vec<StorageProblem> = self.streams.iter().filter_map(judged).collect();
        let said: Vec<(String, StorageFault)> =
            troubles.iter().map(|trouble| (trouble.stream.clone(), trouble.fault)).collect();
        if said == self.said && (said.is_empty() || now.since(self.said_at) < AGAIN) {
            return;
        }
        let report = StorageReport { router: self.me.clone(), troubles };
        let sent = match wire::encode(&report) {
            Ok(bytes) => self.nats.link.publish(names::STORAGE, None, &bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match sent {
            Ok(()) => (self.said, self.said_at) = (said, now),
            Err(error) => info!(error, "what is wrong with the storage was not said"),
        }
    }
}
