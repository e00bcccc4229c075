//! How far a command is: one line at the bottom of a terminal, drawn over and over, or a line now and then where there
//! is no terminal. It goes to standard error, so that standard output holds results alone.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a new line is written where none can be drawn over.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How often to [`show`](Progress::show).
pub const REDRAW_INTERVAL: Duration = Duration::from_millis(250);

/// The line.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    // Held only to compare and set a time.
    written: Mutex<Instant>,
}

impl Progress {
    /// For work without a known end.
    pub fn endless() -> Self {
        Self::of(ProgressBar::new_spinner(), "{msg}")
    }

    /// For work over `total` bytes.
    pub fn of_bytes(total: u64) -> Self {
        Self::of(ProgressBar::new(total), "{wide_bar} {bytes}/{total_bytes} {msg}")
    }

    /// For work of `total` steps.
    pub fn of_steps(total: u64) -> Self {
        Self::of(ProgressBar::new(total), "{bar:30} {msg}")
    }

    fn of(bar: ProgressBar, template: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, written: Mutex::new(Instant::now()) }
    }

    /// Shows how far the work is.
    pub fn show(&self, text: String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(text);
            return;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.elapsed() >= LINE_INTERVAL {
            *written = Instant::now();
            self.warn(&text);
        }
    }

    /// Sets how many bytes or steps of the known total are done.
    pub fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Writes to standard output, with the line out of the way.
    pub fn print(&self, text: &str) {
        // The work goes on even if nothing reads the output any more.
        self.bar.suspend(|| writeln!(io::stdout(), "{text}").ok());
    }

    /// Writes to standard error, with the line out of the way.
    pub fn warn(&self, text: &str) {
        self.bar.suspend(|| writeln!(io::stderr(), "{text}").ok());
    }
}

impl Drop for Progress {
    /// Leaves no line behind.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A count, and its rate over the last two seconds.
#[derive(Debug)]
pub struct Meter {
    /// How many there were.
    pub count: u64,
    rate: f64,
    since: Instant,
    before: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter {
    /// Over how long a rate is measured.
    const SPAN: Duration = Duration::from_secs(2);

    /// Counts from zero.
    pub fn new() -> Self {
        Self { count: 0, rate: 0.0, since: Instant::now(), before: 0 }
    }

    /// How many came a second in the last full span.
    pub fn rate(&mut self) -> f64 {
        let span = self.since.elapsed();
        if span >= Self::SPAN {
            self.rate = (self.count - self.before) as f64 / span.as_secs_f64();
            (self.since, self.before) = (Instant::now(), self.count);
        }
        self.rate
    }
}
