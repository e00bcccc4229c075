//! Whether clients are told that NATS is away. Pure: the clock is passed in.

use tickwire_core::codes::NoticeCode;
use tickwire_core::ids::Millis;

/// How long NATS may be away before clients are told, in milliseconds: most breaks are over sooner, and what was missed
/// is repaired without a word.
const GRACE_MS: u64 = 1_000;

/// The connection to NATS as clients know it.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    away_since: Option<Millis>,
    told: bool,
}

impl Upstream {
    /// Takes whether there is a connection now, and gives what clients are to be told.
    pub(super) fn see(&mut self, now: Millis, connected: bool) -> Option<NoticeCode> {
        if connected {
            self.away_since = None;
            return std::mem::take(&mut self.told).then_some(NoticeCode::UpstreamRestored);
        }
        let since = *self.away_since.get_or_insert(now);
        if self.told || now.since(since) < GRACE_MS {
            return None;
        }
        self.told = true;
        Some(NoticeCode::UpstreamLost)
    }

    /// When to look again, if nothing changes.
    pub(super) fn next_look(&self) -> Option<Millis> {
        self.away_since.filter(|_| !self.told).map(|since| since.plus(GRACE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_break_is_not_told_and_a_long_one_is_told_once() {
        let mut upstream = Upstream::default();
        let mut see = |at, connected| upstream.see(Millis(at), connected);
        assert_eq!([see(0, true), see(100, false), see(1_000, false), see(1_050, true)], [None; 4]);
        assert_eq!([see(2_000, false), see(2_999, false)], [None; 2]);
        assert_eq!(see(3_000, false), Some(NoticeCode::UpstreamLost));
        assert_eq!([see(3_001, false), see(9_000, false)], [None; 2]);
        assert_eq!(see(9_500, true), Some(NoticeCode::UpstreamRestored));
        assert_eq!([see(9_501, true), see(10_000, false)], [None; 2]);
        assert_eq!(upstream.next_look(), Some(Millis(11_000)));
    }
}
