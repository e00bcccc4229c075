//! What a gateway tells the routers that it wants, and how it says so: a state with revisions, sent as deltas and,
//! to a router that missed one, as a snapshot.
//!
//! Interest may say yes wrongly, never no wrongly: it is the union of the sessions' filters, and it looks at kind,
//! symbol, tier, pattern, room, confidence and priority only. The gateway's own index decides in the end.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::{Audience, Event, Kind, Priority, Tier};
use crate::filter::Filter;
use crate::ids::{Confidence, NodeRef, Pattern, Revision, Room, Symbol, UserId};
use crate::ring::{View, ViewId};

/// What interest is keyed by: a kind, and a symbol or any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Topic {
    /// The kind.
    pub kind: Kind,
    /// The symbol, `None` for any and for events without one.
    pub symbol: Option<Symbol>,
}

/// What is wanted of a topic. `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Want {
    /// Tiers.
    pub tiers: Option<BTreeSet<Tier>>,
    /// Patterns.
    pub patterns: Option<BTreeSet<Pattern>>,
    /// The lowest confidence; `None` admits events without one as well.
    pub min_confidence: Option<Confidence>,
    /// The lowest priority.
    pub min_priority: Option<Priority>,
    /// Rooms, any of which is enough.
    #[serde(default)]
    pub rooms: Option<BTreeSet<Room>>,
}

impl Want {
    /// What `filter` wants of each of its topics.
    #[must_use]
    pub fn of(filter: &Filter) -> Self {
        Self {
            tiers: filter.tiers.clone(),
            patterns: filter.patterns.clone(),
            min_confidence: filter.min_confidence,
            min_priority: filter.min_priority,
            rooms: filter.rooms.clone(),
        }
    }

    /// Whether an event of this topic may be wanted.
    #[must_use]
    pub fn admits(&self, event: &Event) -> bool {
        self.tiers.as_ref().is_none_or(|set| event.tier.is_some_and(|tier| set.contains(&tier)))
            && self.patterns.as_ref().is_none_or(|set| event.pattern.as_ref().is_some_and(|p| set.contains(p)))
            && self.rooms.as_ref().is_none_or(|set| event.rooms.iter().any(|room| set.contains(room)))
            && self.min_confidence.is_none_or(|least| event.confidence.is_some_and(|c| c >= least))
            && self.min_priority.is_none_or(|least| event.priority >= least)
    }

    /// The least want that admits whatever either admits field by field.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.tiers = union(self.tiers, other.tiers.as_ref());
        self.patterns = union(self.patterns, other.patterns.as_ref());
        self.rooms = union(self.rooms, other.rooms.as_ref());
        // `None` orders before every value, and stands for "no lower bound".
        self.min_confidence = self.min_confidence.min(other.min_confidence);
        self.min_priority = self.min_priority.min(other.min_priority);
        self
    }
}

fn union<T: Ord + Clone>(mine: Option<BTreeSet<T>>, other: Option<&BTreeSet<T>>) -> Option<BTreeSet<T>> {
    let (mut mine, other) = (mine?, other?);
    mine.extend(other.iter().cloned());
    Some(mine)
}

/// The topics that `filter` is about: each of its kinds with each of its symbols, or with any.
pub fn topics(filter: &Filter) -> impl Iterator<Item = Topic> + '_ {
    filter.kinds.iter().flat_map(move |kind| {
        let symbols: Vec<Option<Symbol>> = match &filter.symbols {
            Some(symbols) => symbols.iter().cloned().map(Some).collect(),
            None => vec![None],
        };
        symbols.into_iter().map(move |symbol| Topic { kind: kind.clone(), symbol })
    })
}

/// A gateway's interest at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// What is wanted.
    pub wants: BTreeMap<Topic, Want>,
    /// Users who sit here while their home, in the view below, is elsewhere.
    pub strays: BTreeSet<UserId>,
    /// The view by which the gateway told strays from users at home.
    pub view: ViewId,
}

/// The step from one revision to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Whose interest.
    pub gateway: NodeRef,
    /// The revision that this step leads to, from the one before.
    pub revision: Revision,
    /// The view from this revision on.
    pub view: ViewId,
    /// Topics that are new or wanted differently.
    pub set: Vec<(Topic, Want)>,
    /// Topics that are not wanted any more.
    pub unset: Vec<Topic>,
    /// Users who became strays.
    pub strays: Vec<UserId>,
    /// Users who are strays no more.
    pub settled: Vec<UserId>,
}

/// A gateway's whole interest, in parts that each fit into a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// Whose interest.
    pub gateway: NodeRef,
    /// At which revision.
    pub revision: Revision,
    /// Which part this is, from 0.
    pub part: u32,
    /// How many parts there are.
    pub parts: u32,
    /// The view at that revision.
    pub view: ViewId,
    /// Some of the topics.
    pub wants: Vec<(Topic, Want)>,
    /// Some of the strays.
    pub strays: Vec<UserId>,
}

/// What a gateway says of itself to every router once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterestBeat {
    /// Which gateway.
    pub gateway: NodeRef,
    /// The revision of its interest.
    pub revision: Revision,
}

impl Interest {
    /// Whether `gateway`, whose interest this is, is to get `event`, by a router that places users by `view`. What
    /// [`InterestTable::matching`](crate::table::InterestTable::matching) tells of all gateways, asked of one.
    #[must_use]
    pub fn admits(&self, event: &Event, gateway: &NodeRef, view: &View) -> bool {
        if let Audience::User(user) = &event.audience {
            return self.view != view.id() || view.home(user) == Some(gateway) || self.strays.contains(user);
        }
        let admits = |symbol: Option<Symbol>| {
            let topic = Topic { kind: event.kind.clone(), symbol };
            self.wants.get(&topic).is_some_and(|want| want.admits(event))
        };
        admits(None) || event.symbol.clone().is_some_and(|symbol| admits(Some(symbol)))
    }

    /// Wants what `filter` wants as well.
    pub fn add(&mut self, filter: &Filter) {
        let want = Want::of(filter);
        for topic in topics(filter) {
            match self.wants.entry(topic) {
                Entry::Vacant(entry) => drop(entry.insert(want.clone())),
                Entry::Occupied(mut entry) => {
                    let known = std::mem::take(entry.get_mut());
                    entry.insert(known.union(&want));
                }
            }
        }
    }

    /// Takes the step of `delta`. The caller has checked that it starts at this interest's revision.
    pub fn apply(&mut self, delta: Delta) {
        self.view = delta.view;
        for topic in &delta.unset {
            self.wants.remove(topic);
        }
        self.wants.extend(delta.set);
        for user in &delta.settled {
            self.strays.remove(user);
        }
        self.strays.extend(delta.strays);
    }

    /// Cuts the interest into parts of at most `entries` entries each, at least one part.
    #[must_use]
    pub fn parts(&self, gateway: &NodeRef, revision: Revision, entries: usize) -> Vec<SnapshotPart> {
        let wants: Vec<_> = self.wants.iter().map(|(topic, want)| (topic.clone(), want.clone())).collect();
        let strays: Vec<_> = self.strays.iter().cloned().collect();
        let mut wants = wants.chunks(entries).map(<[_]>::to_vec);
        let mut strays = strays.chunks(entries).map(<[_]>::to_vec);
        let mut parts = Vec::new();
        loop {
            let (some_wants, some_strays) = (wants.next(), strays.next());
            if some_wants.is_none() && some_strays.is_none() && !parts.is_empty() {
                break;
            }
            parts.push(SnapshotPart {
                gateway: gateway.clone(),
                revision,
                part: 0,
                parts: 0,
                view: self.view,
                wants: some_wants.unwrap_or_default(),
                strays: some_strays.unwrap_or_default(),
            });
        }
        let total = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (number, part) in (0..).zip(parts.iter_mut()) {
            (part.part, part.parts) = (number, total);
        }
        parts
    }

    /// Puts parts of one revision together; `None` if they are not exactly the parts of one snapshot.
    #[must_use]
    pub fn assemble(parts: Vec<SnapshotPart>) -> Option<(Revision, Self)> {
        let first = parts.first()?;
        let (revision, total, view) = (first.revision, first.parts, first.view);
        let numbers: BTreeSet<u32> = parts.iter().map(|part| part.part).collect();
        let whole = parts.iter().all(|part| part.revision == revision && part.parts == total && part.part < total)
            && numbers.len() == parts.len()
            && u32::try_from(parts.len()) == Ok(total);
        whole.then(|| {
            let mut interest = Self { view, ..Self::default() };
            for part in parts {
                interest.wants.extend(part.wants);
                interest.strays.extend(part.strays);
            }
            (revision, interest)
        })
    }
}
