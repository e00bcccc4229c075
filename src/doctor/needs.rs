//! What each role may do in NATS: what it needs, and what is the work of others. The files in `deploy/nats/roles` grant
//! what is needed here.

use clap::ValueEnum;
use tickwire_core::event::{Kind, Kinds};
use tickwire_node::names;
use tickwire_node::nats::Nats;
use tickwire_node::provision::{BUCKETS, used_by_gateways};

/// A node that does not exist, and the stream and key that the doctor names.
pub(super) const NOBODY: &str = "doctor";

/// Where the server tells the time, among what it knows of a user.
pub(super) const CLOCK: &str = "$SYS.REQ.USER.INFO";

/// Another node that does not exist.
const SOMEBODY: &str = "doctor-other";

/// The role of a user in NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoctorRole {
    Router,
    Gateway,
    Producer,
    /// A producer of alerts
    Alerts,
    Operator,
}

impl DoctorRole {
    /// As text.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Gateway => "gateway",
            Self::Producer => "producer",
            Self::Alerts => "alerts",
            Self::Operator => "operator",
        }
    }

    /// As text in a sentence.
    pub(super) fn with_article(self) -> &'static str {
        match self {
            Self::Router => "a router",
            Self::Gateway => "a gateway",
            Self::Producer => "a producer",
            Self::Alerts => "a producer of alerts",
            Self::Operator => "an operator",
        }
    }

    /// Whether a user of this role is of no use if the server denies all that is optional.
    pub(super) fn needs_any_optional(self) -> bool {
        self == Self::Producer
    }

    /// The role whose inboxes the doctor uses: for an operator its own, for a producer those of `tickwire publish`.
    pub(super) fn inboxes(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Gateway => "gateway",
            Self::Producer | Self::Alerts => "publish",
            Self::Operator => "doctor",
        }
    }
}

/// Subjects that a role publishes and subscribes to. A subscription may be one to a share of the messages, by a group.
#[derive(Debug, Default)]
pub(super) struct RoleSubjects {
    pub(super) publishes: Vec<String>,
    /// What a cluster may do without, each with the condition on which the role publishes it.
    pub(super) optional: Vec<(String, &'static str)>,
    pub(super) subscribes: Vec<(String, Option<&'static str>)>,
}

impl RoleSubjects {
    fn publish<S: Into<String>>(&mut self, subjects: impl IntoIterator<Item = S>) {
        self.publishes.extend(subjects.into_iter().map(Into::into));
    }

    fn publish_if<S: Into<String>>(&mut self, condition: &'static str, subjects: impl IntoIterator<Item = S>) {
        self.optional.extend(subjects.into_iter().map(|subject| (subject.into(), condition)));
    }

    fn subscribe<S: Into<String>>(&mut self, subjects: impl IntoIterator<Item = S>) {
        self.subscribes.extend(subjects.into_iter().map(|subject| (subject.into(), None)));
    }
}

fn streams(stream: &str) -> Vec<String> {
    let buckets = BUCKETS.map(|bucket| format!("KV_{bucket}"));
    [stream.to_owned(), names::DEAD_LETTERS.to_owned()].into_iter().chain(buckets).collect()
}

/// An inbox of a node of this role, or of a command.
fn inbox(role: &str, node: &str) -> String {
    format!("{}.0", names::inbox(role, node))
}

/// An event of each of these kinds.
fn events<'k>(kinds: impl Iterator<Item = &'k Kind>) -> impl Iterator<Item = String> {
    kinds.map(|kind| names::source(kind.as_str(), NOBODY))
}

/// What a role needs, if its node has the name `me`. The subjects have as many tokens as those that are used, so that no
/// permission is taken for one of a greater reach.
pub(super) fn of(role: DoctorRole, nats: &Nats, me: &str, stream: &str, kinds: &Kinds) -> RoleSubjects {
    let mut needs = RoleSubjects::default();
    let on_all = |request: &str| -> Vec<String> {
        streams(stream).iter().map(|stream| nats.api(&format!("STREAM.{request}.{stream}"))).collect()
    };
    let reads = |bucket: &str| nats.api(&format!("STREAM.MSG.GET.KV_{bucket}"));
    let writes = |bucket: &str| nats.bucket_write(bucket, NOBODY);
    let reads_stream = nats.api(&format!("STREAM.MSG.GET.{stream}"));
    match role {
        DoctorRole::Router => {
            let consumer = |request: &str| nats.api(&format!("CONSUMER.{request}.{stream}.{NOBODY}"));
            let of_partition = format!("{}.{}", consumer("CREATE"), names::partition(0));
            needs.subscribe([
                names::INTEREST_ALL,
                names::INTEREST_BEATS_ALL,
                names::VIEW,
                names::STORAGE,
                names::NODES,
            ]);
            needs.subscribe([
                names::name(me),
                names::beat("*", "*"),
                names::replay_of(me, "0"),
                names::node_reports(me, "0", 0),
            ]);
            needs.subscribes.push((names::REPLAY.to_owned(), Some(names::REPLAY_GROUP)));
            needs.subscribes.push((names::ALERTS.to_owned(), Some(names::ALERTS_GROUP)));
            needs.publish([names::VIEW, names::STORAGE, names::USERS, names::NODES]);
            needs.publish([
                names::beat("router", me),
                names::name(me),
                names::gateway(NOBODY, "0"),
                names::snapshot(NOBODY, "0"),
                names::replayed(NOBODY, "0", 0),
                names::alerts_answer(NOBODY, "0", 0),
                names::node_report(NOBODY, "0", 0, me),
                inbox("router", me),
                names::heartbeat(0),
                names::dead_letter(NOBODY),
                nats.api("INFO"),
                consumer("CREATE"),
                of_partition,
                consumer("MSG.NEXT"),
                consumer("DELETE"),
                nats.api(&format!("STREAM.PURGE.KV_{}", names::CONTEXT_BUCKET)),
            ]);
            needs.publish([nats.api(&names::direct_get(stream)), reads_stream]);
            needs.publish([
                writes(names::VIEW_BUCKET),
                nats.bucket_write(names::LEASES_BUCKET, &format!("{NOBODY}.0")),
                nats.bucket_write(names::CONTEXT_BUCKET, &format!("{NOBODY}.0.0")),
            ]);
            needs.publish_if("operators write rules over HTTP (docs/http.md)", [writes(names::RULES_BUCKET)]);
            needs.publish_if("producers publish this kind over HTTP (docs/http.md)", events(kinds.iter()));
            let read = [names::VIEW_BUCKET, names::LEASES_BUCKET, names::RULES_BUCKET, names::CONTEXT_BUCKET];
            needs.publish(read.map(reads));
            needs.publish([reads(names::REFERENCE_BUCKET)]);
            for request in ["INFO", "CREATE", "UPDATE"] {
                needs.publish(on_all(request));
            }
        }
        DoctorRole::Gateway => {
            needs.subscribe([names::VIEW, names::STORAGE, names::PRESENCE, names::USERS, names::NODES]);
            needs.subscribe([
                names::gateway(me, "0"),
                names::snapshot(me, "0"),
                names::replayed_all(me, "0"),
                names::alerts_answer(me, "0", 0),
                names::name(me),
                names::node_reports(me, "0", 0),
            ]);
            needs.publish([names::REPLAY, names::ALERTS, names::PRESENCE, names::USERS, names::NODES]);
            needs.publish([
                names::interest(me),
                names::interest_beat(me),
                names::beat("gateway", me),
                names::name(me),
                names::replay_of(NOBODY, "0"),
                names::node_report(NOBODY, "0", 0, me),
                inbox("router", NOBODY),
                inbox("gateway", NOBODY),
                nats.api("INFO"),
            ]);
            needs.publish_if("alerts are sent over HTTP (docs/http.md)", [names::source("alert", NOBODY)]);
            needs.publish([reads_stream]);
            needs.publish([names::SUBSCRIPTIONS_BUCKET, names::ACKS_BUCKET].map(writes));
            needs.publish([names::VIEW_BUCKET, names::SUBSCRIPTIONS_BUCKET, names::ACKS_BUCKET].map(reads));
            needs.publish(used_by_gateways(stream).map(|stream| nats.api(&format!("STREAM.INFO.{stream}"))));
        }
        DoctorRole::Producer | DoctorRole::Alerts => {
            let others = kinds.iter().filter(|kind| **kind != Kind::Alert);
            needs.publish_if("this user is to publish this kind", events(others));
            if role == DoctorRole::Alerts {
                needs.publish([names::source("alert", NOBODY)]);
            }
            // The default of NATS' clients, and the inboxes of the commands.
            needs.subscribe(["_INBOX.doctor".to_owned(), inbox("publish", NOBODY), inbox("feed", NOBODY)]);
        }
        DoctorRole::Operator => {
            for command in ["rules", "reference", "doctor"] {
                needs.publish([inbox(command, NOBODY)]);
                needs.subscribe([inbox(command, NOBODY)]);
            }
            // What the administration of the streams needs, by requests for what does not exist.
            let administration = ["UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE"];
            needs.publish(administration.map(|request| nats.api(&format!("STREAM.{request}.{NOBODY}"))));
            // The parts of a copy: that they have arrived when one is made, and they themselves when it is put back.
            needs.publish(["ACK", "RESTORE"].map(|part| format!("$JS.SNAPSHOT.{part}.{NOBODY}.0")));
            needs.publish([CLOCK]);
            needs.publish([nats.api("INFO")]);
            needs.publish([nats.api(&format!("CONSUMER.LIST.{NOBODY}")), nats.api(&names::direct_get(NOBODY))]);
            needs.subscribe(["dead.>", "$JS.EVENT.ADVISORY.>", "_INBOX_operator.>"]);
            needs.publish([names::RULES_BUCKET, names::REFERENCE_BUCKET].map(writes));
            needs.publish([names::RULES_BUCKET, names::REFERENCE_BUCKET].map(reads));
            needs.publish(on_all("INFO"));
            needs.subscribe([names::name("*"), names::STORAGE.to_owned()]);
        }
    }
    needs
}

/// What only others need. A request that deletes names a stream that does not exist, and one that sets up a stream is
/// sent without settings, so that neither changes anything if it is allowed.
pub(super) fn of_others(role: DoctorRole, nats: &Nats, stream: &str) -> RoleSubjects {
    let mut others = RoleSubjects::default();
    let edits = ["DELETE", "PURGE", "MSG.DELETE"].map(|request| nats.api(&format!("STREAM.{request}.{NOBODY}")));
    let write = |bucket: &str| nats.bucket_write(bucket, NOBODY);
    let set_up = ["CREATE", "UPDATE"].into_iter().flat_map(|request| {
        streams(stream).into_iter().map(move |stream| nats.api(&format!("STREAM.{request}.{stream}")))
    });
    let of_routers = [
        names::gateway(SOMEBODY, "0"),
        names::VIEW.to_owned(),
        names::heartbeat(0),
        write(names::VIEW_BUCKET),
        write(names::LEASES_BUCKET),
        write(names::CONTEXT_BUCKET),
    ];
    let of_gateways = [names::interest(SOMEBODY), write(names::SUBSCRIPTIONS_BUCKET), write(names::ACKS_BUCKET)];
    match role {
        DoctorRole::Router => {
            others.publish(of_gateways);
            others.publish(edits);
        }
        DoctorRole::Gateway => {
            others.publish(of_routers);
            others.publish(edits);
            others.publish(set_up);
            others.publish([names::source("pattern", NOBODY), write(names::RULES_BUCKET)]);
            others.publish([names::interest(SOMEBODY), names::beat("gateway", SOMEBODY)]);
            others.publish([names::node_report(NOBODY, "0", 0, SOMEBODY)]);
            // The server sends the bare event to any subject that the request names.
            others.publish([nats.api(&names::direct_get(stream))]);
            others.subscribe([names::gateway(SOMEBODY, "0"), inbox("gateway", SOMEBODY)]);
        }
        DoctorRole::Producer | DoctorRole::Alerts => {
            others.publish(of_routers);
            others.publish(of_gateways);
            others.publish(edits);
            others.publish(set_up);
            others.publish([write(names::RULES_BUCKET)]);
            if role == DoctorRole::Producer {
                others.publish([names::source("alert", NOBODY)]);
            }
            others.subscribe(["_INBOX_router.>", "_INBOX_gateway.>"]);
        }
        DoctorRole::Operator => {
            others.publish(of_routers);
            others.publish(of_gateways);
            others.publish([names::source("pattern", NOBODY)]);
        }
    }
    others.subscribe([names::SOURCE_ALL, "ev.>", "gw.>"]);
    others
}
