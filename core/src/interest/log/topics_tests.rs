//! Tests of unions that are widened for lack of room and narrowed again.

use super::*;
use crate::event::Kind;
use crate::ids::{Pattern, Symbol};

fn filter(symbol: &str, patterns: usize) -> Filter {
    let patterns = (0..patterns).map(|number| Pattern::new(&format!("{symbol}-{number:p<58}")).unwrap());
    Filter {
        symbols: Some([Symbol::new(symbol).unwrap()].into()),
        patterns: Some(patterns.collect()),
        ..Filter::default()
    }
}

/// The number of wanted patterns of a symbol; `None` for any pattern.
fn wanted(topics: &FiledTopics, symbol: &str) -> Option<usize> {
    let topic = Topic { kind: Kind::Pattern, symbol: Some(Symbol::new(symbol).unwrap()) };
    topics.entries[&topic].union.patterns.as_ref().map(BTreeSet::len)
}

#[test]
fn widened_union_is_narrowed_when_there_is_enough_room() {
    let mut topics = FiledTopics::new(Bounds { names: 10_000, wants: 2_000, topics: 10_000, strays: 0 });
    let [a, b, _] = [("A", 8), ("B", 8), ("C", 18)].map(|(symbol, patterns)| {
        let filter = filter(symbol, patterns);
        let (filed, _) = topics.add(&filter, Revision(1));
        (filter, filed)
    });
    assert_eq!(["A", "B", "C"].map(|symbol| wanted(&topics, symbol)), [Some(8), Some(8), None]);
    topics.remove(&a.0, a.1);
    topics.narrow(u64::MAX);
    assert_eq!(wanted(&topics, "C"), None, "there is some room, but not enough");
    topics.remove(&b.0, b.1);
    topics.narrow(u64::MAX);
    assert_eq!(wanted(&topics, "C"), Some(18));
    assert!(!topics.is_stale() && topics.widened.is_empty());
}

#[test]
fn set_of_names_beyond_its_bound_becomes_any() {
    let bounds = Bounds { names: 600, wants: 1 << 20, topics: 1 << 20, strays: 0 };
    let mut topics = FiledTopics::new(bounds);
    for (symbol, patterns, is_wanted) in [("A", 9, Some(9)), ("B", 10, None)] {
        topics.add(&filter(symbol, patterns), Revision(1));
        assert_eq!(wanted(&topics, symbol), is_wanted, "{symbol}");
    }
    // Two sets that fit alone but not together.
    let symbols = filter("A", 1).symbols;
    topics.add(&Filter { symbols, ..filter("C", 5) }, Revision(2));
    assert_eq!(wanted(&topics, "A"), None);
}
