//! How gateways spread an event, beyond what its fields say: the decision of rules.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::UnknownValue;
use crate::hint::clipped;
use crate::ids::Room;

/// How an event is spread over the sessions of its audience. None of them reaches a session outside the audience.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// To every session with a filter that the event passes.
    #[default]
    Content,
    /// To every session of the audience that has a subscription; if the rule names rooms, to those in one of the rooms.
    Broadcast,
    /// By filters, before the events that wait, without waiting for a window, and to heavier users first.
    PriorityFirst,
    /// By filters, in exactly one of the rule's rooms. Events with the same key are in the same room.
    LoadBalanced,
    /// By filters, in exactly one of the rule's rooms: each in its turn.
    RoundRobin,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 5] =
        [Self::Content, Self::Broadcast, Self::PriorityFirst, Self::LoadBalanced, Self::RoundRobin];

    /// The name in rules, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Broadcast => "broadcast",
            Self::PriorityFirst => "priority_first",
            Self::LoadBalanced => "load_balanced",
            Self::RoundRobin => "round_robin",
        }
    }

    /// Whether it chooses one room of several.
    #[must_use]
    pub fn chooses_room(self) -> bool {
        matches!(self, Self::LoadBalanced | Self::RoundRobin)
    }

    /// Whether its rooms are part of it: they count only if the strategy decides.
    #[must_use]
    pub fn owns_rooms(self) -> bool {
        self.chooses_room() || self == Self::Broadcast
    }
}

impl FromStr for Strategy {
    type Err = UnknownValue;

    /// Reads a name in any case.
    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        let named = Self::ALL.into_iter().find(|strategy| text.eq_ignore_ascii_case(strategy.as_str()));
        named.ok_or_else(|| UnknownValue {
            found: clipped(text),
            allowed: "content, broadcast, priority_first, load_balanced, round_robin",
        })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a gateway has to know of the decision on an event. The rest is in the event itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handling {
    /// How it is spread.
    pub strategy: Strategy,
    /// For `broadcast`: sessions of the audience in one of these rooms get it; without rooms, the whole audience does.
    pub rooms: Vec<Room>,
    /// How long after it was stored it is of use, in milliseconds.
    pub ttl_ms: Option<u64>,
}
