//! Wants that are held once however often they are used: those of filters by number, and unions within a budget.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use slab::Slab;

use crate::interest::Want;

/// What filters want, by number.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    held: Slab<(Arc<Want>, u32)>,
    numbers: HashMap<Arc<Want>, u32>,
}

impl Wants {
    /// Another filter wants this.
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

    /// A filter that wanted this is gone.
    pub(crate) fn release(&mut self, number: u32) {
        let (want, count) = &mut self.held[number as usize];
        *count -= 1;
        if *count == 0 {
            self.numbers.remove(want);
            self.held.remove(number as usize);
        }
    }
}

/// Unions, each held once for all topics that are wanted alike. Together they take so many bytes in messages at most.
#[derive(Debug)]
pub(crate) struct Unions {
    held: HashSet<Arc<Want>>,
    /// How many topics are wanted so, by where the union stands.
    counts: HashMap<usize, usize>,
    bytes: usize,
    most: usize,
}

impl Unions {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: HashSet::new(), counts: HashMap::new(), bytes: 0, most }
    }

    /// A topic is wanted so; where there is no room for that, of any pattern and room; and where there is none for that
    /// either, it is wanted whole.
    pub(crate) fn hold(&mut self, union: &Arc<Want>) -> Arc<Want> {
        // A fifth is kept for those that have no names.
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

    /// Another topic is wanted so: as one that [`Self::hold`] gave.
    pub(crate) fn hold_again(&mut self, held: &Arc<Want>) {
        *self.counts.entry(place(held)).or_default() += 1;
    }

    /// A topic is not wanted so any more.
    pub(crate) fn release(&mut self, held: &Arc<Want>) {
        let Some(count) = self.counts.get_mut(&place(held)) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&place(held));
            self.held.remove(held);
            self.bytes -= held.encoded();
        }
    }

    /// How many bytes all take in messages, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room again for what was widened.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < self.most * 3 / 5
    }
}

/// Where a want stands, which tells it from every other that is held.
pub(crate) fn place(want: &Arc<Want>) -> usize {
    Arc::as_ptr(want).addr()
}
