//! Cuts interest into messages of a limited size.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Interest, SharedWant, SnapshotPart, Topic, Want};
use crate::ids::{NodeRef, Revision, UserId};

/// The most bytes of a message besides topics, wants and users: gateway, revision, and the headers of the lists.
pub(super) const ENVELOPE: usize = 192;

/// The most bytes of the header of a list or of a shared want.
const LIST: usize = 6;

/// Groups topics by their want.
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

/// The most bytes that a want and these topics take together.
pub(super) fn weight<'a>(want: &Want, topics: impl IntoIterator<Item = &'a Topic>) -> usize {
    LIST + want.encoded() + topics.into_iter().map(Topic::encoded).sum::<usize>()
}

/// The most bytes that a user takes.
pub(super) fn user(user: &UserId) -> usize {
    LIST + user.as_str().len()
}

/// Builds the parts of a snapshot.
#[derive(Debug)]
struct PartsBuilder {
    empty: SnapshotPart,
    most: usize,
    parts: Vec<SnapshotPart>,
    /// The most bytes that the last part takes.
    size: usize,
}

impl PartsBuilder {
    /// Reserves `bytes` in the last part, or in a new one if it is full. Returns whether a part was added. A part has
    /// at least one entry.
    fn reserve(&mut self, bytes: usize) -> bool {
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
    /// Cuts the interest into parts of at most `most` bytes each in a message. There is at least one part. A single
    /// entry that is larger gives a larger part.
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
            cut.reserve(user(stray));
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
            self.reserve(weight(want, [*topic]));
            if let Some(part) = self.part() {
                part.wants.push(((*topic).clone(), Arc::clone(want)));
            }
            return;
        }
        // The want is repeated in each part that has topics of it.
        let (mut is_written, want_bytes) = (false, weight(want, []));
        for topic in topics {
            let needed = topic.encoded() + if is_written { 0 } else { want_bytes };
            if self.reserve(needed) && is_written {
                is_written = false;
                self.size += want_bytes;
            }
            let Some(part) = self.part() else { return };
            if !is_written {
                part.shared.push(SharedWant { want: Arc::clone(want), topics: Vec::new() });
                is_written = true;
            }
            if let Some(shared) = part.shared.last_mut() {
                shared.topics.push((*topic).clone());
            }
        }
    }
}
