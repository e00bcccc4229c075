//! Commands with the users of the shipped configuration: a user that may do their work finds that out, and one that may
//! not is told so at once.

use std::fs;
use std::time::{Duration, Instant};

use super::secured::SecuredNats;
use super::wait_until_ready;
use crate::node::tickwire;

#[tokio::test]
async fn doctor_finds_that_each_shipped_user_has_what_its_role_needs_and_no_more() {
    let nats = SecuredNats::start(&["--gateway", "g1"]);
    let mut nodes = [nats.node("router", "r1", "router", &[]), nats.node("gateway", "g1", "gateway-g1", &[])];
    wait_until_ready(&mut nodes).await;
    let url = nats.server.url();
    let users = [
        ("router", "a router", "router"),
        ("gateway", "a gateway", "gateway-g1"),
        ("producer", "a producer", "producer"),
        ("alerts", "a producer of alerts", "alerts"),
        ("operator", "an operator", "operator"),
    ];
    for (role, noun, user) in users {
        let doctor = ["doctor", "--role", role, "--set", "node.id=g1", "--nats", &url];
        let output = tickwire().args(doctor).args(nats.login(user)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(&format!("may be {noun}")), "{role}: {output:?}");
        assert!(!text.contains("may not"), "{role}: {text}");
        // What it tries and may not do is in the findings, and nowhere else.
        assert!(output.stderr.is_empty(), "{role}: {output:?}");
        assert!(!text.contains("does not need") && !text.contains("may do everything"), "{role}: {text}");
        let publishes_only = ["producer", "alerts"].contains(&role);
        assert_eq!(text.contains("JetStream refuses requests with unknown fields"), !publishes_only, "{text}");
    }
    // A producer that may send alerts has too much for a mere one.
    let doctor = ["doctor", "--role", "producer", "--nats", &url];
    let output = tickwire().args(doctor).args(nats.login("alerts")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("may publish to \"events.alert.doctor\", which a producer does not need"), "{text}");
    // The user of a producer lacks what a gateway needs.
    let doctor = ["doctor", "--role", "gateway", "--nats", &url];
    let output = tickwire().args(doctor).args(nats.login("producer")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // That of an operator is none of a node, which only --role can say.
    let output = tickwire().args(["doctor", "--nats", &url]).args(nats.login("operator")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let advised = text.lines().filter(|line| line.starts_with("FAIL  may be a ") && line.contains("by --role"));
    assert_eq!(advised.count(), 2, "{text}");
}

#[tokio::test]
async fn publish_of_a_subject_that_is_not_allowed_ends_long_before_its_deadline() {
    let nats = SecuredNats::start(&[]);
    let url = nats.server.url();
    let publish = ["publish", "--kind", "alert", "--key", "ann", "--deadline", "60", "--nats", &url];
    let start = Instant::now();
    let output = tickwire().args(publish).args(nats.login("producer")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Publish to \"events.alert.ann\""), "{output:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn many_events_of_a_user_without_the_permission_end_at_the_first_that_is_denied() {
    let nats = SecuredNats::start(&[]);
    let (url, folder) = (nats.server.url(), tempfile::tempdir().unwrap());
    let lines = folder.path().join("alerts.jsonl");
    // Fewer than are under way at a time, and more: all of them are one user's, or each of another.
    for (count, subject) in [(20, "Publish to \"events.alert.ann\""), (2_000, "Publish to \"events.alert.u")] {
        let user = |number: usize| if count == 20 { "ann".to_owned() } else { format!("u{number}") };
        let text: String = (0..count).map(|number| format!("{{\"user\":\"{}\"}}\n", user(number))).collect();
        fs::write(&lines, text).unwrap();
        let publish = ["publish", lines.to_str().unwrap(), "--kind", "alert", "--key-field", "user", "--nats", &url];
        let start = Instant::now();
        let output =
            tickwire().args(publish).args(["--deadline", "600"]).args(nats.login("producer")).output().unwrap();
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let error = text.lines().rfind(|line| line.starts_with("tickwire: ")).unwrap_or_default();
        assert!(error.contains(subject) && error.contains("as user \"producer\""), "{text}");
        assert!(error.contains("0 stored") && error.contains("the first unacknowledged line is 1, "), "{text}");
    }
    // What the user may publish is tried until the deadline: here there is no stream.
    let publish = ["publish", "--key", "AAPL", "--pattern", "Doji", "--deadline", "1", "--nats", &url];
    let output = tickwire().args(publish).args(nats.login("producer")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no stream takes it") && !text.contains("Permissions Violation"), "{text}");
    // The feed has no deadline.
    let feed = ["feed", "--nats", &url, "--speed", "500"];
    let output = tickwire().args(feed).args(nats.login("operator")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("as user \"operator\"") && text.contains("Permissions Violation"), "{text}");
}

#[tokio::test]
async fn commands_of_operators_end_at_once_for_a_user_without_the_permission() {
    let nats = SecuredNats::start(&[]);
    let mut router = [nats.node("router", "r1", "router", &[])];
    wait_until_ready(&mut router).await;
    let (url, folder) = (nats.server.url(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (rule, symbols) =
        (write("rule.json", "{\"id\":\"keep\",\"ttl_ms\":600000}"), write("symbols.csv", "symbol,sector\nA,x\n"));
    let commands = [
        &["rules", "list"][..],
        &["rules", "delete", "keep"],
        &["rules", "put", &rule],
        &["reference", "load", &symbols],
    ];
    for command in commands {
        let start = Instant::now();
        let patient = ["--nats", &url, "--set", "nats.request_timeout=60s"];
        let output = tickwire().args(command).args(patient).args(nats.login("producer")).output().unwrap();
        assert!(start.elapsed() < Duration::from_secs(30), "{command:?}: {:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let error = text.lines().rfind(|line| line.starts_with("tickwire: ")).unwrap_or_default();
        assert!(error.contains("as user \"producer\"") && error.contains("Permissions Violation"), "{text}");
    }
}
