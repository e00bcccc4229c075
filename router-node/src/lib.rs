//! The router: it owns some partitions of the stream of events, and sends each event, once, to every gateway whose
//! interest it matches, with a proof of what it has read.
//!
//! Files stand in the order of an event's way:
//!
//! ```text
//! source        what can be owned and read: a partition, or what is in none
//! checkpoint    how far a source was read, as its lease holds it
//! stream        the epoch of the stream, and where it begins and ends
//! ownership     the ring names the router that should own a source, its lease the one that does
//! reader        how the stream is read, whatever it holds
//! intake        reads all of a source
//!   walk        looks for what the stream has lost
//! decode        from a message to an event
//!   rules       change the event, drop it, or say how it is spread
//!   enrich      its context, from the buckets of the context
//! dead_letters  what cannot be read is stored with its reason
//! interest      what gateways want
//! route_cache   the memory of rules and engine for what they decided
//! engine        match, batch, checkpoint
//! dispatch      sections into messages, to the gateways
//! asker         who takes turns with requests for what follows
//! replay        reads again what a gateway has missed
//!   queue       which requests are read next, and together
//!   pass        how much is read, and what the answers may claim
//! alerts        reads the alerts of a user that may come again
//!   queue       which request is served next
//! heartbeats    a small message per partition now and then, which takes the same way
//! silence       when the stream last got an event of each kind
//! ```
//!
//! `traced` records the trace of an event from intake to dispatch, `metrics` declares what all of them count, `status`
//! answers those who ask about the router, and `publish` stores events that arrive over HTTP. `decisions` is all of
//! this without I/O, for the simulator. The load generator drives an engine without a stream, so what sends and asks
//! for an engine is public. What NATS does not store is watched by `tickwire_node::storage::watch`, which is started
//! here.

mod source;

pub(crate) mod checkpoint;
mod stream;

mod ownership;
mod reader;

mod intake;
pub(crate) mod walk;

mod decode;
mod enrich;
mod rules;

mod dead_letters;

mod interest;

mod route_cache;

mod engine;

mod dispatch;

mod asker;
mod replay;
mod requests;

mod alerts;

mod heartbeats;

mod silence;

mod traced;

mod metrics;

mod status;

mod publish;

pub mod decisions;

pub use dispatch::Dispatcher;
pub use engine::LONGEST_WINDOW;
pub use interest::{InterestSubscription, request_snapshot};
pub use status::endpoints;

use crate::alerts::AlertService;
use crate::checkpoint::SourceProgress;
use crate::decode::{Decoder, LastEvents};
use crate::engine::Engine;
use crate::engine::driver::ChannelsToEngine;
use crate::enrich::SharedSurroundings;
use crate::enrich::driver::ContextDriver;
use crate::enrich::tenure::ContextStore;
use crate::enrich::writer::{self, ContextWriter};
use crate::intake::driver::Context;
use crate::interest::InterestInquiry;
use crate::ownership::status::RouterStatus;
use crate::ownership::{Ownership, PlacementTiming};
use crate::publish::PublishApi;
use crate::replay::ReplayService;
use crate::rules::driver::RulesDriver;
use crate::rules::http::RulesApi;
use crate::source::Tenure;
use crate::status::SourcesStatus;
use crate::walk::Walker;
use std::sync::Arc;
use tickwire_core::interest::table::TableLimits;
use tickwire_core::placement::Role;
use tickwire_node::bucket::{Bucket, BucketError};
use tickwire_node::clock::{Clock, millis};
use tickwire_node::config::Config;
use tickwire_node::lease::Leases;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::secrets::ConnectionFiles;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::{Node, StartError};
use tickwire_node::storage;
use tickwire_node::users::{self, NoUsers, UserService};
use tokio::sync::{mpsc, watch};

/// How many reports of intakes may wait for the engine. Beyond that, intakes wait.
const REPORTS: usize = 32;

/// How many questions about interest may wait for the engine.
const INQUIRIES: usize = 16;

/// Runs a router until it is stopped.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: &Config, shutdown: &Shutdown) -> Result<Outcome, StartError> {
    let node = start(config, shutdown).await?;
    Ok(node.run(shutdown).await)
}

/// Starts a router. It works until `shutdown` drains; [`Node::run`] waits for that.
///
/// # Errors
/// The first thing that is missing, with what to do about it.
pub async fn start(config: &Config, shutdown: &Shutdown) -> Result<Node, StartError> {
    let node = Node::start(config, Role::Router, shutdown).await?;
    tickwire_node::metrics::describe(metrics::ALL);

    let part = |part: &'static str| move |reason: String| StartError::Part { part, reason };
    let partitions =
        u16::try_from(node.provisioned.partitions).map_err(|error| part("partitions")(error.to_string()))?;
    let deadline = ownership::driver::lease_deadline(config.membership.lease_ttl);
    let leases = Leases::open(&node.nats, names::LEASES_BUCKET, node.me.clone(), deadline);
    let leases = node.nats.unless_denied(leases).await?;
    let leases = leases.map_err(|error| part("leases")(error.to_string()))?;
    let interest_messages = InterestSubscription::subscribe(&node.nats)?;
    let rules = node.nats.unless_denied(RulesDriver::start(&node.nats, config.events.taken())).await?;
    let (rules_driver, rules) = rules.map_err(|error| part("rules")(error.to_string()))?;
    let rule_bucket = rules_driver.bucket();
    let context = node.nats.unless_denied(open_context(&node.nats, &config.stream.name)).await?;
    let context = context.map_err(|error| part("context")(error.to_string()))?;
    let ContextParts { store, writer: context_writer, driver: context_driver } = context;
    let decoder = Arc::new(Decoder {
        stream: config.stream.name.clone(),
        kinds: config.events.taken(),
        rules,
        surroundings: store.surroundings.clone(),
        last_events: LastEvents::default(),
        traces: node.traces.clone(),
    });
    let ReplayParts { replays, alerts, walker, inquiries } =
        subscribe_replays(config, shutdown, &node, partitions, &decoder).await?;
    node.nats.check().await?;

    let rules_api = Arc::new(RulesApi { node: node.me.id.clone(), bucket: rule_bucket, decoder: Arc::clone(&decoder) });
    let publish_api = Arc::new(PublishApi { nats: node.nats.clone(), decoder: Arc::clone(&decoder) });
    let of_status = Arc::clone(&decoder);
    let clock = Clock::start();
    let (reports_sender, reports) = mpsc::channel(REPORTS);
    let (to_ownership, to_engine) = engine::driver::ownership_channels();
    let intakes = Context {
        nats: node.nats.clone(),
        me: node.me.clone(),
        clock,
        decoder,
        walker,
        store,
        silence: intake::driver::silence(config.membership.tick_interval),
        rule_cache_bytes: route_cache::bytes_for_rules(&config.router, partitions),
        engine: reports_sender,
    };
    let engine = Engine::new(&config.router, TableLimits::default(), node.provisioned.epoch);
    let engine = engine::driver::EngineDriver::new(
        engine,
        engine::driver::EngineSetup {
            nats: node.nats.clone(),
            dispatcher: Dispatcher::new(node.nats.clone(), node.me.clone()),
            clock,
            checkpoint_interval: config.router.checkpoint_interval,
            shutdown: shutdown.clone(),
            intakes: Arc::new(intakes),
            reports,
            interest_messages,
            inquiries,
            view: node.membership.view(),
            ownership: to_ownership,
        },
    );
    let storage = storage::watch(node.nats.clone(), node.me.clone(), config.stream.clone(), shutdown.drain().clone());
    shutdown.spawn_infallible("storage watch", storage);
    shutdown.spawn_infallible("rules", rules_driver.run(shutdown.drain().clone()));
    shutdown.spawn_infallible("context", context_driver.run(shutdown.drain().clone()));
    shutdown.spawn_infallible("context writer", context_writer.run(shutdown.force().clone()));
    shutdown.spawn_infallible("engine", engine.run());
    let report = to_engine.report.clone();
    let parts = OwnershipParts { partitions, leases, clock, engine: to_engine };
    let sources = start_ownership(config, shutdown, &node, parts);
    let (kinds, silence) = silence::watch(&node.nats, config);
    shutdown.spawn_infallible("silence watch", silence.run(shutdown.drain().clone()));
    let status = Arc::new(SourcesStatus { sources, report, kinds, decoder: of_status });
    let users = Arc::new(UserService::new(&node, Arc::new(NoUsers)));
    tickwire_node::status::open(&node, config, shutdown, status, |routes| {
        let routes = users::add_routes(routes, &users);
        publish::add_routes(rules::http::add_routes(routes, &rules_api), &publish_api)
    })?;
    shutdown.spawn_infallible("replays", replays.run(shutdown.drain().clone(), shutdown.force().clone()));
    shutdown.spawn_infallible("alerts", alerts.run(shutdown.drain().clone()));
    node.write_ports(&[])?;
    Ok(node)
}

/// The parts that give events their context.
struct ContextParts {
    store: ContextStore,
    writer: ContextWriter,
    driver: ContextDriver,
}

/// Opens the buckets of the context. Nothing is known yet.
async fn open_context(nats: &Nats, stream: &str) -> Result<ContextParts, BucketError> {
    let bucket = Bucket::open(nats, names::CONTEXT_BUCKET).await?;
    let reference = Bucket::open(nats, names::REFERENCE_BUCKET).await?;
    let surroundings = SharedSurroundings::default();
    let driver = ContextDriver::new((nats.clone(), stream.to_owned()), bucket.clone(), reference, surroundings.clone());
    let (writes, writer) = writer::open(bucket.clone());
    let store = ContextStore { nats: nats.clone(), bucket, writes, surroundings };
    Ok(ContextParts { store, writer, driver })
}

/// What reads the stream again, over a connection of its own.
struct ReplayParts {
    replays: ReplayService,
    alerts: AlertService,
    walker: Arc<Walker>,
    /// The inquiries of replays, for the engine.
    inquiries: mpsc::Receiver<InterestInquiry>,
}

/// Takes requests for replays, and for alerts that may come again, from now on. The walker shares their connection.
async fn subscribe_replays(
    config: &Config,
    shutdown: &Shutdown,
    node: &Node,
    partitions: u16,
    decoder: &Arc<Decoder>,
) -> Result<ReplayParts, StartError> {
    let name = format!("{}/replays", node.me.id);
    let files = ConnectionFiles::start(&config.nats, format!("router/{name}"), node.secrets.clone()).await;
    let replay_nats = Nats::connect(&config.nats, Role::Router.as_str(), &name).await?;
    if let Some(files) = files {
        shutdown.spawn_infallible("replay secrets", files.run(replay_nats.clone(), shutdown.drain().clone()));
    }
    let walker = Walker::new(replay_nats.clone(), config.stream.name.clone());
    let (inquiries_sender, inquiries) = mpsc::channel(INQUIRIES);
    let view = node.membership.view();
    let alerts = AlertService::subscribe(replay_nats.clone(), Arc::clone(decoder), partitions.into(), view.clone())?;
    let replays = ReplayService::subscribe(replay::ReplaySetup {
        nats: replay_nats,
        me: node.me.clone(),
        config: config.router.clone(),
        partitions,
        decoder: Arc::clone(decoder),
        walker: Arc::clone(&walker),
        inquiries: inquiries_sender,
        view,
    });
    Ok(ReplayParts { replays: replays.await?, alerts, walker, inquiries })
}

/// What the ownership works with, beside its node.
struct OwnershipParts {
    partitions: u16,
    leases: Leases,
    clock: Clock,
    engine: ChannelsToEngine,
}

/// The owned sources, and how far each was published.
type OwnedSources = watch::Receiver<Vec<(Tenure, SourceProgress)>>;

/// Starts the ownership, and the heartbeats of the partitions that it owns. Returns what it owns.
fn start_ownership(config: &Config, shutdown: &Shutdown, node: &Node, parts: OwnershipParts) -> OwnedSources {
    let OwnershipParts { partitions, leases, clock, engine } = parts;
    let (owned_sender, owned) = watch::channel(Arc::default());
    let pace = PlacementTiming::new(config.membership.lease_ttl, config.router.checkpoint_interval);
    let ownership =
        Ownership::new(node.me.clone(), partitions, pace, millis(config.membership.timeout), node.provisioned.epoch);
    let status = RouterStatus::new(node.me.clone(), &node.readiness, owned_sender, node.stopped.clone());
    let sources = status.sources();
    let ownership = ownership::driver::OwnershipDriver::new(
        ownership,
        ownership::driver::OwnershipSetup {
            nats: node.nats.clone(),
            leases,
            stream: config.stream.name.clone(),
            clock,
            view: node.membership.view(),
            engine,
            status,
        },
    );
    let heartbeats =
        crate::heartbeats::run(node.nats.clone(), config.stream.name.clone(), config.membership.tick_interval, owned);
    shutdown.spawn_infallible("ownership", ownership.run(shutdown.drain().clone(), shutdown.force().clone()));
    shutdown.spawn_infallible("heartbeats", heartbeats);
    sources
}
