//! A full disk: NATS on a file system of 48 MB, which is full for a while and then grows. nats-server answers all
//! requests meanwhile, and stores nothing until it is restarted. No acknowledged event is lost, and every node logs the
//! fault in one line.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_testkit::{NatsServer, Pulse, eventually};
use tokio::time::{Instant, sleep_until};

use super::stubborn::{Stubborn, Witness, missing};
use super::tools::{is_full, report};
use crate::cluster::Cluster;
use crate::node::{DEADLINE, tickwire};

/// How soon clients must be notified.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(5);

/// How soon every node must be ready after the restart of NATS.
const READY: Duration = Duration::from_secs(15);

/// How many warnings and errors a node may log.
const WARNINGS: usize = 40;

/// A file system in memory, unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    /// Mounts one of this size.
    fn mount(size: &str) -> Self {
        let folder = TempDir::with_prefix("tickwire-disk-").unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], folder.path());
        Self(folder)
    }

    fn grow(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], self.0.path());
    }

    /// Uses all free space.
    fn fill(&self) {
        let mut ballast = File::create(self.0.path().join("ballast")).unwrap();
        let block = vec![0; 64 * 1024];
        for size in [block.len(), 512] {
            let end = loop {
                if let Err(error) = ballast.write(&block[..size]) {
                    break error;
                }
            };
            assert_eq!(end.kind(), ErrorKind::StorageFull);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The server has ended. Its files are removed with the folder.
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

fn mount(args: &[&str], folder: &Path) {
    let mounted = Command::new("mount").args(args).arg(folder).output().expect("mount runs");
    let text = String::from_utf8_lossy(&mounted.stderr);
    assert!(mounted.status.success(), "cannot mount a tmpfs, for which this test needs root: {text}");
}

#[tokio::test]
async fn full_disk_is_reported_and_no_acknowledged_event_is_lost() {
    let lasting = Duration::from_secs(if is_full() { 30 } else { 6 });
    let disk = Disk::mount("48m");
    let store = disk.0.path().join("store");
    fs::create_dir(&store).unwrap();
    // By default the server uses three quarters of a disk and refuses the rest; then the disk never fills.
    let config = disk.0.path().join("nats.conf");
    fs::write(&config, "jetstream { max_file_store: 20GB }\n").unwrap();
    let server = NatsServer::start_on(&store, &["-js", "-c", config.to_str().unwrap()]);
    let mut cluster = Cluster::as_shipped_on(vec![server]).await;
    let (clock, mut witnesses) = Witness::of_two_gateways(&mut cluster).await;
    let mut flow = Stubborn::start(cluster.producer().await, 0, clock);
    flow.more(100).await;

    let pulse = Pulse::start();
    disk.fill();
    let stored = cluster_stops(&flow).await;
    let full = Instant::now();
    for witness in &mut witnesses {
        let (at, text) = witness.lost(0, "NATS does not store events").await;
        let after = at.saturating_duration_since(full);
        assert!(after <= NOTIFIED_WITHIN + pulse.allowance(), "notified after {after:?}: {text}");
        assert!(text.contains("disk") && text.contains("restarted"), "{text}");
    }
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        let what = format!("{} reports it in one line", node.id);
        eventually(&what, DEADLINE, async || {
            let (status, report) = node.readyz().await;
            let unmet = missing(&report);
            let is_storage =
                unmet.iter().all(|(check, text)| check == "storage" && text.contains("NATS does not store"));
            (status == 503 && unmet.len() == 1 && is_storage).then_some(())
        })
        .await;
        eventually("the trouble is shown", DEADLINE, async || {
            (node.metrics().await.get("tickwire_storage_troubles") >= 1.0).then_some(())
        })
        .await;
    }
    let doctor = tickwire().args(["doctor", "--nats", &cluster.nats_url()]).output().unwrap();
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{text}");
    assert!(text.lines().any(|line| line.starts_with("FAIL") && line.contains("NATS does not store events")), "{text}");

    sleep_until(full + lasting).await;
    disk.grow("96m");
    let restarted = Instant::now();
    cluster.nats[0].restart();
    cluster.settled().await;
    let ready = restarted.elapsed();
    assert!(ready <= READY + pulse.allowance(), "ready after {ready:?}");
    for witness in &mut witnesses {
        witness.restored(0).await;
    }
    flow.more(100).await;
    let published = flow.stop().await;
    for witness in &mut witnesses {
        witness.assert_exact(0, 0, published).await;
        assert_eq!(witness.received().gaps, []);
    }
    let mut most = 0;
    for node in cluster.routers.iter().chain(&cluster.gateways) {
        let log = node.process.stderr();
        let is_warning = |line: &&str| line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
        let warnings: Vec<&str> = log.lines().filter(is_warning).collect();
        assert!(warnings.len() <= WARNINGS, "{}: {} warnings: {warnings:#?}", node.id, warnings.len());
        most = most.max(warnings.len());
    }
    let ms = ready.as_millis();
    report(
        "full disk",
        &format!(
            "full after {stored} of {published} events, exact; ready {ms} ms after the restart; {most} warnings a node"
        ),
    );
    drop(cluster);
}

/// Waits until no more events are acknowledged. Returns how many were.
async fn cluster_stops(flow: &Stubborn) -> usize {
    const STILL: Duration = Duration::from_millis(500);
    let (mut acknowledged, mut since) = (flow.acknowledged(), Instant::now());
    eventually("the disk is full", DEADLINE, async || {
        let now = flow.acknowledged();
        if now > acknowledged {
            (acknowledged, since) = (now, Instant::now());
        }
        (since.elapsed() > STILL).then_some(now)
    })
    .await
}
