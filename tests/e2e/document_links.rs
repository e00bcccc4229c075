//! Documents link to each other, and to sections of each other, and name targets of make. All of these exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders with files that are not ours. So are those whose name begins with a dot.
const FOREIGN: [&str; 3] = ["node_modules", "secrets", "target"];

/// What the links of a document are, where others can lead in it, and which targets of make it names.
#[derive(Debug, Default)]
struct Document {
    links: Vec<String>,
    anchors: BTreeSet<String>,
    goals: BTreeSet<String>,
}

impl Document {
    fn read(text: &str) -> Self {
        let (mut document, mut is_code) = (Self::default(), false);
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if is_code {
                document.goals.extend(line.strip_prefix("make ").into_iter().flat_map(goals));
            } else {
                document.goals.extend(line.split("`make ").skip(1).flat_map(goals));
                if line.starts_with('#') {
                    document.anchors.insert(anchor(line.trim_start_matches('#').trim()));
                }
                let targets = line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
                document.links.extend(targets.map(str::to_owned));
            }
        }
        document
    }
}

/// The targets at the beginning of the arguments of make.
fn goals(arguments: &str) -> impl Iterator<Item = String> {
    let command = arguments.split('`').next().unwrap_or_default();
    let is_goal =
        |word: &&str| word.chars().all(|symbol| symbol.is_ascii_lowercase() || "-0123456789".contains(symbol));
    command.split_whitespace().take_while(is_goal).map(str::to_owned)
}

/// The name by which a link names a section, as GitHub makes it from the heading.
fn anchor(heading: &str) -> String {
    let heading = heading.to_lowercase();
    let kept = heading.chars().filter(|symbol| symbol.is_alphanumeric() || " -_".contains(*symbol));
    kept.map(|symbol| if symbol == ' ' { '-' } else { symbol }).collect()
}

/// Adds the documents of a folder, by their whole paths.
fn add_documents(folder: &Path, documents: &mut BTreeMap<PathBuf, Document>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !FOREIGN.contains(&&*name) {
                add_documents(&path, documents);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let document = Document::read(&fs::read_to_string(&path).unwrap());
            documents.insert(path.canonicalize().unwrap(), document);
        }
    }
}

/// Whether the file of a link exists, and its section if it is one of our documents.
fn leads_somewhere(from: &Path, link: &str, documents: &BTreeMap<PathBuf, Document>) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { from.to_owned() } else { from.parent().unwrap().join(file) };
    let Ok(target) = target.canonicalize() else { return false };
    anchor.is_empty() || documents.get(&target).is_none_or(|document| document.anchors.contains(anchor))
}

#[test]
fn links_lead_to_files_and_sections_that_exist() {
    let mut documents = BTreeMap::new();
    add_documents(Path::new(env!("CARGO_MANIFEST_DIR")), &mut documents);
    let mut broken = Vec::new();
    for (path, document) in &documents {
        let links = document.links.iter().filter(|link| !leads_somewhere(path, link, &documents));
        broken.extend(links.map(|link| format!("{}: {link}", path.display())));
    }
    assert!(broken.is_empty(), "links lead nowhere: {broken:#?}");
    let runbook = documents.iter().find(|(path, _)| path.ends_with("docs/operations.md")).unwrap().1;
    assert!(runbook.anchors.contains("start-here-at-3-am") && runbook.links.len() > 50, "{runbook:?}");
}

#[test]
fn targets_of_make_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    let mut documents = BTreeMap::new();
    add_documents(root, &mut documents);
    let named: BTreeSet<&str> = documents.values().flat_map(|document| &document.goals).map(String::as_str).collect();
    assert_eq!(named.difference(&targets).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(named.contains("dev") && named.contains("test"), "{named:?}");
}

#[test]
fn links_and_anchors_are_those_outside_of_code() {
    let text = "# It's `one`, 2\n[a](b.md#c) and [d\ne](#f)\n```sh\n# no\n[x](y)\n```\n";
    let document = Document::read(text);
    assert_eq!(document.links, ["b.md#c", "#f"]);
    assert_eq!(document.anchors, BTreeSet::from(["its-one-2".to_owned()]));
}

#[test]
fn targets_are_those_of_commands_in_text_and_in_code() {
    let text = "`make a-1 B=2` makes `c`\n```sh\nmake d e # f\n```\n";
    assert_eq!(Document::read(text).goals, BTreeSet::from(["a-1", "d", "e"].map(str::to_owned)));
}
