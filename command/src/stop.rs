//! Waits for the signals that stop a command, and stops child processes.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, Read};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT (Ctrl-C) or SIGTERM.
pub fn on_signal() -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        signalled.cancel();
    });
    Ok(stop)
}

/// Calls `then` when standard input ends, because the process at its other end has closed it or has died. A thread
/// reads it: a process can end while a thread waits, but not while the runtime does.
pub fn when_input_ends(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let watch = || {
        let mut scrap = [0; 256];
        let mut stdin = io::stdin().lock();
        while matches!(stdin.read(&mut scrap), Ok(1..)) {}
        then();
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(watch)?;
    Ok(())
}

/// Sends a child SIGTERM, and waits until it ends; `None` if it has not ended after `grace`.
pub async fn end(child: &mut Child, grace: Duration) -> io::Result<Option<ExitStatus>> {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // The signal fails if the child has ended meanwhile. The wait below returns its status then.
        kill_process(pid, Signal::TERM).ok();
    }
    timeout(grace, child.wait()).await.ok().transpose()
}
