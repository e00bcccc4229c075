//! No file of Rust is longer than what one reads at a time. A longer one has more than one role.

use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file.
const MOST: usize = 400;

/// The folder that is not ours. So are those whose name begins with a dot.
const FOREIGN: &str = "target";

/// Adds every file of Rust below a folder, with its number of lines.
fn add_files(folder: &Path, files: &mut Vec<(PathBuf, usize)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if name != FOREIGN && !name.to_string_lossy().starts_with('.') {
                add_files(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            files.push((path, lines));
        }
    }
}

#[test]
fn no_file_of_code_or_tests_has_more_than_400_lines() {
    let mut files = Vec::new();
    add_files(Path::new(env!("CARGO_MANIFEST_DIR")), &mut files);
    let this_one = Path::new(env!("CARGO_MANIFEST_DIR")).join(file!());
    assert!(files.iter().any(|(path, _)| *path == this_one), "{} is not among the files", this_one.display());
    files.retain(|(_, lines)| *lines > MOST);
    assert!(files.is_empty(), "split them: {files:#?}");
}
