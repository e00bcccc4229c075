//! The connection to a real nats-server: deadlines, logins, certificates, refusals, and reconnects.

use crate::load;
use futures_util::StreamExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tickwire_node::config::NatsConfig;
use tickwire_node::nats::{ConnectionLost, LEAST_PAYLOAD, Nats, NatsError};
use tickwire_node::telemetry::Metrics;
use tickwire_testkit::{Authority, NatsServer, eventually};

pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) fn config(url: &str, sets: &[(&str, &str)]) -> NatsConfig {
    load(&[&[("nats.url", url), ("nats.connect_timeout", "30s"), ("nats.request_timeout", "30s")], sets].concat()).nats
}

#[tokio::test]
async fn unreachable_server_is_given_up_at_the_deadline() {
    let mut server = NatsServer::start();
    server.kill();
    let start = Instant::now();
    let refused = Nats::connect(&config(&server.url(), &[("nats.connect_timeout", "300ms")]), "router", "r1").await;
    let waited = start.elapsed();
    // Not at the deadline of other tests.
    assert!((Duration::from_millis(300)..Duration::from_secs(20)).contains(&waited), "{waited:?}");
    match refused {
        Err(NatsError::Unreachable { url, .. }) => assert_eq!(url, server.url()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn server_that_starts_before_the_deadline_is_reached() {
    let mut server = NatsServer::start();
    server.kill();
    let config = config(&server.url(), &[("nats.connect_timeout", "30s")]);
    let connecting = tokio::spawn(async move { Nats::connect(&config, "router", "r1").await });
    tokio::task::yield_now().await;
    server.restart();
    assert!(connecting.await.unwrap().unwrap().is_connected());
}

#[tokio::test]
async fn server_with_small_max_payload_is_refused_with_what_to_set() {
    let home = tempfile::TempDir::with_prefix("tickwire-nats-conf-").unwrap();
    let file = home.path().join("nats.conf");
    for (most, is_enough) in [(LEAST_PAYLOAD - 1, false), (LEAST_PAYLOAD, true)] {
        std::fs::write(&file, format!("max_payload: {most}\n")).unwrap();
        let server = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
        match Nats::connect(&config(&server.url(), &[]), "router", "r1").await {
            Ok(_) => assert!(is_enough),
            Err(error @ NatsError::SmallPayload { .. }) => {
                assert!(!is_enough && error.to_string().contains("max_payload"), "{error}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn connection_is_restored_and_events_are_counted() {
    let metrics = Metrics::install("router", "r1").unwrap();
    let mut server = NatsServer::start();
    let nats = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let mut connected = nats.connected();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    let mut messages = nats.client.subscribe("x").await.unwrap();

    server.kill();
    tokio::time::timeout(SOON, connected.wait_for(|up| !up)).await.unwrap().unwrap();
    assert!(!nats.is_connected());
    server.restart();
    tokio::time::timeout(SOON, connected.wait_for(|up| *up)).await.unwrap().unwrap();
    eventually("the connection is up", SOON, async || nats.is_connected().then_some(())).await;
    nats.check().await.unwrap();
    nats.client.publish("x", "again".into()).await.unwrap();
    assert_eq!(messages.next().await.unwrap().payload, "again");

    let text = metrics.render();
    for line in
        ["tickwire_nats_events_total{event=\"disconnected\"}", "tickwire_nats_events_total{event=\"connected\"}"]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn answer_is_not_waited_for_when_its_connection_is_lost_or_replaced() {
    let mut server = NatsServer::start();
    let nats = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    assert_eq!(nats.while_connected(std::future::ready(7)).await, Ok(7));
    let never = async || {
        let waiting = nats.while_connected(std::future::pending::<()>());
        tokio::time::timeout(SOON, waiting).await.expect("the wait ends with the connection")
    };
    let (lost, ()) = tokio::join!(never(), async { server.kill() });
    assert_eq!(lost, Err(ConnectionLost));
    assert!(!nats.up_within(Duration::ZERO).await);
    server.restart();
    assert!(nats.up_within(SOON).await);

    // Our own connection is replaced without a break, and what was on its way is lost as well.
    let (lost, renewed) = tokio::join!(never(), nats.renew());
    assert_eq!((lost, renewed), (Err(ConnectionLost), Ok(())));
}

#[tokio::test]
async fn login_is_used_and_a_wrong_one_fails_at_once() {
    let server = NatsServer::start_with(&["-js", "--user", "bob", "--pass", "right"]);
    let bob = |password| {
        config(&server.url(), &[("nats.user", "bob"), ("nats.password", password), ("nats.connect_timeout", "60s")])
    };
    Nats::connect(&bob("right"), "router", "r1").await.unwrap().check().await.unwrap();
    let start = Instant::now();
    assert!(matches!(Nats::connect(&bob("wrong"), "router", "r1").await, Err(NatsError::Login { .. })));
    assert!(start.elapsed() < Duration::from_secs(30), "it is not tried again until the deadline");

    let server = NatsServer::start_with(&["--auth", "s3cret"]);
    let token = |token| config(&server.url(), &[("nats.token", token)]);
    Nats::connect(&token("s3cret"), "router", "r1").await.unwrap();
    assert!(matches!(Nats::connect(&token("other"), "router", "r1").await, Err(NatsError::Login { .. })));

    let nowhere = config(&server.url(), &[("nats.credentials", "/nowhere/node.creds")]);
    assert!(matches!(Nats::connect(&nowhere, "router", "r1").await, Err(NatsError::Credentials { .. })));
}

#[tokio::test]
async fn denied_subscription_fails_the_check() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("nats.conf");
    let user = r#"{ user: bob, password: p, permissions: { subscribe: { deny: ["gw.>"] } } }"#;
    std::fs::write(&file, format!("authorization {{ users: [{user}] }}\n")).unwrap();
    let server = NatsServer::start_with(&["-c", file.to_str().unwrap()]);
    let bob = config(&server.url(), &[("nats.user", "bob"), ("nats.password", "p")]);
    let nats = Nats::connect(&bob, "gateway", "gw-1").await.unwrap();
    let allowed = nats.client.subscribe("tw.view").await.unwrap();
    nats.check().await.unwrap();
    let denied = nats.client.subscribe("gw.gw-1.abc").await.unwrap();
    match nats.check().await {
        Err(NatsError::Denied { denied, .. }) => assert!(denied.contains("gw.gw-1.abc"), "{denied}"),
        other => panic!("{other:?}"),
    }
    drop((allowed, denied));
}

#[tokio::test]
async fn denied_permission_ends_the_wait_for_an_answer_that_never_comes() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("nats.conf");
    let user = r#"{ user: bob, password: p, permissions: { publish: { deny: ["$JS.API.INFO"] } } }"#;
    std::fs::write(&file, format!("authorization {{ users: [{user}] }}\n")).unwrap();
    let server = NatsServer::start_with(&["-js", "-c", file.to_str().unwrap()]);
    let bob = [("nats.user", "bob"), ("nats.password", "p"), ("nats.request_timeout", "60s")];
    let nats = Nats::connect(&config(&server.url(), &bob), "gateway", "gw-1").await.unwrap();
    assert_eq!(nats.unless_denied(std::future::ready(7)).await.unwrap(), 7, "nothing is denied yet");
    let start = Instant::now();
    let denied = nats.unless_denied(nats.jetstream.query_account()).await.map(drop).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let text = denied.to_string();
    assert!(text.contains("as user \"bob\"") && text.contains("Publish to \"$JS.API.INFO\""), "{text}");
}

#[tokio::test]
async fn requests_and_writes_to_buckets_name_the_domain() {
    let server = NatsServer::start();
    let subjects = async |domain: &str| {
        let config = config(&server.url(), &[("nats.domain", domain)]);
        let nats = Nats::connect(&config, "router", "r1").await.unwrap();
        (nats.api("STREAM.INFO.S"), nats.bucket_write("B", "k"))
    };
    let of = |request: &str, write: &str| (request.to_owned(), write.to_owned());
    assert_eq!(subjects("").await, of("$JS.API.STREAM.INFO.S", "$KV.B.k"));
    assert_eq!(subjects("hub").await, of("$JS.hub.API.STREAM.INFO.S", "$JS.hub.API.$KV.B.k"));
}

#[tokio::test]
async fn publishes_before_close_arrive() {
    let server = NatsServer::start();
    let sender = Nats::connect(&config(&server.url(), &[]), "router", "r1").await.unwrap();
    let receiver = Nats::connect(&config(&server.url(), &[]), "gateway", "gw-1").await.unwrap();
    let mut messages = receiver.client.subscribe("x").await.unwrap();
    receiver.check().await.unwrap();
    for number in 0..1000_u32 {
        sender.client.publish("x", number.to_string().into()).await.unwrap();
    }
    sender.close().await.unwrap();
    for number in 0..1000_u32 {
        assert_eq!(messages.next().await.unwrap().payload, number.to_string());
    }
    assert!(sender.close().await.is_err());
}

/// Writes an authority, and a certificate of it for 127.0.0.1, as PEM files into this folder.
pub(crate) fn certificates(home: &Path) {
    Authority::new().write_files(&["127.0.0.1"], home);
}

#[tokio::test]
async fn certificates_are_used_and_both_sides_fail_closed() {
    let home = tempfile::tempdir().unwrap();
    certificates(home.path());
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (authority, certificate, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let flags = ["--tlsverify", "--tlscert", &certificate, "--tlskey", &key, "--tlscacert", &authority];
    let secure = NatsServer::start_with(&flags);
    let trusting = [("nats.tls_ca", authority.as_str()), ("nats.connect_timeout", "300ms")];
    let own =
        [("nats.tls_cert", certificate.as_str()), ("nats.tls_key", key.as_str()), ("nats.connect_timeout", "30s")];

    let both = config(&secure.url(), &[&trusting[..], &own].concat());
    Nats::connect(&both, "router", "r1").await.unwrap().check().await.unwrap();
    assert!(Nats::connect(&config(&secure.url(), &trusting), "router", "r1").await.is_err());
    assert!(Nats::connect(&config(&secure.url(), &trusting[1..]), "router", "r1").await.is_err());
    let plain = NatsServer::start();
    assert!(Nats::connect(&config(&plain.url(), &trusting), "router", "r1").await.is_err());
}
