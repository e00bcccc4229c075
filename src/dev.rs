//! `tickwire dev`: runs a whole cluster with events on this machine. One nats-server, two routers and two gateways are
//! separate processes; a feed of real prices runs in this one.

use clap::Args;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::sync::Arc;
use tickwire_gateway::fitting_connections;
use tickwire_node::config::{ConfigError, LEAST_GATEWAY_CONNECTIONS};
use tickwire_node::descriptors;
use tickwire_node::nats::{Nats, NatsError};
use tokio_util::sync::CancellationToken;

use crate::feed::{FeedError, FeedPace, feed};
use cluster::{Death, DevCluster};
use tickwire_command::args::NatsArgs;
use tickwire_command::nats_server::{self as server, NatsServerError};
use tickwire_command::progress::Progress;
use tickwire_command::ready::{NotReady, READY_DEADLINE, ready};
use tickwire_command::stop;

mod cluster;

const ROUTERS: [&str; 2] = ["router-1", "router-2"];
const GATEWAYS: [&str; 2] = ["gateway-1", "gateway-2"];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire dev
  tickwire dev --port 9000 --speed 200
  tickwire dev --dir .dev                            keep the stream for the next time")]
pub(crate) struct DevArgs {
    /// The port of the first gateway; the second one uses the next
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65534))]
    port: u16,
    #[command(flatten)]
    pace: FeedPace,
    /// The folder for the data of NATS [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Print all that the nodes and nats-server log, not only warnings and errors
    #[arg(long)]
    verbose: bool,
}

/// Why the cluster did not start, or has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] NatsServerError),
    #[error("port {port} cannot be used: {source}; choose another with --port (it and the next one are needed)")]
    Port { port: u16, source: io::Error },
    #[error("{}: cannot be used: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{name} cannot be started: {source}")]
    Start { name: &'static str, source: io::Error },
    #[error(transparent)]
    NotReady(#[from] NotReady),
    #[error(transparent)]
    Died(#[from] Death),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("the feed has ended: {0}")]
    Feed(#[from] FeedError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

impl DevArgs {
    /// Runs the cluster until a signal stops it, or until one of its processes ends.
    pub(crate) async fn run(&self) -> Result<ExitCode, DevError> {
        let stop = stop::on_signal().map_err(DevError::Signals)?;
        let server = server::find().await?;
        for port in [self.port, self.port + 1] {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| DevError::Port { port, source })?;
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| DevError::Folder { path, source }
        };
        let (home, temporary) = match &self.dir {
            Some(path) => {
                std::fs::create_dir_all(path).map_err(failed(path))?;
                (absolute(path).map_err(failed(path))?, None)
            }
            None => {
                let folder = tempfile::TempDir::with_prefix("tickwire-dev-");
                let folder = folder.map_err(failed(&std::env::temp_dir()))?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let mut guard = vec!["guard".into()];
        // The guard outlives this process if that is killed, and then only the guard can remove the folder.
        guard.extend(temporary.iter().flat_map(|folder| ["--remove".into(), folder.path().as_os_str().to_owned()]));
        guard.extend(["--".into(), server.into_os_string()]);
        guard.extend(server::arguments(&home)?.into_iter().map(OsString::from));
        let screen = Arc::new(Progress::endless());
        let mut cluster = DevCluster::new(screen.clone(), self.verbose);
        let ended = self.run_in(&home, guard, &mut cluster, &screen, &stop).await;
        let why = if ended.is_ok() { "stopping" } else { "stopping after a failure" };
        screen.print(why);
        cluster.stop().await;
        ended.map(|()| ExitCode::SUCCESS)
    }

    async fn run_in(
        &self,
        home: &Path,
        guard: Vec<OsString>,
        cluster: &mut DevCluster,
        screen: &Progress,
        stop: &CancellationToken,
    ) -> Result<(), DevError> {
        cluster.start("nats", guard).map_err(|source| DevError::Start { name: "nats", source })?;
        let Some(nats_url) = while_running(cluster, stop, server::address(home)).await? else { return Ok(()) };
        let nats_url = nats_url?;

        let connections = connections_of_gateways(&nats_url)?;
        let mut listening = BTreeMap::new();
        for (stage, names) in [("router", ROUTERS), ("gateway", GATEWAYS)] {
            cluster.next_stage();
            for (name, port) in names.into_iter().zip(self.port..) {
                let ports_file = home.join(format!("{name}.json"));
                // The file of an earlier run has addresses where no process listens.
                std::fs::remove_file(&ports_file).ok();
                let mut arguments = arguments_of(stage, name, &nats_url, &ports_file, port);
                if stage == "gateway" {
                    arguments.extend(connections.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
                }
                if !self.verbose {
                    arguments.extend(["--set".to_owned(), "log.level=warn".to_owned()]);
                }
                cluster.start(name, arguments).map_err(|source| DevError::Start { name, source })?;
                listening.insert(name, ports_file);
            }
        }
        let ready = async {
            let mut admins = BTreeMap::new();
            for (name, ports_file) in &listening {
                admins.insert(*name, ready(name, ports_file).await?);
            }
            Ok::<_, DevError>(admins)
        };
        let Some(admins) = while_running(cluster, stop, ready).await? else { return Ok(()) };
        let welcome = self.welcome(&nats_url, &admins?);
        screen.print(&welcome);
        if let Some(advice) = server::other_port(&nats_url) {
            screen.print(&format!("  {advice}\n"));
        }

        let mut config = NatsArgs::at(&nats_url).load()?.nats;
        config.connect_timeout = READY_DEADLINE;
        let nats = Nats::connect(&config, "feed", "dev").await?;
        tokio::select! {
            death = cluster.death() => Err(death.into()),
            ended = feed(&nats, &self.pace, None, stop, screen) => {
                ended?;
                Ok(nats.close().await?)
            }
        }
    }

    fn welcome(&self, nats_url: &str, admins: &BTreeMap<&str, SocketAddr>) -> String {
        let (port, other) = (self.port, self.port + 1);
        let metrics: String =
            admins.iter().map(|(name, admin)| format!("  {name:<12} http://{admin}/metrics\n")).collect();
        let top: String =
            admins.values().take(1).map(|admin| format!("    tickwire top --admin http://{admin}\n")).collect();
        format!(
            "\n  page         http://127.0.0.1:{port}/\n  \
             WebSocket    ws://127.0.0.1:{port}/v1/stream?user=you and ws://127.0.0.1:{other}/v1/stream?user=you\n  \
             NATS         {nats_url}\n{metrics}\n  \
             Try in another terminal:\n    \
             tickwire watch --url ws://127.0.0.1:{port}/v1/stream --user you --min-confidence 0.7\n    \
             tickwire publish --nats {nats_url} --key AAPL --pattern BreakoutBO --confidence 0.9\n\
             {top}\n  \
             Ctrl-C stops everything.\n"
        )
    }
}

/// Runs a future. Returns its output, `None` if a signal stops it before, or an error if a process ends before.
async fn while_running<T>(
    cluster: &mut DevCluster,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<Option<T>, Death> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        death = cluster.death() => Err(death),
        done = work => Ok(Some(done)),
    }
}

/// The settings by which a gateway expects no more connections than the system lets a process have. Without them it
/// would warn, and on the machine of a developer a low limit is usual.
fn connections_of_gateways(nats_url: &str) -> Result<Vec<String>, ConfigError> {
    let config = NatsArgs::at(nats_url).load()?;
    let fitting = fitting_connections(&config, descriptors::raise());
    let set = |(sessions, connections): (usize, usize)| {
        let connections = (connections as u64).max(LEAST_GATEWAY_CONNECTIONS);
        vec![format!("gateway.max_sessions={sessions}"), format!("gateway.max_connections={connections}")]
    };
    Ok(fitting.map(set).unwrap_or_default())
}

fn arguments_of(role: &str, name: &str, nats_url: &str, ports_file: &Path, port: u16) -> Vec<String> {
    let mut keys = vec![
        ("node.id", name.to_owned()),
        ("node.ports_file", ports_file.to_string_lossy().into_owned()),
        ("node.shutdown_grace", "5s".to_owned()),
        ("gateway.drain_window", "500ms".to_owned()),
        ("nats.url", nats_url.to_owned()),
        ("admin.listen", "127.0.0.1:0".to_owned()),
        ("log.format", "pretty".to_owned()),
    ];
    if role == "gateway" {
        keys.push(("auth.mode", "dev".to_owned()));
        keys.push(("gateway.listen", format!("127.0.0.1:{port}")));
    }
    let sets = keys.into_iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]);
    [role.to_owned(), "--stop-on-stdin-eof".to_owned()].into_iter().chain(sets).collect()
}
