//! Whom gateways believe who a client is: HAProxy, by its address, and no other container.

use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use tickwire_testkit::eventually;

use super::SETTLE;
use super::clients::Front;
use super::engine::Engine;
use crate::wire::{Wire, upgrade};

/// What strangers state. No machine of the test has it.
const FORGED: &str = "X-Forwarded-For: 100.64.7.7\r\n";

/// The port of `gateway.listen`.
const PORT: u16 = 8080;

/// Fails unless a gateway takes the address of a client from HAProxy only.
pub(super) async fn assert_only_haproxy_states_addresses(engine: &Engine, front: &Front) {
    let haproxy = &engine.names("haproxy").await[0];
    let balancer: IpAddr = engine.address(haproxy, "edge").await.parse().unwrap();
    let gateways = engine.names("gateway").await;
    for gateway in &gateways {
        let address: IpAddr = engine.address(gateway, "edge").await.parse().unwrap();
        assert_ne!(address, balancer, "{gateway}");
    }
    // This machine has an address in both networks, as any container could have. It is not HAProxy's.
    for network in ["edge", "bus"] {
        let address = SocketAddr::new(engine.address(&gateways[0], network).await.parse().unwrap(), PORT);
        let user = format!("stranger-{network}");
        let mut wire = Wire::connect(address).await;
        let head = wire.ask(&upgrade(&format!("?token={}", front.token(&user)), FORGED)).await;
        assert_eq!(head.status, 101, "{user}");
        let peer = peer_of(engine, &gateways[..1], &user).await;
        assert!(peer.to_string() != "100.64.7.7" && peer != balancer, "{user}: {peer}");
    }
    // Through HAProxy, a gateway knows an address that is not HAProxy's.
    front.visit("visitor").await;
    let peer = peer_of(engine, &gateways, "visitor").await;
    assert_ne!(peer, balancer, "the address of a client is that of HAProxy");
}

/// The address of this user's client, from the logs of these gateways.
async fn peer_of(engine: &Engine, gateways: &[String], user: &str) -> IpAddr {
    eventually(&format!("a gateway logs the session of {user}"), SETTLE, async || {
        for gateway in gateways {
            let log = engine.log(gateway).await;
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut spans = lines.map(|line| line["span"].clone());
            if let Some(span) = spans.find(|span| span["user"] == user) {
                return Some(span["peer"].as_str().unwrap().parse().unwrap());
            }
        }
        None
    })
    .await
}
