//! `tickwire dev`: starts a whole cluster, and leaves nothing behind after Ctrl-C.

use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tempfile::TempDir;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::{Process, eventually, free_address, is_running};
use tokio::sync::Mutex;

use crate::node::{get, tickwire_with};
use crate::socket::Socket;

/// How long seven processes may take to start or to stop.
const DEADLINE: Duration = Duration::from_secs(90);

/// Held while a cluster starts, since each cluster first looks for free ports and then uses them.
static STARTING: Mutex<()> = Mutex::const_new(());

/// A running development cluster.
#[derive(Debug)]
pub(crate) struct Dev {
    /// The command's process.
    pub(crate) process: Process,
    /// The first gateway; the second has the next port.
    pub(crate) gateway: SocketAddr,
    /// The URL of NATS.
    pub(crate) nats_url: String,
    home: TempDir,
}

impl Dev {
    /// Starts it, and waits until it prints its addresses.
    pub(crate) async fn start() -> Self {
        let _alone = STARTING.lock().await;
        loop {
            if let Some(dev) = Self::start_at(free_pair()).await {
                return dev;
            }
        }
    }

    /// The same at these ports; `None` if another process has taken one of them meanwhile.
    async fn start_at(gateway: SocketAddr) -> Option<Self> {
        let home = TempDir::with_prefix("tickwire-e2e-dev-").unwrap();
        // As many file descriptors as many systems give a process.
        let mut command = tickwire_with("-n 1024");
        command.args(["dev", "--port", &gateway.port().to_string(), "--speed", "500"]).env("TMPDIR", home.path());
        let mut process = Process::start("dev", home.path(), &mut command);
        let nats_url = eventually("the cluster prints the URL of NATS", DEADLINE, async || {
            if process.exit().is_some() {
                let errors = process.stderr();
                assert!(errors.contains("in use"), "it has ended: {errors}");
                return Some(None);
            }
            let output = process.stdout();
            let (_, rest) = output.split_once("NATS         ")?;
            let (url, _) = rest.split_once('\n')?;
            Some(Some(url.to_owned()))
        })
        .await?;
        Some(Self { process, gateway, nats_url, home })
    }

    /// The address of the admin server of a node, as it is printed.
    pub(crate) async fn admin(&self, node: &str) -> String {
        eventually(&format!("the cluster prints the address of {node}"), DEADLINE, async || {
            let output = self.process.stdout();
            let line = output.lines().find(|line| line.trim_start().starts_with(node) && line.ends_with("/metrics"))?;
            let (_, url) = line.split_once("http://")?;
            url.strip_suffix("/metrics").map(str::to_owned)
        })
        .await
    }
}

/// The first of two free ports in a row.
pub(crate) fn free_pair() -> SocketAddr {
    let is_followed = |first: &SocketAddr| TcpListener::bind((first.ip(), first.port() + 1)).is_ok();
    std::iter::repeat_with(free_address).take(100).find(is_followed).expect("two free ports in a row")
}

#[tokio::test]
async fn dev_runs_a_cluster_until_ctrl_c_and_leaves_nothing_behind() {
    let mut dev = Dev::start().await;
    for path in ["/", "/app.js", "/alerts.js", "/messages.js", "/page.js", "/table.js", "/style.css"] {
        let (status, text) = get(dev.gateway, path).await;
        assert_eq!((status, text.is_empty()), (200, false), "{path}");
    }
    let second = SocketAddr::new(dev.gateway.ip(), dev.gateway.port() + 1);
    for gateway in [dev.gateway, second] {
        let mut socket = Socket::connect(gateway, "you", Encoding::Json).await;
        socket.subscribe("all", &json!({ "kinds": ["pattern", "market"] })).await;
        socket.until(20).await;
        assert_eq!(socket.gaps, []);
    }

    let output = dev.process.stdout();
    let address = format!("tickwire watch --url ws://{}/v1/stream ", dev.gateway);
    assert!(output.contains(&address), "{output}");
    let noise: Vec<&str> = output.lines().filter(|line| line.contains("[INF]") || line.contains(" INFO ")).collect();
    assert!(noise.is_empty(), "{noise:?}");
    assert!(!output.contains("file descriptors"), "a limit of this machine is no warning: {output}");

    let family = dev.process.descendants();
    // Two routers, two gateways, and the nats-server with its guard.
    assert_eq!(family.len(), 6, "{family:?}");
    dev.process.interrupt();
    let status = dev.process.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}{}", dev.process.stdout(), dev.process.stderr());
    let left: Vec<u32> = family.into_iter().filter(|pid| is_running(*pid)).collect();
    assert!(left.is_empty(), "{left:?} still run");
    let files = fs::read_dir(dev.home.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(files.collect::<BTreeSet<_>>(), ["dev.err", "dev.out"].map(Into::into).into());
}

#[tokio::test]
async fn all_processes_end_when_dev_is_killed() {
    let mut dev = Dev::start().await;
    let family = dev.process.descendants();
    assert_eq!(family.len(), 6, "{family:?}");
    dev.process.kill();
    eventually("all processes have ended", DEADLINE, async || family.iter().all(|pid| !is_running(*pid)).then_some(()))
        .await;
}
