//! Names that are built and parsed.

use super::*;

#[test]
fn stored_subjects_are_classified() {
    assert_eq!(parse_stored("ev.3.pattern.AAPL"), StoredSubject::Event { partition: 3, kind: "pattern", key: "AAPL" });
    assert_eq!(parse_stored("ev.3.tick.AAPL"), StoredSubject::Event { partition: 3, kind: "tick", key: "AAPL" });
    assert_eq!(parse_stored(&heartbeat(31)), StoredSubject::Heartbeat { partition: 31 });
    for odd in ["events.a.b.c", "events.a", "ev.x.tick", "ev.+3.tick", "ev.03.tick", "ev.3", "ev.3.a.b.c", "", "ev"] {
        assert_eq!(parse_stored(odd), StoredSubject::Unrecognised, "{odd}");
    }
}

#[test]
fn built_names_are_parsed_back() {
    assert_eq!(parse_lease_key(&lease_key(17)), Some(17));
    assert!(is_interest(&interest("gw-1")) && !is_interest(&interest_beat("gw-1")) && !is_interest("tw.interest.*"));
    assert!(
        is_interest_beat(&interest_beat("gw-1")) && !is_interest_beat("tw.gwbeat") && !is_interest_beat("tw.gwbeat.")
    );
    assert_eq!(parse_beat(&beat("router", "r1")), Some(("router", "r1")));
    assert_eq!(parse_lease_key("p.x"), None);
    assert_eq!(parse_lease_key("q.1"), None);
    assert_eq!(parse_snapshot(&snapshot("gw-1", "a1b2")), Some(("gw-1", "a1b2")));
    assert_eq!(parse_gateway(&gateway("gw-1", "a1b2")), Some(("gw-1", "a1b2")));
    assert_eq!(parse_replayed(&replayed("gw-1", "a1b2", 17)), Some(17));
    for odd in ["tw.replayed.gw-1.a1b2", "tw.replayed.gw-1.a1b2.x", "tw.replayed.gw-1.a1b2.07", "gw.gw-1.a1b2.7"] {
        assert_eq!(parse_replayed(odd), None, "{odd}");
    }
    assert_eq!(parse_alerts_answer(&alerts_answer("gw-1", "a1b2", 17)), Some(17));
    for odd in ["tw.alerts", "tw.alerts.gw-1.a1b2", "tw.alerts.gw-1.a1b2.07", "tw.replayed.gw-1.a1b2.7"] {
        assert_eq!(parse_alerts_answer(odd), None, "{odd}");
    }
    for odd in ["gw.gw-1", "gw.a.b.c", "gw..b", "tw.x.y", "gw.a.*"] {
        assert_eq!(parse_gateway(odd), None, "{odd}");
    }
    assert_eq!(parse_market_key(&market_key(7, "BRK=2EB")), Some("BRK=2EB"));
    for odd in ["market.7", "market.7.", "market.x.US", "market.7.US.x", "volumes.7"] {
        assert_eq!(parse_market_key(odd), None, "{odd}");
    }
    assert_eq!(parse_dead_letter(&dead_letter("bad_tier")), Some("bad_tier"));
    assert_eq!(parse_dead_letter("dead.a.b"), None);
}

#[test]
fn only_inboxes_of_nodes_of_a_role_are_its_inboxes() {
    let own = format!("{}.00ff", inbox("router", "r1"));
    assert_eq!(own, "_INBOX_router.r1.00ff");
    assert_eq!(inbox("router", "r1/replays"), inbox("router", "r1"), "both connections of a node");
    assert!(is_inbox("router", own.as_bytes()) && !is_inbox("gateway", own.as_bytes()));
    for other in ["_INBOX_router.r1", "_INBOX_router.r1.*", "_INBOX_router.r1.a.b", "_INBOX_routers.r1.a", "tw.users"] {
        assert!(!is_inbox("router", other.as_bytes()), "{other}");
    }
    assert!(!is_inbox("router", b"_INBOX_router.r1.\xff"));
}

#[test]
fn requests_to_jetstream_name_its_domain() {
    assert_eq!((jetstream(None).as_str(), jetstream(Some("hub")).as_str()), ("$JS.API", "$JS.hub.API"));
}

#[test]
fn tokens_have_no_character_special_to_nats() {
    for valid in ["gw-1", "EVENTS", "a_b", "7", &"x".repeat(64)] {
        assert!(is_token(valid), "{valid}");
    }
    for invalid in ["", "a.b", "a b", "a*", ">", "é", &"x".repeat(65)] {
        assert!(!is_token(invalid), "{invalid}");
    }
}

/// The numbers are those of a nats-server 2.15.
#[test]
fn partition_is_that_of_the_transform() {
    for (user, partition) in [("ann", 20), ("bob=40x=2Ecom", 30), ("u7", 9)] {
        assert_eq!(partition_of_event(32, "alert", user), partition, "{user}");
        let subject = stored_event(partition, "alert", user);
        assert_eq!(parse_stored(&subject), StoredSubject::Event { partition, kind: "alert", key: user });
    }
    assert_eq!(partition_of_event(1, "alert", "ann"), 0);
}

#[test]
fn transform_has_the_syntax_of_nats() {
    assert_eq!(transform(32), "ev.{{partition(32,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}");
}
