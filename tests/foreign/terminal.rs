//! The live view of `tickwire top` on a real terminal: Python's `pty` gives one, types keys and reads what is drawn.

use std::process::Command;

use super::tools::{debian, script};
use crate::cluster::Cluster;

#[tokio::test]
async fn live_view_follows_keys_and_leaves_the_terminal_as_it_was() {
    let mut cluster = Cluster::start(1, 1).await;
    let admin = format!("http://{}", cluster.gateways[0].address("admin").await);
    for end in ["key", "signal"] {
        let mut command = Command::new(debian("/usr/bin/python3"));
        command.arg(script("terminal.py")).arg(end);
        command.args([env!("CARGO_BIN_EXE_tickwire"), "top", "--admin", &admin]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{end}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
