//! The values of labels that are used in several places of this crate, or by the other roles.

use crate::names::{ACKS_BUCKET, CONTEXT_BUCKET, REFERENCE_BUCKET, SUBSCRIPTIONS_BUCKET};
use tickwire_core::placement::Role;
use tickwire_core::storage::StorageFault;

/// The HTTP servers.
pub(super) fn servers() -> Vec<&'static str> {
    vec!["admin", "gateway"]
}

/// What of a connection to a server can be late.
pub(super) fn phases() -> Vec<&'static str> {
    vec!["head", "write", "idle"]
}

/// The buckets of which some values may be unreadable.
pub(super) fn buckets() -> Vec<&'static str> {
    vec![ACKS_BUCKET, CONTEXT_BUCKET, REFERENCE_BUCKET, SUBSCRIPTIONS_BUCKET]
}

/// The roles of nodes.
pub(super) fn roles() -> Vec<&'static str> {
    [Role::Router, Role::Gateway].map(Role::as_str).to_vec()
}

/// What can be wrong with a stream.
pub(super) fn faults() -> Vec<&'static str> {
    StorageFault::ALL.iter().map(|fault| fault.as_str()).collect()
}

/// The queues of messages from NATS. Those of inboxes are made when they are needed.
pub(super) fn queues() -> Vec<&'static str> {
    vec![
        "alert_answers",
        "alert_requests",
        "batches",
        "deliveries",
        "direct_gets",
        "interest_beats",
        "interest_deltas",
        "member_beats",
        "namesakes",
        "node_answers",
        "node_questions",
        "presence_answers",
        "presence_questions",
        "replay_answers",
        "replay_requests",
        "snapshot_requests",
        "snapshots",
        "storage",
        "user_answers",
        "user_questions",
        "views",
    ]
}

/// What can happen to the connections to NATS: to that of the client, and to our own one, the link.
pub(super) fn nats_events() -> Vec<&'static str> {
    vec![
        "connected",
        "disconnected",
        "lame_duck",
        "draining",
        "closed",
        "slow_consumer",
        "login_ended",
        "login_refused",
        "server_error",
        "client_error",
        "link_connected",
        "link_closed",
        "link_error",
        "link_silent",
        "link_stuck",
        "link_lame_duck",
        "link_refusal",
        "link_login_ended",
        "link_login_refused",
        "link_renewed",
        "link_unknown",
        "link_long_line",
        "link_large_message",
        "link_unreadable_line",
        "link_unreadable_end",
    ]
}
