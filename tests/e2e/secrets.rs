//! Secrets in files are replaced while nodes run: the password for NATS under load, and the secret of tokens. The
//! commands for that in `docs/operations.md` work.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tickwire_core::protocol::Encoding;
use tickwire_core::protocol::codes::CloseCode;
use tickwire_testkit::{NatsServer, Pulse, eventually};
use tokio::task::JoinHandle;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::feed::{self, SYMBOLS};
use crate::node::{DEADLINE, TestNode};
use crate::oracle::{assert_exact, filter};
use crate::producer::Producer;
use crate::readme::blocks;
use crate::socket::Socket;
use crate::status::ask;

const RELOADS: &str = "tickwire_secret_reloads_total";
const FAILURES: &str = "tickwire_secret_reload_failures_total";
const TROUBLES: &str = "tickwire_secret_troubles";

/// A machine on which a process has to wait for this long is too busy to judge outages by: clients are notified of one
/// after a second at the earliest. Shorter pauses of a gateway and of nats-server, one after the other, do not cause it.
const BUSY: Duration = Duration::from_millis(500);

/// Replaces a file at one moment, as Kubernetes does.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

/// Waits until this counter of a node is at least `least` for `what`.
async fn counted(node: &mut TestNode, name: &str, what: &str, least: f64) {
    let label = format!("what=\"{what}\"");
    let text = format!("{} has {least} {name} of {what}", node.id);
    eventually(&text, DEADLINE, async || (node.metrics().await.get_labelled(name, &label) >= least).then_some(()))
        .await;
}

/// The part `secrets` of `/v1/health`.
async fn secrets_part(node: &mut TestNode, token: Option<&str>) -> Value {
    let (status, body) = ask("GET", node.address("admin").await, "/v1/health", token).await;
    assert_eq!(status, 200, "{body}");
    let health: Value = serde_json::from_str(&body).unwrap();
    health["parts"].as_array().unwrap().iter().find(|part| part["name"] == "secrets").unwrap().clone()
}

/// Waits until that part has this status, and returns it.
async fn secrets_are(node: &mut TestNode, status: &str, token: Option<&str>) -> Value {
    let text = format!("the secrets of {} have the status {status}", node.id);
    eventually(&text, DEADLINE, async || Some(secrets_part(node, token).await).filter(|part| part["status"] == status))
        .await
}

/// Publishes until it is stopped, each event until it is acknowledged: a reload of nats-server also ends the
/// connections that did not log in, such as that of the producer.
fn publish(producer: Producer, stop: CancellationToken) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let (mut pace, mut count) = (interval(Duration::from_millis(3)), 0);
        while !stop.is_cancelled() {
            pace.tick().await;
            let message = feed::pattern(SYMBOLS[count % SYMBOLS.len()], count).id(format!("n-{count}"));
            while !producer.try_publish(&message).await {}
            count += 1;
        }
        count
    })
}

struct Users {
    home: TempDir,
}

impl Users {
    fn new(password: &str) -> Self {
        let users = Self { home: TempDir::with_prefix("tickwire-secrets-").unwrap() };
        users.of_server(password);
        replace(&users.password_file(), &format!("{password}\n"));
        users
    }

    fn config(&self) -> PathBuf {
        self.home.path().join("nats.conf")
    }

    fn password_file(&self) -> PathBuf {
        self.home.path().join("password")
    }

    /// Sets the password of the nodes on the server. The test has a user of its own.
    fn of_server(&self, password: &str) {
        let users = format!("{{ user: node, password: {password:?} }}, {{ user: test, password: test }}");
        let text = format!("no_auth_user: test\nauthorization {{ users: [ {users} ] }}\n");
        fs::write(self.config(), text).unwrap();
    }
}

#[tokio::test]
async fn password_for_nats_is_rotated_under_load_without_loss_or_outage() {
    let users = Users::new("first");
    let nats = NatsServer::start_with(&["-js", "-c", users.config().to_str().unwrap()]);
    let file = users.password_file();
    let settings = [("nats.user", "node"), ("nats.password_file", file.to_str().unwrap())];
    let mut cluster = Cluster::start_on(vec![nats], 2, 2, &settings).await;
    let mut sockets = Vec::new();
    for gateway in cluster.gateway_addresses().await {
        let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
        socket.subscribe("all", &json!({})).await;
        sockets.push(socket);
    }
    let (stop, pulse) = (CancellationToken::new(), Pulse::start());
    let publishing = publish(cluster.producer().await, stop.clone());

    // The file first: the server refuses the new password, and the nodes keep their connections.
    replace(&file, "second\n");
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        counted(node, FAILURES, "nats", 1.0).await;
        counted(node, TROUBLES, "nats", 1.0).await;
        secrets_are(node, "warning", None).await;
        let lost = node.metrics().await.get_labelled("tickwire_nats_events_total", "event=\"disconnected\"");
        assert_eq!(lost, 0.0, "{}", node.id);
    }
    // Then the server, which ends their connections. They return with what is in the file.
    users.of_server("second");
    cluster.nats[0].reload();
    for node in &mut cluster.gateways {
        counted(node, RELOADS, "nats", 1.0).await;
        secrets_are(node, "healthy", None).await;
    }
    for node in &mut cluster.routers {
        // A router has two connections.
        counted(node, RELOADS, "nats", 2.0).await;
    }
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        let troubles = node.metrics().await.get_labelled(TROUBLES, "what=\"nats\"");
        assert_eq!(troubles, 0.0, "{} has no trouble that an alert would report", node.id);
    }
    stop.cancel();
    let published = publishing.await.unwrap();
    assert!(published > 100, "{published}");

    let log = cluster.log().await;
    let expected = log.matching("ann", &[filter(&json!({}))]);
    assert_eq!(expected.len(), published);
    for (number, socket) in sockets.iter_mut().enumerate() {
        socket.catch_up(&log.end()).await;
        assert_exact(&format!("client {number}"), &socket.events, &socket.gaps, &expected);
        let codes: Vec<_> = socket.notices.iter().map(|notice| notice.code.as_str()).collect();
        let is_busy = pulse.longest() > BUSY;
        assert!(is_busy || !codes.contains(&"upstream_lost"), "client {number}: {codes:?}");
    }
}

#[tokio::test]
async fn nodes_wait_for_the_right_password_and_say_so() {
    let users = Users::new("first");
    let nats = NatsServer::start_with(&["-js", "-c", users.config().to_str().unwrap()]);
    let file = users.password_file();
    let settings = [("nats.user", "node"), ("nats.password_file", file.to_str().unwrap())];
    let mut cluster = Cluster::start_on(vec![nats], 1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let mut socket = Socket::connect(gateway, "ann", Encoding::Json).await;
    socket.subscribe("all", &json!({})).await;
    let stop = CancellationToken::new();
    let publishing = publish(cluster.producer().await, stop.clone());

    users.of_server("second");
    cluster.nats[0].reload();
    for node in cluster.routers.iter().chain(&cluster.gateways) {
        let text = format!("{} logs the refusal", node.id);
        let refusal = "NATS refused the login";
        eventually(&text, DEADLINE, async || node.process.stderr().contains(refusal).then_some(())).await;
    }
    replace(&file, "second\n");
    cluster.settled().await;
    stop.cancel();
    publishing.await.unwrap();
    let log = cluster.log().await;
    socket.catch_up(&log.end()).await;
    assert_exact("the client", &socket.events, &socket.gaps, &log.matching("ann", &[filter(&json!({}))]));
}

/// The code with which a connection is closed after its error.
async fn refusal(mut socket: Socket) -> u16 {
    socket.error().await;
    socket.closed().await.0
}

fn token(secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "sub": "ann", "exp": now + 600, "role": "operator" });
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

#[tokio::test]
async fn tokens_of_the_former_secret_work_in_the_overlap_and_sessions_stay_open() {
    let home = TempDir::with_prefix("tickwire-secrets-").unwrap();
    let (secret_file, former_file) = (home.path().join("secret"), home.path().join("former"));
    let [old, new] = ["o", "n"].map(|letter| letter.repeat(40));
    replace(&secret_file, &old);
    replace(&former_file, "");
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt_secret_file", secret_file.to_str().unwrap()),
        ("auth.jwt_former_secret_file", former_file.to_str().unwrap()),
        ("admin.require_token", "always"),
    ];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let (of_old, of_new) = (token(&old), token(&new));
    let open = async |token: &str| Socket::open(gateway, &format!("?token={token}"), Encoding::Json).await;
    let mut session = open(&of_old).await;
    session.welcome().await;
    session.subscribe("all", &json!({})).await;
    assert_eq!(refusal(open(&of_new).await).await, CloseCode::AuthFailed.code());

    // A file that becomes invalid changes nothing.
    replace(&secret_file, "short");
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        counted(node, FAILURES, "tokens", 1.0).await;
        let part = secrets_are(node, "warning", Some(&of_old)).await;
        assert!(part["message"].as_str().unwrap().contains("auth.jwt_secret_file"), "{part}");
    }
    open(&of_old).await.welcome().await;

    replace(&former_file, &old);
    replace(&secret_file, &new);
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        counted(node, RELOADS, "tokens", 1.0).await;
        for token in [&of_old, &of_new] {
            secrets_are(node, "healthy", Some(token)).await;
        }
    }
    for token in [&of_old, &of_new] {
        open(token).await.welcome().await;
    }

    replace(&former_file, "");
    counted(&mut cluster.gateways[0], RELOADS, "tokens", 2.0).await;
    open(&of_new).await.welcome().await;
    assert_eq!(refusal(open(&of_old).await).await, CloseCode::AuthFailed.code());
    // The session of the old token goes on, and can only renew it with one of the new secret.
    let refused = session.refused(json!({ "action": "auth", "token": of_old })).await;
    assert!(refused.msg.contains("signature"), "{refused:?}");
    cluster.producer().await.publish(&feed::pattern("AAPL", 0)).await;
    session.until(1).await;
}

#[test]
fn commands_of_operations_succeed() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let blocks = blocks(&fs::read_to_string(document).unwrap());
    assert_eq!(blocks.len(), 1);
    let home = TempDir::with_prefix("tickwire-secrets-").unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_tickwire"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for block in blocks {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &block]).env("PATH", &path).env("TMPDIR", home.path());
        let output = bash.output().unwrap();
        let (out, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{block}\n{out}{errors}");
        let token = out.strip_prefix("ok\n").unwrap();
        assert_eq!(token.trim_end().split('.').count(), 3, "{out}");
    }
}
