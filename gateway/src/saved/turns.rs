//! Whose turn it is among the users whose saved subscriptions the driver has to write. Pure.

use std::collections::BTreeSet;

use tickwire_core::ids::UserId;

/// The order of the turns. If the writes of some users keep failing, the others have their turns nevertheless.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Who had the last one.
    last: Option<UserId>,
}

impl Turns {
    /// Those whose turn it is, at most `most` of `users`: the next ones after the last turn, then the first ones.
    pub(super) fn next<'u>(&mut self, users: impl Iterator<Item = &'u UserId>, most: usize) -> Vec<UserId> {
        let (mut later, mut earlier) = (BTreeSet::new(), BTreeSet::new());
        for user in users {
            let is_later = self.last.as_ref().is_none_or(|last| user > last);
            let side = if is_later { &mut later } else { &mut earlier };
            side.insert(user);
            if side.len() > most {
                side.pop_last();
            }
        }
        let users: Vec<UserId> = later.into_iter().chain(earlier).take(most).cloned().collect();
        if let Some(last) = users.last() {
            self.last = Some(last.clone());
        }
        users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_who_stay_have_their_turn_after_all_others() {
        let users = |names: &[&str]| names.iter().map(|name| UserId::new(name).unwrap()).collect::<Vec<_>>();
        let mut turns = Turns::default();
        let mut next = |names: &[&str]| turns.next(users(names).iter(), 2);
        // Nobody's write succeeds.
        assert_eq!(next(&["e", "c", "a", "d", "b"]), users(&["a", "b"]));
        assert_eq!(next(&["e", "c", "a", "d", "b"]), users(&["c", "d"]));
        assert_eq!(next(&["e", "c", "a", "d", "b"]), users(&["e", "a"]));
        assert_eq!(next(&["e", "c", "a", "d", "b"]), users(&["b", "c"]));
        // Now that of c does.
        assert_eq!(next(&["a", "b"]), users(&["a", "b"]));
        assert_eq!(next(&["b"]), users(&["b"]));
        assert!(next(&[]).is_empty());
        assert_eq!(next(&["a"]), users(&["a"]));
    }
}
