//! What a gateway tells the routers that it wants, and how it says so: a state with revisions, sent as deltas and,
//! to a router that missed one, as a snapshot.
//!
//! Interest may say yes wrongly, never no wrongly: it is the union of the sessions' filters, and it looks at kind,
//! symbol, tier, pattern, room, confidence and priority only. The gateway's own index decides in the end.
//!
//! Wants are shared: topics that are wanted alike hold one, in memory and in messages.

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
    /// What is wanted.
    pub wants: BTreeMap<Topic, Arc<Want>>,
    /// Users who sit here while their home, in the view below, is elsewhere.
    pub strays: BTreeSet<UserId>,
    /// The view by which the gateway told strays from users at home.
    pub view: ViewId,
}

/// How an interest is looked up, wherever it stands.
pub(crate) struct InterestLookup<S, W> {
    /// The view by which the gateway told strays from users at home.
    pub(crate) view: ViewId,
    /// Whether a user is a stray.
    pub(crate) is_stray: S,
    /// What is wanted of a topic.
    pub(crate) want: W,
}

impl<'a, S: Fn(&UserId) -> bool, W: Fn(&Topic) -> Option<&'a Arc<Want>>> InterestLookup<S, W> {
    /// See [`Interest::admits`].
    pub(crate) fn admits(&self, event: &Event, gateway: &NodeRef, homes: &mut Homes) -> bool {
        if let Audience::User(user) = &event.audience {
            return self.view != homes.id() || (self.is_stray)(user) || homes.of(user) == Some(gateway);
        }
        let admits = |symbol: Option<Symbol>| {
            let topic = Topic { kind: event.kind.clone(), symbol };
            (self.want)(&topic).is_some_and(|want| want.admits(event))
        };
        admits(None) || event.symbol.clone().is_some_and(|symbol| admits(Some(symbol)))
    }
}

/// Topics that are wanted alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedWant {
    /// What is wanted of each.
    pub want: Arc<Want>,
    /// The topics.
    pub topics: Vec<Topic>,
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
    /// Topics that are new or wanted differently, each as no other.
    pub set: Vec<(Topic, Arc<Want>)>,
    /// Topics that are not wanted any more.
    pub unset: Vec<Topic>,
    /// Users who became strays.
    pub strays: Vec<UserId>,
    /// Users who are strays no more.
    pub settled: Vec<UserId>,
    /// Topics that are new or wanted differently, several alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedWant>,
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
    /// Some of the topics, each wanted as no other.
    pub wants: Vec<(Topic, Arc<Want>)>,
    /// Some of the strays.
    pub strays: Vec<UserId>,
    /// Some of the topics that several are wanted alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedWant>,
}

/// What a gateway says of itself to every router once a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterestBeat {
    /// Which gateway.
    pub gateway: NodeRef,
    /// The revision of its interest.
    pub revision: Revision,
    /// How far it has come, once it was given anything. Beats of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<GatewayCoverage>,
}

impl Interest {
    /// Whether `gateway`, whose interest this is, is to get `event`, by a router that places users by `homes`. What
    /// [`InterestTable::matching`](crate::interest::table::InterestTable::matching) tells of all gateways, asked of one.
    #[must_use]
    pub fn admits(&self, event: &Event, gateway: &NodeRef, homes: &mut Homes) -> bool {
        InterestLookup {
            view: self.view,
            is_stray: |user: &UserId| self.strays.contains(user),
            want: |topic: &Topic| self.wants.get(topic),
        }
        .admits(event, gateway, homes)
    }

    /// Wants what `filter` wants as well.
    pub fn add(&mut self, filter: &Filter) {
        let want = Arc::new(Want::of(filter).bounded(NAMES_BYTES));
        // Each union is made once, however many topics share it. Both it and what it was made of are held here, so that
        // where one stands nothing else does.
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

    /// Takes the step of `delta`. The caller has checked that it starts at this interest's revision.
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

    /// The most bytes that it takes in messages, beside their envelopes.
    #[must_use]
    pub fn encoded(&self) -> usize {
        let shared = parts::shared(self.wants.iter());
        let wants = shared.iter().map(|(want, topics)| parts::weight(want, topics.iter().copied()));
        wants.sum::<usize>() + self.strays.iter().map(parts::user).sum::<usize>()
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
    /// The topics that are new or wanted differently, each with what is wanted.
    pub fn wanted(&self) -> impl Iterator<Item = (&Topic, &Arc<Want>)> {
        let alone = self.set.iter().map(|(topic, want)| (topic, want));
        alone.chain(self.shared.iter().flat_map(|shared| shared.topics.iter().map(|topic| (topic, &shared.want))))
    }

    /// Says that these topics are wanted so; those that are wanted alike together.
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

    /// How much it says: topics and users.
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
