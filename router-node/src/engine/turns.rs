//! Whose turn it is: messages of gateways come before what was read, but a gateway that sends a lot does not delay
//! events.

/// How many messages and inquiries are handled before what was read has a turn.
const MESSAGES: u32 = 16;

/// Shares the turns of the engine between messages of gateways and what was read.
#[derive(Debug, Default)]
pub struct MessageTurns {
    taken: u32,
}

impl MessageTurns {
    /// Whether the next turn may be for a message. If not, it is for what was read.
    #[must_use]
    pub fn may_take(&self) -> bool {
        self.taken < MESSAGES
    }

    /// A message had a turn.
    pub fn took(&mut self) {
        self.taken += 1;
    }

    /// What was read had a turn, or nothing was read.
    pub fn restart(&mut self) {
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_has_a_turn_after_many_messages() {
        let mut turns = MessageTurns::default();
        for _ in 0..2 {
            let taken = std::iter::repeat_with(|| turns.may_take().then(|| turns.took())).take_while(Option::is_some);
            assert_eq!(taken.count(), MESSAGES as usize);
            turns.restart();
        }
    }
}
