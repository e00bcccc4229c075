//! Decides the context of an event: what a router knows about its surroundings.
//!
//! Three things are known, each kept where its changes are in order:
//!
//! * `volumes`: running averages of volumes, one state for each partition. Its owner updates them with every event, in
//!   the order of the sequences.
//! * `markets`: what `market` events have stated. The owner of their partition records it (`record`), and all routers
//!   read the records.
//! * `reference`: the sectors of symbols, from the operator. All routers read them.
//!
//! A record of another router counts only as far as the stream goes (`claims`).
//!
//! A router reads records of others, so it may not have the last changes yet. These rules make the value of a field the
//! same in a live reading and in every replay, or absent:
//!
//! * A live reading uses only records that are complete up to [`SETTLE_MS`] before the event was stored, and of these
//!   only what was stated before the event.
//! * A replay gives a value only if it was the same during all of the [`SETTLE_MS`] before the event. Then the live
//!   reading found this value whichever of the last changes it had. A replay gives no `relative_volume`, because the
//!   averages are those of another point.
//!
//! No clock is read here: the times are those at which NATS stored events and entries.

mod claims;
mod markets;
mod record;
mod reference;
mod timeline;
mod volumes;

use crate::event::{Event, EventContext, Kind, Timestamp};
use crate::ids::Seq;

pub use claims::{ClaimFault, StreamEnd};
pub use markets::{MAX_MARKETS, Markets};
pub use record::{MarketRank, MarketRecord};
pub use reference::{MAX_REFERENCES, ReferenceEntry, ReferenceTable};
pub use reference::{ReferenceError, ReferenceFile, ReferenceProblem, ReferenceRow, parse_reference};
pub use volumes::{AVERAGED, MAX_AVERAGES, VolumeAverages};

/// The most that the records of a router may lag behind the stream, in milliseconds. It is several intervals of the
/// partition heartbeats, by which an owner shows that a record is complete.
pub const SETTLE_MS: i64 = 30_000;

/// For whom a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Live,
    Replay,
}

/// A point in the stream.
#[derive(Clone, Copy, Debug)]
struct Point {
    seq: Seq,
    stored: Timestamp,
}

impl Point {
    /// The time up to which every record of a live reading is complete.
    fn settled(self) -> Timestamp {
        Timestamp(self.stored.0.saturating_sub(SETTLE_MS))
    }
}

/// What a router knows about the surroundings of all events.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// What `market` events have stated.
    pub markets: Markets,
    /// What the operator has stated about symbols.
    pub reference: ReferenceTable,
}

impl Surroundings {
    /// The context of an event that the owner of its partition reads in order. [`VolumeAverages::observe`] gives the
    /// relative volume.
    #[must_use]
    pub fn live(&self, seq: Seq, event: &Event, relative_volume: Option<f64>) -> EventContext {
        EventContext { relative_volume, ..self.read(seq, event, Reading::Live) }
    }

    /// The context of an event that is replayed: what the live reading has found as well, if it found anything.
    #[must_use]
    pub fn replayed(&self, seq: Seq, event: &Event) -> EventContext {
        self.read(seq, event, Reading::Replay)
    }

    fn read(&self, seq: Seq, event: &Event, reading: Reading) -> EventContext {
        let session = EventContext { session: event.session, ..EventContext::default() };
        if event.kind == Kind::Market {
            return session;
        }
        let point = Point { seq, stored: event.stored };
        // Without the reference data the market of a symbol is not known either.
        let Some(entry) = self.reference.entry(event.symbol.as_ref(), point, reading) else { return session };
        let market = self.markets.of(entry.and_then(|entry| entry.market.as_ref()));
        let market = market.filter(|market| market.is_complete(point, reading));
        let stated = |entry: &ReferenceEntry| {
            let of_market = || market?.sector_strength(&entry.sector, point, reading);
            entry.sector_strength.or_else(of_market)
        };
        EventContext {
            regime: market.and_then(|market| market.regime(point, reading)),
            volatility: market.and_then(|market| market.volatility(point, reading)),
            sector: entry.map(|entry| entry.sector.clone()),
            sector_strength: entry.and_then(stated),
            ..session
        }
    }
}

#[cfg(test)]
mod oracle_tests;
