//! The progress of a bench, for its user.

use std::time::Duration;

use super::scenario::Plan;
use super::through::Through;
use tickwire_command::progress::Progress;

/// The progress bar of a run, with the number of the run.
#[derive(Debug)]
pub(crate) struct Screen {
    progress: Progress,
    run: String,
    seconds: f64,
}

impl Screen {
    /// The screen of run `number` of `of`.
    pub(crate) fn new(number: usize, of: usize, through: Through, plan: &Plan) -> Self {
        let seconds = (plan.warm_up() + plan.measured).as_secs_f64();
        let run = format!("{} through {}, run {number} of {of}", plan.scenario.name(), through.name());
        Self { progress: Progress::of_steps(seconds.ceil() as u64), run, seconds }
    }

    /// Shows what is being done.
    pub(crate) fn show(&self, what: &str) {
        self.progress.show(format!("{}: {what}", self.run));
    }

    /// Shows how many sockets are ready.
    pub(crate) fn connecting(&self, ready: u64, of: u32) {
        self.show(&format!("{ready} of {of} sockets ready"));
    }

    /// Events come since `time`.
    pub(crate) fn running(&self, plan: &Plan, time: Duration, events: u64) {
        let seconds = time.as_secs_f64();
        self.progress.at(seconds as u64);
        let phase = if time < plan.warm_up() { "warming up" } else { "measuring" };
        self.show(&format!("{phase}, {:.0} of {:.0} s, {events} deliveries", seconds.min(self.seconds), self.seconds));
    }
}
