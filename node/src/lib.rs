//! The foundation of every tickwire node.
//!
//! The modules, in the order in which a node uses them:
//!
//! * `config` reads the configuration, and `telemetry` sets up logs and metrics, which `metrics` declares.
//!   `terminal_text` prepares the texts of strangers in logs and commands for a terminal;
//! * `shutdown` starts tasks and ends them in two phases, and `clock` passes the time into pure code;
//! * `names` spells the subjects, streams, buckets and keys of NATS;
//! * `nats` opens the connections, with the login that `nats_login` reads, and the certificates that `nats_tls` reads;
//!   `connection_health` says whether they are up, `nats_error` why not, and `tls` whether that can change. `link` is
//!   our own connection, for messages that other programs can shape;
//! * `bounded_file` reads small files, and `secrets` reads those of secrets again, and puts what has changed into
//!   effect;
//! * `direct` reads answers to direct gets, and `stored` single messages of a stream from its leader;
//! * `epoch` names the epoch of the stream of events, and `writes` records whether NATS stores what is published;
//! * `provision` sets up streams and buckets, or waits for them, and `storage` watches and restores them;
//! * `lease` lets nodes agree which of them does something;
//! * `bucket` reads and writes what a bucket holds, and `rule_bucket` the rules of operators in theirs;
//! * `view` turns beats into views, `membership` sends beats and distributes views, and `duplicate_names` detects
//!   another node of the same name;
//! * `auth` checks tokens;
//! * `http` serves requests, and `admin` serves liveness, readiness and metrics with it. `listen_error` says what to do
//!   if they cannot listen. `api` registers, guards and describes further endpoints, `status` has those of every node,
//!   and `users` asks all gateways about a user;
//! * `other_nodes` asks other nodes for `status` and `users`;
//! * `rate_budget` bounds how often a node does what others make it do;
//! * `traces` records the spans of traced events, and sends them to a collector;
//! * `host` has the name of the host, `descriptors` raises the limit of file descriptors, and `ports` writes and reads
//!   the file with the addresses that a node listens on;
//! * `resources` measures memory and file descriptors, and `clock_offset` compares the clock with that of NATS;
//! * `start` does all of this in order, for a node of any role.

pub mod config;
pub(crate) mod connection_health;
pub(crate) mod nats_error;
pub(crate) mod nats_login;
pub(crate) mod nats_tls;
pub(crate) mod tls;

pub mod bounded_file;

pub mod secrets;

pub mod telemetry;

pub mod terminal_text;

pub mod metrics;

pub mod shutdown;

pub mod clock;

pub mod names;

pub(crate) mod rate_budget;

pub(crate) mod other_nodes;

pub mod nats;

pub mod link;

pub mod direct;

pub mod stored;

pub mod epoch;

pub mod writes;

pub mod provision;

pub mod storage;

pub mod lease;

pub mod bucket;

pub mod rule_bucket;

pub mod view;

pub mod membership;

pub mod duplicate_names;

pub mod auth;

pub mod http;

pub mod listen_error;

pub mod admin;

pub mod api;

pub(crate) mod host;
pub mod traces;

pub mod descriptors;

pub mod ports;

pub(crate) mod resources;

pub(crate) mod clock_offset;

pub mod start;

pub mod status;

pub mod users;
