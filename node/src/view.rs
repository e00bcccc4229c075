//! The membership: how a coordinator turns beats into views. Pure; beats and the time are passed in, views come out.
//!
//! * A node that beats is a member. A node that says goodbye is removed at once, a silent one after the timeout.
//! * If two nodes with one name beat, the one that was first seen later counts.
//! * The silence of a member is measured from [`Roster::restart_silence`] at the earliest: absence has no meaning while
//!   no beat could be received. A node that is not a member joins only by a beat, never because silence restarts.
//!   Otherwise a dead node would return to the view, and its partitions and users would have no live owner.
//! * A beat that contradicts itself or the known facts about its sender is refused, and changes nothing.
//! * A view names the last nodes that a goodbye removed, since no other node can know why a member is absent: a node
//!   may beat, drain and end between two views that others read.
//! * Within a cool-down, silence removes at most half of the members of a role, but always one: if more fall silent at
//!   once, it is more likely that this node receives nothing.

use crate::connection_health::BACKOFF;
use std::collections::BTreeMap;
use thiserror::Error;
use tickwire_core::ids::{Millis, NodeId, NodeRef, Nonce};
use tickwire_core::placement::{Member, Role, View};

/// The beats of one start of one node.
#[derive(Debug, Clone)]
struct NodeRecord {
    member: Member,
    /// How many were seen before it. Two may be seen in one millisecond, after this process was paused.
    number: u64,
    first: Millis,
    last: Millis,
    /// When it said goodbye.
    gone: Option<Millis>,
}

/// The members of a role that silence has removed since the cool-down began.
#[derive(Debug, Clone, Copy)]
struct RoleLosses {
    since: Millis,
    allowed: usize,
}

/// How many starts of nodes are remembered at most. Beats of further ones are refused until some are forgotten.
const MAX_NODES: usize = 10_000;

/// How many starts of one name are remembered at most. Beyond that the one that has been silent for longest is forgotten:
/// whoever may beat for one name only must not use up the room of all others by inventing starts.
const MAX_STARTS: usize = 16;

/// The highest version that a view can have reached by counting.
const HIGHEST: u64 = 1 << 53;

/// An invalid beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BeatError {
    /// A weight is 1 to 100.
    #[error("the weight is {0}; it must be 1 to 100")]
    Weight(u8),
    /// A node has one role from start to end.
    #[error("the beat has the role {beat}, but the node is known as a {known}")]
    Role {
        /// The role in the beat.
        beat: &'static str,
        /// The known role.
        known: &'static str,
    },
    /// The limit of known nodes is reached.
    #[error("{MAX_NODES} nodes are known already")]
    TooMany,
}

/// All nodes that have sent beats, and since when.
#[derive(Debug)]
pub struct Roster {
    timeout: u64,
    began: Millis,
    /// How many starts of nodes were ever seen.
    seen: u64,
    nodes: BTreeMap<NodeRef, NodeRecord>,
    silence_since: Millis,
    losses: BTreeMap<Role, RoleLosses>,
}

impl Roster {
    /// No node is known. `timeout`, in milliseconds, is how long a member may be silent.
    pub fn new(now: Millis, timeout: u64) -> Self {
        Self { timeout, began: now, seen: 0, nodes: BTreeMap::new(), silence_since: now, losses: BTreeMap::new() }
    }

    /// Records a beat that arrived at `arrived`, which may be earlier than the time of an earlier call. Returns whether it
    /// changes the view.
    ///
    /// # Errors
    /// When the beat is not valid; then nothing changes.
    pub fn beat(&mut self, arrived: Millis, member: Member) -> Result<bool, BeatError> {
        if !(1..=100).contains(&member.weight) {
            return Err(BeatError::Weight(member.weight));
        }
        let Some(record) = self.nodes.get_mut(&member.node) else {
            self.make_room(&member.node.id);
            if self.nodes.len() >= MAX_NODES {
                return Err(BeatError::TooMany);
            }
            let node = member.node.clone();
            let record = NodeRecord { member, number: self.seen, first: arrived, last: arrived, gone: None };
            self.seen += 1;
            self.nodes.insert(node, record);
            return Ok(true);
        };
        if record.member.role != member.role {
            return Err(BeatError::Role { beat: member.role.as_str(), known: record.member.role.as_str() });
        }
        // A node that still beats long after a goodbye has not ended.
        let is_back = record.gone.is_some_and(|gone| arrived.since(gone) > self.timeout);
        if is_back {
            record.gone = None;
        }
        record.last = record.last.max(arrived);
        let is_news = is_back || record.gone.is_none() && record.member != member;
        record.member = member;
        Ok(is_news)
    }

    /// Forgets one start of this name if there are too many to remember another one.
    fn make_room(&mut self, id: &NodeId) {
        let [first, last] = [0, u64::MAX].map(|nonce| NodeRef { id: id.clone(), nonce: Nonce(nonce) });
        let starts = self.nodes.range(first..=last);
        if starts.clone().count() >= MAX_STARTS
            && let Some((node, _)) = starts.min_by_key(|(_, record)| record.last)
        {
            let node = node.clone();
            self.nodes.remove(&node);
        }
    }

    /// Records a goodbye that arrived at `arrived`.
    ///
    /// # Errors
    /// When the beat is not valid; then nothing changes.
    pub fn goodbye(&mut self, arrived: Millis, member: &Member) -> Result<(), BeatError> {
        let is_known = self.nodes.contains_key(&member.node);
        self.beat(arrived, member.clone())?;
        if let Some(record) = self.nodes.get_mut(&member.node) {
            record.gone = record.gone.or(Some(arrived));
            let (number, first) = (record.number, record.first);
            // An earlier node of this name, which this one replaced, must not return unless it beats again. One that has
            // beaten since is alive, and a node that is heard for the first time has replaced none.
            self.nodes.retain(|node, other| {
                let is_replaced = is_known && other.number < number && other.last <= first && other.gone.is_none();
                node.id != member.node.id || *node == member.node || !is_replaced
            });
        }
        Ok(())
    }

    /// The time of the last beat of `node`.
    pub fn last_beat(&self, node: &NodeRef) -> Option<Millis> {
        self.nodes.get(node).map(|record| record.last)
    }

    /// Whether `node` has said goodbye, as far as that was received.
    pub fn said_goodbye(&self, node: &NodeRef) -> bool {
        self.nodes.get(node).is_some_and(|record| record.gone.is_some())
    }

    /// Silence of members counts from `since`. A `since` before that of an earlier call changes nothing.
    pub fn restart_silence(&mut self, since: Millis) {
        self.silence_since = self.silence_since.max(since);
    }

    /// The view that follows `current`; `None` if nothing changes. `known` is the highest version that is known to have
    /// existed: the next version is higher than that, too, so that a version never stands for two views.
    pub fn next_view(&mut self, current: &View, known: u64, now: Millis) -> Option<View> {
        let mut members = self.present(now);
        let mut departed = current.departed.clone();
        let mut silent: Vec<&Member> = Vec::new();
        for member in &current.members {
            if members.contains_key(&member.node.id) {
                continue;
            }
            if self.said_goodbye(&member.node) {
                departed.push(member.node.clone());
            } else if self.is_silent(&member.node, now) {
                silent.push(member);
            } else {
                // A new coordinator has not had the time to receive its beats.
                members.insert(member.node.id.clone(), member.clone());
            }
        }
        // The members with the longest silence are removed first.
        silent.sort_by_key(|member| self.last_beat(&member.node));
        for member in silent {
            if !self.lose(current, member.role, now) {
                members.insert(member.node.id.clone(), member.clone());
            }
        }
        self.forget(now);
        departed.retain(|node| !members.contains_key(&node.id));
        departed.drain(..departed.len().saturating_sub(View::DEPARTED));
        let members: Vec<Member> = members.into_values().collect();
        // A version above the highest possible one is invalid and ignored.
        let counted = |version: u64| if version > HIGHEST { 0 } else { version };
        let is_odd = current.version > HIGHEST || current.version < counted(known);
        let version = counted(current.version).max(counted(known)) + 1;
        (is_odd || members != current.members).then_some(View { version, members, departed })
    }

    /// The nodes that have sent beats within the timeout, without goodbye: for each name the one that counts.
    fn present(&self, now: Millis) -> BTreeMap<NodeId, Member> {
        let mut newest: BTreeMap<&NodeId, &NodeRecord> = BTreeMap::new();
        for (node, record) in &self.nodes {
            if record.gone.is_some() || now.since(record.last) > self.timeout {
                continue;
            }
            let best = newest.entry(&node.id).or_insert(record);
            if best.number < record.number {
                *best = record;
            }
        }
        let member = |(id, record): (&NodeId, &NodeRecord)| (id.clone(), record.member.clone());
        newest.into_iter().map(member).collect()
    }

    fn is_silent(&self, node: &NodeRef, now: Millis) -> bool {
        // NATS may have been away when this node started. A node that it has never heard may still wait to reconnect.
        let last = self.last_beat(node).unwrap_or(self.began.plus(BACKOFF.most));
        now.since(last.max(self.silence_since)) > self.timeout
    }

    /// Whether one more member of `role` may be removed for silence now.
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

    /// Forgets nodes that were silent for so long that no view can hold them any more.
    fn forget(&mut self, now: Millis) {
        let limit = 10 * self.timeout;
        self.nodes.retain(|_, record| now.since(record.last) <= limit);
    }
}

#[cfg(test)]
mod tests;
