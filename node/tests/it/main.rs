//! The parts of a node with real files, HTTP, signals and nats-server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admin;
mod config;
mod link;
mod membership;
mod nats;
mod provision;
mod shutdown;

use tickwire_node::config::{Config, LoadOptions};

/// The defaults with these keys set.
fn load(sets: &[(&str, &str)]) -> Config {
    let sets = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap()
}
