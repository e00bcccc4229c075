//! A server with consumers dies, while other servers lead the stream and the cluster: reading continues within the time
//! of docs/reliability.md.

use async_nats::jetstream;
use futures_util::TryStreamExt;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickwire_core::protocol::Encoding;
use tickwire_testkit::{NatsServer, Pulse, eventually};
use tokio::time::{Instant, interval};

use crate::cluster::Cluster;
use crate::node::DEADLINE;
use crate::producer::{Producer, ProducerMessage};
use crate::socket::Socket;

/// The number of events, the time between two, and the number after which the server dies.
const EVENTS: usize = 900;
const PAUSE: Duration = Duration::from_millis(10);
const DIES: usize = 100;

/// The longest allowed pause of reading.
const WITHIN: Duration = Duration::from_millis(4_500);

fn number(name: &str) -> usize {
    name.strip_prefix("n-").unwrap().parse().unwrap()
}

/// The leader of the NATS cluster, according to the servers' logs.
fn leader_of_all(servers: &[NatsServer]) -> usize {
    let logs: Vec<String> = servers.iter().map(NatsServer::log).collect();
    let announcements = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains("new metadata leader: "));
    let last = announcements.max().unwrap();
    number(last.rsplit("new metadata leader: ").next().unwrap().split('/').next().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_continues_soon_after_a_server_with_consumers_dies() {
    let servers = NatsServer::start_cluster(3);
    eventually("the servers have a leader", DEADLINE, async || {
        servers.iter().any(|server| server.log().contains("new metadata leader: ")).then_some(())
    })
    .await;
    let leader = leader_of_all(&servers);
    let url = servers[leader].url();
    // No connection of a node or client is to the server that dies.
    let settings = [("stream.replicas", "3"), ("nats.url", url.as_str())];
    let mut cluster = Cluster::start_on(servers, 1, 1, &settings).await;
    let client = async_nats::connect(&url).await.unwrap();
    let context = jetstream::new(client.clone());
    eventually("the stream is led by the same server", DEADLINE, async || {
        let stream = context.get_stream("EVENTS").await.ok()?;
        let leads = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        if number(&leads) == leader {
            return Some(());
        }
        let wish = json!({ "placement": { "preferred": format!("n-{leader}") } }).to_string();
        client.request("$JS.API.STREAM.LEADER.STEPDOWN.EVENTS", wish.into()).await.ok()?;
        None
    })
    .await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("mine", &json!({})).await;

    let stream = context.get_stream("EVENTS").await.unwrap();
    let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
    let holds = |server: usize| {
        let is_there = |info: &&jetstream::consumer::Info| {
            info.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref()).map(number) == Some(server)
        };
        consumers.iter().filter(is_there).count()
    };
    let victim = (0..3).filter(|server| *server != leader).max_by_key(|server| holds(*server)).unwrap();
    assert!(holds(victim) > 2, "{} of {} consumers", holds(victim), consumers.len());

    let published = Arc::new(Mutex::new(Vec::new()));
    let (producer, times) = (Producer::new(client), Arc::clone(&published));
    let publishing = tokio::spawn(async move {
        let mut pace = interval(PAUSE);
        for number in 0..EVENTS {
            pace.tick().await;
            let event = json!({ "pattern": "Doji", "id": number.to_string() });
            times.lock().unwrap().push(Instant::now());
            producer.publish(&ProducerMessage::json("pattern", &format!("S{}", number % 200), &event)).await;
        }
    });
    let (mut arrived, pulse) = (Vec::new(), Pulse::start());
    for count in 1..=EVENTS {
        if count == DIES {
            cluster.nats[victim].kill();
        }
        socket.until(count).await;
        arrived.push(Instant::now());
    }
    publishing.await.unwrap();

    let published = published.lock().unwrap().clone();
    let took = socket
        .events
        .iter()
        .zip(&arrived)
        .map(|(event, arrived)| arrived.duration_since(published[event.id.parse::<usize>().unwrap()]));
    let longest = took.max().unwrap();
    println!("{} consumers were lost; the longest that an event took: {longest:?}", holds(victim));
    assert!(longest < WITHIN + pulse.allowance(), "{longest:?}, and the machine paused for {:?}", pulse.longest());
    assert_eq!((socket.events.len(), &socket.gaps[..]), (EVENTS, &[][..]));
    let metrics = cluster.routers[0].metrics().await;
    let restarts = metrics.get_labelled("tickwire_router_intake_restarts_total", r#"cause="silence""#);
    assert!(restarts > 0.0, "consumers were created again after silence");
}
