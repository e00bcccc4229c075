//! Gateways behind an endpoint that terminates TLS, with the client library and `tickwire watch`.

use serde_json::{Value, json};
use tickwire_client::Message;
use tickwire_testkit::{Authority, Process, TlsTerminator, eventually};

use crate::cluster::Cluster;
use crate::commands::run;
use crate::listener::Listener;
use crate::node::{DEADLINE, tickwire};
use crate::oracle::{assert_exact, filter};
use crate::producer::ProducerMessage;

fn messages(numbers: std::ops::Range<u64>) -> Vec<ProducerMessage> {
    let event = |number| json!({ "symbol": "AAPL", "pattern": "Doji", "confidence": 0.5, "number": number });
    numbers.map(|number| ProducerMessage::json("pattern", "AAPL", &event(number))).collect()
}

#[tokio::test]
async fn client_resumes_over_tls_after_a_cut_and_misses_nothing() {
    let mut cluster = Cluster::start(1, 1).await;
    let authority = Authority::new();
    let gateway = cluster.gateway_addresses().await[0];
    let secure = TlsTerminator::start(authority.certificate(&["127.0.0.1"]), gateway).await;
    let mut ann = Listener::connect_secure(secure.address, authority.file(), "ann").await;
    ann.subscribe("all", &json!({ "symbols": ["AAPL"] })).await;
    let producer = cluster.producer().await;
    producer.publish_all(&messages(0..100)).await;
    secure.cut();
    producer.publish_all(&messages(100..200)).await;
    ann.until("it has resumed", |message| matches!(message, Message::Resumed { complete: true })).await;
    producer.publish_all(&messages(200..300)).await;
    let log = cluster.log().await;
    assert_eq!(log.entries.len(), 300);
    ann.catch_up(&log.end()).await;
    assert_exact("ann", &ann.events, &ann.gaps, &log.matching("ann", &[filter(&json!({}))]));
}

// A command blocks a thread, and the endpoint needs another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_prints_events_over_tls_and_refuses_what_it_does_not_trust() {
    let mut cluster = Cluster::start(1, 1).await;
    let (authority, other) = (Authority::new(), Authority::new());
    let gateway = cluster.gateway_addresses().await[0];
    let secure = TlsTerminator::start(authority.certificate(&["127.0.0.1"]), gateway).await;
    let url = format!("wss://{}", secure.address);
    let (ca, wrong) = (authority.file(), other.file());
    let watch = ["watch", "--url", &url, "--ca", ca.to_str().unwrap(), "--user", "ann", "--json"];
    let mut watch = Process::start("watch", cluster.home(), tickwire().args(watch));
    eventually("it has subscribed", DEADLINE, async || {
        assert_eq!(watch.exit(), None, "it has ended: {}", watch.stderr());
        watch.stderr().lines().any(|line| line == "subscribed").then_some(())
    })
    .await;
    cluster.producer().await.publish_all(&messages(0..50)).await;
    eventually("every event is watched", DEADLINE, async || {
        let watched = watch.stdout();
        (watched.ends_with('\n') && watched.lines().count() >= 50).then_some(())
    })
    .await;
    let number = |line| serde_json::from_str::<Value>(line).unwrap()["data"]["number"].clone();
    let numbers: Vec<Value> = watch.stdout().lines().map(number).collect();
    assert_eq!(numbers, (0..50).map(|number| json!(number)).collect::<Vec<_>>());
    watch.interrupt();
    assert_eq!(watch.wait(DEADLINE).await.code(), Some(0), "{}", watch.stderr());

    let refused = |ca: &str| {
        let (code, _, errors) = run(&["watch", "--url", &url, "--ca", ca, "--user", "ann"]);
        (code, errors)
    };
    let (code, errors) = refused(wrong.to_str().unwrap());
    assert_eq!((code, errors.contains("not trusted") && errors.contains("--ca FILE")), (Some(1), true), "{errors}");
    let (code, errors) = refused("/nowhere/ca.pem");
    assert_eq!((code, errors.contains("--ca: /nowhere/ca.pem")), (Some(2), true), "{errors}");
    // The other way round: without TLS at an endpoint with it, and with authorities that would not count.
    let plain = format!("ws://{}", secure.address);
    let (code, _, errors) = run(&["watch", "--url", &plain, "--user", "ann"]);
    assert_eq!((code, errors.contains("wss://")), (Some(1), true), "{errors}");
    let plain = ["--url", &plain, "--ca", ca.to_str().unwrap()];
    let (code, _, errors) = run(&[&["watch", "--user", "ann"][..], &plain].concat());
    assert_eq!((code, errors.contains("--ca: no --url begins with wss://")), (Some(2), true), "{errors}");
    let (code, _, errors) = run(&[&["bench", "attach", "--seconds", "1"][..], &plain].concat());
    assert_eq!((code, errors.contains("--ca: no --url begins with wss://")), (Some(1), true), "{errors}");
    secure.present(authority.certificate(&["gw.example.com"]));
    let (code, errors) = refused(ca.to_str().unwrap());
    assert_eq!((code, errors.contains("for gw.example.com, not for 127.0.0.1")), (Some(1), true), "{errors}");
    secure.present(authority.expired_certificate(&["127.0.0.1"]));
    let (code, errors) = refused(ca.to_str().unwrap());
    assert_eq!((code, errors.contains("expired at 2001-01-01")), (Some(1), true), "{errors}");
}
