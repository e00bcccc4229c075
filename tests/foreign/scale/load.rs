//! The load: processes of `tickwire bench attach` on hosts of their own, each with an exact ledger for every socket.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tickwire_testkit::{Process, eventually};

use super::hosts::Host;
use crate::node::tickwire;

/// The name of the run, with which its symbols begin.
const RUN: &str = "SCALE";

/// How long the sockets of one process may take to connect and subscribe.
const CONNECT: Duration = Duration::from_secs(120);

/// How long what is missing may take to arrive after the last event, in seconds.
const SETTLE: u64 = 90;

/// One process.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) process: Process,
    seconds: u64,
}

/// The events of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feed {
    pub(super) symbols: u64,
    /// Events a second.
    pub(super) rate: u64,
    pub(super) seconds: u64,
}

/// What a process has found.
#[derive(Debug, Deserialize)]
pub(super) struct Figures {
    pub(super) published: u64,
    pub(super) deliveries: u64,
    pub(super) reconnects: u64,
    pub(super) gaps: u64,
    pub(super) dropped: u64,
    pub(super) exact: bool,
    pub(super) latency_ms: Latency,
}

/// From publishing to receipt, in milliseconds.
#[derive(Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Load {
    /// Starts a process with so many sockets, which publishes nothing. `wait` is how many seconds may pass before the
    /// feed begins.
    pub(super) fn listen(host: &Host, home: &Path, clients: &[String], sockets: u64, feed: Feed, wait: u64) -> Self {
        let (sockets, settle) = (sockets.to_string(), (wait + SETTLE).to_string());
        let mut arguments = vec!["--no-publish", "--sockets", &sockets, "--settle", &settle];
        arguments.extend(clients.iter().map(String::as_str));
        Self::start(host, home, &arguments, feed, wait)
    }

    /// Starts the process that publishes, with these settings.
    pub(super) fn publish(host: &Host, home: &Path, settings: &[(&str, String)], feed: Feed) -> Self {
        let (rate, settings) = (feed.rate.to_string(), settings.iter().map(|(key, value)| format!("{key}={value}")));
        let settings: Vec<String> = settings.collect();
        let mut arguments = vec!["--publish-only", "--rate", &rate];
        for setting in &settings {
            arguments.extend(["--set", setting]);
        }
        Self::start(host, home, &arguments, feed, 0)
    }

    fn start(host: &Host, home: &Path, arguments: &[&str], feed: Feed, wait: u64) -> Self {
        let mut command = tickwire();
        command.args(["bench", "attach", "--json", "--run", RUN]);
        command.args(["--symbols", &feed.symbols.to_string(), "--seconds", &feed.seconds.to_string()]).args(arguments);
        let process = Process::start(&host.name, home, &mut host.run(&command));
        Self { process, seconds: wait + feed.seconds + SETTLE }
    }

    /// Waits until all its sockets are ready.
    pub(super) async fn ready(&mut self) {
        eventually("the sockets are ready", CONNECT, async || {
            assert_eq!(self.process.exit(), None, "the load has ended: {}", self.process.stderr());
            self.process.stderr().contains("sockets are ready").then_some(())
        })
        .await;
    }

    /// Waits for its end.
    pub(super) async fn figures(&mut self) -> Figures {
        let status = self.process.wait(Duration::from_secs(self.seconds)).await;
        let (output, log) = (self.process.stdout(), self.process.stderr());
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{status}, {error}: {output} {log}"))
    }
}
