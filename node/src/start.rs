//! How every node starts and ends, in any role: admin server, connection, provisioning, membership; and at the end,
//! when all of its tasks have ended, the goodbye.

use crate::admin::{Admin, AdminError, Check, Readiness};
use crate::auth::Authenticator;
use crate::config::Config;
use crate::duplicate_names::{self, NameWatch};
use crate::membership::{Membership, MembershipError};
use crate::nats::{LEAST_PAYLOAD, Nats, NatsError};
use crate::provision::{ProvisionError, Provisioned, await_streams, provision};
use crate::secrets::{ConnectionFiles, SecretTroubles, TokenKeys};
use crate::shutdown::{Outcome, Shutdown, StopSignals};
use crate::storage::{self, Stopped};
use crate::telemetry::{Metrics, TelemetryError};
use crate::traces::{Exporter, Traces};
use crate::{clock_offset, descriptors, metrics, ports};
use rand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::ids::{NameError, NodeId, NodeRef, Nonce};
use tickwire_core::placement::{Member, Role};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long after its start a node ends if it is denied a permission: in this time it uses most of those that it needs.
const STARTING: Duration = Duration::from_secs(10);

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The node's name cannot be used.
    #[error("node.id: {0}")]
    Name(#[from] NameError),
    /// Metrics cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The admin server cannot listen.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// There is no usable connection to NATS.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// JetStream cannot be set up as configured.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The node cannot join the membership.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// It was stopped on request before it had started.
    #[error("stopped by {cause} before it had started")]
    Stopped {
        /// The name of the signal, or what else has stopped it.
        cause: &'static str,
    },
    /// One of its tasks failed before it had started. The log has the reason.
    #[error("a task failed before the node had started")]
    Failed,
    /// The system does not allow to listen for signals.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// The ports file cannot be written.
    #[error("node.ports_file = {}: cannot be written: {source}", path.display())]
    PortsFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A part of one role cannot start.
    #[error("{part}: {reason}")]
    Part {
        /// The part.
        part: &'static str,
        /// The cause, and what to do about it.
        reason: String,
    },
}

/// A node that has joined the cluster and has no work yet.
#[derive(Debug)]
pub struct Node {
    /// Its name and nonce.
    pub me: NodeRef,
    /// The connection to NATS.
    pub nats: Nats,
    /// The streams and buckets in JetStream.
    pub provisioned: Provisioned,
    /// The other nodes.
    pub membership: Membership,
    /// Why NATS does not store events, in one line, while that lasts.
    pub stopped: watch::Receiver<Stopped>,
    /// The checks of `/readyz`; parts register theirs here.
    pub readiness: Readiness,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// The admin server.
    pub admin: Admin,
    /// Checks the tokens of clients and operators.
    pub authenticator: Arc<Authenticator>,
    /// What is wrong with files of secrets.
    pub secrets: SecretTroubles,
    /// How many file descriptors this process may have; `None` is no limit.
    pub descriptors: Option<u64>,
    /// Where parts record spans.
    pub traces: Traces,
    exporter: Option<Exporter>,
    signals: StopSignals,
    grace: Duration,
    ports_file: Option<PathBuf>,
}

impl Node {
    /// Starts the common parts. A node without a configured name draws one here. A caller that needs the name before,
    /// for the logs, draws it with [`NodeConfig::identity`](crate::config::NodeConfig::identity) and sets it in the
    /// configuration.
    ///
    /// # Errors
    /// The first failure, with what to do about it.
    pub async fn start(config: &Config, role: Role, shutdown: &Shutdown) -> Result<Self, StartError> {
        let name = config.node.identity(role.as_str());
        let me = NodeRef { id: NodeId::new(&name)?, nonce: Nonce(rand::rng().random()) };
        // Before it waits for anything: the first process of a container is not ended by a signal that it does not take.
        // Those that come after the waits below are handled when the node runs.
        let mut signals = StopSignals::listen().map_err(StartError::Signals)?;
        let descriptors = descriptors::raise();
        let metrics = Metrics::install(role.as_str(), &name)?;
        metrics::describe(metrics::OF_ALL);
        if role == Role::Router {
            metrics::describe(metrics::OF_ROUTERS);
        }
        shutdown.spawn_infallible("metrics upkeep", metrics.clone().upkeep(shutdown.drain().clone()));
        metrics::STREAM_PARTITIONS.set(f64::from(config.stream.partitions));
        metrics::MAX_DESCRIPTORS.set(descriptors.map_or(f64::INFINITY, |most| most as f64));
        let readiness = Readiness::starting();
        let check = readiness.register("nats");
        let drain = shutdown.drain().clone();
        let admin = Admin::start(&config.admin, readiness.clone(), metrics.clone(), shutdown).await?;
        let secrets = SecretTroubles::default();
        let (authenticator, token_keys) = TokenKeys::start(&config.auth, secrets.clone()).await;
        if let Some(token_keys) = token_keys {
            shutdown.spawn_infallible("token secrets", token_keys.run(drain.clone()));
        }
        let files = ConnectionFiles::start(&config.nats, format!("{}/{name}", role.as_str()), secrets.clone()).await;
        let (traces, exporter) = Traces::start(&config.traces, role, &me, shutdown)
            .await
            .map_err(|error| StartError::Part { part: "traces", reason: error.to_string() })?;
        let connecting = Nats::connect(&config.nats, role.as_str(), &name);
        let nats = unless_stopped(&mut signals, shutdown, connecting).await??;
        if let Some(files) = files {
            shutdown.spawn_infallible("nats secrets", files.run(nats.clone(), drain.clone()));
        }
        // From here on: a gateway that waits for streams, maybe for long, has a connection.
        shutdown.spawn_infallible("nats readiness", watch_connection(nats.clone(), check, drain.clone()));
        let storage_check = readiness.register("storage");
        let set_up = async {
            match role {
                Role::Router => provision(&nats, &config.stream).await,
                Role::Gateway => await_streams(&nats, &config.stream, &storage_check).await,
            }
        };
        let provisioned = unless_stopped(&mut signals, shutdown, nats.unless_denied(set_up)).await???;
        let reports = storage::subscribe(&nats.link)
            .map_err(|error| StartError::Part { part: "storage", reason: error.to_string() })?;
        let (stopped_sender, stopped) = watch::channel(None);
        let board = storage::listen(reports, role, storage_check, stopped_sender, drain.clone());
        shutdown.spawn_infallible("storage", board);
        let member = Member { node: me.clone(), role, weight: 1, draining: false };
        let joining = Membership::join(&nats, &config.membership, member, shutdown);
        let membership = nats.unless_denied(joining).await??;
        let announcements = duplicate_names::subscribe(&nats.link, &me)
            .map_err(|error| StartError::Part { part: "name watch", reason: error.to_string() })?;
        let announcement = duplicate_names::announcement(me.clone(), role, admin.address().to_string());
        let watch = NameWatch {
            nats: nats.clone(),
            inlet: announcements,
            me: announcement,
            every: config.membership.beat_interval,
            view: membership.view(),
            check: readiness.register("name"),
        };
        shutdown.spawn_infallible("name watch", duplicate_names::run(watch, shutdown.drain().clone()));
        let offset = clock_offset::watch(nats.clone(), config.stream.name.clone(), drain);
        shutdown.spawn_infallible("clock offset", offset);
        Ok(Self {
            me,
            nats,
            provisioned,
            membership,
            stopped,
            readiness,
            metrics,
            admin,
            authenticator,
            secrets,
            descriptors,
            traces,
            exporter,
            signals,
            grace: config.node.shutdown_grace,
            ports_file: config.node.ports_file.clone(),
        })
    }

    /// Writes the addresses of the admin server and of `others` to the ports file, if one is configured.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_ports(&self, others: &[(&'static str, SocketAddr)]) -> Result<(), StartError> {
        let Some(path) = &self.ports_file else { return Ok(()) };
        let mut listening: BTreeMap<&str, SocketAddr> = others.iter().copied().collect();
        listening.insert("admin", self.admin.address());
        ports::write(path, &listening).map_err(|source| StartError::PortsFile { path: path.clone(), source })
    }

    /// Runs until the node has to stop and all of its tasks have ended; then sends the goodbye.
    pub async fn run(self, shutdown: &Shutdown) -> Outcome {
        shutdown.spawn("permissions", watch_permissions(self.nats.clone(), shutdown.drain().clone()));
        let outcome = shutdown.run(self.grace, self.signals).await;
        self.membership.leave().await;
        // After all other tasks, which record spans until their end.
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        self.admin.stop().await;
        outcome
    }
}

/// Why the drain has begun before the node has started: a task has failed, or the parent process has asked for it.
fn drained_early(shutdown: &Shutdown) -> StartError {
    if shutdown.has_failed() { StartError::Failed } else { stopped_by("its parent process") }
}

/// What comes of a wait for NATS, unless the node is stopped before.
async fn unless_stopped<T>(
    signals: &mut StopSignals,
    shutdown: &Shutdown,
    wait: impl Future<Output = T>,
) -> Result<T, StartError> {
    tokio::select! {
        biased;
        cause = signals.next() => Err(stopped_by(cause)),
        () = shutdown.drain().cancelled() => Err(drained_early(shutdown)),
        done = wait => Ok(done),
    }
}

/// It has no clients and no partitions yet, so there is nothing to drain.
fn stopped_by(cause: &'static str) -> StartError {
    info!(cause, "stopped before the node has started");
    StartError::Stopped { cause }
}

/// Fails if the node is denied a permission soon after its start. Later one is only logged: somebody is editing the
/// permissions of a cluster that works, and nodes that end would make that worse.
async fn watch_permissions(nats: Nats, drain: CancellationToken) -> Result<(), NatsError> {
    tokio::select! {
        () = drain.cancelled() => Ok(()),
        () = sleep(STARTING) => Ok(()),
        denied = nats.denied() => Err(denied),
    }
}

/// Sets the readiness check of the connection.
async fn watch_connection(nats: Nats, check: Check, drain: CancellationToken) {
    let mut connected = nats.connected();
    loop {
        connected.mark_unchanged();
        let most = nats.client.max_payload();
        if nats.is_connected() && most < LEAST_PAYLOAD {
            // Another server of the cluster may have another configuration than the first one.
            check.missing(format!(
                "NATS takes messages of {most} bytes only: set max_payload to {LEAST_PAYLOAD} or more"
            ));
        } else if nats.is_connected() {
            check.ok();
        } else {
            check.missing("no connection to NATS; it is being tried again");
        }
        tokio::select! {
            () = drain.cancelled() => return,
            changed = connected.changed() => if changed.is_err() { return },
        }
    }
}
