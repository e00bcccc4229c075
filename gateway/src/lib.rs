//! A gateway holds the connections of clients and their subscriptions, and delivers events to them.
//!
//! The modules, first in the order of an event's way, then of a client's:
//!
//! * `edge` takes batches from NATS, decodes each once ([`delivery`]), checks coverage, and sends events to the shards;
//! * `messages` defines what the edge and the shards send each other, through queues that count bytes (`byte_queue`);
//! * `shard` delivers: [`index`] finds the sessions, [`outbox`] holds what waits to be sent, [`limits`] counts what a
//!   user may receive and request, and `socket` writes. `handling` reads what rules decided for an event;
//! * `backfill` plans the replays for sessions that resume or ask for the past with `since`;
//! * `http` upgrades a connection, and `handshake` authenticates it by `auth` and passes it to its shard as a
//!   `new_session`. `shard/commands.rs` answers the client's requests, and `granting` says what it may subscribe to;
//! * `metrics` declares the metrics, `stats` adds up what shards count, `traced` records the trace of an event, and
//!   `record` counts what the log reports of a session;
//! * `saved` has the subscriptions that users have saved for all of their sessions;
//! * `registry` knows every session, and `status` answers those who ask about them;
//! * `alerts` sends alerts of operators and producers to a user, `acks` records which ones a user has acknowledged, and
//!   `reminders` reads the others for sessions, to which they come again.
//!
//! Code that decides is pure and public, so that benches can measure it, and tests of routers have an edge
//! ([`decisions`]). The clock is passed in.

mod edge;

pub mod delivery;
mod handling;

mod messages;

mod byte_queue;

mod shard;

pub mod index;
pub mod outbox;

pub mod limits;
mod socket;

mod granting;

mod backfill;

mod http;

mod handshake;

mod auth;
mod new_session;

mod metrics;
mod stats;
mod traced;

mod registry;

mod saved;

mod status;

mod alerts;

mod acks;

mod reminders;

mod record;

pub mod decisions;

#[cfg(test)]
mod simulator;

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread::available_parallelism;

use tickwire_core::placement::Role;
use tickwire_node::bucket::{Bucket, BucketError};
use tickwire_node::clock::{monotonic, wall_clock};
use tickwire_node::config::Config;
use tickwire_node::listen_error;
use tickwire_node::names;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::{Node, StartError};
use tickwire_node::users::UserService;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::acks::{AckRecorder, AckRequest};
use crate::alerts::presence::PresenceFinder;
use crate::alerts::sender::AlertSender;
use crate::auth::Authenticator;
use crate::byte_queue::{ByteReceiver, ByteSender};
use crate::edge::{Driver, Edge, EdgeSetup, EdgeStatus, Inputs, NatsConnection};
use crate::handshake::Handshake;
use crate::handshake::capacity::{Capacity, RequiredCapacity};
use crate::http::{HttpState, starting};
use crate::messages::{ToEdge, ToShard};
use crate::registry::SessionRegistry;
use crate::reminders::reading::ReminderLimits;
use crate::reminders::{ReminderReader, ReminderRequest, ReminderSetup};
use crate::saved::SavedTable;
use crate::saved::bulk::BulkWriter;
use crate::saved::driver::{SavedDriver, SavedSetup};
use crate::saved::store::SavedStore;
use crate::shard::{Clocks, Shard, ShardConfig};
use crate::status::GatewayStatus;
use crate::status::users::Users;
use crate::status::watched::WatchedUsers;

/// Runs a gateway until a shutdown is requested and the drain is over.
///
/// # Errors
/// The reason why it cannot start, with what to do about it.
pub async fn run(config: &Config, shutdown: &Shutdown) -> Result<Outcome, StartError> {
    config.auth.secret().map_err(|error| failed("auth", &error))?;
    let at = config.gateway.listen;
    let listening = |error: io::Error| {
        failed("gateway.listen", &format!("cannot listen on {at}: {error}; {}", listen_error::advice(&error)))
    };
    let (listener, refusing) = starting::listen(at).await.map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    let node = Node::start(config, Role::Gateway, shutdown);
    let node = starting::refuse_during(node, refusing, &config.gateway).await?;
    // The recorder must be installed first: descriptions made before that are lost.
    tickwire_node::metrics::describe(metrics::ALL);
    tickwire_node::metrics::describe(metrics::OF_USERS);

    let authenticator = Arc::clone(&node.authenticator);
    let registry = Arc::new(SessionRegistry::new(shard_count(config)));
    let table = Arc::new(SavedTable::default());
    let (acks, ack_requests) = mpsc::channel(acks::QUEUE);
    // A session has one request at a time.
    let (reminders, reminder_requests) = mpsc::channel(config.gateway.max_sessions);
    let queues = (acks, reminders);
    let (shards, requests) = start_shards(config, shutdown, &node, &authenticator, &registry, &table, queues)?;
    let acks = start_acks(config, shutdown, &node, shards.clone(), ack_requests);
    node.nats.unless_denied(acks).await??;
    let reminders = start_reminders(config, shutdown, &node, shards.clone(), reminder_requests);
    node.nats.unless_denied(reminders).await??;
    let alerts = start_alerts(config, shutdown, &node, &registry)?;
    let edge = start_edge(config, shutdown, &node, shards.clone(), requests).await?;
    let saved = start_saved(config, shutdown, &node, (&registry, table, shards.clone()));
    let store = node.nats.unless_denied(saved).await??;
    let users = Arc::new(Users::new(node.me.id.clone(), Arc::clone(&registry), shards.clone()));
    let users_of_cluster = start_users(shutdown, &node, &users)?;
    let capacity = capacity(config, node.descriptors)?;
    metrics::MAX_SESSIONS.set(capacity.sessions as f64);
    if !config.gateway.watched_users.is_empty() {
        let watched = WatchedUsers::new(Arc::clone(&users), config.gateway.watched_users.clone());
        shutdown.spawn_infallible("watched users", watched.run(shutdown.drain().clone()));
    }
    let status = GatewayStatus {
        registry,
        edge,
        users: Arc::clone(&users),
        most_sessions: capacity.sessions,
        most_queued: config.gateway.shard_bytes,
    };
    let bulk = Arc::new(BulkWriter::new(Arc::clone(&store), shutdown.clone()));
    let add_routes = |routes| status::add_routes(routes, &users_of_cluster, &store, bulk, alerts);
    tickwire_node::status::open(&node, config, shutdown, Arc::new(status), add_routes)?;
    let handshake = Handshake { authenticator, shards, auth_timeout: config.gateway.auth_timeout };
    let view = node.membership.view();
    let front = HttpState::new(handshake, users, store, &config.gateway, &capacity, view, shutdown.drain().clone());
    start_http(shutdown, listener, front)?;
    node.write_ports(&[("gateway", address)])?;
    info!(%address, start = %node.me, "gateway listens");
    Ok(node.run(shutdown).await)
}

/// Starts the shards. Returns the senders to them, and the receiver of what they request from the edge. Only shards
/// hold a sender to the edge, so the edge ends when they have ended.
fn start_shards(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    authenticator: &Arc<Authenticator>,
    registry: &Arc<SessionRegistry>,
    saved: &Arc<SavedTable>,
    (acks, reminders): (mpsc::Sender<AckRequest>, mpsc::Sender<ReminderRequest>),
) -> Result<(Vec<ByteSender<ToShard>>, ByteReceiver<ToEdge>), StartError> {
    let (to_edge, requests) = crate::byte_queue::channel();
    let settings = ShardConfig {
        gateway: node.me.id.clone(),
        config: config.gateway.clone(),
        kinds: Arc::new(config.events.taken()),
        partitions: partitions(node),
        authenticator: Arc::clone(authenticator),
        registry: Arc::clone(registry),
        saved: Arc::clone(saved),
        acks,
        reminders,
        clocks: Clocks { wall: wall_clock, monotonic },
        is_traced: node.traces.is_on(),
        seed: rand::random(),
    };
    let mut shards = Vec::new();
    for number in 0..shard_count(config) {
        let (sender, inbox) = crate::byte_queue::channel();
        shards.push(sender);
        let (settings, to_edge) = (settings.clone(), to_edge.clone());
        let (drain, force) = (shutdown.drain().clone(), shutdown.force().clone());
        shutdown
            .spawn_thread("shard", move || {
                crate::shard::driver::run(Shard::new(number, settings, to_edge), inbox, &drain, &force)
            })
            .map_err(|error| failed("shard", &error))?;
    }
    Ok((shards, requests))
}

/// Starts to record acknowledgements.
async fn start_acks(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    shards: Vec<ByteSender<ToShard>>,
    requests: mpsc::Receiver<AckRequest>,
) -> Result<(), StartError> {
    let bucket = Bucket::open(&node.nats, names::ACKS_BUCKET).await.map_err(|error| failed("acks", &error))?;
    let recorder = AckRecorder::new(node.nats.clone(), config.stream.name.clone(), bucket, shards);
    shutdown.spawn_infallible("acks", recorder.run(requests, shutdown.drain().clone()));
    Ok(())
}

/// Starts to read alerts that come again, unless none does.
async fn start_reminders(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    shards: Vec<ByteSender<ToShard>>,
    requests: mpsc::Receiver<ReminderRequest>,
) -> Result<(), StartError> {
    if config.gateway.again_window.is_zero() {
        return Ok(());
    }
    let setup = ReminderSetup {
        nats: node.nats.clone(),
        me: node.me.clone(),
        stream: config.stream.name.clone(),
        partitions: partitions(node),
        acks: Bucket::open(&node.nats, names::ACKS_BUCKET).await.map_err(|error| failed("reminders", &error))?,
        window: config.gateway.again_window,
        limits: ReminderLimits { most: config.gateway.again_max, bytes: config.gateway.outbox_bytes },
        shards,
    };
    shutdown.spawn_infallible("reminders", ReminderReader::new(setup).run(requests, shutdown.drain().clone()));
    Ok(())
}

/// Starts to answer which sessions a user has here. Returns the sender of alerts, which asks other gateways the same.
fn start_alerts(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    registry: &Arc<SessionRegistry>,
) -> Result<AlertSender, StartError> {
    let finder =
        PresenceFinder::new(node.me.clone(), node.nats.link.clone(), Arc::clone(registry), node.membership.view());
    let questions = finder.questions().map_err(|error| failed("alerts", &error))?;
    shutdown.spawn_infallible("presence", finder.clone().answer(questions, shutdown.drain().clone()));
    let kinds = Arc::new(config.events.taken());
    Ok(AlertSender::new(node.nats.clone(), config.stream.name.clone(), kinds, finder))
}

/// Starts to answer what other nodes ask about users. Returns what asks them.
fn start_users(shutdown: &Shutdown, node: &Node, users: &Arc<Users>) -> Result<Arc<UserService<Users>>, StartError> {
    let service = Arc::new(UserService::new(node, Arc::clone(users)));
    let questions = service.questions().map_err(|error| failed("users", &error))?;
    shutdown.spawn_infallible("users", Arc::clone(&service).answer_questions(questions, shutdown.drain().clone()));
    Ok(service)
}

/// Starts the edge, which takes what routers send from now on. Returns its status.
async fn start_edge(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    shards: Vec<ByteSender<ToShard>>,
    requests: ByteReceiver<ToEdge>,
) -> Result<watch::Receiver<EdgeStatus>, StartError> {
    let inputs =
        Inputs::open(&node.nats, &node.me, requests, node.membership.view()).map_err(|error| failed("edge", &error))?;
    node.nats.check().await?;
    let view = (**node.membership.view().borrow()).clone();
    let ready = node.readiness.register("coverage");
    let edge = Edge::new(EdgeSetup {
        gateway: node.me.clone(),
        config,
        partitions: partitions(node),
        view,
        connection: NatsConnection::of(&node.nats),
        shards,
        ready,
    });
    let (stream, stopped, traces) = (config.stream.name.clone(), node.stopped.clone(), node.traces.clone());
    let driver = Driver::new(edge, node.nats.clone(), stream, stopped, traces);
    let status = driver.status();
    shutdown.spawn("edge", driver.run(inputs, shutdown.force().clone()));
    Ok(status)
}

/// Reads the saved subscriptions, and follows them from now on.
async fn start_saved(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    (registry, table, shards): (&Arc<SessionRegistry>, Arc<SavedTable>, Vec<ByteSender<ToShard>>),
) -> Result<Arc<SavedStore>, StartError> {
    let failed = |error: BucketError| failed("saved subscriptions", &error);
    let kinds = Arc::new(config.events.taken());
    let store = SavedStore::open(&node.nats, config.gateway.clone(), kinds).await.map_err(failed)?;
    let setup = SavedSetup {
        store: store.clone(),
        table,
        registry: Arc::clone(registry),
        shards,
        me: node.me.clone(),
        view: node.membership.view(),
    };
    let driver = SavedDriver::start(setup).await.map_err(failed)?;
    shutdown.spawn_infallible("saved subscriptions", driver.run(shutdown.drain().clone()));
    Ok(Arc::new(store))
}

/// Starts to accept clients.
fn start_http(shutdown: &Shutdown, listener: std::net::TcpListener, front: HttpState) -> Result<(), StartError> {
    let force = shutdown.force().clone();
    shutdown.spawn_thread("http", move || serve_http(listener, front, &force)).map_err(|error| failed("http", &error))
}

fn failed(part: &'static str, reason: &dyn Display) -> StartError {
    StartError::Part { part, reason: reason.to_string() }
}

fn partitions(node: &Node) -> u16 {
    u16::try_from(node.provisioned.partitions).unwrap_or(u16::MAX)
}

/// Serves HTTP and authenticates connections. It has its own thread, so that many requests do not delay messages from
/// NATS.
fn serve_http(listener: std::net::TcpListener, front: HttpState, force: &CancellationToken) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        force.run_until_cancelled(http::serve(listener, front)).await;
        Ok(())
    })
}

/// As many of the configured sessions and plain HTTP connections as this limit of file descriptors is enough for: a
/// gateway that is configured for these has no reason to warn. `None` if it could not start.
pub fn fitting_connections(config: &Config, descriptors: Option<u64>) -> Option<(usize, usize)> {
    let capacity = Capacity::of(descriptors, required(config)).ok()?;
    Some((capacity.sessions, capacity.connections))
}

fn required(config: &Config) -> RequiredCapacity {
    RequiredCapacity {
        sessions: config.gateway.max_sessions,
        unnamed: config.gateway.max_unnamed,
        connections: config.gateway.max_connections,
        admin: config.admin.max_connections,
        shards: shard_count(config),
    }
}

/// How many connections the file descriptors are enough for.
fn capacity(config: &Config, descriptors: Option<u64>) -> Result<Capacity, StartError> {
    let capacity = Capacity::of(descriptors, required(config)).map_err(|least| StartError::Part {
        part: "file descriptors",
        reason: format!(
            "this process may open {} and needs at least {least}: raise its limit (ulimit -n)",
            descriptors.unwrap_or(0)
        ),
    })?;
    if let Some(needed) = capacity.missing {
        warn!(
            limit = descriptors,
            needed,
            sessions = capacity.sessions,
            connections = capacity.connections,
            "too few file descriptors, fewer clients accepted than configured; raise ulimit -n"
        );
    }
    Ok(capacity)
}

fn shard_count(config: &Config) -> u16 {
    let cores = || available_parallelism().map_or(1, std::num::NonZero::get);
    let count = if config.gateway.shards == 0 { cores() } else { config.gateway.shards };
    u16::try_from(count).unwrap_or(u16::MAX)
}
