//! End-to-end tests: real processes of the real binary, a real nats-server, real sockets.
//!
//! What the tests stand on comes first: `cluster` runs the processes (`node` is one of them; `cut` is a line to NATS that
//! can be cut), `producer` publishes,
//! `socket` and `listener` receive (bare WebSocket and client library), `oracle` says what should have come: it reads
//! back what the stream holds and evaluates each filter naively. Then the tests, in the order of an event's way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, and the place is what tells why")]

mod cluster;
mod cut;
mod diagnosis;
mod feed;
mod listener;
mod node;
mod oracle;
mod producer;
mod socket;
mod stranger;
mod wire;

mod bench;
mod commands;
mod config;
mod confirm;
mod dead_letters;
mod delivery;
mod dev;
mod door;
mod floods;
mod frames;
mod gaps;
mod greedy;
mod holders;
mod interest;
mod ledger;
mod limits;
mod membership;
mod oversized;
mod placement;
mod readiness;
mod readme;
mod resume;
mod shutdown;
mod slow_links;
mod starting;
mod strange_messages;
mod tokens;
mod turns;

#[path = "../foreign/mod.rs"]
mod foreign;
