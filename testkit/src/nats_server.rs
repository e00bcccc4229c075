//! A real nats-server for one test, with its own port and store. It is killed and waited for when dropped.

use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};
use tempfile::TempDir;

use crate::ports::free_addresses;
use crate::process::wait_until_stopped;

/// The longest time to start before the test fails.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running nats-server, owned by the test that started it.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    home: TempDir,
    store: PathBuf,
    flags: Vec<String>,
    port: u16,
    /// Whether its configuration takes the folder of the store from the environment.
    by_environment: bool,
}

/// How a server learns of its store.
#[derive(Debug, Clone, Copy)]
enum StoreSetting<'s> {
    Flag(&'s Path),
    Environment(&'s Path),
}

impl NatsServer {
    /// Starts a server with JetStream on a free port of the loopback address.
    pub fn start() -> Self {
        Self::start_with(&["-js"])
    }

    /// Starts a server on a free port of the loopback address with these flags. JetStream needs the flag `-js`.
    pub fn start_with(flags: &[&str]) -> Self {
        let home = TempDir::with_prefix("tickwire-nats-").expect("a temporary folder for nats-server");
        let store = home.path().join("store");
        Self::launched(home, store, flags)
    }

    /// Starts a server on a free port of the loopback address with these flags and this store folder.
    pub fn start_on(store: &Path, flags: &[&str]) -> Self {
        let home = TempDir::with_prefix("tickwire-nats-").expect("a temporary folder for nats-server");
        Self::launched(home, store.to_owned(), flags)
    }

    fn launched(home: TempDir, store: PathBuf, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let (child, port) = launch(home.path(), StoreSetting::Flag(&store), &flags, -1);
        Self { child, home, store, flags, port, by_environment: false }
    }

    /// Starts a server with the configuration `deploy/nats/single.conf` or a copy of it, which takes names and
    /// addresses from the environment.
    pub fn start_configured(config: &Path) -> Self {
        let home = TempDir::with_prefix("tickwire-nats-").expect("a temporary folder for nats-server");
        let store = home.path().join("store");
        let flags = vec!["-c".to_owned(), config.to_str().expect("a path in UTF-8").to_owned()];
        let (child, port) = launch(home.path(), StoreSetting::Environment(&store), &flags, -1);
        Self { child, home, store, flags, port, by_environment: true }
    }

    /// Starts a cluster of servers with JetStream. Their names are `n-0`, `n-1` and so on.
    pub fn start_cluster(count: usize) -> Vec<Self> {
        let known = free_addresses(count);
        let all: Vec<String> = known.iter().map(|address| format!("nats://{address}")).collect();
        let all = all.join(",");
        known.iter().enumerate().map(|(number, own)| Self::start_routed(number, *own, &all, &[])).collect()
    }

    /// The same, but `route(from, to, address)` gives the address by which server `from` reaches server `to`, which
    /// listens at `address`. The servers have no other route to each other.
    pub fn start_cluster_by(count: usize, mut route: impl FnMut(usize, usize, SocketAddr) -> SocketAddr) -> Vec<Self> {
        let known = free_addresses(count);
        let start = |(number, own): (usize, &SocketAddr)| {
            let others = known.iter().enumerate().filter(|(other, _)| *other != number);
            let routes = others.map(|(other, address)| format!("nats://{}", route(number, other, *address)));
            let routes: Vec<String> = routes.collect();
            // Servers advertise an address to each other. Nothing listens at this one, so only `route` counts.
            Self::start_routed(number, *own, &routes.join(","), &["--cluster_advertise", "127.0.0.1:1"])
        };
        known.iter().enumerate().map(start).collect()
    }

    fn start_routed(number: usize, own: SocketAddr, routes: &str, further: &[&str]) -> Self {
        let (name, own) = (format!("n-{number}"), format!("nats://{own}"));
        let flags = ["-js", "-n", &name, "--cluster_name", "c", "--cluster", &own, "--routes", routes];
        Self::start_with(&[&flags, further].concat())
    }

    /// The program: the variable `NATS_SERVER`, else PATH, else the repository's tools.
    ///
    /// # Panics
    /// If there is none.
    pub fn binary() -> PathBuf {
        find_binary()
    }

    /// The address for clients, such as `nats://127.0.0.1:41235`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The process id, for tests that send signals.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the server (SIGKILL) and waits for its end. Its store stays.
    pub fn kill(&mut self) {
        // `kill` fails only if the server has ended already.
        self.child.kill().ok();
        self.child.wait().expect("nats-server can be waited for");
    }

    /// Asks the server to end (SIGTERM) and waits for it. Its store stays.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.child.wait().expect("nats-server can be waited for");
    }

    /// Lets the server read its configuration file again (SIGHUP).
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Suspends the server (SIGSTOP). Returns when none of its threads runs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until_stopped(self.pid());
    }

    /// Resumes a suspended server (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a running server can be signalled");
    }

    /// Kills the server, and returns a copy of its store.
    pub fn kill_and_save(&mut self) -> TempDir {
        self.kill();
        let saved = TempDir::with_prefix("tickwire-nats-saved-").expect("a temporary folder for a store");
        copy(&self.store, &saved.path().join("store"));
        saved
    }

    /// Kills the server, and replaces its store by a copy of `saved`.
    pub fn kill_and_restore(&mut self, saved: &TempDir) {
        self.kill();
        fs::remove_dir_all(&self.store).expect("the store can be removed");
        copy(&saved.path().join("store"), &self.store);
    }

    /// Kills the server, and replaces one stream of its store by the copy in `saved`. Everything else stays.
    pub fn kill_and_restore_stream(&mut self, saved: &TempDir, stream: &str) {
        self.kill();
        let of_stream = Path::new("jetstream/$G/streams").join(stream);
        let store = self.store.join(&of_stream);
        fs::remove_dir_all(&store).expect("the stream can be removed");
        copy(&saved.path().join("store").join(of_stream), &store);
    }

    /// The folder with the messages of one of its streams.
    pub fn messages_of(&self, stream: &str) -> PathBuf {
        self.store.join("jetstream/$G/streams").join(stream).join("msgs")
    }

    /// Kills the server if it still runs, and starts it again on the same port and store.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.port) = launch(self.home.path(), self.setting(), &self.flags, i32::from(self.port));
    }

    /// Kills the server if it still runs, and starts it on its store at another port, so that former clients cannot
    /// reach it. Returns its address. [`Self::restart`] returns to the first port.
    pub fn restart_elsewhere(&mut self) -> String {
        self.kill();
        let (child, port) = launch(self.home.path(), self.setting(), &self.flags, -1);
        self.child = child;
        format!("nats://127.0.0.1:{port}")
    }

    fn setting(&self) -> StoreSetting<'_> {
        if self.by_environment { StoreSetting::Environment(&self.store) } else { StoreSetting::Flag(&self.store) }
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("nats.log")).unwrap_or_default()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(copied.success(), "{} cannot be copied", from.display());
}

/// Starts the binary and waits until its ports file has the client port.
fn launch(home: &Path, store: StoreSetting<'_>, flags: &[String], port: i32) -> (Child, u16) {
    let binary = find_binary();
    let log = home.join("nats.log");
    let ports = home.join("ports");
    if ports.exists() {
        fs::remove_dir_all(&ports).expect("the old ports file can be removed");
    }
    fs::create_dir_all(&ports).expect("a folder for the ports file");
    let mut command = Command::new(&binary);
    match store {
        StoreSetting::Flag(store) => command.arg("-sd").arg(store),
        StoreSetting::Environment(store) => command
            .env("NATS_NAME", "n-0")
            .env("NATS_LISTEN", "127.0.0.1:-1")
            .env("NATS_HTTP", "127.0.0.1:-1")
            .env("NATS_STORE", store),
    };
    let mut child = command
        .args(["-a", "127.0.0.1", "-p", &port.to_string()])
        .arg("--ports_file_dir")
        .arg(&ports)
        .arg("-l")
        .arg(&log)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", binary.display()));
    let end = Instant::now() + START_DEADLINE;
    loop {
        if let Some(port) = read_port(&ports) {
            return (child, port);
        }
        let ended = child.try_wait().expect("nats-server can be waited for");
        if ended.is_some() || Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            let text = fs::read_to_string(&log).unwrap_or_default();
            panic!("{} {flags:?} did not start ({ended:?}); its log:\n{text}", binary.display());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The client port in the ports file, once the file is complete.
fn read_port(folder: &Path) -> Option<u16> {
    let file = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

/// The nats-server to use: the variable `NATS_SERVER`, else PATH, else the repository's tools.
fn find_binary() -> PathBuf {
    if let Some(named) = env::var_os("NATS_SERVER") {
        return PathBuf::from(named);
    }
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let in_tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    on_path
        .into_iter()
        .chain([in_tools])
        .map(|folder| folder.join("nats-server"))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no nats-server found: set NATS_SERVER to its path, put version 2.11 or newer on PATH, \
                 or install one at .tools/bin/nats-server in the repository"
            )
        })
}
