//! A stream of several copies, one of which lacks messages that the others have: a server has removed more than
//! its leader, or its disk was damaged. A replay is complete nevertheless, from any server.

use crate::asking::{read_all, request};
use crate::cluster::{SOON, TestRouter};
use crate::routing::{by_number, numbered};
use async_nats::jetstream::consumer::pull;
use futures_util::future::join_all;
use std::fs;
use std::path::PathBuf;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::replay::ReplayRequest;
use tickwire_node::config::{Config, LoadOptions, StreamConfig};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::provision::provision;
use tickwire_testkit::{NatsServer, eventually};

const EVENTS: usize = 2_600;

/// The configuration of a node of this name in a cluster of servers.
fn config(servers: &[NatsServer], name: &str) -> Config {
    let url = servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
    let sets = [
        ("nats.url", url.as_str()),
        ("node.id", name),
        ("admin.listen", "127.0.0.1:0"),
        ("stream.replicas", "3"),
        ("stream.max_bytes", "100000000"),
        ("membership.beat_interval", "100ms"),
        ("membership.lease_ttl", "1s"),
        ("membership.tick_interval", "60s"),
    ];
    let sets = sets.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Config::load(&LoadOptions { sets, ..LoadOptions::default() }).unwrap()
}

async fn publish(nats: &Nats) {
    let mut sent = Vec::new();
    for number in 0..EVENTS {
        let payload = format!(r#"{{"pattern":"Doji","id":"{number}","note":"{}"}}"#, "x".repeat(200));
        let subject = names::source("pattern", &format!("S{}", number % 40));
        sent.push(nats.jetstream.publish(subject, payload.into()).await.unwrap());
        if sent.len() == 500 || number + 1 == EVENTS {
            for acknowledgement in sent.drain(..) {
                acknowledgement.await.unwrap();
            }
        }
    }
}

/// The servers other than the leader of the stream, when every copy is complete.
async fn followers(nats: &Nats, servers: &[NatsServer]) -> Vec<usize> {
    eventually("every copy is complete", SOON, async || {
        let stream = nats.jetstream.get_stream("EVENTS").await.ok()?;
        let cluster = stream.cached_info().cluster.clone()?;
        let leader = cluster.leader?;
        let is_whole = cluster.replicas.len() == 2 && cluster.replicas.iter().all(|copy| copy.current);
        let others = (0..servers.len()).filter(|number| format!("n-{number}") != leader);
        is_whole.then(|| others.collect())
    })
    .await
}

/// The files that hold messages, in order.
fn blocks(server: &NatsServer) -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let mut blocks: Vec<PathBuf> =
        fs::read_dir(server.messages_of("EVENTS")).unwrap().map(|entry| entry.unwrap().path()).collect();
    blocks.retain(|path| path.extension().is_some_and(|extension| extension == "blk"));
    blocks.sort_by_key(number);
    blocks
}

/// Waits until the server's files hold everything that it has accepted, which it writes a moment later.
async fn wait_until_written(nats: &Nats, server: &NatsServer) {
    eventually("everything is in the server's files", SOON, async || {
        let bytes = nats.jetstream.get_stream("EVENTS").await.ok()?.cached_info().state.bytes;
        let written: u64 =
            blocks(server).iter().filter_map(|block| fs::metadata(block).ok()).map(|file| file.len()).sum();
        (written >= bytes).then_some(())
    })
    .await;
}

/// How many messages a consumer on this server would deliver.
async fn count_on(nats: &Nats, server: usize) -> u64 {
    eventually("a consumer on the server", SOON, async || {
        let stream = nats.jetstream.get_stream("EVENTS").await.ok()?;
        let config = pull::Config { num_replicas: 1, memory_storage: true, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.ok()?;
        let info = consumer.cached_info();
        stream.delete_consumer(&info.name).await.ok()?;
        let is_there = info.cluster.as_ref()?.leader.as_ref()? == &format!("n-{server}");
        is_there.then_some(info.num_pending)
    })
    .await
}

/// One copy lacks the blocks that `which` selects; replays are complete nevertheless.
async fn replay_is_complete_without_blocks(which: impl Fn(usize, usize) -> bool) {
    let mut servers = NatsServer::start_cluster(3);
    let config = config(&servers, "r1");
    let nats = Nats::connect(&config.nats, "router", "test").await.unwrap();
    // A stream that is created small is stored in many files, even when it grows.
    let small = StreamConfig { max_bytes: 100_000, ..config.stream.clone() };
    provision(&nats, &small).await.unwrap();
    provision(&nats, &config.stream).await.unwrap();
    publish(&nats).await;
    let last = nats.jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
    let damaged = followers(&nats, &servers).await[0];
    wait_until_written(&nats, &servers[damaged]).await;
    servers[damaged].kill();
    let blocks = blocks(&servers[damaged]);
    let removed: Vec<_> = blocks.iter().enumerate().filter(|(number, _)| which(*number, blocks.len())).collect();
    assert!(!removed.is_empty() && removed.len() < blocks.len(), "{blocks:?}");
    removed.iter().for_each(|(_, block)| fs::remove_file(block).unwrap());
    fs::remove_file(servers[damaged].messages_of("EVENTS").join("index.db")).ok();
    servers[damaged].restart();
    assert_eq!(followers(&nats, &servers).await.len(), 2);
    assert!(count_on(&nats, damaged).await < last, "the copy lacks messages");

    let router = TestRouter::start_as(&config).await;
    router.ready().await;
    let one = request(&nats, "S0", 0, last).await;
    let of = |number: u16, from: u64, to: u64| {
        read_all(&nats, ReplayRequest { partition: Partition(number), from: Seq(from), to: Seq(to), ..one.clone() })
    };
    let is_whole = |what: &str, ids: Vec<String>| {
        assert_eq!((what, ids.len()), (what, EVENTS));
        assert_eq!(by_number(ids), numbered(0..EVENTS), "{what}");
    };
    // All partitions in one pass, each partition by itself, and short ranges.
    for _ in 0..3 {
        is_whole("together", join_all((0..32).map(|number| of(number, 0, last))).await.concat());
    }
    let mut apart = Vec::new();
    for number in 0..32 {
        apart.extend(of(number, 0, last).await);
    }
    is_whole("apart", apart);
    let mut short = Vec::new();
    for from in (0..last).step_by(900) {
        for number in (0..32).step_by(8) {
            let some = (number..number + 8).map(|number| of(number, from, last.min(from + 900)));
            short.extend(join_all(some).await.concat());
        }
    }
    is_whole("short", short);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_is_complete_when_a_server_removed_more_than_its_leader() {
    replay_is_complete_without_blocks(|number, count| number < count / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_is_complete_when_a_server_lost_messages_in_the_middle() {
    replay_is_complete_without_blocks(|number, count| number > 0 && number + 1 < count).await;
}
