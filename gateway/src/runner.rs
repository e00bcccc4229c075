//! The thread of a shard: it waits for the edge, for sockets and for the clock, and lets the shard decide.

use std::cell::RefCell;
use std::future::{poll_fn, ready};
use std::io;
use std::rc::Rc;

use tickwire_node::clock::{Clock, Turns};
use tokio::runtime;
use tokio::sync::mpsc::Receiver;
use tokio::task::LocalSet;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::messages::ToShard;
use crate::shard::Shard;
use crate::socket::Ready;

/// How many messages of the edge are taken before sockets have their turn.
const TURN_MESSAGES: usize = 64;

/// Runs a shard until it is forced to end, or has drained.
pub(crate) fn run(
    shard: Shard,
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
    shard: Rc<RefCell<Shard>>,
    mut inbox: Receiver<ToShard>,
    drain: &CancellationToken,
    force: &CancellationToken,
) {
    let mut messages = Vec::with_capacity(TURN_MESSAGES);
    let clock = Clock::start();
    let mut draining = false;
    let mut turns = Turns::default();
    loop {
        let (wake, has_past) = {
            let shard = shard.borrow();
            (clock.at(turns.next(shard.next_turn())), shard.has_past())
        };
        // After each turn of the clock the edge has one, however much is due.
        let is_inputs = turns.is_inputs();
        tokio::select! {
            biased;
            () = force.cancelled() => return,
            () = drain.cancelled(), if !draining => {
                draining = true;
                shard.borrow_mut().drain(clock.now());
            }
            () = sleep_until(wake), if !is_inputs => {
                let now = clock.now();
                shard.borrow_mut().turn(now);
                turns.took(now);
            }
            taken = inbox.recv_many(&mut messages, TURN_MESSAGES) => {
                if taken == 0 {
                    return;
                }
                let mut shard = shard.borrow_mut();
                for message in messages.drain(..) {
                    shard.take(clock.now(), message);
                }
            }
            () = ready(()), if has_past => shard.borrow_mut().digest(clock.now()),
            () = ready(()), if is_inputs => {}
        }
        let welcomed = {
            let mut shard = shard.borrow_mut();
            shard.publish_stats();
            shard.welcomed()
        };
        for number in welcomed {
            tokio::task::spawn_local(watch(Rc::clone(&shard), clock, number));
        }
        if draining && shard.borrow().is_empty() {
            return;
        }
        // Sockets that became ready have their turn even under a steady stream of events.
        tokio::task::yield_now().await;
    }
}

/// Tells the shard when a session's socket can be read or, if bytes wait, written. Ends with the session.
///
/// There is one such task for every socket, so it holds as little as it can: the socket stays with its session.
async fn watch(shard: Rc<RefCell<Shard>>, clock: Clock, number: u64) {
    while let Some(ready) = poll_fn(|cx| shard.borrow_mut().poll_ready(cx, number)).await {
        let now = clock.now();
        let mut shard = shard.borrow_mut();
        match ready {
            Ready::Readable => shard.readable(now, number),
            Ready::Writable => shard.writable(now, number),
            Ready::Broken => shard.gone(now, number),
        }
    }
}
