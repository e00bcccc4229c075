//! Each part that is measured gets a warning and an error by the default thresholds.

use super::*;
use crate::config::{Config, LoadOptions};
use tokio::time::Instant;

crate::metrics! {
    TESTED:
    counter DELIVERED = "delivered_total", "Delivered", "Nothing.";
    counter DROPPED by "reason" within "any" = "dropped_total", "Dropped", "Nothing.";
    counter HITS = "hits_total", "Hits", "Nothing.";
    counter MISSES = "misses_total", "Misses", "Nothing.";
    counter LOST = "lost_total", "Lost", "Nothing.";
    counter REFUSED = "refused_total", "Refused", "Nothing.";
    gauge PENDING = "pending", "Pending", "Nothing.";
    histogram FILTER = "filter_seconds", "Filter", "Nothing.";
    histogram ROUTE = "route_seconds", "Route", "Nothing.";
    histogram DELIVER = "deliver_seconds", "Deliver", "Nothing.";
    histogram TOTAL = "total_seconds", "Total", "Nothing.";
}

static ERRORS: [&dyn Metric; 2] = [&LOST, &REFUSED];

/// What a role measures that has everything.
fn everything() -> RoleLoad {
    RoleLoad {
        sessions: Some((0, 1_000)),
        queue: Some((0, 1_000)),
        deliveries: Some((&DELIVERED, &DROPPED)),
        pending: Some(&PENDING),
        lag: Some(Duration::ZERO),
        filter: Some(&FILTER),
        route: Some(&ROUTE),
        deliver: Some(&DELIVER),
        total: Some(&TOTAL),
        cache: Some(CacheCounters { hits: &HITS, misses: &MISSES }),
        errors: &ERRORS,
        kinds: Vec::new(),
    }
}

/// The grade of a part, if `metrics` is the difference between both readings.
fn grade_of(name: &str, load: &RoleLoad, metrics: &str) -> (Grade, String) {
    let thresholds = Config::load(&LoadOptions::default()).unwrap().health;
    let [oldest, newest] = ["", metrics].map(|text| Reading::parse(Instant::now(), text));
    let parts = of_load(&thresholds, load, &newest, &oldest);
    let part = parts.into_iter().find(|part| part.name == name).unwrap();
    (part.status, part.message)
}

fn grades<const N: usize>(name: &str, metrics: [&str; N]) -> [Grade; N] {
    metrics.map(|metrics| grade_of(name, &everything(), metrics).0)
}

const ALL_THREE: [Grade; 3] = [Grade::Healthy, Grade::Warning, Grade::Error];

#[test]
fn sessions_queues_and_lag_are_graded_by_their_thresholds() {
    let graded = |name, load: [RoleLoad; 3]| load.map(|load| grade_of(name, &load, "").0);
    let sessions = [799, 800, 950].map(|count| RoleLoad { sessions: Some((count, 1_000)), ..everything() });
    assert_eq!(graded("sessions", sessions), ALL_THREE);
    let queues = [499, 500, 900].map(|bytes| RoleLoad { queue: Some((bytes, 1_000)), ..everything() });
    assert_eq!(graded("queue", queues), ALL_THREE);
    let lags = [14, 15, 60].map(|lag| RoleLoad { lag: Some(Duration::from_secs(lag)), ..everything() });
    assert_eq!(graded("lag", lags), ALL_THREE);
}

#[test]
fn drops_and_errors_and_pending_messages_are_graded_by_their_count() {
    let dropped =
        |quota: u32| format!("dropped_total{{reason=\"quota\"}} {quota}\ndropped_total{{reason=\"closed\"}} 0\n");
    let texts = [0, 1, 10_000].map(dropped);
    assert_eq!(grades("drops", texts.each_ref().map(String::as_str)), ALL_THREE);
    assert_eq!(grades("errors", ["lost_total 9", "lost_total 4\nrefused_total 6", "lost_total 1000"]), ALL_THREE);
    assert_eq!(grades("pending", ["pending 9999", "pending 10000", "pending 1000000"]), ALL_THREE);
    let (_, message) = grade_of("errors", &everything(), "lost_total 4\nrefused_total 6");
    assert_eq!(
        message,
        "10 errors in the last minute, health.errors_warning is 10: lost_total 4, refused_total 6; docs/metrics.md explains \
         them"
    );
}

#[test]
fn success_and_cache_are_graded_by_their_share() {
    let success =
        |delivered: u32| format!("delivered_total {delivered}\ndropped_total{{reason=\"quota\"}} {}", 200 - delivered);
    let texts = [198, 197, 179].map(success);
    assert_eq!(grades("success", texts.each_ref().map(String::as_str)), ALL_THREE);
    // Nothing says that a cache with few hits is broken, so by default that is no error.
    let cache = ["hits_total 20\nmisses_total 80", "hits_total 19\nmisses_total 81", "misses_total 100"];
    assert_eq!(grades("cache", cache), [Grade::Healthy, Grade::Warning, Grade::Warning]);
    let few = "delivered_total 1\ndropped_total{reason=\"quota\"} 18\nmisses_total 19";
    assert_eq!((grades("success", [few]), grades("cache", [few])), ([Grade::Healthy], [Grade::Healthy]));
}

/// A histogram of 200 values: this many at or below a bound, and the rest below another one.
fn times(name: &str, within: u32, bound: f64, next: f64) -> String {
    let bucket = |bound: &str, below: u32| format!("{name}_bucket{{le=\"{bound}\"}} {below}\n");
    bucket(&bound.to_string(), within) + &bucket(&next.to_string(), 200) + &bucket("+Inf", 200)
}

#[test]
fn latencies_are_graded_by_the_time_of_99_percent() {
    for (name, warning, error) in [("filter", 0.005, 0.05), ("route", 0.1, 1.0), ("deliver", 2.5, 5.0)] {
        let metric = format!("{name}_seconds");
        let texts = [
            times(&metric, 198, warning, error),
            times(&metric, 197, warning, error),
            times(&metric, 197, error, 30.0),
        ];
        assert_eq!(grades(name, texts.each_ref().map(String::as_str)), ALL_THREE, "{name}");
    }
    let (_, message) = grade_of("route", &everything(), &times("route_seconds", 197, 1.0, 5.0));
    assert!(message.starts_with("99 % of 200 took up to 5s, above health.route_error, 1s: /v1/stats "), "{message}");
    let few = "route_seconds_bucket{le=\"30\"} 19\nroute_seconds_bucket{le=\"+Inf\"} 19\n";
    assert_eq!(grades("route", [few]), [Grade::Healthy]);
}

#[test]
fn target_that_is_met_least_often_decides() {
    for (name, target) in [("filter", 0.005), ("route", 0.025), ("total", 0.25)] {
        let metric = format!("{name}_seconds");
        let texts = [190, 189, 159].map(|within| times(&metric, within, target, 30.0));
        assert_eq!(grades("targets", texts.each_ref().map(String::as_str)), ALL_THREE, "{name}");
    }
    let both = times("route_seconds", 200, 0.025, 30.0) + &times("total_seconds", 100, 0.25, 30.0);
    let (grade, message) = grade_of("targets", &everything(), &both);
    assert_eq!(
        (grade, message.as_str()),
        (
            Grade::Error,
            "50.0 % within health.total_target, 250ms, below health.targets_error, 80 %: /v1/stats shows which stage is \
             slow, docs/operations.md (Alerts) what to do"
        )
    );
}

#[test]
fn node_without_a_measure_has_no_part_for_it() {
    let thresholds = Config::load(&LoadOptions::default()).unwrap().health;
    let nothing = Reading::parse(Instant::now(), "");
    assert!(of_load(&thresholds, &RoleLoad::default(), &nothing, &nothing).is_empty());
    let names: Vec<&str> =
        of_load(&thresholds, &everything(), &nothing, &nothing).iter().map(|part| part.name).collect();
    let expected = [
        "sessions", "queue", "drops", "success", "pending", "lag", "filter", "route", "deliver", "targets", "cache",
        "errors",
    ];
    assert_eq!(names, expected);
    assert_eq!(TESTED.len(), 11);
}
