//! The thread of a shard: it waits for the edge, for sockets and for the clock, and lets the shard decide.
//!
//! The thread owns the tasks that watch sockets. One that panics may have left the shard in the middle of something, so
//! the thread ends with it, and its own owner stops the node.

use std::any::Any;
use std::cell::RefCell;
use std::future::{poll_fn, ready};
use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::rc::Rc;

use futures_util::FutureExt;
use tickwire_node::clock::{Clock, Turns};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::byte_queue::Receiver;
use crate::handshake::new_session::NewSession;
use crate::messages::ToShard;
use crate::shard::Shard;
use crate::socket::{Ready, TcpSocket};

/// How many messages of the edge are taken before sockets have their turn.
const TURN_MESSAGES: usize = 64;

/// Runs a shard until it is forced to end, or has drained.
pub(crate) fn run(
    shard: Shard<TcpSocket>,
    inbox: Receiver<ToShard>,
    drain: &CancellationToken,
    force: &CancellationToken,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(Rc::new(RefCell::new(shard)), inbox, drain, force));
    Ok(())
}

// The shard is borrowed between waits only, never across one, so that its tasks take turns without a lock.
async fn serve(
    shard: Rc<RefCell<Shard<TcpSocket>>>,
    mut inbox: Receiver<ToShard>,
    drain: &CancellationToken,
    force: &CancellationToken,
) {
    let mut messages = Vec::with_capacity(TURN_MESSAGES);
    let clock = Clock::start();
    let has_commands = Rc::new(Notify::new());
    let mut draining = false;
    let mut turns = Turns::default();
    let (fault, mut faults) = mpsc::channel(1);
    loop {
        let (wake, has_more) = {
            let shard = shard.borrow();
            (clock.at(turns.next(shard.next_turn())), shard.has_past() || shard.has_commands())
        };
        // After each turn of the clock the edge has one, however much is due.
        let is_inputs = turns.is_inputs();
        tokio::select! {
            biased;
            () = force.cancelled() => return,
            Some(panic) = faults.recv() => resume_unwind(panic),
            () = drain.cancelled(), if !draining => {
                draining = true;
                shard.borrow_mut().drain(clock.now());
            }
            () = sleep_until(wake), if !is_inputs => {
                let now = clock.now();
                shard.borrow_mut().turn(now);
                turns.took(now);
            }
            taken = inbox.take(&mut messages, TURN_MESSAGES) => {
                if taken == 0 {
                    return;
                }
                let mut shard = shard.borrow_mut();
                for message in messages.drain(..) {
                    let now = clock.now();
                    match message {
                        ToShard::Edge(said) => shard.take(now, said),
                        ToShard::Arrive(new_session) => {
                            let NewSession { socket, identity, place } = *new_session;
                            // One that cannot be taken over is closed by that.
                            if let Ok(socket) = TcpSocket::attach(socket) {
                                shard.arrive(now, socket, identity, place);
                            }
                        }
                    }
                }
            }
            () = has_commands.notified() => {}
            () = ready(()), if has_more || is_inputs => {}
        }
        let welcomed = {
            let mut shard = shard.borrow_mut();
            // These have a short turn each time, so that a steady stream of events does not keep them waiting, nor a
            // flood of commands the events.
            shard.read_sockets(clock.now());
            shard.process(clock.now());
            shard.publish_stats();
            shard.welcomed()
        };
        for number in welcomed {
            spawn_owned(watch(Rc::clone(&shard), clock, number, Rc::clone(&has_commands)), fault.clone());
        }
        if draining && shard.borrow().is_empty() {
            return;
        }
        // Sockets that became ready have their turn even under a steady stream of events.
        tokio::task::yield_now().await;
    }
}

/// What a task panicked with.
type Panic = Box<dyn Any + Send>;

/// Starts a task whose panic its owner hears of.
fn spawn_owned(task: impl Future<Output = ()> + 'static, fault: Sender<Panic>) {
    // Put together without an `async` block, which would keep room for the task twice.
    spawn_local(AssertUnwindSafe(task).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            // One panic is enough to end the thread: where another one waits already, this one changes nothing.
            fault.try_send(panic).ok();
        }
    }));
}

/// Tells the shard when a session's socket can be read or, if bytes wait, written. Ends with the session.
///
/// There is one such task for every socket, so it holds as little as it can: the socket stays with its session.
async fn watch(shard: Rc<RefCell<Shard<TcpSocket>>>, clock: Clock, number: u64, has_commands: Rc<Notify>) {
    while let Some(ready) = poll_fn(|cx| shard.borrow_mut().poll_ready(cx, number)).await {
        let now = clock.now();
        {
            let mut shard = shard.borrow_mut();
            match ready {
                Ready::Readable => {
                    shard.readable(number);
                    has_commands.notify_one();
                }
                Ready::Writable => shard.writable(now, number),
                Ready::Broken => shard.gone(now, number),
            }
        }
        // A client that always has more to say gives way to events and to the other sockets after every turn.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_noticed_by_its_owner() {
        let (fault, mut faults) = mpsc::channel(1);
        let tasks = LocalSet::new();
        let noticed = tasks.run_until(async {
            spawn_owned(async {}, fault.clone());
            for _ in 0..2 {
                spawn_owned(async { panic!("at work") }, fault.clone());
            }
            drop(fault);
            let panic = faults.recv().await.unwrap();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"at work"));
        });
        noticed.await;
    }
}
