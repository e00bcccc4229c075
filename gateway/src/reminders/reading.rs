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
    /// How many older ones have no room.
    cut: usize,
}

impl UserReading {
    /// Reads the alerts of `user` for `gateway` that were stored at `since` or later, up to the `last` one, without those
    /// of which the record has an acknowledgement. Of those from before the oldest entry of a full record nobody knows
    /// whether they were acknowledged, so they are left out too.
    pub(crate) fn new(
        (gateway, user): (NodeRef, UserId),
        since: Timestamp,
        last: Seq,
        record: &AckRecord,
        limits: ReminderLimits,
    ) -> Self {
        let since = record.complete_since().map_or(since, |complete| since.max(complete));
        let request = AlertsRequest { gateway, user, since, after: Seq(0), acked: record.sequences() };
        Self { request, last, limits, epoch_id: None, kept: VecDeque::new(), bytes: 0, cut: 0 }
    }

    /// The request for the next page.
    pub(crate) fn request(&self) -> &AlertsRequest {
        &self.request
    }

    /// Takes the page that was asked for.
    pub(crate) fn take(&mut self, page: ReadPage) -> NextPage {
        let ReadPage { epoch_id, through, alerts } = page;
        if *self.epoch_id.get_or_insert(epoch_id) != epoch_id {
            return NextPage::OtherEpoch;
        }
        for alert in alerts {
            if self.request.wants(alert.seq, alert.event.stored) {
                self.keep(alert);
            }
        }
        let has_advanced = through > self.request.after;
        self.request.after = through.max(self.request.after);
        match self.request.after >= self.last {
            true => NextPage::Nothing,
            false if has_advanced => NextPage::Ask,
            false => NextPage::AskLater,
        }
    }

    /// The last alert of the user is this one now.
    pub(crate) fn set_last(&mut self, last: Seq) {
        self.last = last;
    }

    /// What comes again.
    pub(crate) fn finish(self) -> UnackedAlerts {
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
        assert_eq!(reading(700, 2_000, (500..1_500).chain([1_900]), 100).request().since, Timestamp(700));
        assert_eq!(reading(7, 2_000, [500], 100).request().since, Timestamp(7));
    }
}
