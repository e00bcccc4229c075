//! `tickwire doctor`: checks what tickwire needs of NATS, without a node. It prints a line for each check, with what to
//! do if it failed. It stores no message and creates no stream.
//!
//! `streams` checks JetStream, streams and buckets, `rules` the stored rules, `permissions` tries what each
//! role may do (`needs`), and `node_reports` listens to running nodes.

use anstyle::{AnsiColor, Style};
use clap::Args;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;
use tickwire_core::event::Timestamp;
use tickwire_node::clock::{ahead_of, timestamp_now};
use tickwire_node::config::{Config, ConfigError};
use tickwire_node::nats::{Nats, NatsError};

use needs::DoctorRole;
use tickwire_command::args::NatsArgs;
use tickwire_node::terminal_text::in_line;

mod needs;
mod node_reports;
mod permissions;
mod rules;
mod streams;

/// How long to try to connect to NATS.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// The largest allowed difference of clocks: lags are measured from the time at which the stream stored an event.
const MOST_SKEW: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(after_help = "\
Exit code 1 if any check fails. Permissions are checked by trying them with messages that say nothing:
running nodes log that they refused one. With a user that has the permissions of one role only,
such as one of deploy/nats, name the role: without --role the user needs to see everything.

Examples:
  tickwire doctor
  tickwire doctor --nats nats://nats-1:4222 --config gateway.toml
  tickwire doctor --role gateway --config gateway.toml   what this user lacks, or has too much
  tickwire doctor --role producer --nats nats://nats-1:4222   which kinds this user may publish")]
pub(crate) struct DoctorArgs {
    /// The role of this user of NATS: check its permissions, and what it can see of the rest
    #[arg(long, value_name = "ROLE")]
    role: Option<DoctorRole>,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Why no check is possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("cannot write to standard output: {0}")]
    Write(#[from] io::Error),
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// No fault, but worth knowing.
    Note,
    Fail,
}

/// The result of one check.
#[derive(Debug)]
struct CheckFinding {
    verdict: Verdict,
    what: String,
    /// The result as text. For a fault it also says what to do.
    found: String,
}

impl CheckFinding {
    fn new(verdict: Verdict, what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { verdict, what: what.into(), found: found.into() }
    }
}

impl DoctorArgs {
    /// Runs all checks, prints them, and returns the exit code.
    pub(crate) async fn run(&self) -> Result<ExitCode, DoctorError> {
        let config = self.nats.load()?;
        let findings = examine(config, self.role).await;
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or_default();
        for CheckFinding { verdict, what, found } in &findings {
            let (word, style) = match verdict {
                Verdict::Ok => ("ok", AnsiColor::Green.on_default()),
                Verdict::Note => ("note", AnsiColor::Yellow.on_default()),
                Verdict::Fail => ("FAIL", AnsiColor::Red.on_default().bold()),
            };
            let style = if colours { style } else { Style::new() };
            // Texts of nodes, and of the server.
            let found = in_line(found);
            writeln!(io::stdout(), "{style}{word:<4}{style:#}  {what:<width$}  {found}")?;
        }
        let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Runs all checks, up to the first failure that makes the others impossible.
async fn examine(mut config: Config, role: Option<DoctorRole>) -> Vec<CheckFinding> {
    config.nats.connect_timeout = config.nats.connect_timeout.min(CONNECT_DEADLINE);
    let url = config.nats.url.clone();
    // A role may use only its own inboxes.
    let (inboxes, name) = match role {
        Some(role) => (role.inboxes(), config.node.id.as_deref().unwrap_or(needs::NOBODY)),
        None => ("doctor", "cli"),
    };
    let nats = match Nats::connect(&config.nats, inboxes, name).await {
        Ok(nats) => nats,
        Err(error @ NatsError::OldServer { .. }) => {
            let advice = format!("{error}: install a newer nats-server");
            return vec![
                CheckFinding::new(Verdict::Ok, "nats", url),
                CheckFinding::new(Verdict::Fail, "server", advice),
            ];
        }
        Err(error) => return vec![CheckFinding::new(Verdict::Fail, "nats", error.to_string())],
    };
    let version = nats.client.server_info().version;
    let mut findings =
        vec![CheckFinding::new(Verdict::Ok, "nats", url), CheckFinding::new(Verdict::Ok, "server", version)];
    match role {
        None => findings.extend(cluster(&nats, &config, &[DoctorRole::Router, DoctorRole::Gateway]).await),
        Some(DoctorRole::Operator) => findings.extend(cluster(&nats, &config, &[DoctorRole::Operator]).await),
        Some(role @ (DoctorRole::Router | DoctorRole::Gateway)) => {
            findings.extend(permissions::of(role, &config).await);
            findings.extend(stored(&nats, &config, Some(role)).await);
        }
        Some(role @ (DoctorRole::Producer | DoctorRole::Alerts)) => {
            findings.extend(permissions::of(role, &config).await)
        }
    }
    let stall = "cannot be checked from here: set no_fast_producer_stall: true in the server's configuration, so \
                 that one gateway that hangs does not slow the routers";
    findings.push(CheckFinding::new(Verdict::Note, "slow consumers", stall));
    // No message is under way, so none is lost.
    nats.close().await.ok();
    findings
}

/// What somebody sees who may read everything, and the permissions of these roles.
async fn cluster(nats: &Nats, config: &Config, roles: &[DoctorRole]) -> Vec<CheckFinding> {
    let mut findings = vec![clock(nats).await];
    let reports = node_reports::listen(nats, config.membership.beat_interval);
    findings.extend(stored(nats, config, None).await);
    if findings.iter().any(|finding| finding.what == "jetstream" && finding.verdict == Verdict::Ok) {
        findings.extend(rules::check(nats, &config.events.taken()).await);
    }
    for role in roles {
        findings.extend(permissions::of(*role, config).await);
    }
    findings.extend(reports.findings().await);
    findings
}

/// What is in JetStream, as far as this role may look.
async fn stored(nats: &Nats, config: &Config, role: Option<DoctorRole>) -> Vec<CheckFinding> {
    let jetstream = streams::jetstream(nats).await;
    let is_on = jetstream.verdict == Verdict::Ok;
    let mut findings = vec![jetstream];
    if is_on {
        findings.push(streams::strictness(nats, &config.stream).await);
        findings.push(streams::account(nats, &config.stream).await);
        findings.extend(streams::all(nats, &config.stream, role).await);
    }
    findings
}

/// Compares the server's clock with that of this host.
async fn clock(nats: &Nats) -> CheckFinding {
    let before = timestamp_now();
    let answer = nats.client.request(needs::CLOCK, "".into()).await;
    let after = timestamp_now();
    let server = answer.ok().and_then(|answer| {
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
        answer["server"]["time"].as_str()?.parse::<Timestamp>().ok()
    });
    match server {
        Some(server) => check_clock(server, before, after),
        None => {
            let found = format!("not measured: this user may not ask {}", needs::CLOCK);
            CheckFinding::new(Verdict::Note, "clock", found)
        }
    }
}

/// Judges the server's time `server`, which was read between `before` and `after` of this host's clock.
fn check_clock(server: Timestamp, before: Timestamp, after: Timestamp) -> CheckFinding {
    let skew = ahead_of(server, before, after);
    if skew.unsigned_abs() <= MOST_SKEW.as_millis() as u64 {
        return CheckFinding::new(Verdict::Ok, "clock", format!("within {} ms of the server's", skew.abs().max(1)));
    }
    let way = if skew > 0 { "ahead of" } else { "behind" };
    let found = format!("{} ms {way} the server's: set both by NTP, since lags are measured with them", skew.abs());
    CheckFinding::new(Verdict::Fail, "clock", found)
}

#[cfg(test)]
mod tests;
