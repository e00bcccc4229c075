//! The files of real prices in the binary, with their bars merged into one time order.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use thiserror::Error;

use crate::bars::{BarTime, Row};
use crate::detect::Inputs;
use crate::parse::{BarsError, parse};

/// A file of real prices that is part of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// Daily bars of AAPL, GOOG, NVDA, ORCL, SPY and YHOO, 2010 to 2014.
    Daily,
    /// One-minute bars of the S&P 500 index (SPX), four days of November 2019, without volumes.
    Intraday,
}

impl File {
    /// Both files.
    pub const ALL: [Self; 2] = [Self::Daily, Self::Intraday];

    /// Its name, which is also the tier of its patterns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Intraday => "intraday",
        }
    }

    fn rows(self) -> Result<Vec<Row>, BarsError> {
        match self {
            Self::Daily => parse("daily.csv", include_str!("../data/daily.csv")),
            Self::Intraday => parse("intraday.csv", include_str!("../data/intraday.csv")),
        }
    }
}

/// An unknown name of a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown file of prices `{0}`; use `daily` or `intraday`")]
pub struct UnknownFile(pub String);

impl FromStr for File {
    type Err = UnknownFile;

    fn from_str(name: &str) -> Result<Self, UnknownFile> {
        Self::ALL.into_iter().find(|file| file.as_str() == name).ok_or_else(|| UnknownFile(name.to_owned()))
    }
}

/// The bars of some files, in time order.
#[derive(Debug)]
pub struct Tape {
    pub(crate) instants: Vec<Instant>,
    pub(crate) inputs: BTreeMap<File, Inputs>,
}

#[derive(Debug)]
pub(crate) struct Instant {
    pub(crate) time: BarTime,
    pub(crate) file: File,
    pub(crate) rows: Vec<Row>,
}

impl Tape {
    /// Parses the embedded files; duplicates are ignored. The files are valid; an error would show that they were
    /// edited.
    pub fn embedded(files: &[File]) -> Result<Self, BarsError> {
        let files: BTreeSet<File> = files.iter().copied().collect();
        let parsed = files.into_iter().map(|file| Ok((file, file.rows()?)));
        Ok(Self::of(parsed.collect::<Result<_, BarsError>>()?))
    }

    pub(crate) fn of(files: Vec<(File, Vec<Row>)>) -> Self {
        let mut instants = Vec::new();
        let mut inputs = BTreeMap::new();
        for (file, rows) in files {
            let volume = rows.iter().any(|row| row.bar.volume > 0);
            inputs.insert(file, Inputs { volume, minutes: file == File::Intraday });
            instants.extend(rows.chunk_by(|a, b| a.time == b.time).map(|rows| Instant {
                time: rows[0].time,
                file,
                rows: rows.to_vec(),
            }));
        }
        instants.sort_by_key(|instant| instant.time);
        Self { instants, inputs }
    }

    /// The number of steps of a walk.
    pub fn len(&self) -> usize {
        self.instants.len()
    }

    /// Whether there are no bars, because no files were given.
    pub fn is_empty(&self) -> bool {
        self.instants.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_name() {
        assert_eq!("intraday".parse(), Ok(File::Intraday));
        assert_eq!("weekly".parse::<File>(), Err(UnknownFile("weekly".to_owned())));
    }

    #[test]
    fn tape_without_files_is_empty() {
        let tape = Tape::embedded(&[]).unwrap();
        assert!(tape.is_empty());
        assert_eq!(tape.feed().next(), None);
    }
}
