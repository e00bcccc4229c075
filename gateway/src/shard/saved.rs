//! Applies the saved subscriptions of users to their sessions: after the welcome, and when they change.
//!
//! After the welcome they are held back until the client has sent its first request, or for [`HOLD_MS`]. A client that
//! resumes must do so before it gets any event, and its `resume` takes them along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tickwire_core::ids::{Millis, UserId};
use tickwire_core::protocol::{
    ServerError, ServerFrame, Subscription, SubscriptionName, SubscriptionRequest, SubscriptionSelector, Subscriptions,
};

use super::{Shard, ShardConfig};
use crate::granting::{FilterSize, SubscriptionFault, check_all, check_user_bytes, grant};
use crate::messages::ToEdge;
use crate::saved::in_session::SavedSteps;
use crate::shard::session::{Request, SavedChange, Session, SessionStage};
use crate::socket::Socket;

/// How long saved subscriptions are held back for a client that may resume, in milliseconds.
const HOLD_MS: u64 = 2_000;

/// Subscriptions with their names.
type Named = Vec<(SubscriptionName, Subscription)>;

impl<S: Socket> Shard<S> {
    /// Holds the saved subscriptions of a welcomed session back. Returns their names.
    pub(super) fn hold_saved(&mut self, now: Millis, number: u64) -> Vec<SubscriptionName> {
        let Some(session) = self.sessions.get_mut(number) else { return Vec::new() };
        let Some(saved) = &mut session.saved else { return Vec::new() };
        let set = self.settings.saved.of(&session.user);
        saved.held_until = (!set.is_empty()).then(|| now.plus(HOLD_MS));
        set.keys().cloned().collect()
    }

    /// Applies the saved subscriptions that were held back for a session.
    pub(super) fn apply_saved(&mut self, now: Millis, number: u64) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(saved) = session.saved.as_mut().filter(|saved| saved.held_until.is_some()) else { return };
        saved.held_until = None;
        self.follow_saved(now, number, false);
    }

    /// The saved subscriptions of a user are others than before.
    pub(crate) fn saved_changed(&mut self, now: Millis, user: &UserId) {
        for number in self.index.sessions_of(user).to_vec() {
            let session = self.sessions.get(number).filter(|session| session.stage == SessionStage::Open);
            let saved = session.and_then(|session| session.saved.as_ref());
            // Those that are held back are looked up when they are applied.
            if saved.is_some_and(|saved| saved.held_until.is_none()) {
                self.follow_saved(now, number, true);
            }
        }
    }

    /// The client decides about subscriptions itself from now on.
    pub(super) fn leave_saved(&mut self, number: u64, chosen: &SubscriptionSelector) {
        let Some(saved) = self.sessions.get_mut(number).and_then(|session| session.saved.as_mut()) else { return };
        match chosen {
            SubscriptionSelector::One(name) => saved.leave(name),
            SubscriptionSelector::All => saved.leave_all(),
        }
    }

    /// Adds the saved subscriptions to those that a client resumes with. A resumed subscription that is equal to the
    /// saved one of its name is that one.
    pub(super) fn resume_saved(&mut self, now: Millis, number: u64, resumed: &mut Named) {
        let Some(session) = self.sessions.get_mut(number) else { return };
        let Some(saved) = &mut session.saved else { return };
        saved.held_until = None;
        let set = self.settings.saved.of(&session.user);
        let SavedSteps { wanted, .. } = saved.follow(&set, |name| resumed.iter().any(|(taken, _)| taken == name));
        let ShardConfig { config, kinds, .. } = &self.settings;
        for (name, subscription) in resumed.iter() {
            let of_saved = set.get(name).and_then(|request| grant(config, kinds, name, request).ok());
            if of_saved.as_ref() == Some(subscription) {
                saved.join(name);
            }
        }
        let size = |(name, one): &(SubscriptionName, Subscription)| (name.clone(), FilterSize::of(&one.filter));
        let sizes: BTreeMap<_, _> = resumed.iter().map(size).collect();
        let of_user = self.user_filter_bytes(number) + sizes.values().map(|size| size.bytes).sum::<usize>();
        let (granted, errors) = self.granted_beside(sizes, of_user, wanted);
        resumed.extend(granted);
        self.report_saved(now, number, errors);
    }

    /// Looks up what has changed while a change, or too many requests, waited for their turn.
    pub(super) fn catch_up_with_saved(&mut self, now: Millis, number: u64) {
        let session = self.sessions.get(number).filter(|session| session.stage == SessionStage::Open);
        if session.and_then(|session| session.saved.as_ref()).is_some_and(|saved| saved.is_behind) {
            self.follow_saved(now, number, true);
        }
    }

    /// Changes the subscriptions of a session to what is saved now. One change waits for its turn at most: a name that
    /// it ends does not count as the client's own, and what waits has a bound. What changes meanwhile is looked up after
    /// it.
    fn follow_saved(&mut self, now: Millis, number: u64, is_live: bool) {
        let most = self.settings.config.max_subscriptions;
        let Some(session) = self.sessions.get_mut(number) else { return };
        let is_change = |request: &Request| matches!(request, Request::Saved { .. });
        let must_wait = session.requests.len() >= most || session.requests.iter().any(is_change);
        let mut sizes = session.sizes();
        let taken: BTreeSet<SubscriptionName> = sizes.keys().cloned().collect();
        let Some(saved) = &mut session.saved else { return };
        saved.is_behind = must_wait;
        if must_wait {
            return;
        }
        let set = self.settings.saved.of(&session.user);
        let SavedSteps { removed, wanted } = saved.follow(&set, |name| taken.contains(name));
        sizes.retain(|name, _| !removed.contains(name));
        let (granted, errors) = self.granted_beside(sizes, self.user_filter_bytes(number), wanted);
        if !granted.is_empty() || !removed.is_empty() {
            let filters: Vec<_> = granted.iter().map(|(_, one)| Arc::clone(&one.filter)).collect();
            let is_confirmed = !filters.is_empty();
            let change = SavedChange { removed, granted, is_live };
            match self.request(now, number, Request::Saved { change, is_confirmed }) {
                Ok(()) if is_confirmed => self.ask(ToEdge::Add(self.id(number), filters)),
                Ok(()) => {}
                Err(error) => self.reply(now, number, &ServerFrame::Error(error)),
            }
        }
        self.report_saved(now, number, errors);
    }

    /// It is the turn of a change by saved subscriptions.
    pub(super) fn change_by_saved(&mut self, now: Millis, number: u64, change: SavedChange) {
        let SavedChange { removed, granted, is_live } = change;
        // Waiting events are sent first, while the name and the quota of their subscription are known.
        self.flush(now, number);
        let Some(session) = self.sessions.get_mut(number) else { return };
        let ended = removed.iter().filter_map(|name| session.release(name)).collect();
        self.deactivate(number, ended);
        let granted: Vec<u32> =
            granted.into_iter().filter_map(|(name, one)| self.activate(number, name, one)).collect();
        self.owe_reminders(number, &granted);
        self.update_registration(number);
        let frame: fn(Subscriptions) -> ServerFrame =
            if is_live { ServerFrame::Subscriptions } else { ServerFrame::Subscribed };
        self.answer(now, number, None, frame);
        self.ask_for_reminders(now, number);
    }

    /// What of the saved subscriptions fits into a session beside those that have these sizes, and `of_user` bytes of
    /// its user, and an error for each other one.
    fn granted_beside(
        &self,
        mut sizes: BTreeMap<SubscriptionName, FilterSize>,
        mut of_user: usize,
        wanted: Vec<(SubscriptionName, Arc<SubscriptionRequest>)>,
    ) -> (Named, Vec<ServerError>) {
        let ShardConfig { config, kinds, .. } = &self.settings;
        let (mut granted, mut errors) = (Named::new(), Vec::new());
        for (name, request) in wanted {
            let fitting = grant(config, kinds, &name, &request).and_then(|subscription| {
                let bytes = of_user.saturating_add(subscription.filter.bytes());
                check_user_bytes(config, bytes)?;
                of_user = bytes;
                Ok(subscription)
            });
            match fitting {
                Ok(subscription) => granted.push((name, subscription)),
                Err(fault) => errors.push(not_applied(&name, fault)),
            }
        }
        // All of them change together, so one may take the room that another leaves.
        let mut together = sizes.clone();
        together.extend(granted.iter().map(|(name, one)| (name.clone(), FilterSize::of(&one.filter))));
        if check_all(config, &together).is_err() {
            granted.retain(|(name, subscription)| {
                let former = sizes.insert(name.clone(), FilterSize::of(&subscription.filter));
                let Err(fault) = check_all(config, &sizes) else { return true };
                // It does not count for those after it.
                match former {
                    Some(former) => sizes.insert(name.clone(), former),
                    None => sizes.remove(name),
                };
                errors.push(not_applied(name, fault));
                false
            });
        }
        (granted, errors)
    }

    /// Tells the client which saved subscriptions it does not get. It has not sent them, so they are not counted as its
    /// malformed frames.
    fn report_saved(&mut self, now: Millis, number: u64, errors: Vec<ServerError>) {
        for error in errors {
            self.reply(now, number, &ServerFrame::Error(error));
        }
    }
}

/// The error for a saved subscription that a session does not get.
fn not_applied(name: &SubscriptionName, (code, message): SubscriptionFault) -> ServerError {
    ServerError::new(None, code, format!("the saved subscription {:?} is not applied: {message}", name.as_str()))
}

impl<S> Session<S> {
    /// When the saved subscriptions that are held back must be applied.
    pub(crate) fn saved_due(&self) -> Option<Millis> {
        self.saved.as_ref()?.held_until
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::messages::FromEdge;
    use crate::saved::SavedSet;
    use crate::shard::fixture::ShardFixture;

    fn ann() -> UserId {
        UserId::new("ann").unwrap()
    }

    impl ShardFixture {
        /// Saves these subscriptions for the user of all clients, instead of those before.
        fn save(&mut self, saved: &Value) {
            let one = |(name, fields): (&String, &Value)| {
                let request = SubscriptionRequest::read(serde_json::from_value(fields.clone()).unwrap()).unwrap();
                (SubscriptionName::new(name).unwrap(), Arc::new(request))
            };
            let set: SavedSet = saved.as_object().unwrap().iter().map(one).collect();
            self.shard.settings.saved.set(&ann(), &Arc::new(set));
            self.shard.saved_changed(self.now, &ann());
        }

        /// The names and windows of the active subscriptions of a session.
        fn active(&self, number: u64) -> Vec<(String, u16)> {
            let session = self.shard.sessions.get(number).unwrap();
            let held = session.subscriptions.iter();
            held.map(|held| (held.name.as_str().to_owned(), held.subscription.window_ms)).collect()
        }

        fn confirm(&mut self, number: u64) {
            self.take(FromEdge::Confirmed(number));
        }

        async fn frame(&mut self, number: u64, frame: &Value) {
            self.send_frame(number, frame);
            self.settle().await;
        }

        /// Moves the clock on and does what is due.
        fn wait(&mut self, ms: u64) {
            self.now = self.now.plus(ms);
            self.turn();
        }
    }

    fn named(active: &[(&str, u16)]) -> Vec<(String, u16)> {
        active.iter().map(|(name, window_ms)| ((*name).to_owned(), *window_ms)).collect()
    }

    #[tokio::test]
    async fn saved_subscriptions_are_applied_after_the_welcome_and_follow_changes() {
        let mut fixture = ShardFixture::new();
        fixture.save(&json!({ "a": { "window_ms": 1 }, "b": { "window_ms": 2 } }));
        let number = fixture.welcome().await;
        let welcome = fixture.read_until(number, "welcome");
        assert!(welcome.contains(r#""subscriptions":["a","b"]"#), "{welcome}");
        fixture.wait(HOLD_MS + 100);
        assert!(fixture.active(number).is_empty(), "not confirmed yet");
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 1), ("b", 2)]));
        fixture.read_until(number, "subscribed");

        fixture.save(&json!({ "b": { "window_ms": 3 }, "c": { "window_ms": 4 } }));
        assert_eq!(fixture.active(number), named(&[("a", 1), ("b", 2)]));
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("b", 3), ("c", 4)]));
        fixture.read_until(number, "subscriptions\",\"sub");
        fixture.save(&json!({}));
        assert!(fixture.active(number).is_empty(), "a removal needs no confirmation");
    }

    #[tokio::test]
    async fn subscription_of_the_client_is_not_replaced() {
        let mut fixture = ShardFixture::new();
        fixture.save(&json!({ "a": { "window_ms": 1 }, "b": { "window_ms": 1 } }));
        let number = fixture.welcome().await;
        fixture.frame(number, &json!({ "action": "subscribe", "name": "a", "window_ms": 9 })).await;
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 1), ("b", 1)]), "the saved ones come first");
        fixture.confirm(number);
        fixture.frame(number, &json!({ "action": "subscribe", "name": "c", "window_ms": 9 })).await;
        fixture.save(&json!({ "a": { "window_ms": 2 }, "c": { "window_ms": 2 } }));
        assert_eq!(fixture.active(number), named(&[("a", 9), ("b", 1)]), "answers keep their order");
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 9), ("c", 9)]));
        fixture.save(&json!({}));
        assert_eq!(fixture.active(number), named(&[("a", 9), ("c", 9)]));
    }

    #[tokio::test]
    async fn subscription_that_is_saved_again_while_its_end_waits_is_applied() {
        let mut fixture = ShardFixture::new();
        fixture.save(&json!({ "a": { "window_ms": 1 } }));
        let number = fixture.welcome().await;
        fixture.frame(number, &json!({ "action": "list" })).await;
        fixture.confirm(number);
        // The end waits behind a request that is not confirmed.
        fixture.frame(number, &json!({ "action": "subscribe", "name": "own", "window_ms": 9 })).await;
        fixture.save(&json!({}));
        for window_ms in [2, 3] {
            fixture.save(&json!({ "a": { "window_ms": window_ms } }));
        }
        assert_eq!(fixture.active(number), named(&[("a", 1)]));
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("own", 9)]), "the new one is not confirmed yet");
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 3), ("own", 9)]));
    }

    #[tokio::test]
    async fn resume_takes_the_saved_subscriptions_along() {
        let mut fixture = ShardFixture::new();
        fixture.save(&json!({ "a": { "window_ms": 1 }, "b": { "window_ms": 1 } }));
        let number = fixture.welcome().await;
        let position = fixture.shard.position(number);
        let equal = json!({ "b": { "filter": { "kinds": ["pattern"] }, "window_ms": 1 }, "own": { "window_ms": 7 } });
        fixture.frame(number, &json!({ "action": "resume", "position": position, "subscriptions": equal })).await;
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 1), ("b", 1), ("own", 7)]));
        fixture.save(&json!({ "a": { "window_ms": 2 } }));
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 2), ("own", 7)]));
    }

    #[tokio::test]
    async fn resume_names_no_subscription_if_there_are_saved_ones() {
        let mut fixture = ShardFixture::new();
        for is_saved in [false, true] {
            let number = fixture.welcome().await;
            let position = fixture.shard.position(number);
            fixture.frame(number, &json!({ "action": "resume", "id": 3, "position": position })).await;
            if is_saved {
                fixture.confirm(number);
                assert_eq!(fixture.active(number), named(&[("a", 1)]));
                fixture.read_until(number, r#""subscribed","id":3"#);
            } else {
                fixture.read_until(number, r#"{"T":"error","id":3,"code":415"#);
                fixture.save(&json!({ "a": { "window_ms": 1 } }));
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_reported_and_the_others_are_applied() {
        let mut fixture = ShardFixture::new();
        fixture.shard.settings.config.max_symbols = 1;
        let two = json!({ "filter": { "symbols": ["A", "B"] } });
        fixture.save(&json!({ "a": two, "b": { "filter": { "symbols": ["A"] }, "window_ms": 1 } }));
        let number = fixture.welcome().await;
        fixture.frame(number, &json!({ "action": "list" })).await;
        fixture.read_until(number, r#""code":405"#);
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("b", 1)]));
    }

    #[tokio::test]
    async fn saved_subscription_may_take_the_room_that_another_one_leaves() {
        let mut fixture = ShardFixture::new();
        fixture.shard.settings.config.max_symbols = 3;
        let one =
            |symbols: &[&str], window_ms: u16| json!({ "filter": { "symbols": symbols }, "window_ms": window_ms });
        fixture.save(&json!({ "a": one(&["A"], 1), "b": one(&["B", "C"], 1) }));
        let number = fixture.welcome().await;
        fixture.frame(number, &json!({ "action": "list" })).await;
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 1), ("b", 1)]));
        // A session that learns of two changes at once must not ask for the room of both states.
        fixture.save(&json!({ "a": one(&["A", "B"], 2), "b": one(&["C"], 2) }));
        fixture.confirm(number);
        assert_eq!(fixture.active(number), named(&[("a", 2), ("b", 2)]));
    }
}
