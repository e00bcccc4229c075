//! `tickwire reference`: loads what the operator states about symbols, for the context of events.

use clap::{Args, Subcommand};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use tickwire_core::context::{ReferenceEntry, ReferenceError, ReferenceFile, ReferenceRow, parse_reference};
use tickwire_core::event::key;
use tickwire_node::bucket::{ALL_KEYS, Bucket, BucketEntry, BucketError};
use tickwire_node::config::ConfigError;
use tickwire_node::names::REFERENCE_BUCKET;
use tickwire_node::nats::{Nats, NatsError};

use crate::input;
use tickwire_command::args::NatsArgs;

/// How many entries are written at the same time.
const TOGETHER: usize = 32;

#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Load a CSV file with the columns symbol and sector, and perhaps name, sector_strength and market
    #[command(after_help = "\
Only what differs is written. Nothing is written if any line is not valid.

Examples:
  tickwire reference load symbols.csv
  tickwire reference load symbols.csv --prune        remove the symbols that the file does not have")]
    Load(LoadArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Remove symbols that are not in the file
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Why a command ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReferenceCommandError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("{0}; what was written before that stays, so load the file again")]
    Bucket(#[from] BucketError),
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}; nothing was written", path.display())]
    File { path: PathBuf, source: Box<ReferenceError> },
}

impl ReferenceCommandError {
    /// Whether the command line or a file of the caller is wrong.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Config(_) | Self::File { .. } => true,
            Self::Nats(_) | Self::Bucket(_) | Self::Read { .. } => false,
        }
    }
}

impl ReferenceCommand {
    /// Returns the text for standard output.
    pub(crate) async fn run(&self) -> Result<String, ReferenceCommandError> {
        match self {
            Self::Load(args) => load(args).await,
        }
    }
}

async fn load(args: &LoadArgs) -> Result<String, ReferenceCommandError> {
    let content = read(&args.file)?;
    let refused = |source| ReferenceCommandError::File { path: args.file.clone(), source: Box::new(source) };
    let file = parse_reference(&content).map_err(refused)?;
    let nats = Nats::connect(&args.nats.load()?.nats, "reference", "cli").await?;
    // A request without the permission gets no answer.
    let output = nats.unless_denied(write(&nats, &file, args.prune)).await??;
    nats.close().await?;
    Ok(output)
}

fn read(path: &Path) -> Result<Vec<u8>, ReferenceCommandError> {
    input::read(path).map_err(|source| ReferenceCommandError::Read { path: path.to_owned(), source })
}

/// Writes what differs from the bucket.
async fn write(nats: &Nats, file: &ReferenceFile, prune: bool) -> Result<String, BucketError> {
    let bucket = &Bucket::open(nats, REFERENCE_BUCKET).await?;
    let look = bucket.look().await?;
    let changes = changes(file, bucket.many_entries_after(ALL_KEYS, 0, look.state.last).await?, prune);
    let loaded = changes.loaded.iter().map(|(key, value)| bucket.put(key, value.clone()));
    stream::iter(loaded).buffer_unordered(TOGETHER).try_for_each(|_| ready(Ok(()))).await?;
    let removed = changes.removed.iter().map(|key| bucket.delete(key, None));
    stream::iter(removed).buffer_unordered(TOGETHER).try_for_each(|()| ready(Ok(()))).await?;
    Ok(report(&changes, file, prune))
}

/// What a file changes.
#[derive(Debug, PartialEq, Eq)]
struct ReferenceChanges {
    /// The keys to write, with their values.
    loaded: Vec<(String, Vec<u8>)>,
    /// How many entries are as in the file.
    unchanged: usize,
    /// The keys to delete.
    removed: Vec<String>,
}

/// Compares a file with the entries of the bucket.
fn changes(file: &ReferenceFile, entries: Vec<BucketEntry>, prune: bool) -> ReferenceChanges {
    let mut present: BTreeMap<String, Vec<u8>> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    present.retain(|_, value| !value.is_empty());
    let (mut loaded, mut unchanged, mut keys) = (Vec::new(), 0, BTreeSet::new());
    for ReferenceRow { symbol, entry } in &file.rows {
        let key = key::encode(symbol.as_str()).to_string();
        let here: Option<ReferenceEntry> = present.get(&key).and_then(|value| serde_json::from_slice(value).ok());
        if here.as_ref() == Some(entry) {
            unchanged += 1;
        } else if let Ok(value) = serde_json::to_vec(entry) {
            loaded.push((key.clone(), value));
        }
        keys.insert(key);
    }
    let removed = present.into_keys().filter(|key| prune && !keys.contains(key)).collect();
    ReferenceChanges { loaded, unchanged, removed }
}

fn report(changes: &ReferenceChanges, file: &ReferenceFile, prune: bool) -> String {
    let ReferenceChanges { loaded, unchanged, removed } = changes;
    let mut output = format!("{} loaded, {unchanged} unchanged", loaded.len());
    if prune {
        // Writing to a String cannot fail.
        write!(output, ", {} removed", removed.len()).unwrap_or_default();
    }
    output.push('\n');
    if !file.ignored.is_empty() {
        writeln!(output, "ignored columns: {}", file.ignored.join(", ")).unwrap_or_default();
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tickwire_core::event::Timestamp;

    use crate::cli::{Cli, Command};

    fn entry(key: &str, value: &str) -> BucketEntry {
        BucketEntry { key: key.to_owned(), revision: 1, stored: Timestamp(0), value: value.as_bytes().to_vec() }
    }

    #[test]
    fn flags_are_a_file_and_prune() {
        let cli = Cli::try_parse_from(["tickwire", "reference", "load", "a.csv", "--prune"]).unwrap();
        let Command::Reference { command: ReferenceCommand::Load(args) } = cli.command else { panic!() };
        assert_eq!((args.file.to_str(), args.prune), (Some("a.csv"), true));
        assert!(Cli::try_parse_from(["tickwire", "reference", "load"]).is_err());
    }

    #[test]
    fn only_what_differs_is_written() {
        let file = parse_reference(b"symbol,sector,sectr\nAAPL,Tech,x\nBRK.B,Financials,x\nNVDA,Tech,x\n").unwrap();
        let entries = || {
            vec![
                entry("AAPL", r#"{ "sector": "Tech" }"#),
                entry("BRK=2EB", r#"{"sector":"Energy"}"#),
                entry("MSFT", r#"{"sector":"Tech"}"#),
                entry("GONE", ""),
            ]
        };
        let found = changes(&file, entries(), true);
        let value = |sector: &str| format!(r#"{{"sector":"{sector}"}}"#).into_bytes();
        let loaded = vec![("BRK=2EB".to_owned(), value("Financials")), ("NVDA".to_owned(), value("Tech"))];
        let expected = ReferenceChanges { loaded, unchanged: 1, removed: vec!["MSFT".to_owned()] };
        assert_eq!(found, expected);
        assert_eq!(report(&found, &file, true), "2 loaded, 1 unchanged, 1 removed\nignored columns: sectr\n");
        let kept = changes(&file, entries(), false);
        assert_eq!(kept, ReferenceChanges { removed: vec![], ..expected });
        assert!(report(&kept, &file, false).starts_with("2 loaded, 1 unchanged\n"));
    }

    #[test]
    fn faulty_file_is_refused_with_its_line() {
        let source = parse_reference(b"symbol,sector\nAAPL,\n").unwrap_err();
        let error = ReferenceCommandError::File { path: "a.csv".into(), source: Box::new(source) };
        assert!(error.is_usage() && error.to_string().starts_with("a.csv: line 2, column sector: "), "{error}");
    }
}
