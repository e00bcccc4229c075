//! The commands of `tickwire` with a running cluster.

use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};
use tickwire_core::protocol::Encoding;
use tickwire_testkit::{NatsServer, Process, eventually};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::node::{DEADLINE, tickwire};
use crate::oracle::{assert_exact, filter};
use crate::socket::Socket;

/// How many lines are published at once.
const LINES: usize = 500;

/// Whether a process has a handler for SIGINT.
fn listens_for_interrupts(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << 1 != 0)
}

/// Runs a command to its end. Returns its exit code, its standard output and its standard error.
pub(crate) fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = tickwire().args(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn command_ends_although_one_of_its_threads_waits_for_a_file() {
    let home = tempfile::tempdir().unwrap();
    let authorities = home.path().join("ca.pem");
    assert!(Command::new("mkfifo").arg(&authorities).status().unwrap().success());
    let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://{}", gateway.local_addr().unwrap());
    let watch = ["watch", "--url", &url, "--user", "ann", "--ca", authorities.to_str().unwrap()];
    let mut watch = Process::start("watch", home.path(), tickwire().args(watch));
    // It has connected, and reads the authorities for TLS. Nobody writes to the pipe.
    let _connection = timeout(DEADLINE, gateway.accept()).await.unwrap().unwrap();
    watch.interrupt();
    eventually("watch has ended", DEADLINE, async || watch.exit()).await;
}

#[test]
fn command_keeps_its_exit_code_if_its_errors_cannot_be_written() {
    for (args, code) in
        [(["rules", "validate", "/no/such/file"], 1), (["config", "check", "--config=/no/such/file"], 2)]
    {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let status = tickwire().args(args).stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn command_that_demands_tls_of_a_server_without_it_says_so() {
    let nats = NatsServer::start();
    let (code, output, errors) = run(&["doctor", "--nats", &nats.url().replace("nats://", "tls://")]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(output.contains("the server does not answer with TLS"), "{output}{errors}");
}

#[tokio::test]
async fn watch_prints_exactly_the_published_events() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let nats = cluster.nats_url();
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({ "symbols": ["BRK.B"] })).await;
    let url = format!("ws://{gateway}");
    let watch = ["watch", "--url", &url, "--user", "ann", "--symbols", "BRK.B", "--json"];
    let mut watch = Process::start("watch", cluster.home(), tickwire().args(watch));

    // `watch` does not print to standard output when it has subscribed, so publish until it prints the first event.
    let mut first = 0;
    eventually("the first event is watched", DEADLINE, async || {
        first += 1;
        let data = json!({ "number": first }).to_string();
        let event = ["--key", "BRK.B", "--pattern", "Doji", "--confidence", "0.87", "--tier", "daily", "--data", &data];
        let (code, _, errors) = run(&[&["publish", "--nats", &nats][..], &event].concat());
        assert_eq!(code, Some(0), "{errors}");
        (!watch.stdout().is_empty()).then_some(())
    })
    .await;

    let lines = cluster.home().join("events.jsonl");
    let line = |number| json!({ "symbol": "BRK.B", "pattern": "Hammer", "number": number }).to_string() + "\n";
    fs::write(&lines, (0..LINES).map(line).collect::<String>()).unwrap();
    let (code, _, errors) = run(&["publish", "--nats", &nats, lines.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{errors}");

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), first + LINES);
    socket.catch_up(&log.end()).await;
    assert_exact("ann", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
    // The printed lines are the objects on the wire, from the first printed one on.
    eventually("every event is watched", DEADLINE, async || {
        let last = socket.objects.last().unwrap();
        let watched = watch.stdout();
        let read = |line| -> Value { serde_json::from_str(line).unwrap() };
        let complete = watched.ends_with('\n') && read(watched.lines().last()?)["seq"] == last["seq"];
        let watched: Vec<Value> = complete.then(|| watched.lines().map(read).collect())?;
        let missed = socket.objects.len() - watched.len();
        assert!(missed < first);
        assert_eq!(watched, socket.objects[missed..]);
        Some(())
    })
    .await;
    watch.interrupt();
    assert_eq!(watch.wait(DEADLINE).await.code(), Some(0), "{}", watch.stderr());
}

#[tokio::test]
async fn watch_prints_the_stored_events_of_all_partitions_by_time() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let url = format!("ws://{gateway}");
    let lines = cluster.home().join("events.jsonl");
    let line = |number: usize| {
        let (symbol, timestamp) = (format!("S{}", number % 7), 1_757_514_600 + number);
        json!({ "symbol": symbol, "pattern": "Hammer", "number": number, "timestamp": timestamp }).to_string() + "\n"
    };
    fs::write(&lines, (0..LINES).map(line).collect::<String>()).unwrap();
    let (code, _, errors) = run(&["publish", "--nats", &cluster.nats_url(), lines.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{errors}");
    // What the gateway has not reached yet is new to a session, and comes after the stored events.
    let log = cluster.log().await;
    let mut socket = Socket::connect(gateway, "bob", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    socket.catch_up(&log.end()).await;
    let watch = ["watch", "--url", &url, "--user", "ann", "--since", "30m", "--json"];
    let mut watch = Process::start("watch", cluster.home(), tickwire().args(watch));
    eventually("the stored events have ended", DEADLINE, async || {
        assert_eq!(watch.exit(), None, "it has ended: {}", watch.stderr());
        let has_ended = watch.stderr().lines().any(|line| line == "end of stored events");
        // What a process prints to two outputs arrives in either order.
        (has_ended && watch.stdout().matches('\n').count() >= LINES).then_some(())
    })
    .await;
    let read = |line| -> Value { serde_json::from_str(line).unwrap() };
    let numbers: Vec<Value> = watch.stdout().lines().map(|line| read(line)["data"]["number"].clone()).collect();
    assert_eq!(numbers, (0..LINES).map(|number| json!(number)).collect::<Vec<_>>());
    watch.interrupt();
    assert_eq!(watch.wait(DEADLINE).await.code(), Some(0), "{}", watch.stderr());
}

#[tokio::test]
async fn signal_ends_a_command_that_is_connecting() {
    let mut cluster = Cluster::start(0, 1).await;
    let url = format!("ws://{}", cluster.gateway_addresses().await[0]);
    let nowhere = "nats://127.0.0.1:1";
    for args in [&["watch", "--url", &url, "--user", "ann"][..], &["replay", "--nats", nowhere]] {
        let mut command = Process::start(args[0], cluster.home(), tickwire().args(args));
        eventually("it listens for signals", DEADLINE, async || listens_for_interrupts(command.pid()).then_some(()))
            .await;
        command.interrupt();
        // A command that gives up connecting by itself ends with another code.
        assert_eq!(command.wait(DEADLINE).await.code(), Some(0), "{args:?}: {}", command.stderr());
    }
    let (code, _, errors) = run(&["watch", "--url", "http://127.0.0.1:1", "--user", "ann"]);
    assert_eq!((code, errors.contains("--url")), (Some(2), true), "{errors}");
    let (code, _, errors) = run(&["watch", "--url", "ws://127.0.0.1:1", "--user", "ann"]);
    assert_eq!((code, errors.contains("is a gateway running there?")), (Some(1), true), "{errors}");
    let (code, _, errors) = run(&["watch", "--url", &url, "--user", "ann"]);
    assert_eq!((code, errors.contains("no router has reported")), (Some(1), true), "{errors}");
    // The token is from the environment if there is no flag; a gateway in dev mode takes no token.
    let watch = tickwire().args(["watch", "--url", &url]).env("TICKWIRE_TOKEN", "t").output().unwrap();
    let errors = String::from_utf8(watch.stderr).unwrap();
    assert_eq!((watch.status.code(), errors.contains("token")), (Some(1), true), "{errors}");
}

#[tokio::test]
async fn doctor_passes_a_healthy_cluster_and_fails_without_nats() {
    let cluster = Cluster::start(1, 1).await;
    let url = cluster.nats_url();
    // On a busy machine a healthy node may answer too late for one run.
    eventually("the doctor finds nothing wrong", DEADLINE, async || {
        let (code, found, errors) = run(&["doctor", "--nats", &url]);
        eprintln!("{found}{errors}");
        (code == Some(0)).then_some(())
    })
    .await;
    let (code, found, _) = run(&["doctor", "--nats", "nats://127.0.0.1:1"]);
    assert_eq!((code, found.contains("127.0.0.1:1")), (Some(1), true), "{found}");
}
