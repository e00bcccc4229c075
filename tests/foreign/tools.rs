//! The programs of the foreign tests: their paths, and whether to run the full form.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs};

/// Whether each suite runs in full, and not in its short form: `make foreign` sets it.
pub(crate) fn is_full() -> bool {
    env::var("TICKWIRE_FOREIGN").is_ok_and(|form| form == "full")
}

/// A program of Debian.
pub(crate) fn debian(path: &str) -> PathBuf {
    found(PathBuf::from(path))
}

/// A library of Debian. Its path depends on the processor.
pub(crate) fn debian_library(name: &str) -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library = folders.map(|folder| folder.path().join(name)).find(|path| path.exists());
    found(library.unwrap_or_else(|| Path::new("/usr/lib/*").join(name)))
}

/// A program of a Python package.
pub(crate) fn python(program: &str) -> PathBuf {
    found(installed().join("venv/bin").join(program))
}

/// The folder in which Node finds its packages.
pub(crate) fn node_modules() -> PathBuf {
    found(installed().join("node_modules"))
}

/// A file of this folder.
pub(crate) fn script(name: &str) -> PathBuf {
    found(root().join("tests/foreign").join(name))
}

/// Writes a line with the result of a suite, for the table that `make foreign` prints.
pub(crate) fn report(suite: &str, found: &str) {
    static WRITING: Mutex<()> = Mutex::new(());
    let _one = WRITING.lock().unwrap();
    let folder = root().join("target/foreign");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{}.txt", suite.replace([' ', '/'], "-"))), format!("{suite:<24} {found}\n"))
        .unwrap();
    eprintln!("{suite}: {found}");
}

fn installed() -> PathBuf {
    root().join(".tools/foreign")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn found(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: `make foreign-tools` gets it", path.display());
    path
}
