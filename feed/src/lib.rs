//! Real prices in time order, and the detectors that find events in them.
//!
//! The crate is pure: no network, no clock, no sleep, no randomness. `tickwire feed` and `tickwire dev` pace the events
//! of a [`Feed`], add the current time to each payload as `timestamp`, and publish it.
//!
//! In the order of the flow: [`mod@parse`] reads files into [`bars`], [`tape`] merges them into one time order,
//! [`detect`] finds patterns in the bars of one symbol, [`combo`] finds where two of them agree, [`market`] reports on
//! the whole market, and [`events`] walks the tape and turns findings into events.
//!
//! Only the four basic operations and square roots are used on prices, so the same files give exactly the same events
//! on every machine.

pub mod bars;
pub mod combo;
pub mod detect;
pub mod events;
pub mod market;
pub mod parse;
pub mod tape;

pub use bars::{Bar, BarTime};
pub use detect::{Direction, Pattern};
pub use events::{Feed, FeedEvent, FeedKind, FeedStep};
pub use parse::BarsError;
pub use tape::{File, Tape, UnknownFile};
