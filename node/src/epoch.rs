//! Which life of the stream of events its sequences belong to. Every claim, floor and position names it.
//!
//! A stream that was deleted and made anew has another creation time. One that has lost what it had acknowledged (a disk
//! that was not written to, an older backup) has not, and gives the same sequences again to other events; and one that was
//! made anew under an older clock seems to have been made before. A router that notices begins another life, after the
//! last message that it knows, and notes it in the stream's metadata: its number, and after which sequence.

use async_nats::jetstream::stream::Info;
use tickwire_core::ids::{Epoch, EpochId, Seq};

/// The key of the stream's metadata under which its present life is noted, unless it is the first.
pub const METADATA: &str = "tickwire.life";

/// The present life of the stream. The number of a stream's first life is the time at which it was made, in nanoseconds
/// since 1970; one that is noted is the next after the latest that was known, whatever the clocks say.
#[must_use]
pub fn of(info: &Info) -> Epoch {
    let created = u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
    let first = Epoch { epoch_id: EpochId(created), before: Seq(0) };
    let noted = info.config.metadata.get(METADATA).and_then(|noted| parse(noted));
    noted.filter(|noted| noted.epoch_id > first.epoch_id).unwrap_or(first)
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
    fn what_is_noted_is_read_and_all_else_is_not() {
        let epoch = Epoch { epoch_id: EpochId(1_764_000_000_000_000_001), before: Seq(7) };
        assert_eq!(parse(&noted(epoch)), Some(epoch));
        for other in
            ["9223372036854775808@2", "18446744073709551615@0", "", "@", "1", "1@", "@1", "1@2@3", "-1@2", "x@y"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
