//! The router's side of interest: what every gateway wants, arranged so that an event finds its gateways by looking
//! up its topic, not by asking each gateway.

use std::collections::{BTreeMap, HashMap};

use crate::event::{Audience, Event};
use crate::ids::{Millis, NodeRef, Revision};
use crate::interest::{Delta, Interest, InterestBeat, SnapshotPart, Topic, Want};
use crate::ring::View;

/// How many deltas are kept for a gateway while its snapshot is awaited; beyond it a newer snapshot is asked for.
const AWAITING_LIMIT: usize = 4096;

/// What every gateway wants.
#[derive(Debug, Default)]
pub struct InterestTable {
    gateways: BTreeMap<NodeRef, Known>,
    topics: HashMap<Topic, BTreeMap<NodeRef, Want>>,
}

/// What is known of one gateway.
#[derive(Debug)]
struct Known {
    /// Its interest at a revision; `None` until a snapshot came.
    interest: Option<(Revision, Interest)>,
    /// The highest revision it was heard to have.
    announced: Revision,
    /// Deltas beyond a hole, by the revision that they lead to.
    ahead: BTreeMap<Revision, Delta>,
    heard: Millis,
}

/// What follows from something heard of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The gateway's interest has moved on to this revision.
    pub advanced: Option<Revision>,
    /// There is a hole, or nothing to begin with: ask the gateway for a snapshot.
    pub needs_snapshot: bool,
}

impl InterestTable {
    /// Whether `gateway`'s interest is known, as new as was announced.
    #[must_use]
    pub fn knows(&self, gateway: &NodeRef) -> bool {
        self.gateways.get(gateway).is_some_and(Known::is_current)
    }

    /// The gateways whose interest is known, each with its revision.
    pub fn known(&self) -> impl Iterator<Item = (&NodeRef, Revision)> {
        self.gateways.iter().filter_map(|(gateway, known)| Some((gateway, known.interest.as_ref()?.0)))
    }

    /// The interest of `gateway`, at the revision that is known.
    #[must_use]
    pub fn interest(&self, gateway: &NodeRef) -> Option<&(Revision, Interest)> {
        self.gateways.get(gateway)?.interest.as_ref()
    }

    /// The gateways that were heard of, but whose interest is not known as new as was announced.
    pub fn lagging(&self) -> impl Iterator<Item = &NodeRef> {
        self.gateways.iter().filter(|(_, known)| !known.is_current()).map(|(gateway, _)| gateway)
    }

    /// A gateway told its revision.
    pub fn beat(&mut self, now: Millis, beat: &InterestBeat) -> Heard {
        let known = self.hear(now, &beat.gateway);
        known.announced = known.announced.max(beat.revision);
        Heard { advanced: None, needs_snapshot: !known.is_current() }
    }

    /// A gateway told a step of its interest. The caller has cut the gateway's open sections before.
    pub fn delta(&mut self, now: Millis, delta: Delta) -> Heard {
        let gateway = delta.gateway.clone();
        let known = self.hear(now, &gateway);
        known.announced = known.announced.max(delta.revision);
        if known.interest.as_ref().is_some_and(|(revision, _)| delta.revision <= *revision) {
            return Heard::default();
        }
        if known.ahead.len() >= AWAITING_LIMIT {
            known.ahead.clear();
        }
        known.ahead.insert(delta.revision, delta);
        self.catch_up(&gateway)
    }

    /// A gateway's whole interest came. An older one than is known changes nothing. The caller has cut the gateway's
    /// open sections before.
    pub fn snapshot(&mut self, now: Millis, parts: Vec<SnapshotPart>) -> Heard {
        let Some(gateway) = parts.first().map(|part| part.gateway.clone()) else {
            return Heard::default();
        };
        let Some((revision, interest)) = Interest::assemble(parts) else {
            return Heard { advanced: None, needs_snapshot: true };
        };
        let known = self.hear(now, &gateway);
        known.announced = known.announced.max(revision);
        if known.interest.as_ref().is_some_and(|(have, _)| revision <= *have) {
            return Heard::default();
        }
        self.forget_topics(&gateway);
        for (topic, want) in &interest.wants {
            self.topics.entry(topic.clone()).or_default().insert(gateway.clone(), want.clone());
        }
        if let Some(known) = self.gateways.get_mut(&gateway) {
            known.interest = Some((revision, interest));
        }
        let caught_up = self.catch_up(&gateway);
        Heard { advanced: caught_up.advanced.or(Some(revision)), ..caught_up }
    }

    /// Forgets gateways not heard of for `retention` milliseconds, and names them.
    pub fn expire(&mut self, now: Millis, retention: u64) -> Vec<NodeRef> {
        let silent: Vec<NodeRef> = self
            .gateways
            .iter()
            .filter(|(_, known)| now.since(known.heard) > retention)
            .map(|(gateway, _)| gateway.clone())
            .collect();
        for gateway in &silent {
            self.forget_topics(gateway);
            self.gateways.remove(gateway);
        }
        silent
    }

    /// Calls `found` with every gateway that is to get `event`, each once.
    ///
    /// An event for one user goes to the user's home and to where they stray; a gateway that places users by another
    /// view than `view` gets every such event until both agree.
    pub fn matching<'a>(&'a self, event: &Event, view: &View, mut found: impl FnMut(&'a NodeRef)) {
        if let Audience::User(user) = &event.audience {
            let (id, home) = (view.id(), view.home(user));
            for (gateway, known) in &self.gateways {
                let Some((_, interest)) = &known.interest else { continue };
                if interest.view != id || home == Some(gateway) || interest.strays.contains(user) {
                    found(gateway);
                }
            }
            return;
        }
        let any = Topic { kind: event.kind.clone(), symbol: None };
        let for_any = self.topics.get(&any);
        let for_symbol = event
            .symbol
            .as_ref()
            .and_then(|symbol| self.topics.get(&Topic { kind: event.kind.clone(), symbol: Some(symbol.clone()) }));
        let admits = |want: Option<&Want>| want.is_some_and(|want| want.admits(event));
        for (gateway, want) in for_any.into_iter().flatten() {
            if want.admits(event) {
                found(gateway);
            }
        }
        for (gateway, want) in for_symbol.into_iter().flatten() {
            if want.admits(event) && !admits(for_any.and_then(|wants| wants.get(gateway))) {
                found(gateway);
            }
        }
    }

    fn hear(&mut self, now: Millis, gateway: &NodeRef) -> &mut Known {
        let known = self.gateways.entry(gateway.clone()).or_insert_with(|| Known {
            interest: None,
            announced: Revision(0),
            ahead: BTreeMap::new(),
            heard: now,
        });
        known.heard = now;
        known
    }

    /// Applies the deltas that follow the known revision without a hole.
    fn catch_up(&mut self, gateway: &NodeRef) -> Heard {
        let Some(known) = self.gateways.get_mut(gateway) else {
            return Heard::default();
        };
        let Some((revision, interest)) = &mut known.interest else {
            return Heard { advanced: None, needs_snapshot: true };
        };
        let mut advanced = None;
        known.ahead.retain(|leads_to, _| leads_to > revision);
        while let Some(delta) = known.ahead.remove(&revision.next()) {
            for topic in &delta.unset {
                if let Some(wants) = self.topics.get_mut(topic) {
                    wants.remove(gateway);
                    if wants.is_empty() {
                        self.topics.remove(topic);
                    }
                }
            }
            for (topic, want) in &delta.set {
                self.topics.entry(topic.clone()).or_default().insert(gateway.clone(), want.clone());
            }
            *revision = delta.revision;
            interest.apply(delta);
            advanced = Some(*revision);
        }
        Heard { advanced, needs_snapshot: !known.ahead.is_empty() }
    }

    fn forget_topics(&mut self, gateway: &NodeRef) {
        self.topics.retain(|_, wants| {
            wants.remove(gateway);
            !wants.is_empty()
        });
    }
}

impl Known {
    fn is_current(&self) -> bool {
        self.interest.as_ref().is_some_and(|(revision, _)| *revision >= self.announced)
    }
}
