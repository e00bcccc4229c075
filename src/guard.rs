//! `tickwire guard -- command`: runs another program, and ends it when the standard input of the guard ends. So the
//! program does not outlive the process that started the guard, even if that was killed.

use clap::Args;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::process::Command;

use tickwire_command::stop;

/// How long the command may take to end when asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    /// A folder to remove when the command has ended
    #[arg(long, value_name = "PATH")]
    remove: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Why a command cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    #[error("{} cannot be run: {source}", command.display())]
    Run { command: OsString, source: io::Error },
    #[error("the command cannot be guarded: {0}")]
    Guard(#[from] io::Error),
}

impl GuardArgs {
    /// Runs the command to its end. Returns its exit code.
    pub(crate) async fn run(&self) -> Result<ExitCode, GuardError> {
        let ended = self.guard().await;
        if let Some(folder) = &self.remove {
            // The process that started the guard may have removed it already.
            std::fs::remove_dir_all(folder).ok();
        }
        ended
    }

    async fn guard(&self) -> Result<ExitCode, GuardError> {
        let [command, args @ ..] = &self.command[..] else { return Ok(ExitCode::from(2)) };
        let stop = stop::on_signal()?;
        let input_ended = stop.clone();
        stop::when_input_ends(move || input_ended.cancel())?;
        let failed = |source| GuardError::Run { command: command.clone(), source };
        let mut child = Command::new(command).args(args).stdin(Stdio::null()).spawn().map_err(failed)?;
        tokio::select! {
            ended = child.wait() => {
                let code = ended?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            () = stop.cancelled() => {}
        }
        if stop::end(&mut child, GRACE).await?.is_none() {
            child.kill().await?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
