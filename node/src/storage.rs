//! Whether NATS keeps what tickwire needs, and whether it stores what is new: seen by the routers, told to all nodes,
//! and put right where that is safe.
//!
//! ```text
//! kept      what tickwire keeps in JetStream, and what a look at one of the streams shows
//! judge     from looks, and from what became of writes, to what is wrong    (pure)
//! watch     a router looks, tells all nodes what is wrong, and mends what it may
//! board     every node hears it: readiness, metric, log, and for a gateway's clients
//! ```
//!
//! A server whose disk is full answers every question and stores nothing, and does so until it is started again; an
//! operator's hand can delete, seal, fill or edit a stream while nodes run. None of that breaks a connection, so nothing
//! but this shows it before ticks have been missing for long.

mod board;
mod judge;
mod kept;
mod watch;

pub use board::{Board, Stopped, listen, subscribe};
pub use judge::StreamHealth;
pub use kept::{ExpectedStream, StreamSettings, StreamUse, kept, look};
pub use watch::watch;
