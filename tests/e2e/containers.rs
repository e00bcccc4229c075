//! The cluster of `docker-compose.yml` in containers: clients of the Rust library receive events through HAProxy, with
//! TLS and tokens, while gateways are added and removed and containers die. Nothing may be lost, and every order must
//! hold.
//!
//! `tools/compose-test` starts the containers, and removes them afterwards. `engine` talks to what runs them, `clients`
//! has the two sides, and `steps` what happens meanwhile. `addresses` has what gateways believe of the addresses of
//! clients.

mod addresses;
mod clients;
mod engine;
mod steps;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tickwire_testkit::eventually;

use addresses::assert_only_haproxy_states_addresses;
use clients::{Front, LedgerClient, Publisher};
use engine::Engine;
use steps::Step;

/// A file of the repository.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn image_is_built_with_the_toolchain_of_the_repository() {
    let toolchain: toml::Table = file("rust-toolchain.toml").parse().unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let wanted = format!("ARG RUST_IMAGE=docker.io/library/rust:{channel}-bookworm\n");
    assert!(file("deploy/Dockerfile").contains(&wanted), "deploy/Dockerfile lacks {wanted}");
}

#[test]
fn image_is_built_from_every_crate() {
    let manifest: toml::Table = file("Cargo.toml").parse().unwrap();
    let ignored = file(".dockerignore");
    let members = manifest["workspace"]["members"].as_array().unwrap().iter();
    let lacking: Vec<_> =
        members.filter(|member| !ignored.contains(&format!("\n!{}\n", member.as_str().unwrap()))).collect();
    assert!(lacking.is_empty(), ".dockerignore keeps {lacking:?} out");
}

#[test]
fn container_that_got_a_signal_is_started_again_when_it_ends() {
    // With `unless-stopped` Docker would not: it takes any signal of `docker compose kill` for a stop.
    assert!(file("docs/operations.md").contains("docker compose kill --signal"));
    let compose = file("docker-compose.yml");
    let policies: Vec<_> = compose.lines().map(str::trim).filter(|line| line.starts_with("restart:")).collect();
    // That of all services, and of the commands of an operator, which end.
    assert_eq!(policies, ["restart: always", "restart: \"no\""]);
}

#[test]
fn limit_of_logs_names_the_driver_that_knows_it() {
    let compose = file("docker-compose.yml");
    assert!(compose.contains("\n    driver: json-file\n    options:\n      max-size: "), "journald refuses max-size");
}

/// How long the containers may take to be healthy again after a step, on a busy machine.
const HEALTHY: Duration = Duration::from_secs(120);

/// How long the clients may take to get what was published before.
const SETTLE: Duration = Duration::from_secs(60);

/// How many events are published in and after each step at least.
const EVENTS: usize = 60;

/// The gateways at the start, as in the compose file.
const GATEWAYS: usize = 3;

/// Whether to run all steps with many clients: `TICKWIRE_CONTAINERS=full`.
fn is_full() -> bool {
    std::env::var("TICKWIRE_CONTAINERS").is_ok_and(|form| form == "full")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs containers: `make compose-test` starts them"]
async fn nothing_is_lost_while_containers_are_scaled_stopped_killed_and_cut_off() {
    let engine = Engine::of_this_run();
    let gateways = engine.names("gateway").await;
    assert_eq!(gateways.len(), GATEWAYS, "{gateways:?}");
    healthy(&engine, "the containers are healthy after their start").await;
    let nodes = format!("running routers: 2, gateways: {GATEWAYS}");
    eventually("the doctor of the operator finds every node, and nothing wrong", HEALTHY, async || {
        let (is_done, findings) = engine.run_once("operator").await;
        (is_done && findings.contains(&nodes)).then_some(())
    })
    .await;

    let front = Front::of(&engine).await;
    assert_only_haproxy_states_addresses(&engine, &front).await;
    let count = if is_full() { 120 } else { 16 };
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(LedgerClient::start(&front, number).await);
    }
    let publisher = Publisher::start(&engine).await;
    publisher.more(EVENTS).await;
    eprintln!(
        "{:<28} {:>9} {:>9} {:>9} {:>10} {:>8}",
        "step", "published", "received", "sessions", "containers", "seconds"
    );
    report("start", &publisher, &clients, &engine, Duration::ZERO).await;
    let steps = if is_full() { Step::ALL } else { Step::SHORT };
    for step in steps {
        let begin = Instant::now();
        step.take(&engine, &publisher).await;
        healthy(&engine, &format!("the containers are healthy after {step:?}")).await;
        publisher.more(EVENTS).await;
        // Those of which the publisher knows: the next one may be in the stream too.
        let published = publisher.published();
        for client in &clients {
            client.reach(published, &format!("client {} has everything after {step:?}", client.number)).await;
        }
        report(&format!("{step:?}"), &publisher, &clients, &engine, begin.elapsed()).await;
    }

    for name in engine.names("gateway").await {
        let id = engine.host_name(&name).await;
        assert_eq!(front.gateway_at(&id).await, id, "a gateway is reached by its name");
    }
    let published = publisher.stop().await;
    for client in clients {
        client.reach(published, &format!("client {} has everything", client.number)).await;
        client.assert_exact(published);
    }
    assert_eq!(engine.unhealthy().await, Vec::<String>::new());
}

/// Waits until every container is healthy.
async fn healthy(engine: &Engine, what: &str) {
    let mut last = Vec::new();
    let end = Instant::now() + HEALTHY;
    eventually(what, HEALTHY * 2, async || {
        last = engine.unhealthy().await;
        assert!(last.is_empty() || Instant::now() < end, "not within {HEALTHY:?}: {what}: {last:?}");
        last.is_empty().then_some(())
    })
    .await;
}

/// Prints a line of the table.
async fn report(step: &str, publisher: &Publisher, clients: &[LedgerClient], engine: &Engine, took: Duration) {
    let received: usize = clients.iter().map(LedgerClient::received).sum();
    let sessions: usize = clients.iter().map(LedgerClient::sessions).sum();
    let (published, containers, seconds) = (publisher.published(), engine.count().await, took.as_secs_f32());
    eprintln!("{step:<28} {published:>9} {received:>9} {sessions:>9} {containers:>10} {seconds:>8.1}");
}
