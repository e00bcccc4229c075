//! How a node stops: in two phases, drain and force.
//!
//! Every task and thread of a node is started here, so that each has an owner: if one fails or panics, the whole node
//! stops, with the reason in the log. SIGTERM, SIGINT or a failure begins the drain, in which tasks finish their work
//! and end. A second signal, or the end of the grace, begins the force, in which tasks drop their work.

mod signals;

pub use signals::StopSignals;

use crate::metrics;
use futures_util::FutureExt;
use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, thread};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

/// How long tasks may take to end after the force. Tasks that have not ended then end with the process.
const FORCE_GRACE: Duration = Duration::from_secs(2);

/// The tasks of a node, and the two tokens that stop them. Clones share both.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    tasks: TaskTracker,
    drain: CancellationToken,
    force: CancellationToken,
    failed: Arc<AtomicBool>,
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All tasks finished their work, in time.
    Drained,
    /// Some task had to be stopped hard.
    Forced,
    /// A task failed, which is why the node stopped.
    Failed,
}

impl Outcome {
    /// The exit code of the process: 0 when it drained in time, else 1.
    pub fn exit_code(self) -> ExitCode {
        if self == Self::Drained { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Shutdown {
    /// A node without tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when tasks should take no new work, finish their work, and end.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when tasks should drop their work and end.
    pub fn force(&self) -> &CancellationToken {
        &self.force
    }

    /// Starts a task. Its error or panic stops the node; its return does not.
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let shutdown = self.clone();
        let watched = async move { shutdown.task_ended(name, AssertUnwindSafe(task).catch_unwind().await) };
        self.tasks.spawn(watched.instrument(info_span!("task", task = name)));
    }

    /// Starts a task that cannot fail, other than by a panic.
    pub fn spawn_infallible(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, task.map(Ok::<(), Infallible>));
    }

    /// Starts work that does not end with the request that asks for it. The drain waits for it, and the force cuts it
    /// off. There is no result if the force or a panic has ended the work; a panic ends nothing else. `None` once the
    /// drain has begun: then the work is not started.
    pub fn spawn_work<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        // While this exists the drain goes on, so no work can start that nobody waits for.
        let _waiting = self.tasks.token();
        if self.drain.is_cancelled() {
            return None;
        }
        let (sender, result) = oneshot::channel();
        let force = self.force.clone();
        let watched = async move {
            match force.run_until_cancelled(work).await {
                Some(output) => {
                    // If the receiver is gone, nobody wants the result.
                    sender.send(output).ok();
                }
                None => warn!(task = name, "work not finished at the forced stop"),
            }
        };
        self.tasks.spawn(contain(name, watched).instrument(info_span!("task", task = name)));
        Some(result)
    }

    /// Starts a task that runs while the others drain, until `stop` is cancelled. The shutdown does not wait for it;
    /// its starter does. Its panic, or an end before `stop`, stops the node.
    pub fn spawn_beside(
        &self,
        name: &'static str,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let shutdown = self.clone();
        let watched = async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let is_early = ended.is_ok() && !stop.is_cancelled();
            shutdown.task_ended(name, ended.map(|()| if is_early { Err("ended by itself") } else { Ok(()) }));
        };
        tokio::spawn(watched.instrument(info_span!("task", task = name)))
    }

    /// Starts a thread, for work with a runtime of its own. The rules for tasks apply to it.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn spawn_thread<E: Display>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> io::Result<()> {
        let (shutdown, alive) = (self.clone(), self.tasks.token());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let span = info_span!("thread", thread = name);
            span.in_scope(|| shutdown.task_ended(name, catch_unwind(AssertUnwindSafe(work))));
            drop(alive);
        })?;
        Ok(())
    }

    /// Begins the drain because of a failure, which is logged and makes the exit code 1.
    pub fn fail(&self, reason: impl Display) {
        error!(%reason, "failed, stopping the node");
        self.failed.store(true, Ordering::Relaxed);
        self.drain.cancel();
    }

    /// Whether a failure has begun the drain.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Runs until a signal or a failure begins the drain, then until all tasks have ended or had to be forced.
    pub async fn run(&self, grace: Duration, mut signals: StopSignals) -> Outcome {
        self.run_with(grace, async || signals.next().await).await
    }

    async fn run_with(&self, grace: Duration, mut next_signal: impl AsyncFnMut() -> &'static str) -> Outcome {
        tokio::select! {
            name = next_signal() => info!(signal = name, "signal received, draining"),
            () = self.drain.cancelled() => {}
        }
        self.drain.cancel();
        self.tasks.close();
        let drained = tokio::select! {
            biased;
            () = self.tasks.wait() => true,
            name = next_signal() => {
                warn!(signal = name, tasks = self.tasks.len(), "second signal received, stopping hard");
                false
            }
            () = sleep(grace) => {
                warn!(?grace, tasks = self.tasks.len(), "not drained in time, stopping hard");
                false
            }
        };
        if !drained {
            self.force.cancel();
            if timeout(FORCE_GRACE, self.tasks.wait()).await.is_err() {
                warn!(tasks = self.tasks.len(), "tasks still running at the forced stop");
            }
        }
        let outcome = match (self.has_failed(), drained) {
            (true, _) => Outcome::Failed,
            (false, true) => Outcome::Drained,
            (false, false) => Outcome::Forced,
        };
        info!(?outcome, "stopped");
        outcome
    }

    fn task_ended<E: Display>(&self, name: &str, end: Result<Result<(), E>, Box<dyn Any + Send>>) {
        match end {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(format_args!("{name}: {error}")),
            Err(panic) => self.fail(format_args!("{name} panicked: {}", panic_text(&*panic))),
        }
    }
}

/// Runs the task of one connection, or of one request. A panic is logged and counted, and ends only that.
pub async fn contain(part: &'static str, work: impl Future<Output = ()>) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        metrics::CONNECTION_PANICS.with(part).increment(1);
        error!(part, panic = panic_text(&*panic), "connection ended by a panic");
    }
}

/// The text of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::Instant;

    const GRACE: Duration = Duration::from_secs(10);

    /// Signals that arrive when the sender sends.
    fn signals() -> (tokio::sync::mpsc::UnboundedSender<()>, impl AsyncFnMut() -> &'static str) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let next = async move || match receiver.recv().await {
            Some(()) => "TEST",
            None => pending().await,
        };
        (sender, next)
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_end_in_time_give_outcome_drained() {
        let shutdown = Shutdown::new();
        let (signal, next_signal) = signals();
        let drain = shutdown.drain().clone();
        shutdown.spawn_infallible("drains", async move {
            drain.cancelled().await;
            sleep(GRACE / 2).await;
        });
        shutdown.spawn_infallible("ends early", async {});
        signal.send(()).unwrap();
        let start = Instant::now();
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Drained);
        assert_eq!(start.elapsed(), GRACE / 2);
        assert!(!shutdown.force().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_outlasts_the_grace_is_forced() {
        let shutdown = Shutdown::new();
        let (signal, next_signal) = signals();
        let force = shutdown.force().clone();
        shutdown.spawn_infallible("lingers", async move { force.cancelled().await });
        signal.send(()).unwrap();
        let start = Instant::now();
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Forced);
        assert_eq!(start.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn second_signal_forces_at_once_with_a_deadline() {
        let shutdown = Shutdown::new();
        let (signal, next_signal) = signals();
        shutdown.spawn_infallible("hangs", pending());
        signal.send(()).unwrap();
        signal.send(()).unwrap();
        let start = Instant::now();
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Forced);
        assert_eq!(start.elapsed(), FORCE_GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn task_error_stops_the_node() {
        let shutdown = Shutdown::new();
        let (_signal, next_signal) = signals();
        let drain = shutdown.drain().clone();
        shutdown.spawn_infallible("other", async move { drain.cancelled().await });
        shutdown.spawn("fails", async { Err("no more paper") });
        assert!(!shutdown.has_failed());
        shutdown.drain().cancelled().await;
        assert!(shutdown.has_failed(), "this is not a drain on request");
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn task_panic_stops_the_node() {
        let shutdown = Shutdown::new();
        let (_signal, next_signal) = signals();
        shutdown.spawn_infallible("panics", async { panic!("on purpose: {}", 1) });
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Failed);
    }

    #[tokio::test]
    async fn threads_count_as_tasks() {
        let shutdown = Shutdown::new();
        let (signal, next_signal) = signals();
        let drain = shutdown.drain().clone();
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            runtime.block_on(drain.cancelled());
            Err("ended badly")
        };
        shutdown.spawn_thread("shard", work).unwrap();
        signal.send(()).unwrap();
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn task_beside_the_drain_ends_on_stop_and_its_failure_stops_the_node() {
        let (shutdown, stop) = (Shutdown::new(), CancellationToken::new());
        let task = shutdown.spawn_beside("beside", stop.clone(), stop.clone().cancelled_owned());
        stop.cancel();
        task.await.unwrap();
        assert!(!shutdown.drain().is_cancelled());
        for panics in [false, true] {
            let shutdown = Shutdown::new();
            let (_, next_signal) = signals();
            shutdown.spawn_beside("beside", CancellationToken::new(), async move { assert!(!panics, "at work") });
            assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Failed, "{panics}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_outlives_its_request_and_the_drain_waits_for_it() {
        let shutdown = Shutdown::new();
        let (signal, next_signal) = signals();
        let (done, finished) = oneshot::channel();
        let work = async move {
            sleep(GRACE / 2).await;
            done.send(()).unwrap();
        };
        drop(shutdown.spawn_work("work", work).unwrap());
        signal.send(()).unwrap();
        let start = Instant::now();
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Drained);
        assert_eq!((start.elapsed(), finished.await.is_ok()), (GRACE / 2, true));
        assert!(shutdown.spawn_work("late", async {}).is_none(), "nobody would wait for it");
    }

    #[tokio::test(start_paused = true)]
    async fn work_has_no_result_after_the_force_or_a_panic() {
        let shutdown = Shutdown::new();
        let (signal, next_signal) = signals();
        let panicked = shutdown.spawn_work::<()>("panics", async { panic!("at work") }).unwrap();
        assert!(panicked.await.is_err());
        let hung = shutdown.spawn_work("hangs", pending::<()>()).unwrap();
        signal.send(()).unwrap();
        assert_eq!(shutdown.run_with(GRACE, next_signal).await, Outcome::Forced);
        assert!(hung.await.is_err());
    }

    #[tokio::test]
    async fn panic_of_a_connection_is_contained() {
        contain("test", async { panic!("at work") }).await;
    }
}
