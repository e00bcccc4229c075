//! A nats-server with the configuration that is shipped, and clients of its users.

use async_nats::{Client, ConnectOptions, Event};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tickwire_testkit::{NatsServer, eventually};

use crate::node::{DEADLINE, TestNode};

/// The settings of the nodes: clients name themselves, nodes notice each other sooner than by default, and a late
/// confirmation on a busy machine causes no gap.
const SETTINGS: [(&str, &str); 8] = [
    ("auth.mode", "dev"),
    ("gateway.confirm_timeout", "15s"),
    ("gateway.rate", "0"),
    ("membership.beat_interval", "200ms"),
    ("membership.timeout", "1500ms"),
    ("membership.lease_ttl", "1s"),
    ("membership.tick_interval", "500ms"),
    ("router.checkpoint_interval", "200ms"),
];

/// A server with a copy of `deploy/nats`.
#[derive(Debug)]
pub(crate) struct SecuredNats {
    pub(crate) server: NatsServer,
    folder: TempDir,
}

/// A connection of one user, with what the server has refused to it.
pub(crate) struct SecuredClient {
    pub(crate) client: Client,
    refusals: Arc<Mutex<Vec<String>>>,
}

/// A user with the permissions of another one but for one line.
#[derive(Debug)]
pub(crate) struct LackingUser {
    pub(crate) name: String,
    /// The other one.
    pub(crate) of: String,
    /// Whether the line is one of those for publishing, else for subscribing.
    pub(crate) is_publish: bool,
    /// The subject of the line, which may have a queue group behind it.
    pub(crate) line: String,
}

impl SecuredNats {
    /// Makes users with these arguments of `make-users`, and starts the server.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::launched(copied(), arguments)
    }

    /// Starts a server on which a role has all permissions but for this subject.
    pub(crate) fn start_lacking(role: &str, subject: &str) -> Self {
        let folder = copied();
        let file = folder.path().join("roles").join(format!("{role}.conf"));
        let (all, line) = (fs::read_to_string(&file).unwrap(), format!("  \"{subject}\""));
        let kept: Vec<&str> = all.lines().filter(|kept| !kept.starts_with(&line)).collect();
        assert!(kept.len() < all.lines().count(), "{role} has no {subject}");
        fs::write(&file, kept.join("\n")).unwrap();
        Self::launched(folder, &[])
    }

    /// Makes users with these arguments and further ones that lack a line, and starts the server.
    pub(crate) fn start_with_lacking(arguments: &[&str]) -> (Self, Vec<LackingUser>) {
        let folder = copied();
        make_users(folder.path(), arguments);
        let lacking = add_lacking(folder.path());
        (Self { server: NatsServer::start_configured(&folder.path().join("single.conf")), folder }, lacking)
    }

    /// The same on a leaf node of the server whose address for leaf nodes is this. The leaf node has no JetStream.
    pub(crate) fn start_leaf_with_lacking(hub: &str, arguments: &[&str]) -> (Self, Vec<LackingUser>) {
        let folder = copied();
        make_users(folder.path(), arguments);
        let lacking = add_lacking(folder.path());
        let config = folder.path().join("leaf.conf");
        let account = "accounts { TICKWIRE { include ./secrets/users.conf } }\n";
        let remotes = format!("leafnodes {{ remotes: [ {{ url: \"nats-leaf://{hub}\", account: TICKWIRE }} ] }}\n");
        fs::write(&config, format!("server_name: leaf\n{account}{remotes}")).unwrap();
        (Self { server: NatsServer::start_with(&["-c", config.to_str().unwrap()]), folder }, lacking)
    }

    fn launched(folder: TempDir, arguments: &[&str]) -> Self {
        make_users(folder.path(), arguments);
        Self { server: NatsServer::start_configured(&folder.path().join("single.conf")), folder }
    }

    pub(crate) fn password(&self, user: &str) -> String {
        fs::read_to_string(self.folder.path().join("secrets").join(format!("{user}.password"))).unwrap()
    }

    /// Starts a node as this user.
    pub(crate) fn node(&self, role: &str, id: &str, user: &str, further: &[(&str, &str)]) -> TestNode {
        let (url, password) = (self.server.url(), self.password(user));
        let login = [("nats.url", url.as_str()), ("nats.user", user), ("nats.password", password.as_str())];
        let settings = SETTINGS.iter().chain(&login).chain(further);
        let settings: Vec<_> = settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        TestNode::start(role, id, self.folder.path(), &settings)
    }

    /// The arguments of a command of `tickwire` for this user.
    pub(crate) fn login(&self, user: &str) -> [String; 4] {
        let password = self.password(user);
        ["--set".to_owned(), format!("nats.user={user}"), "--set".to_owned(), format!("nats.password={password}")]
    }

    /// Connects as this user.
    pub(crate) async fn connect(&self, user: &str, inboxes: &str) -> SecuredClient {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let of_events = Arc::clone(&refusals);
        let options = ConnectOptions::with_user_and_password(user.to_owned(), self.password(user));
        let options = options.custom_inbox_prefix(inboxes).event_callback(move |event| {
            if let Event::ServerError(refusal) = event {
                of_events.lock().unwrap().push(refusal.to_string());
            }
            std::future::ready(())
        });
        SecuredClient { client: options.connect(self.server.url()).await.unwrap(), refusals }
    }

    /// What the server has denied to any client, as its log says it.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.server.log().lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }
}

/// A copy of what is shipped.
fn copied() -> TempDir {
    let folder = TempDir::with_prefix("tickwire-e2e-nats-").unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats");
    for part in ["single.conf", "server.conf", "jetstream.conf", "accounts.conf", "roles", "make-users"] {
        let copied = Command::new("cp").arg("-r").arg(shipped.join(part)).arg(folder.path()).status().unwrap();
        assert!(copied.success(), "{part}");
    }
    folder
}

/// Runs `make-users` of a copy with these arguments.
fn make_users(folder: &Path, arguments: &[&str]) {
    let made = Command::new(folder.join("make-users")).args(arguments).status().unwrap();
    assert!(made.success());
}

/// Adds a user for each line of each user, who lacks this line.
fn add_lacking(folder: &Path) -> Vec<LackingUser> {
    let secrets = folder.join("secrets");
    let file = secrets.join("users.conf");
    let text = fs::read_to_string(&file).unwrap();
    let users = text.strip_prefix("users: [\n").unwrap().strip_suffix("]\n").unwrap();
    let (mut all, mut lacking) = (users.to_owned(), Vec::new());
    for user in users.split_inclusive("} }\n") {
        let (of, rest) = user.strip_prefix("{ user: ").unwrap().split_once(',').unwrap();
        let lines: Vec<&str> = rest.lines().collect();
        let mut is_publish = true;
        for (number, line) in lines.iter().enumerate() {
            is_publish &= !line.starts_with("subscribe");
            let quoted = line.trim_start().strip_prefix('"').and_then(|line| line.split_once('"'));
            let Some((line, _)) = quoted else { continue };
            let name = format!("{of}-{number}");
            let kept = [&lines[..number], &lines[number + 1..]].concat().join("\n");
            all.push_str(&format!("{{ user: {name},{kept}\n"));
            let password = |user: &str| secrets.join(format!("{user}.password"));
            fs::copy(password(of), password(&name)).unwrap();
            lacking.push(LackingUser { name, of: of.to_owned(), is_publish, line: line.to_owned() });
        }
    }
    fs::write(&file, format!("users: [\n{all}]\n")).unwrap();
    lacking
}

impl SecuredClient {
    /// Fails unless the server denies each of these acts.
    pub(crate) async fn is_denied(&self, publishes: &[&str], subscribes: &[&str]) {
        let mut subscriptions = Vec::new();
        for subject in subscribes {
            subscriptions.push(self.client.subscribe((*subject).to_owned()).await.unwrap());
        }
        for subject in publishes {
            self.client.publish((*subject).to_owned(), "".into()).await.unwrap();
        }
        let published = publishes.iter().map(|subject| format!("Publish to \"{subject}\""));
        let subscribed = subscribes.iter().map(|subject| format!("Subscription to \"{subject}\""));
        let expected: BTreeSet<String> = published.chain(subscribed).collect();
        let mut allowed = expected.clone();
        // The server denies in order: when it denies the last act, it has allowed those that it has not denied.
        self.client.publish("denied.at.the.end", "".into()).await.unwrap();
        eventually("the server denies the last act", DEADLINE, async || {
            let refusals = self.refusals.lock().unwrap();
            let is_denied = |act: &str| refusals.iter().any(|refusal| refusal.contains(act));
            allowed.retain(|act| !is_denied(act));
            is_denied("denied.at.the.end").then_some(())
        })
        .await;
        assert!(allowed.is_empty(), "the server allows {allowed:?}");
    }
}
