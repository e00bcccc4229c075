//! A process under test. Its output goes to files and is shown if the test fails. When dropped, it is killed with all
//! processes that it started.

use crate::eventually;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How many last lines of each output a failing test shows.
const SHOWN_LINES: usize = 40;

/// How long a process may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// A running process, owned by the test that started it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` with an empty input. Its output goes to `<name>.out` and `<name>.err` in the folder `home`.
    pub fn start(name: &str, home: &Path, command: &mut Command) -> Self {
        let path = |extension: &str| home.join(format!("{name}.{extension}"));
        let (stdout, stderr) = (path("out"), path("err"));
        let file = |path: &Path| File::create(path).expect("a file for the output of a process");
        let child = command
            .stdin(Stdio::null())
            .stdout(file(&stdout))
            .stderr(file(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { name: name.to_owned(), child, ended: None, stdout, stderr }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in KB.
    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the status of a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the memory of a process");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    }

    /// Its part of the memory that it has in use, in KB: what it shares with other processes counts in equal parts.
    pub fn proportional_kb(&self) -> u64 {
        let sums = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("the memory of a process");
        let line = sums.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the sum of its mappings");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    }

    /// How much of the processors it has used: user and system time.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the times of a process");
        let ticks = ticks(&stat).expect("two numbers of clock ticks");
        Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64)
    }

    /// The number of its open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the descriptors of a process").count()
    }

    /// Asks the process to end, as an operator's tools do (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks the process to end, as Ctrl-C does (SIGINT).
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks the process to read its configuration again, as HAProxy takes SIGUSR2.
    pub fn reload(&self) {
        self.signal(Signal::USR2);
    }

    /// Suspends the process (SIGSTOP), like a long pause of its machine. Returns when none of its threads runs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until_stopped(self.pid());
    }

    /// Resumes a suspended process (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        // `kill` fails only if the process has ended already.
        self.child.kill().ok();
        self.ended = self.child.wait().ok();
    }

    /// The exit status; `None` while the process runs.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Waits until the process has ended by itself.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        eventually(&what, deadline, async || self.exit()).await
    }

    /// The ids of all running processes that it started, directly or not.
    pub fn descendants(&self) -> Vec<u32> {
        // Without /proc the list is empty.
        let parents = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, status(pid)?.1))
        });
        let parents: Vec<(u32, u32)> = parents.collect();
        let mut family = vec![self.pid()];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        family.split_off(1)
    }

    /// The standard output so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// The standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).expect("a child that was not waited for can be signalled");
        }
    }
}

/// Whether a process with this id runs. A zombie does not count.
pub fn is_running(pid: u32) -> bool {
    status(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Waits until every thread of a process that was sent SIGSTOP has stopped. On a busy machine threads run on for some
/// milliseconds.
pub(crate) fn wait_until_stopped(pid: u32) {
    let end = Instant::now() + STOP_DEADLINE;
    while threads(pid).iter().any(|state| !matches!(state, 'T' | 't' | 'Z' | 'X')) {
        assert!(Instant::now() < end, "process {pid} does not stop within {STOP_DEADLINE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// User and system time in clock ticks: the fields 14 and 15 of a file `stat`. The name before them may have spaces.
fn ticks(stat: &str) -> Option<u64> {
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

/// The state of each thread of a process. Without /proc the list is empty.
fn threads(pid: u32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| state_and_parent(&task.path().join("stat"))).map(|(state, _)| state).collect()
}

/// The state of a process and the id of its parent.
fn status(pid: u32) -> Option<(char, u32)> {
    state_and_parent(&Path::new("/proc").join(pid.to_string()).join("stat"))
}

/// The state of a process or thread and the id of its parent: the fields after the name in its file `stat`.
fn state_and_parent(stat: &Path) -> Option<(char, u32)> {
    let stat = fs::read_to_string(stat).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = if self.exit().is_none() { self.descendants() } else { Vec::new() };
        self.kill();
        for pid in family.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            // The process may have ended meanwhile.
            kill_process(pid, Signal::KILL).ok();
        }
        if thread::panicking() {
            eprintln!("---- {} (ended: {:?})", self.name, self.ended);
            for output in [self.stdout(), self.stderr()] {
                let lines: Vec<&str> = output.lines().collect();
                for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                    eprintln!("{line}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_process_is_that_of_user_and_system() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 1250 250 3 4 20 0 1 0 99 1000";
        assert_eq!((ticks(stat), ticks("7 (a) S 1")), (Some(1_500), None));
    }

    #[tokio::test]
    async fn descendants_end_when_the_process_is_dropped() {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'sleep 600; true'; true"]);
        let process = Process::start("family", home.path(), &mut command);
        let family = eventually("both are started", Duration::from_secs(60), async || {
            Some(process.descendants()).filter(|family| family.len() == 2)
        })
        .await;
        drop(process);
        let are_gone = async || (!family.iter().any(|pid| is_running(*pid))).then_some(());
        eventually("both have ended", Duration::from_secs(60), are_gone).await;
    }
}
