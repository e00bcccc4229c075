//! Third-party clients and producers, with the programs of `docs/clients.md`: all get the same events, answer pings,
//! resume after an abrupt end, and close with 1000.

mod alerts;
mod programs;
mod refused;
mod tap;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_core::protocol::{Encoding, Gap, Notice, ReceivedEvent, ServerMessage};
use tickwire_testkit::{Process, eventually};

use super::tools::{debian, node_modules, python, report, script};
use crate::cluster::Cluster;
use crate::feed::RunningFeed;
use crate::oracle::{Log, assert_exact, filter};
use crate::producer::Producer;

use alerts::SentAlerts;
use programs::Programs;
use tap::{PING, TEXT, Tap, are_answered, close_code};

/// The deadline of any step of all programs together, with two browsers and two Java machines.
const DEADLINE: Duration = Duration::from_secs(120);

/// The symbols to which every program of the document subscribes.
const SYMBOLS: [&str; 3] = ["AAPL", "NVDA", "SPY"];

/// The runtime of a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Node,
    Python,
    Java,
    Chromium,
    Bash,
}

/// A program of the document.
struct Program {
    name: &'static str,
    file: &'static str,
    by: By,
    /// An edit of the program, if any.
    edit: Option<(&'static str, &'static str)>,
    /// The extensions that its upgrade offers.
    offers: Option<&'static str>,
}

impl Program {
    const fn new(file: &'static str, by: By, offers: Option<&'static str>) -> Self {
        Self { name: file, file, by, edit: None, offers }
    }

    /// The program of the package `ws`, with other socket options.
    const fn ws(name: &'static str, edit: &'static str, offers: Option<&'static str>) -> Self {
        let edit = Some((r#"import WebSocket from "ws";"#, edit));
        Self { name, file: "ws-resume.mjs", by: By::Node, edit, offers }
    }
}

/// The shortest program of each client.
static SHORTEST: [Program; 9] = [
    Program::new("ws.mjs", By::Node, Some("permessage-deflate; client_max_window_bits")),
    Program::new("undici.mjs", By::Node, Some("permessage-deflate; client_max_window_bits")),
    Program::new("browser.js", By::Chromium, Some("permessage-deflate; client_max_window_bits")),
    Program::new("websockets_async.py", By::Python, Some("permessage-deflate; client_max_window_bits")),
    Program::new("websockets_sync.py", By::Python, Some("permessage-deflate; client_max_window_bits")),
    Program::new("aiohttp_client.py", By::Python, None),
    Program::new("websocket_client.py", By::Python, None),
    Program::new("Client.java", By::Java, None),
    Program::new("wscat.sh", By::Bash, Some("permessage-deflate; client_max_window_bits")),
];

/// The program of each client that resumes after a break. Those of `ws` also offer extensions that no gateway accepts.
static RESUMING: [Program; 11] = [
    Program::new("ws-resume.mjs", By::Node, Some("permessage-deflate; client_max_window_bits")),
    Program::ws(
        "ws-plain",
        r#"import Plain from "ws";
           class WebSocket extends Plain {
             constructor(url, protocol) { super(url, protocol, { perMessageDeflate: false }); }
           }"#,
        None,
    ),
    Program::ws(
        "ws-narrow",
        r#"import Plain from "ws";
           const perMessageDeflate = {
             serverNoContextTakeover: true, clientNoContextTakeover: true, serverMaxWindowBits: 9, clientMaxWindowBits: 10,
           };
           class WebSocket extends Plain {
             constructor(url, protocol) { super(url, protocol, { perMessageDeflate }); }
           }"#,
        Some(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; \
             client_max_window_bits=10",
        ),
    ),
    Program::ws(
        "ws-strange",
        r#"import Plain from "ws";
           const offers = 'permessage-deflate; server_max_window_bits="99"; x, x-what; a="b, c"; d, permessage-deflate';
           class WebSocket extends Plain {
             constructor(url, protocol) {
               super(url, protocol, { perMessageDeflate: false, headers: { "Sec-WebSocket-Extensions": offers } });
             }
           }"#,
        Some(r#"permessage-deflate; server_max_window_bits="99"; x, x-what; a="b, c"; d, permessage-deflate"#),
    ),
    Program::new("undici-resume.mjs", By::Node, Some("permessage-deflate; client_max_window_bits")),
    Program::new("browser-resume.js", By::Chromium, Some("permessage-deflate; client_max_window_bits")),
    Program::new("websockets_async_resume.py", By::Python, Some("permessage-deflate; client_max_window_bits")),
    Program::new("websockets_sync_resume.py", By::Python, Some("permessage-deflate; client_max_window_bits")),
    Program::new("aiohttp_resume.py", By::Python, None),
    Program::new("websocket_client_resume.py", By::Python, None),
    Program::new("Resume.java", By::Java, None),
];

/// The producers, and their output.
const PRODUCERS: [(&str, By, &str); 4] = [
    ("nats-js.mjs", By::Node, "false\ntrue\n"),
    ("nats_py.py", By::Python, "False\nTrue\n"),
    ("nats-js-core.mjs", By::Node, ""),
    ("nats_py_core.py", By::Python, ""),
];

/// The modules that the programs import.
const MODULES: [&str; 2] = ["follow.js", "session.py"];

/// The command that runs a file of this folder.
fn command(by: By, folder: &Path, file: &str) -> Command {
    // A shell makes background processes ignore Ctrl-C.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").current_dir(folder);
    match by {
        By::Node => command.arg(debian("/usr/bin/node")).arg(file),
        By::Python => command.arg(python("python")).arg(file),
        By::Java => {
            command.arg(debian("/usr/bin/java")).args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]).arg(file)
        }
        By::Bash => command.args(["bash", "-euo", "pipefail", file]),
        By::Chromium => {
            std::fs::copy(script("clients/chromium.mjs"), folder.join("chromium.mjs")).unwrap();
            let driver = command.arg(debian("/usr/bin/node")).arg("chromium.mjs");
            driver.arg(debian("/usr/bin/chromium")).arg(folder).arg(file)
        }
    };
    command
}

/// A running program, and the line between it and its gateway.
struct ForeignClient {
    program: &'static Program,
    user: String,
    process: Process,
    tap: Tap,
}

/// The output of a client.
#[derive(Default)]
struct Printed {
    events: Vec<ReceivedEvent>,
    gaps: Vec<Gap>,
    notices: Vec<Notice>,
}

impl ForeignClient {
    async fn start(program: &'static Program, programs: &Programs, home: &Path, cluster: &mut Cluster) -> Self {
        let tap = Tap::to(cluster.gateways[0].gateway().await).await;
        // The default rate of events is per user.
        let user = program.name.replace(['-', '.'], "_");
        let folder = home.join(program.name);
        programs.write(&folder, tap.address, &user, &cluster.nats_url());
        if let Some((what, by)) = program.edit {
            let file = folder.join(program.file);
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(what), "{}: nothing to change", program.name);
            std::fs::write(&file, text.replace(what, by)).unwrap();
        }
        let process = Process::start(program.name, home, &mut command(program.by, &folder, program.file));
        Self { program, user, process, tap }
    }

    /// Its output in whole lines: each is a message of the gateway, or a frame with several.
    fn printed(&self) -> Printed {
        let mut printed = Printed::default();
        let text = self.process.stdout();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let frame = match line.chars().next() {
                Some('[') => line.trim().to_owned(),
                Some('{') => format!("[{}]", line.trim()),
                _ => panic!("{}: not a message: {line:?}", self.program.name),
            };
            for message in ServerMessage::parse(frame.as_bytes(), Encoding::Json).unwrap() {
                match message {
                    ServerMessage::Event(event) => printed.events.push(*event),
                    ServerMessage::Gap(gap) => printed.gaps.push(gap),
                    ServerMessage::Notice(notice) => printed.notices.push(notice),
                    _ => {}
                }
            }
        }
        printed
    }

    /// Waits until it has printed this many events.
    async fn until(&mut self, events: usize) {
        let what = format!("{} prints {events} events", self.program.name);
        eventually(&what, DEADLINE, async || {
            assert_eq!(self.process.exit(), None, "{} has ended: {}", self.program.name, self.process.stderr());
            (self.printed().events.len() >= events).then_some(())
        })
        .await;
    }

    /// Fails unless it has printed its events, once and in order, without gaps and notices.
    fn assert_exact(&self, log: &Log) {
        let wanted = filter(&serde_json::json!({ "symbols": SYMBOLS }));
        let Printed { events, gaps, notices } = self.printed();
        // On a busy machine a node may be late.
        let of_events: Vec<_> = notices.iter().filter(|notice| !notice.code.starts_with("upstream_")).collect();
        assert!(of_events.is_empty(), "{}: {of_events:?}", self.program.name);
        assert_exact(self.program.name, &events, &gaps, &log.matching(&self.user, &[wanted]));
    }

    /// Fails unless its upgrades have offered the expected extensions and got none.
    fn assert_upgrade(&self) {
        let name = self.program.name;
        self.tap.look(|noted| {
            for one in noted {
                let offers = header(&one.request, "sec-websocket-extensions");
                assert_eq!(offers.as_deref(), self.program.offers, "{name}: {}", one.request);
                assert_eq!(header(&one.answer, "sec-websocket-extensions"), None, "{name}: {}", one.answer);
                assert_eq!(header(&one.answer, "sec-websocket-protocol").as_deref(), Some("tickwire.v1.json"));
            }
        });
    }

    /// Fails unless it has resumed after the break and closed with 1000.
    fn assert_resumed(&self) {
        let name = self.program.name;
        self.tap.look(|noted| {
            let [first, second] = noted else { panic!("{name}: {} connections", noted.len()) };
            assert!(first.texts()[0].contains(r#""subscribe""#), "{name}: {:?}", first.texts());
            let resume: serde_json::Value = serde_json::from_str(&second.texts()[0]).unwrap();
            assert!(resume["action"] == "resume" && resume["position"].is_string(), "{name}: {resume}");
            assert_eq!((close_code(&first.client), close_code(&first.gateway)), (None, None), "{name}: an abrupt end");
            assert_eq!((close_code(&second.client), close_code(&second.gateway)), (Some(1000), Some(1000)), "{name}");
            if self.program.by == By::Java {
                let parts = second.client.iter().take(2).map(|frame| (frame.opcode(), frame.is_last()));
                assert_eq!(parts.collect::<Vec<_>>(), [(TEXT, false), (0, true)], "{name}: a text in two parts");
            }
        });
    }

    /// Whether the gateway has answered the close of its last connection. A program may end before it has read that.
    fn is_close_answered(&self) -> bool {
        self.tap.look(|noted| noted.last().is_some_and(|one| close_code(&one.gateway).is_some()))
    }

    /// Whether pings of both sides were answered. The client pings by WebSocket or by the action.
    fn pings_are_answered(&self) -> bool {
        self.tap.look(|noted| {
            let [one] = noted else { return false };
            let by_action = one.texts().iter().any(|text| text.contains(r#""ping""#));
            let is_answered = match self.program.by {
                By::Chromium => by_action && one.gateway.iter().any(|frame| contains(&frame.payload, br#""T":"pong""#)),
                _ => are_answered(&one.client, &one.gateway),
            };
            is_answered && are_answered(&one.gateway, &one.client)
        })
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The value of a header.
fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
    Some(value.trim().to_owned())
}

/// Publishes `count` events of all kinds.
async fn publish(producer: &Producer, feed: &mut RunningFeed, count: usize) {
    producer.publish_all(&(0..count).map(|_| feed.event()).collect::<Vec<_>>()).await;
}

/// How many events of the stream match the clients' filters.
async fn matching_count(cluster: &Cluster) -> usize {
    let wanted = filter(&serde_json::json!({ "symbols": SYMBOLS }));
    cluster.log().await.matching("anybody", &[wanted]).len()
}

#[test]
fn all_documented_programs_are_tested() {
    let programs = SHORTEST.iter().chain(&RESUMING).map(|program| program.file);
    let run: BTreeSet<&str> = programs.chain(PRODUCERS.map(|(file, ..)| file)).chain(MODULES).collect();
    assert_eq!(Programs::read().names().collect::<BTreeSet<_>>(), run);
}

#[tokio::test]
async fn third_party_clients_get_all_events_and_resume() {
    let mut cluster = Cluster::as_shipped().await;
    cluster.add_router();
    cluster.add_gateway();
    cluster.settled().await;
    let programs = Programs::read();
    let home = TempDir::with_prefix("tickwire-e2e-clients-").unwrap();
    std::os::unix::fs::symlink(node_modules(), home.path().join("node_modules")).unwrap();
    let mut clients = Vec::new();
    for program in SHORTEST.iter().chain(&RESUMING) {
        clients.push(ForeignClient::start(program, &programs, home.path(), &mut cluster).await);
    }
    for ForeignClient { program, tap, process, .. } in &mut clients {
        eventually(&format!("{} subscribes", program.name), DEADLINE, async || {
            assert_eq!(process.exit(), None, "{} has ended: {}", program.name, process.stderr());
            tap.look(|noted| noted.last().is_some_and(tap::Noted::is_subscribed)).then_some(())
        })
        .await;
    }

    // Producers publish to all of them.
    let (producer, mut feed) = (cluster.producer().await, RunningFeed::new(17));
    publish(&producer, &mut feed, 200).await;
    let folder = home.path().join("producers");
    programs.write(&folder, clients[0].tap.address, "nobody", &cluster.nats_url());
    for (file, by, printed) in PRODUCERS {
        let before = cluster.log().await.entries.len();
        let mut process = Process::start(file, home.path(), &mut command(by, &folder, file));
        assert!(process.wait(DEADLINE).await.success(), "{file}: {}", process.stderr());
        assert_eq!(process.stdout(), printed, "{file}: {}", process.stderr());
        assert_eq!(cluster.log().await.entries.len(), before + 1, "{file} stores one event");
    }
    let events = matching_count(&cluster).await;
    for client in &mut clients {
        client.until(events).await;
    }

    // The shortest programs are done.
    let log = cluster.log().await;
    let resuming = clients.split_off(SHORTEST.len());
    for client in &mut clients {
        client.assert_upgrade();
        client.assert_exact(&log);
        if client.program.by == By::Chromium {
            // If it was killed, it would leave the folder of its profile behind.
            client.process.interrupt();
            client.process.wait(DEADLINE).await;
        }
    }
    let (shortest, mut clients) = (clients.len(), resuming);

    for client in &clients {
        let what = format!("pings of both sides are answered: {}", client.program.name);
        eventually(&what, DEADLINE, async || client.pings_are_answered().then_some(())).await;
    }
    let mut alerts = SentAlerts::to(&clients).await;
    alerts::delete_bucket(&cluster).await;
    alerts.publish(&producer, &clients).await;
    alerts.are_acknowledged(&clients).await;
    // Connections end abruptly while events arrive.
    publish(&producer, &mut feed, 100).await;
    clients.iter().for_each(|client| client.tap.cut());
    alerts.publish(&producer, &clients).await;
    publish(&producer, &mut feed, 200).await;
    clients.iter().for_each(|client| client.tap.mend());
    publish(&producer, &mut feed, 100).await;
    alerts.are_acknowledged(&clients).await;
    let events = matching_count(&cluster).await;
    for client in &mut clients {
        client.until(events).await;
        client.process.interrupt();
    }
    let log = cluster.log().await;
    for client in &mut clients {
        client.process.wait(DEADLINE).await;
        let what = format!("the close of {} is answered", client.program.name);
        eventually(&what, DEADLINE, async || client.is_close_answered().then_some(())).await;
        client.assert_exact(&log);
        client.assert_upgrade();
        client.assert_resumed();
    }
    let pings = clients[0].tap.look(|noted| noted[0].gateway.iter().filter(|frame| frame.opcode() == PING).count());
    assert!(pings > 0);
    report(
        "clients",
        &format!(
            "{events} events to each of {} that were cut off; {shortest} shortest forms; 4 producers",
            clients.len()
        ),
    );
}
