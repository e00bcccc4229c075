//! The program of the document that acknowledges the alerts to its user: it gets them before a break, and in the resume
//! after it. The first acknowledgement is refused for the moment, and sent again.

use async_nats::jetstream;
use std::collections::BTreeSet;
use tickwire_core::protocol::{Encoding, ServerMessage};
use tickwire_node::names::ACKS_BUCKET;
use tickwire_testkit::eventually;

use super::tap::TEXT;
use super::{DEADLINE, ForeignClient, contains};
use crate::cluster::Cluster;
use crate::feed;
use crate::producer::Producer;

/// The program.
const FILE: &str = "browser-resume.js";

/// The sequences of the alerts that were published to its user.
pub(super) struct SentAlerts(Vec<u64>);

impl SentAlerts {
    /// Waits until the program gets alerts.
    pub(super) async fn to(clients: &[ForeignClient]) -> Self {
        let client = program(clients);
        eventually("the subscription to alerts is confirmed", DEADLINE, async || {
            let is_listed = |payload: &[u8]| contains(payload, br#""alerts":{"filter""#);
            let is_confirmed = client.tap.look(|noted| noted[0].gateway.iter().any(|frame| is_listed(&frame.payload)));
            is_confirmed.then_some(())
        })
        .await;
        Self(Vec::new())
    }

    /// Publishes another alert to the user of the program.
    pub(super) async fn publish(&mut self, producer: &Producer, clients: &[ForeignClient]) {
        let number = self.0.len();
        self.0.push(producer.publish(&feed::alert(&program(clients).user, number)).await);
    }

    /// Waits until the program has printed and acknowledged all of them, and fails if it has printed one twice. An alert
    /// that is not acknowledged when the program connects may come again beside that.
    pub(super) async fn are_acknowledged(&self, clients: &[ForeignClient]) {
        let client = program(clients);
        let sent: BTreeSet<u64> = self.0.iter().copied().collect();
        eventually("all alerts are printed and acknowledged", DEADLINE, async || {
            (acked(client) == sent && printed(client).len() >= sent.len()).then_some(())
        })
        .await;
        assert_eq!(printed(client), self.0);
    }
}

/// Deletes the bucket of acknowledgements. None can be recorded until a router has created it again, after two seconds.
pub(super) async fn delete_bucket(cluster: &Cluster) {
    jetstream::new(cluster.client.clone()).delete_stream(format!("KV_{ACKS_BUCKET}")).await.unwrap();
}

fn program(clients: &[ForeignClient]) -> &ForeignClient {
    clients.iter().find(|client| client.program.file == FILE).unwrap()
}

/// The sequences of the alerts that a program has printed.
fn printed(client: &ForeignClient) -> Vec<u64> {
    let text = client.process.stdout();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let messages = lines.flat_map(|line| parse(format!("[{}]", line.trim()).as_bytes()));
    let alerts = messages.filter_map(|message| match message {
        ServerMessage::Alert(alert) if !alert.again => Some(alert.seq.0),
        _ => None,
    });
    alerts.collect()
}

/// The sequences of the alerts whose acknowledgements the gateway has recorded.
fn acked(client: &ForeignClient) -> BTreeSet<u64> {
    client.tap.look(|noted| {
        let frames = noted.iter().flat_map(|one| &one.gateway).filter(|frame| frame.opcode() == TEXT);
        let acks = frames.flat_map(|frame| parse(&frame.payload)).filter_map(|message| match message {
            ServerMessage::Acked(acked) => Some(acked.seq.0),
            _ => None,
        });
        acks.collect()
    })
}

fn parse(frame: &[u8]) -> Vec<ServerMessage> {
    ServerMessage::parse(frame, Encoding::Json).unwrap()
}
