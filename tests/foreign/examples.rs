//! The examples in Python and for browsers, run against a cluster: they show what the stream holds, once and in order,
//! go on after an abrupt end, and acknowledge alerts. And the commands of `examples/README.md`, run as they stand.

use async_nats::jetstream;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_core::protocol::{Encoding, Gap, Notice, ReceivedEvent, ServerMessage};
use tickwire_node::names;
use tickwire_testkit::{Process, eventually};

use super::tools::{debian, node_modules, python, report, script};
use crate::cluster::Cluster;
use crate::cut::Line;
use crate::dev::Dev;
use crate::examples;
use crate::feed::{self, RunningFeed};
use crate::oracle::{Log, assert_exact, filter};
use crate::readme::blocks;

/// How long a browser may take on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(120);

/// What the examples subscribe to by default.
const SYMBOLS: [&str; 3] = ["AAPL", "NVDA", "SPY"];

/// The rows that the page keeps.
const ROWS: usize = 200;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// An example that runs, and the line between it and its gateway.
struct Running {
    user: &'static str,
    process: Process,
    line: Line,
}

impl Running {
    fn start(
        user: &'static str,
        gateway: SocketAddr,
        home: &Path,
        command: impl FnOnce(&mut Command, SocketAddr),
    ) -> Self {
        let line = Line::to_address(gateway);
        // The tests may run where Ctrl-C is ignored.
        let mut env = Command::new("env");
        env.arg("--default-signal=INT").current_dir(home).env_remove("TICKWIRE_TOKEN");
        command(&mut env, line.address);
        Self { user, process: Process::start(user, home, &mut env), line }
    }

    async fn subscribes(&mut self) {
        eventually(&format!("{} subscribes", self.user), DEADLINE, async || {
            assert_eq!(self.process.exit(), None, "{} has ended: {}", self.user, self.process.stderr());
            self.process.stderr().lines().any(|line| line == "subscribed").then_some(())
        })
        .await;
    }

    /// What it has printed in whole lines.
    fn printed(&self) -> (Vec<ReceivedEvent>, Vec<Gap>, Vec<Notice>) {
        let (mut events, mut gaps, mut notices) = (Vec::new(), Vec::new(), Vec::new());
        let text = self.process.stdout();
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            for message in ServerMessage::parse(format!("[{line}]").as_bytes(), Encoding::Json).unwrap() {
                match message {
                    ServerMessage::Event(event) => events.push(*event),
                    ServerMessage::Alert(alert) => {
                        assert_eq!(alert.subs.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["alerts"]);
                        events.push(ReceivedEvent { subs: Vec::new(), ..*alert });
                    }
                    ServerMessage::Gap(gap) => gaps.push(gap),
                    ServerMessage::Notice(notice) => notices.push(notice),
                    other => panic!("{} prints {other:?}", self.user),
                }
            }
        }
        (events, gaps, notices)
    }

    async fn until(&mut self, count: usize) {
        eventually(&format!("{} prints {count} events", self.user), DEADLINE, async || {
            assert_eq!(self.process.exit(), None, "{} has ended: {}", self.user, self.process.stderr());
            (self.printed().0.len() >= count).then_some(())
        })
        .await;
    }

    fn assert_exact(&self, log: &Log) {
        let wanted = [serde_json::json!({ "symbols": SYMBOLS }), serde_json::json!({ "kinds": ["alert"] })];
        let (events, gaps, notices) = self.printed();
        // On a busy machine a node may be late.
        let of_events: Vec<_> = notices.iter().filter(|notice| !notice.code.starts_with("upstream_")).collect();
        assert!(of_events.is_empty(), "{}: {of_events:?}", self.user);
        assert_exact(self.user, &events, &gaps, &log.matching(self.user, &wanted.map(|wanted| filter(&wanted))));
    }
}

#[tokio::test]
async fn the_examples_in_python_and_for_browsers_resume_after_an_abrupt_end() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let home = TempDir::with_prefix("tickwire-e2e-examples-").unwrap();
    std::os::unix::fs::symlink(node_modules(), home.path().join("node_modules")).unwrap();
    fs::copy(script("examples/page.mjs"), home.path().join("page.mjs")).unwrap();
    // The feed sends no alerts to these users.
    let py = Running::start("amy", gateway, home.path(), |command, address| {
        let url = format!("ws://{address}/v1/stream");
        command.arg(python("python")).arg(example("subscribe.py")).args(["--url", &url, "--user", "amy", "--alerts"]);
    });
    let page = Running::start("bob", gateway, home.path(), |command, address| {
        let url = format!("file://{}?gateway=ws://{address}&user=bob", example("page.html").display());
        command.arg(debian("/usr/bin/node")).arg("page.mjs").arg(debian("/usr/bin/chromium")).arg(url);
    });
    let mut all = [py, page];
    for one in &mut all {
        one.subscribes().await;
    }

    let (producer, mut feed) = (cluster.producer().await, RunningFeed::new(23));
    let mut publish = async |count: usize| {
        producer.publish_all(&(0..count).map(|_| feed.event()).collect::<Vec<_>>()).await;
        let wanted = filter(&serde_json::json!({ "symbols": SYMBOLS }));
        cluster.log().await.matching("anybody", &[wanted]).len()
    };
    let due = publish(200).await;
    for one in &mut all {
        one.until(due).await;
    }
    // Connections end without a word while events come.
    publish(100).await;
    all.iter().for_each(|one| one.line.cut());
    publish(200).await;
    all.iter().for_each(|one| one.line.mend());
    let due = publish(100).await + 1;
    producer.publish_all(&[feed::alert("amy", 1), feed::alert("bob", 2)]).await;
    for one in &mut all {
        one.until(due).await;
    }
    let acks = jetstream::new(cluster.client.clone()).get_key_value(names::ACKS_BUCKET).await.unwrap();
    let is_recorded = async || acks.entry("amy").await.unwrap().map(|_| ());
    eventually("the program acknowledges its alert", DEADLINE, is_recorded).await;
    // The end of what was missed comes behind the last event of it.
    let caught_up = || all[0].process.stderr().lines().filter(|line| *line == "caught up").count();
    eventually("the program says that it has caught up", DEADLINE, async || (caught_up() > 0).then_some(())).await;
    assert_eq!(caught_up(), 1);
    let log = cluster.log().await;
    for one in &mut all {
        one.process.interrupt();
        one.process.wait(DEADLINE).await;
        one.assert_exact(&log);
    }

    // The button of the alert was clicked at the end.
    assert!(acks.entry("bob").await.unwrap().is_some());
    // The page shows the newest events, the last on top.
    let [_, page] = &all;
    let output = page.process.stderr();
    let rows = output.lines().find_map(|line| line.strip_prefix("shown ")).expect("the rows are printed");
    let rows: Vec<String> = serde_json::from_str(rows).unwrap();
    let places = rows.iter().map(|row| row.rsplit_once(' ').unwrap().1.to_owned());
    let newest = page.printed().0.into_iter().rev().take(ROWS).map(|event| format!("{}:{}", event.p, event.seq));
    assert_eq!(places.collect::<Vec<_>>(), newest.collect::<Vec<_>>());
    report("examples", &format!("{due} events to each of 2 that were cut off"));
}

#[tokio::test]
async fn the_example_in_python_ends_if_its_token_is_refused() {
    let settings = [("auth.mode", "jwt"), ("auth.jwt_secret", "0123456789abcdef0123456789abcdef")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let url = format!("ws://{}/v1/stream", cluster.gateway_addresses().await[0]);
    let mut command = Command::new(python("python"));
    command.arg(example("subscribe.py")).args(["--url", &url]).env("TICKWIRE_TOKEN", "wrong");
    let mut process = Process::start("subscribe.py", cluster.home(), &mut command);
    assert_eq!(process.wait(DEADLINE).await.code(), Some(1));
    // The error before the close is printed as well, unless the close comes while the program still sends.
    let reason = "this is not a signed token (JWT): it does not have three parts with dots between them";
    assert_eq!(process.stderr().lines().last(), Some(&*format!("closed with 4001: {reason}")));
}

#[tokio::test]
async fn the_commands_of_the_examples_work() {
    let text = fs::read_to_string(example("README.md")).unwrap();
    let blocks = blocks(&text);
    assert!(!blocks.is_empty());
    let dev = Dev::start().await;
    let home = TempDir::with_prefix("tickwire-e2e-examples-").unwrap();
    let folder = home.path().join("folder");
    let tools = home.path().join("tools");
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&tools).unwrap();
    std::os::unix::fs::symlink(example(""), folder.join("examples")).unwrap();
    // `cargo run --example NAME -- …` runs what was built already: Cargo would build all for this alone.
    let shim = format!(
        "#!/bin/sh\n[ \"$1 $2 $4\" = 'run --example --' ] || exit 9\nname=$3\nshift 4\nexec {}/$name \"$@\"\n",
        examples::folder().display()
    );
    fs::write(tools.join("cargo"), shim).unwrap();
    let made_executable = Command::new("chmod").arg("+x").arg(tools.join("cargo")).status().unwrap();
    assert!(made_executable.success());
    let venv = python("python").parent().unwrap().to_owned();
    let path = format!("{}:{}:{}", tools.display(), venv.display(), std::env::var("PATH").unwrap_or_default());
    for (number, block) in (1..).zip(blocks) {
        let block = block.replace("8080", &dev.gateway.port().to_string());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &block])
            .current_dir(&folder)
            .env("PATH", &path)
            .env("TICKWIRE_NATS__URL", &dev.nats_url)
            .env_remove("TICKWIRE_TOKEN");
        let mut process = Process::start(&format!("block-{number}"), home.path(), &mut bash);
        let status = process.wait(DEADLINE).await;
        assert!(status.success(), "block {number} ({status}):\n{block}\n{}{}", process.stdout(), process.stderr());
    }
}
