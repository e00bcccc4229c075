//! What the tests of every tickwire crate stand on: a real nats-server ([`NatsServer`]), other processes ([`Process`]),
//! waiting for a condition with a deadline ([`eventually`]), an event to begin with ([`blank_event`]), and somebody who
//! publishes without end ([`Flood`]). Never part of a released binary. Everything here panics with the reason when it cannot do its job, because a test that cannot run
//! has failed.

mod event;
mod flood;
mod nats_server;
mod process;
mod wait;

pub use event::blank_event;
pub use flood::Flood;
pub use nats_server::NatsServer;
pub use process::{Process, is_running};
pub use wait::eventually;
