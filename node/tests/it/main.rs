//! The parts of a node with real files, HTTP, signals and nats-server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admin;
mod bucket;
mod config;
mod link;
mod membership;
mod nats;
mod provision;
mod rule_bucket;
mod secrets;
mod shutdown;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tickwire_node::config::{Config, LoadOptions};
use tickwire_node::lease::{HeldLease, LeaseError, LeaseStep, Leases};

/// The defaults with these keys set.
fn load(sets: &[(&str, &str)]) -> Config {
    let sets = sets.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap()
}

/// Renews a lease, or gives it back.
async fn write<S: Serialize + DeserializeOwned>(
    leases: &Leases,
    key: &str,
    held: &mut HeldLease,
    (is_ours, state): (bool, S),
) -> Result<(), LeaseError> {
    let mut step = held.write();
    loop {
        step = match step {
            LeaseStep::Read => held.was_read(leases.read::<S>(key).await),
            LeaseStep::Write { revision } => held.was_written(leases.write(key, revision, is_ours, &state).await),
            LeaseStep::Nothing(written) => return written,
        };
    }
}
