//! Who is a member: what a coordinator makes of the beats it hears. Pure; beats and the time come in, views go out.
//!
//! * Who beats is in. A node that says goodbye is out at once, one that is silent for the timeout a little later.
//! * Under one name, the life that was first heard of later counts.
//! * The silence of a member is measured from [`Roster::restart_silence`] at the earliest: absence means nothing while
//!   nobody could have been heard. Who is no member comes in by a beat alone, never because silence is forgiven: else a
//!   node that has died would come back into the view, and what is given to it would have no owner.
//! * A beat that contradicts itself or what is known of its sender is refused, and takes nothing with it.
//! * Within a cool-down, silence takes at most half of the members of a role, but always one: if more fall silent at
//!   once, it is more likely that we are deaf.

use std::collections::BTreeMap;
use thiserror::Error;
use tickwire_core::ids::{Millis, NodeId, NodeRef};
use tickwire_core::placement::{Member, Role, View};

/// What was heard of one life of one node.
#[derive(Debug, Clone)]
struct NodeLife {
    member: Member,
    first: Millis,
    last: Millis,
    /// When it said goodbye.
    gone: Option<Millis>,
}

/// What silence has taken of a role since the cool-down began.
#[derive(Debug, Clone, Copy)]
struct RoleLosses {
    since: Millis,
    allowed: usize,
}

/// How many lives of nodes are remembered at most. Beats of further ones are refused until some are forgotten.
const LIVES: usize = 10_000;

/// The highest version of a view that can have come about by counting.
const HIGHEST: u64 = 1 << 53;

/// A beat that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BeatError {
    /// A weight is from 1 to 100.
    #[error("a weight of {0}, where 1 to 100 are possible")]
    Weight(u8),
    /// A life of a node has one role.
    #[error("it says that it is a {said}, and is known as a {known}")]
    Role {
        /// What it says.
        said: &'static str,
        /// What it is known as.
        known: &'static str,
    },
    /// There cannot be so many nodes.
    #[error("{LIVES} lives of nodes are known already")]
    TooMany,
}

/// All nodes heard of, and since when.
#[derive(Debug)]
pub struct Roster {
    timeout: u64,
    heard: BTreeMap<NodeRef, NodeLife>,
    listening_since: Millis,
    losses: BTreeMap<Role, RoleLosses>,
}

impl Roster {
    /// Nobody was heard of. `timeout`, in milliseconds, is how long a member may be silent.
    pub fn new(now: Millis, timeout: u64) -> Self {
        Self { timeout, heard: BTreeMap::new(), listening_since: now, losses: BTreeMap::new() }
    }

    /// A node says that it lives. Returns whether that is news.
    ///
    /// # Errors
    /// When the beat makes no sense; then nothing changes.
    pub fn beat(&mut self, now: Millis, member: Member) -> Result<bool, BeatError> {
        if !(1..=100).contains(&member.weight) {
            return Err(BeatError::Weight(member.weight));
        }
        let Some(heard) = self.heard.get_mut(&member.node) else {
            if self.heard.len() >= LIVES {
                return Err(BeatError::TooMany);
            }
            let node = member.node.clone();
            let heard = NodeLife { member, first: now, last: now, gone: None };
            self.heard.insert(node, heard);
            return Ok(true);
        };
        if heard.member.role != member.role {
            return Err(BeatError::Role { said: member.role.as_str(), known: heard.member.role.as_str() });
        }
        // Who goes on beating long after a goodbye has not ended.
        let is_back = heard.gone.is_some_and(|gone| now.since(gone) > self.timeout);
        if is_back {
            heard.gone = None;
        }
        heard.last = now;
        let is_news = is_back || heard.gone.is_none() && heard.member != member;
        heard.member = member;
        Ok(is_news)
    }

    /// A node says that it ends.
    ///
    /// # Errors
    /// When that makes no sense; then nothing changes.
    pub fn goodbye(&mut self, now: Millis, member: &Member) -> Result<(), BeatError> {
        self.beat(now, member.clone())?;
        if let Some(heard) = self.heard.get_mut(&member.node) {
            heard.gone = heard.gone.or(Some(now));
        }
        Ok(())
    }

    /// When `node` was last heard.
    pub fn last_heard(&self, node: &NodeRef) -> Option<Millis> {
        self.heard.get(node).map(|heard| heard.last)
    }

    /// From now on the silence of members counts, whatever was heard or not heard before.
    pub fn restart_silence(&mut self, now: Millis) {
        self.listening_since = now;
    }

    /// The view that follows `current`; `None` if nothing changes. No view of a version up to `known` was lost: the next
    /// one is later than that, too, so that a version never stands for two views.
    pub fn next_view(&mut self, current: &View, known: u64, now: Millis) -> Option<View> {
        let mut members = self.present(now);
        let mut silent: Vec<&Member> = Vec::new();
        for member in &current.members {
            let replaced = members.contains_key(&member.node.id);
            let gone = self.heard.get(&member.node).is_some_and(|heard| heard.gone.is_some());
            if replaced || gone {
                continue;
            }
            if self.is_silent(&member.node, now) {
                silent.push(member);
            } else {
                // A new coordinator has not had the time to hear it.
                members.insert(member.node.id.clone(), member.clone());
            }
        }
        // The longest silent go first.
        silent.sort_by_key(|member| self.last_heard(&member.node));
        for member in silent {
            if !self.lose(current, member.role, now) {
                members.insert(member.node.id.clone(), member.clone());
            }
        }
        self.forget(now);
        let members: Vec<Member> = members.into_values().collect();
        // A version that nobody can have counted to is nonsense, and does not count.
        let counted = |version: u64| if version > HIGHEST { 0 } else { version };
        let is_odd = current.version > HIGHEST || current.version < counted(known);
        let version = counted(current.version).max(counted(known)) + 1;
        (is_odd || members != current.members).then_some(View { version, members })
    }

    /// The life that counts of each name that was heard within the timeout, unless it said goodbye.
    fn present(&self, now: Millis) -> BTreeMap<NodeId, Member> {
        let mut newest: BTreeMap<&NodeId, &NodeLife> = BTreeMap::new();
        for (node, heard) in &self.heard {
            if heard.gone.is_some() || now.since(heard.last) > self.timeout {
                continue;
            }
            let best = newest.entry(&node.id).or_insert(heard);
            if (best.first, best.member.node.nonce) < (heard.first, node.nonce) {
                *best = heard;
            }
        }
        let member = |(id, heard): (&NodeId, &NodeLife)| (id.clone(), heard.member.clone());
        newest.into_iter().map(member).collect()
    }

    fn is_silent(&self, node: &NodeRef, now: Millis) -> bool {
        let heard = self.last_heard(node).unwrap_or_default();
        now.since(heard.max(self.listening_since)) > self.timeout
    }

    /// Whether one more member of `role` may be lost to silence now.
    fn lose(&mut self, current: &View, role: Role, now: Millis) -> bool {
        let cool_down = 2 * self.timeout;
        let fresh = || {
            let members = current.members.iter().filter(|member| member.role == role).count();
            RoleLosses { since: now, allowed: (members / 2).max(1) }
        };
        let losses = self.losses.entry(role).or_insert_with(fresh);
        if now.since(losses.since) > cool_down {
            *losses = fresh();
        }
        let may = losses.allowed > 0;
        losses.allowed = losses.allowed.saturating_sub(1);
        may
    }

    /// Drops lives that were silent for so long that they can be in no view that we go on from.
    fn forget(&mut self, now: Millis) {
        let limit = 10 * self.timeout;
        self.heard.retain(|_, heard| now.since(heard.last) <= limit);
    }
}

#[cfg(test)]
mod tests;
