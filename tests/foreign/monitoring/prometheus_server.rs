//! A real Prometheus for one test: it scrapes the nodes of a cluster twice a second, and evaluates the rules as often.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_testkit::{Process, eventually, free_address};
use tokio::time::{Instant, sleep};

use super::super::tools::debian;
use crate::cluster::Cluster;
use crate::node::{DEADLINE, get};

/// Its configuration. The job has the name that the rules need.
const CONFIG: &str = "\
global: { scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }
rule_files: [alerts.yml]
scrape_configs:
  - job_name: tickwire
    file_sd_configs: [{ files: [targets.json], refresh_interval: 1s }]
";

/// The pause between two queries that wait for something.
const PAUSE: Duration = Duration::from_millis(200);

/// A running Prometheus. It is killed when it is dropped, before its files are removed.
#[derive(Debug)]
pub(super) struct Prometheus {
    _process: Process,
    address: SocketAddr,
    home: TempDir,
    /// Since when it has scraped all nodes.
    since: Instant,
}

impl Prometheus {
    /// Starts one with these rules that scrapes every node of the cluster.
    pub(super) async fn start(rules: &str, cluster: &mut Cluster) -> Self {
        let home = TempDir::with_prefix("tickwire-prometheus-").unwrap();
        fs::write(home.path().join("alerts.yml"), rules).unwrap();
        fs::write(home.path().join("prometheus.yml"), CONFIG).unwrap();
        let address = free_address();
        let mut command = Command::new(debian("/usr/bin/prometheus"));
        command.current_dir(home.path()).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg("--log.level=warn").arg(format!("--web.listen-address={address}"));
        write_targets(&home, &targets(cluster).await);
        let process = Process::start("prometheus", home.path(), &mut command);
        let ready = async || (get(address, "/-/ready").await.0 == 200).then_some(());
        eventually("Prometheus is ready", DEADLINE, ready).await;
        let mut prometheus = Self { _process: process, address, home, since: Instant::now() };
        let count = cluster.routers.len() + cluster.gateways.len();
        prometheus.until(&format!("count(up == 1) == {count}")).await;
        // Before it has read its targets for the first time, it has no data.
        prometheus.until("absent(ALERTS)").await;
        prometheus.since = Instant::now();
        prometheus
    }

    /// Scrapes these nodes from now on, by name.
    pub(super) fn scrape(&self, nodes: &[(String, SocketAddr)]) {
        write_targets(&self.home, nodes);
    }

    /// The series that a query returns.
    pub(super) async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, body) = get(self.address, &format!("/api/v1/query?query={encoded}")).await;
        assert_eq!(status, 200, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until a query returns something.
    pub(super) async fn until(&self, query: &str) {
        eventually(query, DEADLINE, async || {
            sleep(PAUSE).await;
            (!self.query(query).await.is_empty()).then_some(())
        })
        .await;
    }

    /// The alerts that have fired since it has scraped all nodes.
    pub(super) async fn fired(&self) -> BTreeSet<String> {
        let seconds = self.since.elapsed().as_secs().max(1);
        let query = format!("count by (alertname) (max_over_time(ALERTS{{alertstate='firing'}}[{seconds}s]))");
        let found = self.query(&query).await;
        found.iter().map(|series| series["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until all of these have fired.
    pub(super) async fn until_fired(&self, alerts: &[&str]) {
        let deadline = DEADLINE * 2;
        let mut missing: Vec<&str> = alerts.to_vec();
        let end = Instant::now() + deadline;
        while !missing.is_empty() {
            assert!(Instant::now() < end, "not fired within {deadline:?}: {missing:?}");
            sleep(PAUSE).await;
            let fired = self.fired().await;
            missing.retain(|alert| !fired.contains(*alert));
        }
    }

    /// Fails unless every rule could be evaluated, and every text of a firing alert could be written.
    pub(super) async fn assert_rules_are_sound(&self) {
        let (status, body) = get(self.address, "/api/v1/rules").await;
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        for rule in
            answer["data"]["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
        {
            assert_eq!(rule["health"], "ok", "{rule}");
            for alert in rule["alerts"].as_array().unwrap() {
                let texts = alert["annotations"].to_string();
                assert!(!texts.contains("<error") && !texts.contains("<no value>"), "{texts}");
            }
        }
    }
}

/// The nodes of a cluster with their admin servers.
pub(super) async fn targets(cluster: &mut Cluster) -> Vec<(String, SocketAddr)> {
    let mut nodes = Vec::new();
    for node in cluster.routers.iter_mut().chain(&mut cluster.gateways) {
        let admin = node.address("admin").await;
        nodes.push((node.id.clone(), admin));
    }
    nodes
}

/// Prometheus watches the folder, and reads a file that was replaced.
fn write_targets(home: &TempDir, nodes: &[(String, SocketAddr)]) {
    let target = |(name, admin): &(String, SocketAddr)| json!({ "targets": [admin], "labels": { "instance": name } });
    let targets: Vec<Value> = nodes.iter().map(target).collect();
    let new = home.path().join("targets.new");
    fs::write(&new, json!(targets).to_string()).unwrap();
    fs::rename(new, home.path().join("targets.json")).unwrap();
}
