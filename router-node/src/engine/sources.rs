//! How far each source was read in its current tenure, and why it cannot be read. Pure.

use super::SourceCheckpoints;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::SourceProgress;
use crate::source::{Source, Tenure};
use std::collections::BTreeMap;
use tickwire_core::ids::Seq;

/// The owned sources.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<Source, SourceReader>);

/// A source in its current tenure.
#[derive(Debug)]
pub(super) struct SourceReader {
    number: u64,
    /// How far it was read.
    pub(super) reached: SourceProgress,
    /// Why it cannot be read.
    pub(super) stuck: Option<String>,
    /// The last read message, if it is no longer in the stream.
    pub(super) missing: Option<Checkpoint>,
}

impl Sources {
    /// Begins a tenure.
    pub(super) fn own(&mut self, tenure: Tenure, checkpoint: Seq) {
        let reached = SourceProgress { checkpoint, mark: None };
        let stuck = Some("reading has not begun".to_owned());
        self.0.insert(tenure.source, SourceReader { number: tenure.number, reached, stuck, missing: None });
    }

    /// Ends a tenure. Returns whether it was the current one.
    pub(super) fn disown(&mut self, tenure: Tenure) -> bool {
        self.get_mut(tenure).is_some() && self.0.remove(&tenure.source).is_some()
    }

    /// Ends every tenure.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The reader of a tenure, if it is the current one.
    pub(super) fn get_mut(&mut self, tenure: Tenure) -> Option<&mut SourceReader> {
        self.0.get_mut(&tenure.source).filter(|reader| reader.number == tenure.number)
    }

    /// How far everything was read.
    pub(super) fn checkpoints(&self) -> SourceCheckpoints {
        let checkpoint = |(source, reader): (&Source, &SourceReader)| {
            let tenure = Tenure { source: *source, number: reader.number };
            (tenure, reader.reached)
        };
        self.0.iter().map(checkpoint).collect()
    }

    /// The sources that cannot be read, each with the reason.
    pub(super) fn unread(&self) -> BTreeMap<Source, String> {
        self.0.iter().filter_map(|(source, reader)| Some((*source, reader.stuck.clone()?))).collect()
    }

    /// The last read messages that are no longer in the stream.
    pub(super) fn missing(&self) -> Vec<Checkpoint> {
        self.0.values().filter_map(|reader| reader.missing).collect()
    }
}
