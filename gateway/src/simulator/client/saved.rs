//! Clients that get the saved subscriptions of their users. Every list of subscriptions that such a client receives
//! must follow from what its user has saved, in the order in which gateways may know it, and from what the client has
//! done itself (`states`). The list says what the client is promised from its position on.

mod states;

use std::collections::BTreeSet;

use serde_json::json;
use tickwire_core::protocol::codes::ErrorCode;
use tickwire_core::protocol::{Id, ServerError, SubscriptionName, Subscriptions, Welcome};

use super::facts::ClusterFacts;
use super::promise::PromiseStart;
use super::{ClientRequest, NAME, SimClient};
use crate::simulator::fixtures::{SAVED_NAMES, filter_number};
use crate::simulator::saved::{NamedFilters, SimSaved};
use states::SessionStates;

/// What a client knows of saved subscriptions.
#[derive(Debug)]
pub(super) struct ClientSaved {
    /// Whether it asks for its list at once if it has nothing else to send after the welcome.
    asks: bool,
    /// How many requests it has sent in this connection, and how many of them are answered. A request has its number as
    /// its id.
    sent: u64,
    answered: u64,
    /// The first version that the gateway may apply.
    least: usize,
    /// Whether `welcome` has named saved subscriptions, and nothing shows yet that they were applied.
    is_held: bool,
    /// The last list of this connection.
    list: NamedFilters,
    /// Whether the subscription with the common name is the client's own.
    owns: bool,
    states: SessionStates,
    /// For each list of all connections, the filters that events may match while it is in force.
    lists: Vec<BTreeSet<u32>>,
}

impl ClientSaved {
    /// The id of the next request.
    pub(super) fn next_id(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The number of the list that is in force.
    pub(super) fn list_in_force(&self) -> usize {
        self.lists.len().checked_sub(1).expect("events come after a list")
    }
}

impl SimClient {
    /// Has it get the saved subscriptions of its user, from its first connection on. `asks`: it asks for its list at
    /// once if it has nothing else to send.
    pub(in super::super) fn take_saved(&mut self, asks: bool) {
        self.saved = Some(Box::new(ClientSaved {
            asks,
            sent: 0,
            answered: 0,
            least: 0,
            is_held: false,
            list: NamedFilters::new(),
            owns: false,
            states: SessionStates::new(0),
            lists: Vec::new(),
        }));
    }

    pub(super) fn takes_saved(&self) -> bool {
        self.saved.is_some()
    }

    /// A connection begins, to a gateway that has read the saved subscriptions up to a write.
    pub(super) fn connect_with_saved(&mut self, all: &SimSaved, read_through: u64) {
        let Some(saved) = &mut self.saved else { return };
        (saved.sent, saved.answered, saved.is_held) = (0, 0, false);
        saved.least = all.version_at(&self.user, read_through);
        saved.states = SessionStates::new(saved.least);
        saved.list.clear();
    }

    fn saved(&self) -> &ClientSaved {
        self.saved.as_deref().expect("it gets saved subscriptions")
    }

    fn saved_mut(&mut self) -> &mut ClientSaved {
        self.saved.as_deref_mut().expect("it gets saved subscriptions")
    }

    /// The filters that events may match while a list of this number is in force.
    pub(super) fn filters_of(&self, list: usize) -> &BTreeSet<u32> {
        &self.saved().lists[list]
    }

    /// Processes the welcome, and sends the first requests: a resume if a subscription is in force that continues.
    pub(super) fn begin_with_saved(&mut self, welcome: &Welcome, facts: &ClusterFacts) {
        let versions = facts.saved.versions(&self.user);
        let names = || welcome.subscriptions.iter().map(SubscriptionName::as_str);
        let is_named = |at: &usize| versions[*at].filters.keys().copied().eq(names());
        let least = (self.saved().least..versions.len()).find(is_named);
        let least = least.unwrap_or_else(|| panic!("{welcome:?} names none of {versions:#?}: {self:#?}"));
        let is_held = !welcome.subscriptions.is_empty();
        let saved = self.saved_mut();
        (saved.least, saved.is_held, saved.states) = (least, is_held, SessionStates::new(least));
        let own = self.in_force.iter().find(|promise| promise.name == NAME).map(|promise| promise.filter);
        let own = own.filter(|_| self.saved().owns && self.wanted.is_some());
        let continues = !self.in_force.is_empty() && (own.is_some() || is_held);
        if !continues {
            return self.begin_anew();
        }
        let mut from = self.position.clone().expect("a promise has a position");
        let frame = self.resume(&from, own);
        self.add_seen(&mut from);
        self.send(frame, ClientRequest::ResumeSaved(own, from));
        if let Some(wanted) = self.wanted.filter(|wanted| own != Some(*wanted)) {
            self.subscribe(wanted);
        }
    }

    /// Begins like a new client. What it has seen at another gateway says nothing of its new subscriptions.
    fn begin_anew(&mut self) {
        self.end_promises(|_| true);
        self.seen.clear();
        let saved = self.saved_mut();
        saved.owns = false;
        let asks = saved.asks;
        match self.wanted {
            Some(wanted) => self.subscribe(wanted),
            None if asks => self.send(json!({ "action": "list" }), ClientRequest::List),
            None => {}
        }
    }

    /// Unsubscribes from a subscription that is in force.
    pub(in super::super) fn end_one(&mut self, name: &'static str) {
        let is_welcome = self.connection.as_ref().is_some_and(|connection| connection.is_welcome);
        if !is_welcome || !self.saved.as_ref().is_some_and(|saved| saved.list.contains_key(name)) {
            return;
        }
        if name == NAME {
            self.wanted = None;
        }
        self.send(json!({ "action": "unsubscribe", "name": name }), ClientRequest::End(name));
    }

    /// Receives a list of subscriptions: the answer to the oldest request, or a change of the saved ones.
    pub(super) fn receive_list(&mut self, list: &Subscriptions, is_subscribed: bool, facts: &ClusterFacts) {
        let now = self.named_filters(list);
        let request = list.id.as_ref().map(|id| self.take_request(id));
        let oldest = self.connection.as_ref().and_then(|connection| connection.requests.first());
        if request.is_none() && matches!(oldest, Some(ClientRequest::ResumeSaved(..))) {
            // The gateway has not waited for the resume, and refuses it. The client tries it in another connection.
            assert!(self.may_be_late(facts), "saved subscriptions come before the resume: {self:#?}");
            return self.disconnect();
        }
        let is_first = self.saved().is_held;
        assert!(request.is_some() || is_first || !is_subscribed, "this answers nothing: {list:?}: {self:#?}");
        let states = self.explain(request.as_ref(), &now, facts);
        if states.is_empty() {
            let versions = facts.saved.versions(&self.user);
            panic!("nothing explains {now:?} as the answer to {request:?} with {versions:#?}: {self:#?}");
        }
        let saved = self.saved_mut();
        (saved.states, saved.is_held) = (states, false);
        let changes_own = saved.list.get(NAME) != now.get(NAME);
        match &request {
            Some(ClientRequest::Subscribe(..) | ClientRequest::ResumeHere(..)) => saved.owns = true,
            Some(ClientRequest::ResumeSaved(own, _)) => saved.owns = own.is_some(),
            Some(ClientRequest::EndAll) => saved.owns = false,
            Some(ClientRequest::End(name)) if *name == NAME => saved.owns = false,
            None if changes_own => self.give_up_own(),
            _ => {}
        }
        self.follow_list(request.as_ref(), &now, &list.position, facts);
        self.saved_mut().list = now;
        self.serve_from(facts.now);
    }

    /// The client's own subscription was equal to the saved one of its name, and that has changed: it was that one. A
    /// new one may wait for its answer.
    fn give_up_own(&mut self) {
        let is_own =
            |request: &ClientRequest| matches!(request, ClientRequest::Subscribe(..) | ClientRequest::ResumeHere(..));
        if !self.connection.as_ref().is_some_and(|connection| connection.requests.iter().any(is_own)) {
            self.wanted = None;
        }
        self.saved_mut().owns = false;
    }

    /// The states of the session that explain a list.
    fn explain(&self, request: Option<&ClientRequest>, now: &NamedFilters, facts: &ClusterFacts) -> SessionStates {
        let versions = facts.saved.versions(&self.user);
        let ClientSaved { states, list: before, .. } = self.saved();
        let own = |own: Option<u32>| (own, self.quota().is_some());
        let mut expected = before.clone();
        let action = match request {
            None => return states.changed(versions, before, now),
            Some(ClientRequest::ResumeSaved(filter, _)) => return states.resumed(versions, before, own(*filter), now),
            Some(ClientRequest::ResumeHere(filter, _)) => {
                return states.resumed(versions, before, own(Some(*filter)), now);
            }
            Some(ClientRequest::Subscribe(filter, _)) => {
                expected.insert(NAME, *filter);
                Some((Some(NAME), false))
            }
            Some(ClientRequest::End(name)) => {
                assert!(expected.remove(name).is_some(), "{name} was not there: {self:#?}");
                Some((Some(*name), true))
            }
            Some(ClientRequest::EndAll) => {
                expected.clear();
                Some((None, true))
            }
            Some(ClientRequest::List) => None,
            Some(other) => panic!("a request of a client without saved subscriptions: {other:?}: {self:#?}"),
        };
        assert_eq!(expected, *now, "the answer to {request:?} is another list: {self:#?}");
        action.map_or_else(|| states.clone(), |action| states.acted(versions, before, action))
    }

    /// From the position of a list on, the client is promised what the list says.
    fn follow_list(
        &mut self,
        request: Option<&ClientRequest>,
        now: &NamedFilters,
        position: &str,
        facts: &ClusterFacts,
    ) {
        let is_new = self.connection.as_ref().is_some_and(|connection| connection.is_new);
        match request {
            Some(ClientRequest::ResumeSaved(_, from)) => self.continue_from(&PromiseStart::at(from), now),
            Some(ClientRequest::ResumeHere(_, from)) => {
                self.come_again_after(from);
                self.continue_from(&PromiseStart::at(from), now);
            }
            request => {
                self.update_position(position, facts, self.is_catching_up);
                // Without a subscription a new session has no position yet.
                if !is_new || !now.is_empty() {
                    let start = self.start_subscription(facts);
                    let is_own_new = matches!(request, Some(ClientRequest::Subscribe(..)));
                    self.keep_promises(&start, now, is_own_new);
                }
                return;
            }
        }
        self.update_position(position, facts, true);
    }

    /// A resume is answered: what is in force now is promised from its position on.
    fn continue_from(&mut self, start: &PromiseStart, now: &NamedFilters) {
        self.connection.as_mut().expect("it is connected").is_new = false;
        self.is_catching_up = true;
        self.keep_promises(start, now, false);
    }

    /// Ends the promises of all subscriptions that have ended or have another filter, and begins those of new ones.
    /// `is_own_new`: the client has replaced its own.
    fn keep_promises(&mut self, start: &PromiseStart, now: &NamedFilters, is_own_new: bool) {
        self.end_promises(|promise| {
            now.get(promise.name) != Some(&promise.filter) || is_own_new && promise.name == NAME
        });
        for (&name, &filter) in now {
            if !self.in_force.iter().any(|promise| promise.name == name) {
                self.in_force.push(start.promise(name, filter));
            }
        }
        self.filters.extend(now.values());
        let mut filters: BTreeSet<u32> = now.values().copied().collect();
        let saved = self.saved_mut();
        if start.waits {
            // What waits may match what was in force before.
            filters.extend(saved.lists.last().into_iter().flatten());
        }
        saved.lists.push(filters);
    }

    /// Receives an error that answers a request, which must be one that a correct client may get.
    pub(super) fn receive_error(&mut self, error: &ServerError, facts: &ClusterFacts) {
        let Some(connection) = &self.connection else { return };
        let Some(Id::Number(id)) = &error.id else { panic!("refused: {error:?}: {self:#?}") };
        let id = id.as_u64().expect("ids are numbers");
        let ClientSaved { answered, list, states, .. } = self.saved();
        let at = (id - answered - 1) as usize;
        match connection.requests.get(at) {
            Some(request) if request.is_resume() => {
                let may = self.may_refuse_resume(request, error, facts);
                assert!(may, "{request:?} is refused: {error:?}: {self:#?}");
                // It resumes in another connection.
                self.disconnect();
            }
            // The saved subscription was deleted before the gateway has read the request.
            Some(ClientRequest::End(name)) if at == 0 && error.code == ErrorCode::UnknownSubscription.code() => {
                assert!(!list.contains_key(name), "{name} is in force: {error:?}: {self:#?}");
                let versions = facts.saved.versions(&self.user);
                let states = states.acted(versions, list, (Some(*name), true));
                self.saved_mut().states = states;
                self.take_request(&Id::Number(id.into()));
            }
            request => panic!("{request:?} is refused: {error:?}: {self:#?}"),
        }
    }

    /// Whether a correct client may have its resume refused with a code that has to do with saved subscriptions.
    fn may_refuse_resume(&self, request: &ClientRequest, error: &ServerError, facts: &ClusterFacts) -> bool {
        let code = error.code;
        let versions = facts.saved.versions(&self.user);
        let ClientSaved { least, states, .. } = self.saved();
        match request {
            _ if code == ErrorCode::Unavailable.code() => true,
            _ if facts.is_tight && error.msg.contains("beyond the end") => true,
            ClientRequest::ResumeSaved(..) if code == ErrorCode::ResumeNotFirst.code() => self.may_be_late(facts),
            // They were deleted after the welcome, and the client has no others.
            ClientRequest::ResumeSaved(None, _) if code == ErrorCode::BadField.code() => {
                versions[*least..].iter().any(|version| version.filters.is_empty())
            }
            // A change may wait for its confirmation.
            ClientRequest::ResumeHere(..) => code == ErrorCode::ResumeNotFirst.code() && states.may_lack(versions),
            _ => false,
        }
    }

    /// Whether a session may get saved subscriptions before the resume of its client: the gateway or the client was
    /// slow, or the first ones were saved after the welcome.
    fn may_be_late(&self, facts: &ClusterFacts) -> bool {
        let ClientSaved { is_held, least, .. } = self.saved();
        let is_slow = self.connection.as_ref().is_some_and(|connection| connection.was_slow);
        is_slow || facts.has_frozen || !is_held && least + 1 < facts.saved.versions(&self.user).len()
    }

    /// Takes the oldest request, which must have this id.
    fn take_request(&mut self, id: &Id) -> ClientRequest {
        let answered = self.saved().answered + 1;
        assert_eq!(*id, Id::Number(answered.into()), "not the answer to the oldest request: {self:#?}");
        self.saved_mut().answered = answered;
        self.connection.as_mut().expect("it is connected").requests.remove(0)
    }

    /// The subscriptions of a list.
    fn named_filters(&self, list: &Subscriptions) -> NamedFilters {
        let named = list.subscriptions.iter().map(|(name, subscription)| {
            let name = SAVED_NAMES.into_iter().find(|known| *known == name.as_str());
            Some((name?, filter_number(&subscription.filter)?))
        });
        named.collect::<Option<_>>().unwrap_or_else(|| panic!("no plan has all of {list:?}: {self:#?}"))
    }

    /// Whether it has exactly what its user has saved now, except what it has ended or replaced itself, and what it
    /// wants itself. True for a client that wants no saved subscriptions, or is not connected.
    pub(in super::super) fn has_newest_saved(&self, all: &SimSaved) -> bool {
        let (Some(saved), Some(_)) = (&self.saved, &self.connection) else { return true };
        let has_own = self.wanted.is_none_or(|wanted| saved.list.get(NAME) == Some(&wanted));
        has_own && saved.states.may_be_newest(all.versions(&self.user), &saved.list)
    }
}
