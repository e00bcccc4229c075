//! The name of this host.

use std::{env, fs};

/// The name of this host, from the system or the environment.
pub(crate) fn name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.or_else(|| env::var("HOSTNAME").ok())
}
