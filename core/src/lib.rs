//! The shared language of tickwire: pure types and rules, without I/O, threads or clocks.
//!
//! Files stand in the order of an event's way: what it is, how it is read, who wants it, who gets it,
//! how it is proved complete, and how it looks on the wire.

pub mod backoff;
pub mod claims;
pub mod codes;
pub mod confirm;
pub mod coverage;
pub mod decode;
pub mod event;
pub mod filter;
pub mod frames;
mod hint;
pub mod hours;
pub mod ids;
pub mod interest;
pub mod interest_log;
pub mod key;
pub mod namesake;
pub mod object;
pub mod position;
pub mod reached;
pub mod replay;
pub mod ring;
pub mod section;
pub mod since;
pub mod storage;
pub mod table;
mod time;
pub mod whole;
pub mod wire;
