//! Waits for a condition with a deadline, instead of a fixed sleep.

use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The pause between two probes of a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `probe` until it returns `Some`, and returns the value. Panics with `what` when `deadline` has passed.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// use std::time::Duration;
/// let mut probes = 0;
/// let value = tickwire_testkit::eventually("three probes", Duration::from_secs(1), async || {
///     probes += 1;
///     (probes == 3).then_some(probes)
/// });
/// assert_eq!(value.await, 3);
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
