//! What can be typed: the commands, and the flags that several of them share. Each command's own flags stand with it.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use tickwire_node::config::{Config, ConfigError, LoadOptions};

use crate::bench::{BareArgs, BenchArgs};
use crate::config_command::ConfigCommand;
use crate::dev::DevArgs;
use crate::doctor::DoctorArgs;
use crate::guard::GuardArgs;
use crate::node_command::NodeArgs;
use crate::publish::PublishArgs;
use crate::replay::FeedArgs;
use crate::token::TokenArgs;
use crate::watch::WatchArgs;

/// A gateway cluster for market events, on NATS.
#[derive(Debug, Parser)]
#[command(
    name = "tickwire",
    version,
    max_term_width = 120,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

Examples:
  tickwire dev                                       a whole cluster on this machine, with events
  tickwire watch --user ann --symbols AAPL,NVDA      what comes out of it
  tickwire publish --key AAPL --pattern BreakoutBO --confidence 0.87
  tickwire doctor                                    what is wrong, and what to do about it"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a gateway: the node that clients connect to
    #[command(after_help = "\
Examples:
  tickwire gateway --config gateway.toml
  tickwire gateway --set gateway.listen=0.0.0.0:8080 --set nats.url=nats://nats:4222")]
    Gateway(NodeArgs),
    /// Run a router: the node that reads the stream and sends events to the gateways that want them
    #[command(after_help = "\
Examples:
  tickwire router --config router.toml
  tickwire router --set admin.listen=127.0.0.1:9091")]
    Router(NodeArgs),
    /// Check or show the configuration, or print the reference of all keys
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Run a whole cluster on this machine, with a replay of real prices, until Ctrl-C
    Dev(DevArgs),
    /// Publish the events found in real prices, over and over
    Replay(FeedArgs),
    /// Publish one event from flags, or many from JSON lines
    Publish(PublishArgs),
    /// Watch events as they come
    Watch(WatchArgs),
    /// Make a token for a user
    Token(TokenArgs),
    /// Check NATS and what tickwire needs of it, one line each
    Doctor(DoctorArgs),
    /// Measure what a gateway costs and how fast it is, on this machine
    Bench(BenchArgs),
    /// Run the server that `bench` compares with
    #[command(hide = true)]
    BenchBare(BareArgs),
    /// Run a command and end it when standard input ends
    #[command(hide = true)]
    Guard(GuardArgs),
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML); `tickwire config reference` prints one to start from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, above file and environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl ConfigArgs {
    /// The configuration of this process.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let sets = self.sets.iter().map(|text| Config::parse_set(text)).collect::<Result<_, _>>()?;
        Config::load(&LoadOptions::from_process(self.config.clone(), sets))
    }
}

/// Where NATS is, for commands that are no node.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NatsArgs {
    /// Where NATS is, in short for --set nats.url=URL [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl NatsArgs {
    /// As if `--nats` had given this address.
    pub(crate) fn at(url: &str) -> Self {
        Self { nats: Some(url.to_owned()), ..Self::default() }
    }

    /// The configuration of this process, with the address of `--nats` if there is one.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let mut args = self.config.clone();
        args.sets.extend(self.nats.iter().map(|url| format!("nats.url={url}")));
        args.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_tells_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.clone().render_long_help().to_string();
            let nested = command.has_subcommands();
            assert!(nested || help.contains("Examples:\n  tickwire "), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn the_address_of_nats_is_short_for_its_key() {
        let cli = Cli::try_parse_from(["tickwire", "replay", "--nats", "nats://10.0.0.1:4222", "--set", "nats.user=u"]);
        let Command::Replay(replay) = cli.unwrap().command else { panic!("not a replay") };
        let config = replay.nats.load().unwrap();
        assert_eq!((config.nats.url.as_str(), config.nats.user.as_str()), ("nats://10.0.0.1:4222", "u"));
    }

    #[test]
    fn errors_of_configuration_are_errors_of_usage() {
        let cli = Cli::try_parse_from(["tickwire", "gateway", "--set", "gatway.listen=x"]).unwrap();
        let Command::Gateway(gateway) = cli.command else { panic!("not a gateway") };
        assert!(
            matches!(gateway.config.load(), Err(ConfigError::UnknownKey { nearest, .. }) if nearest == "gateway.listen")
        );
    }
}
