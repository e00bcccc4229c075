//! Small runs of the benchmark: its counts are exact.

use serde_json::Value;

use crate::node::tickwire;

#[test]
fn small_bench_delivers_exactly_the_expected_events() {
    for through in ["gateway", "bare"] {
        let args = ["bench", "selective", "--through", through, "--sockets", "20", "--rate", "200", "--seconds", "1"];
        let output = tickwire().args(args).args(["--window", "0", "--json"]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{through}: {errors}");
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
fn bench_through_a_cluster_shows_that_the_route_cache_knows_most_events() {
    let args = ["bench", "selective", "--through", "cluster", "--sockets", "20", "--rate", "1000", "--seconds", "1"];
    let output = tickwire().args(args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["symbols_by"].as_str(), report["enriched"].as_bool()), (Some("zipf"), Some(true)));
    let cache = &report["runs"][0]["route_cache"];
    let [hits, misses] = ["hits", "misses"].map(|what| cache[what].as_u64().unwrap());
    assert!(hits * 100 >= (hits + misses) * 60 && hits > 0, "{cache}");
}

#[test]
fn idle_session_uses_little_memory() {
    let args = ["bench", "idle", "--sockets", "1000", "--seconds", "8", "--json"];
    let output = tickwire().args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = report["runs"][0]["rss_per_socket"].as_f64().unwrap();
    // 4 KB each with 19,000 sockets (docs/benchmarks.md). Few sockets show 6.5 KB, since they share the fixed memory.
    assert!(bytes < 8_000.0, "{bytes} bytes");
}
