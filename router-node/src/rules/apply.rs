//! Applies the rules to an event that was decoded. A pure function of the rules, the event and its sequence, but for
//! what it counts: a replay with the same revision of the rules gives the same bytes.

use super::{ActiveRules, LiveRules};
use crate::decode::Decoded;
use crate::metrics;
use std::time::Instant;
use tickwire_core::event::Event;
use tickwire_core::event::decode::{Undecodable, fits};
use tickwire_core::ids::Seq;
use tickwire_core::rules::limits::MAX_SET_BYTES;
use tickwire_core::rules::{Fate, Routed};

/// Up to this size of its payload, no rules can make an event too large: MessagePack takes at most four times the bytes
/// of a payload, and at most twice those of the rules, which are limited together.
const SMALL: usize = 16 * 1024;

const _: () = assert!(4 * SMALL + 2 * MAX_SET_BYTES <= tickwire_core::event::decode::MAX_EVENT);

/// What an event is read for. Rules decide the same for both; only live events are counted, and remembered.
#[derive(Debug)]
pub enum ReadPurpose<'i> {
    /// The live path.
    Live(&'i mut LiveRules),
    /// A replay, for which it is read again.
    Replay,
}

impl ActiveRules {
    /// Decides on an event with a payload of this size, and changes it. `decode` decodes it again.
    ///
    /// # Errors
    /// When the changed event cannot be encoded.
    pub fn apply(
        &self,
        event: Event,
        seq: Seq,
        payload: usize,
        purpose: ReadPurpose<'_>,
        decode: impl Fn() -> Result<Event, Undecodable>,
    ) -> Result<Decoded<()>, Undecodable> {
        let set = self.current();
        let is_live = matches!(purpose, ReadPurpose::Live(_));
        let routed = match purpose {
            ReadPurpose::Replay => set.apply(&event, seq),
            ReadPurpose::Live(rules) => {
                let (mut asked, mut before) = (Vec::new(), Instant::now());
                let routed = rules.apply(&set, &event, seq, |index, is_match| {
                    let now = Instant::now();
                    asked.push((index, is_match, now.duration_since(before)));
                    before = now;
                });
                self.note(&set, &asked, routed.fate);
                routed
            }
        };
        if routed.fate != Fate::Kept {
            return Ok(Decoded::Dropped);
        }
        if routed.is_unchanged() {
            return Ok(Decoded::Event(Box::new(event), ()));
        }
        let (event, is_whole) = changed(&routed, event, payload, decode)?;
        if !is_whole && is_live {
            metrics::RULES_TOO_LARGE.increment(1);
        }
        Ok(Decoded::Event(Box::new(event), ()))
    }
}

/// The event with as many of the changes as its size allows: all of them, those of its fields without its data, or none.
/// Also returns whether it has all. A rule must not turn an event into a dead letter.
fn changed(
    routed: &Routed<'_>,
    event: Event,
    payload: usize,
    decode: impl Fn() -> Result<Event, Undecodable>,
) -> Result<(Event, bool), Undecodable> {
    let handling = routed.handling().map(Box::new);
    let mut whole = Event { handling: handling.clone(), ..event };
    routed.change(&mut whole);
    if payload <= SMALL || fits(&whole)? {
        return Ok((whole, true));
    }
    let mut smaller = Event { handling: handling.clone(), ..decode()? };
    routed.change_without_data(&mut smaller);
    if fits(&smaller)? {
        return Ok((smaller, false));
    }
    Ok((Event { handling, ..decode()? }, false))
}
