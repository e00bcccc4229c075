//! Wrong configuration is refused with exit code 2, the error and a correction.

use std::fs;
use std::process::Output;

use crate::cluster::Cluster;
use crate::node::{DEADLINE, tickwire};

fn check(args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = tickwire().args(["config", "check"]).args(args).output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn config_error_names_place_and_correction() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tickwire.toml");
    fs::write(&file, "[gateway]\nlisten = \"127.0.0.1:8080\"\nmax_sesions = 5\n").unwrap();
    let file = file.to_str().unwrap();
    let table: [(&[&str], &[&str]); 9] = [
        (&["--config", file], &["gateway.max_sesions", "gateway.max_sessions", file]),
        (&["--set", "gatway.listen=127.0.0.1:1"], &["gatway.listen", "gateway.listen", "--set"]),
        (&["--set", "stream.partitions=many"], &["stream.partitions", "many", "--set"]),
        (&["--set", "stream.partitions=0"], &["stream.partitions", "0", "1", "1024"]),
        (&["--set", "membership.beat_interval=fast"], &["membership.beat_interval", "fast", "250ms"]),
        (&["--set", "gateway.again_window=25h"], &["gateway.again_window", "0s", "24h", "--set"]),
        (&["--set", "gateway.listen=localhost:8080"], &["gateway.listen", "localhost:8080", "127.0.0.1:8080", "--set"]),
        (&["--set", "admin.listen=:9090"], &["admin.listen", "an IP address and a port", "--set"]),
        (&["--config", "/no/such/file.toml"], &["/no/such/file.toml"]),
    ];
    for (args, errors) in table {
        let (code, output) = check(args);
        assert_eq!(code, Some(2), "{args:?}: {output}");
        for part in errors {
            assert!(output.contains(part), "{args:?}: {part:?} is not in: {output}");
        }
    }
    assert_eq!(check(&["--set", "auth.mode=dev"]), (Some(0), "ok\n".to_owned()));
}

#[test]
fn rates_of_plans_are_numbers_in_a_file_as_the_reference_shows() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tickwire.toml");
    let check_file = |text: &str| {
        fs::write(&file, text).unwrap();
        check(&["--config", file.to_str().unwrap(), "--set", "auth.mode=dev"])
    };
    assert_eq!(check_file("[gateway.plans]\npro = 500\n"), (Some(0), "ok\n".to_owned()));
    let table = [
        ("[gateway.plans]\npro = 1000001\n", "gateway.plans"),
        ("[gateway.plans]\npro = 0.5\n", "gateway.plans.pro"),
        ("[events.kinds]\nnews = 5\n", "events.kinds.news"),
    ];
    for (text, key) in table {
        let (code, output) = check_file(text);
        assert_eq!(code, Some(2), "{text}: {output}");
        assert!(output.contains(key), "{key:?} is not in: {output}");
    }
}

#[test]
fn config_errors_name_environment_variables() {
    let output = tickwire().args(["config", "check"]).env("TICKWIRE_STREAM__PARTITONS", "16").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for part in ["TICKWIRE_STREAM__PARTITONS", "stream.partitions"] {
        assert!(errors.contains(part), "{part:?} is not in: {errors}");
    }
}

#[tokio::test]
async fn node_with_another_partition_count_is_refused() {
    let mut cluster = Cluster::start(1, 1).await;
    for role in ["gateway", "router"] {
        let mut node = cluster.node_with(role, &[("stream.partitions", "16")]);
        let status = node.process.wait(DEADLINE).await;
        assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
        let errors = node.process.stderr();
        for part in ["16", "32", "partitions"] {
            assert!(errors.contains(part), "{role}: {part:?} is not in: {errors}");
        }
    }
    // Running nodes are not affected.
    cluster.settled().await;
}
