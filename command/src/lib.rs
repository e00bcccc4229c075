//! What several commands of `tickwire` share. No node uses it.
//!
//! The modules, in the order in which a command uses them: `args` defines the flags that say where the configuration
//! and NATS are, `stop` waits for signals and stops child processes, `nats_server` starts a nats-server, `ready` waits
//! for the nodes, `publisher` publishes to JetStream with acknowledgements, `signing` signs tokens, and `progress` shows
//! how far the command is. `standard_error` writes lines for people.

pub mod args;
pub mod nats_server;
pub mod progress;
pub mod publisher;
pub mod ready;
pub mod signing;
pub mod standard_error;
pub mod stop;
