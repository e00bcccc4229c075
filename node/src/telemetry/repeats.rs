//! Warnings that repeat are one line with a count. While NATS is away, or does not store, dozens of sources meet the same
//! trouble every second; what an operator needs is the first of each sort, and how many there were.
//!
//! Within a window the first lines of one place in the code are written as they are, each text once; the others are
//! counted, and told in one line when the window is over or the node has ended. Only nodes do so.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::layer::{Context, Filter};

/// How long repeated lines are gathered.
const WINDOW: Duration = Duration::from_secs(30);

/// How many different lines of one place are written within that.
const LINES: usize = 6;

/// The place of our own lines, which are never held back.
const TARGET: &str = "tickwire_node::repeated";

/// The lines of this process.
static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// What was written of each place in the code. Pure. There are only so many places.
#[derive(Debug, Default)]
struct Repeats(HashMap<Identifier, RepeatWindow>);

#[derive(Debug)]
struct RepeatWindow {
    since: Instant,
    /// What was written.
    lines: Vec<u64>,
    /// How many lines were not.
    repeated: u64,
    /// What they say.
    message: String,
}

impl Repeats {
    /// Whether a line of this place is to be written now.
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

    /// Ends the windows that have lasted for `least`. Gives what was repeated in them, how often, and for how long.
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
pub(super) struct Once;

impl<S: Subscriber> Filter<S> for Once {
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

/// Writes how often lines were repeated, of windows that are over. To be called now and then.
pub(super) fn tell() {
    write(WINDOW);
}

/// Writes how often lines were repeated and nobody was told yet, at the end of the process.
pub(super) fn tell_all() {
    write(Duration::ZERO);
}

fn write(least: Duration) {
    // The lock is free again before anything is written, which asks for it.
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
        // A text takes whatever is written.
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
    fn each_text_is_written_once_and_only_so_many_and_the_rest_is_counted_in_one_line() {
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
    fn what_was_repeated_last_is_not_lost_when_the_process_ends() {
        let (mut repeats, place, start) = (Repeats::default(), place(), Instant::now());
        for _ in 0..5 {
            repeats.admit(start, place.clone(), 1, "no KV");
        }
        let end = Duration::from_secs(2);
        assert_eq!(repeats.end(start + end, Duration::ZERO), [("no KV".to_owned(), 4, end)]);
        assert_eq!(repeats.end(start + end, Duration::ZERO), []);
    }

    #[test]
    fn a_warning_is_held_back_and_told_at_the_end_and_what_is_no_warning_never() {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone()).with_filter(Once);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..50 {
                tracing::warn!(error = "timed out", "KV cannot be reached");
                tracing::info!("all is well");
            }
            tell_all();
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let count = |words: &str| text.lines().filter(|line| line.contains(words)).count();
        assert_eq!((count("KV cannot be reached"), count("all is well")), (2, 50));
        assert_eq!((count("repeated: KV cannot be reached"), count("count=49")), (1, 1), "{text}");
    }
}
