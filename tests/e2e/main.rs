//! End-to-end tests: real processes of the real binary, a real nats-server, real sockets.
//!
//! Helper modules: `cluster` runs the processes, `node` is one process, and `cut` is a line to NATS with faults. `feed`
//! has events and filters, and `producer` publishes them. `socket` and `listener` receive them, by a bare WebSocket and
//! by the client library. `oracle` has the expected events: it reads the stream and evaluates each filter naively.
//! `http` sends one HTTP request, `wire` is a bare HTTP and WebSocket connection, `stranger` sends hostile input, and
//! `diagnosis` explains a failure.
//!
//! All other modules are tests. `foreign` runs third-party programs.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed, and the line shows the reason")]

mod cluster;
mod cut;
mod diagnosis;
mod feed;
mod http;
mod listener;
mod node;
mod oracle;
mod producer;
mod socket;
mod stranger;
mod wire;

mod access;
mod alerts;
mod bench;
mod commands;
mod config;
mod confirm;
mod containers;
mod context;
mod dead_letters;
mod delivery;
mod dependencies;
mod dev;
mod document_links;
mod door;
mod examples;
mod file_lengths;
mod floods;
mod forged;
mod frames;
mod gaps;
mod greedy;
mod health;
mod holders;
mod hot_reload;
mod interest;
mod ledger;
mod limits;
mod log_texts;
mod logs;
mod membership;
mod oversized;
mod permissions;
mod placement;
mod presets;
mod readiness;
mod readme;
mod resume;
mod rules;
mod saved;
mod secrets;
mod shutdown;
mod since;
mod skew;
mod slow_links;
mod starting;
mod status;
mod strange_messages;
mod tls;
mod tokens;
mod tools;
mod top;
mod traces;
mod turns;

#[path = "../foreign/mod.rs"]
mod foreign;
