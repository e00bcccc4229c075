//! The doctor with healthy and faulty servers.

use super::*;
use async_nats::jetstream;
use tickwire_node::provision::provision;
use tickwire_testkit::{NatsServer, eventually};

fn config(server: &NatsServer) -> Config {
    NatsArgs::at(&server.url()).load().unwrap()
}

/// All findings: verdict, name of the check, text.
async fn verdicts(config: Config) -> Vec<(Verdict, String, String)> {
    let findings = examine(config, None).await;
    findings.into_iter().map(|CheckFinding { verdict, what, found }| (verdict, what, found)).collect()
}

fn of<'f>(findings: &'f [(Verdict, String, String)], wanted: &str) -> (Verdict, &'f str) {
    let found = findings.iter().find(|(_, what, _)| what == wanted);
    found.map(|(verdict, _, found)| (*verdict, found.as_str())).unwrap_or_else(|| panic!("{wanted}: {findings:?}"))
}

#[tokio::test]
async fn healthy_server_passes_and_is_not_changed() {
    let server = NatsServer::start();
    let config = config(&server);
    let fresh = verdicts(config.clone()).await;
    assert!(fresh.iter().all(|(verdict, ..)| *verdict != Verdict::Fail), "{fresh:?}");
    assert_eq!(of(&fresh, "stream EVENTS").0, Verdict::Note);

    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let settled = verdicts(config).await;
    let buckets = ["VIEW", "LEASES", "RULES", "CONTEXT", "REFERENCE", "ACKS"].map(|name| format!("TICKWIRE_{name}"));
    let what = ["stream EVENTS", "stream DEADLETTERS", "clock"].map(str::to_owned);
    for what in what.into_iter().chain(buckets.iter().map(|bucket| format!("bucket {bucket}"))) {
        assert_eq!(of(&settled, &what).0, Verdict::Ok, "{settled:?}");
    }
    assert!(of(&settled, "stream EVENTS").1.starts_with("32 partitions, 1 replica, 0 messages"), "{settled:?}");
    let streams = ["EVENTS", "DEADLETTERS"].map(str::to_owned);
    for stream in streams.into_iter().chain(buckets.iter().map(|bucket| format!("KV_{bucket}"))) {
        let info = nats.jetstream.get_stream(&stream).await.unwrap().get_info().await.unwrap();
        assert_eq!((info.state.messages, info.state.consumer_count), (0, 0), "{stream}");
    }
}

#[tokio::test]
async fn rules_that_routers_skip_are_counted() {
    let server = NatsServer::start();
    let config = config(&server);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let store = nats.jetstream.get_key_value(tickwire_node::names::RULES_BUCKET).await.unwrap();
    for (id, ttl_ms) in [("good", 5), ("bad", 0), ("worse", -1)] {
        let value = serde_json::json!({ "rule": { "id": id, "ttl_ms": ttl_ms } });
        store.put(id, value.to_string().into()).await.unwrap();
    }
    let found = verdicts(config).await;
    let (verdict, text) = of(&found, "rules");
    assert_eq!((verdict, text.starts_with("routers skip 2 of 3: ")), (Verdict::Fail, true), "{text}");
    assert_eq!(rules::judge(0, 0).verdict, Verdict::Ok);
}

#[test]
fn small_sizes_are_shown_in_kib() {
    let sizes = [0, 1, 1024, (1 << 20) - 1, 1 << 20, (3 << 20) - 1].map(streams::size);
    assert_eq!(sizes, ["0 KiB", "1 KiB", "1 KiB", "1024 KiB", "1 MiB", "2 MiB"]);
}

#[tokio::test]
async fn misconfigured_stream_is_reported() {
    let server = NatsServer::start();
    let mut config = config(&server);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    config.stream.partitions = 16;
    let found = verdicts(config.clone()).await;
    let (verdict, text) = of(&found, "stream EVENTS");
    assert_eq!(verdict, Verdict::Fail);
    assert!(text.contains("set stream.partitions = 32"), "{text}");

    let others = jetstream::stream::Config { name: "OTHER".to_owned(), ..Default::default() };
    nats.jetstream.create_stream(others).await.unwrap();
    config.stream.name = "OTHER".to_owned();
    assert_eq!(of(&verdicts(config).await, "stream OTHER").0, Verdict::Fail);
}

#[tokio::test]
async fn servers_that_are_gone_are_reported() {
    let mut servers = NatsServer::start_cluster(3);
    let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let mut config = NatsArgs::at(&url).load().unwrap();
    (config.stream.replicas, config.stream.max_bytes) = (3, 100_000_000);
    let nats = Nats::connect(&config.nats, "router", "r1").await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    let deadline = Duration::from_secs(30);
    eventually("every copy is there", deadline, async || {
        (of(&verdicts(config.clone()).await, "stream EVENTS").0 == Verdict::Ok).then_some(())
    })
    .await;

    servers[2].kill();
    eventually("the doctor names the server", deadline, async || {
        let found = verdicts(config.clone()).await;
        // It may not be answered while the stream has no leader.
        let (_, _, text) = found.iter().find(|(_, what, _)| what == "stream EVENTS")?;
        text.contains("no sign of its copy on n-2").then_some(())
    })
    .await;

    servers[1].kill();
    eventually("the doctor asks for a majority of the servers", deadline, async || {
        let found = verdicts(config.clone()).await;
        let (verdict, _, text) = found.iter().find(|(_, what, _)| what == "jetstream")?;
        (*verdict == Verdict::Fail && text.contains("a majority of them runs")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unusable_server_is_reported() {
    let without = NatsServer::start_with(&[]);
    let found = verdicts(config(&without)).await;
    assert_eq!(of(&found, "jetstream").0, Verdict::Fail);
    assert!(!found.iter().any(|(_, what, _)| what.starts_with("stream")), "{found:?}");

    let mut nowhere = config(&without);
    drop(without);
    nowhere.nats.connect_timeout = Duration::from_millis(200);
    let found = verdicts(nowhere).await;
    assert_eq!((found.len(), of(&found, "nats").0), (1, Verdict::Fail));
}

#[tokio::test]
async fn missing_permissions_of_a_role_are_reported() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let allowed = r#"publish: { allow: [
        "tw.>", "events.alert.*", "$JS.API.>", "$KV.TICKWIRE_SUBSCRIPTIONS.>", "$KV.TICKWIRE_ACKS.>", "_INBOX_router.>",
        "_INBOX_gateway.>", "_INBOX_doctor.>"
    ] }"#;
    write!(file, "authorization {{ users: [ {{ user: u, password: p, permissions: {{ {allowed} }} }} ] }}").unwrap();
    let server = NatsServer::start_with(&["-js", "-c", file.path().to_str().unwrap()]);
    let mut config = config(&server);
    (config.nats.user, config.nats.password) = ("u".to_owned(), tickwire_node::config::Secret::new("p"));
    let found = verdicts(config).await;
    assert_eq!(of(&found, "may be a gateway").0, Verdict::Ok, "{found:?}");
    let lines = |what: &str, verdict| -> Vec<&str> {
        let lines = found.iter().filter(|line| line.1 == what && line.0 == verdict);
        lines.map(|line| line.2.as_str()).collect()
    };
    let missing = lines("may be a router", Verdict::Fail);
    for refused in ["gw.doctor.0", "dead.doctor", "ev.0.tick", "$KV.TICKWIRE_LEASES.doctor.0"] {
        let act = format!("may not publish to \"{refused}\": allow it");
        assert_eq!(missing.iter().filter(|line| line.starts_with(&act)).count(), 1, "{refused}: {missing:?}");
    }
    let excess = lines("may be a gateway", Verdict::Note);
    for allowed in ["publish to \"tw.view\"", "publish to \"$JS.API.STREAM.PURGE.doctor\"", "subscribe to \"ev.>\""] {
        assert!(excess.iter().any(|line| line.contains(allowed)), "{allowed}: {excess:?}");
    }
    assert!(
        !excess.iter().any(|line| line.contains("\"gw.doctor-other.0\"") && line.contains("publish")),
        "{excess:?}"
    );
    assert_eq!(of(&found, "clock").0, Verdict::Note);
}

#[test]
fn clock_skew_is_the_smallest_possible_difference() {
    let at = |server, before, after| check_clock(Timestamp(server), Timestamp(before), Timestamp(after));
    assert_eq!(at(1_000, 900, 1_100).verdict, Verdict::Ok);
    assert_eq!(at(1_000, 1_400, 1_500).verdict, Verdict::Ok);
    let ahead = at(1_000, 1_600, 1_700);
    assert_eq!((ahead.verdict, ahead.found.starts_with("600 ms ahead")), (Verdict::Fail, true));
    let behind = at(5_000, 1_600, 1_700);
    assert_eq!((behind.verdict, behind.found.starts_with("3300 ms behind")), (Verdict::Fail, true));
}
