//! What a session may know of the saved subscriptions of its user, as docs/protocol.md describes it. A client does not
//! see when its gateway reads a change, so several states may explain the lists that it has received.

use std::collections::BTreeSet;

use super::super::NAME;
use crate::simulator::saved::{NamedFilters, SavedVersion};

/// One state that a session may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionState {
    /// The place of the version that it has followed last; 0 before the first.
    version: usize,
    /// The first version that it may follow next.
    least: usize,
    /// The names in its version that it does not follow: the client has done something itself under them.
    left: BTreeSet<&'static str>,
    /// The names that the client has ended. The session may have followed a version while such a subscription still had
    /// to end, and then it counts as the client's own.
    ended: BTreeSet<&'static str>,
}

/// The states that explain what a client has received, of a user with these versions.
#[derive(Clone, Debug)]
pub(super) struct SessionStates(BTreeSet<SessionState>);

impl SessionState {
    /// The saved subscriptions that it follows.
    fn followed(&self, versions: &[SavedVersion]) -> NamedFilters {
        let mut followed = versions[self.version].filters.clone();
        followed.retain(|name, _| !self.left.contains(name));
        followed
    }

    /// The state after the session has followed another version. `has_own`: the client has a subscription of its own.
    /// `counts_ended`: what it has ended still counts as that.
    fn follow(&self, versions: &[SavedVersion], to: usize, has_own: bool, counts_ended: bool) -> Self {
        let known = &versions[self.version].filters;
        let is_left = |name: &&'static str| match known.contains_key(name) {
            true => self.left.contains(name),
            false => has_own && *name == NAME || counts_ended && self.ended.contains(name),
        };
        let left = versions[to].filters.keys().copied().filter(is_left).collect();
        let ended = if counts_ended { self.ended.clone() } else { BTreeSet::new() };
        Self { version: to, least: to, left, ended }
    }

    /// All states after the session has followed one more version, if `list` is in force.
    fn next(&self, versions: &[SavedVersion], list: &NamedFilters) -> Vec<Self> {
        let has_own = list.contains_key(NAME) && !self.followed(versions).contains_key(NAME);
        let counts_ended: &[bool] = if self.ended.is_empty() { &[false] } else { &[true, false] };
        let mut next = Vec::new();
        for to in self.least..versions.len() {
            next.extend(counts_ended.iter().map(|counts| self.follow(versions, to, has_own, *counts)));
        }
        next
    }
}

impl SessionStates {
    /// A new session, at a gateway that knows this version or a later one.
    pub(super) fn new(least: usize) -> Self {
        let state = SessionState { version: 0, least, left: BTreeSet::new(), ended: BTreeSet::new() };
        Self(BTreeSet::from([state]))
    }

    /// Whether none explains what was received.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a session may lack the newest version.
    pub(super) fn may_lack(&self, versions: &[SavedVersion]) -> bool {
        self.0.iter().any(|state| state.version + 1 < versions.len())
    }

    /// Whether a session that has this list may have followed the newest version.
    pub(super) fn may_be_newest(&self, versions: &[SavedVersion], list: &NamedFilters) -> bool {
        self.settled(versions, list).0.iter().any(|state| state.version + 1 == versions.len())
    }

    /// The session has sent another list without a request. The states in which it follows another version since then.
    pub(super) fn changed(&self, versions: &[SavedVersion], before: &NamedFilters, now: &NamedFilters) -> Self {
        let mut changed = BTreeSet::new();
        for state in &self.settled(versions, before).0 {
            let followed = state.followed(versions);
            for next in state.next(versions, before) {
                let follows = next.followed(versions);
                let mut expected = before.clone();
                expected.retain(|name, _| !followed.contains_key(name));
                expected.extend(&follows);
                if follows != followed && expected == *now {
                    changed.insert(next);
                }
            }
        }
        Self(changed)
    }

    /// The session has sent this list as the answer to a resume with the client's own subscription, or with none.
    /// `has_quota`: the client's own one has a quota, so it is equal to no saved one.
    pub(super) fn resumed(
        &self,
        versions: &[SavedVersion],
        before: &NamedFilters,
        (own, has_quota): (Option<u32>, bool),
        now: &NamedFilters,
    ) -> Self {
        let mut resumed = BTreeSet::new();
        for state in &self.settled(versions, before).0 {
            for to in state.least..versions.len() {
                let mut next = state.follow(versions, to, own.is_some(), false);
                // What is equal to the saved one of its name is that one.
                if !has_quota && own.is_some() && versions[to].filters.get(NAME) == own.as_ref() {
                    next.left.remove(NAME);
                }
                let mut expected = next.followed(versions);
                expected.extend(own.map(|own| (NAME, own)));
                if expected == *now {
                    resumed.insert(next);
                }
            }
        }
        Self(resumed)
    }

    /// The session has answered a request of the client under this name, or under all. `ends` says whether the request
    /// has ended subscriptions.
    pub(super) fn acted(
        &self,
        versions: &[SavedVersion],
        list: &NamedFilters,
        (name, ends): (Option<&'static str>, bool),
    ) -> Self {
        let is_named = |known: &&'static str| name.is_none_or(|name| name == *known);
        let act = |mut state: SessionState| {
            state.left.extend(versions[state.version].filters.keys().copied().filter(is_named));
            if ends {
                state.ended.extend(list.keys().copied().filter(is_named));
            }
            state
        };
        Self(self.settled(versions, list).0.into_iter().map(act).collect())
    }

    /// These states, and those in which the session has followed other versions that have not changed its list.
    fn settled(&self, versions: &[SavedVersion], list: &NamedFilters) -> Self {
        let mut open: Vec<SessionState> = self.0.iter().cloned().collect();
        let mut settled = self.0.clone();
        while let Some(state) = open.pop() {
            let followed = state.followed(versions);
            for next in state.next(versions, list) {
                if next.followed(versions) == followed && settled.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Self(settled)
    }
}

#[test]
fn only_lists_that_follow_from_what_was_saved_are_explained() {
    let filters = |named: &[(&'static str, u32)]| named.iter().copied().collect::<NamedFilters>();
    let versions: [&[(&'static str, u32)]; 5] =
        [&[], &[("a", 1)], &[("a", 1), (NAME, 2)], &[(NAME, 2)], &[("a", 3), (NAME, 2)]];
    let versions = versions.map(|named| SavedVersion { write: 0, filters: filters(named) });
    let nothing = NamedFilters::new();
    let new = SessionStates::new(1);
    assert!(new.changed(&versions, &nothing, &filters(&[("a", 2)])).is_empty(), "never saved");
    assert!(!new.may_be_newest(&versions, &nothing));

    // The client ends a saved one. It returns only if the user did not have it meanwhile.
    let one = filters(&[("a", 1)]);
    let ended = new.changed(&versions, &nothing, &one).acted(&versions, &one, (Some("a"), true));
    assert!(ended.changed(&versions, &nothing, &one).is_empty());
    let both = filters(&[("a", 3), (NAME, 2)]);
    assert!(ended.changed(&versions, &nothing, &both).is_empty());
    let mine = filters(&[(NAME, 2)]);
    let changed = ended.changed(&versions, &nothing, &mine);
    assert!(changed.may_be_newest(&versions, &mine));
    assert!(!changed.changed(&versions, &mine, &both).is_empty());

    // The client's own one counts more, and one that it resumes with is the saved one that is equal.
    let own = filters(&[("a", 1), (NAME, 7)]);
    let subscribed = new.changed(&versions, &nothing, &one).acted(&versions, &one, (Some(NAME), false));
    assert!(subscribed.changed(&versions, &own, &filters(&[("a", 1), (NAME, 2)])).is_empty());
    assert!(!subscribed.changed(&versions, &own, &filters(&[(NAME, 7)])).is_empty());
    let resumed = |has_quota| new.resumed(&versions[..4], &nothing, (Some(2), has_quota), &mine);
    assert_eq!(
        [false, true].map(|has_quota| resumed(has_quota).0.iter().all(|state| state.left.is_empty())),
        [true, false]
    );
}
