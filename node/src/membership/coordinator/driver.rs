//! Waits for beats and rounds, and performs the tasks of the coordinator, one after the other.

use super::{Coordinator, CoordinatorTask, KvAnswer, KvRequest, round_interval};
use crate::clock::Clock;
use crate::config::MembershipConfig;
use crate::lease::Leases;
use crate::link::LinkSubscriber;
use crate::membership::{Announcement, MembershipError};
use crate::names;
use crate::nats::Nats;
use std::future::ready;
use std::sync::Arc;
use tickwire_core::placement::{Member, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// How many bytes of beats may wait: some thousands. A dropped beat is replaced by the next.
const BEAT_BYTES: usize = 1024 * 1024;

/// How many beats are handled before a round that is due has its turn.
pub(in crate::membership) const BEATS_IN_A_ROW: u32 = 64;

pub(in crate::membership) struct CoordinatorDriver {
    coordinator: Coordinator,
    nats: Nats,
    clock: Clock,
    beats: LinkSubscriber,
    rounds: Interval,
    leases: Leases,
    followed: watch::Receiver<Arc<View>>,
}

impl CoordinatorDriver {
    pub(in crate::membership) fn new(
        nats: &Nats,
        config: &MembershipConfig,
        leases: Leases,
        member: &Member,
        followed: watch::Receiver<Arc<View>>,
    ) -> Result<Self, MembershipError> {
        let beats = crate::membership::subscribe(nats, "member_beats", names::beat("*"), BEAT_BYTES)?;
        let mut rounds = interval(round_interval(config));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let clock = Clock::start();
        let coordinator = Coordinator::new(member.node.clone(), config, clock.now());
        Ok(Self { coordinator, nats: nats.clone(), clock, beats, rounds, leases, followed })
    }

    /// Works until dropped, or until the connection is closed.
    pub(in crate::membership) async fn run(&mut self) {
        let mut handled = 0;
        loop {
            // A flood of beats must not keep this loop from its rounds.
            let handled_before = std::mem::replace(&mut handled, 0);
            tokio::select! {
                biased;
                message = self.beats.next(), if handled_before < BEATS_IN_A_ROW => {
                    handled = handled_before + 1;
                    let Some(message) = message else { return };
                    self.note_followed();
                    self.coordinator.beat(self.clock.now(), &message.subject_text(), message.payload());
                    self.perform().await;
                }
                _ = self.rounds.tick() => {
                    self.note_followed();
                    self.coordinator.round(self.clock.now());
                    self.perform().await;
                }
                () = ready(()), if handled_before >= BEATS_IN_A_ROW => {}
            }
        }
    }

    /// Performs the coordinator's own goodbye.
    pub(in crate::membership) async fn leave(mut self, member: &Member) {
        self.note_followed();
        self.coordinator.leave(self.clock.now(), member);
        self.perform().await;
    }

    async fn perform(&mut self) {
        while let Some(task) = self.coordinator.next_task(self.clock.now()) {
            match task {
                CoordinatorTask::Announce(announcement) => self.announce(announcement).await,
                CoordinatorTask::Ask(request) => {
                    let answer = self.ask(request).await;
                    self.note_followed();
                    self.coordinator.take_answer(self.clock.now(), answer);
                }
            }
        }
    }

    async fn ask(&self, request: KvRequest) -> KvAnswer {
        let Self { leases, .. } = self;
        match request {
            KvRequest::ReadLease => KvAnswer::LeaseRead(leases.read(names::COORDINATOR_KEY).await),
            KvRequest::WriteLease { revision, is_ours } => {
                KvAnswer::LeaseWritten(leases.write(names::COORDINATOR_KEY, revision, is_ours, &()).await)
            }
            KvRequest::ReadView => KvAnswer::ViewRead(leases.fetch(names::VIEW_KEY).await),
            KvRequest::WriteView { revision, view } => {
                KvAnswer::ViewWritten(leases.store(names::VIEW_KEY, revision, &view).await)
            }
        }
    }

    async fn announce(&self, announcement: Announcement) {
        if !self.nats.is_connected() {
            return;
        }
        match wire::encode(&announcement) {
            Ok(bytes) => {
                if let Err(error) = self.nats.client.publish(names::VIEW, bytes.into()).await {
                    warn!(%error, "view not announced");
                }
            }
            Err(error) => warn!(%error, "view not announced"),
        }
    }

    fn note_followed(&mut self) {
        self.coordinator.set_followed(self.followed.borrow().version);
    }
}
