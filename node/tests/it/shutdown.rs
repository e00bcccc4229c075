//! A real signal begins the drain.

use futures_util::FutureExt;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;
use tickwire_node::shutdown::{Outcome, Shutdown, StopSignals};

#[tokio::test]
async fn sigterm_begins_the_drain() {
    let shutdown = Shutdown::new();
    let drain = shutdown.drain().clone();
    shutdown.spawn_infallible("worker", async move { drain.cancelled().await });
    let signals = StopSignals::listen().unwrap();
    let mut run = pin!(shutdown.run(Duration::from_secs(10), signals));
    assert!(run.as_mut().now_or_never().is_none());
    let own_id = std::process::id().to_string();
    assert!(Command::new("kill").args(["-TERM", &own_id]).status().unwrap().success());
    assert_eq!(run.await, Outcome::Drained);
}
