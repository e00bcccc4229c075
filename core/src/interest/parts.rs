//! Interest cut into messages, by the bytes that they take.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Interest, SharedWant, SnapshotPart, Topic, Want};
use crate::ids::{NodeRef, Revision, UserId};

/// What a message takes beside topics, wants and users, at most: who, which revision, and the headers of the lists.
pub(super) const ENVELOPE: usize = 192;

/// What the header of a list takes, and that of what is shared.
const LIST: usize = 6;

/// What is wanted of which topics: each want once.
pub(super) fn shared<'a>(
    wanted: impl Iterator<Item = (&'a Topic, &'a Arc<Want>)>,
) -> Vec<(&'a Arc<Want>, Vec<&'a Topic>)> {
    let (mut places, mut shared) = (HashMap::new(), Vec::<(_, Vec<_>)>::new());
    for (topic, want) in wanted {
        let place = *places.entry(Arc::as_ptr(want)).or_insert(shared.len());
        match shared.get_mut(place) {
            Some((_, topics)) => topics.push(topic),
            None => shared.push((want, vec![topic])),
        }
    }
    shared
}

/// The most bytes that these topics take together.
pub(super) fn weight<'a>(want: &Want, topics: impl IntoIterator<Item = &'a Topic>) -> usize {
    LIST + want.encoded() + topics.into_iter().map(Topic::encoded).sum::<usize>()
}

/// The most bytes that a user takes.
pub(super) fn user(user: &UserId) -> usize {
    LIST + user.as_str().len()
}

/// Parts under way.
#[derive(Debug)]
struct PartsBuilder {
    empty: SnapshotPart,
    most: usize,
    parts: Vec<SnapshotPart>,
    /// How many bytes the last part takes, at most.
    size: usize,
}

impl PartsBuilder {
    /// Makes room for so many bytes; returns whether that took another part. A part holds one thing at least.
    fn room(&mut self, bytes: usize) -> bool {
        let is_full = self.size + bytes > self.most && self.size > ENVELOPE;
        if is_full {
            self.parts.push(self.empty.clone());
            self.size = ENVELOPE;
        }
        self.size += bytes;
        is_full
    }

    fn part(&mut self) -> Option<&mut SnapshotPart> {
        self.parts.last_mut()
    }
}

impl Interest {
    /// Cuts the interest into parts that take at most `most` bytes each in a message, at least one part. One entry that
    /// is larger alone makes a larger part.
    #[must_use]
    pub fn parts(&self, gateway: &NodeRef, revision: Revision, most: usize) -> Vec<SnapshotPart> {
        let empty = SnapshotPart {
            gateway: gateway.clone(),
            revision,
            part: 0,
            parts: 0,
            view: self.view,
            wants: Vec::new(),
            strays: Vec::new(),
            shared: Vec::new(),
        };
        let mut cut = PartsBuilder { parts: vec![empty.clone()], empty, most, size: ENVELOPE };
        for (want, topics) in shared(self.wants.iter()) {
            cut.add(want, &topics);
        }
        for stray in &self.strays {
            cut.room(user(stray));
            if let Some(part) = cut.part() {
                part.strays.push(stray.clone());
            }
        }
        let mut parts = cut.parts;
        let total = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (number, part) in (0..).zip(parts.iter_mut()) {
            (part.part, part.parts) = (number, total);
        }
        parts
    }
}

impl PartsBuilder {
    fn add(&mut self, want: &Arc<Want>, topics: &[&Topic]) {
        if let [topic] = topics {
            self.room(weight(want, [*topic]));
            if let Some(part) = self.part() {
                part.wants.push(((*topic).clone(), Arc::clone(want)));
            }
            return;
        }
        // A want stands again in each part that has topics of it.
        let (mut stands, again) = (false, weight(want, []));
        for topic in topics {
            let needed = topic.encoded() + if stands { 0 } else { again };
            if self.room(needed) && stands {
                stands = false;
                self.size += again;
            }
            let Some(part) = self.part() else { return };
            if !stands {
                part.shared.push(SharedWant { want: Arc::clone(want), topics: Vec::new() });
                stands = true;
            }
            if let Some(shared) = part.shared.last_mut() {
                shared.topics.push((*topic).clone());
            }
        }
    }
}
