//! The rules of a run. An operator writes a new revision, and each router takes it at a time of its own. Every revision
//! keeps the forms that routers have given events by it, live or again: these must agree to the byte, and clients may
//! get an event in no other form.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tickwire_core::event::{Event, Kind, Kinds};
use tickwire_core::ids::Seq;
use tickwire_core::rules::{RuleRevision, RuleSet};
use tickwire_router_node::decisions::{ActiveRules, Decoded, ReadPurpose};

use super::cluster::{SimCluster, StoredEvent};
use super::fixtures::{HANDLED, chosen_rooms, rules};
use super::stream::section_form;

/// All revisions of a run, in order. The first has no rules.
pub(super) struct SimRules {
    revisions: Vec<Rc<SimRevision>>,
}

/// One revision.
pub(super) struct SimRevision {
    rules: ActiveRules,
    /// The rooms of which the revision chooses one for each event.
    choice: &'static [&'static str],
    /// Whether it changes no event.
    is_inactive: bool,
    /// The forms of the events that were read; `None` for a dropped one. They are not kept if the run has one revision.
    forms: Option<RefCell<BTreeMap<EventKey, Option<Form>>>>,
}

/// A sequence, and the message as it was published: a stream that has lost its end uses a sequence again.
type EventKey = (Seq, Bytes);

/// An event after the rules, and as sections carry it.
struct Form {
    event: Arc<Event>,
    wire: Bytes,
}

impl SimRules {
    /// No rules. `may_change` says whether the run has other revisions.
    pub(super) fn new(may_change: bool) -> Self {
        Self { revisions: vec![Rc::new(SimRevision::new(0, 0, may_change))] }
    }

    /// Writes the rules of a number as a new revision.
    pub(super) fn write(&mut self, number: u8) {
        let revision = self.revisions.len() as u64;
        self.revisions.push(Rc::new(SimRevision::new(revision, number, true)));
    }

    /// The newest revision.
    pub(super) fn newest(&self) -> Rc<SimRevision> {
        Rc::clone(&self.revisions[self.revisions.len() - 1])
    }

    /// Whether `wants` holds for a form of an event: a client may get it.
    pub(super) fn any(&self, stored: &StoredEvent, wants: impl Fn(&Event) -> bool) -> bool {
        match self.forms_of(stored) {
            Some(forms) => forms.iter().any(|form| form.as_deref().is_some_and(&wants)),
            None => wants(&stored.event),
        }
    }

    /// Whether `wants` holds for all forms of an event: a client must get it, whichever router has read it.
    pub(super) fn all(&self, stored: &StoredEvent, wants: impl Fn(&Event) -> bool) -> bool {
        match self.forms_of(stored) {
            Some(forms) => forms.iter().all(|form| form.as_deref().is_some_and(&wants)),
            None => wants(&stored.event),
        }
    }

    /// The forms that routers have given an event; `None` if it only has that in which it was published.
    fn forms_of(&self, stored: &StoredEvent) -> Option<Vec<Option<Arc<Event>>>> {
        // A run with one revision keeps no forms.
        self.revisions[0].forms.as_ref()?;
        let key = (stored.seq, stored.wire.clone());
        let mut found = Vec::new();
        for forms in self.revisions.iter().filter_map(|revision| revision.forms.as_ref()) {
            found.extend(forms.borrow().get(&key).map(|form| form.as_ref().map(|form| Arc::clone(&form.event))));
        }
        (!found.is_empty()).then_some(found)
    }
}

impl SimRevision {
    fn new(revision: u64, number: u8, keeps_forms: bool) -> Self {
        let rules = rules(number);
        let (set, skipped) =
            RuleSet::compile(RuleRevision(revision), rules.as_array().expect("a list"), &Kinds::default());
        assert_eq!(skipped, []);
        let is_inactive = set.is_inactive();
        Self {
            rules: ActiveRules::fixed(Arc::new(set)),
            choice: chosen_rooms(number),
            is_inactive,
            forms: keeps_forms.then(RefCell::default),
        }
    }

    /// Reads an event by these rules.
    pub(super) fn read(&self, stored: &StoredEvent, purpose: ReadPurpose<'_>) -> Decoded<Bytes> {
        let StoredEvent { seq, event: published, wire, .. } = stored;
        let decode = || Ok(Event::clone(published));
        let read = self.rules.apply(Event::clone(published), *seq, wire.len(), purpose, decode);
        match read.expect("the event can be encoded") {
            Decoded::Event(event, ()) => {
                let wire = if self.is_inactive { wire.clone() } else { section_form(&event) };
                self.check_choice(&event);
                self.keep(stored, Some((&*event, &wire)));
                Decoded::Event(event, wire)
            }
            Decoded::Dropped => {
                self.keep(stored, None);
                Decoded::Dropped
            }
            Decoded::Heartbeat => panic!("an event is no heartbeat: {published:?}"),
        }
    }

    /// Keeps the form of an event. Each reading by one revision must give the same one.
    fn keep(&self, stored: &StoredEvent, form: Option<(&Event, &Bytes)>) {
        let Some(forms) = &self.forms else { return };
        let mut forms = forms.borrow_mut();
        let kept = forms
            .entry((stored.seq, stored.wire.clone()))
            .or_insert_with(|| form.map(|(event, wire)| Form { event: Arc::new(event.clone()), wire: wire.clone() }));
        let (before, now) = (kept.as_ref().map(|kept| &kept.wire), form.map(|(_, wire)| wire));
        assert_eq!(before, now, "one revision gives {} two forms", stored.seq);
    }

    /// An event is in exactly one of the rooms of which one is chosen.
    fn check_choice(&self, event: &Event) {
        if self.choice.is_empty() || event.kind != Kind::Pattern || event.tags.iter().any(|tag| tag == HANDLED) {
            return;
        }
        let chosen = event.rooms.iter().filter(|room| self.choice.contains(&room.as_str())).count();
        assert_eq!(chosen, 1, "not in exactly one of {:?}: {event:?}", self.choice);
    }
}

impl SimCluster {
    /// A router takes the newest revision, if it can read the bucket.
    pub(super) fn take_rules(&mut self, number: usize) {
        let newest = self.rules.newest();
        let router = &mut self.routers[number];
        if router.runs() && !router.is_cut {
            router.rules = newest;
        }
    }
}
