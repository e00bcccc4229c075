//! Interest: what the filters of a gateway ask for together. It has revisions. The gateway sends it to the routers as
//! deltas, and as a snapshot to a router that missed one.
//!
//! Interest may admit an event that no session wants, but never refuses one that a session wants. It is the union of
//! the sessions' filters, and tests only kind, symbol, tier, pattern, room, confidence and priority. The gateway's
//! index makes the final decision.
//!
//! Topics with equal wants share one [`Want`], in memory and in messages.
//!
//! `want` is what is wanted of a topic, `log` is the gateway's side, `parts` cuts interest into messages, and `table`
//! is the router's side.

pub mod log;
mod parts;
pub mod table;
mod want;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::coverage::reached::GatewayCoverage;
use crate::event::{Audience, Event};
use crate::filter::Filter;
use crate::ids::{NodeRef, Revision, Symbol, UserId};
use crate::placement::{Homes, ViewId};

pub use want::{NAMES_BYTES, Topic, Want, topics};

/// A gateway's interest at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// The wanted topics.
    pub wants: BTreeMap<Topic, Arc<Want>>,
    /// Users with a session here whose home gateway, by the view below, is another one.
    pub strays: BTreeSet<UserId>,
    /// The view by which the gateway finds home gateways.
    pub view: ViewId,
}

/// The lookup in an interest, independent of how it is stored.
pub(crate) struct InterestLookup<S, W> {
    /// The view by which the gateway finds home gateways.
    pub(crate) view: ViewId,
    /// Whether a user is a stray.
    pub(crate) is_stray: S,
    /// The want of a topic.
    pub(crate) want: W,
}

impl<'a, S: Fn(&UserId) -> bool, W: Fn(&Topic) -> Option<&'a Arc<Want>>> InterestLookup<S, W> {
    /// See [`Interest::admits`].
    pub(crate) fn admits(&self, event: &Event, gateway: &NodeRef, homes: &mut Homes) -> bool {
        if let Audience::User(user) = &event.audience {
            return self.view != homes.id() || (self.is_stray)(user) || homes.of(user) == Some(gateway);
        }
        if event.is_for_every_gateway() {
            return true;
        }
        let admits = |symbol: Option<Symbol>| {
            let topic = Topic { kind: event.kind.clone(), symbol };
            (self.want)(&topic).is_some_and(|want| want.admits(event))
        };
        admits(None) || event.symbol.clone().is_some_and(|symbol| admits(Some(symbol)))
    }
}

/// Topics with the same want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedWant {
    /// The want of each.
    pub want: Arc<Want>,
    /// The topics.
    pub topics: Vec<Topic>,
}

/// The step from one revision to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The gateway whose interest it is.
    pub gateway: NodeRef,
    /// The new revision; the step starts at the one before.
    pub revision: Revision,
    /// The view at this revision.
    pub view: ViewId,
    /// New and changed topics, each with its own want.
    pub set: Vec<(Topic, Arc<Want>)>,
    /// Topics that are no longer wanted.
    pub unset: Vec<Topic>,
    /// Users who became strays.
    pub strays: Vec<UserId>,
    /// Users who are no longer strays.
    pub settled: Vec<UserId>,
    /// New and changed topics that share a want.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedWant>,
}

/// A gateway's whole interest, in parts that each fit into a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The gateway whose interest it is.
    pub gateway: NodeRef,
    /// The revision.
    pub revision: Revision,
    /// The number of this part, from 0.
    pub part: u32,
    /// The number of parts.
    pub parts: u32,
    /// The view at that revision.
    pub view: ViewId,
    /// Some of the topics, each with its own want.
    pub wants: Vec<(Topic, Arc<Want>)>,
    /// Some of the strays.
    pub strays: Vec<UserId>,
    /// Some of the topics that share a want.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedWant>,
}

/// The message that a gateway sends every router once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterestBeat {
    /// The gateway.
    pub gateway: NodeRef,
    /// The revision of its interest.
    pub revision: Revision,
    /// Its coverage, once it has any. Older versions do not send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<GatewayCoverage>,
}

impl Interest {
    /// Whether a router that uses `homes` must send `event` to `gateway`, whose interest this is. The same test as
    /// [`InterestTable::matching`](crate::interest::table::InterestTable::matching), for one gateway.
    #[must_use]
    pub fn admits(&self, event: &Event, gateway: &NodeRef, homes: &mut Homes) -> bool {
        InterestLookup {
            view: self.view,
            is_stray: |user: &UserId| self.strays.contains(user),
            want: |topic: &Topic| self.wants.get(topic),
        }
        .admits(event, gateway, homes)
    }

    /// Adds what `filter` wants.
    pub fn add(&mut self, filter: &Filter) {
        let want = Arc::new(Want::of(filter).bounded(NAMES_BYTES));
        // Each union is computed once for all topics that share it. The map holds the old want too, so that its
        // address, the key, is not used again.
        let mut unions: HashMap<*const Want, (Arc<Want>, Arc<Want>)> = HashMap::new();
        for topic in topics(filter) {
            match self.wants.entry(topic) {
                Entry::Vacant(entry) => drop(entry.insert(Arc::clone(&want))),
                Entry::Occupied(mut entry) => {
                    let (_, union) = unions.entry(Arc::as_ptr(entry.get())).or_insert_with(|| {
                        let known = Arc::clone(entry.get());
                        let union = Want::clone(&known).union(&want).bounded(NAMES_BYTES);
                        (known, Arc::new(union))
                    });
                    entry.insert(Arc::clone(union));
                }
            }
        }
    }

    /// Applies `delta`. The caller has checked that it starts at this interest's revision.
    pub fn apply(&mut self, delta: &Delta) {
        self.view = delta.view;
        for topic in &delta.unset {
            self.wants.remove(topic);
        }
        self.wants.extend(delta.wanted().map(|(topic, want)| (topic.clone(), Arc::clone(want))));
        if delta.view == ViewId::ANY {
            return self.strays.clear();
        }
        for user in &delta.settled {
            self.strays.remove(user);
        }
        self.strays.extend(delta.strays.iter().cloned());
    }

    /// The most bytes that it takes in messages, without their envelopes.
    #[must_use]
    pub fn encoded(&self) -> usize {
        let shared = parts::shared(self.wants.iter());
        let wants = shared.iter().map(|(want, topics)| parts::weight(want, topics.iter().copied()));
        wants.sum::<usize>() + self.strays.iter().map(parts::user).sum::<usize>()
    }

    /// Assembles the parts of a snapshot; `None` if they are not exactly the parts of one snapshot.
    #[must_use]
    pub fn assemble(parts: Vec<SnapshotPart>) -> Option<(Revision, Self)> {
        let first = parts.first()?;
        let (revision, total, view) = (first.revision, first.parts, first.view);
        let numbers: BTreeSet<u32> = parts.iter().map(|part| part.part).collect();
        let is_complete =
            parts.iter().all(|part| part.revision == revision && part.parts == total && part.part < total)
                && numbers.len() == parts.len()
                && u32::try_from(parts.len()) == Ok(total);
        is_complete.then(|| {
            let mut interest = Self { view, ..Self::default() };
            for part in parts {
                interest.wants.extend(part.wants);
                for SharedWant { want, topics } in part.shared {
                    interest.wants.extend(topics.into_iter().map(|topic| (topic, Arc::clone(&want))));
                }
                interest.strays.extend(part.strays);
            }
            (revision, interest)
        })
    }
}

impl Delta {
    /// The new and changed topics, each with its want.
    pub fn wanted(&self) -> impl Iterator<Item = (&Topic, &Arc<Want>)> {
        let alone = self.set.iter().map(|(topic, want)| (topic, want));
        alone.chain(self.shared.iter().flat_map(|shared| shared.topics.iter().map(|topic| (topic, &shared.want))))
    }

    /// Adds new and changed topics. Topics with the same want are grouped.
    pub fn want(&mut self, wanted: &[(Topic, Arc<Want>)]) {
        for (want, topics) in parts::shared(wanted.iter().map(|(topic, want)| (topic, want))) {
            match topics[..] {
                [topic] => self.set.push((topic.clone(), Arc::clone(want))),
                _ => self
                    .shared
                    .push(SharedWant { want: Arc::clone(want), topics: topics.into_iter().cloned().collect() }),
            }
        }
    }

    /// The number of topics and users in it.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.wanted().count() + self.unset.len() + self.strays.len() + self.settled.len()
    }

    /// The most bytes that it takes in a message.
    #[must_use]
    pub fn encoded(&self) -> usize {
        let alone = self.set.iter().map(|(topic, want)| parts::weight(want, [topic]));
        let shared = self.shared.iter().map(|shared| parts::weight(&shared.want, &shared.topics));
        let users = self.strays.iter().chain(&self.settled).map(parts::user);
        let unset = self.unset.iter().map(Topic::encoded);
        parts::ENVELOPE + alone.chain(shared).chain(users).chain(unset).sum::<usize>()
    }
}
