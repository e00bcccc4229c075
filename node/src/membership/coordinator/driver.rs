//! Waits for beats and rounds, and performs the tasks of the coordinator, one after the other. Beats that arrive while
//! KV is waited for are passed on before its answer, with the time of their arrival.

use super::{Coordinator, CoordinatorTask, KvAnswer, KvRequest};
use crate::clock::Clock;
use crate::config::MembershipConfig;
use crate::lease::Leases;
use crate::link::{LinkSubscriber, NatsMessage};
use crate::membership::{Announcement, MembershipError};
use crate::names;
use crate::nats::Nats;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::placement::{Member, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// How many bytes of beats may wait: some thousands. A dropped beat is replaced by the next.
const BEAT_BYTES: usize = 1024 * 1024;

/// The time between two rounds: so short that the lease does not become stale between them, unless KV is slow.
pub(in crate::membership) fn round_interval(config: &MembershipConfig) -> Duration {
    config.beat_interval.min(config.lease_ttl / 3)
}

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
        let beats = crate::membership::subscribe(nats, "member_beats", names::beat("*", "*"), BEAT_BYTES)?;
        let mut rounds = interval(round_interval(config));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let clock = Clock::start();
        let coordinator = Coordinator::new(member.node.clone(), config, clock.now());
        Ok(Self { coordinator, nats: nats.clone(), clock, beats, rounds, leases, followed })
    }

    /// Works until dropped, or until the connection is closed.
    pub(in crate::membership) async fn run(&mut self) {
        loop {
            let has_news = self.coordinator.has_news;
            tokio::select! {
                // Rounds first, so that neither a flood of beats nor news delays the renewal of the lease.
                biased;
                _ = self.rounds.tick() => {
                    self.record_waiting_beats();
                    self.note_followed();
                    self.coordinator.round(self.clock.now());
                }
                () = ready(()), if has_news => {
                    self.note_followed();
                    self.coordinator.write_news(self.clock.now());
                }
                message = self.beats.next() => {
                    let Some(message) = message else { return };
                    self.record_beat(&message);
                    self.record_waiting_beats();
                    self.note_followed();
                    self.coordinator.write_news(self.clock.now());
                }
            }
            self.perform().await;
            // Own beats and the view are served by the same task, also under a flood of beats.
            yield_now().await;
        }
    }

    /// Performs the coordinator's own goodbye.
    pub(in crate::membership) async fn leave(mut self, member: &Member) {
        self.record_waiting_beats();
        self.note_followed();
        self.coordinator.leave(self.clock.now(), member);
        self.perform().await;
    }

    async fn perform(&mut self) {
        while let Some(task) = self.coordinator.next_task() {
            match task {
                CoordinatorTask::Announce(announcement) => self.announce(announcement).await,
                CoordinatorTask::Ask(request) => {
                    let answer = self.ask(request).await;
                    self.record_waiting_beats();
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

    fn record_beat(&mut self, message: &NatsMessage) {
        let arrived = self.clock.shown(message.arrived());
        self.coordinator.beat(arrived, &message.subject_text(), message.payload());
    }

    /// Passes on all beats that have arrived, because the next turn may judge the absence of others.
    fn record_waiting_beats(&mut self) {
        for message in self.beats.take_waiting() {
            self.record_beat(&message);
        }
    }

    fn note_followed(&mut self) {
        self.coordinator.set_followed(self.followed.borrow().version);
    }
}
