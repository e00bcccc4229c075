//! The counts of a shard. They are plain numbers while it delivers, and are added to the metrics once a turn.

use std::time::Duration;

use ::metrics::{Counter, Histogram};
use tickwire_core::event::Priority;
use tickwire_core::protocol::codes::NoticeCode;

use crate::metrics;
use crate::outbox::EventOutcome;

/// How many priorities there are.
const PRIORITIES: usize = Priority::ALL.len();

/// Of so many frames with events, the times of the first event of one are measured.
const MEASURED_FRAME: u32 = 64;

/// How long the first event of a frame was on its way until it was written.
#[derive(Debug)]
pub(crate) struct EventTimes {
    /// Since the stream stored it, in seconds.
    pub(crate) stored: f64,
    /// Since the batch arrived that had it; `None` for an event of a replay.
    pub(crate) arrived: Option<Duration>,
}

/// Counts since the last [`Stats::publish`].
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Events that this shard received.
    pub(crate) events: u64,
    /// Those of them that matched no session here.
    pub(crate) unmatched: u64,
    /// Events that were completely written to a socket.
    pub(crate) deliveries: u64,
    /// Frames written.
    pub(crate) frames: u64,
    /// Bytes of these frames.
    pub(crate) bytes: u64,
    /// Frames that overtook events of other lanes.
    pub(crate) early: u64,
    /// Events that were sent before their lane's turn.
    pub(crate) promoted: u64,
    /// Events that still waited to be sent when their client left.
    pub(crate) unsent: u64,
    /// Events that this shard received, by priority.
    by_priority: [u64; PRIORITIES],
    /// How many frames with events are not measured before the next that is.
    unmeasured: u32,
    published: DeliveryMetrics,
}

/// Handles to the metrics, looked up once.
struct DeliveryMetrics {
    events: Counter,
    unmatched: Counter,
    deliveries: Counter,
    frames: Counter,
    bytes: Counter,
    early: Counter,
    promoted: Counter,
    unsent: Counter,
    by_priority: [Counter; PRIORITIES],
    age: Histogram,
    receive: Histogram,
    deliver: Histogram,
    filter: Histogram,
}

impl Stats {
    /// Counts an event that this shard received.
    pub(crate) fn received(&mut self, priority: Priority) {
        self.events += 1;
        self.by_priority[priority as usize] += 1;
    }

    /// The index was searched for an event, and this long if it was timed.
    pub(crate) fn searched(&mut self, has_matched: bool, took: Option<Duration>) {
        self.unmatched += u64::from(!has_matched);
        if let Some(took) = took {
            self.published.filter.record(took.as_secs_f64());
        }
    }

    /// A frame with events was written. `measure` reads the clocks for the times of its first event.
    pub(crate) fn wrote_events(&mut self, measure: impl FnOnce() -> EventTimes) {
        if self.unmeasured == 0 {
            self.unmeasured = MEASURED_FRAME;
            let EventTimes { stored, arrived } = measure();
            self.published.age.record(stored);
            if let Some(arrived) = arrived {
                // The clocks of NATS and of this host may differ.
                self.published.receive.record((stored - arrived.as_secs_f64()).max(0.0));
                self.published.deliver.record(arrived.as_secs_f64());
            }
        }
        self.unmeasured -= 1;
    }

    /// Adds the counts to the metrics, and resets them.
    pub(crate) fn publish(&mut self) {
        let Self {
            events, unmatched, deliveries, frames, bytes, early, promoted, unsent, by_priority, published, ..
        } = self;
        for (count, counter) in by_priority.iter_mut().zip(&published.by_priority) {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
        for (count, counter) in [
            (events, &published.events),
            (unmatched, &published.unmatched),
            (deliveries, &published.deliveries),
            (frames, &published.frames),
            (bytes, &published.bytes),
            (early, &published.early),
            (promoted, &published.promoted),
            (unsent, &published.unsent),
        ] {
            if *count > 0 {
                counter.increment(std::mem::take(count));
            }
        }
    }
}

impl Default for DeliveryMetrics {
    fn default() -> Self {
        Self {
            events: metrics::SHARD_EVENTS.series(),
            unmatched: metrics::SHARD_UNMATCHED_EVENTS.series(),
            deliveries: metrics::DELIVERIES.series(),
            frames: metrics::FRAMES.series(),
            bytes: metrics::SENT_BYTES.series(),
            early: metrics::EARLY_FRAMES.series(),
            promoted: metrics::PROMOTED_EVENTS.series(),
            unsent: metrics::UNSENT_EVENTS.series(),
            by_priority: std::array::from_fn(|at| metrics::PRIORITY_EVENTS.with(Priority::ALL[at].as_str())),
            age: metrics::DELIVERY_SECONDS.series(),
            receive: metrics::RECEIVE_LAG_SECONDS.series(),
            deliver: metrics::DELIVER_SECONDS.series(),
            filter: metrics::FILTER_SECONDS.series(),
        }
    }
}

impl std::fmt::Debug for DeliveryMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

/// Counts dropped events that a session should have had.
pub(crate) fn dropped(reason: &'static str, events: u64) {
    if events > 0 {
        metrics::DROPPED_EVENTS.with(reason).increment(events);
    }
}

/// Counts an event that was dropped, conflated or delayed.
pub(crate) fn count_outcome(code: NoticeCode, fate: EventOutcome) {
    let reason = code.as_str();
    match fate {
        EventOutcome::Dropped => dropped(reason, 1),
        EventOutcome::Conflated => metrics::CONFLATED_EVENTS.with(reason).increment(1),
        EventOutcome::Delayed => metrics::DELAYED_EVENTS.with(reason).increment(1),
    }
}
