//! What a gateway does at its start: it creates and changes nothing, but waits until a router has created the streams
//! and buckets that it uses. A gateway is closer to strangers than a router. Whoever takes one over must not choose the
//! settings of a stream: a stream can store any subject, and let the server publish what it stores to any other.
//!
//! The wait has no end, like that for the first coverage: nodes may start in any order, and a gateway that exits and is
//! started again and again is of no more use. The check of `/readyz` says what is missing, and so does the log, after
//! two seconds and then once a minute. A server that does not answer, or has lost JetStream meanwhile, is another
//! matter: then the check says that, and the start ends after [`DEADLINE`].

use super::error::ProvisionError;
use super::{DEADLINE, PAUSE, Provisioned, jetstream_is_on, layout, stream_info};
use crate::admin::Check;
use crate::config::StreamConfig;
use crate::nats::Nats;
use crate::{epoch, names};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::stream::Info;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long nodes that start together may take before the log says what is missing.
const WARNING_AFTER: Duration = Duration::from_secs(2);

/// How often the log says it again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);

/// The names of the streams that a gateway uses: that of events, and those of the buckets that it reads.
pub fn used_by_gateways(stream: &str) -> [String; 4] {
    let bucket = |name: &str| format!("KV_{name}");
    [stream.to_owned(), bucket(names::VIEW_BUCKET), bucket(names::SUBSCRIPTIONS_BUCKET), bucket(names::ACKS_BUCKET)]
}

/// Waits until the streams and buckets that a gateway uses exist. Meanwhile `check` says which is missing.
///
/// # Errors
/// When JetStream is off or does not answer, or when an existing stream can never be as configured.
pub async fn await_streams(nats: &Nats, config: &StreamConfig, check: &Check) -> Result<Provisioned, ProvisionError> {
    jetstream_is_on(&nats.jetstream).await?;
    let begun = Instant::now();
    let mut wait = Wait { check, begun, warning_due: begun + WARNING_AFTER, has_warned: false };
    let [stream, buckets @ ..] = used_by_gateways(&config.name);
    let events = await_stream(nats, &stream, &mut wait).await?;
    layout::check_events(&events.config, config)?;
    for bucket in buckets {
        let found = await_stream(nats, &bucket, &mut wait).await?;
        layout::check_storage(&found.config, config)?;
    }
    if wait.has_warned {
        info!(waited = ?wait.begun.elapsed(), "missing streams created, the gateway goes on");
    }
    Ok(Provisioned { epoch: epoch::of(&events), partitions: config.partitions })
}

async fn await_stream(nats: &Nats, stream: &str, wait: &mut Wait<'_>) -> Result<Info, ProvisionError> {
    let (mut pause, mut answered_at) = (PAUSE, Instant::now());
    loop {
        let error = match stream_info(&nats.jetstream, stream).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if error.kind() == CreateStreamErrorKind::NotFound {
            answered_at = Instant::now();
            wait.report_missing(stream);
        } else {
            let is_late = answered_at.elapsed() >= DEADLINE;
            let reason = if nats.is_connected() { error.to_string() } else { "no connection to NATS".to_owned() };
            match ProvisionError::of_refusal(stream, &error) {
                // It was on when the start began: its server restarts, or a leaf node has lost the hub that has it.
                None | Some(ProvisionError::JetStreamOff) if !is_late => wait.report_unknown(stream, &reason),
                Some(refused) => return Err(refused),
                None => return Err(ProvisionError::NoAnswer { stream: stream.to_owned(), reason }),
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The wait of one start.
struct Wait<'a> {
    check: &'a Check,
    begun: Instant,
    /// When the log says what is missing, if something is.
    warning_due: Instant,
    has_warned: bool,
}

impl Wait<'_> {
    /// Tells the check that this stream is missing, and the log when that is due.
    fn report_missing(&mut self, stream: &str) {
        self.check.missing(format!(
            "the stream {stream} does not exist: start a router, which creates it if it has the same stream.name"
        ));
        let now = Instant::now();
        if now >= self.warning_due {
            self.warning_due = now + REMINDER_INTERVAL;
            self.has_warned = true;
            warn!(stream, waited = ?self.begun.elapsed(), "stream missing, waiting for a router to create it");
        }
    }

    /// Tells the check that nobody knows whether this stream exists.
    fn report_unknown(&self, stream: &str, reason: &str) {
        self.check.missing(format!("NATS does not say whether the stream {stream} exists: {reason}"));
        debug!(stream, reason, "no answer about the stream yet");
    }
}
