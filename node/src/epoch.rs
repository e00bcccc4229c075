//! The epoch of the stream of events. Every section, checkpoint and position names it.
//!
//! A stream that was deleted and created again has another creation time. A stream that has lost acknowledged messages
//! (a disk without the last writes, an older backup) has the same creation time, and gives the same sequences to other
//! events. A stream that was created again under an older clock seems older than it is. A router that detects this
//! begins another epoch, after the last message that it knows, and records its number and that sequence in the stream's
//! metadata.

use crate::metrics;
use async_nats::jetstream::stream::Info;
use tickwire_core::ids::{Epoch, EpochId, Seq};
use tracing::warn;

/// The key of the stream's metadata for the current epoch, unless it is the first.
pub const METADATA: &str = "tickwire.life";

/// How many epochs must be able to follow a recorded one. Routers record none that is so late.
const LATER: u64 = 1_000_000_000_000_000;

/// Where nodes read epochs that others have stated: the values of a label.
pub(crate) fn sources() -> Vec<&'static str> {
    vec!["metadata", "lease", "coverage"]
}

/// Whether a node that knows the epoch `known` believes one that others have stated in `source`. If not, it is counted.
#[must_use]
pub fn is_believed(source: &'static str, epoch_id: EpochId, known: EpochId) -> bool {
    let is_plausible = epoch_id.is_plausible(known);
    if !is_plausible {
        refuse(source, epoch_id);
    }
    is_plausible
}

fn refuse(source: &'static str, epoch_id: EpochId) {
    metrics::REFUSED_EPOCHS.with(source).increment(1);
    warn!(source, %epoch_id, "epoch refused that is near the last possible one");
}

/// The current epoch of the stream. The number of a stream's first epoch is its creation time, in nanoseconds since
/// 1970. A recorded one is the highest known number plus one, independent of clocks.
#[must_use]
pub fn of(info: &Info) -> Epoch {
    let created = u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
    let first = Epoch { epoch_id: EpochId(created), before: Seq(0) };
    let noted = info.config.metadata.get(METADATA).and_then(|noted| parse(noted));
    let Some(noted) = noted.filter(|noted| noted.epoch_id > first.epoch_id) else { return first };
    if !leaves_room(noted.epoch_id) {
        refuse("metadata", noted.epoch_id);
        return first;
    }
    noted
}

/// Whether enough epochs can follow a recorded one.
fn leaves_room(epoch_id: EpochId) -> bool {
    epoch_id.0 <= EpochId::LAST.0.saturating_sub(LATER)
}

/// The form in the metadata.
#[must_use]
pub fn noted(epoch: Epoch) -> String {
    format!("{}@{}", epoch.epoch_id.0, epoch.before.0)
}

fn parse(text: &str) -> Option<Epoch> {
    let (epoch_id, before) = text.split_once('@')?;
    let epoch = Epoch { epoch_id: EpochId(epoch_id.parse().ok()?), before: Seq(before.parse().ok()?) };
    (epoch.epoch_id <= EpochId::LAST).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_epoch_leaves_room_for_others() {
        assert!(leaves_room(EpochId(1_764_000_000_000_000_001)) && leaves_room(EpochId(8_000_000_000_000_000_000)));
        assert!(!leaves_room(EpochId::LAST) && !leaves_room(EpochId(EpochId::LAST.0 - LATER + 1)));
    }

    #[test]
    fn recorded_epoch_is_read_back_and_other_text_is_not() {
        let epoch = Epoch { epoch_id: EpochId(1_764_000_000_000_000_001), before: Seq(7) };
        assert_eq!(parse(&noted(epoch)), Some(epoch));
        for other in
            ["9223372036854775808@2", "18446744073709551615@0", "", "@", "1", "1@", "@1", "1@2@3", "-1@2", "x@y"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
