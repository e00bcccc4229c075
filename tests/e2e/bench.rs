//! The benchmark, small: it counts exactly, whatever it measures.

use serde_json::Value;

use crate::node::tickwire;

#[test]
fn a_small_bench_delivers_exactly_what_its_oracle_expects() {
    for through in ["gateway", "bare"] {
        let args = ["bench", "selective", "--through", through, "--sockets", "20", "--rate", "200", "--seconds", "1"];
        let output = tickwire().args(args).args(["--window", "0", "--json"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{through}: {told}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let run = &report["runs"][0];
        assert!(run["expected"].as_u64().unwrap() > 0, "{through}: {run}");
        for nothing in ["lost", "extra", "mixed_up", "dropped", "closed"] {
            assert_eq!(run[nothing], 0, "{through}: {nothing}: {run}");
        }
        assert_eq!(run["sends_per_delivery"], 1.0, "{through}: {run}");
    }
}

#[test]
fn an_idle_session_holds_little_memory() {
    let args = ["bench", "idle", "--sockets", "1000", "--seconds", "8", "--json"];
    let output = tickwire().args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = report["runs"][0]["rss_per_socket"].as_f64().unwrap();
    // 4 KB each of 19,000 (docs/benchmarks.md), and 6.5 KB of so few, who share what a gateway takes anyway.
    assert!(bytes < 8_000.0, "{bytes} bytes");
}
