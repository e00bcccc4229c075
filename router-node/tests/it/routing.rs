//! The way of an event through routers to the gateways that want it, and to no other.

use crate::cluster::{SOON, TestRouter, connect, owners, patient};
use crate::gateway::Gateway;
use std::collections::BTreeMap;
use std::ops::Range;
use tickwire_core::event::Kind;
use tickwire_core::filter::Filter;
use tickwire_core::ids::Symbol;
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_testkit::{NatsServer, eventually};

pub(crate) fn symbols(names: &[&str]) -> Filter {
    Filter { symbols: Some(names.iter().map(|name| Symbol::new(name).unwrap()).collect()), ..Filter::default() }
}

/// Publishes a pattern with this id, and waits until it is stored.
pub(crate) async fn publish(nats: &Nats, symbol: &str, id: &str) {
    let payload = format!(r#"{{"pattern":"Doji","confidence":0.7,"id":"{id}"}}"#);
    let sent = nats.jetstream.publish(names::source("pattern", symbol), payload.into()).await.unwrap();
    sent.await.unwrap();
}

/// The ids of events with these numbers.
pub(crate) fn numbered(numbers: Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Ids that are numbers, in the order of these.
pub(crate) fn by_number(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_by_key(|id| id.parse::<usize>().unwrap());
    ids
}

/// Stops a gateway and a router, as most tests end.
pub(crate) async fn stop_both(gateway: Gateway, router: TestRouter) {
    gateway.stop().await;
    router.stop().await;
}

#[tokio::test]
async fn events_arrive_once_and_in_order_where_they_are_wanted() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    publish(&nats, "AAPL", "before anyone asked").await;
    let router = TestRouter::start_as(&patient(&server, "r1")).await;
    let one = Gateway::start_as(patient(&server, "g1")).await;
    let all = Gateway::start_as(patient(&server, "g2")).await;
    router.ready().await;
    one.subscribe(&symbols(&["AAPL", "TSLA"])).await;
    all.subscribe(&Filter::default()).await;

    let names = ["AAPL", "MSFT", "TSLA", "NVDA", "ORCL", "GOOG", "SPY"];
    let published: Vec<(&str, String)> = (0..400).map(|n| (names[n % names.len()], n.to_string())).collect();
    for (symbol, id) in &published {
        publish(&nats, symbol, id).await;
    }
    one.settle(&nats).await;
    all.settle(&nats).await;
    let expected = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        published.iter().filter(|(symbol, _)| wanted(symbol)).map(|(_, id)| id.clone()).collect()
    };
    assert_eq!(one.ids(), expected(&|symbol| ["AAPL", "TSLA"].contains(&symbol)));
    assert_eq!(all.ids(), expected(&|_| true));
    assert_eq!((one.gaps(), all.gaps()), (vec![], vec![]));
    // Not only was nothing else applied: nothing else was received.
    assert_eq!(one.received(), one.ids().len());

    // Events outside the reduced interest are not sent any more.
    one.unsubscribe(symbols(&["AAPL", "TSLA"]));
    one.subscribe(&symbols(&["SPY"])).await;
    let before = one.received();
    eventually("the shrunken interest has arrived", SOON, async || {
        publish(&nats, "AAPL", "late").await;
        let reached = all.received();
        all.settle(&nats).await;
        let received = one.received();
        one.settle(&nats).await;
        (all.received() > reached && one.received() == received).then_some(())
    })
    .await;
    assert!(one.received() < before + 400);
    for gateway in [one, all] {
        gateway.stop().await;
    }
    router.stop().await;
}

#[tokio::test]
async fn missed_interest_is_requested_as_a_snapshot() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let gateway = Gateway::start(&server, "g1").await;
    gateway.state.lock().unwrap().drops_deltas = true;
    let router = TestRouter::start(&server, "r1").await;
    gateway.subscribe(&symbols(&["A", "B", "C", "D", "E", "F", "G"])).await;
    gateway.subscribe(&symbols(&["H"])).await;
    for symbol in ["A", "G", "H", "I"] {
        publish(&nats, symbol, symbol).await;
    }
    gateway.settle(&nats).await;
    assert_eq!(gateway.ids(), ["A", "G", "H"]);
    stop_both(gateway, router).await;
}

#[tokio::test]
async fn alert_is_sent_only_to_the_home_gateway_of_its_user() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let router = TestRouter::start_as(&patient(&server, "r1")).await;
    let gateways = [
        Gateway::start_as(patient(&server, "g1")).await,
        Gateway::start_as(patient(&server, "g2")).await,
        Gateway::start_as(patient(&server, "g3")).await,
    ];
    router.ready().await;
    eventually("one view with three gateways", SOON, async || {
        let views = gateways.each_ref().map(Gateway::view);
        (views[0].members.len() == 4 && views.iter().all(|view| *view == views[0])).then_some(())
    })
    .await;
    let alerts = Filter { kinds: [Kind::Alert].into(), ..Filter::default() };
    let view = gateways[0].view();
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for gateway in &gateways {
        gateway.subscribe(&alerts).await;
    }
    let users: Vec<String> = (0..12).map(|number| format!("user{number}")).collect();
    for user in &users {
        let home = view.home(&tickwire_core::ids::UserId::new(user).unwrap()).unwrap().clone();
        let gateway = gateways.iter().find(|gateway| gateway.me == home).unwrap();
        gateway.connect_user(user).await;
        *expected.entry(gateway.me.id.as_str()).or_default() += 1;
    }
    for user in &users {
        let sent = nats.jetstream.publish(names::source("alert", user), "{}".into()).await.unwrap();
        sent.await.unwrap();
    }
    for gateway in &gateways {
        gateway.settle(&nats).await;
        assert_eq!(gateway.received(), expected.get(gateway.me.id.as_str()).copied().unwrap_or_default());
    }
    assert_eq!(gateways.iter().map(Gateway::received).sum::<usize>(), users.len());

    // The alerts of a stray user go to the home gateway and to the gateway of the session.
    let home = view.home(&tickwire_core::ids::UserId::new("user0").unwrap()).unwrap().clone();
    let away = gateways.iter().find(|gateway| gateway.me != home).unwrap();
    away.connect_user("user0").await;
    let before = away.received();
    let sent = nats.jetstream.publish("events.alert.user0", "{}".into()).await.unwrap();
    sent.await.unwrap();
    away.settle(&nats).await;
    assert_eq!(away.received(), before + 1);
    for gateway in gateways {
        gateway.stop().await;
    }
    router.stop().await;
}

#[tokio::test]
async fn routers_share_the_partitions_and_hand_them_over_without_a_gap() {
    let server = NatsServer::start();
    let nats = connect(&server).await;
    let first = TestRouter::start(&server, "r1").await;
    let gateway = Gateway::start(&server, "g1").await;
    first.ready().await;
    gateway.subscribe(&Filter::default()).await;

    let publisher = nats.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let publishing = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.is_cancelled() {
            publish(&publisher, &format!("S{}", count % 97), &count.to_string()).await;
            count += 1;
        }
        count
    });
    let shares = async |names: &[&str]| {
        eventually(&format!("all partitions shared by {names:?}"), SOON, async || {
            let mut shares: BTreeMap<String, usize> = BTreeMap::new();
            for owner in owners(&nats).await.into_values() {
                *shares.entry(owner).or_default() += 1;
            }
            let all = shares.values().sum::<usize>() == 32;
            (all && shares.keys().eq(names)).then_some(shares)
        })
        .await
    };
    shares(&["r1"]).await;
    let second = TestRouter::start(&server, "r2").await;
    let share = shares(&["r1", "r2"]).await;
    assert!(share.values().all(|count| (13..=19).contains(count)), "{share:?}");
    second.ready().await;
    first.stop().await;
    shares(&["r2"]).await;

    stop.cancel();
    let count: usize = publishing.await.unwrap();
    gateway.settle(&nats).await;
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(gateway.ids(), expected);
    assert_eq!(gateway.gaps(), []);
    gateway.stop().await;
    second.stop().await;
    assert_eq!(owners(&nats).await, BTreeMap::new());
}
