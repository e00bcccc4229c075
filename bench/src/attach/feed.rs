//! The events of an attached run: numbered ones of its own symbols, at a steady rate. The last one of each symbol is
//! marked, so that a socket knows when it has all.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tickwire_client::ReceivedEvent;
use tickwire_node::config::Config;
use tickwire_node::nats::Nats;
use tokio::time::{MissedTickBehavior, interval};

use super::AttachError;
use crate::measure::now_us;
use crate::schedule::Schedule;
use tickwire_command::publisher::{NewEvent, PublishDone, Publisher};

/// How many events wait for the acknowledgement of the stream.
const WINDOW: usize = 1_024;

/// How long an event is sent again before the run has failed. NATS may restart meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often events are sent that are due.
const TICK: Duration = Duration::from_millis(2);

/// What the events of a run are about.
#[derive(Debug, Clone)]
pub(super) struct RunSymbols {
    /// The name of the run, with which each symbol begins.
    pub(super) run: String,
    pub(super) count: u32,
}

/// An event of the run, as a socket received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NumberedEvent {
    pub(super) symbol: u32,
    pub(super) number: u64,
    pub(super) is_last: bool,
    /// When it was published, in microseconds since 1970.
    pub(super) sent_us: u64,
}

impl RunSymbols {
    pub(super) fn name(&self, symbol: u32) -> String {
        format!("{}S{symbol}", self.run)
    }

    /// Reads an event; `None` if it is not of this run.
    pub(super) fn read(&self, event: &ReceivedEvent) -> Option<NumberedEvent> {
        let number = |name: &str| event.data.get(name).and_then(Value::as_u64);
        let symbol = u32::try_from(number("symbol_number")?).ok().filter(|symbol| *symbol < self.count)?;
        let is_last = event.data.get("last").and_then(Value::as_bool).unwrap_or_default();
        Some(NumberedEvent { symbol, number: number("number")?, is_last, sent_us: number("sent_us")? })
    }
}

/// The producer of a run.
struct NumberedFeed<'s> {
    symbols: &'s RunSymbols,
    publisher: Publisher<usize>,
    /// When the run began, in microseconds since 1970. It is in the ids of the events: for NATS those of an earlier run
    /// of this name would be the same.
    begun_us: u64,
    /// How many events each symbol has had.
    sent: Vec<u64>,
    /// Whether an event of the symbol is not acknowledged yet. The next one waits for it, since an event that is sent
    /// again would come after it.
    under_way: Vec<bool>,
}

/// Publishes events for this time, of the symbols in turn. Returns how many there were: at least one of each symbol, so
/// those that the rate leaves no time for are published at the end.
pub(super) async fn publish(
    config: &Config,
    symbols: &RunSymbols,
    rate: f64,
    length: Duration,
) -> Result<u64, AttachError> {
    let nats = Nats::connect(&config.nats, "publish", "bench").await?;
    let schedule = Schedule::new(&[(length, rate)], Duration::ZERO);
    let count = symbols.count as usize;
    let publisher = Publisher::new(&nats, WINDOW, Some(DEADLINE));
    let (sent, under_way) = (vec![0; count], vec![false; count]);
    let mut feed = NumberedFeed { symbols, publisher, begun_us: now_us(), sent, under_way };
    let mut pace = interval(TICK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let symbol_count = u64::from(symbols.count);
    let total = schedule.total().max(symbol_count);
    let (start, mut next) = (Instant::now(), 0);
    while next < total {
        tokio::select! {
            _ = pace.tick() => {}
            Some(done) = feed.publisher.done() => {
                feed.settle(done)?;
                continue;
            }
        }
        let is_due = |next| Duration::from_nanos(schedule.due_ns(next)).min(length) <= start.elapsed();
        while next < total && is_due(next) {
            // The symbols take turns, so the last events of all of them are the last ones of the run.
            let is_last = total - next <= symbol_count;
            feed.send((next % symbol_count) as usize, is_last).await?;
            next += 1;
        }
    }
    while let Some(done) = feed.publisher.done().await {
        feed.settle(done)?;
    }
    let published = feed.sent.iter().sum();
    nats.close().await?;
    Ok(published)
}

impl NumberedFeed<'_> {
    async fn send(&mut self, symbol: usize, is_last: bool) -> Result<(), AttachError> {
        while self.under_way.get(symbol).copied().unwrap_or_default() {
            let Some(done) = self.publisher.done().await else { break };
            self.settle(done)?;
        }
        let Some(sent) = self.sent.get_mut(symbol) else { return Ok(()) };
        *sent += 1;
        let (number, name) = (*sent, self.symbols.name(symbol as u32));
        let mut event = json!({
            "pattern": "Attached", "confidence": 0.5, "symbol_number": symbol, "number": number, "sent_us": now_us(),
        });
        if is_last {
            event["last"] = Value::Bool(true);
        }
        let id = format!("{name}-{}-{number}", self.begun_us);
        let event = NewEvent::new("pattern", &name, id, event.to_string().into_bytes());
        if let Some(under_way) = self.under_way.get_mut(symbol) {
            *under_way = true;
        }
        match self.publisher.send(symbol, event).await {
            Some(done) => self.settle(done),
            None => Ok(()),
        }
    }

    fn settle(&mut self, (symbol, stored): PublishDone<usize>) -> Result<(), AttachError> {
        if let Some(under_way) = self.under_way.get_mut(symbol) {
            *under_way = false;
        }
        stored?;
        Ok(())
    }
}
