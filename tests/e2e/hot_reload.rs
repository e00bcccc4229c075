//! Rules that change while events flow: no session loses an event, gets one twice, or gets one of a key in another order.
//! Between two changes that all routers apply, each event is as the rules of that time say.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tickwire_core::filter::Filter;
use tickwire_core::ids::Seq;
use tickwire_core::protocol::position::Position;
use tickwire_core::protocol::{Encoding, ReceivedEvent};

use crate::cluster::Cluster;
use crate::http::send;
use crate::oracle::{OracleEntry, filter};
use crate::producer::ProducerMessage;
use crate::rules::applied;
use crate::socket::Socket;

/// How often all changes are made.
const CYCLES: usize = 3;

/// How many events are published, at least, under the rules of one time.
const EVENTS: usize = 250;

/// The symbols of patterns.
const SYMBOLS: usize = 16;

/// The event with this number: of eight, six patterns, a market event and a health report.
fn event(number: usize) -> ProducerMessage {
    let id = number.to_string();
    match number % 8 {
        6 => ProducerMessage::json("market", "US", &json!({ "id": id, "regime": "bull" })),
        7 => {
            ProducerMessage::json("health", "scanner", &json!({ "id": id, "service": "scanner", "status": "healthy" }))
        }
        _ => {
            let event = json!({ "id": id, "pattern": "Doji", "confidence": 0.5 });
            ProducerMessage::json("pattern", &format!("S{}", number % SYMBOLS), &event)
        }
    }
}

/// What the rules of one time do.
#[derive(Clone, Debug, Default)]
struct Decision {
    /// The tag that patterns get.
    tag: Option<String>,
    /// Whether patterns and market events are broadcast.
    is_broadcast: bool,
    /// Whether patterns and market events go first, with a tag that says so.
    is_first: bool,
    /// Whether health reports are dropped.
    is_quiet: bool,
}

/// A time in which the rules do not change.
struct Time {
    /// All routers have the rules when the stream has this sequence.
    from: Seq,
    /// Routers have read all events up to here before the next change.
    to: Position,
    decision: Decision,
}

/// One change: the rule, or nothing if it is deleted, and what it does.
type Change = (&'static str, Option<Value>, fn(&mut Decision, &str));

/// The changes of a cycle, by three: routers take those of a group in one look, or in several.
fn changes(cycle: usize) -> [[Change; 3]; 3] {
    let tagged = |round: usize| json!({ "when": { "kind": "pattern" }, "add_tags": [tag(cycle, round)] });
    let spread = |strategy: &str| json!({ "when": { "kind": ["pattern", "market"] }, "strategy": strategy });
    let first =
        json!({ "when": { "kind": ["pattern", "market"] }, "strategy": "priority_first", "add_tags": ["first"] });
    let quiet = json!({ "when": { "kind": "health" }, "drop": true });
    [
        [
            ("tags", Some(tagged(0)), |now, tag| now.tag = Some(tag.to_owned())),
            ("spread", Some(spread("broadcast")), |now, _| (now.is_broadcast, now.is_first) = (true, false)),
            ("quiet", Some(quiet), |now, _| now.is_quiet = true),
        ],
        [
            ("spread", Some(first), |now, _| (now.is_broadcast, now.is_first) = (false, true)),
            ("tags", Some(tagged(1)), |now, tag| now.tag = Some(tag.to_owned())),
            ("quiet", None, |now, _| now.is_quiet = false),
        ],
        [
            ("spread", Some(spread("content")), |now, _| (now.is_broadcast, now.is_first) = (false, false)),
            ("tags", None, |now, _| now.tag = None),
            ("spread", None, |_, _| {}),
        ],
    ]
}

fn tag(cycle: usize, round: usize) -> String {
    format!("rules-{cycle}-{round}")
}

/// Writes or deletes a rule at a router.
async fn change(router: SocketAddr, id: &str, rule: Option<Value>) {
    let path = format!("/v1/rules/{id}");
    let answer = match rule {
        Some(mut rule) => {
            rule["id"] = json!(id);
            send("PUT", router, &path, &[], rule.to_string().as_bytes()).await
        }
        None => send("DELETE", router, &path, &[], b"").await,
    };
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
}

/// The last sequence of the stream.
async fn last(cluster: &Cluster) -> Seq {
    let jetstream = async_nats::jetstream::new(cluster.client.clone());
    Seq(jetstream.get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence)
}

/// Reads what waits for each session. Returns the position of the first one: up to there, routers have read all events.
async fn read(sockets: &mut [Socket]) -> Position {
    let mut positions = Vec::new();
    for socket in sockets {
        positions.push(socket.list().await.position.parse().unwrap());
    }
    positions.swap_remove(0)
}

/// What the rules did with an event, if they did not change while it was read.
fn decision<'t>(times: &'t [Time], entry: &OracleEntry) -> Option<&'t Decision> {
    let partition = usize::from(entry.partition.0);
    let time = times.iter().find(|time| time.from < entry.seq && entry.seq <= time.to.seqs[partition])?;
    Some(&time.decision)
}

/// Fails unless a session with this filter has got every event of `log` that it must get, each once, in order, and as
/// the rules of its time say.
fn assert_received(who: &str, received: &[ReceivedEvent], wants: &Filter, log: &[OracleEntry], times: &[Time]) {
    let mut by_seq = BTreeMap::new();
    let mut newest = BTreeMap::new();
    for event in received {
        assert!(by_seq.insert(event.seq, event).is_none(), "{who} got {event:?} twice");
        // The events of a key keep their order within a lane.
        let is_first = event.tags.iter().any(|tag| tag == "first");
        let before = newest.insert((&event.kind, &event.symbol, is_first), event.seq);
        assert!(before.is_none_or(|before| before < event.seq), "{who} got {event:?} after {before:?}");
    }
    for entry in log {
        let found = by_seq.remove(&entry.seq);
        let is_wanted = wants.matches(&entry.event);
        let [is_pattern, is_health] = ["pattern", "health"].map(|kind| entry.event.kind.as_str() == kind);
        let Some(now) = decision(times, entry) else {
            // Before or after the change: only health reports may have been dropped.
            assert!(found.is_some() || !is_wanted || is_health, "{who} missed {entry:?}");
            continue;
        };
        let is_due = if is_health { is_wanted && !now.is_quiet } else { is_wanted || now.is_broadcast };
        assert_eq!(found.is_some(), is_due, "{who}: {entry:?} under {now:?}");
        let Some(event) = found else { continue };
        let tag = now.tag.as_deref().filter(|_| is_pattern);
        let first = (now.is_first && !is_health).then_some("first");
        let expected: BTreeSet<&str> = tag.into_iter().chain(first).collect();
        assert_eq!(event.tags.iter().map(|tag| tag.as_str()).collect::<BTreeSet<_>>(), expected, "{who}: {event:?}");
    }
    assert!(by_seq.is_empty(), "{who} got what was never published: {by_seq:?}");
}

#[tokio::test]
async fn rules_that_change_under_load_lose_nothing_and_hold_from_one_event_to_the_next() {
    let mut cluster = Cluster::start(2, 2).await;
    let gateways = cluster.gateway_addresses().await;
    let mut routers = Vec::new();
    for router in &mut cluster.routers {
        routers.push(router.address("admin").await);
    }
    let wanted = [
        ("ann", gateways[0], Encoding::Json, json!({ "kinds": ["pattern", "market"] })),
        ("bob", gateways[1], Encoding::MsgPack, json!({ "kinds": ["pattern", "market", "health"] })),
        ("carol", gateways[0], Encoding::MsgPack, json!({ "kinds": ["health"] })),
        ("dave", gateways[1], Encoding::Json, json!({ "symbols": ["S1", "S2"] })),
    ];
    let mut sockets = Vec::new();
    for (user, gateway, encoding, filter) in &wanted {
        let mut socket = Socket::connect(*gateway, user, *encoding).await;
        socket.subscribe("mine", filter).await;
        sockets.push(socket);
    }

    let flow = cluster.producer().await.flow(Duration::from_millis(1), event);
    let (mut revision, mut now, mut times) = (0, Decision::default(), Vec::new());
    for cycle in 0..CYCLES {
        for (round, group) in changes(cycle).into_iter().enumerate() {
            for (id, rule, does) in group {
                change(routers[revision % routers.len()], id, rule).await;
                revision += 1;
                does(&mut now, &tag(cycle, round));
            }
            applied(&mut cluster, revision as u64).await;
            read(&mut sockets).await;
            let from = last(&cluster).await;
            flow.more(EVENTS).await;
            times.push(Time { from, to: read(&mut sockets).await, decision: now.clone() });
        }
    }
    let published = flow.stop().await;
    assert_eq!(revision, 27);

    let log = cluster.log().await;
    assert_eq!(log.entries.len(), published);
    let decided = log.entries.iter().filter(|entry| decision(&times, entry).is_some()).count();
    assert!(decided >= times.len() * EVENTS / 2, "{decided} of {published}");
    let end = log.end();
    for ((user, _, _, wants), socket) in wanted.iter().zip(&mut sockets) {
        socket.catch_up(&end).await;
        let notices = socket.event_notices();
        assert_eq!((socket.gaps.len(), notices.len()), (0, 0), "{user}: {:?} {notices:?}", socket.gaps);
        assert_received(user, &socket.events, &filter(wants), &log.entries, &times);
    }
}
