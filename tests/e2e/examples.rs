//! The examples in Rust, run as programs against a cluster: what they print is what the stream holds, in order. Those
//! in other languages are run in `tests/foreign/examples.rs`.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tickwire_core::protocol::codes::{CloseCode, ErrorCode, Reconnect};
use tickwire_core::protocol::position::Position;
use tickwire_testkit::{Process, eventually};

use crate::cluster::Cluster;
use crate::feed::RunningFeed;
use crate::node::{DEADLINE, tickwire};
use crate::oracle::{Log, OracleEntry, filter};
use crate::producer::{Producer, ProducerMessage};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const SYMBOLS: &str = "AAPL,BRK.B,SPY";

/// The folder of the examples, which Cargo builds if they are not current: it does not build them for one test alone.
pub(crate) fn folder() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_tickwire")).parent().unwrap();
    let profile = match built.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--quiet", "--workspace", "--examples", "--locked", "--profile", profile];
    let mut command = Command::new(cargo);
    command.args(arguments).arg("--target-dir").arg(built.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    // What the test runner says of the package that is tested would have build scripts run again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let status = command.status().unwrap();
    assert!(status.success(), "the examples cannot be built: {status}");
    built.join("examples")
}

/// Starts an example.
fn start(name: &str, home: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(folder().join(name));
    command.args(arguments).env_remove("TICKWIRE_TOKEN").env_remove("TICKWIRE_NATS__URL");
    Process::start(name, home, &mut command)
}

fn url(gateway: SocketAddr) -> String {
    format!("ws://{gateway}/v1/stream")
}

/// Waits until a process prints this line to standard error.
async fn wait_for_line(process: &mut Process, what: &str) {
    eventually(&format!("the line {what:?}"), DEADLINE, async || {
        assert_eq!(process.exit(), None, "it has ended: {}", process.stderr());
        process.stderr().lines().any(|line| line == what).then_some(())
    })
    .await;
}

/// The whole lines that a process has printed.
fn lines(process: &Process) -> Vec<String> {
    let text = process.stdout();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(ToOwned::to_owned).collect()
}

/// Waits until a process has printed this many lines.
async fn until(process: &mut Process, count: usize) {
    eventually(&format!("{count} lines are printed"), DEADLINE, async || {
        assert_eq!(process.exit(), None, "it has ended: {}", process.stderr());
        (lines(process).len() >= count).then_some(())
    })
    .await;
}

async fn publish(producer: &Producer, feed: &mut RunningFeed, count: usize) {
    producer.publish_all(&(0..count).map(|_| feed.event()).collect::<Vec<ProducerMessage>>()).await;
}

/// What the examples subscribe to.
fn due(log: &Log) -> Vec<&OracleEntry> {
    log.matching("ann", &[filter(&json!({ "symbols": SYMBOLS.split(',').collect::<Vec<_>>() }))])
}

/// An entry as `subscribe` prints it.
fn as_subscribed(entry: &OracleEntry) -> String {
    let event = &entry.event;
    let symbol = event.symbol.as_ref().map_or("-", |symbol| symbol.as_str());
    let pattern = event.pattern.as_ref().map_or("-", |pattern| pattern.as_str());
    let tier = event.tier.map_or("-", |tier| tier.as_str());
    let confidence = event.confidence.map_or_else(|| "-".to_owned(), |confidence| format!("{:.2}", confidence.get()));
    let (place, data) = (format!("{}:{}", entry.partition, entry.seq), Value::Object(event.data.clone()));
    format!("{place} {} {symbol} {pattern} {tier} {confidence} {} {data}", event.id, event.priority)
}

/// An entry as `resume` prints it.
fn as_resumed(entry: &OracleEntry) -> String {
    let symbol = entry.event.symbol.as_ref().map_or("-", |symbol| symbol.as_str());
    format!("{}:{} {} {symbol} {}", entry.partition, entry.seq, entry.event.id, json!(entry.event.data))
}

/// Fails unless each entry was printed once, and those of a key and priority in their order.
fn assert_printed(printed: &[String], entries: &[&OracleEntry], line: fn(&OracleEntry) -> String) {
    let expected: BTreeMap<String, &OracleEntry> = entries.iter().map(|entry| (line(entry), *entry)).collect();
    let sorted = |lines: Vec<&String>| {
        let mut lines = lines;
        lines.sort();
        lines.into_iter().cloned().collect::<Vec<_>>()
    };
    assert_eq!(sorted(printed.iter().collect()), sorted(expected.keys().collect()));
    let mut last = BTreeMap::new();
    for entry in printed.iter().map(|line| expected[line]) {
        let before = last.insert((&entry.event.kind, &entry.event.key, entry.event.priority), entry.seq);
        assert!(before.is_none_or(|before| before < entry.seq), "{} was printed after {before:?}", entry.seq);
    }
}

/// Whether the file of `resume` says that all of these were handled.
fn is_written(file: &str, entries: &[&OracleEntry]) -> bool {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines = text.lines();
    let position: Position = lines.next().unwrap().parse().unwrap();
    let handled: BTreeSet<&str> = lines.collect();
    entries.iter().all(|entry| {
        let reached = position.seqs[usize::from(entry.partition.0)];
        reached >= entry.seq || handled.contains(&*format!("{} {}", entry.partition, entry.seq))
    })
}

/// The numbers that a program lists on the line of this name.
fn listed(program: &str, name: &str) -> BTreeSet<u16> {
    let line = program.lines().find(|line| line.contains(&format!("{name} ="))).unwrap();
    let (_, list) = line.split_once('=').unwrap();
    list.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The errors of the handshake, which a close follows.
pub(crate) fn refusals() -> BTreeSet<u16> {
    [ErrorCode::NotAuthenticated, ErrorCode::AuthFailed, ErrorCode::AuthTimeout].map(ErrorCode::code).into()
}

#[test]
fn the_examples_reconnect_after_a_close_as_its_code_says() {
    let of = |wanted: &[Reconnect]| -> BTreeSet<u16> {
        let codes = CloseCode::ALL.iter().filter(|code| wanted.contains(&code.reconnect()));
        codes.map(|code| code.code()).collect()
    };
    for name in ["subscribe.py", "page.html"] {
        let program =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap();
        assert_eq!(listed(&program, "FINAL"), of(&[Reconnect::No, Reconnect::NewToken]), "{name}");
        assert_eq!(listed(&program, "AFTER"), of(&[Reconnect::After]), "{name}");
        assert_eq!(listed(&program, "CLOSING"), refusals(), "{name}");
    }
}

#[tokio::test]
async fn events_of_the_example_publish_are_stored_once_with_their_headers() {
    let cluster = Cluster::start(1, 0).await;
    let nats = cluster.nats_url();
    for arguments in [&["--symbol", "BRK.B", "--count", "3"][..], &["--symbol", "AAPL", "--count", "2", "--msgpack"]] {
        let mut publish = start("publish", cluster.home(), &[&["--nats", &nats], arguments].concat());
        assert!(publish.wait(DEADLINE).await.success(), "{}", publish.stderr());
        let stored = lines(&publish);
        assert!(stored.iter().all(|line| line.contains(" stored seq=") && line.ends_with(" duplicate=false")));
        assert_eq!(stored.len(), arguments[3].parse::<usize>().unwrap());
    }
    let log = cluster.log().await;
    let held = log.entries.iter().map(|entry| {
        let event = &entry.event;
        let (pattern, confidence) = (event.pattern.as_ref().unwrap(), event.confidence.unwrap().get());
        (event.key.as_str(), event.id.as_str(), pattern.as_str(), confidence, json!(event.data))
    });
    let expected = [("BRK.B", "1"), ("BRK.B", "2"), ("BRK.B", "3"), ("AAPL", "1"), ("AAPL", "2")];
    let ids = expected.map(|(_, number)| format!("scanner-1-{number}"));
    let expected =
        expected.iter().zip(&ids).map(|((key, _), id)| (*key, &**id, "BreakoutBO", 0.87, json!({ "price": 187.25 })));
    assert_eq!(held.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn the_example_subscribe_prints_what_matches_with_a_token() {
    let settings = [("auth.mode", "jwt"), ("auth.jwt_secret", SECRET)];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = url(cluster.gateway_addresses().await[0]);
    let token = tickwire().args(["token", "--user", "ann", "--secret", SECRET]).output().unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    let mut command = Command::new(folder().join("subscribe"));
    command.args(["--url", &gateway, "--symbols", SYMBOLS]).env("TICKWIRE_TOKEN", token.trim());
    let mut subscribe = Process::start("subscribe", cluster.home(), &mut command);
    wait_for_line(&mut subscribe, "subscribed").await;
    publish(&cluster.producer().await, &mut RunningFeed::new(5), 300).await;
    let log = cluster.log().await;
    let due = due(&log);
    until(&mut subscribe, due.len()).await;
    assert_printed(&lines(&subscribe), &due, as_subscribed);
    assert_eq!(subscribe.stderr(), "subscribed\n");
    subscribe.interrupt();
    assert!(subscribe.wait(DEADLINE).await.success());
}

/// It is killed at rest and killed while events come, and goes on at another gateway each time.
#[tokio::test]
async fn the_example_resume_loses_nothing_when_it_is_killed() {
    let mut cluster = Cluster::start_with(1, 2, &[("gateway.heartbeat_interval", "500ms")]).await;
    let gateways = cluster.gateway_addresses().await;
    let file = cluster.home().join("position.txt");
    let file = file.to_str().unwrap();
    let (producer, mut feed) = (cluster.producer().await, RunningFeed::new(6));
    let mut printed: Vec<String> = Vec::new();
    for run in 0..4 {
        let (name, gateway) = (format!("run-{run}"), url(gateways[run % 2]));
        let home = cluster.home().join(name);
        std::fs::create_dir(&home).unwrap();
        let arguments = ["--url", &gateway, "--user", "ann", "--symbols", SYMBOLS, "--file", file];
        let mut resume = start("resume", &home, &arguments);
        wait_for_line(&mut resume, if run == 0 { "subscribed" } else { "caught up" }).await;
        publish(&producer, &mut feed, 200).await;
        if run == 1 {
            // Somewhere on the way.
            until(&mut resume, 20).await;
        } else {
            let log = cluster.log().await;
            eventually("all is printed and written", DEADLINE, async || is_written(file, &due(&log)).then_some(()))
                .await;
        }
        resume.kill();
        publish(&producer, &mut feed, 100).await;
        printed.extend(lines(&resume));
    }
    let gateway = url(gateways[0]);
    let arguments = ["--url", &gateway, "--user", "ann", "--symbols", SYMBOLS, "--file", file];
    let mut resume = start("resume", cluster.home(), &arguments);
    wait_for_line(&mut resume, "caught up").await;
    resume.interrupt();
    assert!(resume.wait(DEADLINE).await.success());
    printed.extend(lines(&resume));

    // What was handled just before it was killed on the way may be handled again: one event at most.
    let mut known = BTreeSet::new();
    let again = printed.iter().filter(|line| !known.insert((*line).clone())).count();
    assert!(again <= 1, "{again} events came again");
    let mut known = BTreeSet::new();
    printed.retain(|line| known.insert(line.clone()));
    let log = cluster.log().await;
    assert_printed(&printed, &due(&log), as_resumed);
}
