//! The events that every socket should have got: its filter, evaluated over the published events. A socket's tally of
//! the numbers that came is compared with the oracle's, so that a duplicate does not hide a lost event.

use std::collections::HashMap;
use std::ops::Range;
use tickwire_core::event::Timestamp;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{Seq, Symbol};

use super::draw::{Class, Draw, mix};
use super::scenario::Plan;

/// Numbers of events, without regard to order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EventTally {
    /// The number of events.
    pub(crate) events: u64,
    /// The sum of the hashes of their numbers, which does not depend on the order.
    hash_sum: u64,
}

impl EventTally {
    /// Adds an event.
    pub(crate) fn add(&mut self, number: u64) {
        self.events += 1;
        self.hash_sum = self.hash_sum.wrapping_add(mix(number));
    }

    /// Adds another tally.
    pub(crate) fn join(&mut self, other: Self) {
        self.events += other.events;
        self.hash_sum = self.hash_sum.wrapping_add(other.hash_sum);
    }
}

/// The difference between the expected and the received events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Events that should have come and did not.
    pub(crate) lost: u64,
    /// Events that should not have come, or came twice.
    pub(crate) extra: u64,
    /// Sockets that got the right number of events, but not the right ones.
    pub(crate) mixed_up: u64,
}

impl Difference {
    /// Compares the events of one socket with the expected ones.
    pub(crate) fn compare(&mut self, expected: EventTally, got: EventTally) {
        self.lost += expected.events.saturating_sub(got.events);
        self.extra += got.events.saturating_sub(expected.events);
        self.mixed_up += u64::from(expected.events == got.events && expected != got);
    }
}

/// The sockets of every event. Events that concern the same sockets share a group.
#[derive(Debug)]
pub(crate) struct Oracle {
    draw: Draw,
    groups: Vec<Vec<u32>>,
    of_class: HashMap<Class, u32>,
}

impl Oracle {
    /// Evaluates the filters of all sockets over all events of the plan.
    pub(crate) fn new(plan: &Plan) -> Result<Self, String> {
        // Equal filters are evaluated once; a filter that names symbols only over events of those.
        let mut wanted: HashMap<Filter, Vec<u32>> = HashMap::new();
        for socket in 0..plan.sockets {
            wanted.entry(plan.parsed_filter(socket)?).or_default().push(socket);
        }
        let wanted: Vec<(Filter, Vec<u32>)> = wanted.into_iter().collect();
        let mut candidates: HashMap<Option<&Symbol>, Vec<usize>> = HashMap::new();
        for (at, (filter, _)) in wanted.iter().enumerate() {
            match &filter.symbols {
                None => candidates.entry(None).or_default().push(at),
                Some(symbols) => {
                    for symbol in symbols {
                        candidates.entry(Some(symbol)).or_default().push(at);
                    }
                }
            }
        }
        let (mut oracle, mut known) =
            (Self { draw: plan.draw, groups: Vec::new(), of_class: HashMap::new() }, HashMap::new());
        for number in 0..plan.schedule.total() {
            let class = plan.draw.class(number);
            if oracle.of_class.contains_key(&class) {
                continue;
            }
            let event = class.event(number, Seq(1), Timestamp(0))?;
            let lists = [candidates.get(&None), candidates.get(&event.symbol.as_ref())];
            let passed = lists.into_iter().flatten().flatten().filter(|at| wanted[**at].0.matches(&event));
            let mut passed: Vec<usize> = passed.copied().collect();
            passed.sort_unstable();
            let group = *known.entry(passed).or_insert_with_key(|passed| {
                oracle.groups.push(passed.iter().flat_map(|at| wanted[*at].1.iter().copied()).collect());
                (oracle.groups.len() - 1) as u32
            });
            oracle.of_class.insert(class, group);
        }
        Ok(oracle)
    }

    /// The group of an event of the plan.
    pub(crate) fn group(&self, number: u64) -> u32 {
        self.of_class.get(&self.draw.class(number)).copied().unwrap_or(u32::MAX)
    }

    /// For each socket, the groups that it is in.
    pub(crate) fn memberships(&self, sockets: u32) -> Vec<Vec<u32>> {
        let mut memberships = vec![Vec::new(); sockets as usize];
        for (group, members) in (0..).zip(&self.groups) {
            for socket in members {
                memberships[*socket as usize].push(group);
            }
        }
        memberships
    }

    /// The expected events of each socket, out of these.
    pub(crate) fn expected(&self, sockets: u32, published: Range<u64>) -> Vec<EventTally> {
        let mut of_group = vec![EventTally::default(); self.groups.len()];
        for number in published {
            if let Some(tally) = of_group.get_mut(self.group(number) as usize) {
                tally.add(number);
            }
        }
        let mut expected = vec![EventTally::default(); sockets as usize];
        for (members, tally) in self.groups.iter().zip(of_group) {
            for socket in members {
                expected[*socket as usize].join(tally);
            }
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Numbers, Scenario};
    use std::time::Duration;

    fn plan(scenario: Scenario) -> Plan {
        let batch = Duration::from_millis(2);
        Plan::new(scenario, Numbers { batch, ..Numbers::small(300, 500.0) })
    }

    #[test]
    fn expected_events_are_those_that_each_filter_matches() {
        for scenario in [Scenario::Selective, Scenario::Broadcast] {
            let plan = plan(scenario);
            let oracle = Oracle::new(&plan).unwrap();
            let expected = oracle.expected(plan.sockets, 100..plan.schedule.total());
            let memberships = oracle.memberships(plan.sockets);
            let event = |number| (number, plan.draw.class(number).event(number, Seq(1), Timestamp(0)).unwrap());
            let events: Vec<_> = (100..plan.schedule.total()).map(event).collect();
            for socket in 0..plan.sockets {
                let filter = plan.parsed_filter(socket).unwrap();
                let mut tally = EventTally::default();
                for (number, event) in &events {
                    let (number, matches) = (*number, filter.matches(event));
                    assert_eq!(memberships[socket as usize].contains(&oracle.group(number)), matches);
                    if matches {
                        tally.add(number);
                    }
                }
                assert_eq!(tally, expected[socket as usize], "{scenario:?}, socket {socket}");
            }
        }
    }

    #[test]
    fn sockets_with_the_same_events_share_a_group() {
        assert_eq!(Oracle::new(&plan(Scenario::Broadcast)).unwrap().groups.len(), 1);
        let oracle = Oracle::new(&plan(Scenario::Selective)).unwrap();
        assert!(oracle.groups.len() <= 500);
    }

    #[test]
    fn duplicates_do_not_hide_lost_events() {
        let tally = |numbers: &[u64]| {
            let mut tally = EventTally::default();
            numbers.iter().for_each(|number| tally.add(*number));
            tally
        };
        let mut difference = Difference::default();
        difference.compare(tally(&[1, 2, 3]), tally(&[3, 1, 2]));
        assert_eq!(difference, Difference::default());
        difference.compare(tally(&[1, 2, 3]), tally(&[1, 3, 3]));
        difference.compare(tally(&[1, 2, 3]), tally(&[1]));
        difference.compare(tally(&[1]), tally(&[1, 1]));
        assert_eq!(difference, Difference { lost: 2, extra: 1, mixed_up: 1 });
    }
}
