//! Which processor runs what: the server under test has one to itself, and the generator, with NATS where that is not
//! what is measured, has all others.

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{fs, io};

/// The processors of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Cores {
    /// The one that the server runs on.
    pub(crate) server: usize,
    /// Those that the generator runs on; the server's, if there is only one.
    pub(crate) generator: Vec<usize>,
}

impl Cores {
    /// Splits the processors that this process may use.
    pub(crate) fn split() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let server = cores.pop().ok_or_else(|| io::Error::other("this process may use no processor"))?;
        let generator = if cores.is_empty() { vec![server] } else { cores };
        Ok(Self { server, generator })
    }

    /// Whether both sides have processors of their own.
    pub(crate) fn are_apart(&self) -> bool {
        !self.generator.contains(&self.server)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.generator.len() + usize::from(self.are_apart())
    }

    /// Moves this process, all of its threads, to the generator's side.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let set = set_of(&self.generator);
        for task in fs::read_dir("/proc/self/task")? {
            let thread = task?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(thread) = thread {
                sched_setaffinity(Some(thread), &set)?;
            }
        }
        Ok(())
    }

    /// Starts something on the server's side: what a thread starts runs where the thread does.
    pub(crate) fn as_server<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        sched_setaffinity(None, &set_of(&[self.server]))?;
        let started = start();
        sched_setaffinity(None, &set_of(&self.generator))?;
        started
    }
}

fn set_of(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    set
}
