//! Real prices, walked in time order, and the detectors that find events in them.
//!
//! The crate is pure: no network, no clock, no sleeping, no chance. `tickwire replay` and `tickwire dev` pace what a
//! [`Feed`] yields, put the present time into each payload as `timestamp`, and publish it.
//!
//! In the order of the flow: [`mod@parse`] reads files into [`bars`], [`tape`] merges them into one time order,
//! [`detect`] finds patterns in the bars of one symbol, [`combo`] notices where two of them agree, [`market`] judges the
//! market as a whole, and [`replay`] walks the tape and turns what was found into events.
//!
//! Only the four basic operations and square roots are used on prices, so the same files give the same events, to the
//! last digit, on every machine.

pub mod bars;
pub mod combo;
pub mod detect;
pub mod market;
pub mod parse;
pub mod replay;
pub mod tape;

pub use bars::{Bar, BarTime};
pub use detect::{Direction, Pattern};
pub use parse::BarsError;
pub use replay::{Feed, FeedEvent, FeedKind, FeedStep};
pub use tape::{File, Tape, UnknownFile};
