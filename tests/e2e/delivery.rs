//! The way of an event: from producers through routers and gateways to exactly the clients whose filters match.

use serde_json::Value;
use tickwire_core::protocol::Encoding;

use crate::cluster::Cluster;
use crate::feed::{RunningFeed, USERS};
use crate::listener::Listener;
use crate::oracle::{assert_exact, filter};
use crate::producer::ProducerMessage;
use crate::socket::Socket;

const SEED: u64 = 20_250_910;
const EVENTS: usize = 2_000;
const CLIENTS: usize = 50;

/// A client with its filters, on a bare socket or with the client library.
struct TestSubscriber {
    name: String,
    user: &'static str,
    filters: Vec<Value>,
    end: DeliveryEnd,
}

enum DeliveryEnd {
    Socket(Box<Socket>),
    Listener(Box<Listener>),
}

#[tokio::test]
async fn fifty_clients_get_exactly_the_matching_events() {
    let mut cluster = Cluster::start(2, 2).await;
    let gateways = cluster.gateway_addresses().await;
    let mut feed = RunningFeed::new(SEED);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let gateway = gateways[number % 2];
        let encoding = Encoding::ALL[number / 2 % 2];
        let user = USERS[number % USERS.len()];
        // The first client sees all events; every fifth has two subscriptions, which may overlap.
        let filters = match number {
            0 => vec![serde_json::json!({ "kinds": ["pattern", "market", "health", "alert", "backtest"] })],
            _ if number % 5 == 0 => vec![feed.filter(), feed.filter()],
            _ => vec![feed.filter()],
        };
        let end = if number % 4 == 3 {
            let listener = Listener::connect(&[gateway], user, encoding).await;
            for (at, filter) in filters.iter().enumerate() {
                listener.subscribe(&at.to_string(), filter).await;
            }
            DeliveryEnd::Listener(Box::new(listener))
        } else {
            let mut socket = Socket::connect(gateway, user, encoding).await;
            for (at, filter) in filters.iter().enumerate() {
                socket.subscribe(&at.to_string(), filter).await;
            }
            DeliveryEnd::Socket(Box::new(socket))
        };
        clients.push(TestSubscriber { name: format!("client {number} ({user}, {filters:?})"), user, filters, end });
    }

    let events: Vec<ProducerMessage> = (0..EVENTS).map(|_| feed.event()).collect();
    cluster.producer().await.publish_all(&events).await;

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), EVENTS);
    let end = log.end();
    let mut delivered = Vec::new();
    for client in &mut clients {
        let filters: Vec<_> = client.filters.iter().map(filter).collect();
        let expected = log.matching(client.user, &filters);
        let (events, gaps) = match &mut client.end {
            DeliveryEnd::Socket(socket) => {
                socket.catch_up(&end).await;
                (&socket.events, &socket.gaps)
            }
            DeliveryEnd::Listener(listener) => {
                listener.catch_up(&end).await;
                (&listener.events, &listener.gaps)
            }
        };
        assert_exact(&client.name, events, gaps, &expected);
        delivered.push(expected.len());
    }
    // The filters are selective: few clients get nothing, and few get everything.
    let some = delivered.iter().filter(|count| (1..EVENTS).contains(*count)).count();
    assert!(some >= CLIENTS * 8 / 10, "the filters of this seed tell little: {delivered:?}");
}

#[tokio::test]
async fn both_encodings_have_the_same_content() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let everything = serde_json::json!({ "kinds": ["pattern", "market", "health", "alert", "backtest"] });
    let mut sockets = Vec::new();
    for encoding in Encoding::ALL {
        let mut socket = Socket::connect(gateway, "ann", encoding).await;
        socket.subscribe("all", &everything).await;
        sockets.push(socket);
    }
    let mut feed = RunningFeed::new(SEED + 1);
    let events: Vec<ProducerMessage> = (0..300).map(|_| feed.event()).collect();
    cluster.producer().await.publish_all(&events).await;
    let log = cluster.log().await;
    let mut seen = Vec::new();
    for socket in &mut sockets {
        socket.catch_up(&log.end()).await;
        assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&everything)]));
        let mut objects = socket.objects.clone();
        objects.sort_by_key(|object| (object["p"].as_u64(), object["seq"].as_u64()));
        seen.push(objects);
    }
    assert_eq!(seen[0], seen[1]);
}
