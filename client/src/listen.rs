//! A client for load generators: one subscription from the first session on, and a function that takes the messages. It
//! runs in the task of its caller and has no channels, so that a process can have many thousands. It connects, resumes
//! and ends like every client.

use std::future::pending;
use std::sync::Arc;

use tickwire_core::protocol::{SubscriptionName, SubscriptionRequest};
use tokio_util::sync::CancellationToken;

use crate::config::ClientConfig;
use crate::dial::Network;
use crate::error::ClientError;
use crate::message::Message;
use crate::owner::ClientOwner;
use crate::requests::Requests;
use crate::target::Target;
use crate::user_side::Function;

/// Runs until `stop`, or until no further attempt to connect is allowed; [`Message::Disconnected`] reports that. The
/// first `Message::Restored` means that the subscription is confirmed. Many clients share one `network`, which has the
/// trusted authorities in place of [`ClientConfig::tls_ca`].
///
/// # Errors
/// [`ClientError::BadConfig`], or the error with which a gateway refused the first connection for good.
pub async fn listen(
    network: Arc<Network>,
    config: ClientConfig,
    (name, wanted): (SubscriptionName, SubscriptionRequest),
    take: impl FnMut(Message) + Send,
    stop: CancellationToken,
) -> Result<(), ClientError> {
    let targets = Target::all(&config)?;
    let requests = Requests::holding(name, wanted);
    let mut owner = ClientOwner::new(network, config, (targets, 0), requests, Function(take));
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        first = owner.first_connection() => first?,
    };
    owner.run(first, stop, pending()).await;
    Ok(())
}
