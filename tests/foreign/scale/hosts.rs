//! Hosts with addresses of their own: a network namespace each, joined by a bridge. `tools/scale-test` gives the test a
//! network and names of its own, in which it makes them, and which end with it.

use std::net::Ipv4Addr;
use std::process::Command;

use super::super::tools::debian;

/// The bridge, at which this test itself is reached.
const BRIDGE: &str = "bridge";
pub(super) const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
}

/// Makes the bridge.
///
/// # Panics
/// If the network is not of this test alone.
pub(super) fn connect() {
    let is_own = std::env::var("TICKWIRE_SCALE").is_ok();
    assert!(is_own, "this test changes the network of its machine: run it by `make scale-test`, as root");
    ip("link set lo up");
    ip(&format!("link add {BRIDGE} type bridge"));
    ip(&format!("addr add {HERE}/16 dev {BRIDGE}"));
    ip(&format!("link set {BRIDGE} up"));
}

impl Host {
    /// Makes a host with this name, of at most 15 letters, and this address in the network of [`HERE`].
    pub(super) fn create(name: &str, address: Ipv4Addr) -> Self {
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
        ip(&format!("link set {name} master {BRIDGE} up"));
        ip(&format!("-n {name} addr add {address}/16 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} link set lo up"));
        Self { name: name.to_owned(), address }
    }

    /// The same command on this host. `ip` becomes the program, so that the process has its id.
    pub(super) fn run(&self, command: &Command) -> Command {
        let mut here = Command::new(debian("/usr/sbin/ip"));
        here.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => here.env(name, value),
                None => here.env_remove(name),
            };
        }
        here
    }
}

fn ip(arguments: &str) {
    let output = Command::new(debian("/usr/sbin/ip")).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
