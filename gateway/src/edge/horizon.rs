//! How far the gateway has seen the stream itself. What other nodes claim beyond that is not believed: a forged section
//! of a later epoch, or far beyond the end, would make all true ones count as outdated or as known.
//!
//! The driver looks at the stream once a second, and soon after something was refused. What is refused is not lost: once
//! it was seen, it shows as a gap, and is asked for.

use std::time::Duration;

use tickwire_core::ids::{EpochId, Millis, Seq};
use tickwire_node::epoch;
use tickwire_node::nats::Nats;
use tokio::time::timeout;
use tracing::debug;

/// How many messages the stream may have stored since the last look. No stream stores more between two looks.
const AHEAD: u64 = 1_000_000;

/// The pause between two looks, in milliseconds.
const INTERVAL: u64 = 1_000;

/// The same after something was refused, and after a look that was not answered.
const SOON: u64 = 100;

/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// The stream, as a look has found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSight {
    /// Its epoch.
    pub epoch_id: EpochId,
    /// Its last sequence.
    pub last: Seq,
}

/// What was seen, and when to look next. Pure.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// `None` until a look was answered: everything is believed until then.
    seen: Option<StreamSight>,
    /// The highest sequence of any epoch.
    highest: Seq,
    looked_at: Millis,
    look_at: Millis,
    /// Whether a look is under way.
    is_looking: bool,
}

impl Horizon {
    /// Whether it is time for a look, which is under way from now on.
    pub(super) fn begin_look(&mut self, now: Millis) -> bool {
        let is_due = !self.is_looking && self.look_at <= now;
        self.is_looking |= is_due;
        is_due
    }

    /// Takes the result of a look; `None` if NATS has not answered.
    pub(super) fn take_look(&mut self, now: Millis, sight: Option<StreamSight>) {
        (self.is_looking, self.looked_at) = (false, now);
        self.look_at = now.plus(if sight.is_some() { INTERVAL } else { SOON });
        let Some(sight) = sight else { return };
        self.highest = self.highest.max(sight.last);
        // A server that lags may show a former epoch, or an earlier end.
        let seen = self.seen.get_or_insert(sight);
        if sight.epoch_id > seen.epoch_id {
            *seen = sight;
        } else if sight.epoch_id == seen.epoch_id {
            seen.last = seen.last.max(sight.last);
        }
    }

    /// Whether the stream can have this sequence in this epoch. If not, the next look is soon.
    pub(super) fn admits(&mut self, epoch_id: EpochId, seq: Seq) -> bool {
        let Some(seen) = self.seen else { return true };
        let end = if epoch_id == seen.epoch_id { seen.last } else { self.highest };
        let is_admitted = epoch_id <= seen.epoch_id && seq.0 <= end.0.saturating_add(AHEAD);
        if !is_admitted {
            self.look_at = self.look_at.min(self.looked_at.plus(SOON));
        }
        is_admitted
    }
}

/// Looks at the stream; `None` if NATS does not answer in time.
pub(super) async fn look(nats: Nats, stream: String) -> Option<StreamSight> {
    let found = timeout(DEADLINE, nats.jetstream.get_stream(&stream)).await;
    let found = found.map_err(|late| late.to_string()).and_then(|found| found.map_err(|error| error.to_string()));
    let found = found.inspect_err(|reason| debug!(reason, "look at the stream not answered")).ok()?;
    let info = found.cached_info();
    Some(StreamSight { epoch_id: epoch::of(info).epoch_id, last: Seq(info.state.last_sequence) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(epoch_id: u64, last: u64) -> Option<StreamSight> {
        Some(StreamSight { epoch_id: EpochId(epoch_id), last: Seq(last) })
    }

    fn seen(epoch_id: u64, last: u64) -> Horizon {
        let mut horizon = Horizon::default();
        assert!(horizon.begin_look(Millis(0)));
        horizon.take_look(Millis(0), sight(epoch_id, last));
        horizon
    }

    #[test]
    fn what_the_stream_cannot_have_is_refused() {
        let mut horizon = seen(7, 500);
        for (epoch_id, seq, is_admitted) in [
            (7, 500, true),
            (7, 500 + AHEAD, true),
            (7, 501 + AHEAD, false),
            (7, u64::MAX, false),
            (8, 1, false),
            (EpochId::LAST.0, 1, false),
            (6, 400, true),
            (6, u64::MAX, false),
        ] {
            assert_eq!(horizon.admits(EpochId(epoch_id), Seq(seq)), is_admitted, "{epoch_id} {seq}");
        }
        assert!(Horizon::default().admits(EpochId(9), Seq(9)), "nothing was seen yet");
    }

    #[test]
    fn later_epoch_is_believed_once_it_was_seen() {
        let mut horizon = seen(7, 500);
        assert!(!horizon.admits(EpochId(8), Seq(3)));
        horizon.take_look(Millis(100), sight(8, 3));
        assert!(horizon.admits(EpochId(8), Seq(3)) && horizon.admits(EpochId(7), Seq(510)));
        // A server that lags takes nothing back.
        horizon.take_look(Millis(200), sight(7, 500));
        horizon.take_look(Millis(300), sight(8, 2));
        assert!(horizon.admits(EpochId(8), Seq(3 + AHEAD)) && !horizon.admits(EpochId(8), Seq(4 + AHEAD)));
    }

    #[test]
    fn looks_are_at_intervals_and_soon_after_a_refusal() {
        let mut horizon = seen(7, 500);
        assert!(!horizon.begin_look(Millis(INTERVAL - 1)) && horizon.begin_look(Millis(INTERVAL)));
        assert!(!horizon.begin_look(Millis(9 * INTERVAL)), "one look at a time");
        horizon.take_look(Millis(2_000), sight(7, 501));
        horizon.admits(EpochId(8), Seq(1));
        assert!(!horizon.begin_look(Millis(2_000 + SOON - 1)) && horizon.begin_look(Millis(2_000 + SOON)));
        horizon.take_look(Millis(3_000), None);
        assert!(horizon.begin_look(Millis(3_000 + SOON)));
    }
}
