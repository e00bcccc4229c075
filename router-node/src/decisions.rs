//! The router without I/O: what it is given, and what it wants done. [`run`](crate::run) drives it over NATS, and the
//! simulator of the cluster in a world of its own.

pub use crate::decode::Readable;
pub use crate::dispatch::Routed;
pub use crate::dispatch::pack::batches;
pub use crate::engine::{Engine, Floors, Order, Output, Report};
pub use crate::intake::{Heard, What};
pub use crate::interest::{SNAPSHOT_BACKOFF, SNAPSHOT_DEADLINE, Said};
pub use crate::ownership::driver::{ROUND, lease_deadline};
pub use crate::ownership::tenancy::{Checkpoint, Mark};
pub use crate::ownership::{Ownership, Pace, Reached, Task, Written};
pub use crate::source::{Source, Tenure};
pub use crate::stream::{Expected, Facts, Look};
