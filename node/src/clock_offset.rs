//! Compares the clock of this node with that of NATS, for `tickwire_clock_offset_seconds`. Nothing else uses the
//! result: delivery needs no time of day.

use crate::clock::{ahead_of, timestamp_now};
use crate::metrics;
use crate::nats::Nats;
use serde::Deserialize;
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The time between two comparisons.
const INTERVAL: Duration = Duration::from_secs(10);

/// The part of the answer about a stream that states the time of the server.
#[derive(Debug, Deserialize)]
struct ServerTime {
    ts: String,
}

/// Compares the clocks from time to time, until `stop` is cancelled. NATS states its time when it is asked about the
/// stream.
pub(crate) async fn watch(nats: Nats, stream: String, stop: CancellationToken) {
    let mut times = interval(INTERVAL);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(times.tick()).await.is_some() {
        let before = timestamp_now();
        let asked = nats.jetstream.request(format!("STREAM.INFO.{stream}"), &());
        let answer: Result<ServerTime, _> = match stop.run_until_cancelled(asked).await {
            Some(answer) => answer,
            None => return,
        };
        let after = timestamp_now();
        match answer.map_err(|error| error.to_string()).map(|answer| answer.ts.parse::<Timestamp>()) {
            Ok(Ok(server)) => metrics::CLOCK_OFFSET_SECONDS.set(ahead_of(server, before, after) as f64 / 1000.0),
            Ok(Err(_)) => debug!("time of NATS not readable"),
            Err(reason) => debug!(reason, "time of NATS not known"),
        }
    }
}
