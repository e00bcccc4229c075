//! The sockets of an attached run: each is a client of the library without a handle, in a task of its own, and writes
//! its ledger.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tickwire_client::{ClientConfig, ClientError, Message, Network, ReceivedEvent, SubscriptionName, listen};
use tickwire_core::protocol::SubscriptionRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::AttachError;
use super::feed::RunSymbols;
use super::ledger::{LedgerSum, SocketLedger};
use crate::measure::{LONGEST, now_us};

/// How many sockets connect for the first time at the same time.
const CONNECTING: usize = 100;

/// When no other socket becomes ready for this time, connecting has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the counts are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How one socket connects, and what it asks for.
#[derive(Debug)]
pub(super) struct SocketPlan {
    pub(super) config: ClientConfig,
    pub(super) wanted: SubscriptionRequest,
    pub(super) symbols: Vec<u32>,
}

/// What all sockets count together.
#[derive(Debug)]
pub(super) struct AttachCounts {
    symbols: RunSymbols,
    start: Instant,
    /// Sockets whose subscription was confirmed once.
    ready: AtomicU64,
    /// Sockets that have had everything.
    complete: AtomicU64,
    deliveries: AtomicU64,
    times: Mutex<Times>,
    /// Why a socket ended for good, the first time.
    failure: Mutex<Option<String>>,
}

/// The counts that need a lock. It is held only to add one.
#[derive(Debug)]
struct Times {
    /// In microseconds.
    latencies: Histogram<u64>,
    /// Reconnects by second since the start.
    reconnects: BTreeMap<u64, u64>,
}

/// The record of one socket.
#[derive(Debug)]
struct SocketRecord {
    ledger: SocketLedger,
    counts: Arc<AttachCounts>,
    was_ready: bool,
    is_complete: bool,
    connections: u64,
    gaps: u64,
    dropped: u64,
    /// Held until the socket is ready.
    turn: Option<OwnedSemaphorePermit>,
}

/// The sockets.
#[derive(Debug)]
pub(super) struct AttachedSockets {
    counts: Arc<AttachCounts>,
    tasks: JoinSet<SocketRecord>,
    stop: CancellationToken,
    wanted: u64,
}

/// What the sockets received.
#[derive(Debug)]
pub(super) struct AttachHarvest {
    pub(super) connected: u64,
    pub(super) ledger: LedgerSum,
    pub(super) gaps: u64,
    pub(super) dropped: u64,
    pub(super) reconnects: u64,
    pub(super) most_reconnects: u64,
    pub(super) latencies: Histogram<u64>,
    pub(super) failure: Option<String>,
}

impl AttachedSockets {
    /// Begins to connect `wanted` sockets, each by its plan.
    pub(super) fn open(
        network: &Arc<Network>,
        symbols: &RunSymbols,
        wanted: u32,
        mut plan: impl FnMut(u32) -> Result<SocketPlan, AttachError>,
    ) -> Result<Self, AttachError> {
        let latencies = Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3);
        let latencies = latencies.map_err(|error| AttachError::Histogram(error.to_string()))?;
        let counts = Arc::new(AttachCounts {
            symbols: symbols.clone(),
            start: Instant::now(),
            ready: AtomicU64::new(0),
            complete: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            times: Mutex::new(Times { latencies, reconnects: BTreeMap::new() }),
            failure: Mutex::new(None),
        });
        let (stop, turns) = (CancellationToken::new(), Arc::new(Semaphore::new(CONNECTING)));
        let mut tasks = JoinSet::new();
        for number in 0..wanted {
            let plan = plan(number)?;
            tasks.spawn(run(Arc::clone(network), plan, Arc::clone(&counts), Arc::clone(&turns), stop.clone()));
        }
        Ok(Self { counts, tasks, stop, wanted: wanted.into() })
    }

    /// Waits until all sockets are ready. Reports from time to time how many are.
    pub(super) async fn ready(&self, mut progress: impl FnMut(u64)) -> Result<(), AttachError> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            if let Some(failure) = self.counts.failure() {
                return Err(AttachError::Refused(failure));
            }
            let ready = self.counts.ready.load(Ordering::Relaxed);
            progress(ready);
            if ready >= self.wanted {
                return Ok(());
            }
            if ready > last {
                (last, since) = (ready, Instant::now());
            } else if since.elapsed() > CONNECT_TIMEOUT {
                return Err(AttachError::Stuck { ready, wanted: self.wanted, within: CONNECT_TIMEOUT });
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until every socket has had everything, at most until `deadline`.
    pub(super) async fn complete(&self, deadline: Instant) {
        while self.counts.complete.load(Ordering::Relaxed) < self.wanted && Instant::now() < deadline {
            sleep(LOOK).await;
        }
    }

    /// How many events have come.
    pub(super) fn deliveries(&self) -> u64 {
        self.counts.deliveries.load(Ordering::Relaxed)
    }

    /// Closes all sockets, and adds up what they received.
    pub(super) async fn close(mut self) -> Result<AttachHarvest, AttachError> {
        self.stop.cancel();
        let mut records = Vec::new();
        while let Some(record) = self.tasks.join_next().await {
            records.push(record?);
        }
        let mut ends = vec![None; self.counts.symbols.count as usize];
        records.iter().for_each(|record| record.ledger.note_ends(&mut ends));
        let mut ledger = LedgerSum::default();
        records.iter().for_each(|record| ledger.add(record.ledger.sum(&ends)));
        let total = |of: fn(&SocketRecord) -> u64| records.iter().map(of).fold(0, u64::saturating_add);
        let times = self.counts.times.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(AttachHarvest {
            connected: total(|record| record.was_ready.into()),
            ledger,
            gaps: total(|record| record.gaps),
            dropped: total(|record| record.dropped),
            reconnects: times.reconnects.values().sum(),
            most_reconnects: times.reconnects.values().copied().max().unwrap_or_default(),
            latencies: times.latencies.clone(),
            failure: self.counts.failure(),
        })
    }
}

/// One socket, to the end of the run.
async fn run(
    network: Arc<Network>,
    plan: SocketPlan,
    counts: Arc<AttachCounts>,
    turns: Arc<Semaphore>,
    stop: CancellationToken,
) -> SocketRecord {
    let mut record = SocketRecord {
        ledger: SocketLedger::new(plan.symbols),
        counts,
        was_ready: false,
        is_complete: false,
        connections: 0,
        gaps: 0,
        dropped: 0,
        turn: None,
    };
    let Some(turn) = stop.run_until_cancelled(turns.acquire_owned()).await else { return record };
    record.turn = turn.ok();
    let subscription = (SubscriptionName::default(), plan.wanted);
    let ended = listen(network, plan.config, subscription, |message| record.take(message), stop).await;
    if let Err(error) = ended {
        record.counts.fail(&error);
    }
    record
}

impl SocketRecord {
    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) | Message::Alert(event) => self.take_event(&event),
            Message::Connected { .. } => {
                self.connections += 1;
                if self.connections > 1 {
                    self.counts.reconnected();
                }
            }
            Message::Restored if !self.was_ready => {
                self.was_ready = true;
                self.turn = None;
                self.counts.ready.fetch_add(1, Ordering::Relaxed);
            }
            Message::Gap(_) | Message::Interrupted => self.gaps += 1,
            Message::Notice(notice) => {
                self.dropped = self.dropped.saturating_add(notice.dropped).saturating_add(notice.conflated);
            }
            Message::SubscriptionLost { error, .. } => {
                self.counts.fail(&ClientError::Refused { code: error.code, msg: error.msg });
            }
            Message::Disconnected { retry_in: None, reason, .. } => self.counts.fail(&reason),
            _ => {}
        }
    }

    fn take_event(&mut self, event: &ReceivedEvent) {
        let now = now_us();
        self.counts.deliveries.fetch_add(1, Ordering::Relaxed);
        let Some(numbered) = self.counts.symbols.read(event) else {
            // No symbol has this number.
            self.ledger.take(u32::MAX, 0, false);
            return;
        };
        self.ledger.take(numbered.symbol, numbered.number, numbered.is_last);
        self.counts.record(now.saturating_sub(numbered.sent_us));
        if !self.is_complete && self.ledger.is_complete() {
            self.is_complete = true;
            self.counts.complete.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AttachCounts {
    fn record(&self, latency_us: u64) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).latencies.saturating_record(latency_us);
    }

    fn reconnected(&self) {
        let second = self.start.elapsed().as_secs();
        *self.times.lock().unwrap_or_else(PoisonError::into_inner).reconnects.entry(second).or_default() += 1;
    }

    fn fail(&self, why: &impl ToString) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_string());
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
