//! `make-users`, the script that writes the users of NATS for the configuration that is shipped.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the script with this folder and these further arguments.
fn make_users(out: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats/make-users");
    Command::new(script).arg("--out").arg(out).args(arguments).output().unwrap()
}

#[test]
fn user_whose_password_cannot_be_read_gets_no_empty_one() {
    let out = tempfile::tempdir().unwrap();
    // It exists, and reading it fails for root, too.
    fs::create_dir_all(out.path().join("producer.password/folder")).unwrap();
    let made = make_users(out.path(), &[]);
    assert_eq!(made.status.code(), Some(1), "{made:?}");
    let users = fs::read_to_string(out.path().join("users.conf")).unwrap();
    assert!(!users.contains("producer") && !users.contains("\"\""), "{users}");
}

#[test]
fn what_a_further_run_leaves_out_is_named_and_passwords_stay() {
    let out = tempfile::tempdir().unwrap();
    let all = ["--gateway", "g1", "--gateway", "g2", "--routes", "n1:6222,n2:6222", "--domain", "hub"];
    // The first run, and one more with the same arguments.
    for _ in 0..2 {
        let made = make_users(out.path(), &all);
        assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    }
    let password = fs::read(out.path().join("gateway-g1.password")).unwrap();
    let made = make_users(out.path(), &["--gateway", "g1", "--routes", "n2:6222"]);
    assert!(made.status.success(), "{made:?}");
    let text = String::from_utf8(made.stderr).unwrap();
    let left_out = text.trim_end().rsplit_once(": ").unwrap().1;
    assert_eq!(left_out, "domain hub, server n1:6222, user gateway-g2", "{text}");
    assert_eq!(fs::read(out.path().join("gateway-g1.password")).unwrap(), password);
}
