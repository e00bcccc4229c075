//! The commands. The flags of each command are in its own module.

use clap::{Parser, Subcommand};
use tickwire_bench::{BareArgs, BenchArgs};

use crate::config_command::ConfigCommand;
use crate::dev::DevArgs;
use crate::doctor::DoctorArgs;
use crate::feed::FeedArgs;
use crate::guard::GuardArgs;
use crate::health::HealthArgs;
use crate::node_command::NodeArgs;
use crate::publish::PublishArgs;
use crate::reference::ReferenceCommand;
use crate::rules::RulesCommand;
use crate::token::TokenArgs;
use crate::top::TopArgs;
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
  tickwire watch --user ann --symbols AAPL,NVDA      print the events that a client gets
  tickwire publish --key AAPL --pattern BreakoutBO --confidence 0.87
  tickwire top                                       watch the nodes of a cluster live
  tickwire doctor                                    find problems, and what to do about them"
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
    /// Run a whole cluster on this machine, with a feed of real prices, until Ctrl-C
    Dev(DevArgs),
    /// Publish events found in real prices, over and over
    #[command(alias = "replay")]
    Feed(FeedArgs),
    /// Publish one event from flags, or many from JSON lines
    Publish(PublishArgs),
    /// Watch events live
    Watch(WatchArgs),
    /// Read, write and test the rules by which routers change and spread events
    Rules {
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Load what is known about symbols: their sectors and markets
    Reference {
        #[command(subcommand)]
        command: ReferenceCommand,
    },
    /// Create a token for a user
    Token(TokenArgs),
    /// Watch all nodes live: sessions, rates, lag, drops, and what is wrong
    Top(TopArgs),
    /// Check what tickwire needs of NATS, one line each
    Doctor(DoctorArgs),
    /// Ask a node on this host whether it runs, or whether it is ready
    Health(HealthArgs),
    /// Measure what a gateway costs and how fast it is, on this machine
    Bench(BenchArgs),
    /// Run the server that `bench` compares with
    #[command(hide = true)]
    BenchBare(BareArgs),
    /// Run a command and end it when standard input ends
    #[command(hide = true)]
    Guard(GuardArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use tickwire_node::config::ConfigError;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_help_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.clone().render_long_help().to_string();
            let nested = command.has_subcommands();
            assert!(nested || help.contains("Examples:\n  tickwire "), "{} has no examples", command.get_name());
        }
    }

    #[test]
    fn nats_flag_sets_the_nats_url_key() {
        let cli = Cli::try_parse_from(["tickwire", "feed", "--nats", "nats://10.0.0.1:4222", "--set", "nats.user=u"]);
        let Command::Feed(feed) = cli.unwrap().command else { panic!("not a feed") };
        let config = feed.nats.load().unwrap();
        assert_eq!((config.nats.url.as_str(), config.nats.user.as_str()), ("nats://10.0.0.1:4222", "u"));
    }

    #[test]
    fn unknown_config_key_suggests_the_nearest_key() {
        let cli = Cli::try_parse_from(["tickwire", "gateway", "--set", "gatway.listen=x"]).unwrap();
        let Command::Gateway(gateway) = cli.command else { panic!("not a gateway") };
        assert!(
            matches!(gateway.config.load(), Err(ConfigError::UnknownKey { nearest, .. }) if nearest == "gateway.listen")
        );
    }
}
