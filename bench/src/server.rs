//! The server under test: starts its processes, each on its own processor, reads their metrics, and stops them when the
//! bench ends.

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::cores::Cores;
use super::measure::{Usage, usage};
use tickwire_command::nats_server as nats;
use tickwire_command::ready::{NotReady, get, ready};
use tickwire_node::metrics::samples;
use tickwire_node::ports;

/// How long a process may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How long a node may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(20);

/// How long the bare server may take to print its address.
const BARE_DEADLINE: Duration = Duration::from_secs(10);

/// Descriptors that a process needs beside its sockets.
const OTHER_DESCRIPTORS: u64 = 300;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchServerError {
    #[error(transparent)]
    Nats(#[from] nats::NatsServerError),
    #[error("{name} cannot be started: {source}")]
    Start { name: &'static str, source: io::Error },
    #[error("{name} has ended by itself ({status}); the end of its log:\n{log_end}")]
    Died { name: &'static str, status: ExitStatus, log_end: String },
    #[error(transparent)]
    NotReady(Box<NotReady>),
    #[error("{name} does not report its address")]
    Silent { name: &'static str },
    #[error("{name} cannot be measured: {source}")]
    Measure { name: &'static str, source: io::Error },
    #[error(
        "{sockets} sockets need {needed} descriptors, and this process may have {limit}: raise the limit \
         (`ulimit -Hn`) or set fewer sockets by --sockets"
    )]
    Descriptors { sockets: u32, needed: u64, limit: u64 },
    #[error("a temporary folder cannot be used: {0}")]
    Folder(io::Error),
}

/// Raises the limit of descriptors for this number of sockets, for this process and those that it starts.
pub(crate) fn raise_descriptor_limit(sockets: u32) -> Result<(), BenchServerError> {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::from(sockets) + OTHER_DESCRIPTORS;
    let most = limit.maximum.unwrap_or(u64::MAX);
    let refused = BenchServerError::Descriptors { sockets, needed, limit: most };
    if most < needed {
        return Err(refused);
    }
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|_| refused)?;
    }
    Ok(())
}

/// A process that the bench started.
#[derive(Debug)]
struct ServerProcess {
    name: &'static str,
    child: Child,
    /// Held open for as long as the process should live.
    stdin: Option<ChildStdin>,
    log: PathBuf,
    /// Where its metrics are.
    admin: Option<SocketAddr>,
}

/// What is under test, and what it needs.
#[derive(Debug)]
pub(crate) struct BenchServer {
    home: TempDir,
    cores: Cores,
    processes: Vec<ServerProcess>,
    /// How many nodes were ever started.
    started: u32,
}

impl BenchServer {
    /// Nothing runs yet.
    pub(crate) fn new(cores: &Cores) -> Result<Self, BenchServerError> {
        let home = TempDir::with_prefix("tickwire-bench-").map_err(BenchServerError::Folder)?;
        Ok(Self { home, cores: cores.clone(), processes: Vec::new(), started: 0 })
    }

    /// Starts NATS, on the generator's side; returns its address.
    pub(crate) async fn start_nats(&mut self) -> Result<String, BenchServerError> {
        let server = nats::find().await?;
        let home = self.home.path().to_owned();
        let mut arguments = vec!["guard".to_owned(), "--".to_owned(), server.to_string_lossy().into_owned()];
        arguments.extend(nats::arguments(&home)?);
        let process = self.process("nats", &arguments, false)?;
        let (child, log) = (&mut process.child, process.log.clone());
        tokio::select! {
            address = nats::address(&home) => Ok(address?),
            status = child.wait() => Err(died("nats", status, &log)),
        }
    }

    /// Starts a node, on the server's side, and waits until it is ready. Returns the address named `listens`. There may
    /// be several of a role.
    pub(crate) async fn start_node(
        &mut self,
        role: &'static str,
        nats_url: &str,
        sets: &[String],
        listens: &'static str,
    ) -> Result<SocketAddr, BenchServerError> {
        self.started += 1;
        let number = self.started;
        let ports_file = self.home.path().join(format!("{role}-{number}.json"));
        let own = [
            format!("node.id=bench-{role}-{number}"),
            format!("node.ports_file={}", ports_file.display()),
            "node.shutdown_grace=1s".to_owned(),
            format!("nats.url={nats_url}"),
            "admin.listen=127.0.0.1:0".to_owned(),
            "log.format=pretty".to_owned(),
            "log.level=warn".to_owned(),
        ];
        let mut arguments = vec![role.to_owned(), "--stop-on-stdin-eof".to_owned()];
        arguments.extend(own.iter().chain(sets).flat_map(|set| ["--set".to_owned(), set.clone()]));
        let process = self.process(role, &arguments, true)?;
        let (child, log) = (&mut process.child, process.log.clone());
        tokio::select! {
            admin = ready(role, &ports_file) => {
                process.admin = Some(admin.map_err(|error| BenchServerError::NotReady(Box::new(error)))?);
            }
            status = child.wait() => return Err(died(role, status, &log)),
        }
        let listening = ports::read(&ports_file).unwrap_or_default();
        listening.get(listens).copied().ok_or(BenchServerError::Silent { name: role })
    }

    /// Starts the bare server, on the server's side; returns its address.
    pub(crate) async fn start_bare(&mut self) -> Result<SocketAddr, BenchServerError> {
        let process = self.process("bare", &["bench-bare".to_owned()], true)?;
        let silent = BenchServerError::Silent { name: "bare" };
        let Some(stdout) = process.child.stdout.take() else { return Err(silent) };
        let mut line = String::new();
        match timeout(BARE_DEADLINE, BufReader::new(stdout).read_line(&mut line)).await {
            Ok(Ok(_)) => line.trim().parse().map_err(|_| silent),
            _ => Err(silent),
        }
    }

    /// What the processes under test, and the generator, have cost so far, those of one name together. NATS is not
    /// included.
    pub(crate) fn usage(&self) -> Result<BTreeMap<&'static str, Usage>, BenchServerError> {
        let name = "generator";
        let own = usage(std::process::id()).map_err(|source| BenchServerError::Measure { name, source })?;
        let mut all = BTreeMap::from([(name, own)]);
        for ServerProcess { name, child, .. } in self.processes.iter().filter(|process| process.name != "nats") {
            let pid = child.id().ok_or_else(|| io::Error::other("it has ended"));
            let used = pid.and_then(usage).map_err(|source| BenchServerError::Measure { name, source })?;
            let sum: &mut Usage = all.entry(name).or_default();
            (sum.cpu, sum.rss) = (sum.cpu + used.cpu, sum.rss + used.rss);
        }
        Ok(all)
    }

    /// What NATS has cost so far. The process that we started only guards it.
    pub(crate) fn usage_of_nats(&self) -> Result<Usage, BenchServerError> {
        let name = "nats";
        let guard =
            self.of_name(name).find_map(|process| process.child.id()).ok_or(BenchServerError::Silent { name })?;
        let read = || {
            let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children"))?;
            let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
            usage(child.ok_or_else(|| io::Error::other("it has ended"))?)
        };
        read().map_err(|source| BenchServerError::Measure { name, source })
    }

    /// The metrics of each node of this name, in the order of their start.
    pub(crate) async fn metrics(&self, name: &'static str) -> Result<Vec<BTreeMap<String, f64>>, BenchServerError> {
        let mut metrics = Vec::new();
        for admin in self.of_name(name).filter_map(|process| process.admin) {
            let text = get(admin, "/metrics").await.map_err(|source| BenchServerError::Measure { name, source })?;
            metrics.push(by_name(&text));
        }
        Ok(metrics)
    }

    fn of_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ServerProcess> {
        self.processes.iter().filter(move |process| process.name == name)
    }

    /// Kills the oldest process of this name at once (SIGKILL), and removes it from the list.
    pub(crate) async fn kill(&mut self, name: &'static str) -> Result<(), BenchServerError> {
        let mut process = self.take(name)?;
        process.child.kill().await.map_err(|source| BenchServerError::Measure { name, source })
    }

    /// Sends the oldest process of this name SIGTERM.
    pub(crate) fn terminate(&self, name: &'static str) -> Result<(), BenchServerError> {
        let process = self.of_name(name).next().ok_or(BenchServerError::Silent { name })?;
        let pid = process.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let sent = pid.map_or(Ok(()), |pid| kill_process(pid, Signal::TERM));
        sent.map_err(|error| BenchServerError::Measure { name, source: error.into() })
    }

    /// Waits until the oldest process of this name has ended by itself, without a fault, and removes it from the
    /// list.
    pub(crate) async fn ended(&mut self, name: &'static str) -> Result<(), BenchServerError> {
        let mut process = self.take(name)?;
        match timeout(DRAIN, process.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => Err(died(name, status, &process.log)),
            Err(_) => Err(BenchServerError::Silent { name }),
        }
    }

    fn take(&mut self, name: &'static str) -> Result<ServerProcess, BenchServerError> {
        let of_name = self.processes.iter().enumerate().filter(|(_, process)| process.name == name);
        let at = of_name.map(|(at, _)| at).next().ok_or(BenchServerError::Silent { name })?;
        Ok(self.processes.remove(at))
    }

    /// Fails if a process has ended.
    pub(crate) fn check(&mut self) -> Result<(), BenchServerError> {
        for ServerProcess { name, child, log, .. } in &mut self.processes {
            if let Some(status) = child.try_wait().transpose() {
                return Err(died(name, status, log));
            }
        }
        Ok(())
    }

    /// Ends all processes, the last one first.
    pub(crate) async fn stop(mut self) {
        while let Some(mut process) = self.processes.pop() {
            // A node ends when its standard input does.
            drop(process.stdin.take());
            if let Some(pid) = process.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                kill_process(pid, Signal::TERM).ok();
            }
            if timeout(GRACE, process.child.wait()).await.is_err() {
                process.child.kill().await.ok();
            }
        }
    }

    fn process(
        &mut self,
        name: &'static str,
        arguments: &[String],
        under_test: bool,
    ) -> Result<&mut ServerProcess, BenchServerError> {
        let log = self.home.path().join(format!("{name}-{}.log", self.processes.len()));
        let start = || {
            let output = File::create(&log)?;
            let stdout = if name == "bare" { Stdio::piped() } else { output.try_clone()?.into() };
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(stdout)
                .stderr(output)
                .process_group(0)
                .spawn()
        };
        let child = if under_test { self.cores.as_server(start) } else { start() };
        let mut child = child.map_err(|source| BenchServerError::Start { name, source })?;
        let stdin = child.stdin.take();
        Ok(self.processes.push_mut(ServerProcess { name, child, stdin, log, admin: None }))
    }
}

fn died(name: &'static str, status: io::Result<ExitStatus>, log: &Path) -> BenchServerError {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let log_end = lines[lines.len().saturating_sub(10)..].join("\n");
    match status {
        Ok(status) => BenchServerError::Died { name, status, log_end },
        Err(source) => BenchServerError::Measure { name, source },
    }
}

/// Metrics by name: samples that differ in their labels alone are added up.
fn by_name(text: &str) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for sample in samples(text) {
        *metrics.entry(sample.name().to_owned()).or_default() += sample.value;
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_added_up_over_their_labels() {
        let text =
            "HTTP/1.1 200 OK\r\n\r\n# HELP a x\n# TYPE a counter\na{reason=\"x y\"} 2\na{reason=\"z\"} 3\nb 0.5\n";
        let metrics = by_name(text);
        assert_eq!((metrics["a"], metrics["b"]), (5.0, 0.5));
    }

    #[test]
    fn too_many_sockets_are_refused_with_what_they_need() {
        let refused = raise_descriptor_limit(u32::MAX);
        assert!(
            matches!(refused, Err(BenchServerError::Descriptors { needed, .. }) if needed == u64::from(u32::MAX) + 300)
        );
        assert!(raise_descriptor_limit(10).is_ok());
    }
}
