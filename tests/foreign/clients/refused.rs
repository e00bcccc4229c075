//! Programs whose credentials are refused end with the close code, and do not try again. They print the reason.

use tempfile::TempDir;
use tickwire_testkit::Process;

use super::programs::Programs;
use super::{By, DEADLINE, RESUMING, command};
use crate::cluster::Cluster;
use crate::foreign::tools::node_modules;

#[tokio::test]
async fn programs_with_refused_credentials_end_and_say_why() {
    let settings = [("auth.mode", "jwt"), ("auth.jwt_secret", "0123456789abcdef0123456789abcdef")];
    let mut cluster = Cluster::start_with(1, 1, &settings).await;
    let gateway = cluster.gateway_addresses().await[0];
    let programs = Programs::read();
    let home = TempDir::with_prefix("tickwire-e2e-refused-").unwrap();
    std::os::unix::fs::symlink(node_modules(), home.path().join("node_modules")).unwrap();
    // The end of a program in a page is not the end of its browser.
    for program in RESUMING.iter().filter(|program| program.by != By::Chromium && program.edit.is_none()) {
        let folder = home.path().join(program.name);
        programs.write(&folder, gateway, "ann", &cluster.nats_url());
        let mut process = Process::start(program.name, home.path(), &mut command(program.by, &folder, program.file));
        process.wait(DEADLINE).await;
        let errors = process.stderr();
        assert!(errors.contains("closed with 4001"), "{}: {errors}", program.name);
        assert!(errors.contains("accepted only in development"), "{}: {errors}", program.name);
    }
}
