//! The alerts of a user, read for a gateway that may send them again: a service of every router. Only routers have the
//! rules, so only they know an alert as its user may see it.
//!
//! ```text
//! tw.alerts ──▶ read one page by subject, decode, (rules,) ──▶ tw.alerts.<gateway>.<nonce>.<ask>
//! ```
//!
//! * Live events go before alerts that come again. So a few requests are served at a time, over the connection of the
//!   replays; further ones wait, and gateways take turns. [`queue`] decides which is served next, and which are dropped
//!   because too many wait, or for too long. The gateway then asks once more.
//! * One request reads one page, of bounded size. Nothing about it is kept after its answer.

mod queue;

use crate::asker::Asker;
use crate::decode::{Decoded, Decoder, to_wire};
use crate::dispatch::pack::ENVELOPE;
use crate::metrics;
use crate::reader::StreamMessage;
use crate::reader::by_subject::{self, SubjectStart};
use crate::reader::direct::DirectError;
use crate::requests;
use crate::stream::{StreamError, StreamFacts, StreamState};
use async_nats::Subject;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use queue::{AlertQueue, Taken};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tickwire_core::alerts::{AlertsAnswer, AlertsPage, AlertsRequest};
use tickwire_core::event::{Audience, Kind, Timestamp, key};
use tickwire_core::ids::Seq;
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::clock::Clock;
use tickwire_node::link::{LinkError, LinkSubscriber, NatsMessage};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::start::StartError;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many bytes of requests may wait to be looked at.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// How many requests are looked at together.
const LOOKED_AT: usize = 64;

/// What a request costs beside the list of what it leaves out, in bytes, while it waits.
const BESIDE_ACKED: usize = 512;

/// How many requests are served at the same time.
const AT_ONCE: usize = 4;

/// How many messages are decoded before others have their turn.
const TURN: usize = 16;

/// The most bytes of an alert in an answer beside its own.
const BESIDE: usize = 16;

/// How long the client may take to accept an answer.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug)]
pub(crate) struct AlertService {
    requests: LinkSubscriber,
    view: watch::Receiver<Arc<View>>,
    reader: AlertReader,
}

/// Reads pages. It keeps no state between two of them.
#[derive(Debug)]
struct AlertReader {
    /// Shared with the replays.
    nats: Nats,
    decoder: Arc<Decoder>,
    partitions: u32,
}

/// Why a page was not read.
#[derive(Debug, Error)]
enum PageError {
    #[error(transparent)]
    Direct(#[from] DirectError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl AlertService {
    /// Takes requests from now on, with the other routers.
    pub(crate) fn subscribe(
        nats: Nats,
        decoder: Arc<Decoder>,
        partitions: u32,
        view: watch::Receiver<Arc<View>>,
    ) -> Result<Self, StartError> {
        let failed = |error: LinkError| StartError::Part {
            part: "alerts",
            reason: format!("cannot subscribe to {}: {error}", names::ALERTS),
        };
        let requests = nats.link.subscribe("alert_requests", names::ALERTS, Some(names::ALERTS_GROUP), REQUEST_BYTES);
        let requests = requests.map_err(failed)?;
        Ok(Self { requests, view, reader: AlertReader { nats, decoder, partitions } })
    }

    /// Runs until the drain, and finishes what has begun.
    pub(crate) async fn run(self, drain: CancellationToken) {
        let Self { mut requests, view, reader } = self;
        let (clock, mut queue, mut arrived) = (Clock::start(), AlertQueue::new(), Vec::new());
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < AT_ONCE {
                let Taken { next, late } = queue.take(clock.now());
                metrics::ALERT_REQUESTS.with("late").increment(late);
                let Some((request, reply)) = next else { break };
                running.push(reader.serve(request, reply));
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                Some(()) = running.next() => {}
                count = requests.next_many(&mut arrived, LOOKED_AT) => if count == 0 { break },
            }
            for (request, reply) in arrived.drain(..).filter_map(|message| read(&message)) {
                let asker = Asker::of(&request.gateway, &view.borrow());
                let bytes = BESIDE_ACKED + size_of_val(request.acked.as_slice());
                let dropped = queue.push(clock.now(), &asker, bytes, (request, reply));
                metrics::ALERT_REQUESTS.with("busy").increment(dropped);
            }
        }
        drop(requests);
        while running.next().await.is_some() {}
    }
}

/// Reads a request, and counts one that is refused.
fn read(message: &NatsMessage) -> Option<(AlertsRequest, Subject)> {
    requests::read(message).inspect_err(|outcome| metrics::ALERT_REQUESTS.with(*outcome).increment(1)).ok()
}

impl AlertReader {
    async fn serve(&self, request: AlertsRequest, reply: Subject) {
        let answer = match self.read(&request).await {
            Ok(page) => AlertsAnswer::Page(page),
            Err(error) => {
                debug!(gateway = %request.gateway, %error, "alerts of a user not read");
                AlertsAnswer::Failed
            }
        };
        let outcome = if matches!(answer, AlertsAnswer::Page(_)) { "answered" } else { "failed" };
        metrics::ALERT_REQUESTS.with(outcome).increment(1);
        let bytes = match wire::encode(&answer) {
            Ok(bytes) => bytes,
            Err(error) => return debug!(%error, "alerts of a user not encoded"),
        };
        let publish = self.nats.client.publish(reply, bytes.into());
        if !matches!(timeout(PUBLISH_DEADLINE, publish).await, Ok(Ok(()))) {
            debug!("answer with alerts of a user not published");
        }
    }

    /// Reads a page. Both requests to NATS have deadlines.
    async fn read(&self, request: &AlertsRequest) -> Result<AlertsPage<Bytes>, PageError> {
        let (_, subject) = names::alerts_of(self.partitions, &key::encode(request.user.as_str()));
        let start = match request.after {
            Seq(0) => SubjectStart::Since(request.since),
            after => SubjectStart::After(after),
        };
        let stream = &self.decoder.stream;
        let messages = by_subject::read(&self.nats, stream, &subject, start).await?;
        // What the leader had removed by now may have been missing before.
        let StreamState { facts, .. } = StreamState::look(&self.nats, stream).await?;
        let most = (self.nats.client.max_payload() / 2).saturating_sub(ENVELOPE);
        let mut page = PageBuilder::new(request, most);
        for (number, message) in messages.iter().enumerate() {
            // Live events get their turn in between.
            if number % TURN == 0 {
                tokio::task::yield_now().await;
            }
            if !page.take((message.seq, message.stored), || self.alert(request, message)) {
                break;
            }
        }
        Ok(page.finish(&facts))
    }

    /// The alert in a message, as its user may see it; `None` if there is none, or a rule drops it.
    fn alert(&self, request: &AlertsRequest, message: &StreamMessage) -> Option<Bytes> {
        let Ok(Decoded::Event(event, ())) = self.decoder.read(message) else { return None };
        let is_wanted =
            event.kind == Kind::Alert && matches!(&event.audience, Audience::User(user) if *user == request.user);
        if is_wanted { to_wire(&event).ok() } else { None }
    }
}

/// What goes into one answer. Pure.
#[derive(Debug)]
pub struct PageBuilder<'r> {
    request: &'r AlertsRequest,
    /// The most bytes of alerts. A larger one makes a page of its own.
    most: usize,
    bytes: usize,
    through: Seq,
    alerts: Vec<(Seq, Bytes)>,
}

impl<'r> PageBuilder<'r> {
    /// An empty page, for at most this many bytes of alerts.
    #[must_use]
    pub fn new(request: &'r AlertsRequest, most: usize) -> Self {
        Self { request, most, bytes: 0, through: request.after, alerts: Vec::new() }
    }

    /// Takes the next message, with its sequence and the time when it was stored. `read` decodes it, and is called only
    /// if it is wanted. Returns whether the page may have room for another one.
    pub fn take(&mut self, (seq, stored): (Seq, Timestamp), read: impl FnOnce() -> Option<Bytes>) -> bool {
        if self.request.wants(seq, stored)
            && let Some(wire) = read()
        {
            let grown = self.bytes + wire.len() + BESIDE;
            if grown > self.most && !self.alerts.is_empty() {
                return false;
            }
            self.bytes = grown;
            self.alerts.push((seq, wire));
        }
        self.through = self.through.max(seq);
        true
    }

    /// The page. The stream had these facts after the messages were read.
    #[must_use]
    pub fn finish(self, facts: &StreamFacts) -> AlertsPage<Bytes> {
        AlertsPage { epoch_id: facts.epoch_id, through: self.through.max(facts.removed()), alerts: self.alerts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{NodeId, NodeRef, Nonce, UserId};

    fn request(after: u64, acked: &[u64]) -> AlertsRequest {
        AlertsRequest {
            gateway: NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) },
            user: UserId::new("ann").unwrap(),
            since: Timestamp(0),
            after: Seq(after),
            acked: acked.iter().map(|seq| (Seq(*seq), Timestamp(*seq as i64))).collect(),
        }
    }

    /// The sequences of a page, and up to where it was read.
    fn paged(request: &AlertsRequest, most: usize, seqs: &[u64], size: usize) -> (Vec<u64>, u64) {
        let mut page = PageBuilder::new(request, most);
        for seq in seqs {
            if !page.take((Seq(*seq), Timestamp(*seq as i64)), || (*seq != 5).then(|| vec![7_u8; size].into())) {
                break;
            }
        }
        (page.alerts.iter().map(|(seq, _)| seq.0).collect(), page.through.0)
    }

    #[test]
    fn page_ends_where_the_next_alert_has_no_room() {
        let all = [2, 3, 5, 8, 9];
        assert_eq!(paged(&request(0, &[]), 10_000, &all, 100), (vec![2, 3, 8, 9], 9), "5 is no alert");
        assert_eq!(paged(&request(0, &[3]), 10_000, &all, 100), (vec![2, 8, 9], 9));
        assert_eq!(paged(&request(0, &[]), 250, &all, 100), (vec![2, 3], 5));
        assert_eq!(paged(&request(5, &[]), 250, &all[3..], 100), (vec![8, 9], 9));
        assert_eq!(paged(&request(0, &[]), 50, &all, 100), (vec![2], 2), "a large one is alone");
        assert_eq!(paged(&request(7, &[]), 50, &[], 100), (vec![], 7));
    }
}
