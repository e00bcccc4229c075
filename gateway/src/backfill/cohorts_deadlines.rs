//! Deadlines of cohorts: after a turn nothing is due, so a passed deadline has always had an effect.

use proptest::prelude::*;
use tickwire_core::replay::ReplayRefusal;

use super::*;

const SHARDS: usize = 2;

#[derive(Clone, Debug)]
enum CohortInput {
    Pass(u64),
    Add {
        session: u64,
        from: u64,
        len: u64,
    },
    Leave(u64),
    /// An answer to one of the last asks.
    Answer {
        back: usize,
        prev: u64,
        len: u64,
        last: bool,
    },
    Busy(usize),
    Refused(usize),
    Unsent(usize),
    Processed(u64),
    GiveWay(bool),
    ForgetAll,
}

fn input() -> impl Strategy<Value = CohortInput> {
    prop_oneof![
        4 => (0..400u64).prop_map(CohortInput::Pass),
        5 => (0..12u64, 0..2_000u64, 0..300u64)
            .prop_map(|(session, from, len)| CohortInput::Add { session, from, len }),
        1 => (0..12u64).prop_map(CohortInput::Leave),
        6 => (0..4usize, 0..2_000u64, 0..200u64, any::<bool>()).prop_map(|(back, prev, len, last)| {
            CohortInput::Answer { back, prev, len, last }
        }),
        1 => (0..4usize).prop_map(CohortInput::Busy),
        1 => (0..4usize).prop_map(CohortInput::Refused),
        1 => (0..4usize).prop_map(CohortInput::Unsent),
        3 => (1..20u64).prop_map(CohortInput::Processed),
        1 => any::<bool>().prop_map(CohortInput::GiveWay),
        1 => Just(CohortInput::ForgetAll),
    ]
}

/// Does what the edge does in each turn of its loop, and records the asks.
fn turn(cohorts: &mut Cohorts, now: u64, asked: &mut Vec<(u64, u64)>) {
    loop {
        begin(cohorts, now);
        asked.extend(asks(cohorts, now).into_iter().map(|(ask, from, _)| (ask, from)));
        if cohorts.take(SHARDS).is_empty() {
            return;
        }
    }
}

/// Lets the shards process all chunks.
fn process(cohorts: &mut Cohorts) {
    for cohort in 1..=cohorts.last {
        while cohorts.running.get(&cohort).is_some_and(|running| running.unprocessed > 0) {
            cohorts.processed(cohort, usize::MAX);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn next_deadline_of_cohorts_is_never_in_the_past(inputs in prop::collection::vec(input(), 1..80)) {
        let mut cohorts = Cohorts::new(LIMITS);
        let (mut now, mut asked) = (0, Vec::new());
        for input in inputs {
            let at = |back: usize| asked.iter().rev().nth(back).copied().unwrap_or((0, 0));
            match input {
                CohortInput::Pass(ms) => now += ms,
                CohortInput::Add { session, from, len } => add(&mut cohorts, now, session, ranges(from, from + len)),
                CohortInput::Leave(session) => cohorts.leave(id(session)),
                CohortInput::Answer { back, prev, len, last } => {
                    let (ask, from) = at(back);
                    // Half of the answers begin where the ask does.
                    let prev = if prev % 2 == 0 { from } else { prev };
                    let section = tickwire_core::coverage::section::Section {
                        partition: Partition(0),
                        revision: Revision(1),
                        prev: Seq(prev),
                        through: Seq(prev + len),
                        events: Vec::new(),
                    };
                    let part = ReplayPart::Events(section);
                    let answer = ReplayAnswer { router: node("r"), epoch_id: EPOCH, part, last };
                    cohorts.answer(Millis(now), ask, answer);
                }
                CohortInput::Busy(back) => {
                    let part = ReplayPart::Refused(ReplayRefusal::Busy);
                    let answer = ReplayAnswer { router: node("r"), epoch_id: EPOCH, part, last: true };
                    cohorts.answer(Millis(now), at(back).0, answer);
                }
                CohortInput::Refused(back) => cohorts.refused(Millis(now), at(back).0),
                CohortInput::Unsent(back) => cohorts.unsent(Millis(now), at(back).0),
                CohortInput::Processed(cohort) => cohorts.processed(cohort, usize::MAX),
                CohortInput::GiveWay(gives_way) => cohorts.pause(gives_way),
                CohortInput::ForgetAll => cohorts.clear(),
            }
            turn(&mut cohorts, now, &mut asked);
            let next = cohorts.next_turn();
            prop_assert!(next.is_none_or(|at| at > Millis(now)), "{:?} at {}: {:#?}", next, now, cohorts);
        }
        // Every wait ends: each session gets its range, or a gap.
        cohorts.pause(false);
        process(&mut cohorts);
        turn(&mut cohorts, now, &mut asked);
        while let Some(next) = cohorts.next_turn() {
            now = next.0;
            turn(&mut cohorts, now, &mut asked);
            process(&mut cohorts);
            prop_assert!(now < 1_000_000, "a session waits for ever: {cohorts:#?}");
        }
        prop_assert!(cohorts.running.is_empty() && cohorts.waiting.is_empty() && cohorts.places.is_empty());
    }
}
