//! The edge of the cluster: it holds the sockets and what they subscribed to, and delivers.
//!
//! The files stand in the order of an event's way in, then of a client's:
//!
//! * `edge` takes batches from NATS, decodes them once ([`delivery`]), proves them complete, and hands them on;
//! * `messages` is what it says to the shards and they to it, through queues that know their bytes (`weighed`);
//! * `runner` and `shard` deliver: [`index`] finds the sessions, [`outbox`] holds what waits by the rules of delivery,
//!   [`account`] knows what a user may have (by counts that slide: [`sliding`]) and may ask for ([`budget`]), `timers` when
//!   windows end, and `socket` writes; `session`, `sessions`, `accounts`, `pulse` and `mistakes` are the state of it
//!   all;
//! * `http`, `home`, `capacity`, `admission`, `handshake` and `auth` take a client from the upgrade to its shard as an
//!   `new_session`; `shard/commands` answers what it asks for.
//!
//! What decides is pure and public, so that benches can measure it; the clock is passed in.

pub mod backfill;
mod byte_queue;
pub mod delivery;
mod edge;
mod handshake;
mod http;
pub mod index;
pub mod limits;
mod messages;
pub mod outbox;
mod shard;
#[cfg(test)]
mod simulator;
mod socket;
mod stats;

use std::io;
use std::sync::Arc;
use std::thread::available_parallelism;

use tickwire_core::placement::Role;
use tickwire_node::clock::{monotonic, wall_clock};
use tickwire_node::config::Config;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::{Node, StartError};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::edge::{Driver, Edge, Inputs, NatsConnection};
use crate::handshake::Handshake;
use crate::handshake::auth::Authenticator;
use crate::handshake::capacity::{Capacity, RequiredCapacity};
use crate::http::HttpState;
use crate::shard::{Clocks, Shard, ShardConfig};

/// Runs a gateway until it is told to stop and has drained.
///
/// # Errors
/// Whatever keeps it from starting, with what to do about it.
pub async fn run(config: &Config, shutdown: &Shutdown) -> Result<Outcome, StartError> {
    let failed = |part: &'static str| move |reason: String| StartError::Part { part, reason };
    config.auth.secret().map_err(|error| failed("auth")(error.to_string()))?;
    let listen = config.gateway.listen;
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        failed("gateway.listen")(format!("cannot listen on {listen}: {error}; is another gateway using it?"))
    })?;
    let address = listener.local_addr().map_err(|error| failed("gateway.listen")(error.to_string()))?;
    let node = Node::start(config, Role::Gateway, shutdown).await?;
    // What was described before metrics are recorded would be forgotten.
    stats::describe();
    let partitions = u16::try_from(node.provisioned.partitions).unwrap_or(u16::MAX);

    let (to_edge, requests) = crate::byte_queue::channel();
    let authenticator = Arc::new(Authenticator::new(&config.auth));
    let settings = ShardConfig {
        gateway: node.me.id.clone(),
        config: config.gateway.clone(),
        kinds: Arc::new(config.events.taken()),
        partitions,
        authenticator: Arc::clone(&authenticator),
        clocks: Clocks { wall: wall_clock, monotonic },
    };
    let mut shards = Vec::new();
    for number in 0..shard_count(config) {
        let (sender, inbox) = crate::byte_queue::channel();
        shards.push(sender);
        let (settings, to_edge) = (settings.clone(), to_edge.clone());
        let (drain, force) = (shutdown.drain().clone(), shutdown.force().clone());
        shutdown
            .spawn_thread("shard", move || {
                crate::shard::runner::run(Shard::new(number, settings, to_edge), inbox, &drain, &force)
            })
            .map_err(|error| failed("shard")(error.to_string()))?;
    }
    // From here on the shards alone ask the edge, so that it ends when they have.
    drop(to_edge);

    let inputs = Inputs::open(&node.nats, &node.me, requests, node.membership.view())
        .map_err(|error| failed("edge")(error.to_string()))?;
    node.nats.check().await?;
    let view = (**node.membership.view().borrow()).clone();
    let ready = node.readiness.register("coverage");
    let known = (view, NatsConnection::of(&node.nats));
    let edge = Edge::new(node.me.clone(), config, partitions, known, shards.clone(), ready);
    let driver = Driver::new(edge, node.nats.clone(), config.stream.name.clone(), node.stopped.clone());
    shutdown.spawn("edge", driver.run(inputs, shutdown.force().clone()));

    let handshake = Handshake { authenticator, shards, auth_timeout: config.gateway.auth_timeout };
    let capacity = capacity(config, node.descriptors)?;
    let front = HttpState::new(handshake, &config.gateway, &capacity, node.membership.view(), shutdown.drain().clone());
    let (listener, force) = (listener.into_std(), shutdown.force().clone());
    let listener = listener.map_err(|error| failed("gateway.listen")(error.to_string()))?;
    shutdown
        .spawn_thread("door", move || door(listener, front, &force))
        .map_err(|error| failed("door")(error.to_string()))?;
    node.write_ports(&[("gateway", address)])?;
    info!(%address, node = %node.me, "gateway listens");
    node.run(shutdown).await.map_err(|error| failed("signals")(error.to_string()))
}

/// Serves HTTP and names sockets, on a thread of its own: however much is asked for there, what comes from NATS is not
/// kept waiting behind it.
fn door(listener: std::net::TcpListener, front: HttpState, force: &CancellationToken) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        force.run_until_cancelled(http::serve(listener, front)).await;
        Ok(())
    })
}

/// For how many connections there are file descriptors.
fn capacity(config: &Config, descriptors: Option<u64>) -> Result<Capacity, StartError> {
    let wanted = RequiredCapacity {
        sessions: config.gateway.max_sessions,
        unnamed: config.gateway.max_unnamed,
        connections: config.gateway.max_connections,
        admin: config.admin.max_connections,
        shards: shard_count(config),
    };
    let capacity = Capacity::of(descriptors, wanted).map_err(|least| StartError::Part {
        part: "file descriptors",
        reason: format!(
            "this process may have {} and needs at least {least}: raise its limit (ulimit -n)",
            descriptors.unwrap_or(0)
        ),
    })?;
    if let Some(needed) = capacity.missing {
        warn!(
            limit = descriptors,
            needed,
            sessions = capacity.sessions,
            connections = capacity.connections,
            "too few file descriptors for gateway.max_sessions and max_connections: fewer are taken; raise the limit (ulimit -n)"
        );
    }
    Ok(capacity)
}

fn shard_count(config: &Config) -> u16 {
    let cores = || available_parallelism().map_or(1, std::num::NonZero::get);
    let count = if config.gateway.shards == 0 { cores() } else { config.gateway.shards };
    u16::try_from(count).unwrap_or(u16::MAX)
}
