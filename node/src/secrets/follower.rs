//! Reads files that belong together once a second, and says when what they hold has to be put into effect.
//!
//! It compares contents instead of times: Kubernetes replaces a link to the folder of a secret, and a copy may keep the
//! time of its original.

use super::troubles::SecretTroubles;
use super::watched::{Fingerprint, WatchStep, WatchedFiles};
use crate::bounded_file;
use crate::clock::Clock;
use crate::metrics;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{error, info, warn};

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(1);

/// A file, and the key that names it.
#[derive(Debug, Clone)]
pub(super) struct FollowedFile {
    pub(super) key: &'static str,
    pub(super) path: PathBuf,
    /// The most bytes that it may have.
    pub(super) most: u64,
    /// What has to hold for its content.
    pub(super) check: fn(&[u8]) -> Result<(), String>,
}

impl FollowedFile {
    /// The file of this key, if the configuration names one.
    pub(super) fn of(
        key: &'static str,
        path: Option<&PathBuf>,
        most: u64,
        check: fn(&[u8]) -> Result<(), String>,
    ) -> Option<Self> {
        Some(Self { key, path: path?.clone(), most, check })
    }
}

/// The contents of files, by key.
pub(super) type FileContents = BTreeMap<&'static str, Vec<u8>>;

/// The files, and what is known of them.
#[derive(Debug)]
pub(super) struct Follower {
    /// The value of the label `what`.
    what: &'static str,
    /// For people: which node or connection uses them.
    name: String,
    files: Arc<[FollowedFile]>,
    hasher: RandomState,
    watched: WatchedFiles,
    troubles: SecretTroubles,
    clock: Clock,
    rounds: Interval,
}

impl Follower {
    /// Reads the files for the first time. What they hold, if it is valid, must be put into effect at once.
    pub(super) async fn start(
        what: &'static str,
        name: String,
        files: Vec<FollowedFile>,
        troubles: SecretTroubles,
    ) -> (Self, Option<FileContents>) {
        let (files, hasher): (Arc<[FollowedFile]>, _) = (files.into(), RandomState::new());
        let contents = read_all(Arc::clone(&files)).await.ok();
        let watched = WatchedFiles::new(contents.as_ref().map(|contents| fingerprint(&hasher, contents)));
        troubles.set(what, &name, None);
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        (Self { what, name, files, hasher, watched, troubles, clock: Clock::start(), rounds }, contents)
    }

    /// Waits until the files hold something else that is valid. The caller puts it into effect, and tells by
    /// [`reloaded`](Self::reloaded) how that went.
    pub(super) async fn changed(&mut self) -> FileContents {
        loop {
            self.rounds.tick().await;
            let (found, reason) = match read_all(Arc::clone(&self.files)).await {
                Ok(contents) => (Some(contents), String::new()),
                Err(reason) => (None, reason),
            };
            let print = found.as_ref().map(|contents| fingerprint(&self.hasher, contents));
            match (self.watched.read(self.clock.now(), print), found) {
                (WatchStep::Reload, Some(contents)) => return contents,
                (WatchStep::Fail, _) => {
                    error!(what = self.what, files = self.name, reason, "file of a secret invalid, former one stays");
                    self.troubles.set(self.what, &self.name, Some(reason));
                    metrics::SECRET_RELOAD_FAILURES.with(self.what).increment(1);
                }
                (WatchStep::Recover, _) => {
                    info!(what = self.what, files = self.name, "files of secrets hold again what is in effect");
                    self.troubles.set(self.what, &self.name, None);
                }
                (WatchStep::Keep | WatchStep::Reload, _) => {}
            }
        }
    }

    /// Takes the outcome of an attempt to put the last contents into effect.
    pub(super) fn reloaded(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.watched.reloaded();
                info!(what = self.what, files = self.name, "new secrets in effect");
                self.troubles.set(self.what, &self.name, None);
                metrics::SECRET_RELOADS.with(self.what).increment(1);
            }
            Err(reason) => {
                self.watched.refused(self.clock.now());
                warn!(what = self.what, files = self.name, reason, "new secrets not in effect yet, trying again");
                self.troubles.set(self.what, &self.name, Some(reason));
                metrics::SECRET_RELOAD_FAILURES.with(self.what).increment(1);
            }
        }
    }
}

fn fingerprint(hasher: &RandomState, contents: &FileContents) -> Fingerprint {
    Fingerprint(hasher.hash_one(contents))
}

/// Reads all files, or says what is wrong with the first one that is not valid.
async fn read_all(files: Arc<[FollowedFile]>) -> Result<FileContents, String> {
    let read = move || -> Result<FileContents, String> {
        let one = |file: &FollowedFile| -> Result<(&'static str, Vec<u8>), String> {
            let failed = |reason: String| format!("{} = {}: {reason}", file.key, file.path.display());
            let content = bounded_file::read(&file.path, file.most).map_err(|error| failed(error.to_string()))?;
            (file.check)(&content).map_err(failed)?;
            Ok((file.key, content))
        };
        files.iter().map(one).collect()
    };
    spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}
