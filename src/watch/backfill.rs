//! Holds back the lines of a backfill until it has ended, so that they are printed in the order of time: a gateway
//! sends the stored events of one partition after those of another. The memory is bounded.

use tickwire_core::event::Timestamp;

/// How many lines are held, and how many bytes of them.
const MOST_LINES: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;

/// An event, ready to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventLine {
    pub(super) ts: Timestamp,
    pub(super) text: String,
}

/// The lines of a backfill that has not ended.
#[derive(Debug, Default)]
pub(super) struct HeldLines {
    lines: Vec<EventLine>,
    bytes: usize,
}

impl HeldLines {
    /// Holds a line. Returns whether there is room for another one.
    pub(super) fn hold(&mut self, line: EventLine) -> bool {
        self.bytes += line.text.len();
        self.lines.push(line);
        self.lines.len() < MOST_LINES && self.bytes < MOST_BYTES
    }

    /// All lines by time. Those of the same time stay in the order in which they came.
    pub(super) fn into_sorted(mut self) -> Vec<EventLine> {
        self.lines.sort_by_key(|line| line.ts);
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ts: i64, text: &str) -> EventLine {
        EventLine { ts: Timestamp(ts), text: text.to_owned() }
    }

    #[test]
    fn lines_are_sorted_by_time_and_then_by_arrival() {
        let mut held = HeldLines::default();
        for (ts, text) in [(2, "a"), (5, "b"), (1, "c"), (2, "d"), (0, "e")] {
            assert!(held.hold(line(ts, text)));
        }
        let sorted: Vec<_> = held.into_sorted().into_iter().map(|line| line.text).collect();
        assert_eq!(sorted, ["e", "c", "a", "d", "b"]);
    }

    #[test]
    fn lines_and_their_bytes_are_bounded() {
        let mut many = HeldLines::default();
        assert_eq!((0..).take_while(|ts| many.hold(line(*ts, "x"))).count() + 1, MOST_LINES);
        let (mut large, text) = (HeldLines::default(), "x".repeat(1 << 20));
        assert_eq!((0..).take_while(|ts| large.hold(line(*ts, &text))).count() + 1, 64);
    }
}
