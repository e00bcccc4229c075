//! Kinds of which the stream gets no events, although there should be some.
//!
//! What counts is the time in which there should be events. So a kind is silent for a time only if the hours cover all of
//! it: after a night the time begins with the opening of the exchange.

use super::{Grade, HealthPart, KindLast, advice};
use crate::clock::millis;
use crate::config::{HealthConfig, SilenceHours};
use std::time::Duration;
use tickwire_core::event::calendar::session_of;
use tickwire_core::event::{Timestamp, TradingSession};

/// The part of these kinds; `None` if there are none.
pub(super) fn of_kinds(thresholds: &HealthConfig, now: Timestamp, kinds: &[KindLast]) -> Option<HealthPart> {
    let graded = kinds.iter().map(|last| (grade_of(thresholds, now, last.since), last));
    let (status, last) = graded.max_by_key(|(status, last)| (*status, now.0.saturating_sub(last.since.0)))?;
    let advice = advice(status, "look at its producers");
    let seconds = now.0.saturating_sub(last.since.0).max(0) / 1_000;
    let message = format!("no event of kind {} for {seconds} s{advice}", last.kind);
    Some(HealthPart { name: "silence", status, message })
}

fn grade_of(thresholds: &HealthConfig, now: Timestamp, since: Timestamp) -> Grade {
    let is_silent = |most: Duration| {
        let most = i64::try_from(millis(most)).unwrap_or(i64::MAX);
        let begin = Timestamp(now.0.saturating_sub(most));
        since <= begin && [begin, now].into_iter().all(|at| is_in(thresholds.silence_hours, at))
    };
    match (is_silent(thresholds.silence_warning), is_silent(thresholds.silence_error)) {
        (_, true) => Grade::Error,
        (true, false) => Grade::Warning,
        (false, false) => Grade::Healthy,
    }
}

fn is_in(hours: SilenceHours, at: Timestamp) -> bool {
    match hours {
        SilenceHours::Always => true,
        SilenceHours::Market => session_of(at) == TradingSession::Regular,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LoadOptions};

    /// Monday 2 March 2026, 9:30 in New York.
    const OPENING: i64 = 1_772_461_800_000;
    const MINUTE: i64 = 60_000;

    fn thresholds(hours: SilenceHours) -> HealthConfig {
        HealthConfig { silence_hours: hours, ..Config::load(&LoadOptions::default()).unwrap().health }
    }

    fn grade(hours: SilenceHours, now: i64, silent: i64) -> Grade {
        let last = KindLast { kind: "pattern".to_owned(), since: Timestamp(now - silent) };
        of_kinds(&thresholds(hours), Timestamp(now), &[last]).unwrap().status
    }

    #[test]
    fn silence_counts_in_market_hours_only() {
        let noon = OPENING + 150 * MINUTE;
        let market = |now, silent| grade(SilenceHours::Market, now, silent);
        assert_eq!(market(noon, 5 * MINUTE - 1), Grade::Healthy);
        assert_eq!(market(noon, 5 * MINUTE), Grade::Warning);
        assert_eq!(market(noon, 30 * MINUTE), Grade::Error);
        // In the morning the last event is of Friday.
        assert_eq!(market(OPENING + 4 * MINUTE, 3 * 24 * 60 * MINUTE), Grade::Healthy);
        assert_eq!(market(OPENING + 5 * MINUTE, 3 * 24 * 60 * MINUTE), Grade::Warning);
        assert_eq!(market(OPENING + 30 * MINUTE, 3 * 24 * 60 * MINUTE), Grade::Error);
        // In the evening nobody expects one.
        assert_eq!(market(OPENING + 391 * MINUTE, 300 * MINUTE), Grade::Healthy);
        assert_eq!(grade(SilenceHours::Always, OPENING + 391 * MINUTE, 300 * MINUTE), Grade::Error);
    }

    #[test]
    fn kind_that_is_silent_longest_decides() {
        let thresholds = thresholds(SilenceHours::Always);
        assert_eq!(of_kinds(&thresholds, Timestamp(OPENING), &[]), None);
        let last = |kind: &str, ago| KindLast { kind: kind.to_owned(), since: Timestamp(OPENING - ago) };
        let part =
            of_kinds(&thresholds, Timestamp(OPENING), &[last("market", 7 * MINUTE), last("pattern", 0)]).unwrap();
        assert_eq!(part.message, "no event of kind market for 420 s: look at its producers");
    }
}
