//! `/readyz`: a node is ready when it can work, else the report names what is missing.

use serde_json::Value;
use tickwire_testkit::eventually;

use crate::cluster::Cluster;
use crate::node::{DEADLINE, get};

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
