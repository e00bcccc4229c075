//! `tickwire dev`: a whole cluster on this machine, with events in it: one nats-server, two routers, two gateways, each
//! its own process, and a replay of real prices in this one.

use clap::Args;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tickwire_node::config::ConfigError;
use tickwire_node::nats::{Nats, NatsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cli::NatsArgs;
use crate::progress::Progress;
use crate::replay::{FeedError, FeedPace, replay};
use crate::stop;
use cluster::{Death, DevCluster};
use server::DevServerError;

mod cluster;
pub(crate) mod server;

/// How long the nodes may take to be ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);

const ROUTERS: [&str; 2] = ["router-1", "router-2"];
const GATEWAYS: [&str; 2] = ["gateway-1", "gateway-2"];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tickwire dev
  tickwire dev --port 9000 --speed 200
  tickwire dev --dir .dev                            keep the stream for the next time")]
pub(crate) struct DevArgs {
    /// The port of the first gateway; the second one takes the next
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65534))]
    port: u16,
    #[command(flatten)]
    pace: FeedPace,
    /// Where to keep what NATS stores [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

/// Why the cluster is not there, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] DevServerError),
    #[error("port {port} cannot be used: {source}; choose another by --port (it and the next one are needed)")]
    Port { port: u16, source: io::Error },
    #[error("{}: cannot be used: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{name} cannot be started: {source}")]
    Start { name: &'static str, source: io::Error },
    #[error("{name} is not ready after {READY_DEADLINE:?}: {said}")]
    NotReady { name: &'static str, said: String },
    #[error(transparent)]
    Died(#[from] Death),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("the replay has ended: {0}")]
    Replay(#[from] FeedError),
    #[error("signals cannot be listened for: {0}")]
    Signals(io::Error),
}

impl DevArgs {
    /// Runs the cluster until told to stop, or until a part of it ends.
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
        // The guard outlives us if we are killed, and then nobody else removes the folder.
        guard.extend(temporary.iter().flat_map(|folder| ["--remove".into(), folder.path().as_os_str().to_owned()]));
        guard.extend(["--".into(), server.into_os_string()]);
        guard.extend(server::arguments(&home)?.into_iter().map(OsString::from));
        let screen = Arc::new(Progress::endless());
        let mut cluster = DevCluster::new(screen.clone());
        let ended = self.run_in(&home, guard, &mut cluster, &screen, &stop).await;
        let why = if ended.is_ok() { "stopping" } else { "stopping, since something has failed" };
        screen.say(why);
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
        let Some(nats_url) = unless_over(cluster, stop, server::address(home)).await? else { return Ok(()) };
        let nats_url = nats_url?;

        let mut listening = BTreeMap::new();
        for (stage, names) in [("router", ROUTERS), ("gateway", GATEWAYS)] {
            cluster.next_stage();
            for (name, port) in names.into_iter().zip(self.port..) {
                let ports_file = home.join(format!("{name}.json"));
                // One of an earlier run would tell where nobody listens.
                std::fs::remove_file(&ports_file).ok();
                let arguments = arguments_of(stage, name, &nats_url, &ports_file, port);
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
        let Some(admins) = unless_over(cluster, stop, ready).await? else { return Ok(()) };
        let welcome = self.welcome(&nats_url, &admins?);
        screen.say(&welcome);

        let mut config = NatsArgs::at(&nats_url).load()?.nats;
        config.connect_timeout = READY_DEADLINE;
        let nats = Nats::connect(&config, "replay", "dev").await?;
        tokio::select! {
            death = cluster.death() => Err(death.into()),
            ended = replay(&nats, &self.pace, None, stop, screen) => {
                ended?;
                Ok(nats.close().await?)
            }
        }
    }

    fn welcome(&self, nats_url: &str, admins: &BTreeMap<&str, SocketAddr>) -> String {
        let (port, other) = (self.port, self.port + 1);
        let metrics: String =
            admins.iter().map(|(name, admin)| format!("  {name:<12} http://{admin}/metrics\n")).collect();
        format!(
            "\n  page         http://127.0.0.1:{port}/\n  \
             WebSocket    ws://127.0.0.1:{port}/v1/stream?user=you and ws://127.0.0.1:{other}/v1/stream?user=you\n  \
             NATS         {nats_url}\n{metrics}\n  \
             Try in another terminal:\n    \
             tickwire watch --url ws://127.0.0.1:{port} --user you --min-confidence 0.7\n    \
             tickwire publish --nats {nats_url} --key AAPL --pattern BreakoutBO --confidence 0.9\n\n  \
             Ctrl-C stops everything.\n"
        )
    }
}

/// What a future gives, or `None` if told to stop before; an error if a process ends before.
async fn unless_over<T>(
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

/// Waits until a node says that it is ready; gives the address of its admin server.
pub(crate) async fn ready(name: &'static str, ports_file: &Path) -> Result<SocketAddr, DevError> {
    let end = Instant::now() + READY_DEADLINE;
    loop {
        let said = match admin_of(ports_file) {
            None => "it has not come up".to_owned(),
            Some(admin) => match get(admin, "/readyz").await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(admin),
                Ok(answer) => answer.lines().last().unwrap_or_default().to_owned(),
                Err(error) => error.to_string(),
            },
        };
        if Instant::now() >= end {
            return Err(DevError::NotReady { name, said });
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn admin_of(ports_file: &Path) -> Option<SocketAddr> {
    let listening: BTreeMap<String, SocketAddr> = serde_json::from_slice(&std::fs::read(ports_file).ok()?).ok()?;
    listening.get("admin").copied()
}

/// The whole answer to an HTTP request.
pub(crate) async fn get(server: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
