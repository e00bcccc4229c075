//! The recipes of `docs/recipes.md`, run as they stand on the cluster of `tickwire dev`: what each command and program
//! shows is what the page shows.
//!
//! A block with the language `sh` is a command. If it has a name, it is a program that stays open until the end of its
//! recipe. A block with the language `text` is what the last command has printed or, with a name, what the program of
//! this name shows next. Every other block with a name is a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_testkit::{Process, eventually};

use super::document::{CodeBlock, code_blocks};
use super::tools::{debian, python, report};
use crate::dev::Dev;

/// How long one step may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// The recipes of the older system.
const RECIPES: [&str; 6] = ["Basic subscription", "Scalping", "Portfolios", "Broadcasting", "Alerts", "Health report"];

/// A program that stays open.
struct OpenProgram {
    process: Process,
    /// How many of its lines the page has shown.
    shown: usize,
}

impl OpenProgram {
    /// Its whole lines.
    fn lines(&self) -> Vec<String> {
        let text = self.process.stdout();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }
}

/// The terminals of a reader.
struct Terminals {
    /// The folder in which the commands run.
    folder: PathBuf,
    environment: [(&'static str, String); 4],
    /// The addresses in the page, and those of the cluster.
    addresses: [(&'static str, String); 2],
    started: usize,
    /// What the last command has printed.
    printed: String,
    open: BTreeMap<String, OpenProgram>,
    /// The folder of the outputs, which is removed last.
    home: TempDir,
}

impl Terminals {
    async fn of(dev: &Dev) -> Self {
        let home = TempDir::with_prefix("tickwire-e2e-recipes-").unwrap();
        let folder = home.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let folders = [
            Path::new(env!("CARGO_BIN_EXE_tickwire")).parent().unwrap().to_owned(),
            python("python").parent().unwrap().to_owned(),
            debian("/usr/bin/curl").parent().unwrap().to_owned(),
        ];
        let own = folders.map(|folder| folder.display().to_string()).join(":");
        let path = format!("{own}:{}", std::env::var("PATH").unwrap_or_default());
        let (first, second) = (dev.gateway.port(), dev.gateway.port() + 1);
        Self {
            folder,
            environment: [
                ("PATH", path),
                ("TICKWIRE_NATS__URL", dev.nats_url.clone()),
                ("GATEWAY", dev.admin("gateway-1").await),
                ("ROUTER", dev.admin("router-1").await),
            ],
            addresses: [
                ("127.0.0.1:8080", format!("127.0.0.1:{first}")),
                ("127.0.0.1:8081", format!("127.0.0.1:{second}")),
            ],
            started: 0,
            printed: String::new(),
            open: BTreeMap::new(),
            home,
        }
    }

    /// The text of a block with the addresses of the cluster.
    fn placed(&self, block: &CodeBlock) -> String {
        self.addresses.iter().fold(block.text.clone(), |text, (page, own)| text.replace(*page, own))
    }

    fn write(&self, file: &CodeBlock) {
        fs::write(self.folder.join(&file.name), self.placed(file)).unwrap();
    }

    /// Takes a step of a recipe.
    async fn take(&mut self, block: &CodeBlock) {
        match (block.language.as_str(), block.name.as_str()) {
            ("sh", "") => self.run(block).await,
            ("text", "") => assert_shown(&block.text, &std::mem::take(&mut self.printed)),
            ("sh", name) => {
                let process = self.start(block);
                let former = self.open.insert(name.to_owned(), OpenProgram { process, shown: 0 });
                assert!(former.is_none(), "{name} is open already");
            }
            ("text", name) => self.see(name, &block.text).await,
            _ => {}
        }
    }

    /// Starts a command. Both of its outputs are one, as in a terminal.
    fn start(&mut self, block: &CodeBlock) -> Process {
        self.started += 1;
        let script = format!("exec 2>&1\n{}", self.placed(block));
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &script])
            .current_dir(&self.folder)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .env_remove("TICKWIRE_TOKEN");
        Process::start(&format!("step-{}", self.started), self.home.path(), &mut bash)
    }

    async fn run(&mut self, block: &CodeBlock) {
        let mut process = self.start(block);
        let status = process.wait(DEADLINE).await;
        self.printed = process.stdout();
        assert!(status.success(), "{status}:\n{}\n{}", block.text, self.printed);
    }

    /// Waits until a program shows as many further lines as the page does, and compares them.
    async fn see(&mut self, name: &str, expected: &str) {
        let program = self.open.get_mut(name).unwrap_or_else(|| panic!("no program is open as {name}"));
        let count = expected.lines().count();
        let what = format!("{name} shows this:\n{expected}");
        let found = eventually(&what, DEADLINE, async || {
            let lines = program.lines();
            let ended = program.process.exit();
            let found = lines.get(program.shown..).filter(|found| found.len() >= count);
            assert!(found.is_some() || ended.is_none(), "{name} has ended ({ended:?}): {lines:#?}");
            found.map(|found| found[..count].join("\n"))
        })
        .await;
        assert_shown(expected, &found);
        program.shown += count;
    }

    /// Ends the programs of a recipe. None has shown more than the page.
    fn close(&mut self) {
        for (name, program) in std::mem::take(&mut self.open) {
            let more = program.lines().split_off(program.shown);
            assert!(more.is_empty(), "{name} shows what the page does not: {more:#?}");
        }
    }
}

/// Fails unless the page shows what was found.
fn assert_shown(page: &str, found: &str) {
    let equal = page.lines().count() == found.lines().count();
    let equal = equal && page.lines().zip(found.lines()).all(|(page, found)| fits(page, found));
    assert!(equal, "the page shows\n{page}\nand the terminal\n{found}");
}

/// Whether a line of the page stands for this line: `…` stands for any text.
fn fits(page: &str, found: &str) -> bool {
    let Some((start, rest)) = page.split_once('…') else { return page == found };
    let Some(mut found) = found.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('…').map_or((None, rest), |(middle, end)| (Some(middle), end));
    for part in middle.into_iter().flat_map(|middle| middle.split('…')) {
        let Some((_, behind)) = found.split_once(part) else { return false };
        found = behind;
    }
    found.ends_with(end)
}

#[tokio::test]
async fn the_recipes_show_what_their_page_says() {
    let blocks = code_blocks("recipes.md");
    let dev = Dev::start().await;
    let mut terminals = Terminals::of(&dev).await;
    let is_file = |block: &&CodeBlock| !["sh", "text"].contains(&block.language.as_str()) && !block.name.is_empty();
    blocks.iter().filter(is_file).for_each(|file| terminals.write(file));

    let mut done = Vec::new();
    // Before the first recipe stands what a reader needs for all of them.
    for recipe in blocks.chunk_by(|a, b| a.section == b.section).filter(|recipe| !recipe[0].section.is_empty()) {
        for block in recipe {
            terminals.take(block).await;
        }
        terminals.close();
        done.push(recipe[0].section.as_str());
    }
    assert_eq!(done, RECIPES);
    report("recipes", &format!("{} recipes show what their page says", done.len()));
}

#[test]
fn an_ellipsis_stands_for_any_text() {
    for (page, found, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a …", "a b c", true),
        ("a …", "a", false),
        ("… s old", "4.3 s old", true),
        ("p …, q … ms", "p 1, q 2 ms", true),
        ("p …, q … ms", "p 1 q 2 ms", false),
        ("x…y…z", "x--y--z--", false),
        ("x…y…z", "x--y--z", true),
        ("x…x", "x", false),
    ] {
        assert_eq!(fits(page, found), expected, "{page:?} for {found:?}");
    }
}
