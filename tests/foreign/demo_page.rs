//! The demo page in Chromium: each preset that it offers becomes a subscription with the numbers of the preset, and the
//! page shows the events that pass.

use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_core::filter::presets::{Preset, PresetRequest};
use tickwire_testkit::{Process, eventually};

use super::tools::{debian, node_modules, report, script};
use crate::cluster::Cluster;
use crate::producer::ProducerMessage;

/// How long a browser may take on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(120);

/// The patterns for `specific`.
const PATTERNS: [&str; 2] = ["BreakoutBO", "Hammer"];

/// What the script has printed in whole lines.
fn lines(process: &Process) -> Vec<Value> {
    let text = process.stdout();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The subscription that the gateway confirms for a preset.
fn confirmed(preset: Preset) -> Value {
    let patterns = (preset == Preset::Specific).then(|| json!(PATTERNS));
    let request = PresetRequest::new(preset, None, patterns.as_ref()).unwrap();
    // The window is that of the test cluster.
    let mut subscription = json!({ "preset": preset.as_str(), "filter": request.filter(), "window_ms": 20 });
    if let Some(most) = preset.max_events_per_hour() {
        subscription["max_events_per_hour"] = json!(most);
    }
    subscription
}

#[tokio::test]
async fn the_demo_page_subscribes_by_each_preset_and_shows_what_passes() {
    let mut cluster = Cluster::start(1, 1).await;
    let gateway = cluster.gateway_addresses().await[0];
    let home = TempDir::with_prefix("tickwire-e2e-demo-page-").unwrap();
    std::os::unix::fs::symlink(node_modules(), home.path().join("node_modules")).unwrap();
    fs::copy(script("demo_page/presets.mjs"), home.path().join("presets.mjs")).unwrap();
    // The tests may run where Ctrl-C is ignored.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(debian("/usr/bin/node")).arg("presets.mjs");
    command.arg(debian("/usr/bin/chromium")).arg(format!("http://{gateway}/?user=ann")).arg(PATTERNS.join(", "));
    let mut process = Process::start("demo-page", home.path(), command.current_dir(home.path()));
    let chosen = eventually("every preset is chosen", DEADLINE, async || {
        assert_eq!(process.exit(), None, "it has ended: {}", process.stderr());
        Some(lines(&process)).filter(|lines| lines.len() == Preset::ALL.len())
    })
    .await;
    assert_eq!(chosen, Preset::ALL.map(confirmed));

    // The last preset is that of risks, which does not want the first event. Events of a key come in order.
    let event =
        |pattern: &str| ProducerMessage::json("pattern", "AAPL", &json!({ "pattern": pattern, "confidence": 0.85 }));
    cluster.producer().await.publish_all(&[event("Doji"), event("LiquidityDrop")]).await;
    process.interrupt();
    let status = process.wait(DEADLINE).await;
    assert!(status.success(), "{status}: {}", process.stderr());
    assert_eq!(lines(&process).last(), Some(&json!(["AAPL LiquidityDrop daily"])));
    report("demo page", &format!("{} presets chosen", chosen.len()));
}
