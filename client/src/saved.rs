//! The saved subscriptions of the user, which the server adds to each session, and changes. Pure.
//!
//! The server lists all subscriptions of a session. Those that the client has not made itself are saved ones. They are
//! known over a reconnect, because a client that has no others must resume for their sake.

use std::collections::BTreeMap;

use tickwire_core::protocol::{Subscription, SubscriptionName, Subscriptions};

type Named = BTreeMap<SubscriptionName, Subscription>;

/// What the server has listed.
#[derive(Debug, Default)]
pub(crate) struct SavedSubscriptions {
    /// The last list of this session.
    listed: Named,
    /// Those of the last list that are not the client's own.
    saved: Named,
}

impl SavedSubscriptions {
    /// Whether the last list had none.
    pub(crate) fn is_empty(&self) -> bool {
        self.saved.is_empty()
    }

    /// A new session begins, of which no list is known.
    pub(crate) fn start_session(&mut self) {
        self.listed.clear();
    }

    /// Takes a list of the server, and the subscriptions that the client has made. Returns the saved ones if they are
    /// others than before.
    ///
    /// Only saved subscriptions change without a request. So a subscription of the client's that does is the saved one
    /// of its name, to which it was equal in a `resume`. The client leaves it to the server from then on.
    pub(crate) fn take<T>(&mut self, list: &Subscriptions, own: &mut BTreeMap<SubscriptionName, T>) -> Option<Named> {
        let now = &list.subscriptions;
        if list.id.is_none() {
            own.retain(|name, _| self.listed.get(name).is_none_or(|before| now.get(name) == Some(before)));
        }
        self.listed.clone_from(now);
        let saved = now.iter().filter(|(name, _)| !own.contains_key(*name));
        let saved: Named = saved.map(|(name, subscription)| (name.clone(), subscription.clone())).collect();
        if saved == self.saved {
            return None;
        }
        self.saved.clone_from(&saved);
        Some(saved)
    }
}

#[cfg(test)]
mod tests {
    use tickwire_core::protocol::Id;

    use super::*;

    fn name(text: &str) -> SubscriptionName {
        SubscriptionName::new(text).unwrap()
    }

    /// A list of these names, each with this window.
    fn list(id: Option<u64>, subscriptions: &[(&str, u16)]) -> Subscriptions {
        let one = |(named, window_ms): &(&str, u16)| {
            let window_ms = *window_ms;
            (
                name(named),
                Subscription { filter: Default::default(), window_ms, max_events_per_hour: None, alert: false },
            )
        };
        let id = id.map(|id| Id::Number(id.into()));
        Subscriptions::new(id, subscriptions.iter().map(one).collect(), "p".into())
    }

    fn own(names: &[&str]) -> BTreeMap<SubscriptionName, ()> {
        names.iter().map(|text| (name(text), ())).collect()
    }

    fn names<T>(named: &BTreeMap<SubscriptionName, T>) -> Vec<&str> {
        named.keys().map(SubscriptionName::as_str).collect()
    }

    #[test]
    fn listed_subscriptions_that_the_client_has_not_made_are_saved_ones() {
        let (mut saved, mut own) = (SavedSubscriptions::default(), own(&["mine"]));
        assert_eq!(saved.take(&list(Some(1), &[("mine", 1)]), &mut own), None);
        let changed = saved.take(&list(None, &[("a", 1), ("mine", 1)]), &mut own).unwrap();
        assert_eq!((names(&changed), names(&own)), (vec!["a"], vec!["mine"]));
        assert_eq!(saved.take(&list(Some(2), &[("a", 1), ("mine", 1)]), &mut own), None, "nothing has changed");
        let changed = saved.take(&list(None, &[("a", 2), ("mine", 1)]), &mut own).unwrap();
        assert_eq!(changed[&name("a")].window_ms, 2);
        assert!(!saved.is_empty());

        // They are remembered over a reconnect.
        saved.start_session();
        assert_eq!(saved.take(&list(Some(3), &[("a", 2), ("mine", 1)]), &mut own), None);
        assert_eq!(saved.take(&list(None, &[("mine", 1)]), &mut own), Some(BTreeMap::new()));
        assert!(saved.is_empty());
    }

    #[test]
    fn subscription_of_the_client_that_changes_without_a_request_is_a_saved_one() {
        let (mut saved, mut own) = (SavedSubscriptions::default(), own(&["a", "b", "mine"]));
        let all = [("a", 1), ("b", 1), ("mine", 1)];
        assert_eq!(saved.take(&list(Some(1), &all), &mut own), None);
        let changed = saved.take(&list(None, &[("b", 2), ("mine", 1)]), &mut own).unwrap();
        assert_eq!((names(&changed), names(&own)), (vec!["b"], vec!["mine"]));
    }

    #[test]
    fn subscription_that_waits_for_its_confirmation_stays_the_clients_own() {
        let (mut saved, mut own) = (SavedSubscriptions::default(), own(&["a"]));
        // The saved one of its name comes first.
        assert_eq!(saved.take(&list(None, &[("a", 7)]), &mut own), None);
        assert_eq!(saved.take(&list(Some(1), &[("a", 1)]), &mut own), None);
        assert_eq!(names(&own), ["a"]);
    }
}
