//! What one gateway told of its interest, kept so that others may hold it while it moves on: nothing is copied for
//! them where it is told.

use std::sync::Arc;

use crate::ids::UserId;
use crate::interest::{Delta, Interest};

/// The most steps that gather. Everyone who holds the interest holds them too.
const STEPS: usize = 64;

/// An interest that is held by several: one revision of it, and the steps since.
#[derive(Clone, Debug, Default)]
pub struct Told {
    base: Arc<Interest>,
    steps: Vec<Arc<Delta>>,
    /// How much the steps say.
    gathered: usize,
}

impl Told {
    /// An interest that others hold as it is here.
    #[must_use]
    pub fn new(interest: Interest) -> Self {
        Self { base: Arc::new(interest), steps: Vec::new(), gathered: 0 }
    }

    /// The interest at its last step. Takes a copy if others hold it at an earlier one.
    #[must_use]
    pub fn latest(mut self) -> Arc<Interest> {
        self.take_steps();
        self.base
    }

    #[cfg(test)]
    pub(super) fn base(&self) -> Arc<Interest> {
        Arc::clone(&self.base)
    }

    /// Those who stray, at the last step.
    pub(super) fn strays(&mut self) -> Vec<UserId> {
        self.take_steps();
        self.base.strays.iter().cloned().collect()
    }

    /// Takes a step. While others hold the interest, steps gather until they are as much as a copy of it is, or many.
    pub(super) fn step(&mut self, delta: Arc<Delta>) {
        self.gathered += delta.entries();
        self.steps.push(delta);
        let is_worth_a_copy = self.gathered > self.base.wants.len() + self.base.strays.len();
        if is_worth_a_copy || self.steps.len() >= STEPS || Arc::get_mut(&mut self.base).is_some() {
            self.take_steps();
        }
    }

    fn take_steps(&mut self) {
        if !self.steps.is_empty() {
            let base = Arc::make_mut(&mut self.base);
            self.steps.drain(..).for_each(|delta| base.apply(&delta));
            self.gathered = 0;
        }
    }
}
