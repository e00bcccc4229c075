//! Repeated warnings become one line with a count. While NATS is away, or does not store, dozens of sources fail in the
//! same way every second. An operator needs the first line of each sort, and the number of the others.
//!
//! Within a window the first lines of one place in the code are written, each text once. The others are counted, and
//! the count is written in one line when the window is over or the node has ended. Only nodes do this.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::layer::{Context, Filter};

/// The length of a window.
const WINDOW: Duration = Duration::from_secs(30);

/// How many different lines of one place are written within a window.
const LINES: usize = 6;

/// The target of our own lines, which are never held back.
const TARGET: &str = "tickwire_node::repeated";

/// The lines of this process.
static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// The current window of each place in the code. Pure. The number of places is bounded.
#[derive(Debug, Default)]
struct Repeats(HashMap<Identifier, RepeatWindow>);

#[derive(Debug)]
struct RepeatWindow {
    since: Instant,
    /// The hashes of the written lines.
    lines: Vec<u64>,
    /// How many lines were not written.
    repeated: u64,
    /// Their message.
    message: String,
}

impl Repeats {
    /// Whether a line of this place is written now.
    fn admit(&mut self, now: Instant, place: Identifier, line: u64, message: &str) -> bool {
        let fresh = || RepeatWindow { since: now, lines: Vec::new(), repeated: 0, message: message.to_owned() };
        let window = self.0.entry(place).or_insert_with(fresh);
        if now.duration_since(window.since) >= WINDOW && window.repeated == 0 {
            *window = fresh();
        }
        let is_new = window.lines.len() < LINES && !window.lines.contains(&line);
        if is_new {
            window.lines.push(line);
        } else {
            window.repeated += 1;
        }
        is_new
    }

    /// Ends the windows that have lasted for `least`. Returns the repeated message of each, its count, and the
    /// duration.
    fn end(&mut self, now: Instant, least: Duration) -> Vec<(String, u64, Duration)> {
        let mut over = Vec::new();
        self.0.retain(|_, window| {
            let age = now.duration_since(window.since);
            if age < least {
                return true;
            }
            if window.repeated > 0 {
                over.push((std::mem::take(&mut window.message), window.repeated, age));
            }
            false
        });
        over
    }
}

/// Keeps repeated warnings and errors out of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct RepeatFilter;

impl<S: Subscriber> Filter<S> for RepeatFilter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET {
            return true;
        }
        let mut line = LogLine::default();
        event.record(&mut line);
        let mut hasher = DefaultHasher::new();
        line.text.hash(&mut hasher);
        lock().admit(Instant::now(), metadata.callsite(), hasher.finish(), &line.message)
    }
}

/// Writes the counts of windows that are over. Call it at intervals.
pub(super) fn write_ended() {
    write(WINDOW);
}

/// Writes the counts that were not written yet, at the end of the process.
pub(super) fn write_all() {
    write(Duration::ZERO);
}

fn write(least: Duration) {
    // The lock is released before anything is written, because writing takes it again.
    let over = lock().end(Instant::now(), least);
    for (message, count, lasted) in over {
        warn!(target: TARGET, count, seconds = lasted.as_secs(), "repeated: {message}");
    }
}

fn lock() -> MutexGuard<'static, Repeats> {
    REPEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An event as text.
#[derive(Default)]
struct LogLine {
    text: String,
    message: String,
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a `String` cannot fail.
        write!(self.text, "{}={value:?};", field.name()).ok();
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tests::Captured;
    use tracing::Callsite;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, fmt};

    fn place() -> Identifier {
        tracing::callsite!(name: "place", kind: tracing::metadata::Kind::EVENT, fields: message).metadata().callsite()
    }

    #[test]
    fn each_text_is_written_once_up_to_a_limit_and_the_rest_is_counted() {
        let (mut repeats, place, start) = (Repeats::default(), place(), Instant::now());
        let mut written = 0;
        for number in 0..100_u64 {
            let now = start + Duration::from_millis(number * 100);
            written += usize::from(repeats.admit(now, place.clone(), number % 3, "no KV"));
        }
        assert_eq!(written, 3);
        for number in 0..10 {
            written += usize::from(repeats.admit(start, place.clone(), 10 + number, "no KV"));
        }
        assert_eq!(written, LINES);
        assert_eq!(repeats.end(start + WINDOW - Duration::from_millis(1), WINDOW), []);
        assert_eq!(repeats.end(start + WINDOW, WINDOW), [("no KV".to_owned(), 104, WINDOW)]);
        assert!(repeats.admit(start + WINDOW, place, 1, "no KV"));
        assert_eq!(repeats.end(start + WINDOW * 3, WINDOW), []);
        assert!(repeats.0.is_empty());
    }

    #[test]
    fn last_repeats_are_written_when_the_process_ends() {
        let (mut repeats, place, start) = (Repeats::default(), place(), Instant::now());
        for _ in 0..5 {
            repeats.admit(start, place.clone(), 1, "no KV");
        }
        let end = Duration::from_secs(2);
        assert_eq!(repeats.end(start + end, Duration::ZERO), [("no KV".to_owned(), 4, end)]);
        assert_eq!(repeats.end(start + end, Duration::ZERO), []);
    }

    #[test]
    fn repeated_warnings_are_held_back_but_other_levels_are_not() {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone()).with_filter(RepeatFilter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..50 {
                tracing::warn!(error = "timed out", "KV cannot be reached");
                tracing::info!("all is well");
            }
            write_all();
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let count = |words: &str| text.lines().filter(|line| line.contains(words)).count();
        assert_eq!((count("KV cannot be reached"), count("all is well")), (2, 50));
        assert_eq!((count("repeated: KV cannot be reached"), count("count=49")), (1, 1), "{text}");
    }
}
