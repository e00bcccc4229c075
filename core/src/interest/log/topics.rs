//! The wants of all filters together, by topic, within bounds.
//!
//! A topic's union grows at once, so that it always admits what a filter wants. At a bound it is widened: a set of
//! names to any name, a union without room in the budget to one without names, and a filter without room for its topics
//! to one without symbols. The wants of filters are still counted exactly, so unions narrow again when filters are
//! removed, in a bounded number of steps at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Bounds;
use crate::filter::Filter;
use crate::ids::Revision;
use crate::interest::log::wants::{Unions, Wants, place};
use crate::interest::{Topic, Want, topics};

/// A topic whose filters want more different names than this is not narrowed.
const NARROWED_WEIGHT: usize = 16 * 1024;

/// The topics of all filters.
#[derive(Debug)]
pub(crate) struct FiledTopics {
    bounds: Bounds,
    wants: Wants,
    unions: Unions,
    entries: HashMap<Topic, TopicEntry>,
    /// The most bytes that the topics with symbols take in messages.
    bytes: usize,
    /// The value of `bytes` when all wide filters were last tried again.
    tried: usize,
    changed: BTreeSet<Topic>,
    /// Topics whose union may admit more than their filters want.
    stale: BTreeSet<Topic>,
    /// Topics whose union was widened for lack of room.
    widened: BTreeSet<Topic>,
    /// Whether room was freed since the widened topics were last tried.
    has_freed: bool,
    /// The steps so far. A step is a visited topic of a filter, or a name in a union.
    steps: u64,
}

/// How a filter is filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FiledFilter {
    want: u32,
    /// Whether it is filed under its kinds only, for lack of room for its symbols.
    pub(crate) is_wide: bool,
}

/// The wants of one topic.
#[derive(Debug)]
struct TopicEntry {
    /// The wants of filters, by number, each with the number of filters.
    wants: BTreeMap<u32, u32>,
    /// The steps to compute their union.
    weight: usize,
    union: Arc<Want>,
    /// The revision in which the union last grew. All revisions since then include it.
    since: Revision,
}

impl FiledTopics {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            wants: Wants::default(),
            unions: Unions::new(bounds.wants),
            entries: HashMap::new(),
            bytes: 0,
            tried: usize::MAX,
            changed: BTreeSet::new(),
            stale: BTreeSet::new(),
            widened: BTreeSet::new(),
            has_freed: false,
            steps: 0,
            bounds,
        }
    }

    /// Files a filter. Returns the first revision that includes it: an older one, or `next`.
    pub(crate) fn add(&mut self, filter: &Filter, next: Revision) -> (FiledFilter, Revision) {
        let want = self.wants.hold(Want::of(filter).bounded(self.bounds.names));
        let filed = FiledFilter { want, is_wide: !self.has_room(filter) };
        if filed.is_wide {
            self.tried = usize::MAX;
        }
        (filed, self.file(filter, filed, next))
    }

    /// Removes a filter.
    pub(crate) fn remove(&mut self, filter: &Filter, filed: FiledFilter) {
        self.unfile(filter, filed);
        self.wants.release(filed.want);
    }

    /// Files a wide filter by its symbols if there is room now.
    pub(crate) fn refile(&mut self, filter: &Filter, filed: FiledFilter, next: Revision) -> FiledFilter {
        self.steps += 1;
        if !filed.is_wide || !self.has_room(filter) {
            return filed;
        }
        let narrow = FiledFilter { is_wide: false, ..filed };
        self.file(filter, narrow, next);
        self.unfile(filter, filed);
        narrow
    }

    /// Whether to try wide filters again: a quarter of the room is free, and more than at the last try.
    pub(crate) fn has_room_again(&self) -> bool {
        self.bytes < self.tried.min(self.bounds.topics / 4 * 3)
    }

    /// All wide filters were tried again.
    pub(crate) fn tried(&mut self) {
        self.tried = self.bytes;
    }

    /// Narrows stale unions until `until` steps have been taken.
    pub(crate) fn narrow(&mut self, until: u64) {
        if self.has_freed && self.unions.has_room() {
            self.has_freed = false;
            self.stale.append(&mut self.widened);
        }
        while self.steps < until
            && let Some(topic) = self.stale.pop_first()
        {
            self.narrow_one(topic);
        }
    }

    /// Whether unions wait to be narrowed.
    pub(crate) fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Counts a step of the caller.
    pub(crate) fn step(&mut self) {
        self.steps += 1;
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(crate) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The most bytes that topics and unions take in messages.
    pub(crate) fn encoded(&self) -> usize {
        self.bytes + self.unions.bytes()
    }

    #[cfg(test)]
    pub(crate) fn wants_bytes(&self) -> usize {
        self.unions.bytes()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.bytes == 0 && self.unions.bytes() == 0 && self.wants.is_empty()
    }

    /// The topics that have changed since the last call, each with its union; `None` if the topic is not wanted any
    /// more.
    pub(crate) fn take_changed(&mut self) -> Vec<(Topic, Option<Arc<Want>>)> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed
            .map(|topic| {
                let want = self.entries.get(&topic).map(|entry| Arc::clone(&entry.union));
                (topic, want)
            })
            .collect()
    }

    fn has_room(&self, filter: &Filter) -> bool {
        let Some(symbols) = &filter.symbols else { return true };
        // A quick upper bound is enough for most filters. Known topics need no room.
        let symbols: usize = symbols.iter().map(|symbol| symbol.as_str().len() + TOPIC).sum();
        let most: usize = filter.kinds.iter().map(|kind| kind.as_str().len()).sum::<usize>();
        let most = most * filter.symbols.as_ref().map_or(0, BTreeSet::len) + symbols * filter.kinds.len();
        if self.bytes + most <= self.bounds.topics {
            return true;
        }
        let new = topics(filter).filter(|topic| !self.entries.contains_key(topic));
        self.bytes + new.map(|topic| topic.encoded()).sum::<usize>() <= self.bounds.topics
    }

    fn file(&mut self, filter: &Filter, filed: FiledFilter, next: Revision) -> Revision {
        let mut grown = Grown::new(filed.want, Arc::clone(self.wants.get(filed.want)));
        let mut included = Revision(0);
        for topic in of(filter, filed) {
            self.steps += 1;
            included = included.max(self.want(topic, &mut grown, next));
        }
        included
    }

    /// Adds a want to a topic. Returns the first revision that includes it.
    fn want(&mut self, topic: Topic, grown: &mut Grown, next: Revision) -> Revision {
        let known = self.entries.get_mut(&topic);
        if let Some(entry) = &known
            && entry.wants.contains_key(&grown.number)
        {
            let since = entry.since;
            if let Some(entry) = known {
                *entry.wants.entry(grown.number).or_default() += 1;
            }
            return since;
        }
        let former = known.as_ref().map(|entry| &entry.union);
        let (union, is_widened) = grown.of(former, &mut self.unions, self.bounds.names);
        if is_widened {
            self.widened.insert(topic.clone());
        }
        let weight = grown.want.weight();
        let Some(entry) = known else {
            self.bytes += bytes(&topic);
            self.changed.insert(topic.clone());
            let wants = BTreeMap::from([(grown.number, 1)]);
            self.entries.insert(topic, TopicEntry { wants, weight, union, since: next });
            return next;
        };
        entry.wants.insert(grown.number, 1);
        entry.weight += weight;
        let former = std::mem::replace(&mut entry.union, union);
        self.unions.release(&former);
        if !Arc::ptr_eq(&former, &entry.union) {
            entry.since = next;
            self.changed.insert(topic);
        }
        entry.since
    }

    fn unfile(&mut self, filter: &Filter, filed: FiledFilter) {
        for topic in of(filter, filed) {
            self.steps += 1;
            let Some(entry) = self.entries.get_mut(&topic) else { continue };
            let Some(count) = entry.wants.get_mut(&filed.want) else { continue };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            entry.wants.remove(&filed.want);
            entry.weight -= self.wants.get(filed.want).weight();
            if !entry.wants.is_empty() {
                self.stale.insert(topic);
                continue;
            }
            self.unions.release(&entry.union);
            self.has_freed = true;
            self.bytes -= bytes(&topic);
            self.entries.remove(&topic);
            self.stale.remove(&topic);
            self.widened.remove(&topic);
            self.changed.insert(topic);
        }
    }

    fn narrow_one(&mut self, topic: Topic) {
        self.steps += 1;
        let Self { wants, unions, entries, bounds, .. } = self;
        let Some(entry) = entries.get_mut(&topic).filter(|entry| entry.weight <= NARROWED_WEIGHT) else { return };
        self.steps += entry.weight as u64;
        let mut all = entry.wants.keys().map(|number| wants.get(*number));
        let Some(first) = all.next() else { return };
        let rest: Vec<_> = all.collect();
        let union = match rest[..] {
            [] => Arc::clone(first),
            _ => Arc::new(rest.iter().fold(Want::clone(first), |union, want| union.union(want)).bounded(bounds.names)),
        };
        if union == entry.union {
            return;
        }
        let held = unions.hold(&union);
        let is_widened = held != union;
        // Without room, the union may have become wider than the one that the routers know. Then it stays as it is.
        if is_widened && Want::clone(&held).union(&entry.union) != *entry.union {
            unions.release(&held);
            self.widened.insert(topic);
            return;
        }
        let former = std::mem::replace(&mut entry.union, held);
        unions.release(&former);
        // A union that is still widened is tried again when more room is free.
        if is_widened {
            self.widened.insert(topic.clone());
        } else {
            self.widened.remove(&topic);
        }
        if former != entry.union {
            self.has_freed = true;
            self.changed.insert(topic);
        }
    }
}

/// The unions that grow by one want. Each is computed once for all topics that share it.
#[derive(Debug)]
struct Grown {
    number: u32,
    want: Arc<Want>,
    /// By the address of the former union, 0 for none: the new union, and whether it was widened. The addresses stay
    /// unique, since every topic is visited once and the former unions are alive until then.
    known: HashMap<usize, (Arc<Want>, bool)>,
}

impl Grown {
    fn new(number: u32, want: Arc<Want>) -> Self {
        Self { number, want, known: HashMap::new() }
    }

    /// Holds the union of `former` and this want.
    fn of(&mut self, former: Option<&Arc<Want>>, unions: &mut Unions, names: usize) -> (Arc<Want>, bool) {
        let key = former.map_or(0, place);
        if let Some((union, is_widened)) = self.known.get(&key) {
            unions.hold_again(union);
            return (Arc::clone(union), *is_widened);
        }
        let exact = match former {
            Some(former) => Arc::new(Want::clone(former).union(&self.want).bounded(names)),
            None => Arc::clone(&self.want),
        };
        let held = unions.hold(&exact);
        let is_widened = held != exact;
        self.known.insert(key, (Arc::clone(&held), is_widened));
        (held, is_widened)
    }
}

/// The most bytes that a topic takes in messages besides its names.
const TOPIC: usize = 8;

/// The bytes of a topic that count for the bound. Topics without symbols are as few as the kinds, and do not count.
fn bytes(topic: &Topic) -> usize {
    topic.symbol.as_ref().map_or(0, |_| topic.encoded())
}

/// The topics that a filter is filed under.
fn of(filter: &Filter, filed: FiledFilter) -> Box<dyn Iterator<Item = Topic> + '_> {
    if filed.is_wide {
        Box::new(filter.kinds.iter().map(|kind| Topic { kind: kind.clone(), symbol: None }))
    } else {
        Box::new(topics(filter))
    }
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
