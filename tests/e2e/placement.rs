//! Events for one user go to the gateways of that user, and to no other user.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tickwire_core::coverage::section::Batch;
use tickwire_core::event::{Event, Kind};
use tickwire_core::ids::{NodeId, NodeRef, Nonce, Partition, Seq, UserId};
use tickwire_core::placement::{Member, Role, View};
use tickwire_core::protocol::Encoding;
use tickwire_core::wire;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Cluster, PATIENT};
use crate::feed::{self, USERS};
use crate::listener::Listener;
use crate::node::{DEADLINE, get};
use crate::oracle::{assert_exact, filter};
use crate::socket::Socket;

const ALERTS: usize = 50;

/// Receives everything that routers publish to gateways.
struct Wiretap(Subscriber);

impl Wiretap {
    /// Starts to listen, and waits until its own message has arrived.
    async fn new(cluster: &Cluster) -> Self {
        let mut subscriber = cluster.client.subscribe("gw.>").await.unwrap();
        cluster.client.publish("gw.tap", Bytes::new()).await.unwrap();
        while subscriber.next().await.unwrap().subject.as_str() != "gw.tap" {}
        Self(subscriber)
    }

    /// The gateways to which each of these alerts, all of one partition, was published.
    async fn homes(&mut self, partition: Partition, alerts: &BTreeSet<Seq>) -> BTreeMap<Seq, BTreeSet<String>> {
        let mut homes: BTreeMap<Seq, BTreeSet<String>> = BTreeMap::new();
        let mut done = BTreeSet::new();
        // The first section behind the last alert ends the list for a gateway; a partition heartbeat is enough.
        while done.len() < 2 {
            let message = self.0.next().await.unwrap();
            let (gateway, _) = names::parse_gateway(&message.subject).unwrap();
            let batch: Batch<Bytes> = wire::decode(&message.payload).unwrap();
            for section in batch.sections.into_iter().filter(|section| section.partition == partition) {
                for (seq, event) in section.events.into_iter().filter(|(seq, _)| alerts.contains(seq)) {
                    let event: Event = rmp_serde::from_slice(&event).unwrap();
                    assert_eq!(event.kind, Kind::Alert);
                    let first = homes.entry(seq).or_default().insert(gateway.to_owned());
                    assert!(first, "alert {seq} was published to {gateway} twice");
                }
                if section.prev >= *alerts.last().unwrap() {
                    done.insert(gateway.to_owned());
                }
            }
        }
        homes
    }
}

/// Publishes alerts to `user`, and returns the gateways to which each was published.
async fn alert(cluster: &Cluster, user: &str, count: usize) -> Vec<BTreeSet<String>> {
    let (producer, mut tap) = (cluster.producer().await, Wiretap::new(cluster).await);
    let mut alerts = BTreeSet::new();
    for number in 0..count {
        alerts.insert(Seq(producer.publish(&feed::alert(user, number)).await));
    }
    let entries = cluster.log().await.entries;
    let partition = entries.iter().find(|entry| alerts.contains(&entry.seq)).unwrap().partition;
    let homes = tap.homes(partition, &alerts).await;
    assert_eq!(homes.keys().copied().collect::<BTreeSet<_>>(), alerts);
    homes.into_values().collect()
}

#[tokio::test]
async fn alert_goes_to_the_home_gateway_and_to_gateways_with_strays() {
    let mut cluster = Cluster::start_with(2, 2, &PATIENT).await;
    let gateways = cluster.gateway_addresses().await;
    let ids: Vec<String> = cluster.gateways.iter().map(|gateway| gateway.id.clone()).collect();
    // One user with a session at the home gateway for each gateway, and one stray.
    let users: Vec<String> = (0..2).map(|at| user_at(&ids, at, 0)).collect();
    let stray = user_at(&ids, 0, 1);
    let wanted = json!({ "kinds": ["alert"] });
    let mut sockets = Vec::new();
    for (user, gateway) in [(&users[0], gateways[0]), (&users[1], gateways[1]), (&stray, gateways[1])] {
        let mut socket = Socket::connect(gateway, user, Encoding::Json).await;
        socket.subscribe("alerts", &wanted).await;
        sockets.push((user.clone(), socket));
    }
    // Until all nodes have the same view, events for one user go to all gateways.
    eventually("all nodes place users alike", DEADLINE, async || {
        (alert(&cluster, &users[0], 1).await[0].len() == 1).then_some(())
    })
    .await;
    for (user, gateways) in [(&users[0], vec![&ids[0]]), (&users[1], vec![&ids[1]]), (&stray, vec![&ids[0], &ids[1]])] {
        for targets in alert(&cluster, user, ALERTS).await {
            assert_eq!(targets.iter().collect::<Vec<_>>(), gateways, "an alert to {user}");
        }
    }
    let log = cluster.log().await;
    for (user, socket) in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact(user, &socket.events, &socket.gaps, &log.matching(user, &[filter(&wanted)]));
        assert!(socket.events.len() >= ALERTS);
    }
}

#[tokio::test]
async fn events_for_one_user_reach_no_other_user() {
    let mut cluster = Cluster::start(2, 2).await;
    let gateways = cluster.gateway_addresses().await;
    let every_kind = ["pattern", "market", "health", "alert", "backtest"];
    let filters = [
        json!({ "kinds": ["alert", "backtest"] }),
        json!({ "kinds": every_kind, "symbols": ["AAPL"] }),
        json!({ "kinds": ["backtest"], "symbols": ["AAPL"], "min_priority": "low" }),
        json!({ "kinds": every_kind }),
    ];
    // Every user has sessions at both gateways, so that every event goes to both; `mallory` gets nothing.
    let mut sockets = Vec::new();
    for (at, user) in USERS.into_iter().chain(["mallory"]).enumerate() {
        for gateway in &gateways {
            let mut socket = Socket::connect(*gateway, user, Encoding::ALL[at % 2]).await;
            for (number, filter) in filters.iter().enumerate() {
                socket.subscribe(&number.to_string(), filter).await;
            }
            sockets.push((user, socket));
        }
    }
    let mut events = Vec::new();
    for number in 0..120 {
        let user = USERS[number % USERS.len()];
        events.extend([feed::alert(user, number), feed::backtest(user, number)]);
    }
    cluster.producer().await.publish_all(&events).await;
    let log = cluster.log().await;
    let filters: Vec<_> = filters.iter().map(|text: &Value| filter(text)).collect();
    for (user, socket) in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact(user, &socket.events, &socket.gaps, &log.matching(user, &filters));
        assert_eq!(socket.events.len(), if *user == "mallory" { 0 } else { 40 });
    }
}

/// Gateways join and leave, so that the homes of users change again and again, while events for them flow.
#[tokio::test]
async fn no_alert_is_lost_when_homes_change() {
    let mut cluster = Cluster::start(2, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let wanted = json!({ "kinds": ["alert", "backtest"] });
    let mut sockets = Vec::new();
    for user in USERS {
        let mut socket = Socket::connect(gateway, user, Encoding::Json).await;
        socket.subscribe("mine", &wanted).await;
        sockets.push((user, socket));
    }
    let producer = cluster.producer().await;
    let flow = producer.flow(Duration::from_millis(1), |number| feed::alert(USERS[number % USERS.len()], number));
    for _ in 0..2 {
        flow.more(100).await;
        cluster.add_gateway();
        cluster.add_gateway();
        cluster.settled().await;
        flow.more(100).await;
        for mut leaving in cluster.gateways.drain(1..) {
            leaving.process.terminate();
            assert_eq!(leaving.process.wait(DEADLINE).await.code(), Some(0), "{}", leaving.process.stderr());
        }
    }
    // The last change may still be on its way to the routers while these are published.
    flow.more(500).await;
    let published = flow.stop().await;
    let log = cluster.log().await;
    assert_eq!(log.entries.len(), published);
    for (user, socket) in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact(user, &socket.events, &socket.gaps, &log.matching(user, &[filter(&wanted)]));
    }
}

/// The `number`th user whose home is the gateway `at` of these.
fn user_at(gateways: &[String], at: usize, number: usize) -> String {
    let member = |id: &String| Member {
        node: NodeRef { id: NodeId::new(id).unwrap(), nonce: Nonce(0) },
        role: Role::Gateway,
        weight: 1,
        draining: false,
    };
    let view = View { version: 1, members: gateways.iter().map(member).collect(), ..View::default() };
    let is_home = |user: &String| view.home(&UserId::new(user).unwrap()).unwrap().id.as_str() == gateways[at];
    (0..).map(|n| format!("user-{n}")).filter(is_home).nth(number).unwrap()
}

#[tokio::test]
async fn connect_endpoint_names_the_home_gateway() {
    let settings = [("gateway.connect_url", "ws://127.0.0.1/g/{gateway}/v1/stream")];
    let mut cluster = Cluster::start_with(1, 2, &[&settings[..], &PATIENT].concat()).await;
    let gateways = cluster.gateway_addresses().await;
    let mut homes = BTreeSet::new();
    for number in 0..20 {
        // A gateway that is ready may get the view with the other one a moment later.
        let answers = eventually("every gateway has the same answer", DEADLINE, async || {
            let mut answers = Vec::new();
            for gateway in &gateways {
                let (status, text) = get(*gateway, &format!("/v1/connect?user=user-{number}")).await;
                assert_eq!(status, 200, "{text}");
                answers.push(serde_json::from_str::<Value>(&text).unwrap());
            }
            (answers[0] == answers[1]).then_some(answers)
        })
        .await;
        let home = answers[0]["gateway"].as_str().unwrap().to_owned();
        assert_eq!(answers[0]["url"], format!("ws://127.0.0.1/g/{home}/v1/stream"));
        homes.insert(home);
    }
    assert_eq!(homes.len(), 2, "users are spread over both");
    assert_eq!(get(gateways[0], "/v1/connect").await.0, 401);
    assert_eq!(get(gateways[0], "/v1/connect?token=wrong").await.0, 401);
    let mut other = cluster.node_with("gateway", &[("gateway.connect_url", "")]);
    assert_eq!(get(other.gateway().await, "/v1/connect?user=ann").await.0, 404);
}

/// One address for all gateways, by their names in the path: `/g/{gateway}/…` goes to that gateway, everything else to
/// the first one.
async fn front(gateways: Arc<Mutex<Vec<(String, SocketAddr)>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let known = gateways.lock().unwrap().clone();
            tokio::spawn(async move {
                // The first read contains the request line.
                let mut head = vec![0; 4096];
                let read = near.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let named = known.iter().find(|(id, _)| head.starts_with(&format!("GET /g/{id}/")));
                let (head, gateway) = match named {
                    Some((id, gateway)) => (head.replacen(&format!("/g/{id}"), "", 1), *gateway),
                    None => (head, known[0].1),
                };
                if let Ok(mut far) = TcpStream::connect(gateway).await {
                    far.write_all(head.as_bytes()).await.ok();
                    copy_bidirectional(&mut near, &mut far).await.ok();
                }
            });
        }
    });
    address
}

/// A gateway joins: the sessions whose home it is move there, a few at a time, and miss nothing.
#[tokio::test]
async fn sessions_move_to_a_gateway_that_joins() {
    const CLIENTS: usize = 60;
    let known = Arc::new(Mutex::new(Vec::new()));
    let address = front(Arc::clone(&known)).await;
    let url = format!("ws://{address}/g/{{gateway}}/v1/stream");
    let settings = [("gateway.connect_url", url.as_str()), ("gateway.rebalance_cooldown", "500ms")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let first = cluster.gateway_addresses().await[0];
    known.lock().unwrap().push((cluster.gateways[0].id.clone(), first));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let user = format!("user-{number}");
        let client = Listener::connect_home(address, &user, Encoding::ALL[number % 2]).await;
        client.subscribe("mine", &json!({})).await;
        clients.push((user, client));
    }
    let producer = cluster.producer().await;
    let flow = producer.flow(Duration::from_millis(5), |number| feed::pattern("AAPL", number));
    flow.more(20).await;
    let second = cluster.add_gateway().gateway().await;
    known.lock().unwrap().push((cluster.gateways[1].id.clone(), second));
    eventually("the first gateway is near its share", DEADLINE, async || {
        let sessions = cluster.gateways[0].metrics().await.get("tickwire_gateway_sessions");
        (sessions <= CLIENTS as f64 / 2.0 * 1.2).then_some(())
    })
    .await;
    eventually("all of them are connected", DEADLINE, async || {
        let mut sessions = 0.0;
        for gateway in &mut cluster.gateways {
            sessions += gateway.metrics().await.get("tickwire_gateway_sessions");
        }
        (sessions == CLIENTS as f64).then_some(())
    })
    .await;
    flow.more(20).await;
    flow.stop().await;
    let log = cluster.log().await;
    for (user, client) in &mut clients {
        client.catch_up(&log.end()).await;
        assert_exact(user, &client.events, &client.gaps, &log.matching(user, &[filter(&json!({}))]));
    }
    let sent = cluster.gateways[0].metrics().await.get("tickwire_gateway_rebalanced_sessions_total");
    assert!((15.0..=35.0).contains(&sent), "{sent}");
}
