//! `tickwire config`: checks or shows the configuration, or prints the reference of all keys.

use clap::{Subcommand, ValueEnum};
use tickwire_node::config::ConfigError;

use tickwire_command::args::ConfigArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration: exit code 0 if some node accepts it, else 2 with the error
    #[command(after_help = "\
Examples:
  tickwire config check --config gateway.toml --role gateway
  tickwire config check --set stream.partitions=64")]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Also check the keys that only this role needs
        #[arg(long)]
        role: Option<NodeRole>,
    },
    /// Print the configuration in effect as TOML, secrets masked
    #[command(after_help = "\
Examples:
  tickwire config show --config gateway.toml")]
    Show {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print every key with its meaning and default, as a file to start from
    #[command(after_help = "\
Examples:
  tickwire config reference > tickwire.toml")]
    Reference,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeRole {
    Gateway,
    Router,
}

impl ConfigCommand {
    /// Returns the text for standard output.
    pub(crate) fn run(&self) -> Result<String, ConfigError> {
        match self {
            Self::Check { config, role } => {
                let config = config.load()?;
                let secret = config.auth.secret();
                match role {
                    Some(NodeRole::Gateway) => secret.map(|_| "ok\n".to_owned()),
                    None => Ok(secret.map_or_else(
                        |refused| format!("ok for a router; a gateway refuses it: {refused}\n"),
                        |_| "ok\n".to_owned(),
                    )),
                    Some(NodeRole::Router) => Ok("ok\n".to_owned()),
                }
            }
            Self::Show { config } => Ok(config.load()?.show()),
            Self::Reference => Ok(tickwire_node::config::Config::reference().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn run(args: &[&str]) -> Result<String, ConfigError> {
        let cli = Cli::try_parse_from(["tickwire", "config"].iter().chain(args)).unwrap();
        let Command::Config { command } = cli.command else { panic!("not a config command") };
        command.run()
    }

    #[test]
    fn secret_is_required_for_gateways_only() {
        let secret = format!("auth.jwt_secret={}", "s".repeat(32));
        assert!(matches!(run(&["check", "--role", "gateway"]), Err(ConfigError::Conflict { .. })));
        assert_eq!(run(&["check", "--role", "gateway", "--set", &secret]).unwrap(), "ok\n");
        assert_eq!(run(&["check", "--role", "router"]).unwrap(), "ok\n");
        assert!(run(&["check"]).unwrap().starts_with("ok for a router; a gateway refuses it: auth.mode"));
        let refusal = |set| run(&["check", "--role", "gateway", "--set", set]).unwrap_err().to_string();
        for (set, found) in [("auth.jwt_secret=", "there is no secret"), ("auth.jwt_secret=abc", "this one has 3")] {
            assert!(refusal(set).contains(found), "{set:?}: {}", refusal(set));
        }
        assert!(matches!(run(&["check", "--set", "stream.partitions=0"]), Err(ConfigError::Invalid { .. })));
        assert!(matches!(run(&["check", "--config", "/no/such/file"]), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn show_prints_effective_values_and_masks_secrets() {
        let shown = run(&["show", "--set", "auth.jwt_secret=hush", "--set", "stream.partitions=8"]).unwrap();
        assert!(shown.contains("partitions = 8\n"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn reference_is_a_valid_config_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), run(&["reference"]).unwrap()).unwrap();
        run(&["check", "--config", file.path().to_str().unwrap()]).unwrap();
    }
}
