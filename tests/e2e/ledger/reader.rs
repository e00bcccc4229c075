//! A client on a bare socket that runs during the whole test: it connects again after a break, resumes, and records
//! everything that it got.

use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{
    CaughtUp, Encoding, Gap, Heartbeat, Notice, ReceivedEvent, ServerMessage, Subscriptions,
};
use tickwire_testkit::eventually;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::cluster::Cluster;
use crate::oracle::End;
use crate::socket::{Ws, try_connect};

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long the clients may take at the end to get the last events.
pub(crate) const SETTLE: Duration = Duration::from_secs(60);

/// The longest pause before another attempt, in milliseconds.
const PAUSE_MS: u64 = 300;

/// How often a reader asks for its position at the end. Heartbeats have it too, but not often with default settings.
const ASKING: Duration = Duration::from_secs(1);

/// How long a slow reader waits after each message.
const SLOWNESS: Duration = Duration::from_millis(800);

/// The addresses of the gateways, as a load balancer knows them.
pub(crate) type Gateways = Arc<Mutex<Vec<SocketAddr>>>;

/// The properties of a reader.
#[derive(Debug, Clone)]
pub(crate) struct Nature {
    pub(crate) user: String,
    /// The query of its URL, which names the user.
    pub(crate) query: String,
    /// How long a connection may be silent.
    pub(crate) silence: Duration,
    pub(crate) filter: Value,
    pub(crate) encoding: Encoding,
    /// Whether it reads too slowly, until `hurry` is called.
    pub(crate) is_slow: bool,
    /// Whether the rate of its user may drop late events, so that it gets notices of drops.
    pub(crate) may_be_rate_limited: bool,
    /// How long after its start it connects.
    pub(crate) delay: Duration,
}

impl Nature {
    /// A reader that reads fast and connects at once.
    pub(crate) fn of(cluster: &Cluster, user: String, filter: Value, number: usize) -> Self {
        Self {
            query: cluster.query(&user),
            user,
            silence: cluster.silence(),
            filter,
            encoding: Encoding::ALL[number % 2],
            is_slow: false,
            may_be_rate_limited: false,
            delay: Duration::ZERO,
        }
    }
}

/// An event, whether it was `early`, and the number of the reader's session.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRecord {
    pub(crate) event: ReceivedEvent,
    pub(crate) is_early: bool,
    pub(crate) session: usize,
}

/// Everything that a reader got.
#[derive(Debug, Default)]
pub(crate) struct LedgerRecord {
    pub(crate) events: Vec<ReceivedRecord>,
    pub(crate) gaps: Vec<Gap>,
    /// The gateway of its last connection.
    pub(crate) gateway: String,
    /// The position of its first subscription.
    pub(crate) begin: Option<String>,
    /// The last position.
    pub(crate) position: Option<String>,
    /// All its sessions, in order.
    pub(crate) sessions: Vec<LedgerSession>,
    /// Resumes that were not complete.
    pub(crate) incomplete: u32,
    seen: BTreeMap<Partition, Seq>,
}

/// One session of a reader that was welcomed.
#[derive(Debug, Default)]
pub(crate) struct LedgerSession {
    /// Per partition, where it began: the reader had every event up to here, or a notice of it.
    pub(crate) begin: Vec<Seq>,
    /// The notices of the session.
    pub(crate) notices: Vec<Notice>,
    /// Whether its first request was answered, so that the gateway knows its position.
    is_placed: bool,
}

/// A running reader.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) nature: Nature,
    record: Arc<Mutex<LedgerRecord>>,
    hurry: Arc<AtomicBool>,
    asks: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn start(nature: Nature, gateways: Gateways, seed: u64) -> Self {
        let record = Arc::new(Mutex::new(LedgerRecord::default()));
        let hurry = Arc::new(AtomicBool::new(!nature.is_slow));
        let asks = Arc::new(AtomicBool::new(false));
        let task = ReaderTask {
            nature: nature.clone(),
            gateways,
            record: Arc::clone(&record),
            hurry: Arc::clone(&hurry),
            asks: Arc::clone(&asks),
            rng: StdRng::seed_from_u64(seed),
        };
        Self { nature, record, hurry, asks, task: tokio::spawn(task.run()) }
    }

    /// Reads the record so far.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&LedgerRecord) -> T) -> T {
        assert!(!self.task.is_finished(), "a reader has failed");
        at(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until it has received everything up to `end`.
    pub(crate) async fn reach(&self, end: &End, what: &str) {
        let has_reached =
            |position: &Option<String>| position.as_deref().is_some_and(|position| end.is_reached(position));
        eventually(what, SETTLE, async || self.look(|record| has_reached(&record.position)).then_some(())).await;
    }

    /// Makes it read as fast as it can, and ask for its position.
    pub(crate) fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
        self.asks.store(true, Ordering::Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct ReaderTask {
    nature: Nature,
    gateways: Gateways,
    record: Arc<Mutex<LedgerRecord>>,
    hurry: Arc<AtomicBool>,
    asks: Arc<AtomicBool>,
    rng: StdRng,
}

impl ReaderTask {
    async fn run(mut self) {
        sleep(self.nature.delay).await;
        loop {
            let known = self.gateways.lock().unwrap().clone();
            if let Some(gateway) = known.choose(&mut self.rng)
                && let Ok(Some(ws)) =
                    timeout(PATIENCE, try_connect(*gateway, &self.nature.query, self.nature.encoding)).await
            {
                self.session(ws).await;
            }
            sleep(Duration::from_millis(self.rng.random_range(0..PAUSE_MS))).await;
        }
    }

    /// Runs one connection until it ends.
    async fn session(&mut self, mut ws: Ws) -> Option<()> {
        let mut ask = interval(ASKING);
        let (mut has_opened, mut silent_since) = (false, Instant::now());
        loop {
            let message = tokio::select! {
                message = ws.next() => message?.ok()?,
                _ = ask.tick() => {
                    if silent_since.elapsed() > self.nature.silence {
                        return None;
                    }
                    if has_opened && self.asks.load(Ordering::Relaxed) {
                        ws.send(self.encode(&json!({ "action": "list", "id": 2 }))).await.ok()?;
                    }
                    continue;
                }
            };
            silent_since = Instant::now();
            let bytes = match message {
                Message::Text(text) => text.into(),
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return None,
                _ => continue,
            };
            let messages = ServerMessage::parse(&bytes, self.nature.encoding).unwrap();
            if matches!(messages.first(), Some(ServerMessage::Welcome(_))) {
                let frame = self.opening();
                ws.send(self.encode(&frame)).await.ok()?;
                has_opened = true;
            }
            self.record.lock().unwrap().take(messages)?;
            if !self.hurry.load(Ordering::Relaxed) {
                sleep(SLOWNESS).await;
            }
        }
    }

    fn encode(&self, frame: &Value) -> Message {
        match self.nature.encoding {
            Encoding::Json => Message::text(frame.to_string()),
            Encoding::MsgPack => Message::binary(rmp_serde::to_vec_named(frame).unwrap()),
        }
    }

    /// The first frame of a session.
    fn opening(&self) -> Value {
        let mut record = self.record.lock().unwrap();
        let begin = record.reached();
        record.sessions.push(LedgerSession { begin, ..LedgerSession::default() });
        let filter = &self.nature.filter;
        match &record.position {
            Some(position) if record.begin.is_some() => {
                let seen: BTreeMap<String, Seq> = record.seen.iter().map(|(p, seq)| (p.to_string(), *seq)).collect();
                let mine = json!({ "mine": { "filter": filter } });
                json!({ "action": "resume", "id": 1, "position": position, "seen": seen, "subscriptions": mine })
            }
            _ => json!({ "action": "subscribe", "id": 1, "name": "mine", "filter": filter }),
        }
    }
}

impl LedgerRecord {
    /// All notices.
    pub(crate) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.sessions.iter().flat_map(|session| &session.notices)
    }

    /// Per partition, up to where it has every event or a notice of it. Empty before the first subscription.
    fn reached(&self) -> Vec<Seq> {
        let mut seqs = self.position.as_ref().map_or_else(Vec::new, |text| text.parse::<Position>().unwrap().seqs);
        for (partition, seq) in &self.seen {
            let at = &mut seqs[usize::from(partition.0)];
            *at = (*at).max(*seq);
        }
        seqs
    }

    /// The current session, with its number.
    fn session(&mut self) -> (usize, &mut LedgerSession) {
        let number = self.sessions.len() - 1;
        (number, &mut self.sessions[number])
    }

    /// Records the messages of the server. Returns `None` if the connection must end.
    fn take(&mut self, messages: Vec<ServerMessage>) -> Option<()> {
        let is_early = messages.first() == Some(&ServerMessage::Early);
        for message in messages {
            match message {
                // Alerts that come again are no part of what the ledger counts.
                ServerMessage::Event(event) if event.again => {}
                ServerMessage::Notice(notice) if notice.code.starts_with("again_") => {}
                ServerMessage::Event(event) => {
                    if !is_early {
                        let seen = self.seen.entry(event.p).or_insert(event.seq);
                        *seen = event.seq.max(*seen);
                    }
                    let (session, _) = self.session();
                    self.events.push(ReceivedRecord { event: *event, is_early, session });
                }
                ServerMessage::Gap(gap) => self.gaps.push(gap),
                ServerMessage::Notice(notice) => self.session().1.notices.push(notice),
                ServerMessage::Subscribed(Subscriptions { position, .. }) => {
                    self.session().1.is_placed = true;
                    self.begin.get_or_insert_with(|| position.to_string());
                    self.position = Some(position.to_string());
                    if self.session().1.begin.is_empty() {
                        self.session().1.begin = self.reached();
                    }
                }
                ServerMessage::Subscriptions(Subscriptions { position, .. })
                | ServerMessage::Heartbeat(Heartbeat { position: Some(position) }) => {
                    self.position = Some(position.to_string());
                }
                ServerMessage::CaughtUp(CaughtUp { resumed, position, .. }) => {
                    self.session().1.is_placed = true;
                    self.incomplete += u32::from(!resumed);
                    self.position = Some(position.to_string());
                }
                // During an outage an answer may take longer than the first heartbeat.
                ServerMessage::Heartbeat(Heartbeat { position: None }) => {
                    assert!(
                        self.sessions.last().is_none_or(|session| !session.is_placed),
                        "a heartbeat without a position"
                    );
                }
                ServerMessage::Welcome(welcome) => self.gateway = welcome.gateway.to_string(),
                ServerMessage::Early | ServerMessage::Goaway(_) => {}
                ServerMessage::Error(error) if error.code == 503 => return None,
                other => panic!("not expected by a reader: {other:?}"),
            }
        }
        Some(())
    }
}
