//! What the log reports of a session: when it begins and ends, where it resumes, and what it misses. This module has
//! the counts; `shard/log` writes the lines. Two plain numbers of the session count what is delivered. Everything else
//! is counted only when the session misses something.

use std::net::IpAddr;

use tickwire_core::ids::{Millis, Seq};
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::{Gap, Notice};

/// What a session was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// Events that its socket has completely accepted.
    pub(crate) events: u64,
    /// Bytes of all frames.
    pub(crate) bytes: u64,
}

/// What a session was notified that it misses, by the code of the notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// Events dropped since the client read too slowly.
    pub(crate) slow_consumer: u64,
    /// Events dropped since the rate of the user was used up.
    pub(crate) throttled: u64,
    /// Events dropped since the quota of a subscription was used up.
    pub(crate) quota: u64,
    /// Events dropped since their time to live was over.
    pub(crate) expired: u64,
    /// Events replaced by newer ones.
    pub(crate) conflated: u64,
    /// Urgent events that waited for their window.
    pub(crate) delayed: u64,
    /// Gaps.
    pub(crate) gaps: u64,
    /// The lowest and the highest sequence of what is missed.
    pub(crate) range: Option<(Seq, Seq)>,
}

impl Missed {
    fn count(&mut self, notice: &Notice) {
        let dropped = match notice.code.as_str() {
            code if code == NoticeCode::SlowConsumer.as_str() => &mut self.slow_consumer,
            code if code == NoticeCode::Throttled.as_str() => &mut self.throttled,
            code if code == NoticeCode::Expired.as_str() => &mut self.expired,
            _ => &mut self.quota,
        };
        *dropped += notice.dropped;
        self.conflated += notice.conflated;
        self.delayed += notice.delayed;
        for range in &notice.ranges {
            self.widen(range.first, range.last);
        }
    }

    fn count_gap(&mut self, gap: &Gap) {
        self.gaps += 1;
        self.widen(Seq(gap.from.0.saturating_add(1).min(gap.to.0)), gap.to);
    }

    fn widen(&mut self, first: Seq, last: Seq) {
        let (lowest, highest) = self.range.unwrap_or((first, last));
        self.range = Some((lowest.min(first), highest.max(last)));
    }

    /// The events dropped for any reason.
    pub(crate) fn dropped(&self) -> u64 {
        self.slow_consumer + self.throttled + self.quota + self.expired
    }
}

/// The record of one session.
#[derive(Debug)]
pub(crate) struct Record {
    /// The address of the client, as far as proxies are trusted.
    pub(crate) peer: IpAddr,
    /// When the session arrived.
    pub(crate) arrived: Millis,
    /// Whether it has resumed an earlier one.
    pub(crate) resumed: bool,
    /// The notices that it was sent.
    pub(crate) notices: u64,
    /// What it misses. Most sessions miss nothing, and have no room for it.
    losses: Option<Box<Losses>>,
}

/// What a session misses.
#[derive(Debug, Default)]
struct Losses {
    missed: Missed,
    /// The part of `missed` that is not in the log yet, and since when.
    unlogged: Option<(Millis, Missed)>,
}

impl Record {
    pub(crate) fn new(now: Millis, peer: IpAddr) -> Box<Self> {
        Box::new(Self { peer, arrived: now, resumed: false, notices: 0, losses: None })
    }

    /// All that the session misses.
    pub(crate) fn missed(&self) -> Missed {
        self.losses.as_ref().map_or_else(Missed::default, |losses| losses.missed)
    }

    /// Whether something is not in the log yet.
    pub(crate) fn has_unlogged(&self) -> bool {
        self.losses.as_ref().is_some_and(|losses| losses.unlogged.is_some())
    }

    /// Takes what is not in the log yet, if the session has missed it for `age` milliseconds or longer.
    pub(crate) fn take_unlogged(&mut self, now: Millis, age: u64) -> Option<(Millis, Missed)> {
        self.losses.as_mut()?.unlogged.take_if(|(since, _)| now.since(*since) >= age)
    }

    /// These events of a slow consumer are not missed: a resume delivers them.
    pub(crate) fn keep_for_resume(&mut self, events: u64) {
        if let Some(losses) = &mut self.losses {
            losses.missed.slow_consumer = losses.missed.slow_consumer.saturating_sub(events);
        }
    }

    /// Counts a notice that is sent. Returns whether it is the first one since the last log line.
    pub(crate) fn notice(&mut self, now: Millis, notice: &Notice) -> bool {
        self.notices += 1;
        let is_counted = notice.dropped > 0 || notice.conflated > 0 || notice.delayed > 0;
        is_counted && self.miss(now, |missed| missed.count(notice))
    }

    /// The client left before it could be sent this.
    pub(crate) fn unsent_notice(&mut self, now: Millis, notice: &Notice) {
        self.miss(now, |missed| missed.count(notice));
    }

    /// Counts gaps that are notified. Returns whether they are the first ones since the last log line.
    pub(crate) fn gaps(&mut self, now: Millis, gaps: &[Gap]) -> bool {
        self.miss(now, |missed| gaps.iter().for_each(|gap| missed.count_gap(gap)))
    }

    fn miss(&mut self, now: Millis, count: impl Fn(&mut Missed)) -> bool {
        let Losses { missed, unlogged } = &mut **self.losses.get_or_insert_default();
        let is_first = unlogged.is_none();
        count(missed);
        count(&mut unlogged.get_or_insert_with(|| (now, Missed::default())).1);
        is_first
    }
}

#[cfg(test)]
mod tests {
    use compact_str::CompactString;
    use tickwire_core::ids::Partition;
    use tickwire_core::protocol::SeqRange;

    use super::*;

    #[test]
    fn what_is_missed_is_counted_by_its_reason_in_all_and_since_the_last_line() {
        let mut record = Record::new(Millis(5), IpAddr::from([127, 0, 0, 1]));
        let range = |first, last| vec![SeqRange { p: Partition(1), first: Seq(first), last: Seq(last) }];
        let slow = Notice { dropped: 3, conflated: 2, ranges: range(10, 20), ..Notice::new(NoticeCode::SlowConsumer) };
        let quota = Notice { dropped: 1, ranges: range(4, 4), ..Notice::new(NoticeCode::Quota) };
        assert!(!record.notice(Millis(6), &Notice::new(NoticeCode::Recovered)), "nothing is missed");
        assert!(record.notice(Millis(7), &slow) && !record.notice(Millis(8), &quota));
        let all =
            Missed { slow_consumer: 3, quota: 1, conflated: 2, range: Some((Seq(4), Seq(20))), ..Missed::default() };
        assert_eq!((record.missed(), record.take_unlogged(Millis(9), 0)), (all, Some((Millis(7), all))));
        assert_eq!((record.notices, all.dropped()), (3, 4));
        let expired = Notice { dropped: 2, ranges: range(11, 12), ..Notice::new(NoticeCode::Expired) };
        assert!(record.notice(Millis(8), &expired));
        let late = Missed { expired: 2, range: Some((Seq(11), Seq(12))), ..Missed::default() };
        let all = Missed { expired: 2, ..all };
        assert_eq!(
            (record.missed(), record.take_unlogged(Millis(9), 0), all.dropped()),
            (all, Some((Millis(8), late)), 6)
        );

        let gap = Gap { reason: CompactString::const_new("lost"), p: Partition(1), from: Seq(20), to: Seq(30) };
        assert!(record.gaps(Millis(9), &[gap]));
        let noted = Missed { gaps: 1, range: Some((Seq(21), Seq(30))), ..Missed::default() };
        assert!(record.has_unlogged() && record.take_unlogged(Millis(10), 2).is_none());
        assert_eq!(record.take_unlogged(Millis(11), 2), Some((Millis(9), noted)));
        assert_eq!(record.missed(), Missed { gaps: 1, range: Some((Seq(4), Seq(30))), ..all });
    }
}
