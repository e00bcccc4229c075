//! The order of those who change the saved subscriptions of one user at this gateway, and the pauses of those whose
//! user another gateway has changed meanwhile. Without both, a change among many of one user would seldom succeed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tickwire_core::backoff::Backoff;
use tickwire_core::ids::UserId;
use tokio::sync::Mutex as AsyncMutex;

/// The longest pauses before a change is tried again, in milliseconds.
const BACKOFF: Backoff = Backoff { first: 10, most: 320 };

/// The users who are being changed here.
#[derive(Debug, Default)]
pub(super) struct Writers {
    /// An entry lives as long as somebody changes the user, or waits for that.
    orders: Mutex<HashMap<UserId, Weak<AsyncMutex<()>>>>,
}

impl Writers {
    /// Who changes this user holds its lock. Those who wait for it get it in the order in which they came.
    pub(super) fn order_of(&self, user: &UserId) -> Arc<AsyncMutex<()>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.retain(|_, order| order.strong_count() > 0);
        if let Some(order) = orders.get(user).and_then(Weak::upgrade) {
            return order;
        }
        let order = Arc::new(AsyncMutex::new(()));
        orders.insert(user.clone(), Arc::downgrade(&order));
        order
    }
}

/// The pause after this many tries. `random` spreads the writers of several gateways.
pub(super) fn pause(tries: u32, random: u64) -> Duration {
    Duration::from_millis(random % BACKOFF.after(tries).max(1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_of_one_user_wait_for_each_other_and_for_nobody_else() {
        let [ann, bob] = ["ann", "bob"].map(|name| UserId::new(name).unwrap());
        let writers = Writers::default();
        let first = writers.order_of(&ann);
        let held = first.try_lock().unwrap();
        assert!(writers.order_of(&ann).try_lock().is_err());
        assert!(writers.order_of(&bob).try_lock().is_ok());
        drop(held);
        assert!(writers.order_of(&ann).try_lock().is_ok());
        drop(first);
        drop(writers.order_of(&bob));
        assert_eq!(writers.orders.lock().unwrap().len(), 1, "users whom nobody changes are forgotten");
    }

    #[test]
    fn pauses_are_random_and_grow_with_the_tries_up_to_a_limit() {
        for (tries, most) in [(1, 10), (2, 20), (3, 40), (6, 320), (7, 320), (u32::MAX, 320)] {
            let [least, longest] = [0, most - 1].map(|random| pause(tries, random));
            assert_eq!((least, longest), (Duration::from_millis(1), Duration::from_millis(most)), "{tries}");
            assert_eq!(pause(tries, most), Duration::from_millis(1), "{tries}");
        }
    }
}
