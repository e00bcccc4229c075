//! What a session does with the saved subscriptions of its user. Pure.
//!
//! A session follows the saved set: what is saved is added, replaced and removed. What the client itself does under a
//! name counts more, and only for this session: after that, the session does not follow this name.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickwire_core::ids::Millis;
use tickwire_core::protocol::{SubscriptionName, SubscriptionRequest};

use super::SavedSet;

/// The saved subscriptions, as a session knows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionSaved {
    /// Until when they are held back, so that the client can resume first; `None` once they were applied.
    pub(crate) held_until: Option<Millis>,
    /// Whether they may have changed since they were last looked up, because something waited then.
    pub(crate) is_behind: bool,
    known: BTreeMap<SubscriptionName, KnownSaved>,
}

#[derive(Clone, Debug)]
struct KnownSaved {
    request: Arc<SubscriptionRequest>,
    /// Whether the session follows it.
    is_followed: bool,
}

/// What a session has to do.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SavedSteps {
    /// The subscriptions to end.
    pub(crate) removed: Vec<SubscriptionName>,
    /// Those to add or replace.
    pub(crate) wanted: Vec<(SubscriptionName, Arc<SubscriptionRequest>)>,
}

impl SessionSaved {
    /// Takes what is saved now. `is_taken` says whether the client itself has a subscription of a name, or has asked
    /// for one.
    pub(crate) fn follow(&mut self, set: &SavedSet, is_taken: impl Fn(&SubscriptionName) -> bool) -> SavedSteps {
        let mut steps = SavedSteps::default();
        self.known.retain(|name, known| {
            let is_saved = set.contains_key(name);
            if !is_saved && known.is_followed {
                steps.removed.push(name.clone());
            }
            is_saved
        });
        for (name, request) in set {
            let is_followed = match self.known.get(name) {
                Some(known) if known.request == *request => continue,
                Some(known) => known.is_followed,
                None => !is_taken(name),
            };
            self.known.insert(name.clone(), KnownSaved { request: Arc::clone(request), is_followed });
            if is_followed {
                steps.wanted.push((name.clone(), Arc::clone(request)));
            }
        }
        steps
    }

    /// The client has subscribed or unsubscribed under this name.
    pub(crate) fn leave(&mut self, name: &SubscriptionName) {
        if let Some(known) = self.known.get_mut(name) {
            known.is_followed = false;
        }
    }

    /// The client has unsubscribed from everything.
    pub(crate) fn leave_all(&mut self) {
        self.known.values_mut().for_each(|known| known.is_followed = false);
    }

    /// The client has resumed with a subscription that is equal to the saved one.
    pub(crate) fn join(&mut self, name: &SubscriptionName) {
        if let Some(known) = self.known.get_mut(name) {
            known.is_followed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> SubscriptionName {
        SubscriptionName::new(text).unwrap()
    }

    /// A set of these names, each with this window.
    fn set(wanted: &[(&str, u16)]) -> SavedSet {
        let one = |(named, window_ms): &(&str, u16)| {
            let fields = serde_json::from_value(json!({ "window_ms": window_ms })).unwrap();
            (name(named), Arc::new(SubscriptionRequest::read(fields).unwrap()))
        };
        wanted.iter().map(one).collect()
    }

    /// The removed names, and the wanted ones with their windows.
    fn follow(saved: &mut SessionSaved, now: &[(&str, u16)], taken: &[&str]) -> (Vec<String>, Vec<(String, u16)>) {
        let steps = saved.follow(&set(now), |name| taken.contains(&name.as_str()));
        let removed = steps.removed.iter().map(|name| name.as_str().to_owned()).collect();
        let wanted = steps.wanted.iter().map(|(name, request)| (name.as_str().to_owned(), request.window_ms.unwrap()));
        (removed, wanted.collect())
    }

    fn steps(removed: &[&str], wanted: &[(&str, u16)]) -> (Vec<String>, Vec<(String, u16)>) {
        let text = |name: &&str| (*name).to_owned();
        (removed.iter().map(text).collect(), wanted.iter().map(|(name, ms)| ((*name).to_owned(), *ms)).collect())
    }

    #[test]
    fn session_follows_what_is_saved() {
        let mut saved = SessionSaved::default();
        assert_eq!(follow(&mut saved, &[("a", 1), ("b", 1)], &[]), steps(&[], &[("a", 1), ("b", 1)]));
        assert_eq!(follow(&mut saved, &[("a", 1), ("b", 1)], &["a", "b"]), steps(&[], &[]));
        assert_eq!(follow(&mut saved, &[("b", 2), ("c", 1)], &["a", "b"]), steps(&["a"], &[("b", 2), ("c", 1)]));
        assert_eq!(follow(&mut saved, &[], &["b", "c"]), steps(&["b", "c"], &[]));
        assert_eq!(follow(&mut saved, &[("a", 1)], &[]), steps(&[], &[("a", 1)]));
    }

    #[test]
    fn what_the_client_does_under_a_name_counts_more() {
        let mut saved = SessionSaved::default();
        assert_eq!(follow(&mut saved, &[("a", 1), ("b", 1)], &["a"]), steps(&[], &[("b", 1)]));
        saved.leave(&name("b"));
        assert_eq!(follow(&mut saved, &[("a", 2), ("b", 2)], &["a"]), steps(&[], &[]));
        assert_eq!(follow(&mut saved, &[("c", 1)], &["a"]), steps(&[], &[("c", 1)]), "others end with their client");
        saved.leave_all();
        assert_eq!(follow(&mut saved, &[("c", 2)], &[]), steps(&[], &[]));
        saved.join(&name("c"));
        assert_eq!(follow(&mut saved, &[], &["c"]), steps(&["c"], &[]));
    }
}
