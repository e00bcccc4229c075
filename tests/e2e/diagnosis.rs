//! Describes a cluster when a test that waits for it fails: which node is not ready and why, the view of each node, and
//! the owner of each partition's lease.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use async_nats::jetstream;
use async_nats::jetstream::kv::Entry;
use serde::de::IgnoredAny;
use tickwire_core::placement::View;
use tickwire_core::wire;
use tickwire_node::lease::LeaseRecord;
use tickwire_node::names;

use crate::cluster::{Cluster, OWNED, PARTITIONS};
use crate::node::TestNode;

/// How many of the last log lines about views and leases are shown for each node.
const LINES: usize = 12;

/// Returns the description as text.
pub(crate) async fn diagnose(cluster: &mut Cluster) -> String {
    let mut text = String::from("the cluster is not complete\n");
    let bucket = jetstream::new(cluster.client.clone());
    match bucket.get_key_value(names::VIEW_BUCKET).await {
        Ok(bucket) => match bucket.entry(names::VIEW_KEY).await {
            Ok(Some(entry)) => writeln!(text, "view in KV: {}", view(&entry)).unwrap(),
            other => writeln!(text, "view in KV: {other:?}").unwrap(),
        },
        Err(error) => writeln!(text, "view in KV: {error}").unwrap(),
    }
    text += &leases(cluster).await;
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        text += &of_node(node).await;
    }
    text
}

fn view(entry: &Entry) -> String {
    match wire::decode::<View>(&entry.value) {
        Ok(View { version, members, .. }) => {
            let member = |member: &tickwire_core::placement::Member| {
                format!("{}{}", member.node.id, if member.draining { " (draining)" } else { "" })
            };
            let members: Vec<String> = members.iter().map(member).collect();
            format!("version {version}, revision {}: {}", entry.revision, members.join(", "))
        }
        Err(error) => error.to_string(),
    }
}

/// The partitions of each owner, and those that have none.
async fn leases(cluster: &Cluster) -> String {
    let bucket = match jetstream::new(cluster.client.clone()).get_key_value(names::LEASES_BUCKET).await {
        Ok(bucket) => bucket,
        Err(error) => return format!("leases: {error}\n"),
    };
    let mut owners: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let owner = match bucket.entry(names::lease_key(partition)).await {
            Ok(Some(entry)) => match wire::decode::<LeaseRecord<IgnoredAny>>(&entry.value) {
                Ok(LeaseRecord { owner: Some(owner), .. }) => owner.to_string(),
                Ok(LeaseRecord { owner: None, .. }) => "given back".to_owned(),
                Err(error) => error.to_string(),
            },
            Ok(None) => "never taken".to_owned(),
            Err(error) => error.to_string(),
        };
        owners.entry(owner).or_default().push(partition);
    }
    let line = |(owner, partitions): (&String, &Vec<u32>)| format!("lease of {owner}: {partitions:?}\n");
    owners.iter().map(line).collect()
}

async fn of_node(node: &mut TestNode) -> String {
    let (status, report) = node.readyz().await;
    let metrics = node.metrics().await;
    let (version, owned) = (metrics.get("tickwire_view_version"), metrics.get(OWNED));
    let mut text = format!("{}: owns {owned}, view version {version}, /readyz {status} {report}\n", node.id);
    let output = node.process.stdout() + &node.process.stderr();
    let is_relevant = |line: &&str| ["view", "lease", "coordinator", "stream"].iter().any(|word| line.contains(word));
    let lines: Vec<&str> = output.lines().filter(is_relevant).collect();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        writeln!(text, "    {line}").unwrap();
    }
    text
}
