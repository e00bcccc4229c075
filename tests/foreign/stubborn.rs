//! A producer that publishes an unacknowledged event again, with the same message id, so that each counted event is in
//! the stream once. And a client that compares the events that it receives with that.

use async_nats::jetstream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tickwire_core::ids::UserId;
use tickwire_core::placement::View;
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_core::protocol::{Encoding, Gap, Notice, ReceivedEvent};
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::node::DEADLINE;
use crate::producer::{Producer, ProducerMessage};
use crate::socket::Socket;

/// The time between two events: well below the default rate.
const PAUSE: Duration = Duration::from_millis(25);

/// How long one acknowledgement may take before the event is published again.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the client waits for new events before it expects a heartbeat.
const QUIET: Duration = Duration::from_secs(5);

/// The number of symbols, so that events are spread over partitions.
const SYMBOLS: usize = 97;

/// The producer.
pub(crate) struct Stubborn {
    stop: CancellationToken,
    acknowledged: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Stubborn {
    /// Starts with event `first`. Each event contains the time of its first publish, in milliseconds since `clock`.
    pub(crate) fn start(producer: Producer, first: usize, clock: Instant) -> Self {
        let (stop, acknowledged) = (CancellationToken::new(), Arc::new(AtomicUsize::new(first)));
        let (stopped, count) = (stop.clone(), Arc::clone(&acknowledged));
        let task = tokio::spawn(async move {
            let mut pace = interval(PAUSE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                pace.tick().await;
                let number = count.load(Ordering::Relaxed);
                let sent = clock.elapsed().as_millis() as u64;
                let event = json!({ "pattern": "Doji", "number": number, "sent": sent });
                let event = ProducerMessage::json("pattern", &format!("S{}", number % SYMBOLS), &event);
                let event = event.id(format!("n-{number}"));
                while !timeout(PATIENCE, producer.try_publish(&event)).await.unwrap_or(false) {
                    // Do not ask a server all the time that refuses at once.
                    pace.tick().await;
                }
                count.store(number + 1, Ordering::Relaxed);
            }
        });
        Self { stop, acknowledged, task }
    }

    /// Waits until `count` more events are acknowledged.
    pub(crate) async fn more(&self, count: usize) {
        let enough = self.acknowledged() + count;
        let published = async || (self.acknowledged() >= enough).then_some(());
        eventually("further events are published", DEADLINE, published).await;
    }

    /// The number of acknowledged events, from the first one on.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends it when the current event is acknowledged, and returns the number of acknowledged events.
    pub(crate) async fn stop(&mut self) -> usize {
        self.stop.cancel();
        (&mut self.task).await.unwrap();
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// A client that wants all events, and reads all the time.
pub(crate) struct Witness {
    state: watch::Receiver<WitnessRecord>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Everything that it has received.
#[derive(Debug, Clone, Default)]
pub(crate) struct WitnessRecord {
    /// The events, in order of arrival.
    pub(crate) events: Vec<ReceivedEvent>,
    /// The gaps.
    pub(crate) gaps: Vec<Gap>,
    /// The notices, with their times of arrival.
    pub(crate) notices: Vec<(Instant, Notice)>,
    /// The largest latency of an event.
    pub(crate) latest: Duration,
}

impl Witness {
    /// Adds two nodes of each role to a cluster, and starts a witness at each gateway.
    pub(crate) async fn of_two_gateways(cluster: &mut Cluster) -> (Instant, Vec<Self>) {
        for _ in 0..2 {
            cluster.add_router();
            cluster.add_gateway();
        }
        cluster.settled().await;
        let (clock, mut witnesses) = (Instant::now(), Vec::new());
        for (gateway, encoding) in Encoding::ALL.into_iter().enumerate() {
            witnesses.push(Self::start(cluster, gateway, encoding, clock).await);
        }
        (clock, witnesses)
    }

    /// Connects to a gateway, as a user whose home it is, and subscribes.
    pub(crate) async fn start(cluster: &mut Cluster, gateway: usize, encoding: Encoding, clock: Instant) -> Self {
        let address = cluster.gateways[gateway].gateway().await;
        let user = at_home(cluster, gateway).await;
        let mut socket = Socket::connect(address, &user, encoding).await;
        socket.subscribe("all", &json!({})).await;
        let (sender, state) = watch::channel(WitnessRecord::default());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut known = (0, 0, 0);
            loop {
                // A heartbeat counts as a change if nothing else arrives for long.
                let since = Instant::now();
                let change = socket.until_that(|socket| sizes(socket) != known || since.elapsed() > QUIET);
                if stopped.run_until_cancelled(change).await.is_none() {
                    return;
                }
                let (events, gaps, notices) = known;
                known = sizes(&socket);
                sender.send_modify(|received| {
                    for event in &socket.events[events..] {
                        let sent = Duration::from_millis(event.data["sent"].as_u64().unwrap());
                        received.latest = received.latest.max(clock.elapsed().saturating_sub(sent));
                        received.events.push(event.clone());
                    }
                    received.gaps.extend_from_slice(&socket.gaps[gaps..]);
                    let now = Instant::now();
                    received.notices.extend(socket.notices[notices..].iter().map(|notice| (now, notice.clone())));
                });
            }
        });
        Self { state, stop, task }
    }

    /// Everything received so far.
    pub(crate) fn received(&self) -> WitnessRecord {
        self.state.borrow().clone()
    }

    /// Waits until the received messages meet a condition.
    pub(crate) async fn until(&mut self, what: &str, met: impl Fn(&WitnessRecord) -> bool) -> WitnessRecord {
        let received = timeout(DEADLINE, self.state.wait_for(|received| met(received))).await;
        received.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}")).unwrap().clone()
    }

    /// Waits for a notice `upstream_lost` with these words, from the `known`th notice on. Returns its time and text.
    pub(crate) async fn lost(&mut self, known: usize, words: &str) -> (Instant, String) {
        let is_it = |(_, notice): &&(Instant, Notice)| {
            notice.code == NoticeCode::UpstreamLost.as_str()
                && notice.msg.as_ref().is_some_and(|msg| msg.contains(words))
        };
        let what = format!("upstream_lost with {words:?}");
        let received =
            self.until(&what, |received| received.notices.iter().skip(known).any(|notice| is_it(&notice))).await;
        let (at, notice) = received.notices.iter().skip(known).find(is_it).unwrap();
        (*at, notice.msg.clone().unwrap())
    }

    /// Waits for a notice `upstream_restored`, from the `known`th notice on.
    pub(crate) async fn restored(&mut self, known: usize) {
        let met = |received: &WitnessRecord| {
            received.notices.iter().skip(known).any(|(_, notice)| notice.code == NoticeCode::UpstreamRestored.as_str())
        };
        self.until("upstream_restored", met).await;
    }

    /// Fails unless it has got the events from `first` to `end`, each once, in order for each symbol, with its content,
    /// and nothing else from the `known`th event on.
    pub(crate) async fn assert_exact(&mut self, known: usize, first: usize, end: usize) {
        let received = self
            .until(&format!("{} events", end - first), |received| received.events.len() >= known + end - first)
            .await;
        let number = |event: &ReceivedEvent| event.data["number"].as_u64().unwrap() as usize;
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        let mut numbers = Vec::new();
        for event in &received.events[known..] {
            let (number, symbol) = (number(event), event.symbol.clone().unwrap().to_string());
            assert_eq!(
                (symbol.clone(), event.pattern.clone().unwrap().to_string()),
                (format!("S{}", number % SYMBOLS), "Doji".to_owned())
            );
            assert_eq!(event.id.to_string(), format!("n-{number}"));
            assert!(last.insert(symbol, number).is_none_or(|before| before < number), "{number} is out of order");
            numbers.push(number);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (first..end).collect::<Vec<_>>());
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

/// The name of a user whose home is this gateway, so that it is not sent to another.
async fn at_home(cluster: &Cluster, gateway: usize) -> String {
    let bucket = jetstream::new(cluster.client.clone()).get_key_value(names::VIEW_BUCKET).await.unwrap();
    let users = (0..1_000).map(|number| format!("witness-{number}"));
    let nodes = cluster.routers.len() + cluster.gateways.len();
    eventually("the view has every node", DEADLINE, async || {
        let view: View = wire::decode(&bucket.get(names::VIEW_KEY).await.ok()??).ok()?;
        if view.members.len() < nodes {
            return None;
        }
        let is_home = |user: &String| {
            view.home(&UserId::new(user).unwrap()).is_some_and(|home| home.id.as_str() == cluster.gateways[gateway].id)
        };
        users.clone().find(is_home)
    })
    .await
}

fn sizes(socket: &Socket) -> (usize, usize, usize) {
    (socket.events.len(), socket.gaps.len(), socket.notices.len())
}

/// The missing conditions of a report, by check.
pub(crate) fn missing(report: &Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter();
    let unmet = checks.filter(|check| check["ok"] == false);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    unmet.map(|check| (text(&check["name"]), text(&check["missing"]))).collect()
}
