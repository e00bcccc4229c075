//! `tickwire health`: it answers for a container whether its node runs and whether it is ready.

use std::net::SocketAddr;
use std::time::Instant;
use tickwire_testkit::eventually;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use crate::cluster::Cluster;
use crate::commands::run;
use crate::node::DEADLINE;

/// Asks the node with this admin server. Returns the exit code, the standard output and the standard error.
async fn health(admin: SocketAddr, flags: &'static [&'static str]) -> (Option<i32>, String, String) {
    let listen = format!("admin.listen={admin}");
    spawn_blocking(move || run(&[&["health", "--set", &listen][..], flags].concat())).await.unwrap()
}

#[tokio::test]
async fn health_is_the_liveness_or_the_readiness_of_a_node_with_what_is_missing() {
    let mut cluster = Cluster::start(1, 1).await;
    let admin = cluster.gateways[0].address("admin").await;
    let ok = |path: &str| (Some(0), format!("http://{admin}{path}: ok\n"), String::new());
    assert_eq!(health(admin, &[]).await, ok("/livez"));
    assert_eq!(health(admin, &["--ready"]).await, ok("/readyz"));

    cluster.nats[0].kill();
    eventually("the gateway is not ready, with the reason", DEADLINE, async || {
        let (code, output, errors) = health(admin, &["--ready"]).await;
        if code == Some(0) {
            return None;
        }
        assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
        errors.contains("nats: no connection to NATS").then_some(())
    })
    .await;
    assert_eq!(health(admin, &[]).await, ok("/livez"));

    cluster.gateways[0].process.kill();
    let (code, _, errors) = health(admin, &[]).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("refused"), "{errors}");
}

#[tokio::test]
async fn health_of_a_node_that_does_not_answer_is_no_at_the_deadline() {
    // It accepts connections, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = Instant::now();
    let (code, _, errors) = health(silent.local_addr().unwrap(), &["--deadline", "300ms"]).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("no answer within 300ms"), "{errors}");
    assert!(asked.elapsed() < DEADLINE);
}
