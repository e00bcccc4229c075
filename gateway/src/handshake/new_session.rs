//! A connection that has become a session: upgraded, named, and about to be handed to the shard of its user.

use std::hash::{DefaultHasher, Hash, Hasher};

use tickwire_core::ids::UserId;
use tokio::sync::OwnedSemaphorePermit;

use crate::handshake::auth::Identity;
use crate::socket::DetachedSocket;

/// What a shard needs to take a client over.
#[derive(Debug)]
pub(crate) struct NewSession {
    /// The socket.
    pub(crate) socket: DetachedSocket,
    /// Who the client is.
    pub(crate) identity: Identity,
    /// Its place among the sessions that this gateway takes, free again when it is dropped.
    pub(crate) place: OwnedSemaphorePermit,
}

/// The shard of a user, of `shards`: all sessions of a user share one, so that limits per user need no lock.
pub(crate) fn shard_of(user: &UserId, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    (hasher.finish() % shards as u64) as usize
}
