//! How long a session may continue with its token. Pure: the time of day is passed in.
//!
//! Only the wall clock decides, and somebody may set it at any time. So no deadline is fixed in advance: the shard
//! checks the token at each heartbeat, and after the time that [`TokenTerm::wait`] returns.

use std::time::Duration;

/// The longest time between the notice and the expiry of a token.
const LONGEST_NOTICE: Duration = Duration::from_secs(60);

/// The notice is sent when the time left is the token's lifetime at its arrival divided by this, or earlier (see
/// [`LONGEST_NOTICE`]).
const NOTICE_PART: u32 = 4;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TermDue {
    /// Nothing for now.
    Nothing,
    /// Notify the client that its token expires soon.
    Notice,
    /// The token is no longer valid.
    End,
}

/// The validity of a session's token. All times are since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenTerm {
    expires: Duration,
    /// When the notice is due; `None` after it was sent.
    notice: Option<Duration>,
}

impl TokenTerm {
    /// A token that is received at `now`. The notice is due a minute before the expiry, or when a quarter of the time
    /// is left if that is later.
    pub(crate) fn new(now: Duration, expires: Duration) -> Self {
        let ahead = (expires.saturating_sub(now) / NOTICE_PART).min(LONGEST_NOTICE);
        Self { expires, notice: Some(expires.saturating_sub(ahead)) }
    }

    /// Replaces the token. If the new one expires at the same time, no second notice is sent.
    pub(crate) fn renew(&mut self, now: Duration, expires: Duration) {
        if expires != self.expires {
            *self = Self::new(now, expires);
        }
    }

    /// What is due at `now`. The token is valid for `leeway` after its expiry.
    pub(crate) fn check(&mut self, now: Duration, leeway: Duration) -> TermDue {
        if self.is_over(now, leeway) {
            return TermDue::End;
        }
        match self.notice.take_if(|at| *at <= now) {
            Some(_) => TermDue::Notice,
            None => TermDue::Nothing,
        }
    }

    /// Whether the token is no longer valid.
    pub(crate) fn is_over(&self, now: Duration, leeway: Duration) -> bool {
        now >= self.expires.saturating_add(leeway)
    }

    /// How long until something is due.
    pub(crate) fn wait(&self, now: Duration, leeway: Duration) -> Duration {
        self.notice.unwrap_or_else(|| self.expires.saturating_add(leeway)).saturating_sub(now)
    }

    /// How long the token is still valid, without the leeway.
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
    fn expiry_is_announced_once_before_the_token_ends() {
        let mut term = TokenTerm::new(at(0), at(3_600));
        assert_eq!(term.wait(at(0), LEEWAY), Duration::from_secs(3_540));
        assert_eq!(term.check(at(3_539), LEEWAY), TermDue::Nothing);
        assert_eq!(term.check(at(3_540), LEEWAY), TermDue::Notice);
        assert_eq!((term.check(at(3_541), LEEWAY), term.left(at(3_541))), (TermDue::Nothing, Duration::from_secs(59)));
        assert_eq!(term.wait(at(3_600), LEEWAY), LEEWAY);
        assert_eq!(term.check(at(3_604), LEEWAY), TermDue::Nothing);
        assert_eq!(term.check(at(3_605), LEEWAY), TermDue::End);
    }

    #[test]
    fn expiry_of_a_short_token_is_announced_when_a_quarter_is_left() {
        let mut term = TokenTerm::new(at(0), at(8));
        assert_eq!((term.check(at(5), LEEWAY), term.check(at(6), LEEWAY)), (TermDue::Nothing, TermDue::Notice));
        // A token that was accepted after its expiry, within the leeway.
        let mut term = TokenTerm::new(at(2), at(0));
        assert_eq!((term.wait(at(2), LEEWAY), term.check(at(2), LEEWAY)), (Duration::ZERO, TermDue::Notice));
        assert_eq!((term.wait(at(2), LEEWAY), term.left(at(2))), (Duration::from_secs(3), Duration::ZERO));
    }

    #[test]
    fn new_token_is_announced_again_but_not_one_with_the_same_expiry() {
        let mut term = TokenTerm::new(at(0), at(100));
        assert_eq!(term.check(at(80), LEEWAY), TermDue::Notice);
        term.renew(at(80), at(100));
        assert_eq!(term.check(at(81), LEEWAY), TermDue::Nothing);
        term.renew(at(81), at(1_000));
        assert_eq!(term.check(at(200), LEEWAY), TermDue::Nothing);
        assert_eq!(term.check(at(940), LEEWAY), TermDue::Notice);
        // A token that expires sooner replaces it as well.
        term.renew(at(940), at(950));
        assert_eq!(term.check(at(955), LEEWAY), TermDue::End);
    }

    #[test]
    fn clock_set_forward_or_back_is_followed() {
        let mut term = TokenTerm::new(at(0), at(3_600));
        assert_eq!(term.check(at(10_000), LEEWAY), TermDue::End);
        assert_eq!(term.check(at(1), LEEWAY), TermDue::Nothing);
        assert_eq!(term.check(at(3_550), LEEWAY), TermDue::Notice);
        assert_eq!(term.wait(Duration::ZERO, LEEWAY), at(3_605));
        assert_eq!(term.check(Duration::ZERO, LEEWAY), TermDue::Nothing);
    }

    #[test]
    fn token_with_the_largest_expiry_never_ends() {
        let mut term = TokenTerm::new(at(0), Duration::MAX);
        assert_eq!(term.check(at(u64::from(u32::MAX)), LEEWAY), TermDue::Nothing);
        assert!(term.wait(at(0), LEEWAY) > Duration::from_secs(1 << 62));
    }
}
