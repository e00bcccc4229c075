//! One process of the binary under test: a gateway or a router, with its own ports.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tickwire_node::metrics::samples;
use tickwire_testkit::{Process, eventually};

pub(crate) use tickwire_testkit::http::get;

use crate::cut::Line;

/// The deadline of any step that involves several processes, on a machine that is much slower than usual. It promises
/// nothing: a test waits as long as it must.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test, without configuration from the environment.
pub(crate) fn tickwire() -> Command {
    tickwire_at(Path::new(env!("CARGO_BIN_EXE_tickwire")))
}

/// The same with another binary, such as that of an earlier version.
fn tickwire_at(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TICKWIRE_") {
            command.env_remove(name);
        }
    }
    command
}

/// The same, after `ulimit` with these arguments.
pub(crate) fn tickwire_with(limit: &str) -> Command {
    let mut command = Command::new("sh");
    let limit = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &limit, env!("CARGO_BIN_EXE_tickwire")]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TICKWIRE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A node of a cluster.
#[derive(Debug)]
pub(crate) struct TestNode {
    /// Its name.
    pub(crate) id: String,
    /// Its process.
    pub(crate) process: Process,
    /// Its line to NATS, if it has one.
    pub(crate) line: Option<Line>,
    /// The line over which a gateway's clients connect, if there is one.
    pub(crate) door: Option<Line>,
    ports: PathBuf,
}

/// The metrics of a node at one moment.
#[derive(Debug)]
pub(crate) struct NodeMetrics(BTreeMap<String, f64>);

impl TestNode {
    /// Starts a node of `role`, with these settings beside its name and its ports.
    pub(crate) fn start(role: &str, id: &str, home: &Path, settings: &[(String, String)]) -> Self {
        Self::start_by(tickwire(), role, id, home, settings)
    }

    /// The same by another binary.
    pub(crate) fn start_at(binary: &Path, role: &str, id: &str, home: &Path, settings: &[(String, String)]) -> Self {
        Self::start_by(tickwire_at(binary), role, id, home, settings)
    }

    /// The same as [`start`](Self::start) with a time of day that is wrong by `offset`, such as `-1d`, by this library.
    /// The monotonic clock stays right: a clock that is set wrong still runs at the right speed.
    pub(crate) fn start_in(
        (library, offset): (&Path, &str),
        role: &str,
        id: &str,
        home: &Path,
        settings: &[(String, String)],
    ) -> Self {
        let mut command = tickwire();
        command.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Self::start_by(command, role, id, home, settings)
    }

    /// The same as [`start`](Self::start), after `ulimit` with these arguments.
    pub(crate) fn start_with(limit: &str, role: &str, id: &str, home: &Path, settings: &[(String, String)]) -> Self {
        Self::start_by(tickwire_with(limit), role, id, home, settings)
    }

    /// The same with this command, which ends in the path of the binary.
    pub(crate) fn start_by(
        mut command: Command,
        role: &str,
        id: &str,
        home: &Path,
        settings: &[(String, String)],
    ) -> Self {
        let ports = home.join(format!("{id}.json"));
        // An earlier node of this name had other ports.
        fs::remove_file(&ports).ok();
        command.arg(role);
        let own = [
            ("node.id", id),
            ("node.ports_file", ports.to_str().unwrap()),
            ("admin.listen", "127.0.0.1:0"),
            ("gateway.listen", "127.0.0.1:0"),
        ];
        for (key, value) in own {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let process = Process::start(id, home, &mut command);
        Self { id: id.to_owned(), process, line: None, door: None, ports }
    }

    /// The address under this name in the ports file, once the node listens.
    pub(crate) async fn address(&mut self, name: &str) -> SocketAddr {
        eventually(&format!("{} listens", self.id), DEADLINE, async || {
            assert_eq!(self.process.exit(), None, "{} has ended: {}", self.id, self.process.stderr());
            let ports: BTreeMap<String, SocketAddr> = serde_json::from_slice(&fs::read(&self.ports).ok()?).unwrap();
            Some(ports[name])
        })
        .await
    }

    /// The address for a gateway's clients.
    pub(crate) async fn gateway(&mut self) -> SocketAddr {
        self.address("gateway").await
    }

    /// The answer of `/readyz`: status and report.
    pub(crate) async fn readyz(&mut self) -> (u16, Value) {
        let (status, report) = get(self.address("admin").await, "/readyz").await;
        (status, serde_json::from_str(&report).unwrap())
    }

    /// The metrics as they are now.
    pub(crate) async fn metrics(&mut self) -> NodeMetrics {
        let (status, text) = get(self.address("admin").await, "/metrics").await;
        assert_eq!(status, 200);
        NodeMetrics::read(&text)
    }
}

impl NodeMetrics {
    /// Reads what `/metrics` answers.
    pub(crate) fn read(text: &str) -> Self {
        Self(samples(text).map(|sample| (sample.series.to_owned(), sample.value)).collect())
    }

    /// The sum of all series of this name, or 0 if there is none.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.get_labelled(name, "")
    }

    /// The sum of the series with this label, such as `event="connected"`.
    pub(crate) fn get_labelled(&self, name: &str, label: &str) -> f64 {
        let is_meant = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
        self.0.iter().filter(|(series, _)| is_meant(series)).map(|(_, value)| value).sum()
    }
}
