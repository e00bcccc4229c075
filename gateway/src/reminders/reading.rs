//! What is read of the alerts of one user, page by page: which ones are asked for, and which are kept. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use tickwire_core::alerts::AlertsRequest;
use tickwire_core::event::Timestamp;
use tickwire_core::ids::{EpochId, NodeRef, Seq, UserId};

use super::UnackedAlerts;
use crate::acks::record::AckRecord;
use crate::delivery::Delivery;

/// How many alerts of a user may come again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReminderLimits {
    /// How many.
    pub(crate) most: usize,
    /// How many bytes they have together, between nodes. One alert may have more.
    pub(crate) bytes: usize,
}

/// A page, with its alerts decoded.
#[derive(Debug)]
pub(crate) struct ReadPage {
    pub(crate) epoch_id: EpochId,
    /// Up to here the alerts were read.
    pub(crate) through: Seq,
    pub(crate) alerts: Vec<Arc<Delivery>>,
}

/// What follows after a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextPage {
    /// Another one must be asked for.
    Ask,
    /// The server that was read has no more, but the last alert is still missing: it lags, or that alert was deleted.
    AskLater,
    /// Everything was read.
    Nothing,
    /// A new epoch has begun meanwhile.
    OtherEpoch,
}

/// The reading of the unacknowledged alerts of one user.
#[derive(Debug)]
pub(crate) struct UserReading {
    request: AlertsRequest,
    /// The last alert of the user.
    last: Seq,
    limits: ReminderLimits,
    epoch_id: Option<EpochId>,
    /// The newest ones so far.
    kept: VecDeque<Arc<Delivery>>,
    bytes: usize,
    /// At least how many older ones do not come again.
    cut: usize,
    /// If there are too many to read all of them.
    search: Option<NewestSearch>,
}

/// The search for the newest alerts of a user by bisection. What is kept are those after `high`.
#[derive(Debug)]
struct NewestSearch {
    /// More alerts follow this one than a page has.
    low: Seq,
    high: Seq,
    /// Those right before `low` that were read.
    before: Vec<Arc<Delivery>>,
    /// Whether an alert after `low` has no room.
    is_full: bool,
}

impl NewestSearch {
    fn middle(&self) -> Seq {
        Seq(self.low.0 + self.high.0.saturating_sub(self.low.0) / 2)
    }

    /// Whether nothing between those kept and those before is unread.
    fn is_closed(&self) -> bool {
        self.high <= self.low
    }
}

impl UserReading {
    /// Reads the alerts of `user` for `gateway` that were stored at `since` or later, up to the `last` one, without those
    /// of which the record has an acknowledgement. Of those from before the oldest entry of a full record nobody knows
    /// whether they were acknowledged, so they are left out too, and count as cut.
    pub(crate) fn new(
        (gateway, user): (NodeRef, UserId),
        since: Timestamp,
        last: Seq,
        record: &AckRecord,
        limits: ReminderLimits,
    ) -> Self {
        let complete = record.complete_since().filter(|complete| *complete > since);
        let (since, cut) = (complete.unwrap_or(since), usize::from(complete.is_some()));
        let request = AlertsRequest { gateway, user, since, after: Seq(0), acked: record.sequences() };
        Self { request, last, limits, epoch_id: None, kept: VecDeque::new(), bytes: 0, cut, search: None }
    }

    /// The request for the next page.
    pub(crate) fn request(&self) -> &AlertsRequest {
        &self.request
    }

    /// Takes the page that was asked for.
    pub(crate) fn take(&mut self, page: ReadPage) -> NextPage {
        let ReadPage { epoch_id, through, mut alerts } = page;
        if *self.epoch_id.get_or_insert(epoch_id) != epoch_id {
            return NextPage::OtherEpoch;
        }
        alerts.retain(|alert| self.request.wants(alert.seq, alert.event.stored));
        if let Some(search) = self.search.take() {
            return self.narrow(search, through, alerts);
        }
        for alert in alerts {
            self.keep(alert);
        }
        let has_advanced = through > self.request.after;
        self.request.after = through.max(self.request.after);
        match self.request.after >= self.last {
            true => NextPage::Nothing,
            false if has_advanced => NextPage::Ask,
            false => NextPage::AskLater,
        }
    }

    /// Looks only for the newest alerts from now on: many pages have not reached the last one.
    pub(crate) fn search_newest(&mut self) {
        let before = Vec::from(std::mem::take(&mut self.kept));
        self.bytes = 0;
        let search = NewestSearch { low: self.request.after, high: self.last, before, is_full: false };
        self.request.after = search.middle();
        self.search = Some(search);
    }

    /// Takes a page from the middle of what is unread. Each one halves it.
    fn narrow(&mut self, mut search: NewestSearch, through: Seq, mut alerts: Vec<Arc<Delivery>>) -> NextPage {
        let from = self.request.after;
        let mut next = NextPage::Ask;
        if through >= search.high {
            alerts.retain(|alert| alert.seq <= search.high);
            search.is_full = !self.prepend(alerts);
            search.high = search.high.min(from);
        } else if through > from {
            self.cut += search.before.len().max(1);
            search.before = alerts;
            search.low = through;
        } else {
            next = NextPage::AskLater;
        }
        if search.is_full || search.is_closed() {
            next = NextPage::Nothing;
        }
        self.request.after = search.middle();
        self.search = Some(search);
        next
    }

    /// The last alert of the user is this one now.
    pub(crate) fn set_last(&mut self, last: Seq) {
        self.last = last;
        if let Some(search) = &mut self.search {
            search.high = search.high.min(last);
        }
    }

    /// What comes again.
    pub(crate) fn finish(mut self) -> UnackedAlerts {
        if let Some(search) = self.search.take() {
            self.cut += usize::from(!search.is_closed());
            match search.is_full {
                true => self.cut += search.before.len(),
                false => _ = self.prepend(search.before),
            }
        }
        let Self { epoch_id, kept, cut, .. } = self;
        UnackedAlerts { epoch_id: epoch_id.unwrap_or_default(), alerts: kept.into(), cut }
    }

    /// Keeps an alert, which is newer than those before, and drops the oldest ones beyond the limits.
    fn keep(&mut self, alert: Arc<Delivery>) {
        self.bytes += alert.bytes();
        self.kept.push_back(alert);
        while self.kept.len() > self.limits.most || (self.bytes > self.limits.bytes && self.kept.len() > 1) {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.bytes();
            self.cut += 1;
        }
    }

    /// Keeps alerts that are older than those before, the newest of them, as far as there is room. Returns whether there
    /// is room for all.
    fn prepend(&mut self, mut alerts: Vec<Arc<Delivery>>) -> bool {
        while let Some(newest) = alerts.pop() {
            let bytes = self.bytes + newest.bytes();
            if self.kept.len() >= self.limits.most || (bytes > self.limits.bytes && !self.kept.is_empty()) {
                self.cut += alerts.len() + 1;
                return false;
            }
            self.bytes = bytes;
            self.kept.push_front(newest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tickwire_core::event::Event;
    use tickwire_core::ids::{NodeId, Nonce, Partition};
    use tickwire_testkit::blank_event;

    use super::*;
    use crate::acks::record::AckedAlert;

    const PARTITION: Partition = Partition(3);

    /// An alert that was stored at the time of its sequence.
    fn alert(seq: u64) -> Arc<Delivery> {
        let event = Event { stored: Timestamp(seq as i64), ..blank_event() };
        Arc::new(Delivery::new(event, PARTITION, Seq(seq)).of_bytes(100))
    }

    fn reading(since: i64, last: u64, acked: impl IntoIterator<Item = u64>, most: usize) -> UserReading {
        let mut record = AckRecord::default();
        let acked =
            acked.into_iter().map(|seq| AckedAlert { stored: Timestamp(seq as i64), p: PARTITION, seq: Seq(seq) });
        record.add(Timestamp(0), &acked.collect::<Vec<_>>());
        let gateway = NodeRef { id: NodeId::new("gw-1").unwrap(), nonce: Nonce(1) };
        let limits = ReminderLimits { most, bytes: 450 };
        UserReading::new((gateway, UserId::new("ann").unwrap()), Timestamp(since), Seq(last), &record, limits)
    }

    fn page(through: u64, seqs: &[u64]) -> ReadPage {
        let alerts = seqs.iter().map(|seq| alert(*seq)).collect();
        ReadPage { epoch_id: EpochId(1), through: Seq(through), alerts }
    }

    /// The sequences that come again, and how many are cut.
    fn finished(reading: UserReading) -> (Vec<u64>, usize) {
        let UnackedAlerts { alerts, cut, .. } = reading.finish();
        (alerts.iter().map(|alert| alert.seq.0).collect(), cut)
    }

    #[test]
    fn pages_are_read_up_to_the_last_alert() {
        let mut reading = reading(0, 9, [3], 100);
        assert_eq!(reading.take(page(5, &[2, 3, 5])), NextPage::Ask);
        assert_eq!(reading.request().after, Seq(5));
        assert_eq!(reading.take(page(5, &[])), NextPage::AskLater, "a server that lags");
        assert_eq!(reading.take(page(8, &[7])), NextPage::Ask);
        assert_eq!(reading.take(page(8, &[])), NextPage::AskLater);
        // The last one was deleted.
        reading.set_last(Seq(8));
        assert_eq!(reading.take(page(8, &[])), NextPage::Nothing);
        assert_eq!(finished(reading), (vec![2, 5, 7], 0));
    }

    #[test]
    fn reading_ends_with_its_epoch() {
        let mut reading = reading(0, 9, [], 100);
        assert_eq!(reading.take(page(5, &[2])), NextPage::Ask);
        let other = ReadPage { epoch_id: EpochId(2), ..page(9, &[9]) };
        assert_eq!(reading.take(other), NextPage::OtherEpoch);
    }

    #[test]
    fn newest_alerts_are_kept_and_the_others_counted() {
        let mut by_count = reading(0, 9, [], 2);
        by_count.take(page(9, &[1, 2, 3, 4]));
        assert_eq!(finished(by_count), (vec![3, 4], 2));
        let mut by_bytes = reading(0, 9, [], 100);
        by_bytes.take(page(9, &[1, 2, 3, 4, 5, 6]));
        assert_eq!(finished(by_bytes), (vec![3, 4, 5, 6], 2));
    }

    #[test]
    fn alerts_that_a_full_record_may_have_forgotten_are_left_out() {
        let full = reading(0, 2_000, (500..1_500).chain([1_900]), 100);
        assert_eq!((full.request().since, full.request().acked.len()), (Timestamp(501), 1_000));
        assert_eq!(finished(full), (vec![], 1), "the client learns that some may be missing");
        for (since, acked) in [(700, (500..1_500).collect::<Vec<_>>()), (7, vec![500])] {
            let complete = reading(since, 2_000, acked, 100);
            assert_eq!(complete.request().since, Timestamp(since));
            assert_eq!(finished(complete), (vec![], 0));
        }
    }

    /// Reads the alerts of a user as the task does, in pages of this size. Returns the number of pages of the search.
    fn read_all(reading: &mut UserReading, alerts: &[u64], size: usize, pages: usize) -> usize {
        for asked in 0..pages + 64 {
            if asked == pages {
                reading.search_newest();
            }
            let begin = alerts.partition_point(|seq| *seq <= reading.request().after.0);
            let next = &alerts[begin..alerts.len().min(begin + size)];
            match reading.take(page(next.last().copied().unwrap_or(reading.request().after.0), next)) {
                NextPage::Ask => {}
                NextPage::Nothing => return (asked + 1).saturating_sub(pages),
                other => panic!("{other:?}"),
            }
        }
        panic!("the search does not end: {reading:?}");
    }

    #[test]
    fn newest_alerts_come_again_however_many_there_are() {
        let flood = 1..=10_000_u64;
        let after: Vec<u64> = flood.clone().chain([2_000_000]).collect();
        let within: Vec<u64> = (1..=5).map(|hour| hour * 100_000).chain(400_001..=410_000).chain([900_000]).collect();
        let even: Vec<u64> = flood.clone().map(|number| number * 1_000).collect();
        for alerts in [flood.collect(), after, within, even] {
            let mut alerts: Vec<u64> = alerts;
            alerts.sort_unstable();
            let last = *alerts.last().unwrap();
            let mut reading = reading(0, last, [], 4);
            let searched = read_all(&mut reading, &alerts, 200, 4);
            assert!((1..=25).contains(&searched), "{searched} pages");
            let (seqs, cut) = finished(reading);
            assert_eq!(seqs, alerts[alerts.len() - 4..]);
            assert!((1..=alerts.len() - 4).contains(&cut), "{cut} of {}", alerts.len());
        }
    }

    #[test]
    fn search_that_finds_no_more_goes_back_to_what_was_read_before() {
        let mut reading = reading(0, 1_000, [], 4);
        assert_eq!(read_all(&mut reading, &[1, 2, 3, 4, 5, 6, 1_000], 2, 3), 10);
        assert_eq!(finished(reading), (vec![4, 5, 6, 1_000], 3));
    }

    #[test]
    fn search_waits_for_a_server_that_lags_and_ends_if_the_last_alert_is_deleted() {
        let mut reading = reading(0, 100, [], 4);
        reading.take(page(20, &[10, 20]));
        reading.search_newest();
        assert_eq!(reading.request().after, Seq(60));
        assert_eq!(reading.take(page(60, &[])), NextPage::AskLater);
        reading.set_last(Seq(20));
        assert_eq!(reading.take(page(60, &[])), NextPage::Nothing);
        assert_eq!(finished(reading), (vec![10, 20], 0));
    }
}
