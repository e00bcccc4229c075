//! Three nats-servers with the configuration and the users of `deploy/nats`, each on a host of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tickwire_testkit::{NatsServer, Process, eventually};

use super::hosts::Host;
use crate::node::get;

/// The number of servers, each of which keeps a copy.
pub(super) const SERVERS: u8 = 3;

/// How long a server may take until it has all copies.
const HEALTHY: Duration = Duration::from_secs(30);

const CLIENTS_PORT: u16 = 4222;
const ROUTES_PORT: u16 = 6222;
const MONITORING_PORT: u16 = 8222;

/// The cluster of servers.
#[derive(Debug)]
pub(super) struct Servers {
    hosts: Vec<Host>,
    pub(super) processes: Vec<Process>,
    home: PathBuf,
}

impl Servers {
    /// Makes the users, one for each of these gateways, and starts the servers.
    pub(super) async fn start(home: &Path, gateways: &[String]) -> Self {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats");
        let copied = Command::new("cp").arg("-r").arg(shipped).arg(home.join("nats")).status().unwrap();
        assert!(copied.success(), "deploy/nats cannot be copied");
        let address = |number| Ipv4Addr::new(10, 77, 1, number);
        let hosts = (1..=SERVERS).map(|number| Host::create(&format!("nats-{number}"), address(number)));
        let hosts: Vec<Host> = hosts.collect();
        let routes: Vec<String> = hosts.iter().map(|host| format!("{}:{ROUTES_PORT}", host.address)).collect();
        let mut users = Command::new(home.join("nats/make-users"));
        users.args(["--routes", &routes.join(",")]);
        for name in gateways {
            users.args(["--gateway", name]);
        }
        assert!(users.status().unwrap().success(), "make-users has failed");
        let processes = hosts.iter().map(|host| launch(host, home)).collect();
        let servers = Self { hosts, processes, home: home.to_owned() };
        for number in 0..servers.hosts.len() {
            servers.healthy(number).await;
        }
        servers
    }

    /// The addresses, for `nats.url`.
    pub(super) fn url(&self) -> String {
        let urls = self.hosts.iter().map(|host| format!("nats://{}:{CLIENTS_PORT}", host.address));
        urls.collect::<Vec<_>>().join(",")
    }

    /// The settings with which a user logs in.
    pub(super) fn login(&self, user: &str) -> [(&'static str, String); 3] {
        let password = fs::read_to_string(self.home.join("nats/secrets").join(format!("{user}.password"))).unwrap();
        [("nats.url", self.url()), ("nats.user", user.to_owned()), ("nats.password", password)]
    }

    /// Asks a server to end (SIGTERM), and starts it again when it has ended.
    pub(super) async fn restart(&mut self, number: usize) {
        self.processes[number].terminate();
        self.processes[number].wait(HEALTHY).await;
        self.processes[number] = launch(&self.hosts[number], &self.home);
        self.healthy(number).await;
    }

    /// Waits until a server has all that it keeps, by its health check.
    async fn healthy(&self, number: usize) {
        let host = &self.hosts[number];
        eventually(&format!("{} is healthy", host.name), HEALTHY, async || {
            (get(SocketAddr::from((host.address, MONITORING_PORT)), "/healthz").await.0 == 200).then_some(())
        })
        .await;
    }
}

fn launch(host: &Host, home: &Path) -> Process {
    let mut server = Command::new(NatsServer::binary());
    server.arg("-c").arg(home.join("nats/nats.conf"));
    server.env("NATS_NAME", &host.name);
    server.env("NATS_LISTEN", format!("{}:{CLIENTS_PORT}", host.address));
    server.env("NATS_HTTP", format!("{}:{MONITORING_PORT}", host.address));
    server.env("NATS_STORE", home.join(format!("store-{}", host.name)));
    server.env("NATS_CLUSTER_NAME", "tickwire");
    server.env("NATS_CLUSTER_LISTEN", format!("{}:{ROUTES_PORT}", host.address));
    Process::start(&host.name, home, &mut host.run(&server))
}
