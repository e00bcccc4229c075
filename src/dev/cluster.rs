//! The processes of a development cluster: started one after the other, watched, and stopped in reverse order.
//!
//! Each has its own process group, so that Ctrl-C in a terminal reaches only this process, which then stops the others
//! in order. Each ends by itself when its standard input ends, so that none outlives this process even if that is
//! killed.

use anstyle::{AnsiColor, Style};
use futures_util::FutureExt;
use futures_util::future::{join_all, select_all};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use tickwire_command::progress::Progress;
use tickwire_command::stop;
use tickwire_node::terminal_text::in_line;

/// How long one process may take to end.
const GRACE: Duration = Duration::from_secs(8);

/// How long the last output of a process that has ended may take to arrive.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

const COLOURS: [AnsiColor; 5] =
    [AnsiColor::Magenta, AnsiColor::Green, AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Blue];

/// One process.
#[derive(Debug)]
struct DevProcess {
    name: &'static str,
    child: Child,
    group: Option<Pid>,
    /// Kept open while the process should run.
    _stdin: Option<ChildStdin>,
    output: Vec<JoinHandle<()>>,
}

/// All processes, in stages: the processes of a later stage need those of the earlier stages.
#[derive(Debug)]
pub(crate) struct DevCluster {
    stages: Vec<Vec<DevProcess>>,
    screen: Arc<Progress>,
    colours: bool,
    verbose: bool,
}

/// One of the processes has ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("{name} has ended by itself ({status}); its last lines above have the reason")]
pub(crate) struct Death {
    name: &'static str,
    status: ExitStatus,
}

impl DevCluster {
    /// Creates a cluster without processes. Their output will go to `screen`; unless it is `verbose`, without what
    /// nats-server logs in any case.
    pub(crate) fn new(screen: Arc<Progress>, verbose: bool) -> Self {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { stages: Vec::new(), screen, colours, verbose }
    }

    /// Begins a new stage: later processes need all earlier ones.
    pub(crate) fn next_stage(&mut self) {
        self.stages.push(Vec::new());
    }

    /// Starts this binary with other arguments.
    pub(crate) fn start<A: AsRef<OsStr>>(
        &mut self,
        name: &'static str,
        arguments: impl IntoIterator<Item = A>,
    ) -> io::Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let number = self.stages.iter().flatten().count();
        let style = if self.colours { COLOURS[number % COLOURS.len()].on_default() } else { Style::new() };
        let prefix = format!("{style}{name:<9}{style:#} | ");
        let (screen, verbose) = (&self.screen, self.verbose);
        let mut output = Vec::new();
        output.extend(
            child.stdout.take().map(|lines| tokio::spawn(copy(lines, prefix.clone(), screen.clone(), verbose))),
        );
        output.extend(child.stderr.take().map(|lines| tokio::spawn(copy(lines, prefix, screen.clone(), verbose))));
        let part = DevProcess {
            name,
            group: child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())),
            _stdin: child.stdin.take(),
            child,
            output,
        };
        if self.stages.is_empty() {
            self.next_stage();
        }
        if let Some(stage) = self.stages.last_mut() {
            stage.push(part);
        }
        Ok(())
    }

    /// Waits until a process ends by itself. Safe to cancel.
    pub(crate) async fn death(&mut self) -> Death {
        let parts = self.stages.iter_mut().flatten();
        let waits = parts.map(|part| async { (part.name, part.child.wait().await.unwrap_or_default()) }.boxed());
        let ((name, status), ..) = select_all(waits).await;
        Death { name, status }
    }

    /// Stops all processes, the last stage first, each within a deadline.
    pub(crate) async fn stop(mut self) {
        while let Some(stage) = self.stages.pop() {
            join_all(stage.into_iter().map(|part| part.stop(&self.screen))).await;
        }
    }
}

impl DevProcess {
    async fn stop(mut self, screen: &Progress) {
        let ended = stop::end(&mut self.child, GRACE).await;
        if matches!(ended, Ok(None)) {
            screen.print(&format!("{} has not stopped within {GRACE:?}, killing it", self.name));
        }
        // Kills the rest of its group. Mostly the group is empty, which is not an error.
        if let Some(group) = self.group {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().await.ok();
        timeout(LAST_OUTPUT, join_all(&mut self.output)).await.ok();
    }
}

/// Copies lines to the screen, each with its prefix. Those that say nothing of interest are copied only if `verbose`.
async fn copy(lines: impl AsyncRead + Unpin, prefix: String, screen: Arc<Progress>, verbose: bool) {
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        if verbose || !is_routine(&text) {
            screen.print(&format!("{prefix}{}", in_line(text.trim_end())));
        }
        line.clear();
    }
}

/// Whether nats-server has written a line that is neither a warning nor an error: `[27791] [INF] Server is ready`. It
/// has no setting to leave these lines out.
fn is_routine(line: &str) -> bool {
    let number = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    number.is_some_and(|(number, rest)| number.bytes().all(|byte| byte.is_ascii_digit()) && rest.starts_with("[INF]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routine_lines_of_nats_server_are_left_out() {
        for (line, expected) in [
            ("[27791] [INF] Server is ready\n", true),
            ("[27791] [INF] \n", true),
            ("[27791] [WRN] JetStream is slow\n", false),
            ("[27791] [FTL] Can't start JetStream\n", false),
            ("nats-server: nats.conf:1:1: wrong\n", false),
            ("WARN tickwire_gateway: [1] [INF]\n", false),
        ] {
            assert_eq!(is_routine(line), expected, "{line}");
        }
    }
}
