//! Sets up what tickwire keeps in JetStream: the stream of events with its partition transform, the stream of dead
//! letters, the buckets of the view, of the leases, of the rules, of the context, of the reference data, of the saved
//! subscriptions and of the acknowledgements.
//!
//! Every router does this at every start, so it is idempotent, and routers that race each other all succeed. Gateways
//! create and change nothing: they wait ([`await_streams`]), so that nodes can start in any order. Limits follow the
//! configuration of the routers. Settings that cannot change in a running cluster (first of all the partition count,
//! because stored subjects hold it) are compared, and a difference is an error.

mod error;
pub(crate) mod layout;
mod waiting;

pub use error::ProvisionError;
pub use layout::ACKS_KEPT;
pub use waiting::{await_streams, used_by_gateways};

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

/// All buckets.
pub const BUCKETS: [&str; 7] = [
    names::VIEW_BUCKET,
    names::LEASES_BUCKET,
    names::RULES_BUCKET,
    names::CONTEXT_BUCKET,
    names::REFERENCE_BUCKET,
    names::SUBSCRIPTIONS_BUCKET,
    names::ACKS_BUCKET,
];

/// How long to repeat requests that a starting NATS cluster may refuse at first.
const DEADLINE: Duration = Duration::from_secs(20);

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// The stream that was found or created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provisioned {
    /// The epoch of the stream of events, which its sequences belong to.
    pub epoch: Epoch,
    /// The number of its partitions.
    pub partitions: u32,
}

/// Makes sure that streams and buckets exist as configured.
///
/// # Errors
/// When JetStream is off or full, or when an existing stream cannot be changed to the configuration.
pub async fn provision(nats: &Nats, config: &StreamConfig) -> Result<Provisioned, ProvisionError> {
    let context = &nats.jetstream;
    jetstream_is_on(context).await?;
    let check_events = |running: &Config| layout::check_events(running, config);
    let events = ensure(context, layout::events(config), check_events).await?;
    let buckets = BUCKETS.map(|name| match name {
        names::ACKS_BUCKET => layout::acks(config),
        _ => layout::bucket(name, config),
    });
    for wanted in [layout::dead_letters(config)].into_iter().chain(buckets) {
        ensure(context, wanted, |running| layout::check_storage(running, config)).await?;
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

/// Creates or updates one stream, and tries again while other routers race us or the servers are not ready.
async fn ensure(
    context: &Context,
    wanted: Config,
    check: impl Fn(&Config) -> Result<(), ProvisionError>,
) -> Result<Info, ProvisionError> {
    let end = Instant::now() + DEADLINE;
    loop {
        let failure = match stream_info(context, &wanted.name).await {
            Ok(found) => {
                check(&found.config)?;
                let adapted = layout::adapt(&found.config, &wanted);
                if adapted == found.config {
                    return Ok(found);
                }
                info!(stream = wanted.name, "stream settings changed, updating the stream");
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
            None => debug!(stream = wanted.name, %error, "stream not set up yet"),
        }
        sleep(PAUSE).await;
    }
}

async fn stream_info(context: &Context, stream: &str) -> Result<Info, CreateStreamError> {
    match context.request(format!("STREAM.INFO.{stream}"), &()).await? {
        Response::Ok(info) => Ok(info),
        Response::Err { error } => Err(error.into()),
    }
}

fn is_off(code: ErrorCode) -> bool {
    [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&code)
}
