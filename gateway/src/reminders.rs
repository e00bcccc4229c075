//! Reminders: alerts that a user has not acknowledged come again at the next connect. A session asks for them and does
//! not wait; one task reads them, and answers. No event meets it.
//!
//! * `reading` decides what is asked for and kept of the alerts of a user, and `in_session` what of that comes again to
//!   a session (`shard/reminders.rs`);
//! * `users` says whose alerts are read, and for which sessions;
//! * this task reads: the last alert of the user, which for most users ends the reading; then the record of the
//!   acknowledgements; then the alerts, which a router reads, since only routers apply rules.
//!
//! A user has one reading at a time, for all sessions that have asked before it began. A few users are read at the same
//! time, so that a crowd that connects at once does not flood NATS: the others wait.

pub(crate) mod in_session;
pub(crate) mod reading;
pub(crate) mod users;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use compact_str::CompactString;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tickwire_core::alerts::{AlertsAnswer, AlertsPage, AlertsRequest};
use tickwire_core::event::{Event, Kind, Timestamp, key};
use tickwire_core::ids::{EpochId, NodeRef, Partition, Seq, UserId};
use tickwire_core::wire;
use tickwire_node::bucket::Bucket;
use tickwire_node::clock::{millis, timestamp_now};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::stored::{self, MessageSelector};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::acks::record::AckRecord;
use crate::byte_queue::ByteSender;
use crate::delivery::Delivery;
use crate::messages::{SessionId, ToShard};
use crate::metrics;
use crate::reminders::reading::{NextPage, ReadPage, ReminderLimits, UserReading};
use crate::reminders::users::{EndedReading, ReadUsers};

/// How long the reading of a user may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// How long a router may take for a page.
pub(crate) const PAGE_DEADLINE: Duration = Duration::from_secs(2);

/// How many pages are asked for of one user, those of a server that lags included, before only the newest alerts are
/// looked for. A page has up to 200 alerts, acknowledged ones included.
pub(crate) const PAGES: usize = 32;

/// How many more are read of a user who has more alerts than that, to find the newest.
pub(crate) const SEARCH_PAGES: usize = 32;

/// The pause before a server that lags is read again, or another router is asked.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// How many bytes of an answer may wait: no more than one answer has.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A session asks for the unacknowledged alerts of its user. It asks again only after the answer.
#[derive(Debug)]
pub(crate) struct ReminderRequest {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
}

/// The answer for a session.
#[derive(Debug)]
pub struct ReminderAnswer {
    /// The number of the session in its shard.
    pub(crate) session: u64,
    pub(crate) result: ReadResult,
}

impl ReminderAnswer {
    /// Approximate memory beyond its own size, in bytes. Sessions of a user share the alerts.
    pub(crate) fn memory(&self) -> usize {
        self.result.as_ref().map_or(0, |unacked| unacked.alerts.iter().map(|alert| alert.memory()).sum())
    }
}

/// What was read for a user.
pub(crate) type ReadResult = Result<Arc<UnackedAlerts>, ReadFailure>;

/// The unacknowledged alerts of a user, of the window.
#[derive(Debug, Default)]
pub(crate) struct UnackedAlerts {
    /// The epoch of their sequences.
    pub(crate) epoch_id: EpochId,
    /// The newest ones, in order.
    pub(crate) alerts: Vec<Arc<Delivery>>,
    /// At least how many older ones there are, or may be.
    pub(crate) cut: usize,
}

/// Why alerts could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    /// NATS or the routers do not answer, or a new epoch has begun.
    Unavailable,
}

impl ReadFailure {
    /// The text for people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Unavailable => "the cluster did not give them in time",
        }
    }
}

/// What the task works with.
#[derive(Debug)]
pub(crate) struct ReminderSetup {
    pub(crate) nats: Nats,
    pub(crate) me: NodeRef,
    /// The stream of events.
    pub(crate) stream: String,
    pub(crate) partitions: u16,
    pub(crate) acks: Bucket,
    /// How old an alert may be.
    pub(crate) window: Duration,
    pub(crate) limits: ReminderLimits,
    pub(crate) shards: Vec<ByteSender<ToShard>>,
}

/// Reads what sessions ask for.
#[derive(Debug)]
pub(crate) struct ReminderReader {
    setup: ReminderSetup,
    /// The number of the next request to a router. The first one is random: whoever could guess a number could have a
    /// router answer another request in its place.
    asks: AtomicU64,
}

/// Where the alerts of a user are.
#[derive(Debug)]
struct AlertPlace {
    partition: Partition,
    subject: String,
    /// The key of the user's record of acknowledgements.
    key: CompactString,
}

impl ReminderReader {
    pub(crate) fn new(setup: ReminderSetup) -> Self {
        Self { setup, asks: AtomicU64::new(rand::random()) }
    }

    /// Serves requests until the drain.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<ReminderRequest>, drain: CancellationToken) {
        let mut users = ReadUsers::default();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                Some((user, result)) = running.next() => {
                    let EndedReading { served, is_next } = users.end(&user);
                    self.answer(&served, &result);
                    if is_next {
                        running.push(self.read_for(user));
                    }
                }
                request = requests.recv(), if users.have_room() => {
                    let Some(request) = request else { return };
                    if let Some(user) = users.ask(request) {
                        running.push(self.read_for(user));
                    }
                }
            }
        }
    }

    fn answer(&self, sessions: &[SessionId], result: &ReadResult) {
        for session in sessions {
            if let Some(shard) = self.setup.shards.get(usize::from(session.shard)) {
                shard.send(ToShard::Reminders(ReminderAnswer { session: session.number, result: result.clone() }));
            }
        }
    }

    /// Reads the alerts of a user, within the deadline.
    async fn read_for(&self, user: UserId) -> (UserId, ReadResult) {
        let begun = Instant::now();
        let read = timeout(DEADLINE, self.read(&user)).await;
        let read = read.unwrap_or_else(|late| Err(unavailable(&late)));
        let outcome = match &read {
            Ok(unacked) if unacked.alerts.is_empty() => "none",
            Ok(_) => "some",
            Err(_) => "failed",
        };
        metrics::REMINDER_READINGS.with(outcome).increment(1);
        metrics::REMINDER_SECONDS.record(begun.elapsed().as_secs_f64());
        (user, read.map(Arc::new))
    }

    async fn read(&self, user: &UserId) -> Result<UnackedAlerts, ReadFailure> {
        let place = self.place(user);
        let since = Timestamp(timestamp_now().0.saturating_sub_unsigned(millis(self.setup.window)));
        let Some(last) = self.last(&place, since).await? else { return Ok(UnackedAlerts::default()) };
        let (of, record) = ((self.setup.me.clone(), user.clone()), self.record(&place).await?);
        let mut reading = UserReading::new(of, since, last, &record, self.setup.limits);
        for asked in 0..PAGES + SEARCH_PAGES {
            if asked == PAGES {
                debug!(%user, "too many alerts to read them all");
                reading.search_newest();
            }
            let page = self.page(reading.request(), place.partition).await?;
            match reading.take(page) {
                NextPage::Ask => {}
                NextPage::Nothing => return Ok(reading.finish()),
                NextPage::AskLater => {
                    sleep(PAUSE).await;
                    match self.last(&place, since).await? {
                        Some(last) => reading.set_last(last),
                        None => return Ok(reading.finish()),
                    }
                }
                NextPage::OtherEpoch => return Err(unavailable(&"a new epoch has begun")),
            }
        }
        Ok(reading.finish())
    }

    fn place(&self, user: &UserId) -> AlertPlace {
        let key = key::encode(user.as_str());
        let (number, subject) = names::alerts_of(self.setup.partitions.into(), &key);
        AlertPlace { partition: Partition(u16::try_from(number).unwrap_or(u16::MAX)), subject, key }
    }

    /// The last alert of a user, if it was stored at `since` or later. The leader of the stream is asked, so none is
    /// missed that a client could have got.
    async fn last(&self, place: &AlertPlace, since: Timestamp) -> Result<Option<Seq>, ReadFailure> {
        let ReminderSetup { nats, stream, .. } = &self.setup;
        let found = stored::get(&nats.jetstream, stream, MessageSelector::LastOf(&place.subject)).await;
        let found = found.map_err(|error| unavailable(&error))?;
        Ok(found.filter(|last| Timestamp(last.stored) >= since).map(|last| last.seq))
    }

    /// What a user has acknowledged. A record that cannot be read has nothing: somebody else has written it.
    async fn record(&self, place: &AlertPlace) -> Result<AckRecord, ReadFailure> {
        let entry = self.setup.acks.entry_of(&place.key).await.map_err(|error| unavailable(&error))?;
        let read = entry.map(|entry| AckRecord::read(&entry.value)).transpose();
        Ok(read.inspect_err(|error| debug!(%error, "unreadable record of a user")).ok().flatten().unwrap_or_default())
    }

    /// Gets a page. A router that has just stopped may have taken the request, so it is repeated once.
    async fn page(&self, request: &AlertsRequest, partition: Partition) -> Result<ReadPage, ReadFailure> {
        match self.ask(request, partition).await {
            Ok(page) => Ok(page),
            Err(_) => {
                sleep(PAUSE).await;
                self.ask(request, partition).await
            }
        }
    }

    /// Asks any router for a page.
    async fn ask(&self, request: &AlertsRequest, partition: Partition) -> Result<ReadPage, ReadFailure> {
        let ReminderSetup { nats, me, .. } = &self.setup;
        let ask = self.asks.fetch_add(1, Ordering::Relaxed);
        let subject = names::alerts_answer(me.id.as_str(), &me.nonce.to_string(), ask);
        let encoded = wire::encode(request).map_err(|error| unavailable(&error))?;
        let answers = nats.link.subscribe("alert_answers", &subject, None, ANSWER_BYTES);
        let mut answers = answers.map_err(|error| unavailable(&error))?;
        nats.link.publish(names::ALERTS, Some(&subject), &encoded).map_err(|error| unavailable(&error))?;
        let answer = timeout(PAGE_DEADLINE, answers.next()).await.map_err(|late| unavailable(&late))?;
        let answer = answer.ok_or_else(|| unavailable(&"the connection was closed"))?;
        // If no router listens, the server answers without a payload.
        match wire::decode(answer.payload()).map_err(|error| unavailable(&error))? {
            AlertsAnswer::Page(page) => decode_page(page, &request.user, partition),
            AlertsAnswer::Failed => Err(unavailable(&"a router could not read the stream")),
        }
    }
}

/// Decodes the alerts of a page. The audience is checked here too, as the index does for other events.
pub(crate) fn decode_page(
    page: AlertsPage<Bytes>,
    user: &UserId,
    partition: Partition,
) -> Result<ReadPage, ReadFailure> {
    let AlertsPage { epoch_id, through, alerts } = page;
    let decode = |(seq, bytes): (Seq, Bytes)| {
        let event: Event = wire::decode_part(&bytes).map_err(|error| unavailable(&error))?;
        if event.kind != Kind::Alert || !event.audience.admits(user) {
            return Err(unavailable(&"an event that is no alert to this user"));
        }
        Ok(Arc::new(Delivery::new(event, partition, seq).of_bytes(bytes.len())))
    };
    Ok(ReadPage { epoch_id, through, alerts: alerts.into_iter().map(decode).collect::<Result<_, _>>()? })
}

fn unavailable(error: &dyn Display) -> ReadFailure {
    debug!(%error, "alerts not read that may come again");
    ReadFailure::Unavailable
}
