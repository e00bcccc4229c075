//! The units of `deploy/systemd`: systemd accepts them, and they say of nodes what the binary does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_gateway::fitting_connections;
use tickwire_node::config::{Config, LoadOptions};

use super::document::files;
use super::tools::debian;
use crate::node::tickwire;

const ROLES: [&str; 2] = ["gateway", "router"];

/// Where a unit finds the binary, and the configuration and secrets.
const BINARY: &str = "/usr/local/bin/tickwire";
const FOLDER: &str = "/etc/tickwire/";

/// How long a node may take after its grace until it has ended.
const AFTER_GRACE: Duration = Duration::from_secs(10);

/// A unit of this role.
struct Unit(String);

impl Unit {
    fn of(role: &str) -> Self {
        let path = format!("deploy/systemd/tickwire-{role}.service");
        Self(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap())
    }

    /// The values of a setting, in order.
    fn values(&self, setting: &str) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
    }

    /// The value of a setting that stands once.
    fn value(&self, setting: &str) -> &str {
        let values = self.values(setting);
        assert_eq!(values.len(), 1, "{setting}: {values:?}");
        values[0]
    }

    fn number<T: std::str::FromStr>(&self, setting: &str) -> T {
        let value = self.value(setting);
        value.parse().unwrap_or_else(|_| panic!("{setting}={value}"))
    }
}

#[test]
fn systemd_accepts_the_units() {
    let home = TempDir::with_prefix("tickwire-e2e-systemd-").unwrap();
    for role in ROLES {
        // It also checks that the binary is there.
        let unit = Unit::of(role).0.replace(BINARY, env!("CARGO_BIN_EXE_tickwire"));
        let file = home.path().join(format!("tickwire-{role}.service"));
        fs::write(&file, unit).unwrap();
        let verified = Command::new(debian("/usr/bin/systemd-analyze")).arg("verify").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        // It warns of a misspelled setting, and succeeds. Of other units on this machine it may say what it likes.
        let about_ours = said.lines().filter(|line| line.contains("tickwire")).collect::<Vec<_>>();
        assert!(verified.status.success() && about_ours.is_empty(), "{role}: {said}");
    }
}

#[test]
fn units_start_and_stop_nodes_as_the_binary_needs_it() {
    for role in ROLES {
        let (unit, home) = (Unit::of(role), TempDir::with_prefix("tickwire-e2e-systemd-").unwrap());
        let file = home.path().join("tickwire.toml");
        fs::write(&file, &files("deploy.md")["tickwire.toml"]).unwrap();
        assert_eq!(unit.value("ExecStart"), format!("{BINARY} {role} --config {FOLDER}tickwire.toml"));
        assert_eq!(unit.value("User"), format!("tickwire-{role}"));

        // The binary accepts the configuration with the variables. Each secret is in the folder of the role.
        let own = format!("{FOLDER}{role}/");
        let variables = unit.values("Environment").into_iter().map(|variable| {
            let (name, value) = variable.split_once('=').unwrap();
            let value = value.strip_prefix(&own).map_or(value.to_owned(), |secret| {
                let path = home.path().join(secret);
                fs::write(&path, "a secret of at least thirty-two bytes\n").unwrap();
                path.to_str().unwrap().to_owned()
            });
            (name.to_owned(), value)
        });
        let variables: Vec<(String, String)> = variables.collect();
        let mut check = tickwire();
        check.args(["config", "check", "--role", role, "--config"]).arg(&file).envs(variables.clone());
        let checked = check.output().unwrap();
        assert_eq!((checked.status.code(), checked.stdout.as_slice()), (Some(0), &b"ok\n"[..]), "{checked:?}");
        let config = Config::load(&LoadOptions { file: Some(file.clone()), env: variables, sets: Vec::new() }).unwrap();
        assert_eq!(config.nats.user, role);

        // It is killed only when it has had its grace, and started again only if that may help.
        let grace = config.node.shutdown_grace + AFTER_GRACE;
        assert_eq!(Duration::from_secs(unit.number("TimeoutStopSec")), grace);
        assert!(config.gateway.drain_window + Duration::from_secs(5) < config.node.shutdown_grace);
        let wrong = tickwire().args([role, "--set", "gatway.listen=127.0.0.1:1"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(unit.number("RestartPreventExitStatus")), "{wrong:?}");
        if role == "gateway" {
            let all = (config.gateway.max_sessions, config.gateway.max_connections);
            assert_eq!(fitting_connections(&config, Some(unit.number("LimitNOFILE"))), Some(all));
        }
    }
}
