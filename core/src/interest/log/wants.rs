//! Stores each want once, with a count of its uses: the wants of filters by number, and unions within a byte budget.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use slab::Slab;

use crate::interest::Want;

/// The wants of filters, by number.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    held: Slab<(Arc<Want>, u32)>,
    numbers: HashMap<Arc<Want>, u32>,
}

impl Wants {
    /// Adds a use of `want`.
    pub(crate) fn hold(&mut self, want: Want) -> u32 {
        if let Some(number) = self.numbers.get(&want) {
            self.held[*number as usize].1 += 1;
            return *number;
        }
        let want = Arc::new(want);
        let number = self.held.insert((Arc::clone(&want), 1)) as u32;
        self.numbers.insert(want, number);
        number
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.numbers.is_empty()
    }

    pub(crate) fn get(&self, number: u32) -> &Arc<Want> {
        &self.held[number as usize].0
    }

    /// Removes a use of a want.
    pub(crate) fn release(&mut self, number: u32) {
        let (want, count) = &mut self.held[number as usize];
        *count -= 1;
        if *count == 0 {
            self.numbers.remove(want);
            self.held.remove(number as usize);
        }
    }
}

/// Unions, each held once for all topics that share it. Together they take at most `most` bytes in messages.
#[derive(Debug)]
pub(crate) struct Unions {
    held: HashSet<Arc<Want>>,
    /// The number of topics of each union, by its address.
    counts: HashMap<usize, usize>,
    bytes: usize,
    most: usize,
}

impl Unions {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: HashSet::new(), counts: HashMap::new(), bytes: 0, most }
    }

    /// Adds a topic with this union. If there is no room, the union is widened to any pattern and room; if there is
    /// still no room, to everything of the topic.
    pub(crate) fn hold(&mut self, union: &Arc<Want>) -> Arc<Want> {
        // A fifth of the budget is reserved for unions without names.
        if let Some(held) = self.hold_within(union, self.most - self.most / 5) {
            return held;
        }
        let without_names = Arc::new(union.without_names());
        if let Some(held) = self.hold_within(&without_names, self.most) {
            return held;
        }
        let any = Arc::default();
        self.hold_within(&any, usize::MAX).unwrap_or(any)
    }

    fn hold_within(&mut self, union: &Arc<Want>, most: usize) -> Option<Arc<Want>> {
        let held = self.held.get(union).cloned();
        let held = held.or_else(|| {
            let bytes = self.bytes.checked_add(union.encoded()).filter(|bytes| *bytes <= most)?;
            self.bytes = bytes;
            self.held.insert(Arc::clone(union));
            Some(Arc::clone(union))
        })?;
        self.hold_again(&held);
        Some(held)
    }

    /// Adds another topic with a union that [`Self::hold`] returned.
    pub(crate) fn hold_again(&mut self, held: &Arc<Want>) {
        *self.counts.entry(place(held)).or_default() += 1;
    }

    /// Removes a topic of this union.
    pub(crate) fn release(&mut self, held: &Arc<Want>) {
        let Some(count) = self.counts.get_mut(&place(held)) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&place(held));
            self.held.remove(held);
            self.bytes -= held.encoded();
        }
    }

    /// The most bytes that all unions take in messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is enough room to try widened unions again.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < self.most * 3 / 5
    }
}

/// The address of a want. It is unique among those that are held.
pub(crate) fn place(want: &Arc<Want>) -> usize {
    Arc::as_ptr(want).addr()
}
