//! The nats-server of a cluster for development: which one to use, and how it is started.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// The oldest version that can be used.
const OLDEST: (u32, u32) = (2, 11);

/// Where `make tools` puts a nats-server.
const IN_TOOLS: &str = ".tools/bin/nats-server";

/// How long a server may take to start.
const START_DEADLINE: Duration = Duration::from_secs(15);

/// Why there is no nats-server.
#[derive(Debug, thiserror::Error)]
pub enum NatsServerError {
    /// The one that `NATS_SERVER` names cannot be used.
    #[error("NATS_SERVER = {}: {problem}; it has to be nats-server 2.11 or newer", path.display())]
    Named {
        /// The value of `NATS_SERVER`.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is none.
    #[error(
        "there is no nats-server 2.11 or newer, neither on PATH nor at {IN_TOOLS}: run `make tools`, or set \
         NATS_SERVER to the path of one"
    )]
    None,
    /// Its configuration cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did not write its ports file in time.
    #[error("nats-server has not written its address within {START_DEADLINE:?}")]
    Silent,
}

/// The nats-server to use: the one that NATS_SERVER names, else the one on PATH if it is new enough, else ours.
pub async fn find() -> Result<PathBuf, NatsServerError> {
    if let Some(path) = env::var_os("NATS_SERVER").map(PathBuf::from) {
        return match version(&path).await {
            Ok(version) if version >= OLDEST => Ok(path),
            Ok((major, minor)) => Err(NatsServerError::Named { path, problem: format!("is version {major}.{minor}") }),
            Err(problem) => Err(NatsServerError::Named { path, problem }),
        };
    }
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let on_path = on_path.into_iter().map(|folder| folder.join("nats-server"));
    for candidate in on_path.chain([PathBuf::from(IN_TOOLS)]) {
        if candidate.is_file() && version(&candidate).await.is_ok_and(|version| version >= OLDEST) {
            return Ok(candidate);
        }
    }
    Err(NatsServerError::None)
}

async fn version(server: &Path) -> Result<(u32, u32), String> {
    let output = Command::new(server).arg("--version").output().await;
    let output = output.map_err(|error| format!("cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default();
    parse_version(first).ok_or_else(|| format!("prints {first:?} in place of its version"))
}

/// Reads `nats-server: v2.15.1`.
fn parse_version(line: &str) -> Option<(u32, u32)> {
    let (_, version) = line.trim().rsplit_once(": v")?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The port that clients of NATS use by default.
const USUAL_PORT: u16 = 4222;

/// What a server is started with: JetStream in `home`, and the usual port if it is free, else one of its own choice.
/// `home` is an absolute path.
pub fn arguments(home: &Path) -> Result<Vec<String>, NatsServerError> {
    let config = home.join("nats.conf");
    let ports = home.join("ports");
    let write = || {
        if ports.exists() {
            fs::remove_dir_all(&ports)?;
        }
        fs::create_dir_all(&ports)?;
        // A gateway that is stuck must not slow the routers: what it misses is repaired by coverage.
        fs::write(&config, "no_fast_producer_stall: true\nlogtime: false\n")
    };
    write().map_err(|source| NatsServerError::Write { path: home.to_owned(), source })?;
    let usual_is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_PORT)).is_ok();
    let port = if usual_is_free { USUAL_PORT.to_string() } else { "-1".to_owned() };
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let arguments = [
        ["-c".to_owned(), text(config)],
        ["-a".to_owned(), "127.0.0.1".to_owned()],
        ["-p".to_owned(), port],
        ["--ports_file_dir".to_owned(), text(ports)],
        ["-sd".to_owned(), text(home.join("jetstream"))],
    ];
    Ok(std::iter::once("-js".to_owned()).chain(arguments.into_iter().flatten()).collect())
}

/// Where the server of `home` listens, as soon as it does.
pub async fn address(home: &Path) -> Result<String, NatsServerError> {
    let end = Instant::now() + START_DEADLINE;
    while Instant::now() < end {
        if let Some(url) = read_address(&home.join("ports")) {
            return Ok(url);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(NatsServerError::Silent)
}

/// What to do if the server of `url` does not listen on the usual port, where other commands look for it; `None` if it
/// does.
pub fn other_port(url: &str) -> Option<String> {
    let has_usual = url.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>() == Ok(USUAL_PORT));
    let advice =
        format!("port {USUAL_PORT} is in use by another program; in other terminals: export TICKWIRE_NATS__URL={url}");
    (!has_usual).then_some(advice)
}

fn read_address(ports: &Path) -> Option<String> {
    let mut files = fs::read_dir(ports).ok()?.flatten().map(|entry| entry.path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some(ports["nats"][0].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_with_another_port_needs_its_address_in_other_terminals() {
        assert_eq!(other_port("nats://127.0.0.1:4222"), None);
        let advice = other_port("nats://127.0.0.1:40123").unwrap();
        assert!(advice.ends_with("export TICKWIRE_NATS__URL=nats://127.0.0.1:40123"), "{advice}");
    }

    #[test]
    fn version_of_a_nats_server_is_read_from_its_output() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.0-beta.1"), Some((2, 9)));
        assert_eq!(parse_version("zsh 5.9"), None);
    }
}
