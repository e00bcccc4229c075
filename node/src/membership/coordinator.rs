//! The coordinator's duty, which every router is ready for: one of them, the holder of the coordinator's lease, writes
//! the view.
//!
//! Every router folds all beats all the time, so that a new coordinator knows what the old one knew. Absence counts
//! only while this node can be expected to hear: not while KV fails, not while its own beats do not come back nor until
//! every other node had time to connect again after that, and not after it stood still itself. Views are written by
//! compare-and-set; who is refused is not the coordinator. Now and then the coordinator reads back what it wrote: KV may
//! have lost it.

use super::{Announcement, Beat, MembershipError};
use crate::clock::{Clock, millis};
use crate::config::MembershipConfig;
use crate::lease::{Lease, LeaseError, Leases, Observed};
use crate::link::Subscriber;
use crate::names;
use crate::nats::{BACKOFF, Nats};
use crate::view::{BeatError, Roster};
use metrics::{counter, gauge};
use std::future::ready;
use std::sync::Arc;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::placement::{Member, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

/// How many bytes of beats may wait: some thousands. Who is not heard is heard at the next.
const BEAT_BYTES: usize = 1024 * 1024;

/// How many beats are heard before a round that is due has its turn.
const HEARD: u32 = 64;

/// After how many rounds the coordinator reads the view again.
const REVIEW: u32 = 8;

pub(super) struct Coordinator {
    nats: Nats,
    me: NodeRef,
    clock: Clock,
    beats: Subscriber,
    rounds: Interval,
    roster: Roster,
    timeout: u64,
    lease_ttl: u64,
    leases: Leases,
    observed: Option<Observed>,
    office: Option<Office>,
    /// The view that this node follows: versions up to its own are taken.
    followed: watch::Receiver<Arc<View>>,
    last_round: Millis,
    /// Until when absence does not count, because other nodes may still be waiting to connect again.
    lenient_until: Millis,
}

/// What the holder of the lease has beside it.
struct Office {
    lease: Lease,
    /// The view in KV with its revision; `None` when it has to be read again.
    view: Option<(u64, View)>,
    /// The highest version that it has seen or written.
    version: u64,
    /// How many rounds ago the view was read or written.
    age: u32,
}

impl Coordinator {
    pub(super) fn new(
        nats: &Nats,
        config: &MembershipConfig,
        leases: Leases,
        me: NodeRef,
        clock: Clock,
        followed: watch::Receiver<Arc<View>>,
    ) -> Result<Self, MembershipError> {
        let beats = super::subscribe(nats, "member_beats", names::beat("*"), BEAT_BYTES)?;
        // Often enough that the lease cannot become stale between two rounds.
        let mut rounds = interval(config.beat_interval.min(config.lease_ttl / 3));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (now, timeout) = (clock.now(), millis(config.timeout));
        gauge!("tickwire_coordinator").set(0.0);
        Ok(Self {
            nats: nats.clone(),
            me,
            clock,
            beats,
            rounds,
            roster: Roster::new(now, timeout),
            timeout,
            lease_ttl: millis(config.lease_ttl),
            leases,
            observed: None,
            office: None,
            followed,
            last_round: now,
            lenient_until: now,
        })
    }

    /// Does the duty until dropped, or until the connection is closed for good.
    pub(super) async fn run(&mut self) {
        let mut heard = 0;
        loop {
            // Who sends a lot of beats must not keep this from its rounds.
            let heard_before = std::mem::replace(&mut heard, 0);
            tokio::select! {
                biased;
                message = self.beats.next(), if heard_before < HEARD => {
                    heard = heard_before + 1;
                    let Some(message) = message else { return };
                    if self.hear(&message.subject_text(), message.payload()) {
                        self.write_view().await;
                    }
                }
                _ = self.rounds.tick() => self.round().await,
                () = ready(()), if heard_before >= HEARD => {}
            }
        }
    }

    /// The coordinator's own goodbye: the last view that it writes is without it, and another can follow at once.
    pub(super) async fn leave(mut self, member: &Member) {
        if let Err(error) = self.roster.goodbye(self.clock.now(), member) {
            warn!(%error, "the own goodbye was refused");
        }
        self.write_view().await;
        if let Some(office) = self.office.take()
            && let Err(error) = office.lease.free(&()).await
        {
            debug!(%error, "the coordinator's lease was not given back");
        }
        gauge!("tickwire_coordinator").set(0.0);
    }

    /// Folds a beat in. Returns whether it is news. One that makes no sense changes nothing.
    fn hear(&mut self, subject: &str, payload: &[u8]) -> bool {
        let now = self.clock.now();
        let folded = match wire::decode::<Beat>(payload) {
            Ok(beat) if names::beat(beat.member.role.as_str()) != subject => {
                Err("of another role's subject".to_owned())
            }
            Ok(Beat { member, goodbye: true }) => self.roster.goodbye(now, &member).map(|()| true).map_err(text),
            Ok(Beat { member, goodbye: false }) => self.roster.beat(now, member).map_err(text),
            Err(error) => Err(error.to_string()),
        };
        folded.unwrap_or_else(|error| {
            counter!("tickwire_beats_refused_total").increment(1);
            debug!(subject, error, "a beat was refused");
            false
        })
    }

    async fn round(&mut self) {
        let now = self.clock.now();
        let stood_still = now.since(self.last_round) > self.timeout / 2;
        let deaf = now.since(self.roster.last_heard(&self.me).unwrap_or_default()) > self.timeout / 2;
        if deaf {
            self.be_lenient(now);
        }
        if stood_still || now < self.lenient_until {
            self.roster.restart_silence(now);
        }
        self.last_round = now;
        match &mut self.office {
            None => self.run_for_office().await,
            Some(office) => {
                office.age += 1;
                if office.age >= REVIEW {
                    office.view = None;
                }
                if let Err(error) = office.lease.renew(&()).await {
                    self.trouble(&error);
                }
            }
        }
        // A question that was answered late may have waited for a connection, and beats wait behind it.
        let answered = self.clock.now();
        if answered.since(now) > self.timeout / 2 {
            self.be_lenient(answered);
        }
        self.write_view().await;
        self.announce().await;
        // Time spent on KV is no time in which we stood still.
        self.last_round = self.clock.now();
    }

    /// What cut this node off cut others off too, and chance may make their pauses between two tries longer: until they
    /// had time to connect again, absence does not count.
    fn be_lenient(&mut self, now: Millis) {
        self.lenient_until = now.plus(BACKOFF.most);
        self.roster.restart_silence(now);
    }

    /// Looks at the lease, and takes it if nobody has it.
    async fn run_for_office(&mut self) {
        let read = match self.leases.read::<()>(names::COORDINATOR_KEY).await {
            Ok(read) => read,
            Err(error) => return debug!(%error, "the coordinator's lease cannot be read"),
        };
        let now = self.clock.now();
        let observed = self.observed.get_or_insert(Observed::new(now, read.revision));
        if !read.is_foreign {
            observed.see(now, read.revision);
        }
        if !read.is_free_for(&self.me) && !observed.is_stale(now, self.lease_ttl) {
            return;
        }
        match self.leases.take(names::COORDINATOR_KEY, read.revision, &()).await {
            Ok(lease) => {
                info!("this node is the coordinator now");
                gauge!("tickwire_coordinator").set(1.0);
                // It has listened all the time, and looked after its own pauses as a coordinator does: what it has not
                // heard counts at once, so that a coordinator's death is not noticed later than any other.
                self.office = Some(Office { lease, view: None, version: 0, age: 0 });
            }
            Err(error) => debug!(%error, "the coordinator's lease was not taken"),
        }
    }

    /// Writes the view that follows from what was heard, if it is another one and this node is the coordinator.
    async fn write_view(&mut self) {
        let Some(office) = &mut self.office else { return };
        let (revision, current) = match office.view.take() {
            Some(known) => known,
            None => match self.leases.fetch::<View>(names::VIEW_KEY).await {
                Ok((revision, view)) => {
                    office.age = 0;
                    (revision, view.unwrap_or_default())
                }
                // What nobody can read is written over.
                Err(LeaseError::Unreadable { revision, source, .. }) => {
                    warn!(%source, "the member view in KV makes no sense, writing another");
                    (revision, View::default())
                }
                Err(error) => return self.trouble(&error),
            },
        };
        office.version = office.version.max(self.followed.borrow().version);
        let Some(next) = self.roster.next_view(&current, office.version, self.clock.now()) else {
            office.view = Some((revision, current));
            return;
        };
        match self.leases.store(names::VIEW_KEY, revision, &next).await {
            Ok(revision) => {
                info!(version = next.version, members = %super::names_of(&next), "wrote the member view");
                office.version = next.version;
                (office.view, office.age) = (Some((revision, next)), 0);
                self.announce().await;
            }
            // The next round finds out by the lease whether another node is the coordinator.
            Err(LeaseError::Refused { .. }) => debug!("another node wrote the view"),
            Err(error) => self.trouble(&error),
        }
    }

    async fn announce(&self) {
        let Some((_, view)) = self.office.as_ref().and_then(|office| office.view.as_ref()) else { return };
        if !self.nats.is_connected() {
            return;
        }
        let announcement = Announcement { version: view.version };
        match wire::encode(&announcement) {
            Ok(bytes) => {
                if let Err(error) = self.nats.client.publish(names::VIEW, bytes.into()).await {
                    warn!(%error, "the view was not announced");
                }
            }
            Err(error) => warn!(%error, "the view was not announced"),
        }
    }

    /// KV failed, so that absence does not count; or it said that another node has the lease.
    fn trouble(&mut self, error: &LeaseError) {
        if matches!(error, LeaseError::Refused { .. }) {
            self.roster.restart_silence(self.clock.now());
            info!("another node is the coordinator now");
            gauge!("tickwire_coordinator").set(0.0);
            (self.office, self.observed) = (None, None);
        } else {
            self.be_lenient(self.clock.now());
            warn!(%error, "the coordinator cannot reach KV");
        }
    }
}

fn text(error: BeatError) -> String {
    error.to_string()
}
