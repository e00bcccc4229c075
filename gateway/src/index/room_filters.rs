//! The filters that name each room, for broadcasts to rooms. These need no other field of a filter to match, so they
//! cannot use the lists: there, a filter with symbols and rooms is found by its symbols.

use std::collections::{BTreeSet, HashMap};

use tickwire_core::filter::Filter;
use tickwire_core::ids::Room;

use super::{Hasher, Slot, give_back};

/// Rooms, each with the filters that name it. Most rooms have few filters, and a client may name thousands of rooms, so
/// the set is one that takes little memory when it is small.
#[derive(Debug, Default)]
pub(super) struct RoomFilters(HashMap<Room, BTreeSet<Slot>, Hasher>);

impl RoomFilters {
    /// Adds a filter.
    pub(super) fn file(&mut self, filter: &Filter, slot: Slot) {
        for room in filter.rooms.iter().flatten() {
            self.0.entry(room.clone()).or_default().insert(slot);
        }
    }

    /// Removes the filter with this slot, and rooms that no filter names any more.
    pub(super) fn unfile(&mut self, filter: &Filter, slot: Slot) {
        for room in filter.rooms.iter().flatten() {
            let Some(slots) = self.0.get_mut(room) else { continue };
            slots.remove(&slot);
            if slots.is_empty() {
                self.0.remove(room);
            }
        }
        give_back(&mut self.0);
    }

    /// The filters that name a room.
    pub(super) fn naming(&self, room: &Room) -> impl Iterator<Item = Slot> {
        self.0.get(room).into_iter().flatten().copied()
    }

    /// For how many rooms there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
