//! `make-secrets`, the script that writes the secrets of `docker-compose.yml`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::tools::debian;

/// Runs the script with this folder and these further arguments.
fn make_secrets(out: &Path, arguments: &[&str]) -> Output {
    debian("/usr/bin/openssl");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/make-secrets");
    Command::new(script).arg("--out").arg(out).args(arguments).output().unwrap()
}

#[test]
fn host_that_the_kept_certificate_lacks_is_named() {
    let out = tempfile::tempdir().unwrap();
    let certificate = out.path().join("tls.pem");
    let made = make_secrets(out.path(), &[]);
    assert!(made.status.success(), "{made:?}");
    let kept = fs::read(&certificate).unwrap();
    let hosts = ["--host", "gw.example", "--host", "192.0.2.7", "--host", "2001:db8::7"];
    let made = make_secrets(out.path(), &hosts);
    let text = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.code() == Some(1) && text.contains("gw.example 192.0.2.7 2001:db8::7"), "{made:?}");
    assert_eq!(fs::read(&certificate).unwrap(), kept);

    // What the text advises. After that, the certificate has them.
    fs::remove_file(&certificate).unwrap();
    for arguments in [&hosts[..], &hosts[..2], &hosts[..0]] {
        let made = make_secrets(out.path(), arguments);
        assert!(made.status.success() && made.stderr.is_empty(), "{arguments:?}: {made:?}");
    }
}
