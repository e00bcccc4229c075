//! The ring: rendezvous hashing over a view of the members. It names the owner of a partition and the home gateway of a
//! user.
//!
//! Correctness does not depend on the ring. But processes, versions and languages must agree on it, so it uses only
//! integer arithmetic, and `tests/vectors/ring.json` fixes its results.

pub mod duplicate_names;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeRef, Partition, UserId};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Owns partitions and reads the stream.
    Router,
    /// Owns sessions.
    Gateway,
}

impl Role {
    /// The name in logs, metrics and node ids.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Gateway => "gateway",
        }
    }
}

/// One live node of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node, with its nonce.
    pub node: NodeRef,
    /// Its role.
    pub role: Role,
    /// Its share relative to others of its role, 1 to 100.
    pub weight: u8,
    /// Whether it drains: it keeps working, but is given nothing new.
    pub draining: bool,
}

/// A versioned list of the live members, written by the coordinator. Sorted by name; names are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The coordinator increments it at every change.
    pub version: u64,
    /// The members.
    pub members: Vec<Member>,
    /// The nodes that have left by their goodbye and have not come back under their names: the last
    /// [`View::DEPARTED`], the newest last. A node that left otherwise was silent. Older versions do not write it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub departed: Vec<NodeRef>,
}

/// A hash of the gateways that can be home gateways. Two nodes with the same id agree on every home gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViewId(pub u64);

impl ViewId {
    /// No view: a gateway with this id gets every addressed event.
    pub const ANY: Self = Self(0);
}

/// FNV-1a, 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1a(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): it spreads values that FNV clusters in the low bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A hash that all nodes, versions and languages agree on.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    mix(fnv1a(FNV_OFFSET, bytes))
}

/// The score of the candidate `name` for `key`. A weight of w gives w draws; the highest counts.
pub(crate) fn score(name: &str, weight: u8, key: &[u8]) -> u64 {
    let base = fnv1a(fnv1a(fnv1a(FNV_OFFSET, name.as_bytes()), &[0]), key);
    (0..u64::from(weight.max(1)))
        .map(|draw| mix(base.wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
        .max()
        .unwrap_or(0)
}

/// How many home gateways are cached. Beyond that the cache is cleared.
const HOMES: usize = 64 * 1024;

/// A view with a cache of its id and of home gateways.
#[derive(Debug, Default)]
pub struct Homes {
    view: Arc<View>,
    id: ViewId,
    known: HashMap<UserId, Option<NodeRef>>,
}

impl Homes {
    /// Home gateways by `view`.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        Self { id: view.id(), view, known: HashMap::new() }
    }

    /// The id of the view.
    #[must_use]
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// The home gateway of `user`; `None` if there is no gateway.
    pub fn of(&mut self, user: &UserId) -> Option<&NodeRef> {
        if !self.known.contains_key(user) {
            if self.known.len() >= HOMES {
                self.known.clear();
            }
            self.known.insert(user.clone(), self.view.home(user).cloned());
        }
        self.known.get(user)?.as_ref()
    }
}

impl View {
    /// How many nodes that have left by their goodbye the coordinator keeps in a view.
    pub const DEPARTED: usize = 16;

    /// The members of `role` that do not drain, in order of name.
    pub fn available(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role == role && !member.draining)
    }

    /// The hash of what determines home gateways: names, nonces and weights of the gateways that do not drain.
    #[must_use]
    pub fn id(&self) -> ViewId {
        ViewId(self.available(Role::Gateway).fold(mix(FNV_OFFSET), |hash, member| {
            let hash = fnv1a(fnv1a(hash, member.node.id.as_str().as_bytes()), &[0]);
            mix(fnv1a(fnv1a(hash, &member.node.nonce.0.to_be_bytes()), &[member.weight]))
        }))
    }

    /// The home gateway of a user: a user's events are published to its subject. `None` if there is no gateway.
    #[must_use]
    pub fn home(&self, user: &UserId) -> Option<&NodeRef> {
        self.available(Role::Gateway)
            .max_by_key(|member| {
                (score(member.node.id.as_str(), member.weight, user.as_str().as_bytes()), &member.node.id)
            })
            .map(|member| &member.node)
    }

    /// The owner of each of `partitions` partitions: rendezvous hashing with bounded load, so that no router gets more
    /// than its share plus 15 % (Mirrokni, Thorup, Zadimoghaddam 2018). Empty without routers.
    #[must_use]
    pub fn owners(&self, partitions: u16) -> BTreeMap<Partition, NodeRef> {
        let total: u64 = self.available(Role::Router).map(|member| u64::from(member.weight.max(1))).sum();
        let mut room: Vec<(&Member, u64)> = self
            .available(Role::Router)
            .map(|member| {
                let share = u64::from(partitions) * u64::from(member.weight.max(1)) * 115;
                (member, share.div_ceil(total * 100))
            })
            .collect();
        let mut owners = BTreeMap::new();
        for partition in (0..partitions).map(Partition) {
            let key = partition.0.to_be_bytes();
            let best = room
                .iter_mut()
                .filter(|(_, left)| *left > 0)
                .max_by_key(|(member, _)| (score(member.node.id.as_str(), member.weight, &key), &member.node.id));
            if let Some((member, left)) = best {
                *left -= 1;
                owners.insert(partition, member.node.clone());
            }
        }
        owners
    }
}
