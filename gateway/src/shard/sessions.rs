//! The sessions of a shard by their numbers. A lookup is one step. A number is never used twice, so that messages for a
//! session that is gone find no session.

use slab::Slab;

use crate::backfill::request::Backfill;
use crate::shard::session::Session;

/// How many bits of a number are the place in the table. The others count all sessions.
const PLACE_BITS: u32 = 24;

/// The table.
#[derive(Debug)]
pub(crate) struct Sessions<S> {
    places: Slab<SessionEntry<S>>,
    /// How many sessions were ever inserted.
    arrivals: u64,
}

/// A place in the table. The number is the first field, since it is read first.
#[derive(Debug)]
#[repr(C)]
struct SessionEntry<S> {
    number: u64,
    session: Session<S>,
}

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Self { places: Slab::new(), arrivals: 0 }
    }
}

impl<S> Sessions<S> {
    /// Inserts a session, and returns its number.
    pub(crate) fn insert(&mut self, session: Session<S>) -> u64 {
        self.arrivals += 1;
        let place = self.places.vacant_entry();
        let number = self.arrivals << PLACE_BITS | place.key() as u64;
        place.insert(SessionEntry { number, session });
        number
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Session<S>> {
        self.places.get(place(number)).filter(|place| place.number == number).map(|place| &place.session)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Session<S>> {
        let found = self.places.get_mut(place(number)).filter(|place| place.number == number);
        found.map(|place| &mut place.session)
    }

    /// The backfill of a session, if it exists and has one.
    pub(crate) fn backfill_mut(&mut self, number: u64) -> Option<&mut Backfill> {
        self.get_mut(number)?.backfill.as_deref_mut()
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Session<S>> {
        self.get(number)?;
        let SessionEntry { session, .. } = self.places.remove(place(number));
        if self.places.is_empty() {
            self.places.shrink_to_fit();
        }
        Some(session)
    }

    /// The numbers of the sessions that match `predicate`.
    pub(crate) fn numbers(&self, predicate: impl Fn(&Session<S>) -> bool) -> Vec<u64> {
        self.places.iter().filter(|(_, place)| predicate(&place.session)).map(|(_, place)| place.number).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

fn place(number: u64) -> usize {
    (number & ((1 << PLACE_BITS) - 1)) as usize
}
