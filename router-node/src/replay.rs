//! Replays, a service of every router: a gateway that misses a range of a partition asks, one router of all takes the
//! request, reads that range from the stream again, and answers it.
//!
//! ```text
//! tw.replay ──▶ waiting ──▶ worker: sought interest, read, decode, (rules,) match ──▶ tw.replayed.…
//!                              walk: is anything missing of what was read?
//! ```
//!
//! What is live comes first, and of replays those that repair it: they are begun first, wait for no others at the pace,
//! and one of the places is theirs. Replays run in a task of their own, a few at a time, at a bounded rate, over a
//! connection that they share with the walker alone: what is live would queue behind a megabyte of the past. With the
//! engine they share nothing but its word on what a gateway wants; with intakes that are late, the walker. What is too
//! much is refused at once: the gateway asks again, and may find another router. Nothing here is remembered; an answer
//! that is lost is asked for again.

mod found;
mod worker;

use crate::decode::Decoder;
use crate::interest::InterestInquiry;
use crate::metrics;
use crate::walk::Walker;
use async_nats::Subject;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tickwire_core::ids::NodeRef;
use tickwire_core::placement::View;
use tickwire_core::replay::{ReplayRefusal, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::config::RouterConfig;
use tickwire_node::link::{LinkError, NatsMessage, Subscriber};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::start::StartError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use worker::Worker;

/// How many requests may wait. Beyond that they are refused.
const WAITING: usize = 64;

/// How many bytes of requests may wait to be looked at.
const REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// So many requests beside the first are read in one pass, if they begin at most so many sequences before or behind it.
/// What the pass does not come to waits for the next, and nobody for what begins much earlier.
const TOGETHER: usize = 15;
const BEFORE: u64 = 2_000;
const BEHIND: u64 = 16_384;

/// A request for a range that is longer than this waits for so long for those that are asked for with it: a gateway asks
/// for one partition after the other, and one pass for all is cheaper by far.
const LONG: u64 = 1_000;
const GATHER: Duration = Duration::from_millis(10);

/// A request that has waited for so long is refused: its gateway is about to ask another router.
const STALE: Duration = Duration::from_secs(1);

/// How long it may take to tell the server that no more requests are taken.
const UNSUBSCRIBE_DEADLINE: Duration = Duration::from_secs(1);

/// What the service is given.
#[derive(Debug)]
pub(crate) struct ReplaySetup {
    /// Shared with the walker alone.
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    pub(crate) config: RouterConfig,
    pub(crate) partitions: u16,
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) walker: Arc<Walker>,
    /// To the engine, which knows what gateways want.
    pub(crate) inquiries: mpsc::Sender<InterestInquiry>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

/// The service.
#[derive(Debug)]
pub(crate) struct ReplayService {
    /// To any router, and to this one.
    requests: [Subscriber; 2],
    waiting: VecDeque<QueuedReplay>,
    /// How many passes may run, one of which is a repair's.
    at_once: usize,
    worker: Worker,
}

#[derive(Debug)]
struct QueuedReplay {
    since: Instant,
    request: ReplayRequest,
    reply: Subject,
    /// Whether a pass came beyond its begin and found nothing for it: then its partition is read by itself.
    is_sparse: bool,
}

impl QueuedReplay {
    fn is_repair(&self) -> bool {
        self.request.purpose.is_repair()
    }
}

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
        let at_once = setup.config.replays;
        Ok(Self { requests: [any, own], waiting: VecDeque::new(), at_once, worker: Worker::new(setup) })
    }

    /// Runs until the drain, and finishes what has begun.
    pub(crate) async fn run(self, drain: CancellationToken, force: CancellationToken) {
        tokio::select! {
            () = force.cancelled() => {}
            () = self.work(drain) => {}
        }
    }

    async fn work(self, drain: CancellationToken) {
        let Self { requests: [mut any, mut own], mut waiting, at_once, worker } = self;
        let (mut for_any, mut for_own) = (Vec::new(), Vec::new());
        let mut running = FuturesUnordered::new();
        loop {
            while let Some(first) = take_due(&mut waiting, running.len(), at_once) {
                let together = with_mates(first, &mut waiting);
                let (fresh, stale): (Vec<_>, Vec<_>) =
                    together.into_iter().partition(|waiting| waiting.since.elapsed() < STALE);
                for QueuedReplay { reply, .. } in stale {
                    worker.refuse(&reply, ReplayRefusal::Busy).await;
                }
                if !fresh.is_empty() {
                    running.push(worker.serve(fresh));
                }
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                Some(left) = running.next() => left.into_iter().rev().for_each(|one| waiting.push_front(one)),
                () = sleep(GATHER), if running.len() < at_once && !waiting.is_empty() => {}
                // What a gateway asks for at once is read at once.
                count = any.next_many(&mut for_any, WAITING) => if count == 0 { break },
                count = own.next_many(&mut for_own, WAITING) => if count == 0 { break },
            }
            for request in for_any.drain(..).chain(for_own.drain(..)).filter_map(|message| read(&message)) {
                if let Some(QueuedReplay { reply, .. }) = queue(&mut waiting, request) {
                    worker.refuse(&reply, ReplayRefusal::Busy).await;
                }
            }
        }
        drop((any, own));
        if worker.flush(UNSUBSCRIBE_DEADLINE).await.is_err() {
            debug!("requests for replays may still come; their gateways will ask again");
        }
        while let Some(left) = running.next().await {
            waiting.extend(left);
        }
        for QueuedReplay { reply, .. } in waiting {
            worker.refuse(&reply, ReplayRefusal::Busy).await;
        }
        if let Err(error) = worker.close().await {
            debug!(%error, "the last answers may be lost; their gateways will ask again");
        }
    }
}

/// Takes in a request, and returns the one that finds no room: of those that repair nothing the last, if there is any.
fn queue(waiting: &mut VecDeque<QueuedReplay>, request: QueuedReplay) -> Option<QueuedReplay> {
    if waiting.len() < WAITING {
        waiting.push_back(request);
        return None;
    }
    let last = waiting.iter().rposition(|other| !other.is_repair()).filter(|_| request.is_repair());
    let Some(removed) = last.and_then(|at| waiting.remove(at)) else { return Some(request) };
    waiting.push_back(request);
    Some(removed)
}

/// The first request that need not wait for others, while so many passes run: a repair if there is one.
fn take_due(waiting: &mut VecDeque<QueuedReplay>, running: usize, at_once: usize) -> Option<QueuedReplay> {
    let is_due = |waiting: &QueuedReplay| {
        let ReplayRequest { from, to, .. } = &waiting.request;
        to.0.saturating_sub(from.0) <= LONG || waiting.since.elapsed() >= GATHER
    };
    let others = at_once.saturating_sub(1).max(1);
    let repair = || waiting.iter().position(|waiting| waiting.is_repair() && is_due(waiting));
    let other = || waiting.iter().position(|waiting| !waiting.is_repair() && is_due(waiting));
    let at = repair().filter(|_| running < at_once).or_else(|| other().filter(|_| running < others))?;
    waiting.remove(at)
}

/// The request with those that are read in the same pass, if there are enough of them: those that begin near it.
fn with_mates(first: QueuedReplay, waiting: &mut VecDeque<QueuedReplay>) -> Vec<QueuedReplay> {
    let begin = first.request.from.0;
    let near = begin.saturating_sub(BEFORE)..=begin.saturating_add(BEHIND);
    let purpose = first.request.purpose;
    let is_mate = |other: &QueuedReplay| !other.is_sparse && other.request.purpose == purpose;
    let is_near = |other: &QueuedReplay| is_mate(other) && near.contains(&other.request.from.0);
    let is_sparse = first.is_sparse;
    let mut together = vec![first];
    if !is_sparse && waiting.iter().filter(|other| is_near(other)).count() >= TOGETHER {
        let (near, far): (VecDeque<_>, VecDeque<_>) = waiting.drain(..).partition(is_near);
        together.extend(near);
        *waiting = far;
    }
    together
}

/// Reads a request. One that cannot be read is refused without an answer: its sender may not be able to read ours. And so
/// is one whose answer would not go to where its gateway listens: a router may publish where its asker may not.
fn read(message: &NatsMessage) -> Option<QueuedReplay> {
    metrics::REPLAY_REQUESTS.increment(1);
    let refused = |reason: &'static str| {
        metrics::REPLAYS_REFUSED.with(reason).increment(1);
        None
    };
    let request: ReplayRequest = match wire::decode(message.payload()) {
        Ok(request) => request,
        Err(error) => {
            debug!(%error, "a request for a replay was refused");
            return refused("unreadable_request");
        }
    };
    match std::str::from_utf8(message.reply()?) {
        Ok(reply) if is_gateways(&request.gateway, reply) => {
            Some(QueuedReplay { since: Instant::now(), request, reply: Subject::from(reply), is_sparse: false })
        }
        _ => refused("strange_reply"),
    }
}

/// Whether answers to this gateway go there.
fn is_gateways(gateway: &NodeRef, reply: &str) -> bool {
    let ask = names::parse_replayed(reply);
    ask.is_some_and(|ask| names::replayed(gateway.id.as_str(), &gateway.nonce.to_string(), ask) == reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::ids::{EpochId, NodeId, Nonce, Partition, Revision, Seq};
    use tickwire_core::replay::{Purpose, ReplayInterest};

    fn waiting(from: u64, is_sparse: bool) -> QueuedReplay {
        let request = ReplayRequest {
            gateway: NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) },
            partition: Partition(0),
            from: Seq(from),
            to: Seq(from + 50_000),
            epoch_id: EpochId(1),
            interest: ReplayInterest::Told(Revision(1)),
            purpose: Purpose::Repair,
        };
        QueuedReplay { since: Instant::now(), request, reply: Subject::from_static("reply"), is_sparse }
    }

    /// Where the requests begin that are read with one that begins at 10,000.
    fn mates(first_is_sparse: bool, others: impl IntoIterator<Item = QueuedReplay>) -> Vec<u64> {
        let mut others = others.into_iter().collect();
        let together = with_mates(waiting(10_000, first_is_sparse), &mut others);
        together.iter().skip(1).map(|mate| mate.request.from.0).collect()
    }

    #[test]
    fn answers_go_to_where_the_gateway_listens_and_nowhere_else() {
        let gateway = NodeRef { id: NodeId::new("g").unwrap(), nonce: Nonce(1) };
        let nonce = gateway.nonce.to_string();
        assert!(is_gateways(&gateway, &names::replayed("g", &nonce, 7)));
        let others = [
            names::replayed("other", &nonce, 7),
            names::replayed("g", "0000000000000002", 7),
            names::lease_key(3),
            "$KV.TICKWIRE_LEASES.p.3".to_owned(),
            "$JS.API.STREAM.PURGE.EVENTS".to_owned(),
            "events.pattern.AAPL".to_owned(),
            format!("tw.replayed.g.{nonce}.>"),
            format!("tw.replayed.g.{nonce}.7\rx"),
            "_INBOX.x".to_owned(),
        ];
        for other in others {
            assert!(!is_gateways(&gateway, &other), "{other}");
        }
    }

    #[test]
    fn what_begins_near_is_read_together_and_what_a_pass_found_nothing_for_alone() {
        let near = || (0..TOGETHER as u64).map(|number| waiting(10_000 + number, false));
        let begins: Vec<u64> = (0..TOGETHER as u64).map(|number| 10_000 + number).collect();
        assert_eq!(mates(false, near()), begins);
        assert_eq!(mates(false, near().skip(1)), [0; 0], "too few");
        assert_eq!(mates(true, near()), [0; 0]);
        let strangers = [waiting(10_001, true), waiting(7_999, false), waiting(26_385, false)];
        assert_eq!(mates(false, near().chain(strangers)), begins);
        let just = [waiting(8_000, false), waiting(26_384, false)];
        assert_eq!(mates(false, near().chain(just)).len(), TOGETHER + 2);
    }

    fn catch_up(from: u64) -> QueuedReplay {
        let mut waiting = waiting(from, false);
        waiting.request.purpose = Purpose::CatchUp;
        waiting
    }

    fn begins(waiting: &VecDeque<QueuedReplay>) -> Vec<u64> {
        waiting.iter().map(|waiting| waiting.request.from.0).collect()
    }

    #[test]
    fn a_repair_finds_room_where_others_do_not_and_takes_it_from_the_last_of_them() {
        let mut all: VecDeque<QueuedReplay> = (0..WAITING as u64 - 1).map(catch_up).collect();
        assert!(queue(&mut all, waiting(500, false)).is_none());
        let refused =
            |all: &mut VecDeque<QueuedReplay>, request| queue(all, request).map(|refused| refused.request.from.0);
        assert_eq!(refused(&mut all, catch_up(600)), Some(600));
        assert_eq!(refused(&mut all, waiting(700, false)), Some(WAITING as u64 - 2));
        assert_eq!((begins(&all)[WAITING - 2], begins(&all)[WAITING - 1], all.len()), (500, 700, WAITING));
        let mut repairs: VecDeque<QueuedReplay> = (0..WAITING as u64).map(|from| waiting(from, false)).collect();
        assert_eq!(refused(&mut repairs, waiting(700, false)), Some(700));
    }

    #[test]
    fn a_repair_is_begun_first_and_has_a_place_that_others_do_not_take() {
        let short = |mut waiting: QueuedReplay| {
            waiting.request.to = Seq(waiting.request.from.0 + 1);
            waiting
        };
        let mut all: VecDeque<QueuedReplay> = [catch_up(1), catch_up(2), waiting(3, false)].map(short).into();
        let due = |all: &mut VecDeque<QueuedReplay>, running| take_due(all, running, 4).map(|due| due.request.from.0);
        assert_eq!(due(&mut all, 4), None);
        assert_eq!(due(&mut all, 3), Some(3));
        assert_eq!(due(&mut all, 3), None);
        assert_eq!([due(&mut all, 2), due(&mut all, 0)], [Some(1), Some(2)]);
        all.push_back(short(catch_up(4)));
        assert_eq!(take_due(&mut all, 0, 1).map(|due| due.request.from.0), Some(4), "where there is one place alone");
        let near = (0..TOGETHER as u64).map(|number| catch_up(10_000 + number));
        assert_eq!(mates(false, near), [0; 0], "a pass for a repair reads for no others");
    }
}
