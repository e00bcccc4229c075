//! The `tickwire` command: one binary for every role. This file parses a command, runs it and returns its exit code.
//! Each command is in the file of its name: `node_command` (`gateway` and `router`), `config_command`, `dev`, `feed`,
//! `publish`, `watch`, `rules`, `reference`, `token`, `top`, `doctor`, `health` and `guard`. `bench` is a crate of its
//! own. `values` parses flags, and `input` reads files.

mod cli;
mod config_command;
mod dev;
mod doctor;
mod feed;
mod guard;
mod health;
mod input;
mod node_command;
mod publish;
mod reference;
mod rules;
mod token;
mod top;
mod values;
mod watch;

use clap::Parser;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;
use tickwire_command::standard_error;
use tickwire_core::placement::Role;
use tickwire_node::config::{ConfigError, LogConfig, LogFormat};
use tickwire_node::telemetry::init_logs;
use tickwire_node::terminal_text;
use tokio::runtime::Runtime;

use cli::{Cli, Command};

/// The exit code of wrong usage or configuration. `clap` uses the same code.
const USAGE: u8 = 2;

/// How long threads may still wait for files when everything else has ended.
const LAST_THREADS: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            standard_error::line(&format!("tickwire: the threads of this process cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(ended(command));
    // Such a thread may wait for ever: for the writer of a pipe, or for a disk that does not answer.
    runtime.shutdown_timeout(LAST_THREADS);
    code
}

/// Runs a command, and says why it has failed.
async fn ended(command: Command) -> ExitCode {
    match run(command).await {
        Ok(code) => code,
        Err(error) => {
            // The errors of the commands contain the texts of their sources, and some of these are of strangers.
            standard_error::line(&format!("tickwire: {}", terminal_text::in_lines(&error.to_string())));
            if is_usage(&error) { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    if !matches!(command, Command::Gateway(_) | Command::Router(_)) {
        // Other commands print their results, and log only unexpected events. For the doctor no refusal is unexpected: it
        // tries what a user may not do, and prints what that means.
        let level = if matches!(command, Command::Doctor(_)) { "off" } else { "warn" };
        let config = LogConfig { format: LogFormat::Pretty, level: level.to_owned() };
        init_logs(&config)?;
    }
    let text = match command {
        Command::Gateway(args) => return Ok(args.run(Role::Gateway).await?.exit_code()),
        Command::Router(args) => return Ok(args.run(Role::Router).await?.exit_code()),
        Command::Bench(args) => return Ok(args.run().await?),
        Command::BenchBare(args) => return Ok(args.run().map(|()| ExitCode::SUCCESS)?),
        Command::Dev(args) => return Ok(args.run().await?),
        Command::Guard(args) => return Ok(args.run().await?),
        Command::Doctor(args) => return Ok(args.run().await?),
        Command::Watch(args) => return Ok(args.run().await.map(|()| ExitCode::SUCCESS)?),
        Command::Top(args) => return Ok(args.run().await.map(|()| ExitCode::SUCCESS)?),
        Command::Config { command } => command.run()?,
        Command::Feed(args) => args.run().await?,
        Command::Health(args) => args.run().await?,
        Command::Publish(args) => args.run().await?,
        Command::Rules { command } => command.run().await?,
        Command::Reference { command } => command.run().await?,
        Command::Token(args) => args.run()? + "\n",
    };
    match std::io::stdout().write_all(terminal_text::in_lines(&text).as_bytes()) {
        // The reader has closed its end of the pipe.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => Ok(written.map(|()| ExitCode::SUCCESS)?),
    }
}

/// Whether the cause is a wrong command line or configuration.
fn is_usage(error: &anyhow::Error) -> bool {
    let no_pattern = matches!(error.downcast_ref(), Some(publish::PublishCommandError::NoPattern));
    let wrong_watch = matches!(
        error.downcast_ref(),
        Some(watch::WatchError::Preset(_) | watch::WatchError::Url(_) | watch::WatchError::Authorities(_))
    );
    let wrong_rules = error.downcast_ref::<rules::RulesError>().is_some_and(rules::RulesError::is_usage);
    let wrong_reference = error
        .downcast_ref::<reference::ReferenceCommandError>()
        .is_some_and(reference::ReferenceCommandError::is_usage);
    no_pattern || wrong_watch || wrong_rules || wrong_reference || error.chain().any(|cause| cause.is::<ConfigError>())
}
