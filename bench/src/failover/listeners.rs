//! The clients of a failover bench, each with its record: the numbers of its events and how late they were, and when it
//! lost its connection and resumed.

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tickwire_client::{Client, ClientConfig, ClientError, Credentials, Message, Messages, SubscribeOptions};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::producer::{SYMBOLS, symbol};
use crate::measure::now_us;

/// How many connect at the same time.
const AT_ONCE: usize = 100;

/// How long a client may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A moment, on both clocks that are needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenedSince {
    at: Instant,
    us: u64,
}

/// What a client got.
#[derive(Debug, Default)]
struct ListenerRecord {
    /// The numbers of its events, with when each was sent and how long it took, in microseconds.
    events: Vec<(u64, u64, u64)>,
    gaps: u64,
    lost: Option<Instant>,
    /// Why it was lost, or could not connect again, the last time.
    reason: String,
    resumed: Option<Instant>,
    /// How long it has paused by its own choice since it was lost.
    paused: Duration,
}

/// A client.
#[derive(Debug)]
struct Listener {
    number: u64,
    client: Client,
    record: Arc<Mutex<ListenerRecord>>,
    task: JoinHandle<()>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Listeners {
    clients: Vec<Listener>,
}

/// What they got together.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) expected: u64,
    pub(super) missing: u64,
    pub(super) duplicated: u64,
    pub(super) gaps: u64,
}

impl Listeners {
    /// Connects this number of clients to the first gateway, and subscribes each to one symbol.
    pub(super) async fn connect(gateways: &[SocketAddr], count: u32) -> Result<Self, ClientError> {
        let urls: Vec<String> = gateways.iter().map(|address| format!("ws://{address}/v1/stream")).collect();
        let connect = |number: u64| {
            let config = ClientConfig {
                urls: urls.clone(),
                credentials: Credentials::DevUser(format!("bench-{number}")),
                ..ClientConfig::default()
            };
            async move {
                let (client, messages) = Client::connect(config).await?;
                let record = Arc::new(Mutex::new(ListenerRecord::default()));
                let task = tokio::spawn(listen(messages, Arc::clone(&record)));
                let filter = json!({ "symbols": [symbol(number)] });
                let options = SubscribeOptions { window_ms: Some(0), ..SubscribeOptions::default() };
                client.subscribe("mine", filter, options).await?;
                Ok(Listener { number, client, record, task })
            }
        };
        let connecting = stream::iter(0..u64::from(count)).map(connect).buffer_unordered(AT_ONCE);
        let clients: Vec<Result<_, ClientError>> = connecting.collect().await;
        Ok(Self { clients: clients.into_iter().collect::<Result<_, _>>()? })
    }

    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    /// The current moment, for the methods below.
    pub(super) fn mark(&self) -> ListenedSince {
        ListenedSince { at: Instant::now(), us: now_us() }
    }

    /// How many have not resumed since then.
    pub(super) fn yet_to_resume(&self, since: ListenedSince) -> usize {
        self.records(|record| record.resumed).filter(|resumed| resumed.is_none_or(|at| at < since.at)).count()
    }

    /// Why one of them was last lost, or could not connect again.
    pub(super) fn reason(&self, since: ListenedSince) -> String {
        let late =
            |record: &ListenerRecord| record.resumed.is_none_or(|at| at < since.at).then(|| record.reason.clone());
        self.records(late).flatten().next().unwrap_or_default()
    }

    /// How long after that the last one had resumed, in seconds.
    pub(super) fn last_resumed(&self, since: ListenedSince) -> f64 {
        let last = self.records(|record| record.resumed).flatten().max();
        last.map_or(0.0, |at| at.saturating_duration_since(since.at).as_secs_f64())
    }

    /// The same, but for the pauses that each client chose itself.
    pub(super) fn longest_resume(&self, since: ListenedSince) -> f64 {
        let returned = |record: &ListenerRecord| {
            record.resumed.map(|at| at.saturating_duration_since(since.at).saturating_sub(record.paused))
        };
        self.records(returned).flatten().max().unwrap_or_default().as_secs_f64()
    }

    /// The longest that an event took which was sent since then, in seconds.
    pub(super) fn longest(&self, since: ListenedSince) -> f64 {
        self.latencies(since).last().map_or(0.0, |longest| *longest as f64 / 1e6)
    }

    /// The 99th percentile of these, in seconds.
    pub(super) fn p99(&self, since: ListenedSince) -> f64 {
        let latencies = self.latencies(since);
        latencies.get(latencies.len() * 99 / 100).map_or(0.0, |took| *took as f64 / 1e6)
    }

    /// Closes them, and compares what each got with the events `0..published`.
    pub(super) async fn close(self, published: u64) -> Sum {
        let mut sum = Sum::default();
        for Listener { number, client, record, task } in self.clients {
            // A client that does not answer in time sends no more events either.
            timeout(CLOSE_TIMEOUT, client.close()).await.ok();
            task.abort();
            let record = record.lock().unwrap_or_else(PoisonError::into_inner);
            let mut numbers: Vec<u64> = record.events.iter().map(|(number, ..)| *number).collect();
            let received = numbers.len() as u64;
            numbers.sort_unstable();
            numbers.dedup();
            let first = number % SYMBOLS;
            let expected = published.saturating_sub(first).div_ceil(SYMBOLS);
            sum.expected += expected;
            sum.missing += expected.saturating_sub(numbers.len() as u64);
            sum.duplicated += received - numbers.len() as u64;
            sum.gaps += record.gaps;
        }
        sum
    }

    /// How long the events took that were sent since then, in microseconds, the shortest first.
    fn latencies(&self, since: ListenedSince) -> Vec<u64> {
        let of = |record: &ListenerRecord| -> Vec<u64> {
            record.events.iter().filter(|(_, sent, _)| *sent >= since.us).map(|(_, _, took)| *took).collect()
        };
        let mut latencies: Vec<u64> = self.records(of).flatten().collect();
        latencies.sort_unstable();
        latencies
    }

    fn records<T>(&self, read: impl Fn(&ListenerRecord) -> T) -> impl Iterator<Item = T> {
        let locked = move |listener: &Listener| read(&listener.record.lock().unwrap_or_else(PoisonError::into_inner));
        self.clients.iter().map(locked)
    }
}

/// Records all messages, until the client ends.
async fn listen(mut messages: Messages, record: Arc<Mutex<ListenerRecord>>) {
    while let Some(message) = messages.recv().await {
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Event(event) => {
                let number = |name: &str| event.data.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
                let sent = number("sent_us");
                record.events.push((number("number"), sent, now_us().saturating_sub(sent)));
            }
            Message::Gap(_) | Message::Interrupted => record.gaps += 1,
            Message::Resumed { complete } => {
                record.gaps += u64::from(!complete);
                record.resumed = Some(Instant::now());
            }
            Message::Disconnected { retry_in, reason, .. } => {
                record.reason = reason;
                if record.lost <= record.resumed {
                    record.paused = Duration::ZERO;
                }
                record.lost = Some(Instant::now());
                record.paused += retry_in.unwrap_or_default();
            }
            _ => {}
        }
    }
}
