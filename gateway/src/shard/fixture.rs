//! A shard with real sockets and a clock that the test moves, for tests of timing.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tickwire_core::coverage::CoverageEvent;
use tickwire_core::event::{Event, Kinds, Timestamp};
use tickwire_core::ids::{Epoch, EpochId, Millis, NodeId, Partition, Seq, UserId};
use tickwire_core::protocol::Encoding;
use tickwire_node::clock::{monotonic, wall_clock};
use tickwire_node::config::{Config, LoadOptions, Secret};
use tickwire_testkit::blank_event;
use tokio::sync::Semaphore;

use super::{Clocks, Shard, ShardConfig};
use crate::auth::USUAL_WEIGHT;
use crate::auth::{Authenticator, Identity};
use crate::byte_queue;
use crate::byte_queue::ByteReceiver;
use crate::delivery::Delivery;
use crate::messages::{FromEdge, SharedCoverageEvents, ToEdge};
use crate::registry::SessionRegistry;
use crate::shard::session::SessionStage;
use crate::socket::{MessageReader, ReadRate, Ready, TcpSocket, frame};

/// How many partitions the stream has.
pub(super) const PARTITIONS: u16 = 3;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TEXT: u8 = 0x81;

/// How long the kernel may take to deliver to a client what was written.
const DEADLINE: Duration = Duration::from_secs(10);

/// A shard with the default configuration, and its clients. It needs a runtime.
pub(super) struct ShardFixture {
    pub(super) shard: Shard<TcpSocket>,
    pub(super) now: Millis,
    /// The clients by the numbers of their sessions.
    pub(super) clients: Vec<(u64, TcpStream)>,
    /// The sessions whose sockets are watched.
    watched: BTreeSet<u64>,
    listener: TcpListener,
    /// The requests of the shard.
    edge: ByteReceiver<ToEdge>,
    /// The last time that each session asked for.
    times: HashMap<u64, Timestamp>,
    stored: u64,
}

impl ShardFixture {
    /// A shard whose partitions have begun.
    pub(super) fn new() -> Self {
        let mut config = Config::load(&LoadOptions::default()).unwrap();
        config.auth.jwt_secret = Secret::new(SECRET);
        let (sender, edge) = byte_queue::channel();
        let settings = ShardConfig {
            gateway: NodeId::new("gateway-1").unwrap(),
            config: config.gateway.clone(),
            kinds: Arc::new(Kinds::default()),
            partitions: PARTITIONS,
            authenticator: Arc::new(Authenticator::new(&config.auth)),
            registry: Arc::new(SessionRegistry::new(1)),
            saved: Arc::default(),
            acks: tokio::sync::mpsc::channel(1).0,
            reminders: tokio::sync::mpsc::channel(1).0,
            clocks: Clocks { wall: wall_clock, monotonic },
            is_traced: false,
            seed: 0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shard = Shard::new(0, settings, sender);
        let mut fixture = Self {
            shard,
            now: Millis(7),
            clients: Vec::new(),
            watched: BTreeSet::new(),
            listener,
            edge,
            times: HashMap::new(),
            stored: 10,
        };
        let epoch = Epoch { epoch_id: EpochId(1), before: Seq(0) };
        let begin = (0..PARTITIONS).map(|p| CoverageEvent::Adopt { partition: Partition(p), at: Seq(10) });
        fixture.coverage_events([CoverageEvent::Reset { former: None, epoch }].into_iter().chain(begin));
        fixture
    }

    /// A client arrives, with a token that is valid for `token` seconds, or with none.
    pub(super) fn arrive(&mut self, token: Option<u64>) -> u64 {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (tcp, _) = self.listener.accept().unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
        let config = &self.shard.settings.config;
        let rate = ReadRate { frames: config.read_frames, bytes: config.read_bytes };
        let mut reader = MessageReader::new(&[], config.max_frame_bytes);
        reader.set_max_frame_bytes(config.max_frame_bytes);
        let identity = Identity {
            user: UserId::new("ann").unwrap(),
            plan: None,
            weight: USUAL_WEIGHT,
            expires: token.map(|seconds| wall_clock() + Duration::from_secs(seconds)),
        };
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let socket = TcpSocket::new(tcp, reader, rate, Encoding::Json).detach().unwrap();
        let before = self.shard.sessions.numbers(|_| true);
        self.shard.arrive(self.now, TcpSocket::attach(socket).unwrap(), identity, [127, 0, 0, 1].into(), place, true);
        let number = self.shard.sessions.numbers(|_| true).into_iter().find(|number| !before.contains(number));
        let number = number.unwrap();
        self.clients.push((number, client));
        number
    }

    /// A client arrives, and is welcomed.
    pub(super) async fn welcome(&mut self) -> u64 {
        let number = self.arrive(None);
        self.take(FromEdge::Confirmed(number));
        self.settle().await;
        number
    }

    /// Answers the last search of this session, if it made one, with `seq`.
    pub(super) fn found(&mut self, number: u64, seq: Option<Seq>) {
        let mut asked = Vec::new();
        while self.edge.take(&mut asked, usize::MAX).now_or_never().is_some_and(|taken| taken > 0) {}
        let times = asked.into_iter().filter_map(|asked| match asked {
            ToEdge::Find(session, time) => Some((session.number, time)),
            _ => None,
        });
        self.times.extend(times);
        if let Some(time) = self.times.get(&number) {
            self.take(FromEdge::Found(number, *time, seq));
        }
    }

    pub(super) fn take(&mut self, message: FromEdge) {
        self.shard.take(self.now, message);
    }

    /// The edge sends coverage events.
    pub(super) fn coverage_events(&mut self, coverage_events: impl IntoIterator<Item = CoverageEvent<Arc<Delivery>>>) {
        self.take(FromEdge::CoverageEvents(Arc::new(SharedCoverageEvents::new(coverage_events.into_iter().collect()))));
    }

    /// The edge sends `count` events of a partition.
    pub(super) fn events(&mut self, partition: u16, count: u64) {
        let seqs = self.stored + 1..=self.stored + count;
        let event = |seq: u64| Event { id: compact_str::format_compact!("{seq}"), ..blank_event() };
        self.deliver(partition, seqs.map(event).collect());
    }

    /// The edge sends these events of a partition.
    pub(super) fn deliver(&mut self, partition: u16, events: Vec<Event>) {
        let (partition, from) = (Partition(partition), Seq(self.stored));
        self.stored += events.len() as u64;
        let events = (from.0 + 1..).map(Seq).zip(events);
        let events =
            events.map(|(seq, event)| (seq, Arc::new(Delivery::new(event, partition, seq).of_bytes(200)))).collect();
        self.coverage_events([CoverageEvent::Apply { partition, from, through: Seq(self.stored), events }]);
    }

    /// A client sends a frame.
    pub(super) fn send_frame(&mut self, number: u64, content: &Value) {
        self.send(number, &frame(TEXT, content.to_string().as_bytes()));
    }

    /// A client sends bytes, unless it has left or its socket is full.
    pub(super) fn send(&mut self, number: u64, bytes: &[u8]) {
        if let Some((_, client)) = self.clients.iter_mut().find(|(of, _)| *of == number) {
            client.set_nonblocking(true).unwrap();
            client.write_all(bytes).ok();
        }
    }

    /// Reads what a client receives, until it contains `what`. Returns it.
    pub(super) fn read_until(&mut self, number: u64, what: &str) -> String {
        let (_, client) = self.clients.iter_mut().find(|(of, _)| *of == number).unwrap();
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let (mut received, mut buffer) = (String::new(), [0; 4096]);
        while !received.contains(what) {
            let count = client.read(&mut buffer).unwrap_or_else(|error| panic!("{error} after {received:?}"));
            received += &String::from_utf8_lossy(&buffer[..count]);
        }
        received
    }

    /// An `auth` frame with a new token, valid for `seconds`.
    pub(super) fn token(seconds: u64) -> Value {
        let claims = json!({ "sub": "ann", "exp": (wall_clock() + Duration::from_secs(seconds)).as_secs() });
        let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()));
        json!({ "action": "auth", "token": token.unwrap() })
    }

    /// Does what is due, as the thread of the shard does.
    pub(super) fn turn(&mut self) {
        if self.shard.next_turn() <= self.now {
            self.shard.turn(self.now);
        }
    }

    /// Serves the sockets that are ready.
    pub(super) async fn settle(&mut self) {
        for _ in 0..3 {
            // The runtime polls its sockets when it has nothing else to do.
            tokio::task::yield_now().await;
            self.watched.extend(self.shard.take_to_watch());
            for number in self.watched.clone() {
                let ready = poll_fn(|cx| Poll::Ready(self.shard.poll_ready(cx, number))).await;
                match ready {
                    Poll::Ready(Some(Ready::Readable)) => self.shard.readable(number),
                    Poll::Ready(Some(Ready::Writable)) => self.shard.writable(self.now, number),
                    Poll::Ready(Some(Ready::Broken)) => self.shard.gone(self.now, number),
                    Poll::Ready(None) => drop(self.watched.remove(&number)),
                    Poll::Pending => {}
                }
            }
            self.shard.read_sockets(self.now);
            self.shard.process(self.now);
        }
    }

    /// The stage of a session; `None` if it is gone.
    pub(super) fn stage(&self, number: u64) -> Option<SessionStage> {
        self.shard.sessions.get(number).map(|session| session.stage)
    }
}
