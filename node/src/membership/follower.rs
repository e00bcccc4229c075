//! A node's copy of the view: fetched from KV when another version is announced, when nothing is announced, and now and
//! then in any case, for a KV that has lost its last writes may hold another view under a version that is known.

use super::{Announcement, MembershipError, measure};
use crate::lease::Leases;
use crate::link::Subscriber;
use crate::names;
use crate::nats::Nats;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::placement::View;
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

/// After how many silent beat intervals a node looks by itself.
const PATIENCE: u32 = 3;

/// How many bytes of announcements may wait. Each says what the one before said, or more.
const ANNOUNCEMENT_BYTES: usize = 64 * 1024;

/// How long it waits between two looks, however often another view is announced.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// After how many beat intervals a node looks although all seems well.
const REVIEW: u32 = 15;

pub(super) struct Follower {
    announcements: Subscriber,
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

    /// Follows until dropped, or until the connection is closed for good.
    pub(super) async fn run(mut self) {
        let mut look_at = Instant::now();
        let mut review_at = Instant::now();
        let (mut announced, mut looked_at) = (None, Instant::now());
        loop {
            tokio::select! {
                message = self.announcements.next() => {
                    let Some(message) = message else { return };
                    match wire::decode::<Announcement>(message.payload()) {
                        Ok(announcement) => announced = Some(announcement.version),
                        Err(error) => {
                            debug!(%error, "an announcement of the view was refused");
                            continue;
                        }
                    }
                    look_at = if announced == Some(self.view.borrow().version) {
                        review_at.min(Instant::now() + self.interval * PATIENCE)
                    } else {
                        Instant::now().max(looked_at + LEAST_PAUSE)
                    };
                }
                () = sleep_until(look_at) => {
                    let arrived = self.look(announced).await;
                    looked_at = Instant::now();
                    if arrived {
                        review_at = Instant::now() + self.interval * REVIEW;
                    }
                    // A server that lags behind the announcement has it a moment later.
                    let pause = if arrived { self.interval * PATIENCE } else { self.interval / 4 };
                    (look_at, announced) = (Instant::now() + pause, announced.filter(|_| !arrived));
                }
            }
        }
    }

    /// Fetches the view. Returns whether what is there is what was announced, if anything was.
    async fn look(&self, announced: Option<u64>) -> bool {
        let view: View = match self.leases.fetch(names::VIEW_KEY).await {
            Ok((_, Some(view))) => view,
            Ok((_, None)) => return announced.is_none(),
            Err(error) => {
                debug!(%error, "the view cannot be fetched");
                return false;
            }
        };
        let arrived = announced.is_none_or(|version| version == view.version);
        // An older one is taken only if that is what the coordinator goes on from.
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
