//! The names of everything in NATS: subjects, streams, buckets and keys. They are spelled here and nowhere else.
//!
//! | name | what |
//! |---|---|
//! | `events.<kind>.<key>` | where producers publish |
//! | `ev.<p>.<kind>.<key>` | how the stream stores it, `p` being the partition |
//! | `ev.<p>.tick` | a partition heartbeat |
//! | `events.…` *stored* | what the partition transform did not recognise, under its own subject |
//! | `dead.<reason>` | a dead letter |
//! | `tw.beat.<role>.<node>` | beats of a node |
//! | `tw.view` | the announcement of a new view |
//! | `tw.storage` | problems with the storage of NATS, routers to all nodes |
//! | `tw.presence` | questions of a gateway whether a user has sessions, to all gateways |
//! | `tw.users` | questions of a node about the sessions of a user, to all gateways |
//! | `tw.nodes` | questions of a node what every node reports of itself, to all nodes |
//! | `tw.nodes.<asker>.<nonce>.<ask>.<node>` | the answer of a node to one of them |
//! | `tw.name.<node>` | announcements of a node's name, to other nodes of the same name |
//! | `tw.interest.<gateway>` | interest deltas, gateways to routers |
//! | `tw.gwbeat.<gateway>` | interest beats, gateways to routers |
//! | `tw.snapshot.<gateway>.<nonce>` | requests for a gateway's whole interest |
//! | `gw.<gateway>.<nonce>` | batches, routers to one start of one gateway |
//! | `tw.replay` | requests for replays, gateways to one of the routers |
//! | `tw.replayed.<gateway>.<nonce>.<ask>` | the answers to one of them |
//! | `tw.alerts` | requests for the alerts of a user, gateways to one of the routers |
//! | `tw.alerts.<gateway>.<nonce>.<ask>` | the answer to one of them |

mod reports;

pub use reports::{node_report, node_reports, parse_node_report};

use tickwire_core::event::Kind;

/// Every subject.
pub const ALL: &str = ">";

/// The rule for names, which [`is_token`] checks.
pub const TOKEN_RULE: &str = "must be letters, digits, `_` and `-`, 1 to 64 of them";

/// Whether the text can be one token of a subject, the name of a stream, or part of a key, without encoding.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Everything that producers publish.
pub const SOURCE_ALL: &str = "events.>";

/// The part of it that the partition transform recognises.
pub const SOURCE_EVENTS: &str = "events.*.*";

/// The header of a batch that has the contexts of its traced events.
pub const BATCH_TRACES: &str = "Tickwire-Trace";

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

/// The bucket that holds the partition leases with their checkpoints.
pub const LEASES_BUCKET: &str = "TICKWIRE_LEASES";

/// The key, in [`LEASES_BUCKET`], of the lease on messages that the partition transform did not recognise.
pub const CATCH_ALL_KEY: &str = "catchall";

/// The bucket that holds the rules. The key of a rule is its id.
pub const RULES_BUCKET: &str = "TICKWIRE_RULES";

/// The bucket that holds what owners of partitions know of the surroundings of events.
pub const CONTEXT_BUCKET: &str = "TICKWIRE_CONTEXT";

/// The keys, in [`CONTEXT_BUCKET`], of all market records.
pub const ALL_MARKETS: &str = "market.>";

/// The bucket that holds the reference data. The key of an entry is its symbol, encoded as in subjects.
pub const REFERENCE_BUCKET: &str = "TICKWIRE_REFERENCE";

/// The bucket that holds the saved subscriptions. The key of an entry is its user, encoded as in subjects.
pub const SUBSCRIPTIONS_BUCKET: &str = "TICKWIRE_SUBSCRIPTIONS";

/// The bucket that holds which alerts users have acknowledged. The key is the user, encoded as in subjects.
pub const ACKS_BUCKET: &str = "TICKWIRE_ACKS";

/// The announcement of a new view.
pub const VIEW: &str = "tw.view";

/// Problems with the storage of NATS, from routers.
pub const STORAGE: &str = "tw.storage";

/// The interest deltas of all gateways.
pub const INTEREST_ALL: &str = "tw.interest.*";

/// The interest beats of all gateways.
pub const INTEREST_BEATS_ALL: &str = "tw.gwbeat.*";

/// Questions whether a user has sessions, from a gateway to all gateways.
pub const PRESENCE: &str = "tw.presence";

/// Questions about the sessions of a user, and orders to close them, from a node to all gateways.
pub const USERS: &str = "tw.users";

/// Questions what nodes report of themselves, from a node to all nodes.
pub const NODES: &str = "tw.nodes";

/// Requests for replays, to any router.
pub const REPLAY: &str = "tw.replay";

/// The queue group of the routers that answer them: each request goes to one router.
pub const REPLAY_GROUP: &str = "routers";

/// Requests for the alerts of a user, to any router.
pub const ALERTS: &str = "tw.alerts";

/// The queue group of the routers that answer them.
pub const ALERTS_GROUP: &str = "routers";

/// The key of the stream's metadata that holds its number of partitions.
pub const PARTITIONS_METADATA: &str = "tickwire.partitions";

/// The subject that an event is published to. Both parts must be encoded as one token already.
pub fn source(kind: &str, key: &str) -> String {
    format!("events.{kind}.{key}")
}

/// The target of the partition transform.
pub fn transform(partitions: u32) -> String {
    format!("ev.{{{{partition({partitions},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}")
}

/// The partition of an event, computed like the target of the transform: FNV-1a of 32 bits over both tokens. The key must
/// be encoded as one token already.
pub fn partition_of_event(partitions: u32, kind: &str, key: &str) -> u32 {
    let bytes = kind.bytes().chain(key.bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % partitions.max(1)
}

/// Everything that is stored in a partition, heartbeats included: the one filter of its reader.
pub fn partition(partition: u32) -> String {
    format!("ev.{partition}.>")
}

/// The subject that a partition heartbeat is published and stored under.
pub fn heartbeat(partition: u32) -> String {
    format!("ev.{partition}.tick")
}

/// The sort of a message of the stream, by the subject that it is stored under.
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
    /// A partition heartbeat.
    Heartbeat {
        /// Its partition.
        partition: u32,
    },
    /// A message that the partition transform did not recognise.
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
        ("tick", None, _) => StoredSubject::Heartbeat { partition },
        (kind, Some(key), None) => StoredSubject::Event { partition, kind, key },
        _ => StoredSubject::Unrecognised,
    }
}

/// The partition that a message of the stream is stored in, of any sort.
pub fn partition_of(subject: &[u8]) -> Option<u32> {
    let number = subject.strip_prefix(b"ev.")?.split(|byte| *byte == b'.').next()?;
    parse_number(std::str::from_utf8(number).ok()?)
}

/// The subject that a dead letter is published to. The reason is one of our own words.
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

/// The key, in [`CONTEXT_BUCKET`], of the record of a market, whose events are in this partition. The market must be
/// encoded as one token already.
pub fn market_key(partition: u32, market: &str) -> String {
    format!("market.{partition}.{market}")
}

/// The keys, in [`CONTEXT_BUCKET`], of the records of all markets of a partition.
pub fn markets_of(partition: u32) -> String {
    format!("market.{partition}.>")
}

/// The market of such a key, still encoded.
pub fn parse_market_key(key: &str) -> Option<&str> {
    let (partition, market) = key.strip_prefix("market.")?.split_once('.')?;
    parse_number(partition)?;
    (!market.is_empty() && !market.contains('.')).then_some(market)
}

/// The key, in [`CONTEXT_BUCKET`], of the running averages of a partition.
pub fn volumes_key(partition: u32) -> String {
    format!("volumes.{partition}")
}

/// The events of one kind in a partition, as the stream stores them.
pub fn stored_kind(partition: u32, kind: &str) -> String {
    format!("ev.{partition}.{kind}.>")
}

/// The events of one kind in all partitions, as the stream stores them.
pub fn stored_kind_anywhere(kind: &str) -> String {
    format!("ev.*.{kind}.>")
}

/// The events of one kind and key, as the stream stores them in their partition. The key must be encoded as one token
/// already.
pub fn stored_event(partition: u32, kind: &str, key: &str) -> String {
    format!("ev.{partition}.{kind}.{key}")
}

/// The alerts of a user, whose key is encoded as one token already: their partition, and the subject under which the
/// stream stores them.
pub fn alerts_of(partitions: u32, key: &str) -> (u32, String) {
    let partition = partition_of_event(partitions, Kind::Alert.as_str(), key);
    (partition, stored_event(partition, Kind::Alert.as_str(), key))
}

/// The beats of a node.
pub fn beat(role: &str, node: &str) -> String {
    format!("tw.beat.{role}.{node}")
}

/// The role and the name of the node in the subject of a beat.
pub fn parse_beat(subject: &str) -> Option<(&str, &str)> {
    parse_boot(subject, "tw.beat.")
}

/// The interest deltas of a gateway.
pub fn interest(gateway: &str) -> String {
    format!("tw.interest.{gateway}")
}

/// Whether it is the subject of interest deltas.
pub fn is_interest(subject: &str) -> bool {
    subject.strip_prefix("tw.interest.").is_some_and(is_token)
}

/// The interest beats of a gateway.
pub fn interest_beat(gateway: &str) -> String {
    format!("tw.gwbeat.{gateway}")
}

/// Whether it is the subject of interest beats.
pub fn is_interest_beat(subject: &str) -> bool {
    subject.strip_prefix("tw.gwbeat.").is_some_and(is_token)
}

/// The subject on which nodes of one name announce themselves.
pub fn name(node: &str) -> String {
    format!("tw.name.{node}")
}

/// Requests for the interest of one start of one gateway.
pub fn snapshot(gateway: &str, nonce: &str) -> String {
    format!("tw.snapshot.{gateway}.{nonce}")
}

/// The gateway and nonce of a snapshot subject.
pub fn parse_snapshot(subject: &str) -> Option<(&str, &str)> {
    parse_boot(subject, "tw.snapshot.")
}

/// The batches for one start of one gateway.
pub fn gateway(gateway: &str, nonce: &str) -> String {
    format!("gw.{gateway}.{nonce}")
}

/// The gateway and nonce of a batch subject.
pub fn parse_gateway(subject: &str) -> Option<(&str, &str)> {
    parse_boot(subject, "gw.")
}

/// Requests for replays to one start of one router.
pub fn replay_of(router: &str, nonce: &str) -> String {
    format!("tw.replay.{router}.{nonce}")
}

/// The answers to one replay request of one start of one gateway.
pub fn replayed(gateway: &str, nonce: &str, ask: u64) -> String {
    format!("tw.replayed.{gateway}.{nonce}.{ask}")
}

/// The answers to all replay requests of one start of one gateway.
pub fn replayed_all(gateway: &str, nonce: &str) -> String {
    format!("tw.replayed.{gateway}.{nonce}.*")
}

/// The number of the replay request in a subject of answers.
pub fn parse_replayed(subject: &str) -> Option<u64> {
    parse_ask(subject, "tw.replayed.")
}

/// The answer to one request for alerts of one start of one gateway.
pub fn alerts_answer(gateway: &str, nonce: &str, ask: u64) -> String {
    format!("{ALERTS}.{gateway}.{nonce}.{ask}")
}

/// The number of the request in the subject of such an answer.
pub fn parse_alerts_answer(subject: &str) -> Option<u64> {
    parse_ask(subject, "tw.alerts.")
}

/// What the subjects of requests to JetStream begin with, in a domain if there is one.
pub fn jetstream(domain: Option<&str>) -> String {
    domain.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
}

/// The request, without what [`jetstream`] gives, for direct gets of messages of a stream.
pub fn direct_get(stream: &str) -> String {
    format!("DIRECT.GET.{stream}")
}

/// The prefix of the inboxes of one node of a role, or of another program. It differs by role and name, so that
/// permissions can differ. The name of a connection may follow that of the node, after a `/`.
pub fn inbox(role: &str, node: &str) -> String {
    let node = node.split_once('/').map_or(node, |(node, _)| node);
    format!("_INBOX_{role}.{node}")
}

/// Whether a subject is an inbox of a node of this role.
pub fn is_inbox(role: &str, subject: &[u8]) -> bool {
    let own = std::str::from_utf8(subject).ok().and_then(|subject| subject.strip_prefix("_INBOX_")?.strip_prefix(role));
    let own = own.and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
    own.is_some_and(|(node, number)| is_token(node) && is_token(number))
}

fn parse_boot<'s>(subject: &'s str, prefix: &str) -> Option<(&'s str, &'s str)> {
    let (gateway, nonce) = subject.strip_prefix(prefix)?.split_once('.')?;
    (is_token(gateway) && is_token(nonce)).then_some((gateway, nonce))
}

/// The number of a request, after the gateway and its nonce.
fn parse_ask(subject: &str, prefix: &str) -> Option<u64> {
    let (boot, ask) = subject.rsplit_once('.')?;
    parse_boot(boot, prefix)?;
    let number: u64 = ask.parse().ok()?;
    (number.to_string() == ask).then_some(number)
}

/// A number as we write it: only digits, without a sign or leading zeros.
fn parse_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
