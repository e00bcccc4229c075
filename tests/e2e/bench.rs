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
