//! A deadline of gatherings does something when it has passed, or is none: after all that is due was done, nothing is.

use proptest::prelude::*;
use tickwire_core::replay::Refusal;

use super::*;

const SHARDS: usize = 2;

#[derive(Clone, Debug)]
enum Input {
    Pass(u64),
    Add {
        session: u64,
        from: u64,
        len: u64,
    },
    Leave(u64),
    /// To one of the asks made last.
    Answer {
        back: usize,
        prev: u64,
        len: u64,
        last: bool,
    },
    Busy(usize),
    Refused(usize),
    Unsent(usize),
    Digested(u64),
    GiveWay(bool),
    ForgetAll,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        4 => (0..400u64).prop_map(Input::Pass),
        5 => (0..12u64, 0..2_000u64, 0..300u64).prop_map(|(session, from, len)| Input::Add { session, from, len }),
        1 => (0..12u64).prop_map(Input::Leave),
        6 => (0..4usize, 0..2_000u64, 0..200u64, any::<bool>()).prop_map(|(back, prev, len, last)| {
            Input::Answer { back, prev, len, last }
        }),
        1 => (0..4usize).prop_map(Input::Busy),
        1 => (0..4usize).prop_map(Input::Refused),
        1 => (0..4usize).prop_map(Input::Unsent),
        3 => (1..20u64).prop_map(Input::Digested),
        1 => any::<bool>().prop_map(Input::GiveWay),
        1 => Just(Input::ForgetAll),
    ]
}

/// Does what the edge does in each turn of its loop, and keeps the numbers of what was asked.
fn turn(catch_ups: &mut CatchUps, now: u64, asked: &mut Vec<(u64, u64)>) {
    loop {
        begin(catch_ups, now);
        asked.extend(asks(catch_ups, now).into_iter().map(|(ask, from, _)| (ask, from)));
        if catch_ups.take(SHARDS).is_empty() {
            return;
        }
    }
}

/// Has shards digest all that has come.
fn digest(catch_ups: &mut CatchUps) {
    for gathering in 1..=catch_ups.last {
        while catch_ups.running.get(&gathering).is_some_and(|running| running.undigested > 0) {
            catch_ups.digested(gathering, usize::MAX);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_deadline_of_a_gathering_outlives_its_time(inputs in prop::collection::vec(input(), 1..80)) {
        let mut catch_ups = CatchUps::new(LIMITS);
        let (mut now, mut asked) = (0, Vec::new());
        for input in inputs {
            let at = |back: usize| asked.iter().rev().nth(back).copied().unwrap_or((0, 0));
            match input {
                Input::Pass(ms) => now += ms,
                Input::Add { session, from, len } => add(&mut catch_ups, now, session, lack(from, from + len)),
                Input::Leave(session) => catch_ups.leave(id(session)),
                Input::Answer { back, prev, len, last } => {
                    let (ask, from) = at(back);
                    // Some of the time what was asked for comes.
                    let prev = if prev % 2 == 0 { from } else { prev };
                    let section = tickwire_core::section::Section {
                        partition: Partition(0),
                        revision: Revision(1),
                        prev: Seq(prev),
                        upto: Seq(prev + len),
                        events: Vec::new(),
                    };
                    let answer = ReplayAnswer { router: node("r"), incarnation: LIFE, part: Part::Events(section), last };
                    catch_ups.answer(Millis(now), ask, answer);
                }
                Input::Busy(back) => {
                    let part = Part::Refused(Refusal::Busy);
                    let answer = ReplayAnswer { router: node("r"), incarnation: LIFE, part, last: true };
                    catch_ups.answer(Millis(now), at(back).0, answer);
                }
                Input::Refused(back) => catch_ups.refused(Millis(now), at(back).0),
                Input::Unsent(back) => catch_ups.unsent(Millis(now), at(back).0),
                Input::Digested(gathering) => catch_ups.digested(gathering, usize::MAX),
                Input::GiveWay(gives_way) => catch_ups.give_way(gives_way),
                Input::ForgetAll => catch_ups.forget_all(),
            }
            turn(&mut catch_ups, now, &mut asked);
            let next = catch_ups.next_turn();
            prop_assert!(next.is_none_or(|at| at > Millis(now)), "{:?} at {}: {:#?}", next, now, catch_ups);
        }
        // Every wait ends: all are given what they lack, or told that nobody can give it.
        catch_ups.give_way(false);
        digest(&mut catch_ups);
        turn(&mut catch_ups, now, &mut asked);
        while let Some(next) = catch_ups.next_turn() {
            now = next.0;
            turn(&mut catch_ups, now, &mut asked);
            digest(&mut catch_ups);
            prop_assert!(now < 1_000_000, "somebody waits for ever: {catch_ups:#?}");
        }
        prop_assert!(catch_ups.running.is_empty() && catch_ups.waiting.is_empty() && catch_ups.places.is_empty());
    }
}
