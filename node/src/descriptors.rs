//! File descriptors: how many this process may have. Every connection takes one, and without any left a node can reach
//! neither NATS nor its files; so the limit is raised as far as the system allows before anything is opened.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Raises the limit to what the system allows, and gives it; `None` is any number.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            debug!(from = ?current, to = ?maximum, "limit of file descriptors raised");
            maximum
        }
        Err(error) => {
            warn!(limit = ?current, allowed = ?maximum, %error, "the limit of file descriptors could not be raised");
            current
        }
    }
}
