//! How many lines about sessions a shard writes in a second, so that clients that come and go do not fill the disk.
//! Lines about sessions that miss something have a part of their own, and a user who connects again and again uses up
//! only the user's own part. Pure.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};

use tickwire_core::ids::{Millis, UserId};

/// The most lines of a gateway in a second, about sessions that miss nothing, and about the others.
const LINES: usize = 200;

/// The least part of a shard.
const LEAST: usize = 10;

/// The most lines in a second about sessions of one user that miss nothing. Users share these parts by their hashes.
const USER_LINES: u8 = 10;

/// How many such parts there are.
const USERS: usize = 256;

/// The lines of a shard. The shard asks while it borrows the session that the line is about, so this changes inside.
#[derive(Debug)]
pub(in crate::shard) struct LineBudget {
    /// The most lines in a second, of either sort.
    most: usize,
    counts: RefCell<LineCounts>,
}

/// The lines of one second.
#[derive(Debug)]
struct LineCounts {
    second: u64,
    plain: usize,
    missed: usize,
    by_user: [u8; USERS],
    /// The lines that were not written since they were last reported.
    suppressed: u64,
}

impl LineBudget {
    /// The budget of one of so many shards.
    pub(in crate::shard) fn new(shards: usize) -> Self {
        Self { most: (LINES / shards.max(1)).max(LEAST), counts: RefCell::new(LineCounts::new(0, 0)) }
    }

    /// Whether a line about a session of a user is written now; `misses` says whether the session misses something.
    pub(super) fn admits(&self, now: Millis, user: &UserId, misses: bool) -> bool {
        let mut counts = self.counts.borrow_mut();
        let second = now.0 / 1_000;
        if second != counts.second {
            *counts = LineCounts::new(second, counts.suppressed);
        }
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        let place = (hasher.finish() % USERS as u64) as usize;
        let is_admitted = match misses {
            true => counts.missed < self.most,
            false => counts.plain < self.most && counts.by_user[place] < USER_LINES,
        };
        match (is_admitted, misses) {
            (true, true) => counts.missed += 1,
            (true, false) => {
                counts.plain += 1;
                counts.by_user[place] += 1;
            }
            (false, _) => counts.suppressed += 1,
        }
        is_admitted
    }

    /// How many lines were not written since the last call.
    pub(super) fn take_suppressed(&self) -> u64 {
        std::mem::take(&mut self.counts.borrow_mut().suppressed)
    }
}

impl LineCounts {
    fn new(second: u64, suppressed: u64) -> Self {
        Self { second, plain: 0, missed: 0, by_user: [0; USERS], suppressed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserId {
        UserId::new(&format!("u{number}")).unwrap()
    }

    /// How many of the lines about sessions of these users are written.
    fn written(budget: &LineBudget, now: u64, users: impl Iterator<Item = usize>, misses: bool) -> usize {
        users.filter(|number| budget.admits(Millis(now), &user(*number), misses)).count()
    }

    #[test]
    fn lines_in_a_second_are_bounded_and_the_others_counted() {
        let budget = LineBudget::new(4);
        assert_eq!(written(&budget, 5_000, 0..1_000, false), LINES / 4);
        assert_eq!(written(&budget, 5_999, 0..1_000, false), 0);
        assert_eq!((budget.take_suppressed(), budget.take_suppressed()), (2_000 - LINES as u64 / 4, 0));
        assert_eq!(written(&budget, 6_000, 0..1_000, false), LINES / 4);
        assert_eq!(written(&LineBudget::new(1_000), 0, 0..1_000, false), LEAST);
    }

    #[test]
    fn sessions_that_miss_something_have_lines_of_their_own() {
        let budget = LineBudget::new(1);
        assert_eq!(written(&budget, 0, 0..10_000, false), LINES);
        assert_eq!(written(&budget, 0, std::iter::repeat_n(7, 150), true), 150, "also of one user");
        assert_eq!(written(&budget, 0, 0..1_000, true), LINES - 150);
    }

    #[test]
    fn user_who_connects_again_and_again_leaves_lines_for_others() {
        let budget = LineBudget::new(1);
        assert_eq!(written(&budget, 0, std::iter::repeat_n(7, 10_000), false), usize::from(USER_LINES));
        assert_eq!(written(&budget, 0, 100..110, false), 10);
    }
}
