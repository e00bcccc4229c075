//! The ledger of one socket: which numbers of its symbols it has had. Pure.
//!
//! The events of a symbol have the numbers 1, 2, 3 and so on. The last one says that it is the last, so that a socket
//! knows by itself what it must have had.

use std::collections::VecDeque;

/// How many ranges of missing numbers are kept for one symbol. Of the numbers before the first one that is kept, it is
/// only counted how many are missing: a gateway that is wrong must not take all memory.
const MOST_HOLES: usize = 1_024;

/// What one socket has had of one symbol.
#[derive(Debug, Clone, Default)]
struct SymbolLedger {
    symbol: u32,
    highest: u64,
    /// The ranges below the highest number that have not come, first and last, in order.
    holes: VecDeque<(u64, u64)>,
    /// How many numbers were missing in earlier ranges, which are not kept.
    lost: u64,
    /// The last number, once it has come.
    last: Option<u64>,
}

/// What one socket has had.
#[derive(Debug, Clone, Default)]
pub(super) struct SocketLedger {
    symbols: Vec<SymbolLedger>,
    received: u64,
    doubled: u64,
    out_of_order: u64,
    unexpected: u64,
}

/// The result of one or more ledgers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LedgerSum {
    /// Events that must have come, as far as their last numbers are known.
    pub(super) expected: u64,
    /// Events that came, with those that came twice.
    pub(super) received: u64,
    /// Events that have not come.
    pub(super) missing: u64,
    /// Events that came again.
    pub(super) doubled: u64,
    /// Events that came after a later one of their symbol.
    pub(super) out_of_order: u64,
    /// Events of symbols that the socket has not asked for, or after the last one.
    pub(super) unexpected: u64,
    /// Symbols of which nobody knows the last number.
    pub(super) unfinished: u64,
}

impl SocketLedger {
    /// The ledger of a socket with these symbols.
    pub(super) fn new(symbols: impl IntoIterator<Item = u32>) -> Self {
        let symbols = symbols.into_iter().map(|symbol| SymbolLedger { symbol, ..SymbolLedger::default() });
        Self { symbols: symbols.collect(), ..Self::default() }
    }

    /// Takes an event.
    pub(super) fn take(&mut self, symbol: u32, number: u64, is_last: bool) {
        self.received += 1;
        let Some(ledger) = self.symbols.iter_mut().find(|ledger| ledger.symbol == symbol).filter(|_| number > 0) else {
            self.unexpected += 1;
            return;
        };
        if ledger.last.is_some_and(|last| number > last) {
            self.unexpected += 1;
        } else if number > ledger.highest {
            if number > ledger.highest + 1 {
                ledger.open((ledger.highest + 1, number - 1));
            }
            ledger.highest = number;
        } else if ledger.fill(number) {
            self.out_of_order += 1;
        } else {
            self.doubled += 1;
        }
        if is_last && ledger.last.is_none() {
            ledger.last = Some(number);
        }
    }

    /// Whether every event has come, up to the last one of each symbol.
    pub(super) fn is_complete(&self) -> bool {
        self.symbols.iter().all(SymbolLedger::is_complete)
    }

    /// Notes the last numbers that this socket knows, by symbol.
    pub(super) fn note_ends(&self, ends: &mut [Option<u64>]) {
        for ledger in &self.symbols {
            if let Some(end) = ends.get_mut(ledger.symbol as usize) {
                *end = (*end).max(ledger.last);
            }
        }
    }

    /// The result, where `ends` has the last numbers by symbol as far as anybody knows them.
    pub(super) fn sum(&self, ends: &[Option<u64>]) -> LedgerSum {
        let mut sum = LedgerSum {
            received: self.received,
            doubled: self.doubled,
            out_of_order: self.out_of_order,
            unexpected: self.unexpected,
            ..LedgerSum::default()
        };
        for ledger in &self.symbols {
            let end = ends.get(ledger.symbol as usize).copied().flatten().or(ledger.last);
            sum.unfinished += u64::from(end.is_none());
            let end = end.unwrap_or(ledger.highest);
            // All of them are below the highest number, so their sum is too.
            let holes: u64 = ledger.holes.iter().copied().map(count_of).sum();
            let missing = holes.saturating_add(ledger.lost).saturating_add(end.saturating_sub(ledger.highest));
            sum.expected = sum.expected.saturating_add(end);
            sum.missing = sum.missing.saturating_add(missing);
        }
        sum
    }
}

impl SymbolLedger {
    fn is_complete(&self) -> bool {
        self.lost == 0 && self.holes.is_empty() && self.last == Some(self.highest)
    }

    /// Notes a range that has not come, behind all others.
    fn open(&mut self, hole: (u64, u64)) {
        self.holes.push_back(hole);
        self.forget();
    }

    /// Gives up the earliest ranges that are too many.
    fn forget(&mut self) {
        while self.holes.len() > MOST_HOLES
            && let Some(earliest) = self.holes.pop_front()
        {
            self.lost += count_of(earliest);
        }
    }

    /// Removes a number from the holes. Returns whether it was in one.
    fn fill(&mut self, number: u64) -> bool {
        let Some(at) = self.holes.iter().position(|(first, last)| (*first..=*last).contains(&number)) else {
            return false;
        };
        let Some((first, last)) = self.holes.remove(at) else { return false };
        if number < last {
            self.holes.insert(at, (number + 1, last));
        }
        if first < number {
            self.holes.insert(at, (first, number - 1));
        }
        self.forget();
        true
    }
}

impl LedgerSum {
    /// Adds another result.
    pub(super) fn add(&mut self, other: Self) {
        // The numbers are those of a gateway, which may be wrong.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.expected, other.expected);
        add(&mut self.received, other.received);
        add(&mut self.missing, other.missing);
        add(&mut self.doubled, other.doubled);
        add(&mut self.out_of_order, other.out_of_order);
        add(&mut self.unexpected, other.unexpected);
        add(&mut self.unfinished, other.unfinished);
    }

    /// Whether everything came once and in order, and nothing else.
    pub(super) fn is_exact(&self) -> bool {
        let Self { missing, doubled, out_of_order, unexpected, unfinished, expected, received } = *self;
        [missing, doubled, out_of_order, unexpected, unfinished] == [0; 5] && expected == received
    }
}

/// How many numbers are in a range.
fn count_of((first, last): (u64, u64)) -> u64 {
    last - first + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(numbers: &[u64], last: u64) -> SocketLedger {
        let mut ledger = SocketLedger::new([7]);
        for number in numbers {
            ledger.take(7, *number, *number == last);
        }
        ledger
    }

    #[test]
    fn every_number_once_and_in_order_is_exact() {
        let ledger = ledger(&[1, 2, 3, 4], 4);
        let sum = ledger.sum(&[]);
        assert!(ledger.is_complete() && sum.is_exact());
        assert_eq!((sum.expected, sum.received), (4, 4));
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        let counts = |numbers: &[u64], last| {
            let sum = ledger(numbers, last).sum(&[]);
            assert!(!sum.is_exact(), "{numbers:?}");
            (sum.missing, sum.doubled, sum.out_of_order, sum.unexpected, sum.unfinished)
        };
        assert_eq!(counts(&[1, 4], 4), (2, 0, 0, 0, 0));
        assert_eq!(counts(&[2, 3], 3), (1, 0, 0, 0, 0));
        assert_eq!(counts(&[1, 2, 2, 3], 3), (0, 1, 0, 0, 0));
        assert_eq!(counts(&[1, 3, 2, 4], 4), (0, 0, 1, 0, 0));
        assert_eq!(counts(&[1, 6, 3, 3, 5, 7], 7), (2, 1, 2, 0, 0));
        assert_eq!(counts(&[1, 2, 3], 2), (0, 0, 0, 1, 0));
        assert_eq!(counts(&[1, 2], 0), (0, 0, 0, 0, 1));
        assert_eq!(counts(&[0], 1), (0, 0, 0, 1, 1));
    }

    #[test]
    fn last_number_that_another_socket_knows_counts() {
        let (whole, cut) = (ledger(&[1, 2, 3], 3), ledger(&[1], 3));
        let mut ends = vec![None; 8];
        cut.note_ends(&mut ends);
        assert_eq!(ends[7], None);
        whole.note_ends(&mut ends);
        assert_eq!(ends[7], Some(3));
        let sum = cut.sum(&ends);
        assert_eq!((sum.expected, sum.missing, sum.unfinished), (3, 2, 0));
    }

    #[test]
    fn socket_is_complete_when_all_symbols_have_ended_without_holes() {
        let mut ledger = SocketLedger::new([1, 2]);
        for (symbol, number, is_last) in [(1, 1, true), (2, 2, true)] {
            ledger.take(symbol, number, is_last);
            assert!(!ledger.is_complete());
        }
        ledger.take(2, 1, false);
        assert!(ledger.is_complete());
        ledger.take(3, 1, false);
        assert_eq!(ledger.sum(&[]).unexpected, 1, "a symbol of another socket");
    }

    #[test]
    fn numbers_of_a_wrong_gateway_cost_bounded_memory_and_are_missing() {
        let mut ledger = SocketLedger::new([7, 8]);
        for symbol in [7, 8] {
            (1..=10_000).for_each(|number| ledger.take(symbol, 2 * number, false));
            ledger.take(symbol, u64::MAX, true);
        }
        assert!(ledger.symbols.iter().all(|symbol| symbol.holes.len() == MOST_HOLES));
        let mut sum = ledger.sum(&[]);
        assert_eq!((sum.expected, sum.missing, ledger.is_complete()), (u64::MAX, u64::MAX, false));
        sum.add(sum);
        assert!(!sum.is_exact());
        // What is too early for the ranges that are kept counts as one that came twice.
        ledger.take(7, 1, false);
        assert_eq!((ledger.doubled, ledger.out_of_order), (1, 0));
        // One large range, of which every second number comes late.
        let mut ledger = SocketLedger::new([7]);
        ledger.take(7, 20_001, false);
        (1..=10_000).for_each(|number| ledger.take(7, 2 * number, false));
        let (sum, holes) = (ledger.sum(&[]), ledger.symbols[0].holes.len());
        assert_eq!((sum.expected, sum.missing, holes), (20_001, 10_000, MOST_HOLES), "also those that are not kept");
    }

    proptest::proptest! {
        #[test]
        fn counts_agree_with_a_naive_ledger(numbers in proptest::collection::vec(1_u64..12, 0..30)) {
            let mut naive = std::collections::BTreeSet::new();
            let (mut doubled, mut late, mut highest) = (0, 0, 0);
            for number in &numbers {
                let is_new = naive.insert(*number);
                doubled += u64::from(!is_new);
                late += u64::from(is_new && *number < highest);
                highest = highest.max(*number);
            }
            let mut ends = vec![None; 8];
            ends[7] = Some(12);
            let sum = ledger(&numbers, 0).sum(&ends);
            proptest::prop_assert_eq!(sum.missing, 12 - naive.len() as u64);
            proptest::prop_assert_eq!((sum.doubled, sum.out_of_order), (doubled, late));
        }
    }
}
