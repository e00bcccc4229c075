//! When each event is due. The load is open-loop: these times hold even if the server does not keep up, and latency
//! counts from them.

use std::time::Duration;

/// The times of all events, counted from the first.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    parts: Vec<RateStage>,
    total: u64,
    /// Times are delayed to the next multiple of this, so that events come in batches; zero for no batches.
    batch_ns: u64,
}

/// A stage with one rate.
#[derive(Debug, Clone, Copy)]
struct RateStage {
    start_ns: u64,
    first: u64,
    gap_ns: f64,
}

impl Schedule {
    /// A sequence of stages, each with its length and its events a second. `batch` is the interval between batches.
    pub(crate) fn new(times: &[(Duration, f64)], batch: Duration) -> Self {
        let (mut start_ns, mut first) = (0, 0);
        let mut parts = Vec::new();
        for (length, rate) in times {
            parts.push(RateStage { start_ns, first, gap_ns: 1e9 / rate });
            start_ns += length.as_nanos() as u64;
            first += (length.as_secs_f64() * rate).round() as u64;
        }
        Self { parts, total: first, batch_ns: batch.as_nanos() as u64 }
    }

    /// How many events there are.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// When the event of this number is due, in nanoseconds from the start.
    pub(crate) fn due_ns(&self, number: u64) -> u64 {
        let part = self.parts.iter().rev().find(|part| part.first <= number);
        let due = part.map_or(0, |part| part.start_ns + ((number - part.first) as f64 * part.gap_ns) as u64);
        match self.batch_ns {
            0 => due,
            batch => due.next_multiple_of(batch),
        }
    }

    /// The first event that is due at this time or later.
    pub(crate) fn first_at(&self, time: Duration) -> u64 {
        let time = time.as_nanos() as u64;
        let (mut low, mut high) = (0, self.total);
        while low < high {
            let middle = low.midpoint(high);
            if self.due_ns(middle) < time { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn each_part_has_its_own_rate() {
        let second = Duration::from_secs(1);
        let schedule = Schedule::new(&[(second, 10.0), (second, 100.0), (second, 10.0)], Duration::ZERO);
        assert_eq!(schedule.total(), 120);
        let due: Vec<u64> = [0, 9, 10, 11, 109, 110, 119].into_iter().map(|n| schedule.due_ns(n) / MS).collect();
        assert_eq!(due, [0, 900, 1_000, 1_010, 1_990, 2_000, 2_900]);
        assert_eq!(schedule.first_at(second), 10);
        assert_eq!(schedule.first_at(3 * second), 120);
    }

    #[test]
    fn batches_delay_events_and_never_hasten_them() {
        let schedule = Schedule::new(&[(Duration::from_secs(1), 3_000.0)], Duration::from_millis(2));
        let plain = Schedule::new(&[(Duration::from_secs(1), 3_000.0)], Duration::ZERO);
        for number in 0..3_000 {
            let (due, raw) = (schedule.due_ns(number), plain.due_ns(number));
            assert!(due % (2 * MS) == 0 && due >= raw && due - raw < 2 * MS, "{number}");
        }
    }

    #[test]
    fn without_a_rate_there_are_no_events() {
        let schedule = Schedule::new(&[(Duration::from_secs(5), 0.0)], Duration::ZERO);
        assert_eq!((schedule.total(), schedule.first_at(Duration::ZERO)), (0, 0));
    }
}
