//! Operators change streams, buckets and consumers by hand, like with natscli, while events flow. If a change stops
//! events, clients get the cause within five seconds, and nodes restore the settings where that is safe. Other changes
//! do not delay delivery.

use async_nats::jetstream::stream::{Config, DiscardPolicy, SubjectTransform};
use async_nats::jetstream::{self, Context};
use std::collections::BTreeSet;
use std::time::Duration;
use tickwire_core::ids::Partition;
use tickwire_core::protocol::Notice;
use tickwire_core::protocol::codes::NoticeCode;
use tickwire_node::names;
use tickwire_testkit::{NatsServer, Pulse, eventually};
use tokio::time::Instant;

use super::stubborn::{Stubborn, Witness, missing};
use super::tools::{is_full, report};
use crate::cluster::{Cluster, PARTITIONS};
use crate::node::{DEADLINE, tickwire};

/// How soon clients must be notified.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(5);

/// The allowed additional latency of events if clients must notice nothing.
const LATE: Duration = Duration::from_millis(400);

/// How often buckets are edited until clients notice nothing: a machine that stands still for a second is an outage.
const TRIES: usize = 3;

/// A whole cluster with the default configuration and a flow of events.
struct Rig {
    cluster: Cluster,
    jetstream: Context,
    clock: Instant,
    witnesses: Vec<Witness>,
    flow: Stubborn,
    pulse: Pulse,
}

impl Rig {
    async fn start(mut cluster: Cluster) -> Self {
        let (clock, witnesses) = Witness::of_two_gateways(&mut cluster).await;
        let flow = Stubborn::start(cluster.producer().await, 0, clock);
        flow.more(40).await;
        let jetstream = jetstream::new(cluster.client.clone());
        Self { cluster, jetstream, clock, witnesses, flow, pulse: Pulse::start() }
    }

    /// Edits a stream.
    async fn edit(&self, stream: &str, edit: impl FnOnce(&mut Config)) {
        let mut config = self.config(stream).await;
        edit(&mut config);
        self.jetstream.update_stream(config).await.unwrap();
    }

    async fn config(&self, stream: &str) -> Config {
        self.jetstream.get_stream(stream).await.unwrap().cached_info().config.clone()
    }

    /// The number of notices of each client.
    fn notices(&self) -> Vec<usize> {
        self.witnesses.iter().map(|witness| witness.received().notices.len()).collect()
    }

    /// Fails unless every client is notified of this fault in time, and every node is not ready for this one reason.
    async fn assert_reported(&mut self, started_at: Instant, known: &[usize], fault: &str, words: &str) {
        for (witness, known) in self.witnesses.iter_mut().zip(known) {
            let (at, msg) = witness.lost(*known, words).await;
            let within = NOTIFIED_WITHIN + self.pulse.allowance();
            assert!(at - started_at <= within, "notified after {:?}: {msg}", at - started_at);
        }
        for node in self.cluster.routers.iter_mut().chain(&mut self.cluster.gateways) {
            let what = format!("{} reports {words}", node.id);
            eventually(&what, DEADLINE, async || {
                let (status, report) = node.readyz().await;
                let [(check, text)] = &missing(&report)[..] else { return None };
                (status == 503 && check == "storage" && text.contains(words)).then_some(())
            })
            .await;
            let label = format!("fault=\"{fault}\"");
            eventually(&format!("{} shows {label}", node.id), DEADLINE, async || {
                let metrics = node.metrics().await;
                (metrics.get_labelled("tickwire_storage_troubles", &label) == 1.0).then_some(())
            })
            .await;
        }
    }

    /// The number of notices of each client, without those that end an outage.
    fn losses(&self) -> Vec<usize> {
        let is_loss = |(_, notice): &&(Instant, Notice)| notice.code != NoticeCode::UpstreamRestored.as_str();
        self.witnesses.iter().map(|witness| witness.received().notices.iter().filter(is_loss).count()).collect()
    }

    /// Deletes what nodes keep in buckets, edits these and deletes them, and waits until all is as before. Returns the
    /// consumers of the stream.
    async fn edit_buckets(&mut self) -> Vec<String> {
        let buckets = [names::VIEW_BUCKET, names::LEASES_BUCKET];
        for bucket in buckets {
            let store = self.jetstream.get_key_value(bucket).await.unwrap();
            let keys = [names::VIEW_KEY, names::COORDINATOR_KEY, "p.0", "p.7"];
            for key in keys {
                store.delete(key).await.unwrap();
            }
            self.flow.more(20).await;
            for key in keys {
                store.purge(key).await.unwrap();
            }
            self.flow.more(20).await;
        }
        let streams = buckets.map(|bucket| format!("KV_{bucket}"));
        for stream in &streams {
            self.edit(stream, |config| config.max_messages = 1).await;
        }
        self.flow.more(60).await;
        for stream in &streams {
            assert_eq!(self.config(stream).await.max_messages, -1, "{stream} is put right");
            self.jetstream.delete_stream(stream).await.unwrap();
        }
        for stream in &streams {
            eventually("the bucket is created again", DEADLINE, async || self.jetstream.get_stream(stream).await.ok())
                .await;
        }
        let stream = self.jetstream.get_stream("EVENTS").await.unwrap();
        // A partition whose lease was deleted may be moving between routers.
        let consumers = eventually("every partition has a consumer", DEADLINE, async || {
            let mut consumers = Vec::new();
            let mut found = stream.consumer_names();
            while let Some(name) = futures_util::StreamExt::next(&mut found).await {
                consumers.push(name.unwrap());
            }
            (consumers.len() >= PARTITIONS as usize).then_some(consumers)
        });
        let consumers = consumers.await;
        // Where it moved to, its reader may not have begun.
        self.cluster.settled().await;
        consumers
    }

    /// The output of the doctor, which must fail.
    fn doctor(&self) -> String {
        let output = tickwire().args(["doctor", "--nats", &self.cluster.nats_url()]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Fails unless every client is notified of the end, and every node is ready.
    async fn assert_recovered(&mut self, known: &[usize]) {
        for (witness, known) in self.witnesses.iter_mut().zip(known) {
            witness.restored(*known).await;
        }
        self.cluster.settled().await;
    }

    /// Fails unless every client has got all acknowledged events without a gap.
    async fn assert_all_exact(self) -> usize {
        let Self { mut witnesses, mut flow, .. } = self;
        let published = flow.stop().await;
        for witness in &mut witnesses {
            witness.assert_exact(0, 0, published).await;
            assert_eq!(witness.received().gaps, []);
        }
        published
    }

    /// The largest latency of an event so far.
    fn latest(&self) -> Duration {
        self.witnesses.iter().map(|witness| witness.received().latest).max().unwrap()
    }
}

#[tokio::test]
async fn refused_events_are_reported_and_no_acknowledged_event_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nats.conf");
    let limit = |bytes: &str| {
        let account = format!("jetstream {{ max_file: {bytes}, max_mem: 1GB }}, users: [{{ user: u, password: p }}]");
        std::fs::write(&file, format!("accounts {{ A {{ {account} }} }}\nno_auth_user: u\n")).unwrap();
    };
    limit("10GB");
    let server = NatsServer::start_with(&["-js", "-c", file.to_str().unwrap()]);
    let pid = server.pid().to_string();
    let mut rig = Rig::start(Cluster::as_shipped_on(vec![server]).await).await;

    // The stream is full and refuses new messages.
    let (known, started_at) = (rig.notices(), Instant::now());
    let held = rig.jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.messages;
    rig.edit("EVENTS", |config| {
        (config.discard, config.max_messages) = (DiscardPolicy::New, i64::try_from(held).unwrap() + 5);
    })
    .await;
    rig.assert_reported(started_at, &known, "full", "NATS does not store events").await;
    rig.edit("EVENTS", |config| (config.discard, config.max_messages) = (DiscardPolicy::Old, -1)).await;
    rig.assert_recovered(&known).await;
    rig.flow.more(20).await;

    // Its subjects were edited, so that producers find no stream: nodes restore them.
    let (known, started_at) = (rig.notices(), Instant::now());
    rig.edit("EVENTS", |config| config.subjects.retain(|subject| subject != names::SOURCE_ALL)).await;
    for (witness, known) in rig.witnesses.iter_mut().zip(&known) {
        let (at, _) = witness.lost(*known, "the stream EVENTS was edited: subjects").await;
        assert!(at - started_at <= NOTIFIED_WITHIN + rig.pulse.allowance());
    }
    rig.assert_recovered(&known).await;
    assert!(rig.config("EVENTS").await.subjects.iter().any(|subject| subject == names::SOURCE_ALL));
    rig.flow.more(20).await;

    // The account has used up its storage.
    let reload = |bytes: &str| {
        limit(bytes);
        assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    };
    let (known, started_at) = (rig.notices(), Instant::now());
    reload("10KB");
    let words = "resource limits exceeded for account (code 400, error code 10002)";
    rig.assert_reported(started_at, &known, "over_limit", words).await;
    let text = rig.doctor();
    assert!(text.contains(words) && text.contains("bytes used: NATS refuses events that do not fit"), "{text}");
    reload("10GB");
    rig.assert_recovered(&known).await;
    rig.flow.more(20).await;

    let published = rig.assert_all_exact().await;
    let summary = "a full stream, edited subjects and an account at its limit reported";
    report("hands: refused", &format!("{summary}; {published} events exact"));
}

#[tokio::test]
async fn edited_or_deleted_streams_are_reported_and_restored() {
    let mut rig = Rig::start(Cluster::as_shipped().await).await;

    // Another transform: events that are stored meanwhile are in no partition, so none is published then.
    let before = rig.flow.stop().await;
    for witness in &mut rig.witnesses {
        witness.assert_exact(0, 0, before).await;
    }
    let (known, started_at) = (rig.notices(), Instant::now());
    let other = SubjectTransform {
        source: "events.*.*".to_owned(),
        destination: "x.{{wildcard(1)}}.{{wildcard(2)}}".to_owned(),
    };
    rig.edit("EVENTS", |config| config.subject_transform = Some(other)).await;
    for (witness, known) in rig.witnesses.iter_mut().zip(&known) {
        let (at, _) = witness.lost(*known, "the stream EVENTS was edited: subject_transform").await;
        assert!(at - started_at <= NOTIFIED_WITHIN + rig.pulse.allowance());
    }
    rig.assert_recovered(&known).await;
    assert_eq!(rig.config("EVENTS").await.subject_transform.unwrap().destination, names::transform(PARTITIONS));

    // Deleted: the stream is created again, and all of the new epoch is delivered.
    let (known, started_at) = (rig.notices(), Instant::now());
    rig.jetstream.delete_stream("EVENTS").await.unwrap();
    rig.assert_reported(started_at, &known, "missing", "the stream EVENTS does not exist").await;
    rig.assert_recovered(&known).await;
    let recovery = started_at.elapsed();
    rig.flow = Stubborn::start(rig.cluster.producer().await, before, rig.clock);
    rig.flow.more(20).await;
    let second = rig.flow.stop().await;
    for witness in &mut rig.witnesses {
        witness.assert_exact(before, before, second).await;
        assert!(!witness.received().gaps.is_empty(), "clients get a gap for the end of the former epoch");
    }

    // Sealed, which cannot be undone: the operator deletes it.
    let (known, started_at) = (rig.notices(), Instant::now());
    rig.edit("EVENTS", |config| config.sealed = true).await;
    rig.assert_reported(started_at, &known, "sealed", "the stream EVENTS is sealed").await;
    rig.jetstream.delete_stream("EVENTS").await.unwrap();
    rig.assert_recovered(&known).await;
    rig.flow = Stubborn::start(rig.cluster.producer().await, second, rig.clock);
    rig.flow.more(20).await;
    let third = rig.flow.stop().await;
    for witness in &mut rig.witnesses {
        witness.assert_exact(second, second, third).await;
    }
    report(
        "hands: created again",
        &format!("deletion reported, recovered after {} ms; seal reported", recovery.as_millis()),
    );
}

#[tokio::test]
async fn edits_of_buckets_and_consumers_and_a_purge_delay_no_event() {
    let mut rig = Rig::start(Cluster::as_shipped().await).await;
    let before = rig.latest();
    let mut tries = 0;
    let consumers = loop {
        let known = rig.losses();
        let consumers = rig.edit_buckets().await;
        tries += 1;
        if rig.losses() == known {
            break consumers;
        }
        assert!(tries < TRIES, "clients are notified each time: {:?}", rig.witnesses[0].received().notices);
    };
    let latest = rig.latest();
    assert!(latest < before + LATE + rig.pulse.allowance(), "{latest:?} after {before:?}");
    let stream = rig.jetstream.get_stream("EVENTS").await.unwrap();
    // Messages on their way to a deleted consumer are read again.
    for consumer in consumers {
        stream.delete_consumer(&consumer).await.ok();
    }
    rig.flow.more(40).await;
    rig.cluster.settled().await;
    // All but ten messages are removed.
    stream.purge().keep(10).await.unwrap();
    rig.flow.more(40).await;
    rig.cluster.settled().await;
    // No event is missing: all had been delivered before the purge. But a router that has just created the consumer of
    // a partition again does not know yet that the unread range has no event of the partition. It knows after the
    // second batch. If the purge is in between, clients get a gap for the unread range.
    let first = stream.get_info().await.unwrap().state.first_sequence;
    let Rig { mut witnesses, mut flow, .. } = rig;
    let published = flow.stop().await;
    let mut gap_count = 0;
    for witness in &mut witnesses {
        witness.assert_exact(0, 0, published).await;
        let gaps = witness.received().gaps;
        for gap in &gaps {
            assert_eq!((gap.reason.as_str(), gap.to.0), ("retention", first - 1), "{gap:?}");
        }
        let partitions: BTreeSet<Partition> = gaps.iter().map(|gap| gap.p).collect();
        assert_eq!(partitions.len(), gaps.len(), "each partition has one gap: {gaps:?}");
        gap_count = gap_count.max(gaps.len());
    }
    report(
        "hands: unnoticed",
        &format!("buckets, keys, consumers, a purged stream ({gap_count} gaps): {published} events, latest {latest:?}"),
    );
}

#[tokio::test]
async fn two_nodes_of_one_name_report_each_other() {
    let mut cluster = Cluster::as_shipped().await;
    for _ in 0..2 {
        cluster.add_router();
        cluster.add_gateway();
    }
    cluster.settled().await;
    let roles = if is_full() { &["router", "gateway"][..] } else { &["router"] };
    for role in roles.iter().copied() {
        let nodes = if role == "router" { &cluster.routers } else { &cluster.gateways };
        let id = nodes[0].id.clone();
        // A copied configuration on the same host.
        let mut second = cluster.node_with(role, &[("node.id", &id)]);
        let nodes = if role == "router" { &mut cluster.routers } else { &mut cluster.gateways };
        let (first, others) = nodes.split_first_mut().unwrap();
        let pids = [first.process.pid(), second.process.pid()];
        let text = eventually("the node outside the view reports the reason", DEADLINE, async || {
            // The node whose beat arrived later is in the view.
            let (status, report) = first.readyz().await;
            let text = missing(&report).into_iter().find(|(check, _)| check == "name")?.1;
            assert_eq!(status, 503);
            (second.readyz().await.0 == 200).then_some(text)
        })
        .await;
        let other = format!("another node has the name {id}: {role} on host ");
        let process = format!("process {}, admin server 127.0.0.1:", pids[1]);
        assert!(text.starts_with(&other) && text.contains(&process), "{text}");
        assert!(text.contains("the member view has that one"), "{text}");
        for (node, other) in [(&mut *first, pids[1]), (&mut second, pids[0])] {
            let line = eventually(&format!("{} counts and logs the other one", node.id), DEADLINE, async || {
                let log = node.process.stderr();
                let line = log.lines().find(|line| line.contains("two nodes of one name"))?.to_owned();
                (node.metrics().await.get("tickwire_duplicate_names") == 1.0).then_some(line)
            })
            .await;
            assert!(line.contains(&format!("process {other}")), "{line}");
        }
        assert_eq!(others[0].metrics().await.get("tickwire_duplicate_names"), 0.0);
        let output = tickwire().args(["doctor", "--nats", &cluster.nats_url()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("2 nodes bear the name {id}")), "{text}");
        second.process.kill();
        cluster.settled().await;
    }
    report("hands: one name", "both nodes and the doctor report a copied configuration");
}
