//! Who reads what: the ring says who should own a partition, its lease who does. This task brings the two together,
//! and tells the engine.
//!
//! ```text
//! view ──▶ wanted ──look, take──▶ held ──renew with the floor──▶ held
//!                                   │ refused: disown at once
//!                                   │ no longer wanted: the engine publishes what it has, then floor and lease go back
//! ```
//!
//! * An unanswered renewal changes nothing: until another's lease is seen we go on, for coverage makes two owners safe.
//! * The floor in a lease is one that the engine has published and flushed up to, in this tenure.
//! * A stream that was made anew is another life of it. Then every claim is dropped, and what is held is read from that
//!   life's beginning. One that ends before what was read has lost it, and begins another life as well: else the events
//!   that get those sequences next would be taken for known ones.

pub(crate) mod standing;
mod tenancy;

use crate::engine::{Floors, Order, Report};
use crate::source::{Source, Tenure};
use crate::stream::Facts;
use futures_util::future::join_all;
use metrics::{counter, describe_counter};
use standing::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tenancy::{Checkpoint, Tenancy};
use tickwire_core::ids::{Incarnation, NodeRef, Partition, Seq};
use tickwire_core::ring::View;
use tickwire_node::clock::{Clock, millis};
use tickwire_node::lease::{Lease, LeaseError, Leases};
use tickwire_node::nats::Nats;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// The pace of this task.
const ROUND: Duration = Duration::from_millis(50);

/// How often the stream is asked whether it is still the same.
const STREAM_LOOKS: Duration = Duration::from_secs(1);

/// For how long a stream that several servers keep may seem to lack what was read: a new leader comes to it.
const DOUBT: Duration = Duration::from_secs(3);

/// How long the engine may take to publish what it has of partitions that are given back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// How long a draining router waits for a view that gives its partitions to others, before it lets go of them.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// What this task is given.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) leases: Leases,
    pub(crate) stream: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) partitions: u16,
    pub(crate) lease_ttl: Duration,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) clock: Clock,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) floors: watch::Receiver<Arc<Floors>>,
    pub(crate) report: watch::Receiver<Arc<Report>>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) standing: Standing,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    tenure: Tenure,
    floor: Seq,
}

/// The task.
#[derive(Debug)]
pub(crate) struct Ownership {
    setup: Setup,
    tenancies: BTreeMap<Source, Tenancy>,
    held: BTreeMap<Source, Held>,
    tenures: u64,
    /// A sequence that the present life of the stream has reached, as far as is known.
    reached: Seq,
    /// Since when the stream has seemed to end before that.
    doubted: Option<Instant>,
    renew_at: Instant,
    look_at: Instant,
}

impl Ownership {
    /// Nothing is owned yet.
    pub(crate) fn new(setup: Setup) -> Self {
        describe();
        let sources = (0..setup.partitions).map(|number| Source::Partition(Partition(number)));
        let now = Instant::now();
        Self {
            tenancies: sources.chain([Source::CatchAll]).map(|source| (source, Tenancy::default())).collect(),
            held: BTreeMap::new(),
            tenures: 0,
            reached: Seq(0),
            doubted: None,
            renew_at: now,
            look_at: now + STREAM_LOOKS,
            setup,
        }
    }

    /// Runs until the drain is over, or forced. The engine ends with it.
    pub(crate) async fn run(mut self, drain: CancellationToken, force: CancellationToken) {
        let work = async {
            let mut rounds = interval(ROUND);
            rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !drain.is_cancelled() {
                let wanted = self.wanted();
                self.round(&wanted).await;
                tokio::select! {
                    _ = rounds.tick() => {}
                    changed = self.setup.view.changed() => if changed.is_err() { break },
                    () = drain.cancelled() => {}
                }
            }
            self.hand_over().await;
        };
        tokio::select! {
            () = work => {}
            () = force.cancelled() => {}
        }
    }

    /// What the ring gives to this node.
    fn wanted(&mut self) -> BTreeSet<Source> {
        let view = self.setup.view.borrow_and_update().clone();
        let owners = view.owners(self.setup.partitions);
        let mine = owners.into_iter().filter(|(_, owner)| *owner == self.setup.me);
        let mut wanted: BTreeSet<Source> = mine.map(|(partition, _)| Source::Partition(partition)).collect();
        if wanted.contains(&Source::Partition(Partition(0))) {
            wanted.insert(Source::CatchAll);
        }
        wanted
    }

    async fn round(&mut self, wanted: &BTreeSet<Source>) {
        let now = self.setup.clock.now();
        for (source, tenancy) in &mut self.tenancies {
            tenancy.want(now, wanted.contains(source));
        }
        let surplus = self.held.keys().filter(|source| !wanted.contains(source)).copied().collect();
        self.release(surplus).await;
        if Instant::now() >= self.renew_at {
            self.renew().await;
        }
        if Instant::now() >= self.look_at {
            self.look_at = Instant::now() + STREAM_LOOKS;
            self.look_at_stream().await;
        }
        self.look().await;
        self.take().await;
        self.tell(wanted);
    }

    /// Renews every lease, with the floor that the engine has come to.
    async fn renew(&mut self) {
        let every = self.setup.checkpoint_interval.min(self.setup.lease_ttl / 2);
        self.renew_at = Instant::now() + every;
        let floors = self.setup.floors.borrow_and_update().clone();
        let incarnation = self.setup.incarnation;
        let renewals = self.held.iter_mut().map(async |(source, held)| {
            let floor = floors.get(&held.tenure).copied().unwrap_or_default();
            held.floor = held.floor.max(floor);
            let checkpoint = Checkpoint { floor: held.floor, incarnation };
            (*source, held.lease.renew(&checkpoint).await)
        });
        for (source, renewed) in join_all(renewals).await {
            match renewed {
                Ok(()) => {}
                Err(LeaseError::Refused { .. }) => {
                    warn!(%source, "another router has taken the lease");
                    counter!("tickwire_router_leases_lost_total").increment(1);
                    if let Some(held) = self.held.remove(&source) {
                        self.order(Order::Disown(held.tenure)).await;
                    }
                }
                Err(error) => debug!(%source, %error, "the lease was not renewed, going on"),
            }
        }
    }

    /// Looks at the leases that are not held, as often as each deserves.
    async fn look(&mut self) {
        let (now, held) = (self.setup.clock.now(), &self.held);
        let due = self.tenancies.iter_mut().filter_map(|(source, tenancy)| {
            (!held.contains_key(source) && tenancy.look_due(now)).then_some((source, tenancy))
        });
        let leases = &self.setup.leases;
        let looks = due.map(async |(source, tenancy)| (source, tenancy, leases.read(&source.lease_key()).await));
        for (source, tenancy, read) in join_all(looks).await {
            match read {
                Ok(read) => tenancy.see(self.setup.clock.now(), read),
                Err(error) => debug!(%source, %error, "the lease cannot be read"),
            }
        }
    }

    /// Takes what is wanted and free.
    async fn take(&mut self) {
        let now = self.setup.clock.now();
        let ttl = millis(self.setup.lease_ttl);
        let informed = self.setup.report.borrow().lacking.is_empty();
        let free = self.tenancies.iter().filter(|(source, _)| !self.held.contains_key(source));
        let free = free.filter_map(|(source, tenancy)| {
            let read = tenancy.takeable(now, ttl, &self.setup.me, informed)?;
            Some((*source, read.revision, read.record.as_ref().map(|record| record.state)))
        });
        let free: Vec<_> = free.collect();
        if free.is_empty() {
            return;
        }
        // A floor means something only together with the stream as it is now.
        let written = free.iter().filter_map(|(_, _, written)| *written);
        let written = written.filter(|written| written.incarnation == self.setup.incarnation);
        self.reached = written.map(|written| written.floor).max().unwrap_or_default().max(self.reached);
        let Some(facts) = self.look_at_stream().await else { return };
        let leases = &self.setup.leases;
        let takes = free.into_iter().map(async |(source, revision, written)| {
            let checkpoint = Checkpoint { floor: floor_of(written, &facts), incarnation: facts.incarnation };
            let lease = leases.take(&source.lease_key(), revision, &checkpoint).await;
            (source, checkpoint.floor, lease)
        });
        for (source, floor, taken) in join_all(takes).await {
            match taken {
                Ok(lease) => {
                    let tenure = self.next_tenure(source);
                    debug!(%source, %floor, "owned");
                    self.held.insert(source, Held { lease, tenure, floor });
                    self.order(Order::Own { tenure, floor }).await;
                }
                Err(error) => debug!(%source, %error, "the lease was not taken"),
            }
        }
        info!(owned = self.held.len(), "took leases");
    }

    /// Gives back what the ring gives to others, when the engine has published what it read of it.
    async fn release(&mut self, sources: Vec<Source>) {
        if sources.is_empty() {
            return;
        }
        let leaving: Vec<Held> = sources.iter().filter_map(|source| self.held.remove(source)).collect();
        let (done, finished) = oneshot::channel();
        let tenures = leaving.iter().map(|held| held.tenure).collect();
        self.order(Order::Release { tenures, done }).await;
        let floors = match timeout(RELEASE_DEADLINE, finished).await {
            Ok(Ok(floors)) => floors,
            _ => {
                warn!("what was read of the partitions that are given back may not be published; floors stay");
                Floors::new()
            }
        };
        let incarnation = self.setup.incarnation;
        let frees = leaving.into_iter().map(async |held| {
            let floor = floors.get(&held.tenure).copied().unwrap_or_default().max(held.floor);
            (held.tenure.source, held.lease.free(&Checkpoint { floor, incarnation }).await)
        });
        for (source, freed) in join_all(frees).await {
            if let Err(error) = freed {
                warn!(%source, %error, "the lease was not given back; it will become stale");
            }
        }
        info!(given_back = sources.len(), owned = self.held.len(), "gave back leases");
    }

    /// The drain: goes on until the others see that they should take over, then gives everything back.
    async fn hand_over(&mut self) {
        let end = Instant::now() + HAND_OVER_PATIENCE;
        loop {
            let mut wanted = self.wanted();
            if wanted.is_empty() || Instant::now() >= end {
                break;
            }
            // Nothing is taken any more.
            wanted.retain(|source| self.held.contains_key(source));
            self.round(&wanted).await;
            if let Ok(Err(_)) = timeout(ROUND, self.setup.view.changed()).await {
                break;
            }
        }
        self.release(self.held.keys().copied().collect()).await;
        self.tell(&BTreeSet::new());
    }

    /// What the stream is like, if it is the same as before, and can be looked at.
    async fn look_at_stream(&mut self) -> Option<Facts> {
        // What was read before the look has to be there.
        let floors = self.setup.floors.borrow().clone();
        let read = self.held.values().filter_map(|held| floors.get(&held.tenure)).max();
        self.reached = read.copied().unwrap_or_default().max(self.reached);
        let (nats, stream, known) = (&self.setup.nats, &self.setup.stream, self.setup.incarnation);
        let mut facts = Facts::look(nats, stream).await;
        let has_lost = facts.as_ref().is_ok_and(|Facts { incarnation, last, .. }| {
            *incarnation < known || *incarnation == known && *last < self.reached
        });
        self.doubted = self.doubted.filter(|_| has_lost);
        if let Ok(Facts { last, replicas, .. }) = facts
            && has_lost
        {
            if replicas > 1 && self.doubted.get_or_insert_with(Instant::now).elapsed() < DOUBT {
                return None;
            }
            error!(end = %last, reached = %self.reached, "the stream ends before what was read: NATS has lost events");
            counter!("tickwire_router_stream_losses_total").increment(1);
            facts = Facts::begin_life(nats, stream, known).await;
        }
        match facts {
            Ok(facts) if facts.incarnation == known => return Some(facts),
            Ok(facts) => self.made_anew(facts).await,
            Err(error) => debug!(%error, "whether the stream is the same is not known"),
        }
        None
    }

    /// The stream was made anew, or has lost events: claims on its former life mean nothing.
    async fn made_anew(&mut self, facts: Facts) {
        warn!(incarnation = %facts.incarnation, "another life of the stream, starting from its beginning");
        (self.reached, self.doubted) = (Seq(0), None);
        self.setup.incarnation = facts.incarnation;
        self.order(Order::Renew(facts.life())).await;
        let sources: Vec<Source> = self.held.keys().copied().collect();
        for source in sources {
            let (tenure, floor) = (self.next_tenure(source), facts.least_floor());
            if let Some(held) = self.held.get_mut(&source) {
                (held.tenure, held.floor) = (tenure, floor);
            }
            self.order(Order::Own { tenure, floor }).await;
        }
        self.renew_at = Instant::now();
    }

    fn tell(&self, wanted: &BTreeSet<Source>) {
        let (view, report) = (self.setup.view.borrow().clone(), self.setup.report.borrow().clone());
        self.setup.standing.tell(&view, &report, wanted, self.held.keys().copied());
    }

    fn next_tenure(&mut self, source: Source) -> Tenure {
        self.tenures += 1;
        Tenure { source, number: self.tenures }
    }

    /// Tells the engine. It is there for as long as we are; when it is gone, the node is stopping.
    async fn order(&self, order: Order) {
        if self.setup.orders.send(order).await.is_err() {
            debug!("the engine has ended");
        }
    }
}

/// Where to go on from what the last owner wrote.
fn floor_of(written: Option<Checkpoint>, facts: &Facts) -> Seq {
    match written {
        Some(Checkpoint { floor, incarnation }) if incarnation == facts.incarnation => floor,
        // Nobody has read this life of the stream: it is read from its first message.
        _ => facts.least_floor(),
    }
}

fn describe() {
    describe_counter!("tickwire_router_leases_lost_total", "Leases that another router took while this one held them");
    describe_counter!("tickwire_router_stream_losses_total", "How often the stream had lost what was read of it");
}
