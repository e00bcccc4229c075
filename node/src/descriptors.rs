//! File descriptors. Every connection takes one, and without any left a node can reach neither NATS nor its files. So
//! the limit is raised as far as the system allows before anything is opened.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Raises the limit to what the system allows, and returns it; `None` is no limit.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            debug!(from = ?current, to = ?maximum, "file descriptor limit raised");
            maximum
        }
        Err(error) => {
            warn!(limit = ?current, allowed = ?maximum, %error, "file descriptor limit not raised");
            current
        }
    }
}
