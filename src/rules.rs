//! `tickwire rules`: reads and writes the rules of a cluster, and explains what they do with an event.
//!
//! `source` reads rules from a file, `edit` writes and deletes them, `list` prints them, and `explain` applies them to a
//! sample event, with the text of a `screen`. This file has the flags and the errors.

use clap::{Args, Subcommand};
use std::io;
use std::path::PathBuf;
use tickwire_core::event::decode::Undecodable;
use tickwire_node::config::ConfigError;
use tickwire_node::nats::NatsError;
use tickwire_node::rule_bucket::RuleBucketError;

use crate::publish;
use tickwire_command::args::{ConfigArgs, NatsArgs};

mod connection;
mod edit;
mod explain;
mod list;
mod screen;
mod source;

pub(crate) use list::ClusterRules;

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Print the rules in the order in which routers ask them, and those that routers skip
    #[command(after_help = "\
Examples:
  tickwire rules list
  tickwire rules list --json > rules.json            a copy of all rules, which `put` takes")]
    List {
        /// Print all stored rules as one JSON list, as `put` takes it
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        nats: NatsArgs,
    },
    /// Print one rule as JSON, as `put` takes it
    #[command(after_help = "\
Examples:
  tickwire rules get tier-daily > rule.json")]
    Get {
        /// The id of the rule
        id: String,
        #[command(flatten)]
        nats: NatsArgs,
    },
    /// Write one rule, or all rules of a list; routers apply them within a second
    #[command(after_help = "\
Nothing is written if any rule is not valid. Rules that the file does not have stay.

Examples:
  tickwire rules put rules.json
  tickwire rules put --defaults                      the rules that tickwire comes with
  tickwire rules put rule.json --if-match 7          only if the rule still has revision 7
  tickwire rules put rule.json --if-match 0          only if there is no such rule")]
    Put(PutArgs),
    /// Delete a rule; routers stop to apply it within a second
    #[command(after_help = "\
Examples:
  tickwire rules delete tier-daily")]
    Delete {
        /// The id of the rule
        id: String,
        /// Only if the rule has this revision, as `list` and `get` show it
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
        if_match: Option<u64>,
        #[command(flatten)]
        nats: NatsArgs,
    },
    /// Explain for a sample event which rules match it, why the others do not, and where it would go
    #[command(after_help = "\
With --rules or --defaults nothing is asked of NATS.

Examples:
  tickwire rules test event.json
  tickwire rules test event.json --rules rules.json
  tickwire rules test event.json --defaults          by the rules that tickwire comes with
  echo '{\"regime\":\"bull\"}' | tickwire rules test - --kind market --key us")]
    Test(TestArgs),
    /// Check rules without a cluster: exit code 0 if all are valid, else 2 with every fault
    #[command(after_help = "\
Examples:
  tickwire rules validate rules.json")]
    Validate {
        /// A file with one rule or a list of rules; `-` is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// A file with one rule or a list of rules; `-` is standard input
    #[arg(value_name = "FILE", required_unless_present = "defaults")]
    file: Option<PathBuf>,
    /// Write the rules that tickwire comes with
    #[arg(long, conflicts_with_all = ["file", "if_match"])]
    defaults: bool,
    /// Only if the rule has this revision, as `list` and `get` show it; 0 if there is no such rule
    #[arg(long, value_name = "REVISION")]
    if_match: Option<u64>,
    #[command(flatten)]
    nats: NatsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// A file with the payload of the event in JSON, as a producer would publish it; `-` is standard input
    #[arg(value_name = "EVENT")]
    event: PathBuf,
    /// The kind of the event
    #[arg(long, default_value = "pattern", value_parser = publish::kind)]
    kind: String,
    /// The key of the event [default: its field `symbol`]
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key: Option<String>,
    /// The sequence of the event, by which samples and `round_robin` choose
    #[arg(long, value_name = "N", default_value_t = 1)]
    seq: u64,
    /// A file with the rules [default: those of the cluster]
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Apply the rules that tickwire comes with
    #[arg(long, conflicts_with = "rules")]
    defaults: bool,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Why a command ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error(transparent)]
    Bucket(#[from] RuleBucketError),
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {reason}; write one rule as a JSON object, or a list of rules", path.display())]
    NotRules { path: PathBuf, reason: String },
    #[error("nothing was written, since not every rule is valid:\n{faults}")]
    Refused { faults: String },
    #[error("not every rule is valid:\n{faults}")]
    Invalid { faults: String },
    #[error("--if-match is for one rule, and the file has {count}: write a file with one")]
    SeveralRules { count: usize },
    #[error("there is no rule {id}: `tickwire rules list` has the ids")]
    UnknownRule { id: String },
    #[error("an event of this kind needs --key KEY")]
    NoKey,
    #[error("{}: not a JSON object: {reason}", path.display())]
    NotAnEvent { path: PathBuf, reason: String },
    #[error("routers would store the event as a dead letter, {}: {}", .0.reason, .0.detail)]
    DeadLetter(Undecodable),
}

impl RulesError {
    /// Whether the command line or a file of the caller is wrong.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::NotRules { .. }
            | Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::SeveralRules { .. }
            | Self::NoKey
            | Self::NotAnEvent { .. } => true,
            Self::Nats(_) | Self::Bucket(_) | Self::Read { .. } | Self::UnknownRule { .. } | Self::DeadLetter(_) => {
                false
            }
        }
    }
}

impl RulesCommand {
    /// Returns the text for standard output.
    pub(crate) async fn run(&self) -> Result<String, RulesError> {
        match self {
            Self::List { json, nats } => list::list(*json, nats).await,
            Self::Get { id, nats } => list::get(id, nats).await,
            Self::Put(args) => edit::put(args).await,
            Self::Delete { id, if_match, nats } => edit::delete(id, *if_match, nats).await,
            Self::Test(args) => explain::test(args).await,
            Self::Validate { file, config } => source::validate(file, &config.load()?.events.taken()),
        }
    }
}

#[cfg(test)]
mod tests;
