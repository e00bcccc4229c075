//! The coordinator: one router, the holder of the coordinator's lease, writes the view. Every router is ready to do it.
//!
//! Every router records all beats all the time, so that a new coordinator knows what the old one knew. A node's absence
//! counts only while this node can be expected to receive beats: not while KV fails; not while its own beats do not
//! come back, nor until every other node had time to reconnect after that; and not after this process itself was
//! paused. Views are written by compare-and-set; a node whose write is refused is not the coordinator. At intervals the
//! coordinator reads back what it wrote, because KV may have lost it.

use super::{Announcement, Beat, MembershipError};
use crate::clock::{Clock, millis};
use crate::config::MembershipConfig;
use crate::connection_health::BACKOFF;
use crate::lease::{Lease, LeaseError, Leases, Observed};
use crate::link::LinkSubscriber;
use crate::metrics;
use crate::names;
use crate::nats::Nats;
use crate::view::{BeatError, Roster};
use std::future::ready;
use std::sync::Arc;
use tickwire_core::ids::{Millis, NodeRef};
use tickwire_core::placement::{Member, View};
use tickwire_core::wire;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

/// How many bytes of beats may wait: some thousands. A dropped beat is replaced by the next.
const BEAT_BYTES: usize = 1024 * 1024;

/// How many beats are handled before a round that is due has its turn.
const BEATS_IN_A_ROW: u32 = 64;

/// After how many rounds the coordinator reads the view again.
const REVIEW: u32 = 8;

pub(super) struct Coordinator {
    nats: Nats,
    me: NodeRef,
    clock: Clock,
    beats: LinkSubscriber,
    rounds: Interval,
    roster: Roster,
    timeout: u64,
    lease_ttl: u64,
    leases: Leases,
    observed: Option<Observed>,
    term: Option<Term>,
    /// The view that this node follows: its versions are in use.
    followed: watch::Receiver<Arc<View>>,
    last_round: Millis,
    /// Until when absence does not count, because other nodes may still wait to reconnect.
    lenient_until: Millis,
}

/// What the coordinator keeps beside its lease.
struct Term {
    lease: Lease,
    /// The view in KV with its revision; `None` when it has to be read again.
    view: Option<(u64, View)>,
    /// The highest version that was read or written.
    version: u64,
    /// The number of rounds since the view was read or written.
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
        metrics::COORDINATOR.set(0.0);
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
            term: None,
            followed,
            last_round: now,
            lenient_until: now,
        })
    }

    /// Works until dropped, or until the connection is closed.
    pub(super) async fn run(&mut self) {
        let mut handled = 0;
        loop {
            // A flood of beats must not keep this loop from its rounds.
            let handled_before = std::mem::replace(&mut handled, 0);
            tokio::select! {
                biased;
                message = self.beats.next(), if handled_before < BEATS_IN_A_ROW => {
                    handled = handled_before + 1;
                    let Some(message) = message else { return };
                    if self.record(&message.subject_text(), message.payload()) {
                        self.write_view().await;
                    }
                }
                _ = self.rounds.tick() => self.round().await,
                () = ready(()), if handled_before >= BEATS_IN_A_ROW => {}
            }
        }
    }

    /// The coordinator's own goodbye: it writes a last view without itself, and another router can take over at once.
    pub(super) async fn leave(mut self, member: &Member) {
        if let Err(error) = self.roster.goodbye(self.clock.now(), member) {
            warn!(%error, "own goodbye refused");
        }
        self.write_view().await;
        if let Some(term) = self.term.take()
            && let Err(error) = term.lease.free(&()).await
        {
            debug!(%error, "coordinator's lease not given back");
        }
        metrics::COORDINATOR.set(0.0);
    }

    /// Records a beat. Returns whether it changes the view. An invalid beat changes nothing.
    fn record(&mut self, subject: &str, payload: &[u8]) -> bool {
        let now = self.clock.now();
        let folded = match wire::decode::<Beat>(payload) {
            Ok(beat) if names::beat(beat.member.role.as_str()) != subject => {
                Err("the subject is of another role".to_owned())
            }
            Ok(Beat { member, goodbye: true }) => self.roster.goodbye(now, &member).map(|()| true).map_err(text),
            Ok(Beat { member, goodbye: false }) => self.roster.beat(now, member).map_err(text),
            Err(error) => Err(error.to_string()),
        };
        folded.unwrap_or_else(|error| {
            metrics::MEMBERSHIP_BEATS_REFUSED.increment(1);
            debug!(subject, error, "beat refused");
            false
        })
    }

    async fn round(&mut self) {
        let now = self.clock.now();
        let was_paused = now.since(self.last_round) > self.timeout / 2;
        let is_cut_off = now.since(self.roster.last_beat(&self.me).unwrap_or_default()) > self.timeout / 2;
        if is_cut_off {
            self.be_lenient(now);
        }
        if was_paused || now < self.lenient_until {
            self.roster.restart_silence(now);
        }
        self.last_round = now;
        match &mut self.term {
            None => self.try_lease().await,
            Some(term) => {
                term.age += 1;
                if term.age >= REVIEW {
                    term.view = None;
                }
                if let Err(error) = term.lease.renew(&()).await {
                    self.handle_failure(&error);
                }
            }
        }
        // A request that was answered late may have waited for a connection, and then beats were delayed as well.
        let answered = self.clock.now();
        if answered.since(now) > self.timeout / 2 {
            self.be_lenient(answered);
        }
        self.write_view().await;
        self.announce().await;
        // Time spent on KV does not count as a pause of this process.
        self.last_round = self.clock.now();
    }

    /// What cut this node off also cut others off, and their backoff may be longer. Absence does not count until they
    /// had time to reconnect.
    fn be_lenient(&mut self, now: Millis) {
        self.lenient_until = now.plus(BACKOFF.most);
        self.roster.restart_silence(now);
    }

    /// Reads the lease, and takes it if it is free or stale.
    async fn try_lease(&mut self) {
        let read = match self.leases.read::<()>(names::COORDINATOR_KEY).await {
            Ok(read) => read,
            Err(error) => return debug!(%error, "coordinator's lease not read"),
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
                info!("became the coordinator");
                metrics::COORDINATOR.set(1.0);
                // This node has recorded beats all the time, and accounted for its own pauses. So absence counts at
                // once, and the death of a coordinator is detected as early as that of any other node.
                self.term = Some(Term { lease, view: None, version: 0, age: 0 });
            }
            Err(error) => debug!(%error, "coordinator's lease not taken"),
        }
    }

    /// Writes the view that follows from the beats, if it has changed and this node is the coordinator.
    async fn write_view(&mut self) {
        let Some(term) = &mut self.term else { return };
        let (revision, current) = match term.view.take() {
            Some(known) => known,
            None => match self.leases.fetch::<View>(names::VIEW_KEY).await {
                Ok((revision, view)) => {
                    term.age = 0;
                    (revision, view.unwrap_or_default())
                }
                // An unreadable view is overwritten.
                Err(LeaseError::Unreadable { revision, source, .. }) => {
                    warn!(%source, "unreadable member view in KV, writing a new one");
                    (revision, View::default())
                }
                Err(error) => return self.handle_failure(&error),
            },
        };
        term.version = term.version.max(self.followed.borrow().version);
        let Some(next) = self.roster.next_view(&current, term.version, self.clock.now()) else {
            term.view = Some((revision, current));
            return;
        };
        match self.leases.store(names::VIEW_KEY, revision, &next).await {
            Ok(revision) => {
                info!(version = next.version, members = %super::names_of(&next), "wrote the member view");
                term.version = next.version;
                (term.view, term.age) = (Some((revision, next)), 0);
                self.announce().await;
            }
            // The next round finds out from the lease whether another node is the coordinator.
            Err(LeaseError::Refused { .. }) => debug!("another node wrote the view"),
            Err(error) => self.handle_failure(&error),
        }
    }

    async fn announce(&self) {
        let Some((_, view)) = self.term.as_ref().and_then(|term| term.view.as_ref()) else { return };
        if !self.nats.is_connected() {
            return;
        }
        let announcement = Announcement { version: view.version };
        match wire::encode(&announcement) {
            Ok(bytes) => {
                if let Err(error) = self.nats.client.publish(names::VIEW, bytes.into()).await {
                    warn!(%error, "view not announced");
                }
            }
            Err(error) => warn!(%error, "view not announced"),
        }
    }

    /// Handles a failure: KV failed, so absence does not count; or another node has the lease.
    fn handle_failure(&mut self, error: &LeaseError) {
        if matches!(error, LeaseError::Refused { .. }) {
            self.roster.restart_silence(self.clock.now());
            info!("lost the coordinator's lease to another node");
            metrics::COORDINATOR.set(0.0);
            (self.term, self.observed) = (None, None);
        } else {
            self.be_lenient(self.clock.now());
            warn!(%error, "the coordinator cannot reach KV");
        }
    }
}

fn text(error: BeatError) -> String {
    error.to_string()
}
