//! The sockets of a run: many in few threads, each thread with a poll of its own. Their counts are shared during the
//! run, and returned at its end.

mod worker;

use mio::Waker;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use super::client::{Dialect, Lost};
use super::measure::Latencies;
use super::oracle::EventTally;
use super::scenario::Plan;
use worker::SocketWorker;

/// When no other socket becomes ready for this time, connecting has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketsError {
    #[error("socket {number} from {source_address} failed: {lost}")]
    Lost { number: u32, source_address: SocketAddr, lost: Lost },
    #[error("sockets cannot be polled: {0}")]
    Poll(#[from] io::Error),
    #[error("{ready} of {wanted} sockets were ready, and then none for {CONNECT_TIMEOUT:?}")]
    Stuck { ready: u64, wanted: u32 },
    #[error("a thread of sockets has panicked")]
    Panicked,
}

/// The state that the threads share with the bench.
#[derive(Debug)]
pub(super) struct FleetShared {
    plan: Arc<Plan>,
    /// Where the gateways listen, or the bare server.
    servers: Vec<SocketAddr>,
    dialect: Dialect,
    /// The third byte of the addresses that sockets come from: runs do not wait for each other's ports.
    origin: u8,
    /// When event 0 is due.
    first_due: OnceLock<Instant>,
    stalled: AtomicBool,
    churning: AtomicBool,
    stop: AtomicBool,
    ready: AtomicU64,
    /// Events that came to sockets that never stall, those of churn not counted.
    received: AtomicU64,
    events: AtomicU64,
    frames: AtomicU64,
    bytes: AtomicU64,
    failure: Mutex<Option<SocketsError>>,
}

impl FleetShared {
    /// What a socket connects to.
    fn server_of(&self, number: u32) -> SocketAddr {
        self.servers[self.plan.gateway_of(number) % self.servers.len()]
    }
}

/// The counts of all sockets so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Received {
    /// Events.
    pub(crate) events: u64,
    /// Frames that carried them.
    pub(crate) frames: u64,
    /// The bytes of those frames.
    pub(crate) bytes: u64,
}

/// The state of one socket at the end of the run.
#[derive(Debug)]
pub(crate) struct SocketEndState {
    pub(crate) number: u32,
    pub(crate) tally: EventTally,
    /// Why it ended before the run did.
    pub(crate) lost: Option<Lost>,
    /// Whether it was notified of events that it did not get.
    pub(crate) warned: bool,
}

/// The counts of the sockets at the end.
#[derive(Debug)]
pub(crate) struct Harvest {
    pub(crate) ends: Vec<SocketEndState>,
    pub(crate) latencies: Latencies,
    /// Frames that carried no events, by type.
    pub(crate) other_frames: BTreeMap<String, u64>,
    /// Clients that came and went.
    pub(crate) churned: u64,
    /// Those of them that ended before their time, and why the first of them did.
    pub(crate) churn_lost: (u64, Option<Lost>),
}

/// The sockets, in their threads.
#[derive(Debug)]
pub(crate) struct Fleet {
    shared: Arc<FleetShared>,
    wakers: Vec<Waker>,
    threads: Vec<JoinHandle<Result<Harvest, SocketsError>>>,
}

impl Fleet {
    /// Begins to connect in this number of threads. `origin` distinguishes the runs of a bench.
    pub(crate) fn open(
        plan: &Arc<Plan>,
        servers: Vec<SocketAddr>,
        dialect: Dialect,
        threads: u32,
        origin: u8,
    ) -> Result<Self, SocketsError> {
        let shared = Arc::new(FleetShared {
            plan: Arc::clone(plan),
            servers,
            dialect,
            origin,
            first_due: OnceLock::new(),
            stalled: AtomicBool::new(false),
            churning: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            ready: AtomicU64::new(0),
            received: AtomicU64::new(0),
            events: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let mut fleet = Self { shared, wakers: Vec::new(), threads: Vec::new() };
        for number in 0..threads {
            let (worker, waker) = SocketWorker::new(Arc::clone(&fleet.shared), number, threads)?;
            fleet.wakers.push(waker);
            let run = move || worker.run();
            fleet.threads.push(thread::Builder::new().name(format!("sockets-{number}")).spawn(run)?);
        }
        Ok(fleet)
    }

    /// Waits until all sockets are ready. Reports from time to time how many are.
    pub(crate) async fn connected(&self, mut progress: impl FnMut(u64)) -> Result<(), SocketsError> {
        let wanted = self.shared.plan.sockets;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            self.check()?;
            let ready = self.shared.ready.load(Ordering::Relaxed);
            progress(ready);
            if ready >= u64::from(wanted) {
                return Ok(());
            }
            if ready > last {
                (last, since) = (ready, Instant::now());
            } else if since.elapsed() > CONNECT_TIMEOUT {
                return Err(SocketsError::Stuck { ready, wanted });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Fails if a socket has failed before it was ready.
    pub(crate) fn check(&self) -> Result<(), SocketsError> {
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    /// Sets that event 0 is due at `first_due`. From now on clients come and go, if the scenario has such.
    pub(crate) fn begin(&self, first_due: Instant) {
        self.shared.first_due.get_or_init(|| first_due);
        self.shared.churning.store(self.shared.plan.churn() > 0, Ordering::Relaxed);
        self.wake();
    }

    /// Makes the readers that can stall do so from now on, or read again.
    pub(crate) fn stall(&self, stalled: bool) {
        self.shared.stalled.store(stalled, Ordering::Relaxed);
        self.wake();
    }

    /// The counts of all sockets so far.
    pub(crate) fn received(&self) -> Received {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let FleetShared { events, frames, bytes, .. } = &*self.shared;
        Received { events: load(events), frames: load(frames), bytes: load(bytes) }
    }

    /// Events that came to the sockets whose tallies are compared with the oracle.
    pub(crate) fn counted(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Ends all threads. Returns their counts.
    pub(crate) fn close(self) -> Result<Harvest, SocketsError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        let mut harvests = Vec::new();
        for thread in self.threads {
            harvests.push(thread.join().map_err(|_| SocketsError::Panicked)??);
        }
        let empty = Harvest {
            ends: Vec::new(),
            latencies: Latencies::new(),
            other_frames: BTreeMap::new(),
            churned: 0,
            churn_lost: (0, None),
        };
        Ok(harvests.into_iter().fold(empty, Harvest::join))
    }

    fn wake(&self) {
        for waker in &self.wakers {
            // A thread that cannot be woken wakes by itself a little later.
            waker.wake().ok();
        }
    }
}

impl Harvest {
    fn join(mut self, other: Self) -> Self {
        self.ends.extend(other.ends);
        self.latencies.join(&other.latencies);
        for (name, count) in other.other_frames {
            *self.other_frames.entry(name).or_default() += count;
        }
        self.churned += other.churned;
        self.churn_lost = (self.churn_lost.0 + other.churn_lost.0, self.churn_lost.1.or(other.churn_lost.1));
        self
    }
}

impl SocketEndState {
    /// Whether the server ended it, with a close code of the application.
    pub(crate) fn closed_with_code(&self) -> bool {
        matches!(self.lost, Some(Lost::Closed(code)) if code >= 4000)
    }
}
