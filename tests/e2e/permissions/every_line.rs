//! Each line of the permissions that are shipped is needed, and the doctor names it if it is missing: for each line
//! there is a user that has all others of its role.

use async_nats::jetstream::{self, Context};
use futures_util::TryStreamExt;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use tickwire_command::args::NatsArgs;
use tickwire_node::config::Secret;
use tickwire_node::nats::Nats;
use tickwire_node::provision::{BUCKETS, provision};

use super::secured::{LackingUser, SecuredNats};
use super::start_hub;
use crate::node::tickwire;

/// How many doctors run at a time: they mostly wait for the server.
const TOGETHER: usize = 8;

/// What the lines for a server outside the domain begin with.
const IN_DOMAIN: &str = "$JS.hub.API.";

/// Something that the doctor says the user may not do.
#[derive(Debug, PartialEq, Eq)]
struct NamedDenial {
    /// The first word of the line.
    verdict: String,
    is_publish: bool,
    subject: String,
}

fn role_of(user: &str) -> &str {
    if user.starts_with("gateway") { "gateway" } else { user }
}

/// Runs the doctor as this user, and returns its exit code and what it prints.
fn doctor(nats: &SecuredNats, domain: Option<&str>, role: &str, user: &str) -> (Option<i32>, String) {
    let url = nats.server.url();
    let mut command = tickwire();
    command.args(["doctor", "--role", role, "--set", "node.id=g1", "--nats", &url]).args(nats.login(user));
    command.args(domain.map(|domain| format!("--set=nats.domain={domain}")));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn named_denials(text: &str) -> Vec<NamedDenial> {
    let acts = [
        ("may not publish to \"", true),
        ("may not subscribe to \"", false),
        // Without inboxes of its own the rest is not tried.
        ("Permissions Violation for Subscription to \"", false),
    ];
    let named = |line: &str| {
        acts.iter().find_map(|(act, is_publish)| {
            let (subject, _) = line.split_once(act)?.1.split_once('"')?;
            let verdict = line.split_whitespace().next()?.to_owned();
            Some(NamedDenial { verdict, is_publish: *is_publish, subject: subject.to_owned() })
        })
    };
    text.lines().filter_map(named).collect()
}

/// Whether a line of permissions allows this subject.
fn allows(line: &str, subject: &str) -> bool {
    let pattern = line.split(' ').next().unwrap_or_default();
    let (mut wanted, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), tokens.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(token)) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
}

/// Whether a cluster may do without the line: the doctor then only notes that it is missing.
fn is_optional(user: &LackingUser) -> bool {
    match role_of(&user.of) {
        "producer" | "alerts" => user.is_publish && user.line != "events.alert.*",
        "gateway" => user.line == "events.alert.*",
        "router" => user.line == "events.*.*" || user.line.ends_with("$KV.TICKWIRE_RULES.>"),
        _ => false,
    }
}

/// What is wrong with what the doctor says of this user.
fn problem(nats: &SecuredNats, domain: Option<&str>, user: &LackingUser) -> Option<String> {
    let (code, text) = doctor(nats, domain, role_of(&user.of), &user.name);
    let (verdict, expected) = if is_optional(user) { ("note", 0) } else { ("FAIL", 1) };
    let named = named_denials(&text);
    let is_of_line = |denial: &NamedDenial| {
        (denial.verdict.as_str(), denial.is_publish) == (verdict, user.is_publish)
            && allows(&user.line, &denial.subject)
    };
    let is_right = code == Some(expected) && !named.is_empty() && named.iter().all(is_of_line);
    (!is_right).then(|| format!("{} without {:?}: {code:?} {named:?}", user.of, user.line))
}

/// Fails unless the doctor names for each of these users the line that it lacks, and nothing else, and for the users
/// with all lines nothing.
fn assert_each_named(nats: &SecuredNats, domain: Option<&str>, lacking: &[LackingUser]) {
    assert!(!lacking.is_empty());
    let complete: BTreeSet<&str> = lacking.iter().map(|user| user.of.as_str()).collect();
    for user in complete {
        let (code, text) = doctor(nats, domain, role_of(user), user);
        assert!(code == Some(0) && named_denials(&text).is_empty(), "{user}: {code:?} {text}");
        assert!(!text.contains("does not need") && !text.contains("may do everything"), "{user}: {text}");
    }
    let (queue, problems) = (Mutex::new(lacking.iter()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some(user) = next() {
                    let found = problem(nats, domain, user);
                    problems.lock().unwrap().extend(found);
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {} lines: {problems:#?}", problems.len(), lacking.len());
}

/// Creates the streams as a router does, without one that runs.
async fn create_streams(nats: &SecuredNats, domain: Option<&str>) {
    let mut config = NatsArgs::at(&nats.server.url()).load().unwrap();
    (config.nats.user, config.nats.password) = ("router".to_owned(), Secret::new(nats.password("router")));
    config.nats.domain = domain.map(str::to_owned);
    let connected = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&connected, &config.stream).await.unwrap();
    connected.close().await.unwrap();
}

/// Fails unless the streams are as they were created: nothing was ever stored in them, and no consumer is left.
async fn assert_untouched(jetstream: &Context) {
    let streams: Vec<jetstream::stream::Info> = jetstream.streams().try_collect().await.unwrap();
    assert_eq!(streams.len(), 2 + BUCKETS.len());
    for stream in streams {
        let state = (stream.state.last_sequence, stream.state.consumer_count);
        assert_eq!(state, (0, 0), "{}", stream.config.name);
    }
}

#[tokio::test]
async fn doctor_names_each_line_that_a_user_lacks_and_leaves_nothing_behind() {
    let (nats, lacking) = SecuredNats::start_with_lacking(&["--gateway", "g1"]);
    create_streams(&nats, None).await;
    assert_each_named(&nats, None, &lacking);
    let operator = nats.connect("operator", "_INBOX_operator").await;
    assert_untouched(&jetstream::new(operator.client)).await;
}

#[tokio::test]
async fn doctor_names_each_line_that_a_user_of_a_server_of_a_domain_lacks() {
    let (nats, mut lacking) = SecuredNats::start_with_lacking(&["--gateway", "g1", "--domain", "hub"]);
    create_streams(&nats, Some("hub")).await;
    // The server compares these, and those with the domain not. The other lines are as without a domain.
    lacking.retain(|user| user.line.starts_with("$JS.API.") || user.line.starts_with("$KV."));
    assert_each_named(&nats, Some("hub"), &lacking);
    let operator = nats.connect("operator", "_INBOX_operator").await;
    assert_untouched(&jetstream::with_domain(operator.client, "hub")).await;
}

#[tokio::test]
async fn doctor_names_each_line_that_a_user_of_a_leaf_node_of_a_domain_lacks() {
    let home = tempfile::tempdir().unwrap();
    let (hub, address) = start_hub(home.path()).await;
    let (nats, mut lacking) = SecuredNats::start_leaf_with_lacking(&address, &["--gateway", "g1", "--domain", "hub"]);
    create_streams(&nats, Some("hub")).await;
    lacking.retain(|user| user.line.starts_with(IN_DOMAIN));
    assert_each_named(&nats, Some("hub"), &lacking);
    assert_untouched(&jetstream::new(async_nats::connect(hub.url()).await.unwrap())).await;
}
