//! Waits for announcements, reads the view when the follower asks for it, and passes it on.

use super::Follower;
use crate::clock::Clock;
use crate::lease::Leases;
use crate::link::LinkSubscriber;
use crate::membership::MembershipError;
use crate::names;
use crate::nats::Nats;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::placement::View;
use tokio::sync::watch;
use tokio::time::sleep_until;

/// How many bytes of announcements may wait. Each one replaces those before it.
const ANNOUNCEMENT_BYTES: usize = 64 * 1024;

pub(in crate::membership) struct FollowerDriver {
    follower: Follower,
    announcements: LinkSubscriber,
    clock: Clock,
    leases: Leases,
    view: watch::Sender<Arc<View>>,
}

impl FollowerDriver {
    pub(in crate::membership) fn new(
        nats: &Nats,
        interval: Duration,
        leases: Leases,
        view: watch::Sender<Arc<View>>,
    ) -> Result<Self, MembershipError> {
        let announcements = crate::membership::subscribe(nats, "views", names::VIEW.to_owned(), ANNOUNCEMENT_BYTES)?;
        let clock = Clock::start();
        Ok(Self { follower: Follower::new(interval, clock.now()), announcements, clock, leases, view })
    }

    /// Follows until dropped, or until the connection is closed.
    pub(in crate::membership) async fn run(mut self) {
        loop {
            tokio::select! {
                message = self.announcements.next() => {
                    let Some(message) = message else { return };
                    self.follower.announcement(self.clock.now(), message.payload());
                }
                () = sleep_until(self.clock.at(self.follower.read_at())) => {
                    let read = self.leases.fetch(names::VIEW_KEY).await;
                    if let Some(view) = self.follower.view_read(self.clock.now(), read) {
                        self.view.send_replace(view);
                    }
                }
            }
        }
    }
}
