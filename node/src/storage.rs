//! Whether NATS keeps what tickwire needs, and stores new messages. Routers detect problems, report them to all nodes,
//! and restore settings where that is safe.
//!
//! ```text
//! expected  the expected streams, and how one is read and compared
//! health    from stream settings and write results to a problem    (pure)
//! copies    which copies of a stream are gone or behind            (pure)
//! watch     a router reads the streams, reports problems to all nodes, and restores what it may
//! reports   every node collects the reports: readiness, metric, log, and for a gateway's clients
//! ```
//!
//! A server whose disk is full answers every request and stores nothing until it is restarted. An operator can delete,
//! seal, fill or edit a stream while nodes run. None of that breaks a connection, so without this module it would show
//! only after partition heartbeats have been missing for long.

mod copies;
mod expected;
mod health;
mod reports;
mod watch;

pub use crate::storage::copies::{CopyState, copies_of};
pub use crate::storage::expected::{ExpectedStream, StreamSettings, StreamUse, kept, look};
pub use crate::storage::health::StreamHealth;
pub use crate::storage::reports::{Stopped, StorageReports, listen, subscribe};
pub use watch::watch;
