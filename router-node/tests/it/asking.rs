//! Asks routers for replays, as a gateway does.

use crate::cluster::SOON;
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tickwire_core::event::Event;
use tickwire_core::filter::Filter;
use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::interest::log::{Bounds, InterestLog};
use tickwire_core::placement::View;
use tickwire_core::replay::{Purpose, ReplayAnswer, ReplayInterest, ReplayPart, ReplayRefusal, ReplayRequest};
use tickwire_core::wire;
use tickwire_node::names::{self, StoredSubject};
use tickwire_node::nats::Nats;
use tickwire_testkit::eventually;
use tokio::time::{sleep, timeout};

/// The number of the next request.
static ASKS: AtomicU64 = AtomicU64::new(1);

/// One message of an answer.
type ReplayAnswers = ReplayAnswer<Bytes>;

fn node(name: &str) -> NodeRef {
    NodeRef { id: NodeId::new(name).unwrap(), nonce: Nonce(1) }
}

/// A request of a gateway with interest in every pattern, at revision 7, for `(from, to]` of the partition of `symbol`.
pub(crate) async fn request(nats: &Nats, symbol: &str, from: u64, to: u64) -> ReplayRequest {
    let mut stream = nats.jetstream.get_stream("EVENTS").await.unwrap();
    let created = stream.info().await.unwrap().created;
    let last = stream.get_last_raw_message_by_subject(&format!("ev.*.pattern.{symbol}")).await.unwrap();
    let StoredSubject::Event { partition, .. } = names::parse_stored(&last.subject) else { panic!("{last:?}") };
    let mut log = InterestLog::new(node("asker"), View::default(), 0, Bounds::default());
    log.add(&Arc::new(Filter::default()));
    log.cut(tickwire_core::ids::Millis(0)).unwrap();
    ReplayRequest {
        gateway: node("asker"),
        partition: Partition(u16::try_from(partition).unwrap()),
        from: Seq(from),
        to: Seq(to),
        epoch_id: EpochId(u64::try_from(created.unix_timestamp_nanos()).unwrap()),
        interest: ReplayInterest::of(&node("asker"), Revision(7), log.sent(), 10),
        purpose: Purpose::Repair,
    }
}

/// Asks any router, and returns all messages of the answer.
pub(crate) async fn ask(nats: &Nats, request: &ReplayRequest) -> Vec<ReplayAnswers> {
    ask_at(nats, names::REPLAY, request).await
}

/// Asks at this subject.
pub(crate) async fn ask_at(nats: &Nats, subject: &str, request: &ReplayRequest) -> Vec<ReplayAnswers> {
    let NodeRef { id, nonce } = &request.gateway;
    let inbox = names::replayed(id.as_str(), &nonce.to_string(), ASKS.fetch_add(1, Ordering::Relaxed));
    let mut answers = nats.client.subscribe(inbox.clone()).await.unwrap();
    let request = wire::encode(request).unwrap().into();
    nats.client.publish_with_reply(subject.to_owned(), inbox, request).await.unwrap();
    let mut all: Vec<ReplayAnswers> = Vec::new();
    while all.last().is_none_or(|answer| !answer.last) {
        let message = timeout(SOON, answers.next()).await.unwrap().unwrap();
        all.push(wire::decode(&message.payload).unwrap());
    }
    all
}

/// Asks any router, again while one says that it cannot answer at the moment, as a gateway does.
pub(crate) async fn ask_until_answered(nats: &Nats, request: &ReplayRequest) -> Vec<ReplayAnswers> {
    eventually("a router can answer", SOON, async || {
        let answers = ask(nats, request).await;
        let is_later = matches!(refusal(&answers), Some(ReplayRefusal::Busy | ReplayRefusal::Unreadable));
        (!is_later).then_some(answers)
    })
    .await
}

/// Why the answer is a refusal, if it is one.
pub(crate) fn refusal(answers: &[ReplayAnswers]) -> Option<ReplayRefusal> {
    match answers {
        [ReplayAnswer { part: ReplayPart::Refused(refusal), last: true, .. }] => Some(*refusal),
        _ => None,
    }
}

/// The ranges of an answer, and the ids of its events.
pub(crate) fn ranges_and_ids(answers: Vec<ReplayAnswers>) -> (Vec<(u64, u64)>, Vec<String>) {
    let (mut ranges, mut ids) = (Vec::new(), Vec::new());
    for answer in answers {
        let ReplayPart::Events(section) = answer.part else { panic!("{answer:?}") };
        assert_eq!(section.revision, Revision(7));
        ranges.push((section.prev.0, section.through.0));
        for (seq, bytes) in section.events {
            let event: Event = rmp_serde::from_slice(&bytes).unwrap();
            assert!(section.prev < seq && seq <= section.through);
            ids.push(event.id.to_string());
        }
    }
    (ranges, ids)
}

/// For a partition in which nothing (more) is stored there is no answer. Only after this time of such refusals is it
/// believed: a router that looks for a way past a message that no consumer delivers refuses as well, until it has found
/// one.
const NO_RESULT: Duration = Duration::from_secs(3);

/// How many such refusals there must be in a row, so that a slow machine asks as often as a fast one.
const NO_RESULTS: u32 = 60;

/// The pause after a request without a result.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the whole range was answered, and returns the ids of its events.
pub(crate) async fn read_all(nats: &Nats, mut next: ReplayRequest) -> Vec<String> {
    let (mut all, mut last_result, mut refusals) = (Vec::new(), Instant::now(), 0);
    while next.from < next.to && (last_result.elapsed() < NO_RESULT || refusals < NO_RESULTS) {
        let answers = ask(nats, &next).await;
        // It says nothing of the range.
        if matches!(refusal(&answers), Some(ReplayRefusal::Busy | ReplayRefusal::Unreadable)) {
            continue;
        }
        if refusal(&answers) == Some(ReplayRefusal::NotThere) {
            refusals += 1;
            sleep(PAUSE).await;
            continue;
        }
        (last_result, refusals) = (Instant::now(), 0);
        for answer in &answers {
            let ReplayPart::Events(section) = &answer.part else { panic!("{answer:?}") };
            assert_eq!(section.partition, next.partition);
        }
        let (ranges, ids) = ranges_and_ids(answers);
        for (prev, through) in ranges {
            assert_eq!(prev, next.from.0, "ranges are contiguous");
            next.from = Seq(through);
        }
        all.extend(ids);
    }
    all
}
