//! The metrics for all who ask: one rendering at a time, shared by those who asked before it began, and a pause after
//! each, so that however many ask, and however fast, they take a small part of one processor and nothing else waits.

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The pause after a rendering is so many times as long as that took.
const PAUSE: u32 = 9;

/// The longest pause. Who scrapes by the rules of Prometheus waits for ten seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Renders metrics for those who ask.
#[derive(Debug)]
pub(super) struct Scrapes<R> {
    render: R,
    /// How many have asked.
    asked: AtomicU64,
    // Held while it is rendered, and for the pause before that.
    last: Mutex<Rendered>,
}

/// The last rendering.
#[derive(Debug)]
struct Rendered {
    text: Bytes,
    /// How many had asked when it began: for them it is new.
    asked: u64,
    /// When the next may begin.
    next: Instant,
}

impl<R: Fn() -> String> Scrapes<R> {
    pub(super) fn new(render: R) -> Self {
        let last = Rendered { text: Bytes::new(), asked: 0, next: Instant::now() };
        Self { render, asked: AtomicU64::new(0), last: Mutex::new(last) }
    }

    /// What a rendering gives that began after this was called.
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

    /// Renders how often it has rendered, and takes so long for it.
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
    async fn those_who_ask_while_one_is_rendered_share_the_next() {
        let scrapes = counting(Duration::from_millis(1));
        assert_eq!(scrapes.text().await, "1");
        let texts = join_all((0..1_000).map(|_| scrapes.text())).await;
        assert!(texts.iter().all(|text| text == "2"), "all had asked when the second began");
        assert_eq!(scrapes.text().await, "3", "nobody is given what was rendered before");
    }

    #[tokio::test]
    async fn who_asks_without_end_takes_a_tenth_of_a_processor() {
        const TOOK: Duration = Duration::from_millis(2);
        let scrapes = counting(TOOK);
        let begun = Instant::now();
        for _ in 0..10 {
            scrapes.text().await;
        }
        assert!(begun.elapsed() >= TOOK * (9 * PAUSE + 10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn one_who_goes_before_its_turn_leaves_it_to_the_next() {
        let scrapes = counting(Duration::from_millis(5));
        scrapes.text().await;
        let gone = tokio::time::timeout(Duration::from_millis(1), scrapes.text()).await;
        assert!(gone.is_err(), "it waits for the pause to end");
        assert_eq!(scrapes.text().await, "2");
    }
}
