//! What the process takes of its machine: memory and file descriptors, as metrics. Systems without `/proc` do not say.

use crate::metrics;
use std::fs;

/// Measures both.
pub(crate) fn measure() {
    metrics::OPEN_DESCRIPTORS.set(descriptors().unwrap_or(0) as f64);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    metrics::RESIDENT_BYTES.set(resident(&status).unwrap_or(0) as f64);
}

/// How many file descriptors are open, the one that this takes included.
fn descriptors() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

/// The resident memory in the text of `/proc/<pid>/status`, in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kb: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let status = "Name:\ttickwire\nVmHWM:\t   22000 kB\nVmRSS:\t   18432 kB\nThreads:\t9\n";
        assert_eq!((resident(status), resident("Name:\tx\n")), (Some(18_432 * 1024), None));
    }
}
