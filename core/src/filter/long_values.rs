//! What the long lists and texts in an event's data contain, for many filters.
//!
//! The operator `contains` reads a whole list or text. One event may have a list of a hundred thousand elements, and a
//! shard may ask thousands of filters about it. So filters that are asked about the same event share its long values: a
//! value that was read often enough is sorted once, and further filters search in it by halves. The cost of an event is
//! then about its length, plus a little for each filter. Short values, as most events have, are only read, and nothing
//! is allocated for them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::MAX_TEXT;
use super::scalar::{Scalar, ScalarRef};

/// The most elements of a list that is always read.
const SHORT_LIST: usize = 64;

/// The most bytes of a text that is always read.
const SHORT_TEXT: usize = 1_024;

/// How often a long list is read. To sort it takes about as long as that.
const LIST_READINGS: u32 = 16;

/// How often a long text is read. To sort its places takes about as long, if the text is made to be hard to search. Most
/// texts are not.
const TEXT_READINGS: u32 = 32;

/// The long lists and texts of one event that filters have asked for.
#[derive(Debug, Default)]
pub struct LongValues<'e> {
    /// The scalars among the elements.
    lists: BTreeMap<Address, LongValue<ScalarRef<'e>>>,
    /// The places of the bytes.
    texts: BTreeMap<Address, LongValue<u32>>,
}

/// Where a value is in memory, and its length. The event is borrowed, so no other value takes its place.
type Address = (usize, usize);

/// A long value, by what it consists of.
#[derive(Debug)]
struct LongValue<T> {
    readings: u32,
    sorted: Option<Vec<T>>,
}

impl<'e> LongValues<'e> {
    /// Whether a list has this element.
    pub(crate) fn list_contains(&mut self, list: &'e [Value], element: &Scalar) -> bool {
        let is_read = || list.iter().any(|one| element.is(one));
        if list.len() <= SHORT_LIST {
            return is_read();
        }
        let long = self.lists.entry((list.as_ptr().addr(), list.len())).or_default();
        match long.sorted(LIST_READINGS, || sorted_scalars(list)) {
            Some(sorted) => sorted.binary_search(&element.borrowed()).is_ok(),
            None => is_read(),
        }
    }

    /// Whether a text has this part.
    pub(crate) fn text_contains(&mut self, text: &'e str, part: &str) -> bool {
        // Places are numbers of 32 bits, and sorted by as many bytes as the part of a filter may have.
        let is_sortable = u32::try_from(text.len()).is_ok() && part.len() <= MAX_TEXT;
        if text.len() <= SHORT_TEXT || !is_sortable {
            return text.contains(part);
        }
        let long = self.texts.entry((text.as_ptr().addr(), text.len())).or_default();
        match long.sorted(TEXT_READINGS, || sorted_places(text.as_bytes())) {
            Some(places) => has_part(text.as_bytes(), places, part.as_bytes()),
            None => text.contains(part),
        }
    }
}

impl<T> LongValue<T> {
    /// What it consists of, sorted; `None` if it should be read once more, which is counted.
    fn sorted(&mut self, most_readings: u32, sort: impl FnOnce() -> Vec<T>) -> Option<&[T]> {
        if self.readings < most_readings {
            self.readings += 1;
            return None;
        }
        Some(self.sorted.get_or_insert_with(sort))
    }
}

impl<T> Default for LongValue<T> {
    fn default() -> Self {
        Self { readings: 0, sorted: None }
    }
}

/// The elements that a scalar can be equal to, sorted.
fn sorted_scalars(list: &[Value]) -> Vec<ScalarRef<'_>> {
    let mut scalars: Vec<ScalarRef<'_>> = list.iter().filter_map(ScalarRef::of).collect();
    scalars.sort_unstable();
    scalars
}

/// The places of a text's bytes, sorted by the [`MAX_TEXT`] bytes that begin there. Each round doubles the number of
/// bytes by which they are sorted, with a counting sort. So the cost is at most nine rounds of some steps for each byte,
/// whatever the text. A sort by comparisons takes many times longer for a text that repeats itself.
fn sorted_places(text: &[u8]) -> Vec<u32> {
    let len = text.len();
    let mut ranks: Vec<u32> = text.iter().copied().map(u32::from).collect();
    let mut places: Vec<u32> = (0..len as u32).collect();
    let mut starts = vec![0_u32; len.max(usize::from(u8::MAX) + 1) + 1];
    let mut other = places.clone();
    sort_by_rank(&other, &ranks, &mut starts, &mut places);
    let mut width = 1;
    while width < MAX_TEXT.min(len) {
        // By the second half: those without one come first, the others in the order of the place where it begins.
        let width_of_first = width as u32;
        other.clear();
        other.extend((len - width) as u32..len as u32);
        other.extend(places.iter().filter_map(|place| place.checked_sub(width_of_first)));
        // By the first half. The order of those with the same one stays.
        sort_by_rank(&other, &ranks, &mut starts, &mut places);
        // The new ranks go where the order by the second half was, which is not needed any more.
        let halves = |place: u32| {
            let at = place as usize;
            (ranks[at], ranks.get(at + width).copied())
        };
        let mut rank = 0_u32;
        let mut former = None;
        for place in &places {
            let present = halves(*place);
            rank += u32::from(former.is_some_and(|former| former != present));
            former = Some(present);
            other[*place as usize] = rank;
        }
        std::mem::swap(&mut ranks, &mut other);
        width *= 2;
        if rank as usize + 1 == len {
            break;
        }
    }
    places
}

/// Sorts all places by their ranks. Those with the same rank keep their order. `starts` has more entries than there are
/// ranks.
fn sort_by_rank(places: &[u32], ranks: &[u32], starts: &mut [u32], sorted: &mut [u32]) {
    starts.fill(0);
    for rank in ranks {
        starts[*rank as usize + 1] += 1;
    }
    let mut before = 0;
    for start in starts.iter_mut() {
        before += *start;
        *start = before;
    }
    for place in places {
        let start = &mut starts[ranks[*place as usize] as usize];
        sorted[*start as usize] = *place;
        *start += 1;
    }
}

/// Whether a text, whose places are sorted, has this part of at most [`MAX_TEXT`] bytes.
fn has_part(text: &[u8], places: &[u32], part: &[u8]) -> bool {
    let order = |place: &u32| {
        let rest = &text[*place as usize..];
        rest.get(..part.len()).unwrap_or(rest).cmp(part)
    };
    places.binary_search_by(order).is_ok()
}

#[cfg(test)]
#[path = "long_values_tests.rs"]
mod tests;
