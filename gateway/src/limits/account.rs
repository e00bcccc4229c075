//! The account of a user: what was sent and requested, by all sessions of the user on this gateway. Pure: the clock is
//! passed in.

use tickwire_core::ids::Millis;
use tickwire_core::protocol::SubscriptionName;

use crate::limits::backfill_slots::BackfillSlots;
use crate::limits::budget::Budget;
use crate::limits::sliding::{PerHour, PerSecond};

/// How many names of subscriptions with a quota have their own counts in an hour. Further ones share one.
const QUOTA_NAMES: usize = 256;

/// The account of a user. The fields that every delivery reads are the first ones.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Account {
    /// How many events a second may be sent to the user; 0 means no limit.
    pub rate: u32,
    /// The number of the user's sessions on this gateway.
    pub sessions: u32,
    sent: PerSecond,
    /// The budget for commands of the user's sessions.
    pub commands: Budget,
    /// The bytes of the filters of the user's sessions, and of those in their requests.
    pub(crate) filter_bytes: usize,
    /// The budget for backfills of the user's sessions, in sequences of the stream.
    pub backfill_budget: Budget,
    /// The slots for backfills of the user's sessions.
    pub(crate) backfill_slots: BackfillSlots,
    /// What was sent of subscriptions with a quota, by name. A name has one count, even with several quotas in several
    /// sessions.
    quotas: Vec<(SubscriptionName, PerHour)>,
    /// What was sent of subscriptions whose names have no count of their own.
    others: Option<Box<PerHour>>,
}

impl Account {
    /// A user without sessions, with a rate in events a second; 0 means no limit.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        let (commands, backfill_budget, backfill_slots) =
            (Budget::default(), Budget::default(), BackfillSlots::default());
        let (quotas, others) = (Vec::new(), None);
        Self {
            sessions: 0,
            rate,
            commands,
            filter_bytes: 0,
            backfill_budget,
            backfill_slots,
            sent: PerSecond::second(),
            quotas,
            others,
        }
    }

    /// How many more events may be sent to the user at `now`.
    pub fn allowance(&mut self, now: Millis) -> u32 {
        match self.rate {
            0 => u32::MAX,
            rate => rate.saturating_sub(self.sent.count(now)),
        }
    }

    /// How many events were sent to the user in the last second; `None` without a limit, since nothing is counted then.
    pub fn current_rate(&mut self, now: Millis) -> Option<u32> {
        (self.rate > 0).then(|| self.sent.count(now))
    }

    /// When more may be sent, after [`Self::allowance`] was 0.
    #[must_use]
    pub fn next_allowance(&self, now: Millis) -> Millis {
        self.sent.next_fall().map_or(now, |at| at.max(now.plus(1)))
    }

    /// Counts events that were sent to the user.
    pub fn sent(&mut self, now: Millis, events: u32) {
        if self.rate > 0 {
            self.sent.add(now, events);
        }
    }

    /// Takes one event of the subscription's quota of `most` an hour; `false` if it is used up.
    pub fn take_quota(&mut self, now: Millis, name: &SubscriptionName, most: u32) -> bool {
        let find = |quotas: &[(SubscriptionName, PerHour)]| quotas.binary_search_by(|(known, _)| known.cmp(name));
        let mut found = find(&self.quotas).ok();
        if found.is_none() {
            // Clients choose names. Without a bound they could evade a quota with new names, and the counts would grow.
            if self.quotas.len() >= QUOTA_NAMES {
                self.quotas.retain_mut(|(_, sent)| sent.count(now) > 0);
            }
            if self.quotas.len() < QUOTA_NAMES {
                let at = find(&self.quotas).unwrap_or_else(|at| at);
                self.quotas.insert(at, (name.clone(), PerHour::hour()));
                found = Some(at);
            }
        }
        let sent = match found {
            Some(at) => &mut self.quotas[at].1,
            None => self.others.get_or_insert_with(|| Box::new(PerHour::hour())),
        };
        let left = sent.count(now) < most;
        if left {
            sent.add(now, 1);
        }
        left
    }

    /// Whether the account may be removed: it has no sessions, and none of its counts would limit a new one.
    pub fn is_removable(&mut self, now: Millis) -> bool {
        let are_budgets_full = self.commands.is_full(now) && self.backfill_budget.is_full(now);
        self.sessions == 0
            && are_budgets_full
            && self.sent.count(now) == 0
            && self.quotas.iter_mut().all(|(_, sent)| sent.count(now) == 0)
            && self.others.as_mut().is_none_or(|sent| sent.count(now) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SubscriptionName {
        SubscriptionName::new(text).unwrap()
    }

    #[test]
    fn no_second_has_more_events_than_the_rate() {
        let mut account = Account::new(10);
        let mut sent = Vec::new();
        for ms in (0..5_000).step_by(7) {
            let now = Millis(ms);
            let take = account.allowance(now).min(3);
            account.sent(now, take);
            sent.push((ms, take));
            let second: u32 = sent.iter().filter(|(at, _)| ms - at < 1_000).map(|(_, take)| take).sum();
            assert!(second <= 10, "{second} at {ms} ms");
            if take == 0 {
                let next = account.next_allowance(now);
                assert!(next > now && account.clone().allowance(next) > 0);
            }
        }
        let total: u32 = sent.iter().map(|(_, take)| take).sum();
        assert!(total >= 40, "{total} of 50 in five seconds");
    }

    #[test]
    fn quota_holds_for_one_hour_and_one_name() {
        let mut account = Account::new(0);
        assert_eq!(account.allowance(Millis(0)), u32::MAX);
        let at = |minute: u64| Millis(minute * 60_000);
        assert!(account.take_quota(at(0), &name("a"), 2) && account.take_quota(at(30), &name("a"), 2));
        assert!(!account.take_quota(at(59), &name("a"), 2) && account.take_quota(at(59), &name("b"), 1));
        assert!(account.take_quota(at(61), &name("a"), 2));
        assert!(!account.is_removable(at(119)) && account.is_removable(at(122)));
    }

    #[test]
    fn names_beyond_the_limit_share_a_count() {
        let mut account = Account::new(0);
        let taken = |account: &mut Account, now, names: usize| {
            (0..names).filter(|n| account.take_quota(now, &name(&format!("s{n}")), 1)).count()
        };
        assert_eq!(taken(&mut account, Millis(0), 1_000), QUOTA_NAMES + 1);
        assert_eq!(account.quotas.len(), QUOTA_NAMES);
        assert!(account.quotas.is_sorted_by(|(a, _), (b, _)| a < b) && !account.is_removable(Millis(0)));
        assert_eq!(taken(&mut account, Millis(2 * 3_600_000), 10), 10);
    }
}
