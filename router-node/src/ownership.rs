//! Who reads what: the ring says who should own a partition, its lease who does. This task brings the two together,
//! and tells the engine.
//!
//! ```text
//! view ──▶ wanted ──look, take──▶ held ──renew with the floor──▶ held
//!                                   │ another's: disown at once
//!                                   │ no longer wanted: the engine publishes what it has, then floor and lease go back
//! ```
//!
//! * [`placement`] decides, lease by lease; this task asks KV, the stream and the engine, and waits for none of them.
//! * The floor in a lease is one that the engine has published and flushed up to, in this tenure.
//! * A stream that was made anew is another life of it. Then every claim is dropped, and what is held is read from that
//!   life's beginning. One that has lost what was read of it ([`continuity`]) begins another life as well: else the
//!   events that get those sequences next would be taken for known ones.

mod continuity;
mod placement;
mod share;
#[cfg(test)]
mod simulator;
pub(crate) mod standing;
pub(crate) mod tenancy;

pub(crate) use placement::Reached;

use crate::engine::{Floors, Order, Report};
use crate::source::{Source, Tenure};
use crate::stream::{Facts, Look, StreamError};
use continuity::{Continuity, Finding};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use metrics::counter;
use placement::{Action, Pace, Placement, Written};
use standing::Standing;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tenancy::Checkpoint;
use tickwire_core::ids::{Life, NodeRef};
use tickwire_core::ring::View;
use tickwire_node::clock::{Clock, millis};
use tickwire_node::declare_counter;
use tickwire_node::lease::{LeaseError, Leases, Read};
use tickwire_node::nats::Nats;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// The pace of this task.
const ROUND: Duration = Duration::from_millis(50);

/// How often the stream is asked whether it is still the same.
const STREAM_LOOKS: Duration = Duration::from_secs(1);

/// The pause before another look at a stream that could not be looked at.
const STREAM_RETRY: Duration = Duration::from_millis(200);

/// How long one look at the stream may take, with all that is compared.
const STREAM_DEADLINE: Duration = Duration::from_secs(5);

/// How long the engine may take to publish what it has of partitions that are given back.
const RELEASE_DEADLINE: Duration = Duration::from_secs(3);

/// How many orders may wait for the engine, beyond which nothing more is decided.
const ORDERS: usize = 256;

/// What this task is given.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) leases: Leases,
    pub(crate) stream: String,
    pub(crate) life: Life,
    pub(crate) partitions: u16,
    pub(crate) lease_ttl: Duration,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) clock: Clock,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) floors: watch::Receiver<Arc<Floors>>,
    pub(crate) report: watch::Receiver<Arc<Report>>,
    pub(crate) witnessed: watch::Receiver<Option<Checkpoint>>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) standing: Standing,
}

/// Something that was waited for.
enum Done {
    Read(Source, Result<Read<Checkpoint>, LeaseError>),
    Written(Source, Result<u64, LeaseError>),
    Released(Vec<Tenure>, Floors),
    Looked(Result<Look, StreamError>),
    Begun(Result<Facts, StreamError>),
}

/// The task.
pub(crate) struct Ownership {
    setup: Setup,
    placement: Placement,
    continuity: Continuity,
    /// What is under way: at most one thing for each lease, one look at the stream, and what the engine is to publish.
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    orders: VecDeque<Order>,
    /// The life that the engine reads.
    life: Life,
    /// When the stream is looked at next; `None` while it is.
    look_at: Option<Instant>,
    /// Whether it is to be looked at again right after that.
    looks_again: bool,
    /// Whether the last message of every source is to be looked for.
    is_thorough: bool,
    /// What intakes did not find any more, and was looked for.
    missing: Vec<Checkpoint>,
}

impl Ownership {
    /// Nothing is owned yet.
    pub(crate) fn new(setup: Setup) -> Self {
        describe();
        let ttl = millis(setup.lease_ttl);
        let pace = Pace { ttl, renew: millis(setup.checkpoint_interval).min(ttl / 2) };
        let mut continuity = Continuity::default();
        let life = setup.life;
        continuity.hear_of(life.incarnation);
        Self {
            placement: Placement::new(setup.me.clone(), setup.partitions, pace),
            continuity,
            under_way: FuturesUnordered::new(),
            orders: VecDeque::new(),
            life,
            look_at: Some(Instant::now()),
            looks_again: false,
            is_thorough: false,
            missing: Vec::new(),
            setup,
        }
    }

    /// Runs until the drain is over, or forced. The engine ends with it.
    pub(crate) async fn run(mut self, drain: CancellationToken, force: CancellationToken) {
        tokio::select! {
            () = self.work(drain) => {}
            () = force.cancelled() => {}
        }
    }

    async fn work(&mut self, drain: CancellationToken) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connected = self.setup.nats.connected();
        loop {
            if drain.is_cancelled() {
                self.placement.drain(self.setup.clock.now());
            }
            self.act();
            self.tell();
            if drain.is_cancelled() && self.placement.is_empty() && self.orders.is_empty() {
                return;
            }
            let orders = self.setup.orders.clone();
            tokio::select! {
                Ok(permit) = orders.reserve(), if !self.orders.is_empty() => {
                    if let Some(order) = self.orders.pop_front() {
                        permit.send(order);
                    }
                }
                Some(done) = self.under_way.next() => self.hear(done),
                _ = rounds.tick() => {}
                changed = self.setup.view.changed() => if changed.is_err() { return },
                // What was read before has to be there still.
                Ok(()) = connected.changed() => {
                    self.is_thorough = true;
                    self.look_soon();
                }
            }
        }
    }

    /// Decides, and does what was decided.
    fn act(&mut self) {
        if self.orders.len() >= ORDERS {
            return;
        }
        self.look_for_missing();
        let now = self.setup.clock.now();
        let view = self.setup.view.borrow_and_update().clone();
        self.placement.set_informed(standing::is_informed(&view, &self.setup.report.borrow()));
        self.placement.set_view(view);
        let floors = self.setup.floors.borrow().clone();
        let actions = self.placement.act(now, |tenure| floors.get(&tenure).copied());
        self.perform(actions);
        if self.look_at.is_some_and(|at| Instant::now() >= at) {
            self.look_at = None;
            self.note_read();
            let (nats, stream) = (self.setup.nats.clone(), self.setup.stream.clone());
            let expected = self.continuity.expected();
            self.under_way.push(Box::pin(async move {
                let look = timeout(STREAM_DEADLINE, Look::at(&nats, &stream, &expected)).await;
                Done::Looked(look.unwrap_or_else(|_| Err(StreamError::late(&stream, STREAM_DEADLINE))))
            }));
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Read(source) => {
                    let leases = self.setup.leases.clone();
                    let read = async move { Done::Read(source, leases.read(&source.lease_key()).await) };
                    self.under_way.push(Box::pin(read));
                }
                Action::Write { source, revision, is_ours, checkpoint } => {
                    let leases = self.setup.leases.clone();
                    self.under_way.push(Box::pin(async move {
                        Done::Written(source, leases.write(&source.lease_key(), revision, is_ours, &checkpoint).await)
                    }));
                }
                Action::Own { tenure, reached: Reached { floor, mark } } => {
                    debug!(source = %tenure.source, %floor, "owned");
                    // What the last owner has read is to be there.
                    self.continuity.note(Checkpoint { floor, incarnation: self.life.incarnation, mark });
                    self.look_soon();
                    self.orders.push_back(Order::Own { tenure, floor });
                }
                Action::Disown(tenure) => {
                    warn!(source = %tenure.source, "another router has taken the lease");
                    counter!("tickwire_router_leases_lost_total").increment(1);
                    self.orders.push_back(Order::Disown(tenure));
                }
                Action::Release(tenures) => {
                    info!(count = tenures.len(), "giving back leases");
                    let (done, finished) = oneshot::channel();
                    self.orders.push_back(Order::Release { tenures: tenures.clone(), done });
                    self.under_way.push(Box::pin(async move {
                        let floors = timeout(RELEASE_DEADLINE, finished).await.ok().and_then(Result::ok);
                        let floors = floors.unwrap_or_else(|| {
                            warn!(
                                "what was read of the partitions that are given back may not be published; floors stay"
                            );
                            Floors::new()
                        });
                        Done::Released(tenures, floors)
                    }));
                }
            }
        }
    }

    fn hear(&mut self, done: Done) {
        let now = self.setup.clock.now();
        let actions = match done {
            Done::Read(source, read) => {
                let read = read.inspect_err(|error| debug!(%source, %error, "a lease cannot be read")).ok();
                let actions = self.placement.has_read(now, source, read);
                self.note_written();
                actions
            }
            Done::Written(source, written) => {
                let written = match written {
                    Ok(revision) => Written::At(revision),
                    Err(LeaseError::Refused { .. }) => Written::Refused,
                    Err(error) => {
                        debug!(%source, %error, "whether a lease was written is not known");
                        Written::Unanswered
                    }
                };
                self.placement.has_written(now, source, written)
            }
            Done::Released(tenures, floors) => {
                self.placement.released(&tenures, |tenure| floors.get(&tenure).copied());
                Vec::new()
            }
            Done::Looked(look) => self.find(look),
            Done::Begun(facts) => self.live(facts),
        };
        self.perform(actions);
    }

    /// What was read is to be there. While the connection stands the last message of all will do: a server that loses
    /// something was started again.
    fn note_read(&mut self) {
        let incarnation = self.life.incarnation;
        if let Some(witnessed) = *self.setup.witnessed.borrow_and_update() {
            self.continuity.note(witnessed);
        }
        let read = self.placement.held().map(|(_, Reached { floor, mark })| Checkpoint { floor, incarnation, mark });
        if std::mem::take(&mut self.is_thorough) {
            read.for_each(|read| self.continuity.note(read));
        } else if let Some(last) = read.max_by_key(|read| read.mark) {
            self.continuity.note(last);
        }
    }

    /// An intake that does not find what it has read last is stuck until it is known whether the stream has lost it.
    fn look_for_missing(&mut self) {
        let missing = self.setup.report.borrow().missing.clone();
        if missing == self.missing {
            return;
        }
        missing.iter().for_each(|read| self.continuity.doubt(*read));
        self.missing = missing;
        self.look_soon();
    }

    /// A life later than the one that is known is looked for at once.
    fn note_written(&mut self) {
        let latest = self.placement.written().map(|written| written.incarnation).max();
        if latest.is_some_and(|latest| self.continuity.hear_of(latest)) {
            self.look_soon();
        }
    }

    fn look_soon(&mut self) {
        match &mut self.look_at {
            Some(at) => *at = Instant::now(),
            None => self.looks_again = true,
        }
    }

    fn look_after(&mut self, pause: Duration) {
        let pause = if std::mem::take(&mut self.looks_again) { Duration::ZERO } else { pause };
        self.look_at = Some(Instant::now() + pause);
    }

    /// What a look at the stream has shown.
    fn find(&mut self, look: Result<Look, StreamError>) -> Vec<Action> {
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                debug!(%error, "whether the stream is the same is not known");
                self.continuity.fail();
                self.is_thorough = true;
                self.look_after(STREAM_RETRY);
                return Vec::new();
            }
        };
        match self.continuity.see(self.setup.clock.now(), look) {
            Finding::Life(facts) => self.live(Ok(facts)),
            Finding::Doubt => {
                self.look_after(STREAM_RETRY);
                Vec::new()
            }
            Finding::Begin { known, before } => {
                error!(life = %known, %before, "the stream lacks what was read of it: NATS has lost events");
                counter!("tickwire_router_stream_losses_total").increment(1);
                let (nats, stream) = (self.setup.nats.clone(), self.setup.stream.clone());
                let begin = async move { Done::Begun(Facts::begin_life(&nats, &stream, known, before).await) };
                self.under_way.push(Box::pin(begin));
                Vec::new()
            }
        }
    }

    /// The life that the stream lives now.
    fn live(&mut self, facts: Result<Facts, StreamError>) -> Vec<Action> {
        let Ok(facts) = facts.inspect_err(|error| debug!(%error, "another life of the stream has not begun")) else {
            self.look_after(STREAM_RETRY);
            return Vec::new();
        };
        self.look_after(STREAM_LOOKS);
        let (life, last) = (facts.life(), facts.last);
        // A life that is over, as a server that lags tells it.
        if life.incarnation < self.life.incarnation {
            return Vec::new();
        }
        if life != self.life {
            warn!(incarnation = %life.incarnation, before = %life.before, end = %last, "another life of the stream");
            self.continuity.hear_of(life.incarnation);
            self.life = life;
            self.orders.push_back(Order::Renew(life));
        }
        self.placement.see_stream(self.setup.clock.now(), facts)
    }

    fn tell(&self) {
        let (view, report) = (self.setup.view.borrow().clone(), self.setup.report.borrow().clone());
        let wanted: BTreeSet<Source> = self.placement.wanted().collect();
        let held = self.placement.held().map(|(tenure, _)| tenure.source);
        self.setup.standing.tell(&view, &report, &wanted, held);
    }
}

fn describe() {
    declare_counter!("tickwire_router_leases_lost_total", "Leases that another router took while this one held them");
    declare_counter!("tickwire_router_stream_losses_total", "How often the stream had lost what was read of it");
}
