//! The measured messages of a cluster, beside the numbers that follow from the code.

use serde::Serialize;

use super::LARGER_RATE;
use super::traffic::{ClusterLoad, TrafficKind};
use crate::report::Machine;

/// The measurements, and the numbers that follow from the code.
#[derive(Debug, Serialize)]
pub(crate) struct ScalingFigures {
    pub(crate) cluster: ClusterLoad,
    pub(crate) seconds: f64,
    /// The messages that are published in a second, by kind.
    pub(crate) messages: Vec<TrafficLine>,
    /// Batches that routers have sent and events that gateways have received, a second, as their metrics report.
    pub(crate) batches_sent: f64,
    pub(crate) events_received: f64,
    /// Messages of no kind: requests to JetStream, and answers.
    pub(crate) requests_and_answers: f64,
    /// The processor time of NATS in a second of wall time.
    pub(crate) nats_busy: f64,
    /// The processor time of NATS for each message that it moves, in microseconds. A message that comes in and goes out
    /// to two counts three times.
    pub(crate) nats_us_per_message: f64,
    /// The size of the whole interest of a gateway by the number of symbols, in bytes of a snapshot.
    pub(crate) interests: Vec<(usize, usize)>,
    /// The messages that larger clusters would exchange.
    pub(crate) larger: Vec<Larger>,
}

/// A kind of messages.
#[derive(Debug, Serialize)]
pub(crate) struct TrafficLine {
    pub(crate) kind: TrafficKind,
    /// Published in a second, as counted from the code.
    pub(crate) counted: f64,
    /// Published in a second, as measured.
    pub(crate) measured: f64,
    /// How many nodes receive each.
    pub(crate) receivers: u32,
}

/// A cluster that was not run.
#[derive(Debug, Serialize)]
pub(crate) struct Larger {
    pub(crate) cluster: ClusterLoad,
    pub(crate) window_ms: f64,
    pub(crate) batches: f64,
    /// The same if no event were critical.
    pub(crate) batches_without_critical: f64,
    pub(crate) all_else: f64,
}

impl ScalingFigures {
    /// The report as text.
    pub(crate) fn table(&self, machine: &Machine) -> String {
        let ClusterLoad { gateways, routers, rate, interest, critical, .. } = self.cluster;
        let mut text = format!(
            "scaling: {gateways} gateways, {routers} routers, {rate} events/s of which {:.0} % match each gateway and \
             {:.0} % are critical, {:.0} s\n{machine}\n\n{:<36}{:>12}{:>12}{:>12}\n",
            interest * 1e2,
            critical * 1e2,
            self.seconds,
            "messages a second",
            "counted",
            "measured",
            "receivers",
        );
        for TrafficLine { kind, counted, measured, receivers } in &self.messages {
            text += &format!("{:<36}{counted:>12.1}{measured:>12.1}{receivers:>12}\n", kind.name());
        }
        text += &format!("{:<36}{:>12}{:>12.1}\n", "requests to JetStream and answers", "", self.requests_and_answers);
        text += &format!(
            "\nby their metrics, routers sent {:.1} batches a second, and gateways received {:.1} events a second\n",
            self.batches_sent, self.events_received
        );
        text += &format!(
            "NATS was {:.0} % busy with that, {:.1} us of its processor a message that it moved\n\n",
            self.nats_busy * 1e2,
            self.nats_us_per_message
        );
        for (symbols, bytes) in &self.interests {
            text += &format!("the interest of a gateway that wants {symbols} symbols takes {bytes} bytes\n");
        }
        text += &format!(
            "\ncounted for {LARGER_RATE} events/s\n{:>9}{:>9}{:>11}{:>14}{:>22}{:>28}\n",
            "gateways", "routers", "window", "batches/s", "if none is critical", "all else that NATS moves/s"
        );
        for Larger { cluster, window_ms, batches, batches_without_critical: without, all_else } in &self.larger {
            let ClusterLoad { gateways, routers, .. } = cluster;
            text += &format!(
                "{gateways:>9}{routers:>9}{window_ms:>8.0} ms{batches:>14.0}{without:>22.0}{all_else:>28.0}\n"
            );
        }
        text
    }
}
