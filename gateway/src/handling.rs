//! What the handling of an event means in a gateway: which subscriptions it is for, when it leaves, and until when it is
//! of use. `load_balanced` and `round_robin` need nothing here: the router has put the chosen room into the event, and
//! filters find it there.

use std::collections::BTreeSet;

use tickwire_core::event::{Event, Strategy, Timestamp};
use tickwire_core::filter::Filter;
use tickwire_core::filter::long_values::LongValues;
use tickwire_core::ids::Room;

/// The rooms of a broadcast, which is for all of its audience if there are none; `None` if filters decide.
pub(crate) fn broadcast_rooms(event: &Event) -> Option<&[Room]> {
    let handling = event.handling.as_deref()?;
    (handling.strategy == Strategy::Broadcast).then_some(handling.rooms.as_slice())
}

/// Whether a broadcast to `rooms` is for the subscriptions with this filter: a filter joins the rooms that it names.
pub(crate) fn is_in_rooms(filter: &Filter, rooms: &[Room]) -> bool {
    let joined = |named: &BTreeSet<Room>| rooms.iter().any(|room| named.contains(room));
    rooms.is_empty() || filter.rooms.as_ref().is_some_and(joined)
}

/// Whether an event is for the subscriptions with this filter. Its audience must be checked as well. All filters that are
/// asked about one event share `long`.
pub(crate) fn admits<'e>(filter: &Filter, event: &'e Event, long: &mut LongValues<'e>) -> bool {
    broadcast_rooms(event).map_or_else(|| filter.matches_with(event, long), |rooms| is_in_rooms(filter, rooms))
}

/// Whether an event leaves before all that wait.
pub(crate) fn goes_first(event: &Event) -> bool {
    event.handling.as_ref().is_some_and(|handling| handling.strategy == Strategy::PriorityFirst)
}

/// The last moment at which an event is of use; `None` if it always is.
pub(crate) fn expiry(event: &Event) -> Option<Timestamp> {
    let ttl_ms = event.handling.as_ref()?.ttl_ms?;
    Some(Timestamp(event.stored.0.saturating_add_unsigned(ttl_ms)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tickwire_core::event::{Handling, Kinds, Priority};
    use tickwire_testkit::blank_event;

    use super::*;

    fn handled(handling: Handling) -> Event {
        Event { stored: Timestamp(1_000), priority: Priority::Low, handling: Some(Box::new(handling)), ..blank_event() }
    }

    #[test]
    fn only_broadcasts_pass_filters_that_they_do_not_match() {
        let strict = Filter::parse(&json!({ "min_priority": "critical" }), &Kinds::default()).unwrap();
        let in_room =
            Filter::parse(&json!({ "rooms": ["vip", "desk"], "min_priority": "critical" }), &Kinds::default());
        let in_room = in_room.unwrap();
        let rooms = vec![Room::new("desk").unwrap(), Room::new("lobby").unwrap()];
        for strategy in Strategy::ALL {
            let (is_broadcast, of) = (strategy == Strategy::Broadcast, |event: &Event| {
                [&strict, &in_room].map(|filter| admits(filter, event, &mut LongValues::default()))
            });
            let to_all = handled(Handling { strategy, ..Handling::default() });
            assert_eq!(of(&to_all), [is_broadcast; 2], "{strategy}");
            let to_rooms = handled(Handling { strategy, rooms: rooms.clone(), ttl_ms: None });
            assert_eq!(of(&to_rooms), [false, is_broadcast], "{strategy}");
            assert_eq!(goes_first(&to_all), strategy == Strategy::PriorityFirst);
        }
        let blank = blank_event();
        assert!(!admits(&strict, &blank, &mut LongValues::default()) && !goes_first(&blank));
    }

    #[test]
    fn time_to_live_begins_when_the_stream_stored_the_event() {
        let expiry_of = |ttl_ms| expiry(&handled(Handling { ttl_ms, ..Handling::default() }));
        assert_eq!(expiry_of(Some(250)), Some(Timestamp(1_250)));
        assert_eq!(expiry_of(Some(u64::MAX)), Some(Timestamp(i64::MAX)));
        assert_eq!((expiry_of(None), expiry(&blank_event())), (None, None));
    }
}
