//! The measurements of a failover, beside their limits.

use serde::Serialize;

use crate::report::Machine;

/// The measurements. Times are in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct FailoverFigures {
    pub(crate) clients: u32,
    pub(crate) events_a_second: f64,
    pub(crate) published: u64,
    pub(crate) expected: u64,
    pub(crate) missing: u64,
    pub(crate) duplicated: u64,
    pub(crate) gaps: u64,
    /// The longest latency of an event that was published after a router was killed.
    pub(crate) router_killed: f64,
    /// Until the last client had resumed after its gateway was killed, and the same without each client's own pauses.
    pub(crate) gateway_killed: f64,
    pub(crate) gateway_killed_without_pauses: f64,
    /// Requests for replays that this took.
    pub(crate) replay_requests: u64,
    /// Until the last client had left a gateway that was drained, and resumed.
    pub(crate) gateway_drained: f64,
    /// How fast one router reads the stream again: without a bound, and as it is configured.
    pub(crate) replayed_a_second: f64,
    pub(crate) paced_replay_a_second: f64,
    /// Latency of live events, p99, before and during the latter.
    pub(crate) live_p99: f64,
    pub(crate) live_p99_during_replay: f64,
}

/// A limit, the measurement, and whether it is within the limit.
struct FailoverBar {
    what: &'static str,
    bar: String,
    seen: String,
    met: bool,
}

impl FailoverFigures {
    fn bars(&self) -> Vec<FailoverBar> {
        let bar = |what, bar: String, seen: String, met| FailoverBar { what, bar, seen, met };
        let seconds = |value: f64| format!("{value:.2} s");
        let ratio = self.live_p99_during_replay / self.live_p99.max(1e-6);
        vec![
            bar(
                "a router is killed: longest wait for an event",
                "4 s".into(),
                seconds(self.router_killed),
                self.router_killed <= 4.0,
            ),
            bar(
                "a gateway is killed: its last client has resumed, without its own pauses",
                "3 s".into(),
                format!(
                    "{} ({} with pauses)",
                    seconds(self.gateway_killed_without_pauses),
                    seconds(self.gateway_killed)
                ),
                self.gateway_killed_without_pauses <= 3.0,
            ),
            bar(
                "a router replays past events",
                "100000 events/s".into(),
                format!("{:.0} events/s", self.replayed_a_second),
                self.replayed_a_second >= 100_000.0,
            ),
            bar(
                "p99 of live events during a replay, by that without",
                "2".into(),
                format!(
                    "{ratio:.2} ({:.1} and {:.1} ms, {:.0} events/s replayed)",
                    self.live_p99 * 1e3,
                    self.live_p99_during_replay * 1e3,
                    self.paced_replay_a_second
                ),
                ratio <= 2.0,
            ),
            bar(
                "missing, duplicated, gaps",
                "0".into(),
                format!("{}, {}, {} of {}", self.missing, self.duplicated, self.gaps, self.expected),
                self.missing + self.duplicated + self.gaps == 0,
            ),
        ]
    }

    /// Whether nothing was lost: the times are only figures.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing + self.duplicated + self.gaps == 0
    }

    /// The report as text.
    pub(crate) fn table(&self, machine: &Machine) -> String {
        let mut text = format!(
            "failover of {} clients at {} events/s, {} published\n{machine}\n",
            self.clients, self.events_a_second, self.published
        );
        for FailoverBar { what, bar, seen, met } in self.bars() {
            let verdict = if met { "met" } else { "MISSED" };
            text += &format!("{what:<74} {bar:>16}  {seen}  {verdict}\n");
        }
        let drained = "a gateway is drained: its last client has resumed";
        text += &format!("{drained:<91}  {:.2} s\n", self.gateway_drained);
        let requests = "requests for replays that a killed gateway's clients cost";
        text += &format!("{requests:<91}  {}\n", self.replay_requests);
        text
    }
}
