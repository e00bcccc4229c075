//! A node's copy of the view. It is read from KV when another version is announced, when nothing is announced, and at
//! long intervals in any case: a KV that has lost its last writes may hold another view under a known version.

use super::{Announcement, MembershipError, measure};
use crate::lease::Leases;
use crate::link::LinkSubscriber;
use crate::names;
use crate::nats::Nats;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::placement::View;
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

/// After how many silent beat intervals a node reads the view by itself.
const SILENT_INTERVALS: u32 = 3;

/// How many bytes of announcements may wait. Each one replaces those before it.
const ANNOUNCEMENT_BYTES: usize = 64 * 1024;

/// The shortest pause between two reads, however often another view is announced.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// After how many beat intervals a node reads the view in any case.
const REVIEW: u32 = 15;

pub(super) struct Follower {
    announcements: LinkSubscriber,
    interval: Duration,
    leases: Leases,
    view: watch::Sender<Arc<View>>,
}

impl Follower {
    pub(super) fn new(
        nats: &Nats,
        interval: Duration,
        leases: Leases,
        view: watch::Sender<Arc<View>>,
    ) -> Result<Self, MembershipError> {
        let announcements = super::subscribe(nats, "views", names::VIEW.to_owned(), ANNOUNCEMENT_BYTES)?;
        Ok(Self { announcements, interval, leases, view })
    }

    /// Follows until dropped, or until the connection is closed.
    pub(super) async fn run(mut self) {
        let mut read_at = Instant::now();
        let mut review_at = Instant::now();
        let (mut announced, mut last_read) = (None, Instant::now());
        loop {
            tokio::select! {
                message = self.announcements.next() => {
                    let Some(message) = message else { return };
                    match wire::decode::<Announcement>(message.payload()) {
                        Ok(announcement) => announced = Some(announcement.version),
                        Err(error) => {
                            debug!(%error, "unreadable view announcement refused");
                            continue;
                        }
                    }
                    read_at = if announced == Some(self.view.borrow().version) {
                        review_at.min(Instant::now() + self.interval * SILENT_INTERVALS)
                    } else {
                        Instant::now().max(last_read + LEAST_PAUSE)
                    };
                }
                () = sleep_until(read_at) => {
                    let arrived = self.read(announced).await;
                    last_read = Instant::now();
                    if arrived {
                        review_at = Instant::now() + self.interval * REVIEW;
                    }
                    // A server that lags behind the announcement has the view a moment later.
                    let pause = if arrived { self.interval * SILENT_INTERVALS } else { self.interval / 4 };
                    (read_at, announced) = (Instant::now() + pause, announced.filter(|_| !arrived));
                }
            }
        }
    }

    /// Reads the view. Returns whether it has the announced version, if one was announced.
    async fn read(&self, announced: Option<u64>) -> bool {
        let view: View = match self.leases.fetch(names::VIEW_KEY).await {
            Ok((_, Some(view))) => view,
            Ok((_, None)) => return announced.is_none(),
            Err(error) => {
                debug!(%error, "view not read");
                return false;
            }
        };
        let arrived = announced.is_none_or(|version| version == view.version);
        // An older view is taken only if the coordinator has announced that version.
        let is_news = {
            let mine = self.view.borrow();
            let is_other = view.version != mine.version || view.members != mine.members;
            view.version > mine.version || is_other && arrived && announced.is_some()
        };
        if is_news {
            info!(version = view.version, members = %super::names_of(&view), "new member view");
            measure(&view);
            self.view.send_replace(Arc::new(view));
        }
        arrived
    }
}
