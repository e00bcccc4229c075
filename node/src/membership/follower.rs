//! A node's copy of the view. It is read from KV when another version is announced, when nothing is announced, and at
//! long intervals in any case: a KV that has lost its last writes may hold another view under a known version.
//!
//! No I/O: the [driver](self::driver) waits, reads, and passes the view on.

pub(super) mod driver;

use super::view_change::ViewChange;
use super::{Announcement, measure};
use crate::clock::millis;
use crate::lease::LeaseError;
use crate::metrics;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::Millis;
use tickwire_core::placement::View;
use tickwire_core::wire;
use tracing::debug;

/// After how many silent beat intervals a node reads the view by itself.
const SILENT_INTERVALS: u64 = 3;

/// The shortest pause between two reads, in milliseconds, however often another view is announced.
pub(super) const LEAST_PAUSE: u64 = 20;

/// After how many beat intervals a node reads the view in any case.
const REVIEW: u64 = 15;

#[derive(Debug)]
pub(super) struct Follower {
    interval: u64,
    view: Arc<View>,
    /// The version that was announced last, until it was read.
    announced: Option<u64>,
    read_at: Millis,
    review_at: Millis,
    last_read: Millis,
}

impl Follower {
    /// Has the view of version 0 until the first is read.
    pub(super) fn new(interval: Duration, now: Millis) -> Self {
        Self {
            interval: millis(interval),
            view: Arc::default(),
            announced: None,
            read_at: now,
            review_at: now,
            last_read: now,
        }
    }

    /// When the view is to be read from KV.
    pub(super) fn read_at(&self) -> Millis {
        self.read_at
    }

    /// An announcement has arrived.
    pub(super) fn announcement(&mut self, now: Millis, payload: &[u8]) {
        match wire::decode::<Announcement>(payload) {
            Ok(Announcement { version }) => {
                self.announced = Some(version);
                let is_known = version == self.view.version;
                let wanted = if is_known { now.plus(self.interval * SILENT_INTERVALS) } else { now };
                self.read_at = self.review_at.min(wanted).max(self.last_read.plus(LEAST_PAUSE));
            }
            Err(error) => {
                metrics::VIEW_ANNOUNCEMENTS_REFUSED.increment(1);
                debug!(%error, "unreadable view announcement refused");
            }
        }
    }

    /// The view was read from KV, or not. Returns it if it is news.
    pub(super) fn view_read(
        &mut self,
        now: Millis,
        read: Result<(u64, Option<View>), LeaseError>,
    ) -> Option<Arc<View>> {
        let (arrived, news) = match read {
            Ok((_, Some(view))) => self.compare(view),
            Ok((_, None)) => (self.announced.is_none(), None),
            Err(error) => {
                debug!(%error, "view not read");
                (false, None)
            }
        };
        self.last_read = now;
        if arrived {
            self.announced = None;
            self.review_at = now.plus(self.interval * REVIEW);
        }
        // A server that lags behind the announcement has the view a moment later.
        let pause = if arrived { self.interval * SILENT_INTERVALS } else { self.interval / 4 };
        self.read_at = now.plus(pause);
        news
    }

    /// Whether a view that was read has the announced version, if one was announced; and the view, if it is news.
    fn compare(&mut self, view: View) -> (bool, Option<Arc<View>>) {
        let arrived = self.announced.is_none_or(|version| version == view.version);
        // An older view is taken only if the coordinator has announced that version.
        let is_other = view != *self.view;
        if view.version > self.view.version || is_other && arrived && self.announced.is_some() {
            ViewChange::between(&self.view, &view, |_| true).log_received(&view);
            measure(&view);
            self.view = Arc::new(view);
            return (arrived, Some(Arc::clone(&self.view)));
        }
        (arrived, None)
    }
}
