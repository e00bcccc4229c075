//! Every query of every dashboard returns data, those of its variables too, from a real Prometheus that scrapes a cluster
//! at work.

use serde_json::{Value, json};
use std::time::Duration;
use tickwire_core::protocol::Encoding;
use tokio::time::{Instant, sleep};

use super::super::tools::report;
use super::dashboard_texts;
use super::prometheus_server::Prometheus;
use super::rule_file::short_rules;
use crate::cluster::Cluster;
use crate::feed;
use crate::producer::ProducerMessage;
use crate::socket::Socket;

/// The variables of the dashboards, and what Grafana would put in their place.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "2m"), ("$job", "tickwire"), ("$instance", ".*"), ("$user", "ann")];

/// How long the data of the last query may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// A query of a dashboard, and where it is.
struct DashboardQuery {
    place: String,
    query: String,
}

/// A query as Grafana would send it.
fn replaced(query: &str) -> String {
    let replace = |query: String, (variable, value): (&str, &str)| query.replace(variable, value);
    let query = VARIABLES.into_iter().fold(query.to_owned(), replace);
    assert!(!query.contains('$'), "{query} has an unknown variable");
    query
}

/// All queries of the panels of a dashboard.
fn queries(dashboard: &str, text: &str) -> Vec<DashboardQuery> {
    let parsed: Value = serde_json::from_str(text).unwrap();
    let mut found = Vec::new();
    for panel in parsed["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        for target in targets {
            assert!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{dashboard}: {title}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{dashboard}: {title}");
            let query = replaced(target["expr"].as_str().unwrap());
            found.push(DashboardQuery { place: format!("{dashboard}: {title}"), query });
        }
    }
    assert!(found.len() > 5, "{dashboard}");
    found
}

/// What the variables of a dashboard ask for, `label_values(SERIES, LABEL)`: the series that have the label.
fn variables(dashboard: &str, text: &str) -> Vec<DashboardQuery> {
    let parsed: Value = serde_json::from_str(text).unwrap();
    let mut found = Vec::new();
    for variable in parsed["templating"]["list"].as_array().unwrap() {
        if variable["type"] != "query" {
            continue;
        }
        let asked = variable["query"]["query"].as_str().unwrap();
        let inner = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (series, label) = inner.rsplit_once(", ").unwrap();
        let series = match series.strip_suffix('}') {
            Some(begin) => format!("{begin}, {label}!=\"\"}}"),
            None => format!("{series}{{{label}!=\"\"}}"),
        };
        let place = format!("{dashboard}: variable {}", variable["name"]);
        found.push(DashboardQuery { place, query: replaced(&series) });
    }
    assert!(!found.is_empty(), "{dashboard}");
    found
}

/// The query of a panel of the dashboard of one user, for a watched user who has no session.
fn missing_user_query(title: &str) -> String {
    let (_, text) = dashboard_texts().into_iter().find(|(dashboard, _)| dashboard == "user").unwrap();
    let place = format!("user: {title}");
    let panel = queries("user", &text).into_iter().find(|query| query.place == place).unwrap();
    assert!(panel.query.contains("\"ann\""), "{}", panel.query);
    panel.query.replace("\"ann\"", "\"dora\"")
}

/// Whether a series has a number.
fn has_number(series: &Value) -> bool {
    series["value"][1].as_str().and_then(|value| value.parse::<f64>().ok()).is_some_and(f64::is_finite)
}

#[tokio::test]
async fn every_query_of_every_dashboard_returns_data() {
    let settings = [("gateway.watched_users", "ann,bob,dora"), ("gateway.rate", "20")];
    let mut cluster = Cluster::start_with(2, 2, &settings).await;
    let prometheus = Prometheus::start(&short_rules(), &mut cluster).await;
    let gateways = cluster.gateway_addresses().await;
    let producer = cluster.producer().await;
    let mut ann = Socket::connect(gateways[0], "ann", Encoding::Json).await;
    ann.subscribe("all", &json!({})).await;
    let mut bob = Socket::connect(gateways[1], "bob", Encoding::MsgPack).await;
    bob.subscribe("apple", &json!({ "symbols": ["AAPL"] })).await;
    producer.publish(&ProducerMessage::raw("events.pattern.AAPL", "not JSON")).await;
    producer.publish_all(&feed::patterns(0..100)).await;
    ann.until(1).await;
    bob.until(1).await;
    // A backfill, which routers replay.
    let mut carl = Socket::connect(gateways[0], "carl", Encoding::Json).await;
    let since = json!({ "action": "subscribe", "name": "past", "filter": { "symbols": ["AAPL"] }, "since": "5m" });
    carl.request(since).await;
    carl.caught_up().await;
    let flow = producer.flow(Duration::from_millis(25), |number| feed::pattern("AAPL", 10_000 + number));

    let of_dashboard = |(dashboard, text): &(String, String)| {
        let (panels, variables) = (queries(dashboard, text), variables(dashboard, text));
        panels.into_iter().chain(variables)
    };
    let mut missing: Vec<DashboardQuery> = dashboard_texts().iter().flat_map(of_dashboard).collect();
    let (count, end) = (missing.len(), Instant::now() + DEADLINE);
    while !missing.is_empty() {
        let places = missing.iter().map(|DashboardQuery { place, query }| format!("{place}: {query}"));
        assert!(Instant::now() < end, "without data: {:#?}", places.collect::<Vec<_>>());
        sleep(Duration::from_millis(500)).await;
        for one in std::mem::take(&mut missing) {
            if !prometheus.query(&one.query).await.iter().any(has_number) {
                missing.push(one);
            }
        }
    }
    // A user without a session has no time at which it was seen, and not the year 1970.
    let last_seen = missing_user_query("Last seen");
    let metric = "tickwire_gateway_user_last_seen_timestamp_seconds{user=\"dora\"}";
    assert_eq!(prometheus.query(metric).await.len(), 2, "both gateways have the metric of dora");
    assert_eq!(prometheus.query(&last_seen).await, Vec::<Value>::new(), "{last_seen}");
    prometheus.assert_rules_are_sound().await;
    flow.stop().await;
    report("dashboards", &format!("{count} queries returned data"));
}
