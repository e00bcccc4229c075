//! Screens of a made cluster: what is computed, and how it looks.

use hyper::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

use super::answer::ClusterAnswer;
use super::problems::Grade;
use super::reading::{Reading, Trend};
use super::render::{Page, Tone, lines};
use super::screen::{Screen, SortKey, State};
use super::{INTERVALS, ask, interval};

/// A gateway after `up_ms`, with `each` of everything that it counts every second.
fn gateway(node: &str, up_ms: u64, each: u64) -> Value {
    let total = |factor: u64| json!({ "total": up_ms / 1_000 * each * factor, "by": {} });
    json!({
        "node": node, "nonce": "01", "role": "gateway", "draining": false, "report": {
            "up_ms": up_ms, "ready": true, "health": "healthy", "problems": [],
            "counts": {
                "delivered": total(10), "bytes": total(1_000), "conflated": total(2),
                "dropped": { "total": up_ms / 1_000 * each, "by": { "throttled": up_ms / 1_000 * each, "quota": 0 } },
            },
            "levels": { "sessions": each * 3, "open_gaps": 1, "queue_bytes": 2_500, "view": 7 },
            "times": { "deliver": 0.025, "total": null },
        },
    })
}

/// A router after `up_ms` that owns these partitions.
fn router(node: &str, up_ms: u64, partitions: u64) -> Value {
    let seconds = up_ms / 1_000;
    json!({
        "node": node, "nonce": "01", "role": "router", "draining": false, "report": {
            "up_ms": up_ms, "ready": true, "health": "healthy", "problems": [],
            "counts": {
                "messages": { "total": seconds * 120, "by": { "event": seconds * 100, "heartbeat": seconds * 20 } },
                "batches": { "total": seconds * 5, "by": {} },
                "cache_hits": { "total": seconds * 90, "by": {} }, "cache_misses": { "total": seconds * 10, "by": {} },
            },
            "levels": {
                "partitions": partitions, "lag_s": 0.4, "pending": 3, "rule_revision": 12, "coordinator": 1,
            },
            "times": { "route": 0.005 },
        },
    })
}

/// A node that does not answer.
fn silent(mut node: Value) -> Value {
    node["report"] = Value::Null;
    node
}

/// The answer of a node of an earlier version, which remembers no node that has gone.
fn answer(nodes: &[Value]) -> ClusterAnswer {
    serde_json::from_value(json!({ "node": "r-1", "role": "router", "view": 7, "partitions": 32, "nodes": nodes }))
        .unwrap()
}

/// An answer with gateways that have gone, so many milliseconds ago.
fn gone_answer(nodes: &[Value], gone: &[(&str, u64)]) -> ClusterAnswer {
    let gone =
        gone.iter().map(|(node, ago_ms)| json!({ "node": node, "nonce": "01", "role": "gateway", "ago_ms": ago_ms }));
    let gone = gone.map(|gone| serde_json::from_value(gone).unwrap()).collect();
    ClusterAnswer { gone, ..answer(nodes) }
}

fn reading(nodes: &[Value]) -> Reading {
    Reading::of(vec![Ok(answer(nodes))]).unwrap()
}

/// Two readings of the same nodes, 10 and 12 seconds after their start.
fn trend(nodes: impl Fn(u64) -> Vec<Value>) -> Trend {
    let mut trend = Trend::new(reading(&nodes(10_000)));
    trend.note(reading(&nodes(12_000)));
    trend
}

fn cluster(up_ms: u64) -> Vec<Value> {
    vec![gateway("gw-1", up_ms, 2), gateway("gw-2", up_ms, 0), router("r-1", up_ms, 32)]
}

fn screen(trend: &Trend) -> Screen {
    Screen::of(trend, SortKey::Name)
}

fn text(screen: &Screen, width: usize, height: Option<usize>) -> Vec<String> {
    let page = Page { width, height, sort: SortKey::Name, is_paused: false };
    lines(screen, &page).into_iter().map(|line| line.text).collect()
}

/// The parts of the problems, with their nodes.
fn problems(screen: &Screen) -> Vec<(Option<&str>, &str)> {
    screen.problems.iter().map(|problem| (problem.node.as_deref(), problem.part.as_str())).collect()
}

#[test]
fn screen_looks_like_this() {
    let expected = "\
tickwire  events 100/s  delivered 20/s  dropped 2.0/s  sessions 6
view 7  coordinator r-1  partitions 32/32  nodes ready 3/3

WARN  gw-1 dropping: drops 2.0 events/s: throttled 2.0

ROUTER  STATE  PARTS  EVENTS/S  BATCHES/S    LAG  PENDING  ROUTE  RULES  CACHE
r-1     ready     32       100        5.0  400ms        3  5.0ms     12    90%

GATEWAY  STATE  SESSIONS  EVENTS/S  BYTES/S  DROPS/S  CONFL/S  GAPS  QUEUE  DELIVER  TOTAL
gw-1     ready         6        20    2.0kB      2.0      4.0     1  2.5kB     25ms      -
gw-2     ready         0         0       0B        0        0     1  2.5kB     25ms      -";
    assert_eq!(text(&screen(&trend(cluster)), usize::MAX, None).join("\n"), expected);
}

#[test]
fn narrow_terminal_leaves_out_columns_and_the_height_is_kept() {
    let lines = text(&screen(&trend(cluster)), 60, Some(24));
    assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 60), "{lines:#?}");
    let titles = lines.iter().find(|line| line.starts_with("GATEWAY")).unwrap();
    assert_eq!(titles, "GATEWAY  STATE  SESSIONS  EVENTS/S  DROPS/S  DELIVER  TOTAL");
    assert!(lines.last().unwrap().starts_with("sorted by name"), "{lines:#?}");
    let many = |up_ms| (0..200).map(|number| gateway(&format!("gw-{number}"), up_ms, 1)).collect::<Vec<_>>();
    for height in [1, 5, 24, 60] {
        let lines = text(&screen(&trend(many)), 100, Some(height));
        assert!(lines.len() <= height, "{height}: {lines:#?}");
    }
    let lines = text(&screen(&trend(many)), 100, Some(60));
    assert!(lines.iter().any(|line| line.contains("more lines of gateways")), "{lines:#?}");
}

#[test]
fn rates_need_two_reports_of_the_same_start_of_a_node() {
    let first = Trend::new(reading(&cluster(10_000)));
    assert_eq!((screen(&first).events_per_s, screen(&first).gateways[0].dropped), (None, Some(20)));
    let restarted = |up_ms| {
        let mut node = gateway("gw-1", up_ms, 2);
        node["nonce"] = json!(up_ms.to_string());
        vec![node]
    };
    assert_eq!(screen(&trend(restarted)).gateways[0].delivered_per_s, None);
    // The same numbers again say nothing about the time between.
    assert_eq!(screen(&trend(|_| cluster(10_000))).delivered_per_s, None);
}

#[test]
fn silent_gone_and_unready_nodes_are_problems() {
    let nodes = |up_ms| {
        let mut nodes = cluster(up_ms);
        if up_ms > 10_000 {
            nodes[1] = silent(nodes[1].clone());
            nodes[2]["report"]["ready"] = json!(false);
            nodes[2]["report"]["problems"] = json!([{ "part": "lag", "status": "error", "message": "late" }]);
        }
        nodes
    };
    let mut trend = Trend::new(reading(&nodes(10_000)));
    trend.note(Reading::of(vec![Ok(gone_answer(&nodes(12_000), &[("gw-0", 42_900)]))]).unwrap());
    let now = screen(&trend);
    assert_eq!((now.nodes, now.ready), (3, 1));
    let states: Vec<(&str, State)> = now.gateways.iter().map(|row| (row.node.as_str(), row.state)).collect();
    assert_eq!(states, [("gw-1", State::Ready), ("gw-2", State::Silent), ("gw-0", State::Gone)]);
    assert_eq!((now.routers[0].state, now.gateways[1].sessions), (State::NotReady, None));
    let expected = [(Some("gw-2"), "silent"), (Some("r-1"), "lag"), (Some("gw-0"), "gone"), (Some("gw-1"), "dropping")];
    assert_eq!(problems(&now), expected);
    assert!(now.problems[2].message.starts_with("the gateway left the member view 42 s ago"), "{:?}", now.problems[2]);
    let lines = text(&now, usize::MAX, None);
    assert!(lines.last().unwrap().starts_with("gw-0     gone           -"), "{lines:#?}");
}

#[test]
fn node_is_gone_only_if_no_admin_server_has_it_in_its_view() {
    let of = |node: &str, gone: &[(&str, u64)]| Ok(gone_answer(&[gateway(node, 10_000, 1)], gone));
    let answers = vec![of("gw-1", &[("gw-2", 5)]), of("gw-1", &[("gw-2", 9), ("gw-3", 7)]), of("gw-3", &[])];
    let reading = Reading::of(answers).unwrap();
    let gone: Vec<(&str, u64)> = reading.gone.values().map(|gone| (gone.node.as_str(), gone.ago_ms)).collect();
    assert_eq!((reading.nodes.len(), gone), (2, vec![("gw-2", 9)]));
}

#[test]
fn partitions_without_an_owner_and_a_missing_coordinator_are_problems_if_every_router_answers() {
    let nodes = |up_ms| {
        let mut router = router("r-1", up_ms, 30);
        router["report"]["levels"]["coordinator"] = json!(0);
        vec![router]
    };
    assert_eq!(problems(&screen(&trend(nodes))), [(None, "partitions"), (None, "coordinator")]);
    let and_a_silent_one = |up_ms| [nodes(up_ms), vec![silent(router("r-2", up_ms, 2))]].concat();
    assert_eq!(problems(&screen(&trend(and_a_silent_one))), [(Some("r-2"), "silent")]);
}

#[test]
fn answers_of_several_admin_servers_are_one() {
    let half = |which: usize| {
        let mut nodes = cluster(10_000);
        nodes[which] = silent(nodes[which].clone());
        answer(&nodes)
    };
    let joined = Reading::of(vec![Ok(half(0)), Err("http://x: away".to_owned()), Ok(half(1))]).unwrap();
    assert!(joined.nodes.values().all(|node| node.report.is_some()));
    assert_eq!(joined.faults, ["http://x: away"]);
    let old = ClusterAnswer { view: 5, ..half(0) };
    let faults = Reading::of(vec![Ok(half(0)), Ok(old)]).unwrap().faults;
    assert_eq!(faults, ["the admin servers have different member views: 7, 5"]);
    assert_eq!(Reading::of(vec![Err("a".to_owned()), Err("b".to_owned())]).unwrap_err(), ["a", "b"]);
}

#[test]
fn last_reading_stays_while_no_admin_server_answers() {
    let mut trend = trend(cluster);
    trend.lose(vec!["http://x: away".to_owned()]);
    let lost = screen(&trend);
    assert_eq!((problems(&lost)[0], lost.problems[0].grade), ((None, "admin"), Grade::Error));
    assert_eq!(lost.gateways.len(), 2);
    trend.note(reading(&cluster(14_000)));
    assert!(!problems(&screen(&trend)).contains(&(None, "admin")));
}

#[test]
fn rows_are_sorted_by_the_key() {
    let nodes = |up_ms| [("a", 1), ("b", 5), ("c", 3)].map(|(node, each)| gateway(node, up_ms, each)).to_vec();
    let trend = trend(nodes);
    let order = |sort| {
        let screen = Screen::of(&trend, sort);
        screen.gateways.iter().map(|row| row.node.clone()).collect::<String>()
    };
    assert_eq!(
        [SortKey::Name, SortKey::Sessions, SortKey::Drops, SortKey::Lag].map(order),
        ["abc", "bca", "bca", "abc"]
    );
}

#[test]
fn node_of_another_version_is_shown_with_what_is_known_of_it() {
    let mut node = gateway("gw-1", 10_000, 1);
    node["report"] = json!({ "ready": true, "shoe_size": 46 });
    let screen = screen(&Trend::new(reading(&[node])));
    assert_eq!((screen.gateways[0].state, screen.gateways[0].sessions), (State::Ready, None));
}

#[test]
fn text_of_a_stranger_does_not_reach_the_terminal_as_commands() {
    let mut node = gateway("gw-1", 10_000, 0);
    let message = "a\u{1b}[2Jb\u{9b}c";
    node["report"]["problems"] = json!([{ "part": "x", "status": "error", "message": message }]);
    let screen = screen(&Trend::new(reading(&[node])));
    let page = Page { width: 80, height: Some(24), sort: SortKey::Name, is_paused: true };
    let lines = lines(&screen, &page);
    assert!(lines.iter().all(|line| !line.styled(false).contains(char::is_control)), "{lines:#?}");
    assert!(lines.iter().any(|line| line.tone == Tone::Error && line.styled(true).contains("a [2Jb c")), "{lines:#?}");
}

#[test]
fn text_of_a_stranger_in_a_refusal_is_short_and_commands_nothing() {
    let message = "a\u{1b}[2J\nb\u{9b}c".to_owned() + &"x".repeat(100_000);
    let body = json!({ "code": "x", "message": message }).to_string();
    let text = ask::fault("http://gw-1:9090", &ask::refusal(StatusCode::BAD_GATEWAY, body.as_bytes()));
    assert!(text.starts_with("http://gw-1:9090: refused with 502 x: a [2J b cxx"), "{}", &text[..60]);
    assert!(text.len() < 1_100 && !text.contains(char::is_control));
}

#[test]
fn answer_with_a_name_that_no_node_has_is_refused() {
    for name in ["x".repeat(100_000), "a b".to_owned(), String::new()] {
        let read = |node: &str| {
            let answer = json!({ "view": 7, "partitions": 32, "nodes": [gateway(node, 10_000, 1)] });
            serde_json::from_value::<ClusterAnswer>(answer)
        };
        assert!(read(&name).is_err() && read("gw-1").is_ok());
    }
}

#[test]
fn long_problems_continue_on_the_next_line() {
    let mut node = gateway("gw-1", 10_000, 0);
    node["report"]["problems"] = json!([{ "part": "x", "status": "error", "message": "word ".repeat(30) }]);
    let lines = text(&screen(&Trend::new(reading(&[node]))), 60, None);
    let words: usize = lines.iter().map(|line| line.matches("word").count()).sum();
    assert_eq!(words, 30);
    let at = lines.iter().position(|line| line.starts_with("ERROR gw-1 x: word")).unwrap();
    assert!(lines[at + 1].starts_with("      word"), "{lines:#?}");
}

#[test]
fn refusal_says_which_token_is_needed() {
    let body = br#"{"code":"no_token","message":"the request has no token"}"#;
    let text = ask::refusal(StatusCode::UNAUTHORIZED, body);
    assert!(text.starts_with("refused with 401 no_token: the request has no token; give the token of an operator"));
    assert!(text.contains("--token") && text.contains("TICKWIRE_AUTH__JWT_SECRET"), "{text}");
    assert!(ask::refusal(StatusCode::NOT_FOUND, b"").contains("older version"));
    assert_eq!(ask::refusal(StatusCode::BAD_GATEWAY, b"x"), "refused with 502 : it gives no reason");
}

#[test]
fn wrong_flags_are_refused_with_what_is_allowed() {
    for good in ["http://127.0.0.1:9090", "http://gw-1:9090/", "http://[::1]:9090"] {
        assert!(ask::admin_url(good).is_ok(), "{good}");
    }
    for bad in ["127.0.0.1:9090", "https://gw-1", "http://", "http://a/b", "http://u@a", "http://a b"] {
        assert!(ask::admin_url(bad).unwrap_err().contains("http://HOST:PORT"), "{bad}");
    }
    assert_eq!(interval("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(*INTERVALS.start(), Duration::from_secs(1));
    for bad in ["0s", "500ms", "2h", "5", "x"] {
        assert!(interval(bad).unwrap_err().starts_with("must be"), "{bad}");
    }
}
