//! Debian's nginx with the configuration of `docs/balancers.md`, and its HAProxy with that of `deploy/haproxy`. Only
//! addresses and paths differ.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tickwire_testkit::{Process, free_address, free_addresses, free_ports};

use super::dns::Dns;
use crate::foreign::document::files;
use crate::foreign::tools::debian;
use crate::node::get;

/// The addresses of the gateways in the document.
const EXAMPLES: [&str; 2] = ["10.0.0.1:8080", "10.0.0.2:8080"];

/// The DNS name of all gateways, and what follows the name of one.
pub(super) const ALL: &str = "all.test";
pub(super) const SUFFIX: &str = ".gateways.test";

/// The settings of gateways behind a balancer.
pub(super) const BEHIND: (&str, &str) = ("gateway.trusted_proxies", "127.0.0.1/32");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Nginx,
    Haproxy,
}

impl Sort {
    /// Its configuration.
    pub(super) fn configuration(self) -> String {
        match self {
            Self::Nginx => files("balancers.md").remove("nginx.conf").unwrap(),
            Self::Haproxy => fs::read_to_string(deployed()).unwrap(),
        }
    }

    /// The limits by which it ends connections that are quiet, in seconds.
    pub(super) fn limits(self) -> Vec<u64> {
        let of_quiet = match self {
            Self::Nginx => ["proxy_read_timeout ", "proxy_send_timeout "].as_slice(),
            Self::Haproxy => ["timeout client ", "timeout server ", "timeout tunnel "].as_slice(),
        };
        let text = self.configuration();
        let lines = text.lines().filter_map(|line| {
            let value = of_quiet.iter().find_map(|name| line.trim().strip_prefix(name))?;
            Some(value.trim().trim_end_matches(';').strip_suffix('s').unwrap().parse().unwrap())
        });
        let limits: Vec<u64> = lines.collect();
        assert_eq!(limits.len(), of_quiet.len(), "{self:?}");
        limits
    }
}

fn deployed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy/haproxy.cfg")
}

/// The gateways as a balancer finds them: they differ by their addresses, not by their ports.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) port: u16,
    pub(super) admin_port: u16,
}

impl Site {
    /// A place for so many gateways, on loopback, with ports that are free now.
    pub(super) fn of(gateways: u8) -> Self {
        let addresses: Vec<_> = (0..gateways).map(|number| Ipv4Addr::new(127, 0, 0, 2 + number)).collect();
        let all: Vec<_> = addresses.iter().copied().map(IpAddr::V4).collect();
        let ports = free_ports(2, &all);
        Self { addresses, port: ports[0], admin_port: ports[1] }
    }

    /// The settings of the gateway with this number.
    pub(super) fn settings(&self, number: usize) -> [(&'static str, String); 2] {
        let address = self.addresses[number];
        let admin = format!("{address}:{}", self.admin_port);
        [("gateway.listen", format!("{address}:{}", self.port)), ("admin.listen", admin)]
    }
}

/// A running balancer.
pub(super) struct Balancer {
    /// Where clients connect, without TLS unless HAProxy has a certificate.
    pub(super) address: SocketAddr,
    /// The port of HAProxy without TLS, if it has a certificate, and that of its metrics.
    pub(super) plain: SocketAddr,
    pub(super) metrics: SocketAddr,
    pub(super) process: Process,
    log: Option<PathBuf>,
}

impl Balancer {
    /// Starts a balancer without TLS.
    pub(super) fn start(sort: Sort, home: &Path, site: &Site, dns: &Dns) -> Self {
        match sort {
            Sort::Nginx => Self::nginx(home, site),
            Sort::Haproxy => Self::haproxy(home, site, dns, &[("LB_PLAIN", "serve")]),
        }
    }

    fn nginx(home: &Path, site: &Site) -> Self {
        let (address, log) = (free_address(), home.join("clients.log"));
        let mut text = Sort::Nginx.configuration();
        let mut change = |what: &str, by: &str| {
            assert!(text.contains(what), "the document does not say {what:?}");
            text = text.replace(what, by);
        };
        for (gateway, example) in site.addresses.iter().zip(EXAMPLES) {
            change(example, &format!("{gateway}:{}", site.port));
        }
        change("listen 80;", &format!("listen {address};"));
        change("/var/log/nginx/clients.log", log.to_str().unwrap());
        // Debian's default folders for these belong to root and to the packaged service.
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|of| format!("{of}_temp_path {};\n", home.join(of).display()));
        change("http {\n", &format!("http {{\n{}", temporary.concat()));
        let file = home.join("balancer.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(debian("/usr/sbin/nginx"));
        command.arg("-c").arg(&file).args(["-e", "stderr", "-g"]);
        command.arg(format!("daemon off; pid {};", home.join("pid").display()));
        let process = Process::start("balancer", home, &mut command);
        Self { address, plain: address, metrics: address, process, log: Some(log) }
    }

    /// Starts HAProxy with this environment beside its addresses.
    pub(super) fn haproxy(home: &Path, site: &Site, dns: &Dns, further: &[(&str, &str)]) -> Self {
        let free = free_addresses(3);
        let (secure, plain, metrics) = (free[0], free[1], free[2]);
        let mut command = Command::new(debian("/usr/sbin/haproxy"));
        command.arg("-W").arg("-f").arg(deployed()).env_clear();
        let own = [
            ("LB_LISTEN", secure.to_string()),
            ("LB_PLAIN_LISTEN", plain.to_string()),
            ("LB_METRICS_LISTEN", metrics.to_string()),
            ("LB_GATEWAYS", ALL.to_owned()),
            ("LB_GATEWAY_SUFFIX", SUFFIX.to_owned()),
            ("LB_GATEWAY_PORT", site.port.to_string()),
            ("LB_ADMIN_PORT", site.admin_port.to_string()),
            ("LB_DNS", dns.address.to_string()),
        ];
        command.envs(own).envs(further.iter().copied());
        let address = if further.contains(&("LB_PLAIN", "serve")) { plain } else { secure };
        let process = Process::start("balancer", home, &mut command);
        Self { address, plain, metrics, process, log: None }
    }

    /// What it has logged of requests.
    pub(super) fn log(&self) -> String {
        match &self.log {
            Some(log) => fs::read_to_string(log).unwrap(),
            None => self.process.stdout(),
        }
    }

    /// How many gateways HAProxy uses of this backend.
    pub(super) async fn usable(&self, backend: &str) -> usize {
        let (_, metrics) = get(self.metrics, "/metrics").await;
        let begins = format!("haproxy_server_status{{proxy=\"{backend}\",");
        metrics.lines().filter(|line| line.starts_with(&begins) && line.ends_with("state=\"UP\"} 1")).count()
    }
}
