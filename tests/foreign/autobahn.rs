//! The cases of the Autobahn test suite, run by PyPI's `kosoku`: all of WebSocket except speed and compression, with a
//! gateway, and with the library of the Rust client.

mod strip;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_client::websocket_limits;
use tickwire_testkit::{Process, eventually};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::tools::{python, report};
use crate::cluster::Cluster;
use crate::node::DEADLINE;

use strip::strip;

/// How many cases run at the same time. Most of them wait for a second.
const AT_ONCE: usize = 16;

/// How long all of them may take together.
const ALL_DEADLINE: Duration = Duration::from_secs(120);

/// How many cases the sections 2 to 7 have, and the first one.
const CASES: usize = 230;
const CASES_OF_ECHOES: usize = 16;

/// The result of one case.
struct Case {
    id: String,
    behavior: String,
    behavior_close: String,
    /// The close code of the other side, if it closed.
    code: Option<u64>,
    /// Whether the case expects an echo for this verdict.
    wants_echo: BTreeMap<String, bool>,
}

impl Case {
    fn read(file: &Path) -> Self {
        let seen: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let text = |name: &str| seen[name].as_str().unwrap().to_owned();
        let has_message = |events: &Value| events.as_array().unwrap().iter().any(|event| event[0] == "message");
        let expected = seen["expected"].as_object().unwrap();
        Self {
            id: text("id"),
            behavior: text("behavior"),
            behavior_close: text("behaviorClose"),
            code: seen["remoteCloseCode"].as_u64(),
            wants_echo: expected.iter().map(|(verdict, events)| (verdict.clone(), has_message(events))).collect(),
        }
    }

    /// Whether the result is right. `NON-STRICT` is only right for a case that wants an echo for `OK`. For other cases
    /// it is a fault: for example, invalid UTF-8 must be refused while it arrives.
    fn is_right(&self) -> bool {
        let is_strict = self.behavior == "OK";
        let would_take_an_echo = self.behavior == "NON-STRICT" && self.wants_echo.get("OK") == Some(&true);
        (is_strict || would_take_an_echo) && self.behavior_close == "OK"
    }

    fn shown(&self) -> String {
        format!("{}: {}, close {} {:?}", self.id, self.behavior, self.behavior_close, self.code)
    }
}

/// Whether a case needs an echo of a valid message, so that a server without echo cannot pass it.
fn needs_echo(id: &str) -> bool {
    match id.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>()[..] {
        // Valid fragmented messages, with or without pings in between.
        [5, 3..=8 | 19 | 20] => true,
        // Valid UTF-8: empty, whole, in fragments, each kind of character, the first and the last of each length,
        // around surrogates, noncharacters, the replacement character.
        [6, 1 | 2 | 5 | 7 | 9 | 22 | 23, _] | [6, 11, 1..=4] => true,
        // A multi-byte text of growing length, where it ends with a whole character.
        [6, 6, 2 | 5 | 7 | 9 | 11] => true,
        // A message before the close.
        [7, 1, 1] => true,
        _ => false,
    }
}

/// Whether RFC 6455 does not define the expected result of a case, so that every result is `INFORMATIONAL`.
fn is_open(id: &str) -> bool {
    // A large echo right before the close; closes with the codes 5000 and 65535.
    ["7.1.6", "7.13.1", "7.13.2"].contains(&id)
}

/// The sections from here to the seventh, as arguments.
fn sections(first: u32) -> Vec<String> {
    (first..=7).flat_map(|section| ["-i".to_owned(), format!("{section}.*")]).collect()
}

/// Reads the reports of all cases.
fn read(folder: &Path) -> Vec<Case> {
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let agents = index.as_object().unwrap().values();
    let cases = agents.flat_map(|cases| cases.as_object().unwrap().values());
    cases.map(|case| Case::read(&folder.join(case["reportfile"].as_str().unwrap()))).collect()
}

#[tokio::test]
async fn gateway_passes_the_autobahn_cases_for_servers() {
    let mut cluster = Cluster::start_with_defaults(1, 1).await;
    let target = format!("/v1/stream{}", cluster.query("autobahn"));
    let address = strip(cluster.gateways[0].gateway().await, target).await;
    let home = TempDir::with_prefix("tickwire-e2e-autobahn-").unwrap();
    let mut command = Command::new(python("kosoku"));
    command.args(sections(2)).args(["-p", &AT_ONCE.to_string(), "-o", "seen", &address.to_string()]);
    let mut kosoku = Process::start("kosoku", home.path(), command.current_dir(home.path()));
    // The suite fails all cases that want an echo, and so fails itself.
    kosoku.wait(ALL_DEADLINE).await;
    let cases = read(&home.path().join("seen"));
    assert_eq!(cases.len(), CASES, "{}", kosoku.stderr());

    let (open, judged): (Vec<_>, Vec<_>) = cases.iter().partition(|case| is_open(&case.id));
    for case in &judged {
        let wants_echo = case.wants_echo.values().all(|wants| *wants);
        assert_eq!(wants_echo, needs_echo(&case.id), "{}: {:?}", case.id, case.wants_echo);
    }
    let (echoes, others): (Vec<_>, Vec<_>) = judged.into_iter().partition(|case| needs_echo(&case.id));
    let wrong: Vec<_> = others.iter().filter(|case| !case.is_right()).map(|case| case.shown()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // At least, valid messages are not refused: a close only answers that of the other side.
    let refused: Vec<_> = echoes.iter().filter(|case| case.code.is_some_and(|code| code != 1000)).collect();
    assert!(refused.is_empty(), "{:#?}", refused.iter().map(|case| case.shown()).collect::<Vec<_>>());
    let codes: Vec<_> = open.iter().map(|case| (&case.id[..], case.code)).collect();
    assert_eq!(codes, [("7.1.6", Some(1000)), ("7.13.1", Some(1002)), ("7.13.2", Some(1002))]);

    let strict = others.iter().filter(|case| case.behavior == "OK").count();
    let (right, echoes, open) = (others.len(), echoes.len(), open.len());
    report(
        "autobahn/gateway",
        &format!("{right} cases right ({strict} strictly); {echoes} want an echo, {open} are open"),
    );
}

/// Connects with the library of the Rust client, in the same configuration.
async fn connect(server: &str, path: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(server).await.unwrap();
    let url = format!("ws://{server}{path}");
    client_async_with_config(url, stream, Some(websocket_limits())).await.unwrap().0
}

/// Echoes messages until the connection ends.
async fn echo(server: &str, path: &str) {
    let mut socket = connect(server, path).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn client_library_passes_the_autobahn_cases_for_clients() {
    let home = TempDir::with_prefix("tickwire-e2e-autobahn-").unwrap();
    let mut command = Command::new(python("kosoku"));
    command.args(["-m", "fuzzingserver"]).args(sections(1)).args(["-o", "seen", "127.0.0.1:0"]);
    let mut kosoku = Process::start("kosoku", home.path(), command.current_dir(home.path()));
    let server = eventually("the server prints its address", DEADLINE, async || {
        assert_eq!(kosoku.exit(), None, "it has ended: {}", kosoku.stderr());
        let output = kosoku.stderr();
        Some(output.split_once("ws://")?.1.split_once('\n')?.0.to_owned())
    })
    .await;
    let count = connect(&server, "/getCaseCount").await.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(count.parse(), Ok(CASES + CASES_OF_ECHOES));
    let echoes = futures_util::stream::iter(1..=CASES + CASES_OF_ECHOES)
        .for_each_concurrent(AT_ONCE, async |case| echo(&server, &format!("/runCase?case={case}&agent=client")).await);
    timeout(ALL_DEADLINE, echoes).await.expect("all cases end");
    echo(&server, "/updateReports?agent=client").await;
    kosoku.wait(DEADLINE).await;

    let cases = read(&home.path().join("seen"));
    assert_eq!(cases.len(), CASES + CASES_OF_ECHOES, "{}", kosoku.stderr());
    let (open, judged): (Vec<_>, Vec<_>) = cases.iter().partition(|case| is_open(&case.id));
    // A client may refuse invalid UTF-8 only when a fragment is complete.
    let is_right = |case: &Case| ["OK", "NON-STRICT"].contains(&&case.behavior[..]) && case.behavior_close == "OK";
    let wrong: Vec<_> = judged.iter().filter(|case| !is_right(case)).map(|case| case.shown()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let strict = judged.iter().filter(|case| case.behavior == "OK").count();
    let (right, open) = (judged.len(), open.len());
    report("autobahn/client", &format!("{right} cases right ({strict} strictly); {open} are open"));
}
