//! Replays, a service of every router. A gateway that lacks a range of a partition sends a request. One router takes
//! it, reads the range from the stream again, and answers with the events that match the gateway's interest.
//!
//! ```text
//! tw.replay ──▶ queue ──▶ worker: find interest, read, decode, (rules,) match ──▶ tw.replayed.…
//!                            walk: is anything missing of what was read?
//! ```
//!
//! [`queue`] decides which requests are read next, and which of them together. [`pass`] decides how much is read at a
//! time, and what the answers may claim. Neither does I/O.
//!
//! * Live events go before replays. So replays run in a task of their own, a few at a time, at a bounded rate. They and
//!   the walker have their own connection to NATS: on the other one, live events would wait behind a megabyte of old
//!   ones.
//! * Repairs go before backfill, because a gap holds up the live events after it. Repairs start first, wait at the rate
//!   limit only for other repairs, and have one place reserved. They leave another place, and a part of the rate, to
//!   backfill.
//! * Replays share little with the live path: they ask the engine what a gateway wants, and share the walker with the
//!   intakes.
//! * Gateways take turns, those outside the view as one, and in a full queue the one with the most requests gives way.
//!   Its request is refused at once. It asks again, and another router may have room.
//! * Nothing about a request is kept after its answer. If the answer is lost, the gateway asks again.

pub(crate) mod pass;
pub(crate) mod queue;
pub(crate) mod replayed_event;
mod worker;

use crate::asker::Asker;
use crate::decode::Decoder;
use crate::interest::InterestInquiry;
use crate::metrics;
use crate::requests;
use crate::walk::Walker;
use async_nats::Subject;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use queue::{COLLECT_MS, Due, Queue, QueuedReplay, TOGETHER, WAITING};
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::View;
use tickwire_core::replay::{ReplayRefusal, ReplayRequest};
use tickwire_node::clock::Clock;
use tickwire_node::config::RouterConfig;
use tickwire_node::link::{LinkError, LinkSubscriber, NatsMessage};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::start::StartError;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use worker::Worker;

/// How many bytes of requests may wait to be looked at.
const REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// How long the server may take to handle the end of the subscriptions.
const UNSUBSCRIBE_DEADLINE: Duration = Duration::from_secs(1);

/// What the service needs.
#[derive(Debug)]
pub(crate) struct ReplaySetup {
    /// Shared with the walker alone.
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) config: RouterConfig,
    pub(crate) partitions: u16,
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) walker: Arc<Walker>,
    /// To the engine, which knows the interest of gateways.
    pub(crate) inquiries: mpsc::Sender<InterestInquiry>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

/// The service.
#[derive(Debug)]
pub(crate) struct ReplayService {
    /// The subscriptions to requests for any router, and for this one.
    requests: [LinkSubscriber; 2],
    queue: Queue<Subject>,
    worker: Worker,
}

/// A request, and the subject of its answer.
type Request = QueuedReplay<Subject>;

impl ReplayService {
    /// Takes requests from now on, with the other routers.
    pub(crate) async fn subscribe(setup: ReplaySetup) -> Result<Self, StartError> {
        let ReplaySetup { nats, me, .. } = &setup;
        let mine = names::replay_of(me.id.as_str(), &me.nonce.to_string());
        let failed = |subject: &str, error: LinkError| StartError::Part {
            part: "replays",
            reason: format!("cannot subscribe to {subject}: {error}"),
        };
        let any = nats.link.subscribe("replay_requests", names::REPLAY, Some(names::REPLAY_GROUP), REQUEST_BYTES);
        let any = any.map_err(|error| failed(names::REPLAY, error))?;
        let own = nats.link.subscribe("replay_requests", &mine, None, REQUEST_BYTES);
        let own = own.map_err(|error| failed(&mine, error))?;
        setup.nats.check().await?;
        let queue = Queue::new(setup.config.replays, TOGETHER);
        Ok(Self { requests: [any, own], queue, worker: Worker::new(setup) })
    }

    /// Runs until the drain, and finishes what has begun.
    pub(crate) async fn run(self, drain: CancellationToken, force: CancellationToken) {
        tokio::select! {
            () = force.cancelled() => {}
            () = self.work(drain) => {}
        }
    }

    async fn work(self, drain: CancellationToken) {
        let Self { mut requests, mut queue, worker } = self;
        let (clock, mut of_first, mut of_second) = (Clock::start(), Vec::new(), Vec::new());
        let mut running = FuturesUnordered::new();
        loop {
            while let Some(Due { requests, stale }) = queue.begin(clock.now()) {
                for QueuedReplay { reply, .. } in stale {
                    worker.refuse(&reply, ReplayRefusal::Busy).await;
                }
                if let Some(first) = requests.first() {
                    let purpose = first.request.purpose;
                    running.push(worker.serve(requests).map(move |left| (purpose, left)));
                }
            }
            // In turn: many requests for any router must not hold back those for this one, which gateways send when no
            // router has answered.
            requests.swap(0, 1);
            let [first, second] = &mut requests;
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                Some((purpose, left)) = running.next() => queue.ended(purpose, left),
                () = sleep(Duration::from_millis(COLLECT_MS)), if queue.is_collecting() => {}
                // Requests that a gateway sends together are taken together.
                count = first.next_many(&mut of_first, WAITING) => if count == 0 { break },
                count = second.next_many(&mut of_second, WAITING) => if count == 0 { break },
            }
            for (request, reply) in of_first.drain(..).chain(of_second.drain(..)).filter_map(|message| read(&message)) {
                let asker = Asker::of(&request.gateway, &worker.view());
                if let Some(QueuedReplay { reply, .. }) = queue.push(clock.now(), asker, request, reply) {
                    worker.refuse(&reply, ReplayRefusal::Busy).await;
                }
            }
        }
        drop(requests);
        if worker.flush(UNSUBSCRIBE_DEADLINE).await.is_err() {
            debug!("end of the subscriptions to replay requests not confirmed");
        }
        while let Some((purpose, left)) = running.next().await {
            queue.ended(purpose, left);
        }
        for QueuedReplay { reply, .. } in queue.drain() {
            worker.refuse(&reply, ReplayRefusal::Busy).await;
        }
        if let Err(error) = worker.close().await {
            debug!(%error, "last replay answers not flushed");
        }
    }
}

/// Reads a request. Counts it, and also if it is refused.
fn read(message: &NatsMessage) -> Option<(ReplayRequest, Subject)> {
    metrics::REPLAY_REQUESTS.increment(1);
    requests::read(message).inspect_err(|reason| metrics::REPLAYS_REFUSED.with(*reason).increment(1)).ok()
}
