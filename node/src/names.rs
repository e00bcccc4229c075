//! The names of everything in NATS: subjects, streams, buckets and keys. They are spelled here and nowhere else.
//!
//! | name | what |
//! |---|---|
//! | `events.<kind>.<key>` | where producers publish |
//! | `ev.<p>.<kind>.<key>` | how the stream stores it, `p` being the partition |
//! | `ev.<p>.tick` | a tick of a partition |
//! | `events.…` *stored* | what the partition transform did not recognise, under its own subject |
//! | `dead.<reason>` | a dead letter |
//! | `tw.beat.<role>` | beats of the nodes of a role |
//! | `tw.view` | the announcement of a new view |
//! | `tw.storage` | what routers find wrong with what NATS keeps, routers to all nodes |
//! | `tw.name.<node>` | who bears this name, each node to those of the same name |
//! | `tw.interest` | interest deltas, gateways to routers |
//! | `tw.gwbeat` | gateway beats, gateways to routers |
//! | `tw.snapshot.<gateway>.<nonce>` | requests for a gateway's whole interest |
//! | `gw.<gateway>.<nonce>` | batches, routers to one boot of one gateway |
//! | `tw.replay` | requests for replays, gateways to one of the routers |
//! | `tw.replayed.<gateway>.<nonce>.<ask>` | the answers to one of them |

/// Every subject.
pub const ALL: &str = ">";

/// What is wrong with a name that [`is_token`] refuses.
pub const TOKEN_RULE: &str = "must be letters, digits, `_` and `-`, 1 to 64 of them";

/// Whether this can be one token of a subject, the name of a stream, or part of a key, as it stands.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// All that producers publish.
pub const SOURCE_ALL: &str = "events.>";

/// What the partition transform recognises of it.
pub const SOURCE_EVENTS: &str = "events.*.*";

/// The stream of dead letters.
pub const DEAD_LETTERS: &str = "DEADLETTERS";

/// The subjects of all dead letters.
pub const DEAD_ALL: &str = "dead.>";

/// The bucket that holds the member view.
pub const VIEW_BUCKET: &str = "TICKWIRE_VIEW";

/// The key, in [`VIEW_BUCKET`], of the coordinator's lease.
pub const COORDINATOR_KEY: &str = "coordinator";

/// The key, in [`VIEW_BUCKET`], of the view.
pub const VIEW_KEY: &str = "view";

/// The bucket that holds the partition leases with their floors.
pub const LEASES_BUCKET: &str = "TICKWIRE_LEASES";

/// The key, in [`LEASES_BUCKET`], of the lease on what the partition transform did not recognise.
pub const CATCH_ALL_KEY: &str = "catchall";

/// The announcement of a new view.
pub const VIEW: &str = "tw.view";

/// What routers find wrong with what NATS keeps.
pub const STORAGE: &str = "tw.storage";

/// Interest deltas.
pub const INTEREST: &str = "tw.interest";

/// Gateway beats.
pub const GATEWAY_BEAT: &str = "tw.gwbeat";

/// Requests for replays, to whichever router.
pub const REPLAY: &str = "tw.replay";

/// The queue group of those who answer them: each request goes to one router.
pub const REPLAY_GROUP: &str = "routers";

/// The key of the stream's metadata that tells its number of partitions.
pub const PARTITIONS_METADATA: &str = "tickwire.partitions";

/// Where an event is published. Both parts have to be encoded as one token already.
pub fn source(kind: &str, key: &str) -> String {
    format!("events.{kind}.{key}")
}

/// The target of the partition transform.
pub fn transform(partitions: u32) -> String {
    format!("ev.{{{{partition({partitions},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}")
}

/// All that is stored in a partition, ticks included: the one filter of its reader.
pub fn partition(partition: u32) -> String {
    format!("ev.{partition}.>")
}

/// Where a tick of a partition is published and stored.
pub fn heartbeat(partition: u32) -> String {
    format!("ev.{partition}.tick")
}

/// What a message of the stream is, by the subject that it is stored under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredSubject<'s> {
    /// An event.
    Event {
        /// Its partition.
        partition: u32,
        /// Its kind, as published.
        kind: &'s str,
        /// Its key, still encoded.
        key: &'s str,
    },
    /// A tick.
    Tick {
        /// Its partition.
        partition: u32,
    },
    /// Something that the partition transform did not recognise.
    Unrecognised,
}

/// Reads a subject of the stream.
pub fn parse_stored(subject: &str) -> StoredSubject<'_> {
    let mut tokens = subject.split('.');
    let mut next = || tokens.next();
    let (Some("ev"), Some(number), Some(first)) = (next(), next(), next()) else {
        return StoredSubject::Unrecognised;
    };
    let Some(partition) = parse_number(number) else {
        return StoredSubject::Unrecognised;
    };
    match (first, next(), next()) {
        ("tick", None, _) => StoredSubject::Tick { partition },
        (kind, Some(key), None) => StoredSubject::Event { partition, kind, key },
        _ => StoredSubject::Unrecognised,
    }
}

/// The partition that a message of the stream is stored in, whatever it is.
pub fn partition_of(subject: &[u8]) -> Option<u32> {
    let number = subject.strip_prefix(b"ev.")?.split(|byte| *byte == b'.').next()?;
    parse_number(std::str::from_utf8(number).ok()?)
}

/// Where a dead letter is published. The reason is one of our own words.
pub fn dead_letter(reason: &str) -> String {
    format!("dead.{reason}")
}

/// The reason in the subject of a dead letter.
pub fn parse_dead_letter(subject: &str) -> Option<&str> {
    subject.strip_prefix("dead.").filter(|reason| is_token(reason))
}

/// The key, in [`LEASES_BUCKET`], of a partition's lease.
pub fn lease_key(partition: u32) -> String {
    format!("p.{partition}")
}

/// The partition of a lease key.
pub fn parse_lease_key(key: &str) -> Option<u32> {
    parse_number(key.strip_prefix("p.")?)
}

/// The beats of a role's nodes.
pub fn beat(role: &str) -> String {
    format!("tw.beat.{role}")
}

/// Where nodes of one name tell each other who they are.
pub fn name(node: &str) -> String {
    format!("tw.name.{node}")
}

/// Requests for the interest of one boot of one gateway.
pub fn snapshot(gateway: &str, nonce: &str) -> String {
    format!("tw.snapshot.{gateway}.{nonce}")
}

/// The gateway and nonce of a snapshot subject.
pub fn parse_snapshot(subject: &str) -> Option<(&str, &str)> {
    parse_boot(subject, "tw.snapshot.")
}

/// The batches for one boot of one gateway.
pub fn gateway(gateway: &str, nonce: &str) -> String {
    format!("gw.{gateway}.{nonce}")
}

/// The gateway and nonce of a batch subject.
pub fn parse_gateway(subject: &str) -> Option<(&str, &str)> {
    parse_boot(subject, "gw.")
}

/// Requests for replays to one boot of one router.
pub fn replay_of(router: &str, nonce: &str) -> String {
    format!("tw.replay.{router}.{nonce}")
}

/// The answers to one ask of one boot of one gateway.
pub fn replayed(gateway: &str, nonce: &str, ask: u64) -> String {
    format!("tw.replayed.{gateway}.{nonce}.{ask}")
}

/// The answers to all asks of one boot of one gateway.
pub fn replayed_all(gateway: &str, nonce: &str) -> String {
    format!("tw.replayed.{gateway}.{nonce}.*")
}

/// The ask of a subject of answers.
pub fn parse_replayed(subject: &str) -> Option<u64> {
    let (boot, ask) = subject.rsplit_once('.')?;
    parse_boot(boot, "tw.replayed.")?;
    let number: u64 = ask.parse().ok()?;
    (number.to_string() == ask).then_some(number)
}

/// Where the server takes requests for messages of a stream.
pub fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// The prefix of a role's inboxes, its own so that permissions can tell the roles apart.
pub fn inbox(role: &str) -> String {
    format!("_INBOX_{role}")
}

fn parse_boot<'s>(subject: &'s str, prefix: &str) -> Option<(&'s str, &'s str)> {
    let (gateway, nonce) = subject.strip_prefix(prefix)?.split_once('.')?;
    (is_token(gateway) && is_token(nonce)).then_some((gateway, nonce))
}

/// A number as we write it: digits alone, without a sign or leading zeros.
fn parse_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_subjects_are_told_apart() {
        assert_eq!(
            parse_stored("ev.3.pattern.AAPL"),
            StoredSubject::Event { partition: 3, kind: "pattern", key: "AAPL" }
        );
        assert_eq!(parse_stored("ev.3.tick.AAPL"), StoredSubject::Event { partition: 3, kind: "tick", key: "AAPL" });
        assert_eq!(parse_stored(&heartbeat(31)), StoredSubject::Tick { partition: 31 });
        for odd in ["events.a.b.c", "events.a", "ev.x.tick", "ev.+3.tick", "ev.03.tick", "ev.3", "ev.3.a.b.c", "", "ev"]
        {
            assert_eq!(parse_stored(odd), StoredSubject::Unrecognised, "{odd}");
        }
    }

    #[test]
    fn what_is_built_is_parsed_back() {
        assert_eq!(parse_lease_key(&lease_key(17)), Some(17));
        assert_eq!(parse_lease_key("p.x"), None);
        assert_eq!(parse_lease_key("q.1"), None);
        assert_eq!(parse_snapshot(&snapshot("gw-1", "a1b2")), Some(("gw-1", "a1b2")));
        assert_eq!(parse_gateway(&gateway("gw-1", "a1b2")), Some(("gw-1", "a1b2")));
        assert_eq!(parse_replayed(&replayed("gw-1", "a1b2", 17)), Some(17));
        for odd in ["tw.replayed.gw-1.a1b2", "tw.replayed.gw-1.a1b2.x", "tw.replayed.gw-1.a1b2.07", "gw.gw-1.a1b2.7"] {
            assert_eq!(parse_replayed(odd), None, "{odd}");
        }
        for odd in ["gw.gw-1", "gw.a.b.c", "gw..b", "tw.x.y", "gw.a.*"] {
            assert_eq!(parse_gateway(odd), None, "{odd}");
        }
        assert_eq!(parse_dead_letter(&dead_letter("bad_tier")), Some("bad_tier"));
        assert_eq!(parse_dead_letter("dead.a.b"), None);
    }

    #[test]
    fn tokens_hold_nothing_that_nats_reads() {
        for good in ["gw-1", "EVENTS", "a_b", "7", &"x".repeat(64)] {
            assert!(is_token(good), "{good}");
        }
        for bad in ["", "a.b", "a b", "a*", ">", "é", &"x".repeat(65)] {
            assert!(!is_token(bad), "{bad}");
        }
    }

    #[test]
    fn the_transform_is_as_nats_writes_it() {
        assert_eq!(transform(32), "ev.{{partition(32,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}");
    }
}
