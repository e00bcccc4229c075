//! Waiting for a condition with a deadline, in place of a sleep that hopes.

use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long to leave between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `probe` until it gives `Some`, and returns what it gave; panics naming `what` when `deadline` has passed.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// use std::time::Duration;
/// let mut looks = 0;
/// let seen = tickwire_testkit::eventually("three looks", Duration::from_secs(1), async || {
///     looks += 1;
///     (looks == 3).then_some(looks)
/// });
/// assert_eq!(seen.await, 3);
/// # });
/// ```
pub async fn eventually<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        sleep(PAUSE).await;
    }
}
