//! The two sides of the ledger in containers: a producer with the login of producers, and clients of the Rust library
//! that connect through HAProxy.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tickwire_client::{Client, ClientConfig, Credentials, Encoding, Message, Messages, SubscribeOptions};
use tickwire_testkit::eventually;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::SETTLE;
use super::engine::Engine;
use crate::feed::pattern;
use crate::producer::Producer;

/// The symbols of the test. The demo events have others.
const SYMBOLS: usize = 8;

/// The time between two events: one symbol stays far below the rate of a user, even after an outage.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a token is valid: longer than the test.
const VALID_FOR: Duration = Duration::from_secs(3_600);

fn symbol(number: usize) -> String {
    format!("BOX{}", number % SYMBOLS)
}

/// Where clients connect, and what they need.
#[derive(Debug)]
pub(super) struct Front {
    port: u16,
    authority: PathBuf,
    secret: Vec<u8>,
}

impl Front {
    pub(super) async fn of(engine: &Engine) -> Self {
        let names = engine.names("haproxy").await;
        let [haproxy] = &names[..] else { panic!("there is one HAProxy, not {names:?}") };
        let secrets = engine.home.join("secrets");
        let secret = fs::read(secrets.join("jwt-secret")).unwrap();
        Self { port: engine.published(haproxy, "8443").await, authority: secrets.join("ca.pem"), secret }
    }

    /// The name of the gateway that serves `/g/<id>/…`.
    pub(super) async fn gateway_at(&self, id: &str) -> String {
        let (client, mut messages) = connect(&self.config("by name", &format!("/g/{id}"), 0)).await;
        let Some(Message::Connected { welcome }) = messages.recv().await else { panic!("not connected") };
        client.close().await;
        welcome.gateway.to_string()
    }

    /// Connects as this user once.
    pub(super) async fn visit(&self, user: &str) {
        let (client, _messages) = connect(&self.config(user, "", 0)).await;
        client.close().await;
    }

    fn config(&self, user: &str, prefix: &str, number: usize) -> ClientConfig {
        ClientConfig {
            tls_ca: Some(self.authority.clone()),
            credentials: Credentials::Token(self.token(user)),
            encoding: Encoding::ALL[number % 2],
            ..ClientConfig::new(format!("wss://localhost:{}{prefix}/v1/stream", self.port))
        }
    }

    pub(super) fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({ "sub": user, "iat": now, "exp": now + VALID_FOR.as_secs() });
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(&self.secret)).unwrap()
    }
}

/// What a client got.
#[derive(Debug, Default)]
struct Record {
    /// The numbers of its events, as they came.
    numbers: Vec<usize>,
    /// How often it was connected.
    sessions: usize,
    /// Whatever else means that something was not given.
    losses: Vec<String>,
}

/// A running client with its record.
#[derive(Debug)]
pub(super) struct LedgerClient {
    pub(super) number: usize,
    record: Arc<Mutex<Record>>,
    /// Its subscription ends with it.
    _client: Client,
    task: JoinHandle<()>,
}

impl LedgerClient {
    /// Connects, and returns when its subscription is confirmed.
    pub(super) async fn start(front: &Front, number: usize) -> Self {
        let config = front.config(&format!("user {number}"), "", number);
        let (client, messages) = connect(&config).await;
        let record = Arc::new(Mutex::new(Record::default()));
        let task = tokio::spawn(read(messages, Arc::clone(&record)));
        let filter = json!({ "symbols": [symbol(number)] });
        client.subscribe("mine", filter, SubscribeOptions::default()).await.unwrap();
        Self { number, record, _client: client, task }
    }

    fn look<T>(&self, at: impl FnOnce(&Record) -> T) -> T {
        assert!(!self.task.is_finished(), "client {} has ended", self.number);
        at(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn received(&self) -> usize {
        self.look(|record| record.numbers.len())
    }

    pub(super) fn sessions(&self) -> usize {
        self.look(|record| record.sessions)
    }

    /// Waits until it has as many events as it must have when `published` are published.
    pub(super) async fn reach(&self, published: usize, what: &str) {
        let due = self.due(published).len();
        eventually(what, SETTLE, async || (self.received() >= due).then_some(())).await;
    }

    /// Fails unless it has all of its events once and in order, and was never notified of a loss.
    pub(super) fn assert_exact(&self, published: usize) {
        self.look(|record| {
            assert_eq!(record.losses, Vec::<String>::new(), "client {}", self.number);
            assert_eq!(record.numbers, self.due(published), "client {}", self.number);
        });
    }

    /// The numbers of its events, in order.
    fn due(&self, published: usize) -> Vec<usize> {
        (0..published).filter(|number| symbol(*number) == symbol(self.number)).collect()
    }
}

impl Drop for LedgerClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects. HAProxy may not have seen yet that gateways are ready.
async fn connect(config: &ClientConfig) -> (Client, Messages) {
    eventually("a client connects", SETTLE, async || match Client::connect(config.clone()).await {
        Ok(connected) => Some(connected),
        Err(error) => {
            eprintln!("not connected: {error}");
            None
        }
    })
    .await
}

async fn read(mut messages: Messages, record: Arc<Mutex<Record>>) {
    while let Some(message) = messages.recv().await {
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        match &message {
            Message::Event(event) | Message::Alert(event) => {
                let number = event.data.get("number").and_then(serde_json::Value::as_u64);
                record.numbers.push(usize::try_from(number.unwrap()).unwrap());
                if event.conflated > 0 {
                    record.losses.push(format!("{event:?}"));
                }
            }
            Message::Connected { .. } => record.sessions += 1,
            Message::Notice(notice) if notice.dropped + notice.conflated == 0 => {}
            Message::Notice(_)
            | Message::Gap(_)
            | Message::Interrupted
            | Message::Resumed { complete: false }
            | Message::SubscriptionLost { .. }
            | Message::Refused(_)
            | Message::Unreadable { .. } => record.losses.push(format!("{message:?}")),
            _ => {}
        }
    }
}

/// Publishes one event after the other, each until it is acknowledged.
#[derive(Debug)]
pub(super) struct Publisher {
    stop: CancellationToken,
    published: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Logs in at the NATS of the cluster as a producer, and publishes.
    pub(super) async fn start(engine: &Engine) -> Self {
        let mut servers: Vec<async_nats::ServerAddr> = Vec::new();
        for service in ["nats-1", "nats-2", "nats-3"] {
            for name in engine.names(service).await {
                servers.push(format!("nats://{}:4222", engine.address(&name, "bus").await).parse().unwrap());
            }
        }
        let password = fs::read_to_string(engine.home.join("secrets/nats/producer.password")).unwrap();
        let login = async_nats::ConnectOptions::with_user_and_password("producer".to_owned(), password);
        let producer = Producer::new(login.connect(servers).await.unwrap());
        let (stop, published) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), Arc::clone(&published));
        let task = tokio::spawn(async move {
            let mut pace = interval(PAUSE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                let number = count.load(Ordering::Relaxed);
                let event = pattern(&symbol(number), number).id(format!("box-{number}"));
                pace.tick().await;
                // An unacknowledged event is published again; the stream recognises its id.
                while !producer.try_publish(&event).await {
                    pace.tick().await;
                }
                count.store(number + 1, Ordering::Relaxed);
            }
        });
        Self { stop, published, task }
    }

    /// How many events are in the stream.
    pub(super) fn published(&self) -> usize {
        self.published.load(Ordering::Relaxed)
    }

    /// Waits until `count` more events are in the stream.
    pub(super) async fn more(&self, count: usize) {
        let enough = self.published() + count;
        eventually("further events are published", SETTLE, async || (self.published() >= enough).then_some(())).await;
    }

    /// Stops, and returns how many were published.
    pub(super) async fn stop(self) -> usize {
        self.stop.cancel();
        self.task.await.unwrap();
        self.published.load(Ordering::Relaxed)
    }
}
