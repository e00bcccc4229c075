//! How long a session may go on with its token. Pure: the time of day is passed in.
//!
//! The wall clock alone decides, and it may be set at any time. So nothing is computed ahead of it: the shard looks at
//! each heartbeat, and when [`TokenTerm::wait`] says that something will be due if the clock goes on as it is.

use std::time::Duration;

/// The longest time before its expiry at which a token's end is announced.
const LONGEST_NOTICE: Duration = Duration::from_secs(60);

/// Which part of what was left of a token when it came is the time for a new one.
const NOTICE_PART: u32 = 4;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TermDue {
    /// Nothing for now.
    Nothing,
    /// The client is to be told that its token expires.
    Notice,
    /// The token is not good any more.
    End,
}

/// The life of a session's token. All times are since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenTerm {
    expires: Duration,
    /// When its end is to be announced; `None` once it was.
    notice: Option<Duration>,
}

impl TokenTerm {
    /// A token that comes at `now`. Its end is announced a minute ahead, a short one's when a quarter of it is left.
    pub(crate) fn new(now: Duration, expires: Duration) -> Self {
        let ahead = (expires.saturating_sub(now) / NOTICE_PART).min(LONGEST_NOTICE);
        Self { expires, notice: Some(expires.saturating_sub(ahead)) }
    }

    /// Another token takes its place. One that expires at the same time is announced only once.
    pub(crate) fn renew(&mut self, now: Duration, expires: Duration) {
        if expires != self.expires {
            *self = Self::new(now, expires);
        }
    }

    /// What is due at `now`, with a token good for `leeway` beyond its expiry.
    pub(crate) fn look(&mut self, now: Duration, leeway: Duration) -> TermDue {
        if self.is_over(now, leeway) {
            return TermDue::End;
        }
        match self.notice.take_if(|at| *at <= now) {
            Some(_) => TermDue::Notice,
            None => TermDue::Nothing,
        }
    }

    /// Whether the token is not good any more.
    pub(crate) fn is_over(&self, now: Duration, leeway: Duration) -> bool {
        now >= self.expires.saturating_add(leeway)
    }

    /// How long until something is due.
    pub(crate) fn wait(&self, now: Duration, leeway: Duration) -> Duration {
        self.notice.unwrap_or_else(|| self.expires.saturating_add(leeway)).saturating_sub(now)
    }

    /// How long the token is still good for, leeway aside.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        self.expires.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEEWAY: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_800_000_000 + seconds)
    }

    #[test]
    fn a_tokens_end_is_announced_once_and_then_comes() {
        let mut term = TokenTerm::new(at(0), at(3_600));
        assert_eq!(term.wait(at(0), LEEWAY), Duration::from_secs(3_540));
        assert_eq!(term.look(at(3_539), LEEWAY), TermDue::Nothing);
        assert_eq!(term.look(at(3_540), LEEWAY), TermDue::Notice);
        assert_eq!((term.look(at(3_541), LEEWAY), term.left(at(3_541))), (TermDue::Nothing, Duration::from_secs(59)));
        assert_eq!(term.wait(at(3_600), LEEWAY), LEEWAY);
        assert_eq!(term.look(at(3_604), LEEWAY), TermDue::Nothing);
        assert_eq!(term.look(at(3_605), LEEWAY), TermDue::End);
    }

    #[test]
    fn a_short_life_is_announced_when_a_quarter_of_it_is_left() {
        let mut term = TokenTerm::new(at(0), at(8));
        assert_eq!((term.look(at(5), LEEWAY), term.look(at(6), LEEWAY)), (TermDue::Nothing, TermDue::Notice));
        // One that was taken after its expiry, within the leeway.
        let mut term = TokenTerm::new(at(2), at(0));
        assert_eq!((term.wait(at(2), LEEWAY), term.look(at(2), LEEWAY)), (Duration::ZERO, TermDue::Notice));
        assert_eq!((term.wait(at(2), LEEWAY), term.left(at(2))), (Duration::from_secs(3), Duration::ZERO));
    }

    #[test]
    fn a_new_token_is_announced_anew_and_the_same_again_is_not() {
        let mut term = TokenTerm::new(at(0), at(100));
        assert_eq!(term.look(at(80), LEEWAY), TermDue::Notice);
        term.renew(at(80), at(100));
        assert_eq!(term.look(at(81), LEEWAY), TermDue::Nothing);
        term.renew(at(81), at(1_000));
        assert_eq!(term.look(at(200), LEEWAY), TermDue::Nothing);
        assert_eq!(term.look(at(940), LEEWAY), TermDue::Notice);
        // A shorter one is taken as well.
        term.renew(at(940), at(950));
        assert_eq!(term.look(at(955), LEEWAY), TermDue::End);
    }

    #[test]
    fn a_clock_that_is_set_is_followed_both_ways() {
        let mut term = TokenTerm::new(at(0), at(3_600));
        assert_eq!(term.look(at(10_000), LEEWAY), TermDue::End);
        assert_eq!(term.look(at(1), LEEWAY), TermDue::Nothing);
        assert_eq!(term.look(at(3_550), LEEWAY), TermDue::Notice);
        assert_eq!(term.wait(Duration::ZERO, LEEWAY), at(3_605));
        assert_eq!(term.look(Duration::ZERO, LEEWAY), TermDue::Nothing);
    }

    #[test]
    fn a_token_of_all_times_never_ends() {
        let mut term = TokenTerm::new(at(0), Duration::MAX);
        assert_eq!(term.look(at(u64::from(u32::MAX)), LEEWAY), TermDue::Nothing);
        assert!(term.wait(at(0), LEEWAY) > Duration::from_secs(1 << 62));
    }
}
