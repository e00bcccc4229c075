//! The rendered metrics. One rendering at a time, shared by all requests that arrived before it began, and then a pause
//! after it. So any number of requests uses a small part of one processor, and nothing else waits.

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The pause after a rendering is this many times as long as the rendering.
const PAUSE: u32 = 9;

/// The longest pause. Prometheus waits ten seconds for a scrape by default.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Renders metrics for requests.
#[derive(Debug)]
pub(super) struct Scrapes<R> {
    render: R,
    /// The number of requests so far.
    asked: AtomicU64,
    // Locked during a rendering, and during the pause before it.
    last: Mutex<Rendered>,
}

/// The last rendering.
#[derive(Debug)]
struct Rendered {
    text: Bytes,
    /// The number of requests when the rendering began: for those it is new.
    asked: u64,
    /// When the next may begin.
    next: Instant,
}

impl<R: Fn() -> String> Scrapes<R> {
    pub(super) fn new(render: R) -> Self {
        let last = Rendered { text: Bytes::new(), asked: 0, next: Instant::now() };
        Self { render, asked: AtomicU64::new(0), last: Mutex::new(last) }
    }

    /// The text of a rendering that began after this call.
    pub(super) async fn text(&self) -> Bytes {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        if last.asked < mine {
            sleep_until(last.next).await;
            let (asked, begun) = (self.asked.load(Ordering::SeqCst), Instant::now());
            let text = (self.render)().into();
            let next = Instant::now() + (begun.elapsed() * PAUSE).min(LONGEST_PAUSE);
            *last = Rendered { text, asked, next };
        }
        last.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    /// Renders the number of renderings so far, and takes the time `took` for each.
    fn counting(took: Duration) -> Scrapes<impl Fn() -> String> {
        let count = AtomicU64::new(0);
        Scrapes::new(move || {
            let begun = Instant::now();
            while begun.elapsed() < took {
                std::hint::spin_loop();
            }
            (count.fetch_add(1, Ordering::SeqCst) + 1).to_string()
        })
    }

    #[tokio::test]
    async fn requests_during_a_rendering_share_the_next_one() {
        let scrapes = counting(Duration::from_millis(1));
        assert_eq!(scrapes.text().await, "1");
        let texts = join_all((0..1_000).map(|_| scrapes.text())).await;
        assert!(texts.iter().all(|text| text == "2"), "all requests arrived before the second rendering");
        assert_eq!(scrapes.text().await, "3", "a new request gets a new rendering");
    }

    #[tokio::test]
    async fn endless_requests_use_a_tenth_of_a_processor() {
        const TOOK: Duration = Duration::from_millis(2);
        let scrapes = counting(TOOK);
        let begun = Instant::now();
        for _ in 0..10 {
            scrapes.text().await;
        }
        assert!(begun.elapsed() >= TOOK * (9 * PAUSE + 10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn cancelled_request_leaves_its_turn_to_the_next() {
        // After a rendering of 100 ms comes a pause of 900 ms. So the request still waits, however busy the machine is.
        let scrapes = counting(Duration::from_millis(100));
        scrapes.text().await;
        let cancelled = tokio::time::timeout(Duration::from_millis(1), scrapes.text()).await;
        assert!(cancelled.is_err(), "it waits for the pause to end");
        assert_eq!(scrapes.text().await, "2");
    }
}
