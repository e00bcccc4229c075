//! `tickwire health`: asks the admin server of a node on this host. The health check of a container runs it, since the
//! image has no other program.

use clap::Args;
use serde::Deserialize;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use tickwire_node::config::{Config, ConfigError};
use tickwire_node::ports;
use tokio::time::timeout;

use crate::values;
use tickwire_command::args::ConfigArgs;
use tickwire_command::ready::get;
use tickwire_node::terminal_text::in_line;

/// How long the answer may take at least and at most. A longer time is a mistyped unit.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// How many characters of what is missing are printed.
const MOST_MISSING: usize = 4_000;

#[derive(Debug, Args)]
#[command(after_help = "\
The node is found by its configuration: in `node.ports_file` if it is set, else at `admin.listen`.
Exit code 0 if the answer is yes, else 1.

Examples:
  tickwire health
  tickwire health --ready --config gateway.toml
  tickwire health --set admin.listen=127.0.0.1:9091 --deadline 500ms")]
pub(crate) struct HealthArgs {
    /// Ask whether the node is ready (/readyz), not only whether it runs (/livez)
    #[arg(long)]
    ready: bool,
    /// How long the answer may take, such as 500ms or 3s
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = deadline, allow_hyphen_values = true)]
    deadline: Duration,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Why the answer is no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("node.ports_file = {}: {source}; the node writes it when it listens, so it has not started", path.display())]
    NotStarted { path: PathBuf, source: io::Error },
    #[error("node.ports_file = {}: no address of an admin server is in it", path.display())]
    NoAdmin { path: PathBuf },
    #[error("admin.listen = {listen}: the system chose the port, so set node.ports_file, as for the node")]
    AnyPort { listen: SocketAddr },
    #[error("{url}: {source}; the address is that of the configuration: --config or --set admin.listen names the node")]
    Unreachable { url: String, source: io::Error },
    #[error("{url}: no answer within {deadline:?}")]
    Late { url: String, deadline: Duration },
    #[error("{url}: {missing}")]
    Missing { url: String, missing: String },
}

/// What `/readyz` answers.
#[derive(Debug, Deserialize)]
struct Report {
    checks: Vec<CheckResult>,
}

#[derive(Debug, Deserialize)]
struct CheckResult {
    name: String,
    missing: Option<String>,
}

impl HealthArgs {
    /// Asks, and returns the text to print.
    pub(crate) async fn run(&self) -> Result<String, HealthError> {
        let server = admin_of(&self.config.load()?)?;
        let path = if self.ready { "/readyz" } else { "/livez" };
        let url = format!("http://{server}{path}");
        match timeout(self.deadline, get(server, path)).await {
            Err(_) => Err(HealthError::Late { url, deadline: self.deadline }),
            Ok(Err(source)) => Err(HealthError::Unreachable { url, source }),
            Ok(Ok(answer)) => match missing(&answer) {
                None => Ok(format!("{url}: ok\n")),
                Some(missing) => Err(HealthError::Missing { url, missing }),
            },
        }
    }
}

/// The address of the admin server of the node with this configuration.
fn admin_of(config: &Config) -> Result<SocketAddr, HealthError> {
    let listen = match &config.node.ports_file {
        None if config.admin.listen.port() == 0 => {
            return Err(HealthError::AnyPort { listen: config.admin.listen });
        }
        None => config.admin.listen,
        Some(path) => {
            let listening = ports::read(path);
            let listening = listening.map_err(|source| HealthError::NotStarted { path: path.clone(), source })?;
            *listening.get("admin").ok_or_else(|| HealthError::NoAdmin { path: path.clone() })?
        }
    };
    Ok(SocketAddr::new(reachable(listen.ip()), listen.port()))
}

/// An address at which a server that listens on `ip` can be reached from its own host.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    }
}

/// What is missing by an answer; `None` if its status is 200.
fn missing(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return None;
    }
    let checks = serde_json::from_str::<Report>(body).map(|report| report.checks).unwrap_or_default();
    let missing: Vec<String> =
        checks.iter().filter_map(|check| Some(format!("{}: {}", check.name, check.missing.as_ref()?))).collect();
    let missing = if missing.is_empty() { format!("it answers {status:?}") } else { missing.join("; ") };
    // Another program may listen there.
    Some(in_line(&missing.chars().take(MOST_MISSING).collect::<String>()).into_owned())
}

fn deadline(text: &str) -> Result<Duration, String> {
    values::duration(text, &DEADLINES, "1ms to 10m", "500ms or 3s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tickwire_node::config::LoadOptions;

    fn config(sets: &[(&str, &str)]) -> Config {
        let sets = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap()
    }

    fn asked(sets: &[(&str, &str)]) -> String {
        admin_of(&config(sets)).unwrap().to_string()
    }

    #[test]
    fn node_that_listens_on_all_addresses_is_asked_on_loopback() {
        assert_eq!(asked(&[]), "127.0.0.1:9090");
        assert_eq!(asked(&[("admin.listen", "0.0.0.0:7")]), "127.0.0.1:7");
        assert_eq!(asked(&[("admin.listen", "[::]:7")]), "[::1]:7");
        assert_eq!(asked(&[("admin.listen", "10.0.0.1:7")]), "10.0.0.1:7");
    }

    #[test]
    fn ports_file_has_the_address_if_there_is_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ports.json");
        let sets = [("admin.listen", "127.0.0.1:0"), ("node.ports_file", path.to_str().unwrap())];
        assert!(matches!(admin_of(&config(&sets[..1])), Err(HealthError::AnyPort { .. })));
        assert!(matches!(admin_of(&config(&sets)), Err(HealthError::NotStarted { .. })));
        fs::write(&path, "{").unwrap();
        assert!(matches!(admin_of(&config(&sets)), Err(HealthError::NoAdmin { .. })));
        fs::write(&path, r#"{"admin":"0.0.0.0:81","gateway":"0.0.0.0:80"}"#).unwrap();
        assert_eq!(asked(&sets), "127.0.0.1:81");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing("HTTP/1.1 200 OK\r\n\r\nok"), None);
        let body = r#"{"ready":false,"checks":[{"name":"nats","ok":true},{"name":"name","ok":false,"missing":"a"},
            {"name":"coverage","ok":false,"missing":"b"}]}"#;
        let answer = format!("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{body}");
        assert_eq!(missing(&answer).unwrap(), "name: a; coverage: b");
        assert_eq!(missing("HTTP/1.1 404 Not Found\r\n\r\n").unwrap(), r#"it answers "HTTP/1.1 404 Not Found""#);
        assert_eq!(missing("").unwrap(), r#"it answers """#);
        let body = r#"{"checks":[{"name":"a","missing":"b\u001b[2J"}]}"#;
        assert_eq!(missing(&format!("HTTP/1.1 503 x\r\n\r\n{body}")).unwrap(), "a: b [2J");
        let body = format!(r#"{{"checks":[{{"name":"a","missing":"{}"}}]}}"#, "é".repeat(1_000_000));
        assert_eq!(missing(&format!("HTTP/1.1 503 x\r\n\r\n{body}")).unwrap().chars().count(), MOST_MISSING);
    }

    #[test]
    fn deadline_is_a_positive_duration() {
        assert_eq!(deadline("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["0s", "-1s", "3", "11m", "soon"] {
            assert!(deadline(wrong).is_err(), "{wrong}");
        }
    }
}
