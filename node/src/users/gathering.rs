//! The answers of gateways to one question, and the gateways that have not answered. Pure.

use super::messages::UserAnswer;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::{Role, View};

/// How many bytes of answers one question may gather. The sessions and the rates of further answers are left out.
const GATHERED_BYTES: usize = 4 * 1024 * 1024;

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    answers: BTreeMap<NodeRef, UserAnswer>,
    silent: BTreeSet<NodeRef>,
    bytes: usize,
}

impl Gathering {
    /// Nothing is known yet of the gateways of this view.
    pub(super) fn of(view: &View) -> Self {
        let gateways = view.members.iter().filter(|member| member.role == Role::Gateway);
        Self { silent: gateways.map(|member| member.node.clone()).collect(), ..Self::default() }
    }

    /// This node answers for itself, whether the view has it or not.
    pub(super) fn expect(&mut self, gateway: &NodeRef) {
        self.silent.insert(gateway.clone());
    }

    /// A gateway has answered with this many bytes. Only its first answer counts, and none of a gateway that was not
    /// asked: a stranger may invent any number of them.
    pub(super) fn note(&mut self, gateway: NodeRef, mut answer: UserAnswer, bytes: usize) {
        if !self.silent.remove(&gateway) {
            return;
        }
        if let UserAnswer::Sessions(list) = &mut answer
            && self.bytes.saturating_add(bytes) > GATHERED_BYTES
        {
            list.sessions.clear();
            list.rate = Value::Null;
        } else {
            self.bytes += bytes;
        }
        self.answers.insert(gateway, answer);
    }

    /// Whether all gateways have answered, except perhaps `me`, which does not answer over NATS.
    pub(super) fn has_all_but(&self, me: &NodeRef) -> bool {
        self.silent.iter().all(|gateway| gateway == me)
    }

    /// Whether all gateways have answered.
    pub(super) fn is_complete(&self) -> bool {
        self.silent.is_empty()
    }

    /// The answers by gateway.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&NodeRef, &UserAnswer)> {
        self.answers.iter()
    }

    /// The gateways that have not answered.
    pub(super) fn silent(&self) -> impl Iterator<Item = &str> {
        self.silent.iter().map(|gateway| gateway.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::messages::SessionList;
    use serde_json::json;
    use tickwire_core::ids::{NodeId, Nonce};
    use tickwire_core::placement::Member;

    fn node(name: &str, nonce: u64) -> NodeRef {
        NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(nonce) }
    }

    fn gathering() -> Gathering {
        let member = |name, role| Member { node: node(name, 1), role, weight: 1, draining: false };
        let members = vec![member("gw-1", Role::Gateway), member("gw-2", Role::Gateway), member("r-1", Role::Router)];
        Gathering::of(&View { version: 1, members, ..View::default() })
    }

    fn silent(gathering: &Gathering) -> Vec<&str> {
        gathering.silent().collect()
    }

    #[test]
    fn gateways_are_silent_until_they_answer_and_count_once() {
        let mut gathering = gathering();
        let me = node("gw-1", 1);
        assert_eq!((silent(&gathering), gathering.is_complete()), (vec!["gw-1", "gw-2"], false));
        gathering.note(node("gw-2", 1), UserAnswer::Closed(2), 10);
        assert!(gathering.has_all_but(&me) && !gathering.is_complete());
        // The question may reach a gateway twice, and its sessions are closed only once.
        gathering.note(node("gw-2", 1), UserAnswer::Closed(0), 10);
        gathering.note(me, UserAnswer::Closed(1), 0);
        assert!(gathering.is_complete());
        let closed: Vec<_> = gathering.answers().map(|(gateway, answer)| (gateway.id.as_str(), answer)).collect();
        assert_eq!(closed, [("gw-1", &UserAnswer::Closed(1)), ("gw-2", &UserAnswer::Closed(2))]);
    }

    #[test]
    fn other_start_of_a_gateway_does_not_answer_for_the_one_of_the_view() {
        let mut gathering = gathering();
        gathering.expect(&node("gw-3", 1));
        for (name, nonce) in [("gw-1", 1), ("gw-2", 2), ("gw-3", 1)] {
            gathering.note(node(name, nonce), UserAnswer::Closed(0), 10);
        }
        assert_eq!(silent(&gathering), ["gw-2"]);
        assert_eq!(gathering.answers().count(), 2, "an answer of a gateway that was not asked does not count");
    }

    #[test]
    fn answers_beyond_the_bound_lose_their_sessions_but_not_their_count() {
        let mut gathering = gathering();
        for name in ["gw-1", "gw-2"] {
            let list = SessionList::new(Value::Null, [json!({ "session": "s" })].into_iter());
            gathering.note(node(name, 1), UserAnswer::Sessions(list), GATHERED_BYTES / 2 + 1);
        }
        let truncated: Vec<bool> = gathering
            .answers()
            .map(|(_, answer)| match answer {
                UserAnswer::Sessions(list) => list.is_truncated(),
                UserAnswer::Closed(_) => panic!("{answer:?}"),
            })
            .collect();
        assert_eq!((truncated, gathering.is_complete()), (vec![false, true], true));
    }
}
