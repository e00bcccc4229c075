//! The thread of a shard: it waits for the edge, for sockets and for the clock, and lets the shard decide.
//!
//! The thread owns the tasks that watch sockets. A task that panics may leave the shard in an inconsistent state, so
//! the thread panics as well, and its owner stops the node.

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

use crate::byte_queue::ByteReceiver;
use crate::messages::ToShard;
use crate::new_session::NewSession;
use crate::shard::Shard;
use crate::socket::{Ready, TcpSocket};

/// How many messages from the edge are taken before sockets have their turn.
pub(crate) const TURN_MESSAGES: usize = 64;

/// Runs a shard until it is forced to end, or has drained.
pub(crate) fn run(
    shard: Shard<TcpSocket>,
    inbox: ByteReceiver<ToShard>,
    drain: &CancellationToken,
    force: &CancellationToken,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(Rc::new(RefCell::new(shard)), inbox, drain, force));
    Ok(())
}

// The shard is never borrowed across an `await`, so that the tasks share it without a lock.
async fn serve(
    shard: Rc<RefCell<Shard<TcpSocket>>>,
    mut inbox: ByteReceiver<ToShard>,
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
            (clock.at(turns.next(shard.next_turn())), shard.has_backfill() || shard.has_commands())
        };
        // After each turn of the clock the edge has one, even if another turn is due.
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
                take_messages(&mut shard.borrow_mut(), clock, &mut messages);
            }
            () = has_commands.notified() => {}
            () = ready(()), if has_more || is_inputs => {}
        }
        let to_watch = serve_sockets(&mut shard.borrow_mut(), clock);
        for number in to_watch {
            spawn_owned(watch(Rc::clone(&shard), clock, number, Rc::clone(&has_commands)), fault.clone());
        }
        if draining && shard.borrow().is_empty() {
            return;
        }
        // Lets the tasks of ready sockets run, even under a steady stream of events.
        tokio::task::yield_now().await;
    }
}

/// Gives sockets and backfills a turn, and returns the sessions whose sockets must be watched from now on. The turn is
/// short, so that a stream of events does not block them, and a flood of commands does not block the events.
fn serve_sockets(shard: &mut Shard<TcpSocket>, clock: Clock) -> Vec<u64> {
    shard.read_sockets(clock.now());
    shard.process(clock.now());
    shard.publish_stats();
    shard.take_to_watch()
}

/// Hands messages of the edge to the shard.
fn take_messages(shard: &mut Shard<TcpSocket>, clock: Clock, messages: &mut Vec<ToShard>) {
    for message in messages.drain(..) {
        let now = clock.now();
        match message {
            ToShard::Edge(message) => shard.take(now, message),
            ToShard::Question(question) => shard.answer_question(now, question),
            ToShard::Saved(user) => shard.saved_changed(now, &user),
            ToShard::Acked(answer) => shard.answer_ack(now, answer),
            ToShard::Reminders(answer) => shard.take_reminders(now, answer),
            ToShard::Arrive(new_session) => {
                let NewSession { socket, identity, peer, takes_saved, place } = *new_session;
                // A socket that cannot be attached is closed by its drop.
                if let Ok(socket) = TcpSocket::attach(socket) {
                    shard.arrive(now, socket, identity, peer, place, takes_saved);
                }
            }
        }
    }
}

/// The payload of a panic.
type Panic = Box<dyn Any + Send>;

/// Starts a task whose panic is sent to its owner.
fn spawn_owned(task: impl Future<Output = ()> + 'static, fault: Sender<Panic>) {
    // Without an `async` block, whose future would have space for the task twice.
    spawn_local(AssertUnwindSafe(task).catch_unwind().map(move |ended| {
        if let Err(panic) = ended {
            // One panic is enough to end the thread, so the channel may already be full.
            fault.try_send(panic).ok();
        }
    }));
}

/// Calls the shard when a session's socket can be read or, if bytes wait, written. Ends with the session.
///
/// There is one such task for every socket, so it holds little memory: the socket stays in its session.
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
        // A client that always sends more yields to events and to other sockets after every turn.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_of_a_task_reaches_its_owner() {
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
