//! A cluster on hosts of its own: three nats-servers, routers, gateways, and HAProxy with `deploy/haproxy` in front of
//! them. Its nodes have the default configuration, but for addresses, names, copies, secrets, and what names the
//! balancer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tickwire_testkit::{Authority, Process};

use super::super::balancers::dns::Dns;
use super::super::tools::debian;
use super::hosts::{self, HERE, Host};
use super::servers::{SERVERS, Servers};
use crate::cluster::{Home, OWNED, PARTITIONS, SECRET};
use crate::node::{NodeMetrics, TestNode, get, tickwire};

/// The DNS name of all gateways, and what follows the name of one.
const ALL: &str = "gateways.test";
const SUFFIX: &str = ".gateways.test";

const CLIENTS_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9090;
const BALANCER_METRICS_PORT: u16 = 8405;

/// The cluster. Its nodes end before their servers.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) routers: Vec<TestNode>,
    pub(super) gateways: Vec<TestNode>,
    /// Nodes that were asked to end, and have not ended yet.
    leaving: Vec<TestNode>,
    balancer: Option<Balancer>,
    pub(super) servers: Servers,
    dns: Dns,
    hosts: BTreeMap<String, Host>,
    home: Home,
}

/// HAProxy on its host.
#[derive(Debug)]
struct Balancer {
    host: Host,
    authority: Authority,
    process: Process,
}

/// A gateway at one moment.
#[derive(Debug, Clone)]
pub(super) struct GatewayState {
    pub(super) name: String,
    pub(super) sessions: f64,
    /// How many WebSockets it has opened.
    pub(super) opened: f64,
    /// How many events it has written to sockets.
    pub(super) deliveries: f64,
}

impl Site {
    /// Starts the servers and perhaps HAProxy, and makes the hosts of so many routers and gateways.
    pub(super) async fn start(most_routers: u8, most_gateways: u8, is_balanced: bool) -> Self {
        hosts::connect();
        let home = Home(TempDir::with_prefix("tickwire-scale-").unwrap());
        let names: Vec<String> = (1..=most_gateways).map(|number| format!("gateway-{number}")).collect();
        let servers = Servers::start(home.0.path(), &names).await;
        let dns = Dns::start_at(HERE).await;
        let mut hosts = BTreeMap::new();
        for (role, network, most) in [("router", 2, most_routers), ("gateway", 3, most_gateways)] {
            for number in 1..=most {
                let host = Host::create(&format!("{role}-{number}"), Ipv4Addr::new(10, 77, network, number));
                dns.set(&format!("{}{SUFFIX}", host.name), &[host.address]);
                hosts.insert(host.name.clone(), host);
            }
        }
        let balancer = is_balanced.then(|| Balancer::start(home.0.path(), dns.address));
        let (routers, gateways, leaving) = (Vec::new(), Vec::new(), Vec::new());
        Self { routers, gateways, leaving, balancer, servers, dns, hosts, home }
    }

    /// The folder for files of the run.
    pub(super) fn home(&self) -> &Path {
        self.home.0.path()
    }

    /// Starts or stops routers, until there are so many.
    pub(super) fn scale_routers(&mut self, count: usize) {
        while self.routers.len() < count {
            let node = self.launch("router", &format!("router-{}", self.routers.len() + 1));
            self.routers.push(node);
        }
        let ending = self.routers.split_off(count);
        self.end(ending);
    }

    /// The same with gateways.
    pub(super) fn scale_gateways(&mut self, count: usize) {
        while self.gateways.len() < count {
            let node = self.launch("gateway", &format!("gateway-{}", self.gateways.len() + 1));
            self.gateways.push(node);
        }
        let ending = self.gateways.split_off(count);
        self.end(ending);
        self.announce();
    }

    /// Asks one gateway or router to end. [`Self::start_again`] starts it.
    pub(super) fn take_down(&mut self, role: &str, at: usize) -> String {
        let node = if role == "router" { self.routers.remove(at) } else { self.gateways.remove(at) };
        let name = node.id.clone();
        self.end(vec![node]);
        name
    }

    /// Starts a node under its name again.
    pub(super) fn start_again(&mut self, role: &str, at: usize, name: &str) {
        let node = self.launch(role, name);
        let nodes = if role == "router" { &mut self.routers } else { &mut self.gateways };
        nodes.insert(at, node);
        self.announce();
    }

    fn end(&mut self, nodes: Vec<TestNode>) {
        nodes.iter().for_each(|node| node.process.terminate());
        self.leaving.extend(nodes);
    }

    /// Whether all nodes that were asked to end have ended. DNS does not name them any more then.
    pub(super) fn have_ended(&mut self) -> bool {
        let before = self.leaving.len();
        self.leaving.retain_mut(|node| match node.process.exit() {
            Some(status) => {
                assert!(status.success(), "{} has ended with {status}: {}", node.id, node.process.stderr());
                false
            }
            None => true,
        });
        if self.leaving.len() < before {
            self.announce();
        }
        self.leaving.is_empty()
    }

    /// Lets DNS name the gateways that run.
    fn announce(&self) {
        let running = self.gateways.iter().chain(&self.leaving).map(|node| &self.hosts[&node.id]);
        let gateways = running.filter(|host| host.name.starts_with("gateway")).map(|host| host.address);
        self.dns.set(ALL, &gateways.collect::<Vec<_>>());
    }

    fn launch(&self, role: &str, name: &str) -> TestNode {
        let address = self.hosts[name].address;
        let user = if role == "router" { role.to_owned() } else { format!("gateway-{name}") };
        let mut settings = self.servers.login(&user).to_vec();
        settings.push(("stream.replicas", SERVERS.to_string()));
        settings.push(("auth.jwt_secret", SECRET.to_owned()));
        settings.push(("admin.listen", format!("{address}:{ADMIN_PORT}")));
        settings.push(("gateway.listen", format!("{address}:{CLIENTS_PORT}")));
        if let Some(balancer) = &self.balancer {
            let front = balancer.host.address;
            settings.push(("gateway.trusted_proxies", format!("{front}/32")));
            settings.push(("gateway.connect_url", format!("wss://{front}/g/{{gateway}}/v1/stream")));
        }
        let settings: Vec<_> = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        TestNode::start_by(self.hosts[name].run(&tickwire()), role, name, self.home(), &settings)
    }

    /// Where clients connect, and with which flags of `tickwire bench attach`.
    pub(super) fn client_arguments(&self) -> Vec<String> {
        let secret = self.home().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let mut arguments = vec!["--jwt-secret-file".to_owned(), secret.to_str().unwrap().to_owned()];
        match &self.balancer {
            Some(balancer) => {
                let authority = balancer.authority.file();
                arguments.extend(["--url".to_owned(), format!("wss://{}", balancer.host.address)]);
                arguments.extend(["--ca".to_owned(), authority.to_str().unwrap().to_owned(), "--home".to_owned()]);
            }
            None => {
                for gateway in &self.gateways {
                    let address = self.hosts[&gateway.id].address;
                    arguments.extend(["--url".to_owned(), format!("ws://{address}:{CLIENTS_PORT}")]);
                }
            }
        }
        arguments
    }

    /// What `/metrics` of a node answers now; nothing while it does not listen.
    async fn metrics(&self, node: &TestNode) -> NodeMetrics {
        let (status, text) = get(SocketAddr::from((self.hosts[&node.id].address, ADMIN_PORT)), "/metrics").await;
        NodeMetrics::read(if status == 200 { &text } else { "" })
    }

    /// The state of each gateway that was not asked to end.
    pub(super) async fn gateway_states(&self) -> Vec<GatewayState> {
        let mut states = Vec::new();
        for gateway in &self.gateways {
            let metrics = self.metrics(gateway).await;
            let asked = metrics.get("tickwire_gateway_connections_total");
            states.push(GatewayState {
                name: gateway.id.clone(),
                sessions: metrics.get("tickwire_gateway_sessions"),
                opened: asked - metrics.get("tickwire_gateway_refused_upgrades_total"),
                deliveries: metrics.get("tickwire_gateway_deliveries_total"),
            });
        }
        states
    }

    /// Whether every node is ready, every partition has an owner, and HAProxy uses every gateway.
    pub(super) async fn is_ready(&mut self) -> bool {
        let mut owned = 0.0;
        for router in &self.routers {
            owned += self.metrics(router).await.get(OWNED);
        }
        if owned != f64::from(PARTITIONS) {
            return false;
        }
        for node in self.routers.iter_mut().chain(&mut self.gateways) {
            assert_eq!(node.process.exit(), None, "{} has ended: {}", node.id, node.process.stderr());
            let admin = SocketAddr::from((self.hosts[&node.id].address, ADMIN_PORT));
            if get(admin, "/readyz").await.0 != 200 {
                return false;
            }
        }
        match &mut self.balancer {
            Some(balancer) => {
                assert_eq!(balancer.process.exit(), None, "HAProxy has ended: {}", balancer.process.stderr());
                balancer.usable().await == self.gateways.len()
            }
            None => true,
        }
    }
}

impl Balancer {
    fn start(home: &Path, dns: SocketAddr) -> Self {
        let host = Host::create("haproxy", Ipv4Addr::new(10, 77, 0, 2));
        let (authority, certificate) = (Authority::new(), home.join("tls.pem"));
        authority.write_certificate(&[&host.address.to_string()], &certificate);
        let mut haproxy = Command::new(debian("/usr/sbin/haproxy"));
        haproxy.arg("-W").arg("-f").arg(deployed());
        haproxy.env("LB_CERTIFICATE", &certificate);
        haproxy.env("LB_METRICS_LISTEN", format!("{}:{BALANCER_METRICS_PORT}", host.address));
        haproxy.env("LB_GATEWAYS", ALL).env("LB_GATEWAY_SUFFIX", SUFFIX).env("LB_DNS", dns.to_string());
        let process = Process::start(&host.name, home, &mut host.run(&haproxy));
        Self { host, authority, process }
    }

    /// How many gateways it uses.
    async fn usable(&self) -> usize {
        let (_, metrics) = get(SocketAddr::from((self.host.address, BALANCER_METRICS_PORT)), "/metrics").await;
        let is_up = |line: &&str| {
            line.starts_with("haproxy_server_status{proxy=\"gateways\",") && line.ends_with("state=\"UP\"} 1")
        };
        metrics.lines().filter(is_up).count()
    }
}

fn deployed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy/haproxy.cfg")
}
