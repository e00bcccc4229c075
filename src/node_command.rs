//! `tickwire gateway` and `tickwire router`: one node in this process, from its configuration to its exit code.

use clap::Args;
use std::io;
use tickwire_core::placement::Role;
use tickwire_node::config::ConfigError;
use tickwire_node::shutdown::{Outcome, Shutdown};
use tickwire_node::start::StartError;
use tickwire_node::telemetry::{TelemetryError, init_node_logs};

use tickwire_command::args::ConfigArgs;
use tickwire_command::stop;

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Drain and end when standard input ends, so that the node does not outlive its parent process
    #[arg(long, hide = true)]
    stop_on_stdin_eof: bool,
}

/// Why a node did not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("standard input cannot be watched: {0}")]
    Watch(#[from] io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl NodeArgs {
    /// Runs a node until it has stopped.
    pub(crate) async fn run(&self, role: Role) -> Result<Outcome, NodeError> {
        let mut config = self.config.load()?;
        if role == Role::Gateway {
            config.auth.secret()?;
        }
        let name = config.node.identity(role.as_str());
        // Dropped last, so that repeated lines are counted until the end.
        let _logs = init_node_logs(&config.log, role.as_str(), &name)?;
        config.node.id = Some(name);
        let shutdown = Shutdown::new();
        if self.stop_on_stdin_eof {
            let drain = shutdown.drain().clone();
            stop::when_input_ends(move || drain.cancel())?;
        }
        let ended = match role {
            Role::Gateway => tickwire_gateway::run(&config, &shutdown).await,
            Role::Router => tickwire_router_node::run(&config, &shutdown).await,
        };
        match ended {
            Err(StartError::Stopped { .. }) => Ok(Outcome::Drained),
            ended => Ok(ended?),
        }
    }
}
