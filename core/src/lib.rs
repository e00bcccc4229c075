//! The shared language of tickwire: pure types and rules, without I/O, threads or clocks.
//!
//! Files stand in the order of an event's way: what it is, how it is read, who wants it, who gets it,
//! how it is proved complete, and how it looks on the wire.

pub mod backoff;
pub mod calendar;
pub mod coverage;
pub mod event;
pub mod filter;
mod hint;
pub mod ids;
pub mod interest;
pub mod placement;
pub mod protocol;
pub mod storage;
pub mod wire;
