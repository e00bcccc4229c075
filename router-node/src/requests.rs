//! Reads the requests of gateways, each of which is answered on a subject of its gateway.

use async_nats::Subject;
use serde::de::DeserializeOwned;
use tickwire_core::alerts::AlertsRequest;
use tickwire_core::ids::NodeRef;
use tickwire_core::replay::ReplayRequest;
use tickwire_core::wire;
use tickwire_node::link::NatsMessage;
use tickwire_node::names;
use tracing::debug;

/// A request of a gateway.
pub(crate) trait GatewayRequest: DeserializeOwned {
    /// What it asks for, for the log.
    const WHAT: &'static str;

    /// The gateway that asks.
    fn gateway(&self) -> &NodeRef;

    /// The number of the request in the subject of its answers.
    fn parse_answers(subject: &str) -> Option<u64>;

    /// The subject of the answers to a request of one start of one gateway.
    fn answers(gateway: &str, nonce: &str, ask: u64) -> String;
}

impl GatewayRequest for ReplayRequest {
    const WHAT: &'static str = "replay";

    fn gateway(&self) -> &NodeRef {
        &self.gateway
    }

    fn parse_answers(subject: &str) -> Option<u64> {
        names::parse_replayed(subject)
    }

    fn answers(gateway: &str, nonce: &str, ask: u64) -> String {
        names::replayed(gateway, nonce, ask)
    }
}

impl GatewayRequest for AlertsRequest {
    const WHAT: &'static str = "alerts";

    fn gateway(&self) -> &NodeRef {
        &self.gateway
    }

    fn parse_answers(subject: &str) -> Option<u64> {
        names::parse_alerts_answer(subject)
    }

    fn answers(gateway: &str, nonce: &str, ask: u64) -> String {
        names::alerts_answer(gateway, nonce, ask)
    }
}

/// Reads a request, and the subject of its answers. A request that cannot be read is refused without an answer, because
/// its sender may not be able to read the answer. So is one whose answer would not go to the subject of its gateway,
/// because a router may publish to subjects that the sender may not publish to.
///
/// # Errors
/// Why it is refused, as the label of a metric.
pub(crate) fn read<R: GatewayRequest>(message: &NatsMessage) -> Result<(R, Subject), &'static str> {
    let request: R = wire::decode(message.payload()).map_err(|error| {
        debug!(%error, request = R::WHAT, "unreadable request refused");
        "unreadable_request"
    })?;
    match message.reply().and_then(|reply| std::str::from_utf8(reply).ok()) {
        Some(reply) if goes_to::<R>(request.gateway(), reply) => Ok((request, Subject::from(reply))),
        _ => Err("strange_reply"),
    }
}

/// Whether this subject is one on which this gateway gets its answers.
fn goes_to<R: GatewayRequest>(gateway: &NodeRef, reply: &str) -> bool {
    let ask = R::parse_answers(reply);
    ask.is_some_and(|ask| R::answers(gateway.id.as_str(), &gateway.nonce.to_string(), ask) == reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, Nonce};

    fn answers_are_sent_only_to_the_subject_of_the_gateway<R: GatewayRequest>(others: &[String]) {
        let gateway = NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) };
        let nonce = gateway.nonce.to_string();
        let own = R::answers("g", &nonce, 7);
        assert!(goes_to::<R>(&gateway, &own));
        let foreign = [
            R::answers("other", &nonce, 7),
            R::answers("g", "0000000000000002", 7),
            format!("{}>", own.trim_end_matches('7')),
            format!("{own}\rx"),
            names::lease_key(3),
            "$KV.TICKWIRE_LEASES.p.3".to_owned(),
            "$JS.API.STREAM.PURGE.EVENTS".to_owned(),
            "events.pattern.AAPL".to_owned(),
            "events.alert.ann".to_owned(),
            "_INBOX.x".to_owned(),
        ];
        for other in foreign.iter().chain(others) {
            assert!(!goes_to::<R>(&gateway, other), "{other}");
        }
    }

    #[test]
    fn replays_are_sent_only_to_the_subject_of_the_gateway() {
        let alerts = names::alerts_answer("g", &Nonce(1).to_string(), 7);
        answers_are_sent_only_to_the_subject_of_the_gateway::<ReplayRequest>(&[alerts]);
    }

    #[test]
    fn alerts_are_sent_only_to_the_subject_of_the_gateway() {
        let replays = names::replayed("g", &Nonce(1).to_string(), 7);
        answers_are_sent_only_to_the_subject_of_the_gateway::<AlertsRequest>(&[replays]);
    }
}
