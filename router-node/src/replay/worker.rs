//! One request: whose interest, what the stream holds of the range, what of it is wanted, and the answer.
//!
//! It is the live path's decoder and the live path's match, so a replayed event is the very same bytes. What cannot be
//! read was dead-lettered when it was read first; here it is passed over.

use super::pace::Pace;
use super::{Setup, range};
use crate::decode::Decoded;
use crate::dispatch::{ENVELOPE, Routed, pack};
use crate::interest::Inquiry;
use crate::stream::Facts;
use async_nats::Subject;
use bytes::Bytes;
use metrics::{counter, histogram};
use std::time::Duration;
use tickwire_core::ids::{Incarnation, Revision, Seq};
use tickwire_core::interest::Interest;
use tickwire_core::replay::{Part, Refusal, ReplayAnswer, ReplayRequest, Reply, Sought};
use tickwire_core::wire;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

/// How many messages are taken from the stream at a time, at most.
const BATCH: u64 = 500;

/// How many messages one answer takes at most: a range of which little is wanted is answered in steps as well.
const ANSWER_MESSAGES: u64 = 4_000;

/// The largest message of an answer.
const CHUNK: usize = 256 * 1024;

/// How long the engine may take to say what a gateway wants.
const INQUIRY_DEADLINE: Duration = Duration::from_millis(500);

/// How long the reading for one answer may take. Its gateway has long asked again then, unless it is told to wait longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long the client may take to accept a message.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

/// Does replays. It holds nothing of any of them.
#[derive(Debug)]
pub(super) struct Worker {
    setup: Setup,
    pace: Pace,
}

impl Worker {
    pub(super) fn new(setup: Setup) -> Self {
        Self { pace: Pace::new(setup.config.replay_rate), setup }
    }

    /// Answers one request.
    pub(super) async fn serve(&self, request: ReplayRequest, reply: Subject) {
        let start = Instant::now();
        let parts = timeout(DEADLINE, self.replay(&request)).await.unwrap_or(Err(Refusal::Unreadable));
        match parts {
            Ok(parts) => {
                self.answer(&request, &reply, parts).await;
                histogram!("tickwire_router_replay_seconds").record(start.elapsed().as_secs_f64());
            }
            Err(refusal) => {
                let ReplayRequest { gateway, partition, from, to, .. } = &request;
                debug!(%gateway, %partition, %from, %to, refusal = refusal.as_str(), "a replay was refused");
                self.refuse(&reply, refusal).await;
            }
        }
    }

    /// Says that nothing can be said.
    pub(super) async fn refuse(&self, reply: &Subject, refusal: Refusal) {
        counter!("tickwire_router_replays_refused_total", "reason" => refusal.as_str()).increment(1);
        self.publish(reply, Incarnation(0), Part::Refused(refusal), true).await;
    }

    /// Reads as much of the range as goes into one answer.
    async fn replay(&self, request: &ReplayRequest) -> Result<Vec<Part<Routed>>, Refusal> {
        let partition = request.partition;
        if request.from >= request.to || partition.0 >= self.setup.partitions {
            return Err(Refusal::Malformed);
        }
        let (revision, interest) = self.sought(request).await?;
        let view = self.setup.view.borrow().clone();
        let mut reply = Reply::new(request, revision);
        let (mut read, mut bytes, most) = (0, 0, self.setup.config.replay_bytes);
        while !reply.is_complete() && read < ANSWER_MESSAGES && bytes < most {
            // About as many as there are of this partition: one that lies behind the range completes it.
            let guess = (request.to.0 - reply.upto().0) / u64::from(self.setup.partitions) + 16;
            let messages =
                range::read(&self.setup.nats, &self.setup.decoder.stream, partition, reply.upto(), guess.min(BATCH));
            let messages = messages.await.map_err(|error| {
                warn!(%error, %partition, "the stream cannot be read for a replay");
                Refusal::Unreadable
            })?;
            if messages.is_empty() {
                break;
            }
            read += messages.len() as u64;
            counter!("tickwire_router_replay_messages_total").increment(messages.len() as u64);
            self.pace.wait(messages.len() as u64).await;
            for message in messages {
                let wanted = match self.setup.decoder.read(&message.as_stored()) {
                    Decoded::Event(event) if interest.admits(&event.event, &request.gateway, &view) => {
                        bytes += event.wire.len();
                        Some(Routed { wire: event.wire, stored: event.event.stored })
                    }
                    Decoded::Event(_) | Decoded::Tick | Decoded::Dead(_) => None,
                };
                reply.read(message.seq, wanted);
                if reply.is_complete() || bytes >= most {
                    break;
                }
            }
        }
        self.judge(request, reply).await
    }

    /// What may be said of what was read. The stream is looked at after the reading: sequences are those of its present
    /// life, and what it still keeps now it kept all the time.
    async fn judge(&self, request: &ReplayRequest, reply: Reply<Routed>) -> Result<Vec<Part<Routed>>, Refusal> {
        let facts = Facts::look(&self.setup.nats, &self.setup.decoder.stream).await.map_err(|error| {
            warn!(%error, "what was read for a replay proves nothing");
            Refusal::Unreadable
        })?;
        if facts.incarnation != request.incarnation {
            return Err(Refusal::OtherStream);
        }
        let parts = reply.finish(facts.least_floor());
        match &parts[..] {
            [Part::Refused(refusal)] => Err(*refusal),
            _ => Ok(parts),
        }
    }

    /// The interest to match against.
    async fn sought(&self, request: &ReplayRequest) -> Result<(Revision, Interest), Refusal> {
        match &request.interest {
            Sought::Carried(part) => Interest::assemble(vec![part.clone()]).ok_or(Refusal::Malformed),
            Sought::Told(least) => {
                let (answer, answered) = oneshot::channel();
                let inquiry = Inquiry { gateway: request.gateway.clone(), least: *least, answer };
                let inquire = async {
                    self.setup.inquiries.send(inquiry).await.ok()?;
                    answered.await.ok()?
                };
                timeout(INQUIRY_DEADLINE, inquire).await.ok().flatten().ok_or(Refusal::UnknownInterest)
            }
        }
    }

    async fn answer(&self, request: &ReplayRequest, reply: &Subject, parts: Vec<Part<Routed>>) {
        let most = self.setup.nats.client.max_payload().saturating_sub(ENVELOPE).min(CHUNK);
        let (mut messages, mut upto, mut removed): (Vec<Part<Bytes>>, Seq, bool) = (Vec::new(), request.from, false);
        for part in parts {
            match part {
                Part::Events(section) => {
                    upto = section.upto;
                    counter!("tickwire_router_replay_events_total").increment(section.events.len() as u64);
                    let bytes: usize = section.events.iter().map(|(_, event)| event.wire.len()).sum();
                    counter!("tickwire_router_replay_bytes_total").increment(bytes as u64);
                    messages.extend(pack::pack(vec![section], most).into_iter().flatten().map(Part::Events));
                }
                Part::Removed { partition, from, upto: end } => {
                    (upto, removed) = (end, true);
                    messages.push(Part::Removed { partition, from, upto: end });
                }
                Part::Refused(refusal) => messages.push(Part::Refused(refusal)),
            }
        }
        let outcome = match (removed, upto >= request.to) {
            (true, _) => "removed",
            (false, true) => "complete",
            (false, false) => "partial",
        };
        counter!("tickwire_router_replays_total", "outcome" => outcome).increment(1);
        let ReplayRequest { gateway, partition, from, to, incarnation, .. } = request;
        debug!(%gateway, %partition, %from, %to, %upto, outcome, "a replay was answered");
        let count = messages.len();
        for (at, part) in messages.into_iter().enumerate() {
            self.publish(reply, *incarnation, part, at + 1 == count).await;
        }
    }

    /// What cannot be published is asked for again.
    async fn publish(&self, reply: &Subject, incarnation: Incarnation, part: Part<Bytes>, last: bool) {
        let answer = ReplayAnswer { router: self.setup.me.clone(), incarnation, part, last };
        let bytes = match wire::encode(&answer) {
            Ok(bytes) => bytes,
            Err(error) => return warn!(%error, "an answer to a request for a replay cannot be encoded"),
        };
        let publish = self.setup.nats.client.publish(reply.clone(), bytes.into());
        if !matches!(timeout(PUBLISH_DEADLINE, publish).await, Ok(Ok(()))) {
            counter!("tickwire_router_replay_parts_lost_total").increment(1);
            debug!("a part of a replay was not published; it will be asked for again");
        }
    }
}
