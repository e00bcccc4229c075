//! Long values, compared with reading each value for each filter, and what they cost.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;

/// Values that are nearly equal to each other, and values that are no scalars.
fn value() -> impl Strategy<Value = Value> {
    let spellings = ["1", "1.0", "1e0", "0", "-0.0", "0.5", "1e19", "10000000000000000000", "9223372036854775808.0"];
    let ends = [json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!(u64::MAX as f64), json!(1e300)];
    let others = [json!(null), json!([1]), json!(["a"]), json!([]), json!({ "a": 1 }), json!(true), json!(false)];
    prop_oneof![
        2 => select(spellings.map(|text| serde_json::from_str::<Value>(text).unwrap()).to_vec()),
        1 => select(ends.to_vec()),
        1 => select(others.to_vec()),
        2 => (-3..3_i64).prop_map(|number| json!(number)),
        2 => "[ab1é]{0,2}".prop_map(|text| json!(text)),
    ]
}

/// A text that repeats itself, with something else in between.
fn text() -> impl Strategy<Value = String> {
    ("[abé]{1,300}", 0..2_000_usize, "[abc]{0,3}").prop_map(|(repeated, len, other)| {
        let mut text = String::new();
        while text.len() < len {
            text.push_str(&repeated);
        }
        text + &other + &repeated
    })
}

/// A part of `text` with about as many characters, which begins at about this share of it. It may then be changed.
fn part(text: &str, (at, len, change): (f64, usize, Option<char>)) -> String {
    let skipped = (text.chars().count() as f64 * at) as usize;
    let part: String = text.chars().skip(skipped).take(len).collect();
    change.map_or_else(|| part.clone(), |last| format!("{part}{last}"))
}

proptest! {
    #[test]
    fn many_filters_find_the_elements_that_each_finds_alone(
        lists in prop::collection::vec(prop::collection::vec(value(), 0..150), 1..4),
        asked in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..120),
    ) {
        let mut long = LongValues::default();
        for (at, value) in asked {
            let Some(element) = Scalar::of(&value) else { continue };
            let list = at.get(&lists);
            let is_in = list.iter().any(|one| Scalar::of(one).as_ref() == Some(&element));
            prop_assert_eq!(long.list_contains(list, &element), is_in, "{:?} in {:?}", element, list);
        }
    }

    #[test]
    fn many_filters_find_the_parts_that_each_finds_alone(
        texts in prop::collection::vec(text(), 1..3),
        asked in prop::collection::vec(
            (any::<prop::sample::Index>(), (0.0..1.0_f64, 1..300_usize, prop::option::of(prop::char::range('a', 'c')))),
            1..200,
        ),
    ) {
        let mut long = LongValues::default();
        for (at, how) in asked {
            let text = at.get(&texts);
            let part = part(text, how);
            prop_assert_eq!(long.text_contains(text, &part), text.contains(&part), "{:?} in {:?}", part, text);
        }
    }
}

#[test]
fn parts_of_every_length_are_found_once_a_text_is_sorted() {
    let text = format!("{}b{}c", "a".repeat(700), "a".repeat(900));
    let mut long = LongValues::default();
    for len in (1..=MAX_TEXT + 2).chain(1..=MAX_TEXT + 2) {
        let repeated = "a".repeat(len - 1);
        for (last, is_in) in [("a", true), ("b", true), ("c", true), ("d", false), ("bb", false), ("ca", false)] {
            let part = format!("{repeated}{last}");
            assert_eq!(long.text_contains(&text, &part), is_in, "{len} {last}");
        }
    }
    assert_eq!(readings(&long.texts), [(TEXT_READINGS, Some(text.len()))]);
}

/// How often each value was read, and how many parts of it were sorted, if it was.
fn readings<T>(values: &BTreeMap<Address, LongValue<T>>) -> Vec<(u32, Option<usize>)> {
    values.values().map(|value| (value.readings, value.sorted.as_ref().map(Vec::len))).collect()
}

#[test]
fn long_values_are_read_a_few_times_whatever_the_number_of_filters() {
    let list: Vec<Value> = (0..100_000).map(|number| json!(number)).chain([json!(null), json!([])]).collect();
    let texts = ["a".repeat(100_000), "ab".repeat(50_000)];
    let mut long = LongValues::default();
    for number in 0..20_000 {
        let absent = Scalar::of(&json!(format!("x{number}"))).unwrap();
        assert!(!long.list_contains(&list, &absent));
        for text in &texts {
            assert!(!long.text_contains(text, &format!("aaaaaaaaaa{number}")));
        }
    }
    assert_eq!(readings(&long.lists), [(LIST_READINGS, Some(100_000))]);
    assert_eq!(readings(&long.texts), [(TEXT_READINGS, Some(100_000)); 2]);
}

#[test]
fn nothing_is_kept_of_short_values() {
    let list = vec![json!(1); SHORT_LIST];
    let text = "a".repeat(SHORT_TEXT);
    let mut long = LongValues::default();
    for number in 0..1_000 {
        assert_eq!(long.list_contains(&list, &Scalar::of(&json!(number)).unwrap()), number == 1);
        assert!(!long.text_contains(&text, &number.to_string()));
    }
    assert!(long.lists.is_empty() && long.texts.is_empty());
}
