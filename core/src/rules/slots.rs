//! The slot table of `load_balanced`: which of a rule's rooms has a key.
//!
//! A key has one of 256 slots by its hash, and a slot has one room. Rooms get slots by rendezvous hashing with bounded
//! load, as routers get partitions: no room has more than 1.25 times the mean, rounded up, and few slots move when a
//! room is added or removed. The table does not depend on the order in which the rule names the rooms.

use crate::ids::Room;
use crate::placement::{hash, score};

/// The number of slots.
const SLOTS: usize = 256;

/// The room of each slot, as its index in the rule's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotTable(Vec<u8>);

impl SlotTable {
    /// Distributes the slots over `rooms`, at most 256 and without duplicates. Empty without rooms.
    pub(super) fn new(rooms: &[Room]) -> Self {
        let mut candidates: Vec<(u8, &Room, usize)> =
            (0..=u8::MAX).zip(rooms).map(|(index, room)| (index, room, most_slots(rooms.len()))).collect();
        let mut table = Vec::with_capacity(SLOTS);
        for slot in 0..=u8::MAX {
            let best = candidates
                .iter_mut()
                .filter(|(_, _, left)| *left > 0)
                .max_by_key(|(_, room, _)| (score(room.as_str(), 1, &[slot]), *room));
            if let Some((index, _, left)) = best {
                *left -= 1;
                table.push(*index);
            }
        }
        Self(table)
    }

    /// The index of the room that has `key`; `None` without rooms.
    pub(super) fn room_of(&self, key: &str) -> Option<usize> {
        self.0.get(usize::from(slot_of(key))).map(|index| usize::from(*index))
    }
}

/// The slot of a key.
fn slot_of(key: &str) -> u8 {
    // The lowest of its eight bytes.
    hash(key.as_bytes()).to_le_bytes()[0]
}

/// The most slots of each of `rooms` rooms.
fn most_slots(rooms: usize) -> usize {
    (SLOTS * 5).div_ceil(rooms.max(1) * 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rooms(names: &[&str]) -> Vec<Room> {
        names.iter().map(|name| Room::new(name).unwrap()).collect()
    }

    /// The room of each slot, by name.
    fn named(rooms: &[Room]) -> Vec<&Room> {
        SlotTable::new(rooms).0.iter().map(|index| &rooms[usize::from(*index)]).collect()
    }

    #[test]
    fn keys_have_the_slots_of_the_golden_vector() {
        for (key, slot) in [("AAPL", 168), ("TSLA", 178), ("MSFT", 26), ("NVDA", 178), ("BRK.B", 251), ("é", 158)] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
    }

    #[test]
    fn slots_have_the_rooms_of_the_golden_vector() {
        const GOLDEN: &str = concat!(
            "2322013123000310023021020033030311313310033230212032203331203133",
            "1320202113033121032111322112012123212120122030112103121203103330",
            "1121212022110113121203132303120213023030123311111202210113031133",
            "3100130233220300231022203130012311303323330033332201213223110101",
        );
        let rooms = rooms(&["intraday-1", "intraday-2", "intraday-3", "intraday-4"]);
        let table: String = SlotTable::new(&rooms).0.iter().map(u8::to_string).collect();
        assert_eq!(table, GOLDEN);
    }

    #[test]
    fn one_room_has_every_key_and_no_room_has_none() {
        assert_eq!(SlotTable::new(&rooms(&["a"])).room_of("AAPL"), Some(0));
        assert_eq!(SlotTable::new(&[]).room_of("AAPL"), None);
    }

    proptest! {
        #[test]
        fn no_room_exceeds_its_bound_and_the_order_of_rooms_does_not_matter(count in 1_usize..=64, name in "[a-z]{1,8}") {
            let rooms: Vec<Room> = (0..count).map(|i| Room::new(&format!("{name}{i}")).unwrap()).collect();
            let table = named(&rooms);
            prop_assert_eq!(table.len(), SLOTS);
            let most = (1.25 * SLOTS as f64 / count as f64).ceil() as usize;
            for room in &rooms {
                prop_assert!(table.iter().filter(|owner| **owner == room).count() <= most);
            }
            let reversed: Vec<Room> = rooms.iter().rev().cloned().collect();
            prop_assert_eq!(named(&reversed), table);
        }

        #[test]
        fn few_slots_move_when_a_room_is_added(count in 1_usize..=24, name in "[a-z]{1,8}") {
            let rooms: Vec<Room> = (0..=count).map(|i| Room::new(&format!("{name}{i}")).unwrap()).collect();
            let (before, after) = (named(&rooms[..count]), named(&rooms));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            // The share of the new room, and those that make room for each other.
            prop_assert!(moved <= 2 * SLOTS / (count + 1) + 16, "{} of {} rooms", moved, count);
        }
    }
}
