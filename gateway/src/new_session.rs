//! A connection that becomes a session: upgraded, authenticated, and on its way to the shard of its user.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use tickwire_core::ids::UserId;
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::Identity;
use crate::socket::DetachedSocket;

/// What a shard needs to start a session.
#[derive(Debug)]
pub struct NewSession {
    pub(crate) socket: DetachedSocket,
    /// Who the client is.
    pub(crate) identity: Identity,
    /// The address of the client; proxies that are trusted may name it.
    pub(crate) peer: IpAddr,
    /// Whether it gets the saved subscriptions of its user.
    pub(crate) takes_saved: bool,
    /// Its place among the sessions that this gateway accepts. The place is free again when this is dropped.
    pub(crate) place: OwnedSemaphorePermit,
}

/// The number of a user's shard among `shards`. All sessions of a user share one, so that limits per user need no lock.
pub(crate) fn shard_of(user: &UserId, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    (hasher.finish() % shards as u64) as usize
}
