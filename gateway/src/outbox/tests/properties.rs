//! Outboxes under random load: every event is sent, or is in a notice.

use super::*;

/// A subscription that wants an event, by its number, and whether it asks for alerts.
type Wanting = (u32, bool);

/// An input of an outbox.
#[derive(Clone, Debug)]
enum OutboxAction {
    Event { priority: Priority, key: u8, size: usize, subscriptions: Vec<Wanting>, window: u16, handled: Handled },
    Pause(u64),
    Stall(bool),
}

fn action() -> impl Strategy<Value = OutboxAction> {
    let event = (
        prop::sample::select(Priority::ALL.to_vec()),
        0..6u8,
        prop::sample::select(vec![1, 50, 600]),
        prop::collection::vec((0..3u32, prop::bool::weighted(0.3)), 1..3),
        prop::sample::select(vec![0, 20, 100, 1_000]),
        (
            prop::bool::weighted(0.15),
            prop::sample::select(vec![None, Some(0.7), Some(0.85), Some(0.95)]),
            prop::option::weighted(0.2, prop::sample::select(vec![0, 30, 300, 3_000])),
        ),
    );
    prop_oneof![
        12 => event.prop_map(|(priority, key, size, subscriptions, window, (goes_first, confidence, ttl_ms))| {
            let handled = Handled { goes_first, confidence, ttl_ms, stored: 0 };
            OutboxAction::Event { priority, key, size, subscriptions, window, handled }
        }),
        3 => (0..400u64).prop_map(OutboxAction::Pause),
        1 => (1_000..7_000u64).prop_map(OutboxAction::Pause),
        1 => any::<bool>().prop_map(OutboxAction::Stall),
    ]
}

/// An outbox that is driven as a shard drives it, and what its client has received.
struct OutboxRun {
    outbox: Outbox,
    account: Account,
    limits: OutboxLimits,
    quota: Option<u32>,
    now: Millis,
    stalled: bool,
    pushed: Vec<Arc<Delivery>>,
    /// The events that a subscription wanted as alerts.
    alerts: BTreeSet<Seq>,
    received: Vec<QueuedEvent>,
    seen: BTreeSet<Seq>,
    /// The times at which events that are not exempt were sent.
    sent: Vec<Millis>,
    missing: u64,
    /// How many of them are counted as expired.
    expired: u64,
    ranges: Vec<tickwire_core::protocol::SeqRange>,
    /// Whether the shard would have closed the session.
    closed: bool,
}

impl OutboxRun {
    fn take_notice(&mut self, notice: &Notice) {
        self.missing += notice.dropped + notice.conflated;
        if notice.code == NoticeCode::Expired.as_str() {
            self.expired += notice.dropped;
        }
        if notice.dropped + notice.conflated > 0 {
            self.ranges.extend(&notice.ranges);
        }
        let total = notice.dropped + notice.conflated + notice.delayed;
        assert_eq!(notice.ranges.is_empty(), total == 0, "{notice:?}");
    }

    /// Whether the client has the event, or a notice with a range that includes it.
    fn knows(&self, delivery: &Delivery) -> bool {
        self.seen.contains(&delivery.seq)
            || self
                .ranges
                .iter()
                .any(|range| range.p == delivery.partition && range.first <= delivery.seq && delivery.seq <= range.last)
    }

    fn flush(&mut self) {
        let mut frame = Frame::default();
        while !self.stalled && self.outbox.has_output() {
            let (now, most) = (self.now, self.quota);
            let name = tickwire_core::protocol::SubscriptionName::default();
            let quota = |account: &mut Account, waiting: &QueuedEvent| {
                waiting.subscription != 2 || most.is_none_or(|most| account.take_quota(now, &name, most))
            };
            let times = (now, || time_of_day(now));
            self.outbox.compose(times, (&mut self.account, quota), JSON, &self.limits, &mut frame);
            if frame.is_empty() {
                break;
            }
            let size: usize = frame.events.iter().map(|waiting| waiting.object(JSON).len()).sum();
            assert!(frame.events.len() <= FRAME_EVENTS && (size <= FRAME_BYTES || frame.events.len() == 1));
            for (_, notice) in &frame.notices {
                self.take_notice(notice);
            }
            for waiting in &frame.events {
                assert!(self.seen.insert(waiting.delivery.seq), "once");
                assert!(!waiting.delivery.is_expired(|| time_of_day(now)), "sent although it is expired");
                assert_eq!(waiting.alert, self.alerts.contains(&waiting.delivery.seq), "an alert if any asks for it");
                self.received.push(waiting.clone());
                if !waiting.exempt {
                    self.sent.push(self.now);
                }
            }
            // A frame that is not early moves the client's position beyond all older events.
            if !frame.early {
                for waiting in &frame.events {
                    for older in self.pushed.iter().filter(|older| older.partition == waiting.delivery.partition) {
                        assert!(older.seq > waiting.delivery.seq || self.knows(older), "{:?} is overtaken", older.seq);
                    }
                }
            }
        }
        if !self.stalled {
            let budget = self.outbox.budget(self.now, &self.limits);
            assert!(self.outbox.lanes.urgent() == 0 || budget == 0 || !self.limits.lanes, "urgent events wait");
        }
    }

    fn flush_if_due(&mut self) {
        if self.outbox.due().is_some_and(|due| due <= self.now) {
            self.flush();
        }
    }

    fn apply(&mut self, action: OutboxAction) {
        match action {
            OutboxAction::Event { priority, key, size, subscriptions, window, handled } => {
                // Some events have been on their way for a while.
                let handled = Handled { stored: self.now.0 as i64 - i64::from(window / 4), ..handled };
                let delivery = handled_event(self.pushed.len() as u64 + 1, priority, key, size, handled);
                self.pushed.push(Arc::clone(&delivery));
                let mut heavy = false;
                for (subscription, alert) in subscriptions {
                    if alert {
                        self.alerts.insert(delivery.seq);
                    }
                    let target = Target { subscription, window_ms: window, alert };
                    let load = self.outbox.push(self.now, &delivery, target, JSON, &self.limits);
                    heavy |= load == OutboxLoad::Heavy;
                }
                let bytes: usize = self.outbox.lanes.iter().map(|waiting| waiting.object(JSON).len()).sum();
                let urgent = self.outbox.lanes.iter().filter(|waiting| waiting.is_urgent()).count();
                assert_eq!((self.outbox.bytes(), self.outbox.lanes.urgent() as usize), (bytes, urgent));
                if heavy {
                    self.flush();
                    if self.outbox.bytes() > self.limits.bytes {
                        let shed = self.outbox.shed_load(self.now, JSON, &self.limits, &mut Vec::new());
                        self.closed = shed == ShedResult::OverLimit;
                        assert!(self.closed || self.outbox.bytes() <= self.limits.bytes);
                    }
                }
                self.flush_if_due();
            }
            OutboxAction::Pause(ms) => {
                let end = self.now.plus(ms);
                while let Some(due) = self.outbox.due().filter(|due| *due <= end && !self.stalled) {
                    self.now = self.now.max(due);
                    self.flush();
                }
                self.now = end;
            }
            OutboxAction::Stall(stalled) => {
                self.stalled = stalled;
                self.flush();
            }
        }
        // The client knows of all events before any position that the server sends.
        let last = self.pushed.len() as u64;
        let applied = Position { epoch_id: EpochId(1), seqs: vec![Seq(last), Seq(last)] };
        let position = self.outbox.hold_back(&applied);
        for delivery in &self.pushed {
            let covered = delivery.seq <= position.seqs[usize::from(delivery.partition.0)];
            assert!(!covered || self.knows(delivery), "{:?} is covered by {position:?}", delivery.seq);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_received_or_covered_by_a_notice(
        load in prop::collection::vec(action(), 1..150),
        bytes in prop::sample::select(vec![1_500, 6_000, 1 << 20]),
        (rate, quota) in (prop::sample::select(vec![0, 3, 20]), prop::option::of(1..8u32)),
        (critical, lanes) in (prop::sample::select(vec![0, 2, 1_000]), any::<bool>()),
    ) {
        let mut run = OutboxRun {
            outbox: Outbox::new(),
            account: Account::new(rate),
            limits: OutboxLimits { bytes, critical, lanes, patience: 3_000 },
            quota,
            now: Millis(0),
            stalled: false,
            pushed: Vec::new(),
            alerts: BTreeSet::new(),
            received: Vec::new(),
            seen: BTreeSet::new(),
            sent: Vec::new(),
            missing: 0,
            expired: 0,
            ranges: Vec::new(),
            closed: false,
        };
        for action in load {
            run.apply(action);
            if run.closed {
                break;
            }
        }
        if run.closed {
            run.outbox.drop_all(NoticeCode::SlowConsumer);
            for (_, notice) in run.outbox.take_notices() {
                run.take_notice(&notice);
            }
        } else {
            run.apply(OutboxAction::Stall(false));
            run.apply(OutboxAction::Pause(60_000));
            prop_assert!(!run.outbox.has_output() && run.outbox.due().is_none());
        }
        prop_assert!(run.pushed.iter().all(|delivery| run.knows(delivery)));
        prop_assert_eq!(run.pushed.len() as u64 - run.received.len() as u64, run.missing);

        let is_lost = |delivery: &&Arc<Delivery>| !run.seen.contains(&delivery.seq);
        let lost_late = run.pushed.iter().filter(is_lost).filter(|lost| lost.is_expired(|| time_of_day(run.now)));
        prop_assert!(run.expired <= lost_late.count() as u64, "only events with a time to live expire");

        let mut last: BTreeMap<_, Seq> = BTreeMap::new();
        for QueuedEvent { delivery, alert, .. } in &run.received {
            let lane = match lanes {
                true if delivery.goes_first => 4,
                true => delivery.priority(*alert) as u8,
                false => 0,
            };
            let before = last.insert((delivery.event.key.clone(), lane), delivery.seq);
            prop_assert!(before.is_none_or(|before| before < delivery.seq), "order per key and lane");
        }
        for end in &run.sent {
            let second = run.sent.iter().filter(|at| **at <= *end && end.since(**at) < 1_000).count();
            prop_assert!(rate == 0 || second <= rate as usize, "{second} in a second");
        }
    }
}
