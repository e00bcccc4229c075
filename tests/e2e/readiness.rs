//! `/readyz`: a node is ready when it can work, else the report names what is missing.

use serde_json::Value;
use std::time::Duration;
use tickwire_core::ids::{NodeId, NodeRef, Nonce};
use tickwire_core::placement::{Member, Role};
use tickwire_core::wire;
use tickwire_node::membership::Beat;
use tickwire_node::names;
use tickwire_testkit::eventually;
use tokio::time::interval;

use crate::cluster::Cluster;
use crate::node::{DEADLINE, TestNode, get};

/// The missing conditions of a report, by check.
fn missing(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().unwrap().iter();
    let unmet = checks.filter(|check| check["ok"] == false);
    unmet.map(|check| (check["name"].as_str().unwrap(), check["missing"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn gateway_without_routers_is_not_ready_with_the_reason() {
    let mut cluster = Cluster::start(0, 1).await;
    let gateway = &mut cluster.gateways[0];
    let admin = gateway.address("admin").await;
    let report = eventually("only a router is missing", DEADLINE, async || {
        let (status, report) = gateway.readyz().await;
        assert_eq!((status, &report["ready"]), (503, &Value::Bool(false)));
        missing(&report).iter().all(|(_, what)| what.contains("router")).then_some(report)
    })
    .await;
    assert_eq!(missing(&report).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["coverage"]);
    assert_eq!(get(admin, "/livez").await.0, 200);

    cluster.add_router();
    cluster.settled().await;
    for node in cluster.gateways.iter_mut().chain(&mut cluster.routers) {
        let report = eventually("the node is ready", DEADLINE, async || {
            let (status, report) = node.readyz().await;
            (status == 200).then_some(report)
        })
        .await;
        assert_eq!((&report["ready"], missing(&report)), (&Value::Bool(true), vec![]));
    }

    cluster.routers[0].process.kill();
    let gateway = &mut cluster.gateways[0];
    eventually("the silence is noticed", DEADLINE, async || {
        let (status, report) = gateway.readyz().await;
        let missing = missing(&report);
        (status == 503 && missing.iter().any(|(_, what)| what.starts_with("no coverage"))).then_some(())
    })
    .await;
}

/// Sends the membership beats of a gateway that never sends its interest, until it is dropped.
async fn send_beats_of_a_mute_gateway(client: async_nats::Client) {
    let node = NodeRef { id: NodeId::new("mute").unwrap(), nonce: Nonce(7) };
    let member = Member { node, role: Role::Gateway, weight: 1, draining: false };
    let beat = wire::encode(&Beat { member, goodbye: false }).unwrap();
    let mut beats = interval(Duration::from_millis(100));
    loop {
        beats.tick().await;
        client.publish(names::beat("gateway", "mute"), beat.clone().into()).await.unwrap();
    }
}

/// Waits until `/readyz` has this status, and `field` of its check `interest` names the mute gateway.
async fn until_mute(router: &mut TestNode, field: &str, status: u16) {
    eventually(&format!("`{field}` of the check `interest` names the gateway"), DEADLINE, async || {
        let (answered, report) = router.readyz().await;
        let interest = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "interest").cloned();
        let names_it = interest.is_some_and(|check| check[field].as_str().is_some_and(|text| text.contains("mute.")));
        (names_it && answered == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn member_that_never_sends_its_interest_keeps_no_router_from_being_ready() {
    let mut cluster = Cluster::start(1, 1).await;
    let mute = tokio::spawn(send_beats_of_a_mute_gateway(cluster.client.clone()));
    until_mute(&mut cluster.routers[0], "missing", 503).await;
    until_mute(&mut cluster.routers[0], "warning", 200).await;
    assert_eq!(cluster.routers[0].metrics().await.get("tickwire_router_gateways_not_awaited"), 1.0);
    // A rolling update goes on: a router that starts meanwhile becomes ready too.
    let router = cluster.add_router();
    until_mute(router, "warning", 200).await;
    mute.abort();
    for router in &mut cluster.routers {
        eventually("the gateway is no member any more", DEADLINE, async || {
            let (status, report) = router.readyz().await;
            (status == 200 && !report.to_string().contains("warning")).then_some(())
        })
        .await;
    }
}
