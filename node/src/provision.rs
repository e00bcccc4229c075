//! What tickwire keeps in JetStream, made to be there and to be right: the stream of events with its partition
//! transform, the stream of dead letters, the buckets of the view and of the leases.
//!
//! Every node does this at every start, so it is idempotent, and nodes that race each other all succeed. Limits follow
//! the configuration; what cannot change under a running cluster (the partition count above all, since stored
//! subjects hold it) is compared and refused.

mod error;
pub(crate) mod layout;

pub use error::ProvisionError;

use crate::config::StreamConfig;
use crate::epoch;
use crate::names;
use crate::nats::Nats;
use async_nats::jetstream::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{AccountErrorKind, CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};
use std::time::Duration;
use tickwire_core::ids::Epoch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

/// How long to go on trying what a starting cluster of servers may refuse at first.
const DEADLINE: Duration = Duration::from_secs(20);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// What was found or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provisioned {
    /// The life of the stream of events: its sequences mean something only together with this.
    pub epoch: Epoch,
    /// Into how many partitions it is spread.
    pub partitions: u32,
}

/// Makes sure that streams and buckets exist as configured.
///
/// # Errors
/// When JetStream is off or full, or when what runs there cannot become what is configured.
pub async fn provision(nats: &Nats, config: &StreamConfig) -> Result<Provisioned, ProvisionError> {
    let context = &nats.jetstream;
    jetstream_is_on(context).await?;
    let events = settle(context, layout::events(config), |running| layout::check_events(running, config)).await?;
    for wanted in [
        layout::dead_letters(config),
        layout::bucket(names::VIEW_BUCKET, config),
        layout::bucket(names::LEASES_BUCKET, config),
    ] {
        settle(context, wanted, |running| layout::check_storage(running, config)).await?;
    }
    Ok(Provisioned { epoch: epoch::of(&events), partitions: config.partitions })
}

async fn jetstream_is_on(context: &Context) -> Result<(), ProvisionError> {
    let end = Instant::now() + DEADLINE;
    loop {
        let error = match context.query_account().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match error.kind() {
            AccountErrorKind::JetStreamUnavailable => return Err(ProvisionError::JetStreamOff),
            AccountErrorKind::JetStream(refusal) if is_off(refusal.error_code()) => {
                return Err(ProvisionError::JetStreamOff);
            }
            _ if Instant::now() >= end => {
                return Err(ProvisionError::NotSettled { stream: "JetStream".to_owned(), reason: error.to_string() });
            }
            _ => sleep(PAUSE).await,
        }
    }
}

/// Brings one stream to what is wanted, trying again while others race us or the servers are not ready.
async fn settle(
    context: &Context,
    wanted: Config,
    check: impl Fn(&Config) -> Result<(), ProvisionError>,
) -> Result<Info, ProvisionError> {
    let end = Instant::now() + DEADLINE;
    loop {
        let failure = match look(context, &wanted.name).await {
            Ok(found) => {
                check(&found.config)?;
                let adapted = layout::adapt(&found.config, &wanted);
                if adapted == found.config {
                    return Ok(found);
                }
                info!(stream = wanted.name, "the limits have changed, updating the stream");
                context.update_stream(&adapted).await
            }
            Err(error) if error.kind() == CreateStreamErrorKind::NotFound => {
                info!(stream = wanted.name, "creating the stream");
                context.create_stream(wanted.clone()).await.map(|stream| stream.cached_info().clone())
            }
            Err(error) => Err(error),
        };
        let error = match failure {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        let refused = ProvisionError::of_refusal(&wanted.name, &error);
        match refused {
            Some(refused) => return Err(refused),
            None if Instant::now() >= end => {
                return Err(ProvisionError::NotSettled { stream: wanted.name, reason: error.to_string() });
            }
            None => debug!(stream = wanted.name, %error, "not settled yet"),
        }
        sleep(PAUSE).await;
    }
}

async fn look(context: &Context, stream: &str) -> Result<Info, CreateStreamError> {
    match context.request(format!("STREAM.INFO.{stream}"), &()).await? {
        Response::Ok(info) => Ok(info),
        Response::Err { error } => Err(error.into()),
    }
}

fn is_off(code: ErrorCode) -> bool {
    [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&code)
}
