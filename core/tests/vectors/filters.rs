//! Vectors of filters, and of the events that pass them.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use tickwire_core::filter::{Filter, FilterProblem};
use tickwire_core::interest::Want;

use crate::events::{EventCase, decoded};
use crate::read::{kinds, vectors};

#[derive(Deserialize)]
struct Filters {
    accepted: Vec<AcceptedFilter>,
    refused: Vec<RefusedFilter>,
    events: Vec<EventCase>,
    matches: Vec<Matches>,
}

#[derive(Deserialize)]
struct AcceptedFilter {
    name: String,
    filter: Value,
    normal: Value,
}

#[derive(Deserialize)]
struct RefusedFilter {
    name: String,
    filter: Value,
    path: String,
    problem: String,
}

#[derive(Deserialize)]
struct Matches {
    filter: Value,
    pass: BTreeSet<String>,
}

#[test]
fn filters_are_parsed_and_match_as_documented() {
    let filters: Filters = vectors("filters.json");
    for case in filters.accepted {
        let filter = Filter::parse(&case.filter, &kinds()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(json!(filter), case.normal, "{}", case.name);
        assert_eq!(Filter::parse(&case.normal, &kinds()).as_ref(), Ok(&filter), "{}", case.name);
        assert_eq!(serde_json::from_value::<Filter>(case.normal).unwrap(), filter, "{}", case.name);
    }
    for case in filters.refused {
        let error = Filter::parse(&case.filter, &kinds()).expect_err(&case.name);
        let problem = match error.problem {
            FilterProblem::UnknownField { .. } => "UnknownField",
            FilterProblem::WrongType { .. } => "WrongType",
            FilterProblem::EmptyList => "EmptyList",
            FilterProblem::TooMany { .. } => "TooMany",
            FilterProblem::UnknownValue(_) => "UnknownValue",
            FilterProblem::UnknownKind { .. } => "UnknownKind",
            FilterProblem::BadName(_) => "BadName",
            FilterProblem::Wildcard { .. } => "Wildcard",
            FilterProblem::Padded { .. } => "Padded",
            FilterProblem::NoOperator { .. } => "NoOperator",
            FilterProblem::EmptyRange { .. } => "EmptyRange",
            FilterProblem::OutOfRange { .. } => "OutOfRange",
        };
        assert_eq!((error.path.as_str(), problem), (case.path.as_str(), case.problem.as_str()), "{}", case.name);
    }

    let events: Vec<_> = filters.events.into_iter().map(|case| (case.name.clone(), decoded(&case))).collect();
    for case in filters.matches {
        let filter = Filter::parse(&case.filter, &kinds()).unwrap();
        let pass: BTreeSet<_> =
            events.iter().filter(|(_, event)| filter.matches(event)).map(|(name, _)| name.clone()).collect();
        assert_eq!(pass, case.pass, "{}", case.filter);
        let want = Want::of(&filter);
        assert!(events.iter().all(|(_, event)| !filter.matches(event) || want.admits(event)), "{}", case.filter);
    }
}

#[test]
fn lists_are_bounded() {
    let symbols = |n: usize| json!({ "symbols": (0..n).map(|i| i.to_string()).collect::<Vec<_>>() });
    assert_eq!(Filter::parse(&symbols(10_000), &kinds()).unwrap().symbols.unwrap().len(), 10_000);
    let error = Filter::parse(&symbols(10_001), &kinds()).unwrap_err();
    assert_eq!(error.problem, FilterProblem::TooMany { len: 10_001, max: 10_000 });
    let error = Filter::parse(&json!({ "tags": vec!["x"; 1_001] }), &kinds()).unwrap_err();
    assert_eq!(error.problem, FilterProblem::TooMany { len: 1_001, max: 1_000 });
    let rooms = |n: usize| json!({ "rooms": (0..n).map(|i| i.to_string()).collect::<Vec<_>>() });
    assert_eq!(Filter::parse(&rooms(1_000), &kinds()).unwrap().rooms.unwrap().len(), 1_000);
    assert!(Filter::parse(&rooms(1_001), &kinds()).is_err());
    let condition = |i: usize| (i.to_string(), json!({ "eq": i }));
    let paths = |n: usize| json!({ "data": (0..n).map(condition).collect::<serde_json::Map<_, _>>() });
    assert_eq!(Filter::parse(&paths(16), &kinds()).unwrap().data.len(), 16);
    let error = Filter::parse(&paths(17), &kinds()).unwrap_err();
    assert_eq!(error.problem, FilterProblem::TooMany { len: 17, max: 16 });
    let error = Filter::parse(&json!({ "data": { "x": { "in": vec![0; 1_001] } } }), &kinds()).unwrap_err();
    assert_eq!(error.problem, FilterProblem::TooMany { len: 1_001, max: 1_000 });
}
