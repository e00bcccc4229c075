//! The messages that producers and the owners of partitions store in the stream.

use tickwire_core::event::{Audience, Event, Kind, Priority, Strategy, Tier};
use tickwire_core::ids::{Confidence, Partition};
use tickwire_router_node::decisions::Source;

use super::super::alerts::partition_of_alerts;
use super::super::fixtures::{HANDLED, blank, handling, symbol, user};
use super::{PARTITIONS, SimCluster};

fn public_event(number: u8, tenths: u8) -> Event {
    let confidence = Confidence::new(f64::from(tenths) / 10.0);
    Event {
        symbol: Some(symbol(number)),
        tier: Some(if tenths.is_multiple_of(2) { Tier::Daily } else { Tier::Intraday }),
        priority: Priority::from_confidence(confidence),
        confidence,
        ..blank(Kind::Pattern, Audience::Public)
    }
}

impl SimCluster {
    fn store_event(&mut self, partition: u16, event: Event) {
        self.store_message(partition, event, (false, false));
    }

    /// Stores a public event of a symbol, with a confidence in tenths.
    pub(super) fn publish(&mut self, number: u8, tenths: u8) {
        self.store_event(u16::from(number) % PARTITIONS, public_event(number, tenths));
    }

    /// The same, with the handling that a rule would give it. A tag shows clients which events go first, and another one
    /// keeps rules away.
    pub(super) fn publish_handled(&mut self, number: u8, tenths: u8, way: u8) {
        let handling = handling(way);
        let goes_first = handling.strategy == Strategy::PriorityFirst;
        let tags = goes_first.then_some("first").into_iter().chain([HANDLED]).map(Into::into).collect();
        let event = Event { tags, handling: Some(Box::new(handling)), ..public_event(number, tenths) };
        self.store_event(u16::from(number) % PARTITIONS, event);
    }

    /// Stores an event for one user.
    pub(super) fn address(&mut self, number: u8) {
        let user = user(number.into());
        let (partition, key) = (partition_of_alerts(&user), user.as_str().into());
        self.store_event(partition.0, Event { key, ..blank(Kind::Alert, Audience::User(user)) });
    }

    /// Stores a message that cannot be read as an event.
    pub(super) fn publish_unreadable(&mut self, number: u8) {
        let event = blank(Kind::Other("garbled".into()), Audience::Public);
        self.store_message(u16::from(number) % PARTITIONS, event, (false, true));
    }

    /// The owners of partitions store their heartbeats.
    pub(super) fn store_heartbeats(&mut self) {
        for partition in 0..PARTITIONS {
            if self
                .routers
                .iter()
                .any(|router| router.runs() && !router.is_cut && router.holds(Source::Partition(Partition(partition))))
            {
                self.store_message(partition, blank(Kind::Other("heartbeat".into()), Audience::Public), (true, false));
            }
        }
    }
}
