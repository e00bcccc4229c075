//! The containers of a project of compose, by the engine that runs them: docker or podman.

use futures_util::future::join_all;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// How long one command of the engine may take: a container has 20 s to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service without a health check: it is healthy while it runs.
const UNCHECKED: &str = "feed";

/// The engine, and the project that `tools/compose-test` has started.
#[derive(Debug)]
pub(super) struct Engine {
    /// The folder with the commands `engine` and `compose`, and the secrets.
    pub(super) home: PathBuf,
    project: String,
    is_podman: bool,
}

impl Engine {
    /// What the environment says.
    pub(super) fn of_this_run() -> Self {
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}: `make compose-test` sets it"));
        Self {
            home: variable("TICKWIRE_CONTAINERS_HOME").into(),
            project: variable("TICKWIRE_CONTAINERS_PROJECT"),
            is_podman: variable("TICKWIRE_CONTAINERS_ENGINE") == "podman",
        }
    }

    /// Runs the engine, and returns what it prints.
    pub(super) async fn run(&self, args: &[&str]) -> String {
        let (is_done, output) = self.command("engine", args).await;
        assert!(is_done, "{args:?}: {output}");
        output
    }

    /// Brings a service to this number of containers, at least as many as it has.
    pub(super) async fn scale_up(&self, service: &str, count: usize) {
        let scale = format!("{service}={count}");
        let args = ["up", "--detach", "--no-build", "--no-recreate", "--no-deps", "--scale", &scale, service];
        let (is_done, output) = self.command("compose", &args).await;
        assert!(is_done, "{args:?}: {output}");
    }

    /// Runs a service that has a profile of its own name once, with its own command. Returns whether it succeeded, and
    /// what it prints.
    pub(super) async fn run_once(&self, service: &str) -> (bool, String) {
        self.command("compose", &["--profile", service, "run", "--rm", "-T", service]).await
    }

    /// Stops a container as compose does, with SIGTERM and time.
    pub(super) async fn stop(&self, name: &str) {
        self.run(&["stop", "-t", "20", name]).await;
    }

    /// The names of the containers of a service, in the order of their numbers.
    pub(super) async fn names(&self, service: &str) -> Vec<String> {
        let mut names =
            self.listed(&["--all", "--filter", &format!("label=com.docker.compose.service={service}")]).await;
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// The number of running containers.
    pub(super) async fn count(&self) -> usize {
        self.listed(&[]).await.len()
    }

    /// The names of the containers that are not healthy.
    pub(super) async fn unhealthy(&self) -> Vec<String> {
        let unchecked = self.names(UNCHECKED).await;
        let running = self.listed(&[]).await;
        let mut unhealthy: Vec<String> = unchecked.iter().filter(|name| !running.contains(name)).cloned().collect();
        let mut names = self.listed(&["--all"]).await;
        names.retain(|name| !unchecked.contains(name));
        let checks = join_all(names.iter().map(|name| self.is_healthy(name))).await;
        let checked = names.into_iter().zip(checks);
        unhealthy.extend(checked.filter(|(_, is_healthy)| !is_healthy).map(|(name, _)| name));
        unhealthy
    }

    /// The names of the containers of the project, by further flags of `ps`.
    async fn listed(&self, flags: &[&str]) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let args = [&["ps", "--filter", &project, "--format", "{{.Names}}"][..], flags].concat();
        self.run(&args).await.lines().map(str::to_owned).collect()
    }

    /// Whether the health check of a container says yes. Podman has no timer of its own for it, so it runs here.
    pub(super) async fn is_healthy(&self, name: &str) -> bool {
        if self.is_podman {
            return self.command("engine", &["healthcheck", "run", name]).await.0;
        }
        self.run(&["inspect", "--format", "{{.State.Health.Status}}", name]).await == "healthy"
    }

    /// The name by which a container knows itself.
    pub(super) async fn host_name(&self, name: &str) -> String {
        self.run(&["inspect", "--format", "{{.Config.Hostname}}", name]).await
    }

    /// The full name of a network.
    pub(super) fn network(&self, name: &str) -> String {
        format!("{}_{name}", self.project)
    }

    /// The address of a container in a network.
    pub(super) async fn address(&self, name: &str, network: &str) -> String {
        let network = self.network(network);
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.run(&["inspect", "--format", &format, name]).await
    }

    /// All that a container has logged.
    pub(super) async fn log(&self, name: &str) -> String {
        let output = self.output("engine", &["logs", name]).await;
        // The engine gives back on each of the two what the container has written there.
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The port of this machine that a container has published for one of its own.
    pub(super) async fn published(&self, name: &str, port: &str) -> u16 {
        let answer = self.run(&["port", name, port]).await;
        answer.lines().next().and_then(|line| line.rsplit_once(':')).unwrap().1.parse().unwrap()
    }

    /// Runs a command of `home`. Returns whether it succeeded, and what it prints, or what it says of its failure.
    async fn command(&self, program: &str, args: &[&str]) -> (bool, String) {
        let output = self.output(program, args).await;
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
    }

    async fn output(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(self.home.join(program));
        command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await;
        output.unwrap_or_else(|_| panic!("{program} {args:?} takes more than {PATIENCE:?}")).unwrap()
    }
}
