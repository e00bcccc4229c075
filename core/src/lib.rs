//! The shared language of tickwire: pure types and decisions, without I/O, threads or clocks.
//!
//! `event` defines an event and decodes it, `context` says what surrounds it, and `rules` change it and say how it is
//! spread. `filter` and `interest` decide which gateways want it, `route_cache` remembers what was decided, and
//! `placement` says which node owns what. `coverage` proves that nothing is missing, `replay` asks for what is, and
//! `alerts` for what a user has not acknowledged.
//! `protocol` defines the frames of clients, `wire` the messages between nodes, and `trace` the traces of events. `ids`
//! holds the newtypes, `storage` the reports about streams, `backoff` the pauses between attempts, and `hint` the texts
//! of errors.

pub mod event;

pub mod context;
pub mod rules;

pub mod filter;
pub mod interest;

pub mod route_cache;

pub mod placement;

pub mod coverage;

pub mod replay;

pub mod alerts;

pub mod protocol;
pub mod trace;
pub mod wire;

pub mod ids;
pub mod storage;

pub mod backoff;
pub mod hint;
