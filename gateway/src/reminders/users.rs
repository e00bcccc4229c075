//! Whose alerts are read now, and for which sessions. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tickwire_core::ids::UserId;

use super::ReminderRequest;
use crate::messages::SessionId;

/// How many users are read at the same time.
pub(crate) const USERS: usize = 16;

/// The users whose alerts are read now.
#[derive(Debug, Default)]
pub(crate) struct ReadUsers {
    users: HashMap<UserId, UserSessions>,
}

/// The sessions of a user whose alerts are read.
#[derive(Debug, Default)]
struct UserSessions {
    /// Those that had asked when the reading began.
    served: Vec<SessionId>,
    /// Those that have asked since then. They get the next reading.
    next: Vec<SessionId>,
}

/// The reading of a user has ended.
#[derive(Debug)]
pub(crate) struct EndedReading {
    /// The sessions that it was for.
    pub(crate) served: Vec<SessionId>,
    /// Whether the next reading of the user must begin.
    pub(crate) is_next: bool,
}

impl ReadUsers {
    /// Whether another request may be taken.
    pub(crate) fn have_room(&self) -> bool {
        self.users.len() < USERS
    }

    /// A session asks. Returns its user if a reading must begin.
    pub(crate) fn ask(&mut self, ReminderRequest { session, user }: ReminderRequest) -> Option<UserId> {
        match self.users.entry(user) {
            Entry::Occupied(mut entry) => {
                entry.get_mut().next.push(session);
                None
            }
            Entry::Vacant(entry) => {
                let user = entry.key().clone();
                entry.insert(UserSessions { served: vec![session], next: Vec::new() });
                Some(user)
            }
        }
    }

    /// The reading of a user has ended.
    pub(crate) fn end(&mut self, user: &UserId) -> EndedReading {
        let UserSessions { served, next } = self.users.remove(user).unwrap_or_default();
        let is_next = !next.is_empty();
        if is_next {
            self.users.insert(user.clone(), UserSessions { served: next, next: Vec::new() });
        }
        EndedReading { served, is_next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_that_asks_during_a_reading_gets_the_next_one() {
        let (mut users, user) = (ReadUsers::default(), UserId::new("ann").unwrap());
        let session = |number| SessionId { shard: 0, number };
        let request = |number| ReminderRequest { session: session(number), user: UserId::new("ann").unwrap() };
        assert_eq!(users.ask(request(1)), Some(user.clone()));
        assert_eq!((users.ask(request(2)), users.ask(request(3))), (None, None));
        let EndedReading { served, is_next } = users.end(&user);
        assert_eq!((served, is_next), (vec![session(1)], true));
        let EndedReading { served, is_next } = users.end(&user);
        assert_eq!((served, is_next), (vec![session(2), session(3)], false));
        assert_eq!(users.ask(request(4)), Some(user));
    }
}
