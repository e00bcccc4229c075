//! Runs the README's commands unchanged: every `sh` block between `<!-- run -->` and `<!-- /run -->`.
//!
//! The blocks run in order, each in its own bash that ends with the first failing command, in one empty folder, beside
//! a development cluster. `tickwire` is the binary under test, the ports 8080 and 8081 are those of its gateways, and
//! the address of NATS is in the environment.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_testkit::Process;

use crate::dev::Dev;

/// How long one block may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// The `sh` blocks with run markers.
pub(crate) fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let (mut marked, mut block) = (false, None::<String>);
    for (number, line) in (1..).zip(text.lines()) {
        match (line.trim(), &mut block) {
            ("```", Some(_)) => blocks.extend(block.take()),
            (_, Some(block)) => *block += &format!("{line}\n"),
            ("<!-- run -->", None) => {
                assert!(!marked, "line {number}: marked already");
                marked = true;
            }
            ("<!-- /run -->", None) => {
                assert!(marked, "line {number}: not marked");
                marked = false;
            }
            ("```sh", None) if marked => block = Some(String::new()),
            _ => {}
        }
    }
    assert!(!marked && block.is_none(), "a mark or a block has no end");
    blocks
}

#[tokio::test]
async fn readme_commands_succeed() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let blocks = blocks(&fs::read_to_string(&readme).unwrap());
    assert!(!blocks.is_empty(), "no block of {} is marked to be run", readme.display());

    let dev = Dev::start().await;
    let (first, second) = (dev.gateway.port().to_string(), (dev.gateway.port() + 1).to_string());
    let home = TempDir::with_prefix("tickwire-e2e-readme-").unwrap();
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_tickwire"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    for (number, block) in (1..).zip(blocks) {
        let script = block.replace("8080", &first).replace("8081", &second);
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &script])
            .current_dir(&folder)
            .env("PATH", &path)
            .env("TICKWIRE_BIN", binary)
            .env("TICKWIRE_NATS__URL", &dev.nats_url);
        let mut process = Process::start(&format!("block-{number}"), home.path(), &mut bash);
        let status = process.wait(DEADLINE).await;
        assert!(status.success(), "block {number} ({status}):\n{script}\n{}{}", process.stdout(), process.stderr());
    }
}

#[test]
fn only_marked_blocks_are_collected() {
    let text =
        "```sh\nno\n```\n<!-- run -->\ntext\n```json\nno\n```\n```sh\none\n  two\n```\n<!-- /run -->\n```sh\nno\n```\n";
    assert_eq!(blocks(text), ["one\n  two\n"]);
}
