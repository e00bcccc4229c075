//! Prometheus' own checker of metrics.

use serde_json::json;
use std::io::Write;
use std::process::{Command, Stdio};
use tickwire_core::protocol::Encoding;
use tickwire_testkit::eventually;

use super::tools::{debian, report};
use crate::cluster::Cluster;
use crate::feed;
use crate::node::{DEADLINE, get};
use crate::socket::Socket;

/// Whether the checker accepts this text, and its output.
fn check(metrics: &str) -> (bool, String) {
    let mut checker = Command::new(debian("/usr/bin/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checker.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = checker.wait_with_output().unwrap();
    let output_text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(output_text).unwrap())
}

#[tokio::test]
async fn promtool_accepts_the_metrics_of_both_roles() {
    let mut cluster = Cluster::start(1, 1).await;
    let mut socket = Socket::connect(cluster.gateways[0].gateway().await, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    cluster.producer().await.publish(&feed::pattern("AAPL", 1)).await;
    socket.until(1).await;
    // Some metrics appear only after their first use.
    let mut late = ["tickwire_router_lag_seconds", "tickwire_gateway_index_lookups_total"].into_iter();
    let mut names = Vec::new();
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        let (admin, late) = (node.address("admin").await, late.next().unwrap());
        let metrics = eventually(late, DEADLINE, async || {
            let (status, metrics) = get(admin, "/metrics").await;
            assert_eq!(status, 200);
            metrics.contains(&format!("\n{late}")).then_some(metrics)
        })
        .await;
        assert_eq!(check(&metrics), (true, String::new()), "{}", node.id);
        names.push(metrics.lines().filter(|line| line.starts_with("# TYPE")).count());
    }
    assert!(names.iter().all(|count| *count > 15), "{names:?}");
    // It does complain about a wrong metric.
    assert!(!check("tickwire_a_total 1\n").0);
    report("promtool", &format!("nothing to say about {} and {} metrics", names[0], names[1]));
}
