//! After the work that is due at a time is done, no deadline at or before that time is left. So a loop that waits for
//! the next deadline never spins.

use std::sync::Arc;

use proptest::prelude::*;
use tickwire_core::coverage::confirmations::Confirmations;
use tickwire_core::coverage::section::Section;
use tickwire_core::coverage::{Coverage, RepairLimits};
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::View;
use tickwire_core::replay::{ReplayAnswer, ReplayPart, ReplayRefusal};

const LIMITS: RepairLimits = RepairLimits {
    grace: 20,
    hold_bytes: 600,
    replays: 2,
    replay_timeout: 100,
    give_up_after: 1_000,
    replay_range: 50,
};

#[derive(Clone, Debug)]
enum Input {
    Pass(u64),
    Section {
        partition: u16,
        epoch: u64,
        revision: u64,
        prev: u64,
        len: u64,
    },
    Unreadable {
        partition: u16,
        through: u64,
    },
    /// A section that may be unsound.
    Odd {
        partition: u16,
        revision: u64,
        prev: u64,
        through: u64,
        event: u64,
    },
    /// An answer to one of the last asks.
    Answer {
        back: u64,
        refusal: Option<ReplayRefusal>,
        revision: u64,
        from: u64,
        len: u64,
        last: bool,
    },
    Removed {
        back: u64,
        partition: u16,
        from: u64,
        len: u64,
    },
    Unsent {
        back: u64,
    },
    Confirm {
        ahead: u64,
    },
}

fn input() -> impl Strategy<Value = Input> {
    use ReplayRefusal::{Busy, NotThere};
    let refusal = prop_oneof![3 => Just(None), 1 => Just(Some(Busy)), 1 => Just(Some(NotThere))];
    prop_oneof![
        3 => (0..400u64).prop_map(Input::Pass),
        6 => (0..3u16, 1..3u64, 0..4u64, 0..60u64, 0..20u64).prop_map(|(partition, epoch, revision, prev, len)| {
            Input::Section { partition, epoch, revision, prev, len }
        }),
        1 => (0..3u16, 0..80u64).prop_map(|(partition, through)| Input::Unreadable { partition, through }),
        2 => (0..3u16, 0..4u64, 0..60u64, 0..60u64, 0..60u64).prop_map(|(partition, revision, prev, through, event)| {
            Input::Odd { partition, revision, prev, through, event }
        }),
        4 => (0..3u64, refusal, 0..4u64, 0..60u64, 0..20u64, any::<bool>()).prop_map(
            |(back, refusal, revision, from, len, last)| Input::Answer { back, refusal, revision, from, len, last }
        ),
        1 => (0..3u64, 0..3u16, 0..60u64, 0..20u64).prop_map(|(back, partition, from, len)| {
            Input::Removed { back, partition, from, len }
        }),
        1 => (0..3u64).prop_map(|back| Input::Unsent { back }),
        2 => (0..3u64).prop_map(|ahead| Input::Confirm { ahead }),
    ]
}

fn router() -> NodeRef {
    NodeRef { id: NodeId::new("r").expect("a name"), nonce: Nonce(1) }
}

fn section(partition: u16, revision: u64, prev: u64, len: u64) -> Section<&'static str> {
    let (prev, through) = (Seq(prev), Seq(prev + len));
    let events = (len > 0).then_some((through, "event")).into_iter().collect();
    Section { partition: Partition(partition), revision: Revision(revision), prev, through, events }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn coverage_and_confirmations_leave_no_passed_deadline(
        inputs in prop::collection::vec(input(), 1..60),
        is_past in any::<bool>(),
    ) {
        let ranges = [(0, 40), (10, 10), (5, 70)].map(|(from, to)| (Seq(from), Seq(to)));
        let mut coverage = match is_past {
            true => Coverage::of_ranges(Millis(0), EpochId(1), ranges, 0, LIMITS),
            false => Coverage::new(3, LIMITS),
        };
        let (mut now, mut coverage_events, mut asked, mut revision) = (Millis(0), Vec::new(), 0, 0);
        let mut confirmations = Confirmations::new(250, 100);
        for input in inputs {
            let answer = |part, last| {
                ReplayAnswer { router: router(), epoch_id: EpochId(1), part, last }
            };
            match input {
                Input::Pass(ms) => now = now.plus(ms),
                Input::Section { partition, epoch, revision, prev, len } => {
                    let epoch = Epoch { epoch_id: EpochId(epoch), before: Seq(epoch * 3) };
                    coverage.offer(now, epoch, section(partition, revision, prev, len), &mut coverage_events);
                }
                Input::Unreadable { partition, through } => {
                    coverage.unreadable(now, EpochId(1), Partition(partition), Seq(through));
                }
                Input::Odd { partition, revision, prev, through, event } => {
                    let (partition, revision) = (Partition(partition), Revision(revision));
                    let (prev, through, events) = (Seq(prev), Seq(through), vec![(Seq(event), "event")]);
                    let epoch = Epoch { epoch_id: EpochId(1), before: Seq(3) };
                    let odd = Section { partition, revision, prev, through, events };
                    coverage.offer(now, epoch, odd, &mut coverage_events);
                }
                Input::Answer { back, refusal, revision, from, len, last } => {
                    let part = refusal.map_or(ReplayPart::Events(section(0, revision, from, len)), ReplayPart::Refused);
                    coverage.answer(now, asked - back.min(asked), answer(part, last), &mut coverage_events);
                }
                Input::Removed { back, partition, from, len } => {
                    let partition = Partition(partition);
                    let (from, through) = (Seq(from), Seq(from + len));
                    let part = ReplayPart::Removed { partition, from, through, damaged: None };
                    coverage.answer(now, asked - back.min(asked), answer(part, true), &mut coverage_events);
                }
                Input::Unsent { back } => coverage.unsent(now, asked - back.min(asked)),
                Input::Confirm { ahead } => {
                    // Later asks are matched against this revision.
                    revision = revision.max(coverage.lowest_revision().0 + ahead);
                    confirmations.ask(now, Revision(coverage.lowest_revision().0 + ahead), ());
                }
            }
            coverage.expire(now, &mut coverage_events);
            asked = coverage.asks(now, Revision(revision), &mut coverage_events).last().map_or(asked, |ask| ask.number);
            confirmations.take(now, &mut coverage);
            prop_assert!(coverage.next_expiry().is_none_or(|at| at > now), "{coverage:#?} at {now:?}");
            prop_assert!(confirmations.next_deadline(&coverage).is_none_or(|at| at > now));
            prop_assert!(coverage.held_bytes() <= LIMITS.hold_bytes);
        }
        // Every wait ends: gaps that no router closes are reported, and confirmations are given if that is possible.
        while let Some(at) = coverage.next_expiry() {
            now = at;
            coverage.expire(now, &mut coverage_events);
            coverage.asks(now, Revision(revision), &mut coverage_events);
            prop_assert!(now < Millis(1_000_000), "a gap stays open for ever: {coverage:#?}");
        }
        prop_assert_eq!(coverage.gaps(), 0);
        now = now.plus(350);
        prop_assert_eq!(confirmations.take(now, &mut coverage).is_empty() || coverage.is_complete(), true);
        prop_assert_eq!(confirmations.next_deadline(&coverage), None);
    }

    #[test]
    fn interest_removals_leave_no_passed_deadline(leaves in prop::collection::vec(0..500u64, 1..20)) {
        let mut log = InterestLog::new(router(), View::default(), 100, Bounds::default());
        let mut now = Millis(0);
        for ms in leaves {
            log.add(&Arc::new(Filter::default()));
            log.remove(now, Arc::new(Filter::default()));
            now = now.plus(ms);
            log.cut(now);
            prop_assert!(log.next_shrink().is_none_or(|at| at > now));
        }
    }
}
