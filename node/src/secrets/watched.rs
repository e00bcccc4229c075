//! What a reading of files means that belong together, such as a certificate and its key. Pure: the contents and the
//! time are passed in.
//!
//! Several files are rarely replaced at one moment, and a file may be seen when it is half written. So a reading counts
//! only if the next one finds the same.

use tickwire_core::backoff::Backoff;
use tickwire_core::ids::Millis;

/// The pauses between attempts to put contents into effect that were refused, in milliseconds.
const RETRY: Backoff = Backoff { first: 2_000, most: 60_000 };

/// Stands for the contents of all files, so that secrets are not kept for a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(pub(super) u64);

/// What to do after a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchStep {
    /// Nothing: what is in effect stays.
    Keep,
    /// Put the contents into effect, and report the outcome to [`WatchedFiles::reloaded`] or
    /// [`WatchedFiles::refused`].
    Reload,
    /// Report that the files have become invalid. What is in effect stays.
    Fail,
    /// Report that the files hold again what is in effect.
    Recover,
}

/// What is known of the files.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    /// What is in effect; `None` if that is not known.
    in_effect: Option<Fingerprint>,
    /// What the last reading found; `None` if it was invalid, or before the first.
    last: Option<Fingerprint>,
    /// How many readings in a row were invalid.
    invalid: u32,
    /// The contents that were refused, how often in a row, and when they are tried again.
    refused: Option<(Fingerprint, u32, Millis)>,
    /// Whether something was reported to be wrong that is not reported to be right again yet.
    is_troubled: bool,
}

impl WatchedFiles {
    /// Files whose contents are in effect; `None` if it is not known what is.
    pub(super) fn new(in_effect: Option<Fingerprint>) -> Self {
        Self { in_effect, last: in_effect, invalid: 0, refused: None, is_troubled: false }
    }

    /// Takes a reading: the contents, or `None` if they are not valid.
    pub(super) fn read(&mut self, now: Millis, found: Option<Fingerprint>) -> WatchStep {
        let last = std::mem::replace(&mut self.last, found);
        let Some(found) = found else {
            self.invalid = self.invalid.saturating_add(1);
            if self.invalid != 2 {
                return WatchStep::Keep;
            }
            self.is_troubled = true;
            return WatchStep::Fail;
        };
        self.invalid = 0;
        if self.in_effect == Some(found) {
            self.refused = None;
            return if std::mem::take(&mut self.is_troubled) { WatchStep::Recover } else { WatchStep::Keep };
        }
        let waits = self.refused.is_some_and(|(refused, _, again)| refused == found && now < again);
        if last == Some(found) && !waits { WatchStep::Reload } else { WatchStep::Keep }
    }

    /// What the last reading found is in effect now.
    pub(super) fn reloaded(&mut self) {
        self.in_effect = self.last;
        self.refused = None;
        self.is_troubled = false;
    }

    /// What the last reading found cannot be put into effect for now.
    pub(super) fn refused(&mut self, now: Millis) {
        self.is_troubled = true;
        let Some(found) = self.last else { return };
        let before = self.refused.filter(|(refused, ..)| *refused == found).map_or(0, |(_, attempts, _)| attempts);
        let attempts = before.saturating_add(1);
        self.refused = Some((found, attempts, now.plus(RETRY.after(attempts))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Option<Fingerprint> = Some(Fingerprint(1));
    const NEW: Option<Fingerprint> = Some(Fingerprint(2));
    const HALF: Option<Fingerprint> = Some(Fingerprint(3));

    /// The steps after these readings, one a second.
    fn steps(files: &mut WatchedFiles, readings: &[Option<Fingerprint>]) -> Vec<WatchStep> {
        let times = (1_u64..).map(|second| Millis(second * 1_000));
        times.zip(readings).map(|(now, found)| files.read(now, *found)).collect()
    }

    #[test]
    fn contents_count_when_two_readings_agree() {
        use WatchStep::{Keep, Reload};
        let mut files = WatchedFiles::new(OLD);
        let found = steps(&mut files, &[OLD, OLD, HALF, NEW, None, NEW, OLD, NEW, NEW]);
        assert_eq!(found, [Keep, Keep, Keep, Keep, Keep, Keep, Keep, Keep, Reload]);
        files.reloaded();
        assert_eq!(steps(&mut files, &[NEW, NEW, OLD, OLD]), [Keep, Keep, Keep, Reload]);
    }

    #[test]
    fn invalid_files_are_reported_once_and_again_after_they_were_valid() {
        use WatchStep::{Fail, Keep, Recover, Reload};
        let mut files = WatchedFiles::new(OLD);
        let found = steps(&mut files, &[None, OLD, None, None, None, OLD, OLD, None, None]);
        assert_eq!(found, [Keep, Keep, Keep, Fail, Keep, Recover, Keep, Keep, Fail]);
        assert_eq!(steps(&mut files, &[NEW, NEW]), [Keep, Reload]);
        files.reloaded();
        assert_eq!(steps(&mut files, &[NEW]), [Keep]);
    }

    #[test]
    fn refused_contents_are_tried_again_with_longer_and_longer_pauses() {
        let mut files = WatchedFiles::new(OLD);
        let mut tried = Vec::new();
        for second in 0..300 {
            let now = Millis(second * 1_000);
            if files.read(now, NEW) == WatchStep::Reload {
                files.refused(now);
                tried.push(second);
            }
        }
        assert_eq!(tried, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
        // Other contents do not wait, and the old ones end the trouble.
        let now = Millis(300_000);
        assert_eq!([files.read(now, HALF), files.read(now, HALF)], [WatchStep::Keep, WatchStep::Reload]);
        files.refused(now);
        assert_eq!([files.read(now, OLD), files.read(now, OLD)], [WatchStep::Recover, WatchStep::Keep]);
    }

    #[test]
    fn unknown_state_is_replaced_by_the_first_contents_that_last() {
        let mut files = WatchedFiles::new(None);
        assert_eq!(steps(&mut files, &[NEW, NEW]), [WatchStep::Keep, WatchStep::Reload]);
    }
}
